//! Where log lines go and what never appears in them.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use env_logger::{Builder, Target, WriteStyle};

/// What to log and where.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Least severe level written.
    pub level: log::LevelFilter,
    /// Appended to when given; otherwise lines go to standard error.
    pub file: Option<PathBuf>,
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions { level: log::LevelFilter::Info, file: None }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The log file cannot be opened for appending.
    #[error("cannot open the log file {}: {source}; choose another with --log-file", path.display())]
    File {
        /// The file asked for.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// Sends log lines of this process where `options` says. A second call changes nothing.
pub fn init(options: &LogOptions) -> Result<(), LogError> {
    let mut builder = Builder::new();
    builder.filter_level(options.level).write_style(WriteStyle::Never);
    // The kernel adapter logs every request at debug, and a reply to an aborted one as an error.
    builder.filter_module("fuser", options.level.min(log::LevelFilter::Warn));
    for chatty in ["hyper", "hyper_util", "reqwest", "rustls", "h2", "s3s"] {
        builder.filter_module(chatty, options.level.min(log::LevelFilter::Warn));
    }
    builder.format(|out, record| {
        let line = redact(&record.args().to_string());
        writeln!(out, "{} {:5} {}: {line}", out.timestamp_millis(), record.level(), record.target())
    });
    if let Some(path) = &options.file {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .map_err(|source| LogError::File { path: path.clone(), source })?;
        builder.target(Target::Pipe(Box::new(file)));
    }
    // Err means a logger is already set, as in tests that share a process.
    let _ = builder.try_init();
    Ok(())
}

/// Names whose value must not be printed, as they stand before `=` or `:`.
const SECRETS: [&str; 8] = [
    "uploadid",
    "authorization",
    "x-amz-security-token",
    "x-amz-signature",
    "secret",
    "password",
    "sig",
    "token",
];

/// Replaces the values of well-known secrets in URLs and headers by `***`.
fn redact(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut clean = String::with_capacity(line.len());
    let mut at = 0;
    while let Some((value_start, value_end)) = next_secret(&lower, at) {
        clean.push_str(&line[at..value_start]);
        clean.push_str("***");
        at = value_end;
    }
    clean.push_str(&line[at..]);
    clean
}

/// The next secret value at or after `from`, as byte offsets.
fn next_secret(lower: &str, from: usize) -> Option<(usize, usize)> {
    SECRETS
        .iter()
        .flat_map(|name| lower[from..].match_indices(name).map(move |(at, _)| from + at + name.len()))
        .filter_map(|name_end| {
            let rest = &lower[name_end..];
            let sign = rest.strip_prefix(['=', ':'])?;
            let value = sign.trim_start_matches([' ', '"']);
            let start = lower.len() - value.len();
            // An Authorization value has blanks in it; every other secret ends at the first separator.
            let ends: &[char] = if lower[..name_end].ends_with("authorization") {
                &['\n', '"']
            } else {
                &['&', ' ', ',', '"', '\n', ')']
            };
            let len = value.find(ends).unwrap_or(value.len());
            (len > 0).then_some((start, start + len))
        })
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_reach_the_log() {
        assert_eq!(
            redact("PUT /b/k?partNumber=1&uploadId=abc&x=1"),
            "PUT /b/k?partNumber=1&uploadId=***&x=1"
        );
        assert_eq!(redact("Authorization: AWS4 cred sig"), "Authorization: ***");
        assert_eq!(
            redact("X-Amz-Security-Token=T X-Amz-Signature=S end"),
            "X-Amz-Security-Token=*** X-Amz-Signature=*** end"
        );
        assert_eq!(redact("nothing here"), "nothing here");
    }
}
