//! Exit codes, and errors on their way to the user.

use std::process::ExitCode;

use crate::config::ConfigError;
use crate::control::{ClientError, ErrorCode};
use crate::mount;
use crate::store::OpenError;

/// How a command ended. The numbers are for scripts and are never given another meaning.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It is done.
    Ok,
    /// It failed for a reason without a code of its own.
    Failure,
    /// The command line, a variable or a configuration file is wrong.
    Usage,
    /// The store cannot be reached or refuses.
    Store,
    /// The mountpoint cannot be used, is busy, or has no tetherfs mount on it.
    Mountpoint,
    /// The state directory is in use by another mount.
    StateInUse,
    /// Not everything is in the bucket yet.
    UploadsPending,
}

impl Exit {
    /// All of them, by number.
    pub const ALL: [Exit; 7] = [
        Exit::Ok,
        Exit::Failure,
        Exit::Usage,
        Exit::Store,
        Exit::Mountpoint,
        Exit::StateInUse,
        Exit::UploadsPending,
    ];

    /// The number.
    pub fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Store => 3,
            Exit::Mountpoint => 4,
            Exit::StateInUse => 5,
            Exit::UploadsPending => 6,
        }
    }

    /// What it means, for the help.
    pub fn meaning(self) -> &'static str {
        match self {
            Exit::Ok => "done; after unmount, sync and uploads wait: everything is in the bucket",
            Exit::Failure => "failed",
            Exit::Usage => "wrong command line, environment variable or configuration file",
            Exit::Store => "the store cannot be reached or refuses",
            Exit::Mountpoint => "the mountpoint cannot be used, is busy, or has no tetherfs on it",
            Exit::StateInUse => "the state directory is in use by another mount",
            Exit::UploadsPending => "uploads are pending; after unmount they go on at the next mount",
        }
    }

    /// The exit of this number; `Failure` for a number that is none.
    pub fn from_code(code: u8) -> Exit {
        Exit::ALL.into_iter().find(|exit| exit.code() == code).unwrap_or(Exit::Failure)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a command failed, ready to be shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What and why, without `tetherfs:` before it.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without advice.
    pub fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), hint: None }
    }

    /// The same with advice.
    pub fn hint(self, hint: impl Into<String>) -> Failure {
        Failure { hint: Some(hint.into()), ..self }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::new(Exit::Usage, error.to_string()).hint(error.hint())
    }
}

impl From<mount::MountpointError> for Failure {
    fn from(error: mount::MountpointError) -> Failure {
        mount::Error::from(error).into()
    }
}

impl From<mount::Error> for Failure {
    fn from(error: mount::Error) -> Failure {
        let exit = match &error {
            mount::Error::Mountpoint(_) | mount::Error::Fuse(_) => Exit::Mountpoint,
            mount::Error::Lease(crate::durable::LeaseError::Held { .. }) | mount::Error::Control(_) => {
                Exit::StateInUse
            }
            mount::Error::OtherVolume { .. } | mount::Error::Store(OpenError::Options(_)) => Exit::Usage,
            mount::Error::Store(OpenError::Credentials(_) | OpenError::Store { .. }) => Exit::Store,
            mount::Error::Lease(crate::durable::LeaseError::Io { .. })
            | mount::Error::Directory { .. }
            | mount::Error::Cache(_)
            | mount::Error::Write(_)
            | mount::Error::Process(_)
            | mount::Error::Interrupted(_) => Exit::Failure,
        };
        Failure { exit, hint: error.hint(), message: error.to_string() }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        if let ClientError::Refused { code: ErrorCode::BadRequest, .. } = &error {
            return Failure::new(Exit::Failure, "this mount was started by a release without this command")
                .hint("unmount it and mount it again");
        }
        let (exit, hint) = match &error {
            ClientError::NotRunning { .. } => {
                (Exit::Mountpoint, Some("'tetherfs status' lists the mounts of this user"))
            }
            ClientError::Silent(_) => (Exit::Failure, Some("look into its log, or end it with kill")),
            ClientError::Refused { code: ErrorCode::Busy, .. } => (Exit::Mountpoint, None),
            ClientError::Refused {
                code: ErrorCode::BadRequest | ErrorCode::Version | ErrorCode::Failed,
                ..
            }
            | ClientError::Strange => (Exit::Failure, None),
        };
        Failure { exit, hint: hint.map(str::to_owned), message: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::LeaseError;
    use crate::store::{Error as StoreError, ErrorKind, Op};

    #[test]
    fn the_numbers_stay() {
        let codes: Vec<u8> = Exit::ALL.into_iter().map(Exit::code).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 6]);
        for exit in Exit::ALL {
            assert_eq!(Exit::from_code(exit.code()), exit);
        }
        assert_eq!(Exit::from_code(137), Exit::Failure);
    }

    #[test]
    fn each_kind_of_failure_has_its_code() {
        let denied = StoreError::of(Op::Probe, ErrorKind::Denied, "no");
        let held = LeaseError::Held { directory: "/s".into(), holder: "7".to_owned() };
        let broken = LeaseError::Io { directory: "/s".into(), source: std::io::Error::other("x") };
        let store = OpenError::Store { volume: "v".to_owned(), source: denied, advice: "a".to_owned() };
        let busy = ClientError::Refused { code: ErrorCode::Busy, message: "busy".to_owned() };
        for (failure, exit) in [
            (Failure::from(mount::Error::Lease(held)), Exit::StateInUse),
            (mount::Error::Lease(broken).into(), Exit::Failure),
            (mount::Error::Store(store).into(), Exit::Store),
            (mount::Error::Store(OpenError::Credentials("c".to_owned())).into(), Exit::Store),
            (mount::Error::Store(OpenError::Options("o".to_owned())).into(), Exit::Usage),
            (mount::MountpointError::NotEmpty("/m".into()).into(), Exit::Mountpoint),
            (busy.into(), Exit::Mountpoint),
            (ClientError::NotRunning { mountpoint: "/m".into() }.into(), Exit::Mountpoint),
            (ClientError::Strange.into(), Exit::Failure),
        ] {
            assert_eq!(failure.exit, exit, "{}", failure.message);
        }
    }
}
