//! What users see: failures, tables, sizes, times, a progress bar.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use clap::error::ErrorKind;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::exit::{Exit, Failure};
use crate::control::Rates;
use crate::types::{ByteSize, UnixTime};

/// Prints a failure to standard error.
pub fn print_failure(failure: &Failure) {
    tell(&format!("tetherfs: {}", failure.message.trim_end()));
    if let Some(hint) = &failure.hint {
        tell(&format!("hint: {hint}"));
    }
}

/// Prints what is wrong with a command line, or the help or version that was asked for.
pub fn print_usage(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // Nobody is left to tell when standard output is closed.
            let _ = error.print();
            Exit::Ok
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            Exit::Usage
        }
        _ => {
            let text = error.render().to_string();
            tell(text.replacen("error: ", "tetherfs: ", 1).trim_end());
            Exit::Usage
        }
    }
}

/// Prints a line to standard error; a closed one is no reason to stop.
pub fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Prints a result to standard output. When it is closed (`| head`), the rest is not wanted.
pub fn print(text: &str) {
    let _ = writeln!(io::stdout(), "{}", text.trim_end_matches('\n'));
}

/// Prints a value as JSON.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value);
    print(&text.map_err(|error| Failure::new(Exit::Failure, format!("cannot write JSON: {error}")))?);
    Ok(())
}

/// Tells `what` is so and asks `question` on the terminal. Without one nobody could say yes; `--yes` does, says the advice.
pub fn confirm(what: &str, question: &str, in_order_to: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::new(Exit::Usage, format!("{what}, and nobody can be asked"))
            .hint(format!("add --yes {in_order_to}")));
    }
    let _ = write!(io::stderr(), "{what}. {question} [y/N] ");
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    match (read, answer.trim()) {
        (Ok(_), "y" | "Y" | "yes") => Ok(()),
        (Ok(_) | Err(_), _) => Err(Failure::new(Exit::Failure, "nothing was deleted")),
    }
}

/// Columns aligned by blanks, the last one ragged.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|name| name.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: Vec<&str>| {
        let padded: Vec<String> =
            cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let body = rows.iter().map(|row| line(row.iter().map(String::as_str).collect()));
    std::iter::once(line(header.to_vec())).chain(body).collect::<Vec<_>>().join("\n")
}

/// `part` of `whole` in percent, rounded down, so that 100 means all.
pub fn percent(part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 100;
    }
    u64::try_from(u128::from(part.min(whole)) * 100 / u128::from(whole)).expect("100 at most")
}

/// `12.3 MiB/s`
pub fn rate(bytes_a_second: u64) -> String {
    format!("{}/s", ByteSize(bytes_a_second))
}

/// A time span in its two largest units: `2h 5m`.
pub fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        (_, _, _) => format!("{days}d {hours}h"),
    }
}

/// How long ago that was.
pub fn age(then: UnixTime, now: UnixTime) -> String {
    span(u64::try_from(now.secs - then.secs).unwrap_or(0))
}

/// The present time.
pub fn now() -> UnixTime {
    std::time::SystemTime::now().into()
}

/// Text from elsewhere (names in a bucket) without what would steer the terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// A path as text.
pub fn path(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// How far uploads are: on a terminal a bar, elsewhere a line now and then.
#[derive(Debug)]
pub struct UploadBar {
    bar: ProgressBar,
    is_terminal: bool,
    told: Instant,
    /// Most bytes that were ever left: what counts as the whole.
    whole: u64,
}

impl UploadBar {
    /// A bar on standard error.
    pub fn new() -> UploadBar {
        let is_terminal = io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        let style = ProgressStyle::with_template("Uploading {msg}  {wide_bar}  {bytes} of {total_bytes}");
        bar.set_style(style.expect("the template is a constant"));
        UploadBar { bar, is_terminal, told: Instant::now(), whole: 0 }
    }

    /// Shows that `left` bytes of `files` files are left to be sent.
    pub fn show(&mut self, files: usize, left: u64, rates: Rates) {
        self.whole = self.whole.max(left);
        let text = uploading(files, left, rates);
        if self.is_terminal {
            self.bar.set_length(self.whole);
            self.bar.set_position(self.whole - left);
            self.bar.set_message(text);
        } else if self.told.elapsed() >= LINE_INTERVAL {
            self.told = Instant::now();
            tell(&format!("Uploading {text}: {} to send", ByteSize(left)));
        }
    }

    /// Takes the bar away, so that other lines can be written.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

fn uploading(files: usize, left: u64, rates: Rates) -> String {
    let time = match left.checked_div(rates.sent) {
        Some(seconds) if seconds > 0 => format!(", {} left", span(seconds)),
        Some(_) | None => String::new(),
    };
    format!("{}, {}{time}", count(files, "file"), rate(rates.sent))
}

/// Pause between two lines about progress where there is no terminal.
pub const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Longest pause between two looks at a mount.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// `1 file`, `2 files`
pub fn count(number: usize, what: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {what}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_people() {
        assert_eq!(
            (percent(0, 0), percent(999, 1000), percent(5, 4), percent(u64::MAX, u64::MAX)),
            (100, 99, 100, 100)
        );
        for (seconds, text) in [(0, "0s"), (61, "1m 1s"), (7500, "2h 5m"), (200_000, "2d 7h")] {
            assert_eq!(span(seconds), text);
        }
        assert_eq!(age(UnixTime::from_secs(100), UnixTime::from_secs(40)), "0s", "clocks may be set back");
        assert_eq!((count(1, "file"), count(0, "file")), ("1 file".to_owned(), "0 files".to_owned()));
        assert_eq!(printable("a\u{1b}[31m\n"), "a?[31m?");
    }

    #[test]
    fn uploads_are_told_with_rate_and_time_left() {
        let rates = Rates { sent: 2 << 20, fetched: 0 };
        assert_eq!(uploading(2, 300 << 20, rates), "2 files, 2 MiB/s, 2m 30s left");
        assert_eq!(uploading(1, 5, rates), "1 file, 2 MiB/s");
        assert_eq!(uploading(1, 5, Rates::default()), "1 file, 0 B/s", "nobody knows how long that takes");
    }

    #[test]
    fn tables_are_aligned() {
        let rows = vec![vec!["1".to_owned(), "long name".to_owned()], vec!["22".to_owned(), String::new()]];
        assert_eq!(table(&["ID", "NAME"], &rows), "ID  NAME\n1   long name\n22");
    }
}
