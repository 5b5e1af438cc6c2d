//! Places where a test can have this process killed, to see what the next mount makes of it.
//!
//! The process ends by SIGKILL to itself, exactly as an outside `kill -9` at that moment would end it. Without a
//! [`KillAt`] in the options a point costs one comparison.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident => $name:literal,)*) => {
        /// A place in the write path.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum KillPoint {
            $($(#[$doc])* $point,)*
        }

        impl KillPoint {
            /// All of them.
            pub const ALL: &'static [KillPoint] = &[$(KillPoint::$point,)*];

            /// Its name in options.
            pub fn name(self) -> &'static str {
                match self {
                    $(KillPoint::$point => $name,)*
                }
            }
        }
    };
}

points! {
    /// A content is sealed and journaled.
    AfterSeal => "after-seal",
    /// An upload is about to be begun.
    BeforeBegin => "before-begin",
    /// The server has begun an upload that the journal does not know.
    AfterBeginBeforeJournal => "after-begin-before-journal",
    /// The journal knows the upload.
    AfterBegin => "after-begin",
    /// The server has a part that the journal does not know.
    AfterPartBeforeJournal => "after-part-before-journal",
    /// The journal knows the part.
    AfterPart => "after-part",
    /// A commit is about to be sent.
    BeforeComplete => "before-complete",
    /// The object is there, the journal does not know it.
    AfterCompleteBeforeJournal => "after-complete-before-journal",
    /// The journal knows the object.
    AfterComplete => "after-complete",
    /// A move is intended.
    AfterRenameIntent => "after-rename-intent",
    /// The copy of a move is there, the journal does not know it.
    AfterRenameCopyBeforeJournal => "after-rename-copy-before-journal",
    /// The journal knows the copy.
    AfterRenameCopy => "after-rename-copy",
    /// The source of a move is removed, the journal does not know it.
    AfterRenameDelete => "after-rename-delete",
    /// A directory's move is intended.
    AfterTreeIntent => "after-tree-intent",
    /// One object of a directory is copied, the journal does not know it.
    AfterTreeCopy => "after-tree-copy",
    /// The journal knows that a page of objects is copied.
    AfterTreePage => "after-tree-page",
    /// The journal knows that the directory has its new name, or that it keeps the old one.
    AfterTreeSwitch => "after-tree-switch",
    /// A batch of what is left behind is removed.
    AfterTreeRemoval => "after-tree-removal",
}

/// At which passage of which point to end the process. For tests. Written `NAME` or `NAME:N`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KillAt {
    /// The point.
    pub point: KillPoint,
    /// The passage, counted from 1.
    pub passage: u32,
}

/// A text that names no point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KillAtError {
    text: String,
}

impl fmt::Display for KillAtError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no kill point: write NAME or NAME:N with NAME one of", self.text)?;
        KillPoint::ALL.iter().try_for_each(|point| write!(f, " {}", point.name()))
    }
}

impl std::error::Error for KillAtError {}

impl FromStr for KillAt {
    type Err = KillAtError;

    fn from_str(text: &str) -> Result<KillAt, KillAtError> {
        let wrong = || KillAtError { text: text.to_owned() };
        let (name, passage) = match text.split_once(':') {
            Some((name, passage)) => (name, passage.parse().ok().filter(|n| *n > 0).ok_or_else(wrong)?),
            None => (text, 1),
        };
        let point = KillPoint::ALL.iter().find(|point| point.name() == name).ok_or_else(wrong)?;
        Ok(KillAt { point: *point, passage })
    }
}

/// Counts passages and acts on the one asked for.
#[derive(Debug)]
pub struct KillSwitch {
    at: Option<KillAt>,
    passed: AtomicU32,
}

impl KillSwitch {
    /// A switch for these options.
    pub fn new(at: Option<KillAt>) -> KillSwitch {
        KillSwitch { at, passed: AtomicU32::new(0) }
    }

    /// Says that a point has been reached.
    pub fn pass(&self, point: KillPoint) {
        let Some(at) = self.at.filter(|at| at.point == point) else { return };
        if self.passed.fetch_add(1, Ordering::Relaxed) + 1 == at.passage {
            log::warn!("Ending this process at kill point {}", point.name());
            let sent =
                rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            unreachable!("a process can kill itself: {sent:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_parsed_by_name_and_passage() {
        assert_eq!("after-part:3".parse(), Ok(KillAt { point: KillPoint::AfterPart, passage: 3 }));
        assert_eq!("after-seal".parse(), Ok(KillAt { point: KillPoint::AfterSeal, passage: 1 }));
        for text in ["", "after", "after-part:0", "after-part:x"] {
            let error = text.parse::<KillAt>().unwrap_err().to_string();
            assert!(error.contains("after-rename-copy"), "{error}");
        }
        let switch = KillSwitch::new("after-part:2".parse().ok());
        switch.pass(KillPoint::AfterSeal);
        switch.pass(KillPoint::AfterPart);
    }
}
