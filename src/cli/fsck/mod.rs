//! `tetherfs fsck`: what waits in a state directory that is not mounted, and what would become of it.

mod args;
mod texts;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use crate::cli::cache::job::Bar;
use crate::cli::exit::{Exit, Failure};
use crate::cli::output;
use crate::config::{Origin, Setting, Settings, Surroundings, Volume, load_volume};
use crate::durable::{Lease, LeaseError};
use crate::fs::upkeep::{Progress, Stage};
use crate::mount::{self, VolumeNote};
use crate::observe::Metrics;
use crate::store::{self, OpenError, supposed_capabilities};
use crate::types::ByteSize;
use crate::write::{Examination, FileReport, JournalReport, MoveReport, StateReport, StrayReport};

pub use args::{EXAMPLES, FsckArguments};

/// Bytes of the first parts, where nothing is known of the volume.
const PART_BYTES: ByteSize = ByteSize::mib(8);

/// A state directory and what is known of its volume.
struct Place {
    directory: PathBuf,
    volume: Option<Volume>,
    note: Option<VolumeNote>,
}

/// Whether the server was asked.
enum Asking {
    /// It was, or there was nothing to ask.
    Done,
    /// The user did not want it, or nobody knows which it is.
    Left(String),
    /// It could not be.
    Failed(String),
}

/// The result for scripts.
#[derive(Debug, Serialize)]
struct Checked<'a> {
    directory: &'a Path,
    url: Option<&'a str>,
    is_asked: bool,
    not_asked: Option<&'a str>,
    problems: usize,
    journal: &'a JournalReport,
    files: Vec<ListedFile<'a>>,
    moves: &'a [MoveReport],
    strays: &'a [StrayReport],
    recovered: &'a [StrayReport],
    set_aside: &'a [PathBuf],
}

/// A file as `uploads` names it, for scripts.
#[derive(Debug, Serialize)]
struct ListedFile<'a> {
    id: String,
    #[serde(flatten)]
    file: &'a FileReport,
}

/// Runs the command.
pub fn run(arguments: &FsckArguments) -> Result<Exit, Failure> {
    let place = Place::of(arguments)?;
    if !Examination::is_possible(&place.directory) {
        let message = format!("{} is no state directory", output::path(&place.directory));
        return Err(Failure::new(Exit::Usage, message)
            .hint("name the one that 'tetherfs mount --state-dir' was given, or the volume's URL"));
    }
    // Held to the end: nobody mounts it meanwhile.
    let _lease = lease(&place.directory)?;
    let mut examination = examine(&place)?;
    let asking = if arguments.offline {
        Asking::Left("--offline was given".to_owned())
    } else {
        ask(&mut examination, place.volume.as_ref())?
    };
    let report = examination.report();
    let is_repaired = arguments.repair && report.problems() > 0;
    let set_aside = if is_repaired { examination.repair().map_err(mount::Error::from)? } else { Vec::new() };
    if arguments.json {
        output::print_json(&checked(&place, &asking, &report, &set_aside))?;
    } else {
        let url = place.volume.as_ref().map(|volume| volume.url.as_str());
        output::print(&texts::describe(&place.directory, url, &report, output::now()));
        texts::asking(&asking).iter().for_each(|line| output::tell(line));
        let lines = texts::verdict(&report, is_repaired.then_some(set_aside.as_slice()));
        output::print(&lines.join("\n"));
    }
    Ok(match asking {
        _ if report.problems() > 0 => Exit::Failure,
        Asking::Failed(_) => Exit::Store,
        Asking::Done | Asking::Left(_) => Exit::Ok,
    })
}

impl Place {
    fn of(arguments: &FsckArguments) -> Result<Place, Failure> {
        let surroundings = Surroundings::of_process();
        let load = |url: &str, settings: Settings| {
            load_volume(url, settings, arguments.config.clone(), &surroundings)
        };
        if arguments.target.contains("://") {
            let volume = load(&arguments.target, arguments.flags.0.clone())?;
            let directory = volume.state_directory.clone();
            if !directory.is_dir() {
                let shown = output::path(&directory);
                let message = format!("there is no state directory of {}: looked for {shown}", volume.url);
                return Err(Failure::new(Exit::Usage, message)
                    .hint("name it, or say --endpoint and --state-dir as for 'tetherfs mount'"));
            }
            let note = note(&directory)?;
            return Ok(Place { directory, volume: Some(volume), note });
        }
        let directory = surroundings.directory.join(&arguments.target);
        if !directory.is_dir() {
            return Err(Failure::new(Exit::Usage, format!("{} is no directory", output::path(&directory)))
                .hint("name a state directory, or the URL of its volume"));
        }
        let note = note(&directory)?;
        let volume = match &note {
            Some(note) => {
                let mut settings = noted(note, &directory);
                settings.overlay(arguments.flags.0.clone());
                Some(load(&note.url, settings)?)
            }
            None => None,
        };
        Ok(Place { directory, volume, note })
    }
}

fn note(directory: &Path) -> Result<Option<VolumeNote>, Failure> {
    VolumeNote::read(directory).map_err(|error| {
        let path = VolumeNote::path(directory);
        Failure::new(Exit::Failure, format!("cannot read {}: {error}", output::path(&path)))
    })
}

/// The settings of a note, as stronger than any that are written elsewhere.
fn noted(note: &VolumeNote, directory: &Path) -> Settings {
    let mut settings = Settings::default();
    let origin = Origin::File(VolumeNote::path(directory));
    for (name, text) in &note.settings {
        if let Some(setting) = Setting::from_name(name) {
            settings.set(setting, text, origin.clone());
        }
    }
    settings.set(Setting::StateDir, directory.to_string_lossy(), origin);
    settings
}

fn lease(directory: &Path) -> Result<Lease, Failure> {
    Lease::acquire(directory).map_err(|error| match error {
        LeaseError::Held { directory, holder } => {
            let message = format!("{} is in use by process {holder}", output::path(&directory));
            Failure::new(Exit::StateInUse, message)
                .hint("on a mount, 'tetherfs uploads list' and 'tetherfs status' tell; unmount it for fsck")
        }
        error @ LeaseError::Io { .. } => mount::Error::from(error).into(),
    })
}

fn examine(place: &Place) -> Result<Examination, Failure> {
    let capabilities =
        place.note.as_ref().map_or_else(supposed_capabilities, |note| note.capabilities.clone());
    let part_bytes = place.volume.as_ref().map_or(PART_BYTES, |volume| volume.write.part_bytes);
    let mut bar = Bar::new("Checking");
    let examined = Examination::of(&place.directory, &capabilities, part_bytes, &mut |bytes, bytes_total| {
        bar.show(&Progress { stage: Stage::Working, bytes, bytes_total, ..Progress::default() });
    });
    bar.clear();
    Ok(examined.map_err(mount::Error::from)?)
}

fn ask(examination: &mut Examination, volume: Option<&Volume>) -> Result<Asking, Failure> {
    if !examination.has_questions() {
        return Ok(Asking::Done);
    }
    let Some(volume) = volume else {
        let why = "it is not noted in the directory which volume it is of; name the volume's URL instead";
        return Ok(Asking::Left(why.to_owned()));
    };
    let runtime = mount::runtime().map_err(mount::Error::from)?;
    runtime.block_on(async {
        let opened = store::open_to_look(&volume.location, &volume.store, Arc::new(Metrics::default())).await;
        match opened {
            Ok(store) => examination.ask(&*store).await,
            Err(error @ OpenError::Options(_)) => return Err(mount::Error::from(error).into()),
            Err(error @ (OpenError::Credentials(_) | OpenError::Store { .. })) => {
                return Ok(Asking::Failed(error.to_string()));
            }
        }
        let unasked = examination.report().files.into_iter().find_map(|file| file.unasked);
        Ok(unasked.map_or(Asking::Done, Asking::Failed))
    })
}

fn checked<'a>(
    place: &'a Place,
    asking: &'a Asking,
    report: &'a StateReport,
    set_aside: &'a [PathBuf],
) -> Checked<'a> {
    let not_asked = match asking {
        Asking::Done => None,
        Asking::Left(why) | Asking::Failed(why) => Some(why.as_str()),
    };
    let listed = |file: &'a FileReport| ListedFile { id: file.session.to_string(), file };
    Checked {
        directory: &place.directory,
        url: place.volume.as_ref().map(|volume| volume.url.as_str()),
        is_asked: not_asked.is_none(),
        not_asked,
        problems: report.problems(),
        journal: &report.journal,
        files: report.files.iter().map(listed).collect(),
        moves: &report.moves,
        strays: &report.strays,
        recovered: &report.recovered,
        set_aside,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::cli::fsck::texts::tests::everything;

    fn names(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    found.push(name.clone());
                    if name != "since" {
                        names(value, found);
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| names(value, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn the_help_names_every_field_of_the_json() {
        let place = Place { directory: "/s".into(), volume: None, note: None };
        let (report, asking) = (everything(), Asking::Left("offline".to_owned()));
        let json = serde_json::to_value(checked(&place, &asking, &report, &["/r".into()])).unwrap();
        let mut found = Vec::new();
        names(&json, &mut found);
        assert!(found.len() > 30, "{found:?}");
        for name in found {
            assert!(EXAMPLES.contains(&format!("\"{name}\"")), "{name} is not in the help");
        }
        for file in json["files"].as_array().unwrap() {
            assert!(EXAMPLES.contains(&format!("\"{}\"", file["next"].as_str().unwrap())), "{file}");
        }
    }
}
