//! What is said over the control socket about the cache of a mount.
//!
//! A request is `{"version":1,"command":"cache","do":"report"}`, an answer `{"answer":"cache","cache":"report",...}`. What
//! may take long is a job: begun by one request, asked about by others, each answered soon.

use serde::{Deserialize, Serialize};

use crate::control::Answer;
use crate::fs::upkeep::{CacheNumbers, JobId, JobView, Unpinned, Work};

/// What a client can want of the cache.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum CacheCommand {
    /// The cache in numbers. Answered with [`CacheAnswer::Report`].
    Report,
    /// Everything that is pinned. Answered with [`CacheAnswer::Pins`].
    Pins,
    /// Take pins back: those of paths, which need not exist, and of what is below them. Answered with
    /// [`CacheAnswer::Unpinned`].
    Unpin {
        /// As in [`Work`].
        paths: Vec<String>,
    },
    /// Begin some work. Answered with [`CacheAnswer::Started`].
    Start {
        /// What is to be done.
        #[serde(flatten)]
        work: Work,
    },
    /// Answered with [`CacheAnswer::Job`] when the job has ended, at the latest after `wait_ms`. A job that nobody asks
    /// about for a minute is cancelled; how it ended is told once.
    Ask {
        /// Which.
        job: JobId,
        /// Milliseconds; the daemon shortens long waits.
        wait_ms: u64,
    },
    /// End a job; what it has done stays. Answered with [`Answer::Done`].
    Cancel {
        /// Which.
        job: JobId,
    },
}

/// What the daemon says about the cache.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "cache", rename_all = "kebab-case")]
pub enum CacheAnswer {
    /// To [`CacheCommand::Report`].
    Report(CacheNumbers),
    /// To [`CacheCommand::Pins`].
    Pins {
        /// Files by their path in the mount, directories with a slash at the end.
        pins: Vec<String>,
    },
    /// To [`CacheCommand::Unpin`].
    Unpinned(Unpinned),
    /// To [`CacheCommand::Start`].
    Started {
        /// To ask about it.
        id: JobId,
    },
    /// To [`CacheCommand::Ask`].
    Job(JobView),
}

impl From<CacheAnswer> for Answer {
    fn from(answer: CacheAnswer) -> Answer {
        Answer::Cache(Box::new(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Command, Request};
    use crate::fs::upkeep::{Outcome, Progress, PurgeReport};

    #[test]
    fn lines_are_what_the_header_says() {
        let jobs = JobId(3);
        for (line, command) in [
            (r#"{"version":1,"command":"cache","do":"report"}"#, CacheCommand::Report),
            (
                r#"{"version":1,"command":"cache","do":"start","work":"warm","paths":["a"]}"#,
                CacheCommand::Start { work: Work::Warm { paths: vec!["a".to_owned()] } },
            ),
            (
                r#"{"version":1,"command":"cache","do":"ask","job":3,"wait_ms":5}"#,
                CacheCommand::Ask { job: jobs, wait_ms: 5 },
            ),
            (r#"{"version":1,"command":"cache","do":"cancel","job":3}"#, CacheCommand::Cancel { job: jobs }),
        ] {
            let request = Request { version: 1, command: Command::Cache(command) };
            assert_eq!(serde_json::to_string(&request).unwrap(), line);
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        }
        let outcome = Outcome::Purged(PurgeReport::default());
        for view in [JobView::Done { outcome }, JobView::Running(Progress::default()), JobView::Cancelled] {
            let answer = Answer::from(CacheAnswer::Job(view));
            let line = serde_json::to_string(&answer).unwrap();
            assert!(line.starts_with(r#"{"answer":"cache","cache":"job","job":""#), "{line}");
            assert_eq!(serde_json::from_str::<Answer>(&line).unwrap(), answer);
        }
    }
}
