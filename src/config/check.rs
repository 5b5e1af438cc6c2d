//! From what was written to what is meant: every value parsed, every relation between values checked.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use crate::config::env::KILL_AT;
use crate::config::places::{self, overlap};
use crate::config::{Config, ConfigError, Group, Origin, Setting, Settings, Surroundings, Volume};
use crate::fs::CommitMode;
use crate::store::wrap::MetadataReach;
use crate::store::{AddressingStyle, Identity, Location, S3Options};
use crate::types::ByteSize;
use crate::write::{KillAt, KillAtError, OnConflict};
use crate::{cache, control, fs, fuse, namespace, read, store, write};

/// Part sizes that S3 and its likes take.
const PART_BYTES: (ByteSize, ByteSize) = (ByteSize::mib(5), ByteSize::mib(5 << 10));
const CHUNK_BYTES: (ByteSize, ByteSize) = (ByteSize(4 << 10), ByteSize::mib(16));
const MEMORY_BYTES_MIN: ByteSize = ByteSize::mib(64);
const PREFETCH_BYTES_DEFAULT_MAX: ByteSize = ByteSize::mib(128);
const REQUESTS_MAX: usize = 1024;
/// Attempts of one operation. The waits between them add up to 13 seconds at most; `write` goes on after that by itself.
const ATTEMPTS_MAX: u32 = 8;
const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// Settings that mean nothing for a local directory.
const SERVER_SETTINGS: [Setting; 5] =
    [Setting::Endpoint, Setting::Region, Setting::Profile, Setting::Anonymous, Setting::PathStyle];
/// Part of all requests that one sequential stream may have in flight.
const STREAM_SHARE: usize = 4;
/// Part of all requests that uploads may have in flight, so that reads go on beside them.
const UPLOAD_SHARE: usize = 4;

/// Makes the configuration of a mount. Reads nothing but its arguments.
pub fn check(
    settings: &Settings,
    location: Location,
    mountpoint: &Path,
    surroundings: &Surroundings,
) -> Result<Config, ConfigError> {
    let read_only = settings.switch(Setting::ReadOnly)?.unwrap_or(false);
    let store = store_options(settings, &location)?;
    let (state_directory, cache_directory) =
        directories(settings, &location, store.s3.endpoint.as_deref(), surroundings)?;
    let mountpoint = surroundings.directory.join(mountpoint);
    let log_file = file_path(settings, Setting::LogFile, surroundings)?;
    keep_apart(&location, &mountpoint, &state_directory, &cache_directory, log_file.as_deref())?;
    let cache = cache_options(settings, cache_directory)?;
    let read = read_options(settings, &cache, &store)?;
    let write = write_options(settings, state_directory.clone(), &store, surroundings)?;
    let url = places::url_text(&location);
    Ok(Config {
        url: url.clone(),
        reached_by: settings.written_of(Group::Store).texts(),
        location,
        state_directory,
        store,
        metadata_reach: choice::<MetadataReach>(settings, Setting::PosixMetadata)?,
        cache,
        read,
        write,
        namespace: namespace_options(settings, surroundings)?,
        fs: fs::Options {
            commit: choice::<CommitMode>(settings, Setting::Commit)?,
            read_only,
            passthrough: settings.switch(Setting::Passthrough)?.unwrap_or(true),
        },
        fuse: fuse::Options {
            mountpoint: mountpoint.clone(),
            source: url,
            allow_other: settings.switch(Setting::AllowOther)?.unwrap_or(false),
            read_only,
        },
        control: control::Options { directories: surroundings.runtime_directories(), mountpoint },
        drain_timeout: time(settings, Setting::DrainTimeout)?,
        log_level: parsed(settings, Setting::LogLevel, log::LevelFilter::from_str)?,
        log_file,
    })
}

/// What is to be known of a volume without mounting it.
pub fn check_volume(
    settings: &Settings,
    location: Location,
    surroundings: &Surroundings,
) -> Result<Volume, ConfigError> {
    let store = store_options(settings, &location)?;
    let (state_directory, _) = directories(settings, &location, store.s3.endpoint.as_deref(), surroundings)?;
    let write = write_options(settings, state_directory.clone(), &store, surroundings)?;
    Ok(Volume { url: places::url_text(&location), location, state_directory, store, write })
}

fn store_options(settings: &Settings, location: &Location) -> Result<store::Options, ConfigError> {
    let text =
        |setting| settings.get(setting).map(|given| given.text.trim().to_owned()).filter(|t| !t.is_empty());
    if let Location::Local { .. } = location {
        for setting in SERVER_SETTINGS {
            let is_typed = |origin: &Origin| matches!(origin, Origin::Flag | Origin::MountOption);
            if settings.get(setting).is_some_and(|given| is_typed(&given.origin)) {
                let advice = format!("leave --{setting} away, or mount an s3:// volume");
                return Err(settings.refuse(setting, "a file:// volume has no server", advice));
            }
        }
    }
    let endpoint = text(Setting::Endpoint);
    if let Some(url) = &endpoint {
        let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
        let advice = "write --endpoint http://HOST:PORT or https://HOST";
        match rest {
            None => {
                return Err(settings.refuse(
                    Setting::Endpoint,
                    "it must begin with http:// or https://",
                    advice,
                ));
            }
            Some(rest) if rest.split('/').next().unwrap_or_default().is_empty() => {
                return Err(settings.refuse(Setting::Endpoint, "there is no host in it", advice));
            }
            Some(rest) if rest.contains('@') => {
                let mut hidden = settings.clone();
                hidden.set(Setting::Endpoint, "***", Origin::Default);
                let advice =
                    "put the keys into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or into a --profile";
                return Err(hidden.refuse(Setting::Endpoint, "it must not hold credentials", advice));
            }
            Some(_) => {}
        }
    }
    let addressing = match settings.switch(Setting::PathStyle)? {
        None => AddressingStyle::Auto,
        Some(true) => AddressingStyle::Path,
        Some(false) => AddressingStyle::VirtualHost,
    };
    let identity = match (text(Setting::Profile), settings.switch(Setting::Anonymous)?.unwrap_or(false)) {
        (Some(_), true) => {
            let advice = "leave one of --profile and --anonymous away";
            return Err(settings.refuse(Setting::Anonymous, "a profile is for signing requests", advice));
        }
        (None, true) => Identity::Anonymous,
        (Some(profile), false) => Identity::Profile(profile),
        (None, false) => Identity::Usual,
    };
    let requests: usize = parsed(settings, Setting::Requests, usize::from_str)?;
    if !(1..=REQUESTS_MAX).contains(&requests) {
        let advice = format!("from 1 to {REQUESTS_MAX}; 32 is enough for most links");
        return Err(settings.refuse(Setting::Requests, "too few or too many", advice));
    }
    Ok(store::Options {
        s3: S3Options { endpoint, region: text(Setting::Region), addressing, identity },
        requests_max: requests,
        sending_bytes_max: half_of_memory(settings)?,
        stall_timeout: positive_time(settings, Setting::StallTimeout)?,
        attempts_max: ATTEMPTS_MAX,
        backoff_max: BACKOFF_MAX,
    })
}

fn cache_options(settings: &Settings, directory: PathBuf) -> Result<cache::Options, ConfigError> {
    let chunk_bytes = size(settings, Setting::ChunkSize)?;
    let (least, most) = CHUNK_BYTES;
    if !chunk_bytes.0.is_power_of_two() || chunk_bytes < least || chunk_bytes > most {
        let reason = format!("a chunk is a power of two from {least} to {most}");
        return Err(settings.refuse(
            Setting::ChunkSize,
            reason,
            "256KiB suits most; 1MiB for large files only",
        ));
    }
    let bytes_max = size(settings, Setting::CacheSize)?;
    if bytes_max.0 > 0 && bytes_max < chunk_bytes {
        let reason = format!("not even one chunk of {chunk_bytes} fits");
        return Err(settings.refuse(Setting::CacheSize, reason, "give it some GiB, or 0 to keep nothing"));
    }
    let free_bytes_min = size(settings, Setting::CacheFree)?;
    Ok(cache::Options { directory, bytes_max, free_bytes_min, chunk_bytes })
}

fn read_options(
    settings: &Settings,
    cache: &cache::Options,
    store: &store::Options,
) -> Result<read::Options, ConfigError> {
    let memory_bytes = half_of_memory(settings)?;
    let chunk_bytes = cache.chunk_bytes;
    let mut request_bytes = size(settings, Setting::RequestSize)?;
    if is_default(settings, Setting::RequestSize) {
        request_bytes = request_bytes.max(chunk_bytes);
    }
    if request_bytes.0 == 0 || !request_bytes.0.is_multiple_of(chunk_bytes.0) {
        let reason = format!("it must be a multiple of --chunk-size, which is {chunk_bytes}");
        return Err(settings.refuse(Setting::RequestSize, reason, "8MiB fits every chunk size up to 8MiB"));
    }
    if request_bytes > memory_bytes {
        return Err(beyond_memory(settings, Setting::RequestSize, request_bytes, memory_bytes));
    }
    let prefetch_bytes = match settings.get(Setting::Prefetch) {
        Some(_) => size(settings, Setting::Prefetch)?,
        None => PREFETCH_BYTES_DEFAULT_MAX.min(ByteSize(memory_bytes.0 / 2)),
    };
    if prefetch_bytes > memory_bytes {
        return Err(beyond_memory(settings, Setting::Prefetch, prefetch_bytes, memory_bytes));
    }
    Ok(read::Options {
        memory_bytes,
        prefetch_bytes,
        request_bytes,
        requests_max: (store.requests_max / STREAM_SHARE).max(1),
        stall_timeout: store.stall_timeout,
        read_timeout: positive_time(settings, Setting::ReadTimeout)?,
    })
}

fn write_options(
    settings: &Settings,
    directory: PathBuf,
    store: &store::Options,
    surroundings: &Surroundings,
) -> Result<write::Options, ConfigError> {
    let memory_bytes = half_of_memory(settings)?;
    let part_bytes = size(settings, Setting::PartSize)?;
    let (least, most) = PART_BYTES;
    if part_bytes < least || part_bytes > most {
        let reason = format!("stores take parts from {least} to {most}");
        return Err(settings.refuse(Setting::PartSize, reason, "8MiB suits most; parts grow with the file"));
    }
    if part_bytes > memory_bytes {
        return Err(beyond_memory(settings, Setting::PartSize, part_bytes, memory_bytes));
    }
    let staging_bytes_max = size(settings, Setting::StagingSize)?;
    if staging_bytes_max < part_bytes {
        let reason = format!("not even one part of {part_bytes} fits");
        return Err(settings.refuse(Setting::StagingSize, reason, "give it room for your largest file"));
    }
    Ok(write::Options {
        directory,
        staging_bytes_max,
        part_bytes,
        memory_bytes,
        requests_max: (store.requests_max / UPLOAD_SHARE).max(1),
        close_timeout: positive_time(settings, Setting::CloseTimeout)?,
        on_conflict: choice::<OnConflict>(settings, Setting::OnConflict)?,
        host: surroundings.host.clone(),
        kill_at: kill_at(surroundings)?,
    })
}

/// For crash tests; no setting, so that nobody finds it in a file.
fn kill_at(surroundings: &Surroundings) -> Result<Option<KillAt>, ConfigError> {
    let Some(text) = surroundings.environment.get(KILL_AT) else {
        return Ok(None);
    };
    let point = text.to_string_lossy().parse().map_err(|why: KillAtError| ConfigError::KillAt(why))?;
    Ok(Some(point))
}

fn namespace_options(
    settings: &Settings,
    surroundings: &Surroundings,
) -> Result<namespace::Options, ConfigError> {
    let umask = parsed(settings, Setting::Umask, permissions)?;
    let mode =
        |setting, all: u32| settings.parsed(setting, permissions).map(|given| given.unwrap_or(all & !umask));
    Ok(namespace::Options {
        ttl: time(settings, Setting::MetadataTtl)?,
        uid: settings.parsed(Setting::Uid, u32::from_str)?.unwrap_or(surroundings.uid),
        gid: settings.parsed(Setting::Gid, u32::from_str)?.unwrap_or(surroundings.gid),
        file_mode: mode(Setting::FileMode, 0o666)?,
        directory_mode: mode(Setting::DirMode, 0o777)?,
        mounted_at: surroundings.now,
    })
}

fn permissions(text: &str) -> Result<u32, &'static str> {
    match u32::from_str_radix(text, 8) {
        Ok(bits) if bits <= 0o777 => Ok(bits),
        Ok(_) | Err(_) => Err("no permission bits in octal"),
    }
}

/// The state and the cache directory.
fn directories(
    settings: &Settings,
    location: &Location,
    endpoint: Option<&str>,
    surroundings: &Surroundings,
) -> Result<(PathBuf, PathBuf), ConfigError> {
    let volume = places::volume_text(location, endpoint);
    let uid = surroundings.uid;
    let homeless = |setting: Setting| ConfigError::Places {
        reason: format!("there is no place for --{setting}: neither HOME nor an XDG directory is set"),
        advice: format!("name a directory with --{setting}"),
    };
    let state = match file_path(settings, Setting::StateDir, surroundings)? {
        Some(path) => path,
        None => places::state_directory(&surroundings.environment, uid, &volume)
            .ok_or_else(|| homeless(Setting::StateDir))?,
    };
    let cache = match file_path(settings, Setting::CacheDir, surroundings)? {
        Some(path) => path,
        None => places::cache_directory(&surroundings.environment, uid)
            .ok_or_else(|| homeless(Setting::CacheDir))?,
    };
    Ok((state, cache))
}

/// A path as an absolute one. What was typed is meant from the current directory; elsewhere nobody knows from where.
fn file_path(
    settings: &Settings,
    setting: Setting,
    surroundings: &Surroundings,
) -> Result<Option<PathBuf>, ConfigError> {
    let Some(given) = settings.get(setting).filter(|given| !given.text.is_empty()) else {
        return Ok(None);
    };
    let path = Path::new(&given.text);
    match given.origin {
        _ if path.is_absolute() => Ok(Some(path.to_owned())),
        Origin::Flag => Ok(Some(surroundings.directory.join(path))),
        Origin::Default
        | Origin::Ambient(_)
        | Origin::File(_)
        | Origin::Environment(_)
        | Origin::MountOption => {
            Err(settings.refuse(setting, "the path is not absolute", "write the path from / on"))
        }
    }
}

/// A file system that keeps its own files in itself waits for itself.
fn keep_apart(
    location: &Location,
    mountpoint: &Path,
    state: &Path,
    cache: &Path,
    log_file: Option<&Path>,
) -> Result<(), ConfigError> {
    let inside = |what: &str, path: &Path, flag: &str| ConfigError::Places {
        reason: format!("{what} {} lies in the mountpoint {}", path.display(), mountpoint.display()),
        advice: format!("choose another place with {flag}"),
    };
    if state.starts_with(mountpoint) {
        return Err(inside("the state directory", state, "--state-dir"));
    }
    if cache.starts_with(mountpoint) {
        return Err(inside("the cache directory", cache, "--cache-dir"));
    }
    if let Some(log_file) = log_file.filter(|path| path.starts_with(mountpoint)) {
        return Err(inside("the log file", log_file, "--log-file"));
    }
    if overlap(state, cache) {
        return Err(ConfigError::Places {
            reason: format!(
                "the state directory {} and the cache directory {} lie in each other",
                state.display(),
                cache.display()
            ),
            advice:
                "the cache may be deleted at any time, the state must not be: give each its own directory"
                    .to_owned(),
        });
    }
    match location {
        Location::Local { directory } if overlap(directory, mountpoint) => Err(ConfigError::Places {
            reason: format!(
                "the volume {} and the mountpoint {} lie in each other",
                directory.display(),
                mountpoint.display()
            ),
            advice: "mount on a directory elsewhere".to_owned(),
        }),
        Location::Local { .. } | Location::S3 { .. } => Ok(()),
    }
}

/// Memory is halved between reading and writing.
fn half_of_memory(settings: &Settings) -> Result<ByteSize, ConfigError> {
    let memory = size(settings, Setting::Memory)?;
    if memory < MEMORY_BYTES_MIN {
        let reason = format!("at least {MEMORY_BYTES_MIN} are needed to keep a link busy");
        return Err(settings.refuse(Setting::Memory, reason, "512MiB is the default"));
    }
    Ok(ByteSize(memory.0 / 2))
}

fn beyond_memory(settings: &Settings, setting: Setting, wanted: ByteSize, half: ByteSize) -> ConfigError {
    let needed = ByteSize(wanted.0.saturating_mul(2));
    let reason = format!("{wanted} do not fit into the half of --memory, {half}, that is for this");
    settings.refuse(setting, reason, format!("raise --memory to {needed} or lower --{setting}"))
}

fn is_default(settings: &Settings, setting: Setting) -> bool {
    settings.get(setting).is_none_or(|given| given.origin == Origin::Default)
}

/// The value of a setting that has a default.
fn parsed<T, E: std::fmt::Display>(
    settings: &Settings,
    setting: Setting,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, ConfigError> {
    let missing = || settings.refuse(setting, "there is no value", format!("give --{setting} a value"));
    settings.parsed(setting, parse)?.ok_or_else(missing)
}

fn size(settings: &Settings, setting: Setting) -> Result<ByteSize, ConfigError> {
    parsed(settings, setting, ByteSize::from_str)
}

/// One of the words that the option's own type knows.
fn choice<T: serde::de::DeserializeOwned>(settings: &Settings, setting: Setting) -> Result<T, ConfigError> {
    parsed(settings, setting, |text| {
        let word = serde_json::Value::String(text.to_owned());
        serde_json::from_value(word).map_err(|_| "no such choice")
    })
}

fn time(settings: &Settings, setting: Setting) -> Result<Duration, ConfigError> {
    parsed(settings, setting, parse_time)
}

fn positive_time(settings: &Settings, setting: Setting) -> Result<Duration, ConfigError> {
    let time = time(settings, setting)?;
    if time.is_zero() {
        return Err(settings.refuse(
            setting,
            "it must be above 0",
            "a time is a number with ms, s, m or h: 30s",
        ));
    }
    Ok(time)
}

/// `500ms`, `30s`, `5m`, `2h`; a bare number is in seconds.
pub fn parse_time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time");
    let digits_end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits_end);
    let unit_seconds = match unit.trim() {
        "ms" => 0.001,
        "" | "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    Duration::try_from_secs_f64(number * unit_seconds).map_err(|_| wrong())
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
