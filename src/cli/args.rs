//! What can be typed. The settings of a mount come from their table; the rest stands here.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches, Parser, Subcommand};

use crate::cli::exit::Exit;
use crate::config::{Group, Origin, Setting, Settings, ValueKind, parse_time};

/// Mount object storage as a directory. Nothing that a program was told is saved is ever lost.
#[derive(Debug, Parser)]
#[command(name = "tetherfs", version, subcommand_required = true, arg_required_else_help = true)]
#[command(after_help = overview(), max_term_width = 110, infer_subcommands = false)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mount a bucket, a part of one, or a directory
    Mount(Box<MountArguments>),
    /// Upload what is left, unmount and stop
    #[command(visible_alias = "umount", after_help = UNMOUNT_EXAMPLES)]
    Unmount(UnmountArguments),
    /// Show mounts, pending uploads, cache use and errors
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArguments),
    /// Run a small S3 server over a directory, for trying and testing (not for production)
    #[command(after_help = crate::cli::serve::EXAMPLES)]
    Serve(crate::cli::serve::ServeArguments),
    /// List what is not in the bucket yet, wait for it, try it again, and decide about it
    #[command(after_help = crate::cli::uploads::EXAMPLES)]
    Uploads(crate::cli::uploads::UploadsArguments),
    /// Wait until all changes under a mount are in the bucket, those of open files too
    #[command(after_help = crate::cli::sync::EXAMPLES)]
    Sync(crate::cli::sync::SyncArguments),
    /// Check what waits in the state directory of a volume that is not mounted
    #[command(after_help = crate::cli::fsck::EXAMPLES)]
    Fsck(crate::cli::fsck::FsckArguments),
    /// Ask the bucket anew about files and directories, to see what other clients have done
    #[command(after_help = crate::cli::refresh::EXAMPLES)]
    Refresh(crate::cli::refresh::RefreshArguments),
    /// Show and change what is kept on the local disk: stat, warm, pin, evict, verify, purge
    #[command(after_help = crate::cli::cache::EXAMPLES)]
    Cache(crate::cli::cache::CacheArguments),
}

const UNMOUNT_EXAMPLES: &str = "Examples:
  tetherfs unmount ~/photos                  wait until everything is in the bucket
  tetherfs unmount ~/photos --timeout 2m     wait two minutes at most
  tetherfs unmount ~/photos --no-wait        do not wait

The exit code is 0 when everything is in the bucket, 6 when uploads are pending.";

const STATUS_EXAMPLES: &str = "Examples:
  tetherfs status                            all mounts of this user
  tetherfs status ~/photos
  tetherfs status --json ~/photos            for scripts; without DIR, a list of mounts";

const MOUNT_EXAMPLES: &str = "Every setting can also be given
  in the environment      TETHERFS_CACHE_SIZE=20GiB
  to mount(8)             -o cache_size=20GiB
  in a file               cache-size = \"20GiB\", for one volume under [mount.\"s3://photos\"]
Flags are stronger than -o, then come the environment, ~/.config/tetherfs/config.toml and /etc/tetherfs.toml.
Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, --profile, or the machine's role.

Examples:
  tetherfs mount s3://photos ~/photos
  tetherfs mount s3://photos/2024 ~/photos --endpoint http://nas:9000 --profile nas
  tetherfs mount s3://photos ~/photos --commit background --cache-size 100GiB
  tetherfs mount file:///srv/data ~/data --foreground

In /etc/fstab:
  s3://photos  /mnt/photos  fuse.tetherfs  _netdev,allow_other,endpoint=http://nas:9000  0 0";

fn overview() -> String {
    let codes: Vec<String> =
        Exit::ALL.iter().map(|exit| format!("  {}  {}", exit.code(), exit.meaning())).collect();
    format!(
        "Examples:
  tetherfs mount s3://photos ~/photos        mount a bucket
  tetherfs status                            what is mounted, what is being uploaded
  tetherfs sync ~/photos                     wait until all changes are in the bucket
  tetherfs unmount ~/photos                  wait for uploads, then unmount
  tetherfs serve /tmp/bucket                 try it without a cloud

'tetherfs COMMAND --help' says more about one command.

Exit codes:
{}",
        codes.join("\n")
    )
}

/// `tetherfs mount`
#[derive(Debug, Args)]
#[command(after_help = MOUNT_EXAMPLES)]
pub struct MountArguments {
    /// What to mount: s3://BUCKET, s3://BUCKET/PREFIX or file:///DIR
    pub url: String,
    /// Where: an empty directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Stay in the foreground and log to the terminal; Ctrl-C unmounts
    #[arg(short, long)]
    pub foreground: bool,
    /// Read this configuration file instead of the usual ones
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Settings as mount(8) writes them, separated by commas
    #[arg(short = 'o', value_name = "NAME[=VALUE],...")]
    pub mount_options: Vec<String>,
    /// Set by ourselves for the process in the background.
    #[arg(long = BEHIND, hide = true)]
    pub behind: bool,
    /// The settings given as flags.
    #[command(flatten)]
    pub flags: SettingFlags,
}

/// The flag that tells a process that it is the one in the background.
pub const BEHIND: &str = "behind-the-terminal";

/// `tetherfs unmount`
#[derive(Debug, Args)]
pub struct UnmountArguments {
    /// The mountpoint
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Do not wait for uploads; they go on at the next mount
    #[arg(long, conflicts_with = "timeout")]
    pub no_wait: bool,
    /// Longest wait for uploads, such as 30s or 5m; without it, as long as it takes
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    pub timeout: Option<Duration>,
}

/// `tetherfs status`
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// The mountpoint; without it, all mounts of this user
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// The settings of a mount as flags, made from their table.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SettingFlags(pub Settings);

/// Those settings as flags that say which volume is meant, and where its changes wait.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct VolumeFlags(pub Settings);

impl VolumeFlags {
    fn settings() -> impl Iterator<Item = Setting> {
        let is_meant =
            |setting: &Setting| setting.spec().group == Group::Store || *setting == Setting::StateDir;
        Setting::ALL.iter().copied().filter(is_meant)
    }
}

impl Args for SettingFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        Setting::ALL.iter().fold(command, |command, setting| command.arg(flag(*setting)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        SettingFlags::augment_args(command)
    }
}

impl FromArgMatches for SettingFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingFlags, clap::Error> {
        let mut flags = SettingFlags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        read_flags(&mut self.0, matches, Setting::ALL.iter().copied());
        Ok(())
    }
}

impl Args for VolumeFlags {
    fn augment_args(command: clap::Command) -> clap::Command {
        VolumeFlags::settings().fold(command, |command, setting| command.arg(flag(setting)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        VolumeFlags::augment_args(command)
    }
}

impl FromArgMatches for VolumeFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<VolumeFlags, clap::Error> {
        let mut flags = VolumeFlags::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        read_flags(&mut self.0, matches, VolumeFlags::settings());
        Ok(())
    }
}

fn read_flags(into: &mut Settings, matches: &ArgMatches, settings: impl Iterator<Item = Setting>) {
    for setting in settings {
        if let Some(text) = matches.get_one::<String>(setting.name()) {
            into.set(setting, text, Origin::Flag);
        }
    }
}

fn flag(setting: Setting) -> Arg {
    let spec = setting.spec();
    let help = match spec.default {
        Some(default) => format!("{} [default: {default}]", spec.help),
        None => spec.help.to_owned(),
    };
    let arg = Arg::new(spec.name).long(spec.name).help(help).help_heading(spec.group.heading());
    let arg = arg.action(ArgAction::Set);
    match spec.value {
        ValueKind::Switch => arg
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("true")
            .hide_possible_values(true)
            .value_name("BOOL")
            .value_parser(PossibleValuesParser::new(["true", "false"])),
        ValueKind::Text(name) => arg.value_name(name),
        ValueKind::Choice(words) => {
            arg.value_name("WORD").hide_possible_values(true).value_parser(PossibleValuesParser::new(words))
        }
    }
}

/// Flags that mount(8) gives to its helpers and that mean nothing here. `-t` and `-N` have a value.
const HELPER_FLAGS: [&str; 5] = ["-s", "-f", "-n", "-v", "-w"];
const HELPER_FLAGS_WITH_VALUE: [&str; 2] = ["-t", "-N"];

/// Makes `mount.tetherfs URL DIR ...` (mount(8)) and `tetherfs URL DIR ...` (mount.fuse3(8)) into `tetherfs mount ...`.
pub fn normalise(arguments: Vec<OsString>) -> Vec<OsString> {
    let program = arguments.first().map(|name| Path::new(name).file_name().unwrap_or(name).to_owned());
    let is_helper = program.is_some_and(|name| name.to_string_lossy().starts_with("mount."));
    let is_url = |text: &OsStr| text.to_string_lossy().contains("://");
    if !is_helper && !arguments.get(1).is_some_and(|first| is_url(first)) {
        return arguments;
    }
    let mut plain = vec![OsString::from("tetherfs"), OsString::from("mount")];
    let mut rest = arguments.into_iter().skip(1);
    while let Some(argument) = rest.next() {
        let text = argument.to_string_lossy();
        if is_helper && HELPER_FLAGS.contains(&text.as_ref()) {
            continue;
        }
        if HELPER_FLAGS_WITH_VALUE.contains(&text.as_ref()) {
            rest.next();
            continue;
        }
        plain.push(argument);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn mount(words: &[&str]) -> MountArguments {
        let arguments = normalise(words.iter().map(OsString::from).collect());
        match Arguments::try_parse_from(arguments).expect("these are good arguments").command {
            Command::Mount(mount) => *mount,
            other => panic!("not a mount: {other:?}"),
        }
    }

    fn flag_text(mount: &MountArguments, setting: Setting) -> Option<&str> {
        mount.flags.0.get(setting).map(|given| given.text.as_str())
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn settings_are_flags() {
        let mount = mount(&[
            "tetherfs",
            "mount",
            "s3://b",
            "/m",
            "--cache-size",
            "1G",
            "--read-only",
            "--path-style=false",
            "--commit=background",
            "-o",
            "ro,allow_other",
            "-o",
            "x-foo",
            "-f",
        ]);
        assert_eq!((mount.url.as_str(), mount.directory.as_path()), ("s3://b", Path::new("/m")));
        assert_eq!(flag_text(&mount, Setting::CacheSize), Some("1G"));
        assert_eq!(flag_text(&mount, Setting::ReadOnly), Some("true"));
        assert_eq!(flag_text(&mount, Setting::PathStyle), Some("false"));
        assert_eq!(flag_text(&mount, Setting::Commit), Some("background"));
        assert_eq!(flag_text(&mount, Setting::PartSize), None, "defaults come later");
        assert_eq!(mount.mount_options, ["ro,allow_other", "x-foo"]);
        assert!(mount.foreground && !mount.behind);
    }

    #[test]
    fn mount_8_and_mount_fuse_3_are_understood() {
        for words in [
            &["/sbin/mount.tetherfs", "s3://b", "/m", "-n", "-s", "-o", "rw", "-t", "fuse.tetherfs"][..],
            &["mount.fuse.tetherfs", "s3://b", "/m", "-o", "rw"][..],
            &["tetherfs", "s3://b", "/m", "-o", "rw"][..],
        ] {
            let mount = mount(words);
            assert_eq!(
                (mount.url.as_str(), mount.mount_options.as_slice()),
                ("s3://b", &["rw".to_owned()][..])
            );
            assert!(!mount.foreground);
        }
        let plain: Vec<OsString> = ["tetherfs", "status", "/m"].map(OsString::from).to_vec();
        assert_eq!(normalise(plain.clone()), plain);
    }

    #[test]
    fn mistakes_are_refused() {
        for words in [
            &["tetherfs"][..],
            &["tetherfs", "mount", "s3://b"],
            &["tetherfs", "mount", "s3://b", "/m", "--cach-size", "1"],
            &["tetherfs", "mount", "s3://b", "/m", "--commit", "never"],
            &["tetherfs", "unmount", "/m", "--no-wait", "--timeout", "5s"],
            &["tetherfs", "unmount", "/m", "--timeout", "soon"],
            &["tetherfs", "uploads", "discard", "xyz"],
            &["tetherfs", "uploads", "discard"],
            &["tetherfs", "uploads", "retry"],
            &["tetherfs", "uploads", "retry", "--all", "2a"],
            &["tetherfs", "uploads", "resolve", "2a"],
            &["tetherfs", "uploads", "resolve", "2a", "--keep-both", "--overwrite"],
            &["tetherfs", "uploads", "wait", "--timeout", "soon"],
            &["tetherfs", "sync", "/m", "--timeout", "soon"],
            &["tetherfs", "fsck"],
            &["tetherfs", "fsck", "/s", "--cache-size", "1G"],
            &["tetherfs", "cache"],
            &["tetherfs", "cache", "warm"],
            &["tetherfs", "cache", "unpin"],
            &["tetherfs", "format"],
        ] {
            assert!(Arguments::try_parse_from(words).is_err(), "{words:?}");
        }
    }

    #[test]
    fn the_help_names_every_setting_with_its_default_and_every_exit_code() {
        let mut command = Arguments::command();
        let overview = command.render_long_help().to_string();
        for exit in Exit::ALL {
            assert!(overview.contains(exit.meaning()), "{exit:?}");
        }
        let mount = command.find_subcommand_mut("mount").unwrap().render_help().to_string();
        for spec in Setting::ALL.iter().map(|setting| setting.spec()) {
            assert!(mount.contains(&format!("--{}", spec.name)), "{}", spec.name);
            if let Some(default) = spec.default {
                assert!(mount.contains(&format!("[default: {default}]")), "{}", spec.name);
            }
        }
        assert!(!mount.contains(BEHIND) && mount.contains("/etc/fstab"));
    }
}
