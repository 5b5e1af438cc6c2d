//! Moving all keys below a prefix: copied page by page, switched at once, removed in batches; gone on with after a crash.
//!
//! * From the beginning to the end nothing of a file below either prefix is committed: what programs write there
//!   meanwhile waits in staging, and goes to the new name.
//! * Every copy is pinned to the version that was listed, and is not made where something is. It is taken for done only
//!   by its answer, or by a look that shows that it is one.
//! * Before a key is removed, objects and copies are listed once more, side by side. What another client changed or put
//!   there meanwhile is no copy, or has none: it is not removed, and keeps its name.

mod walk;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::observe::task;
use crate::store::{self, CopyOptions, ErrorKind, MetadataDirective, Op, Precondition};
use crate::types::{Key, ObjectId, ObjectMeta};
use crate::write::context::killpoint::KillPoint;
use crate::write::context::{Command, Context};
use crate::write::file::stopped;
use crate::write::rename::tree::walk::Walk;
use crate::write::rename::{conflict, head, is_copy};
use crate::write::scheduler::pause;
use crate::write::upload::{FileId, Record, Renewed, TreeMove, TreePhase};
use crate::write::{Error, TreeStatus};

/// Copies of one directory under way at the same time; the limit of the store's requests counts too.
const COPIES_AT_ONCE: usize = 32;
/// Objects copied before that is noted, which is as many as a crash can leave in doubt.
const PAGE_OBJECTS: usize = 1000;
/// Versions of one object that are copied because other clients replace it again and again.
const VERSIONS_MAX: u32 = 8;

/// A directory's objects on their way to another prefix. While this lives, no file below either prefix is committed.
/// Dropped before its end it is gone on with by the next mount.
#[derive(Debug)]
pub struct Tree {
    context: Arc<Context>,
    id: u64,
    prefixes: [String; 2],
    /// When something was last achieved, in a move that somebody waits for.
    progress: Option<Mutex<Instant>>,
}

/// Begins a move, which survives power loss from now on.
pub async fn begin(context: &Arc<Context>, plan: TreeMove) -> Result<Tree, Error> {
    let id = context.book.next_id();
    let tree = Tree::new(context, id, &plan, Some(Mutex::new(Instant::now())));
    tree.still().await?;
    let TreeMove { source, target, onto_marker, .. } = plan;
    context.book.record(&Record::TreeIntended { id, source, target, onto_marker })?;
    if let Err(error) = tree.sync().await {
        tree.note_done();
        return Err(error);
    }
    context.kill.pass(KillPoint::AfterTreeIntent);
    Ok(tree)
}

/// The moves that an earlier process left.
pub fn left(context: &Arc<Context>) -> Vec<Tree> {
    let left = context.book.look(|ledger| ledger.trees.clone());
    left.iter().map(|(id, plan)| Tree::new(context, *id, plan, None)).collect()
}

/// Every move that is not at its end.
pub fn statuses(context: &Context) -> Vec<TreeStatus> {
    let status = |tree: &TreeMove| TreeStatus {
        source: tree.source.clone(),
        target: tree.target.clone(),
        phase: tree.phase,
        objects: tree.objects,
    };
    context.book.look(|ledger| ledger.trees.values().map(status).collect())
}

/// What became of an object that could not be copied just like that.
enum Looked {
    /// It is copied.
    Copied(ObjectId),
    /// It is not, and nothing is in the way.
    NotCopied,
    /// It is another version by now.
    Replaced(ObjectId),
    /// It is gone.
    Gone,
    /// Something else has the name it should get.
    Taken,
}

impl Tree {
    fn new(context: &Arc<Context>, id: u64, plan: &TreeMove, progress: Option<Mutex<Instant>>) -> Tree {
        let prefixes = [plan.source.clone(), plan.target.clone()];
        context.command(Command::MoveBegun);
        context.command(Command::Freeze { prefixes: prefixes.clone() });
        Tree { context: Arc::clone(context), id, prefixes, progress }
    }

    /// What is moved where, and how far it is.
    pub fn plan(&self) -> TreeMove {
        let [source, target] = &self.prefixes;
        let plan = self.context.book.look(|ledger| ledger.trees.get(&self.id).cloned());
        plan.unwrap_or_else(|| TreeMove::new(source, target, false))
    }

    /// Copies everything. [`Error::Staging`] with `ESHUTDOWN` when the next mount has to go on; after any other failure the
    /// move is given up, and [`Tree::finish`] takes back what was copied.
    pub async fn copy(&self) -> Result<(), Error> {
        let copied = tokio::select! {
            copied = self.copy_all() => copied,
            () = self.context.commands.closed() => return Err(stopped()),
        };
        if let Err(error) = &copied {
            let [source, target] = &self.prefixes;
            log::warn!("{source} cannot be moved to {target}, and stays: {error}");
            self.context.book.record(&Record::TreeGivenUp { id: self.id })?;
        }
        copied
    }

    /// The directory has its new name, from now on and for all files below it. Survives the death of this process.
    pub fn switch(&self) -> Result<TreeMove, Error> {
        self.context.book.record(&Record::TreeSwitched { id: self.id })?;
        let plan = self.plan();
        let files: Vec<_> = {
            let files = self.context.files.lock().expect("no holder of the lock panics");
            files.values().filter_map(std::sync::Weak::upgrade).collect()
        };
        files.iter().for_each(|file| file.carried(&plan));
        self.context.command(Command::Carried);
        Ok(plan)
    }

    /// Removes what is left under the old name, or, when the move was given up, under the new one. Goes on until that is
    /// done or the mount ends.
    pub async fn finish(&self) {
        let mut attempts = 0;
        if let Err(error) = self.sync().await {
            log::warn!("The journal is not synced: {error}");
        }
        self.context.kill.pass(KillPoint::AfterTreeSwitch);
        loop {
            let removed = tokio::select! {
                removed = self.remove_all() => removed,
                () = self.context.commands.closed() => return,
            };
            match removed {
                Ok(0) => {}
                Ok(left) => {
                    let [source, target] = &self.prefixes;
                    log::warn!(
                        "While {source} was moved to {target}, other clients changed {left} objects there; these keep \
                         their names"
                    );
                }
                Err(error) => {
                    attempts += 1;
                    log::warn!("What a directory's move leaves behind cannot be removed yet: {error}");
                    tokio::time::sleep(pause(attempts, None)).await;
                    continue;
                }
            }
            return self.note_done();
        }
    }

    /// Waits until no commit below either prefix is under way; none begins while this lives.
    async fn still(&self) -> Result<(), Error> {
        let is_below = |key: &Key| self.prefixes.iter().any(|prefix| key.as_str().starts_with(prefix));
        let below: Vec<FileId> = self.context.book.look(|ledger| {
            let below = ledger.files.iter().filter(|(_, entry)| is_below(&entry.upload.key));
            below.map(|(file, _)| *file).collect()
        });
        let waited = self.context.options.close_timeout;
        for file in below {
            let (reply, held) = oneshot::channel();
            self.context.command(Command::Hold { file, reply });
            match tokio::time::timeout(waited, held).await {
                // It need not be kept: the prefix is frozen.
                Ok(held) => drop(held.map_err(|_| stopped())?),
                Err(_) => {
                    let reason = "the answer to an upload below the directory is not known".to_owned();
                    return Err(Error::Timeout { waited, reason });
                }
            }
        }
        Ok(())
    }

    async fn copy_all(&self) -> Result<(), Error> {
        let plan = self.plan();
        if self.progress.is_none() {
            self.still().await?;
        }
        let mut walk = Walk::behind(&plan.source, plan.through.clone());
        loop {
            let (after, objects) = self.patiently(|| walk.clone().take(&self.context, PAGE_OBJECTS)).await?;
            walk = after;
            let Some(last) = objects.last() else { return Ok(()) };
            let (through, count) = (last.id.key.clone(), objects.len() as u64);
            // After a failure those under way are waited for: they must not arrive when the others have been taken back.
            let has_failed = AtomicBool::new(false);
            let copies = stream::iter(objects)
                .take_while(|_| std::future::ready(!has_failed.load(Ordering::Relaxed)))
                .map(|object: ObjectMeta| self.copy_one(&plan, object.id))
                .buffer_unordered(COPIES_AT_ONCE)
                .inspect_err(|_| has_failed.store(true, Ordering::Relaxed));
            let copied: Vec<Result<_, Error>> = copies.collect().await;
            let copied = copied.into_iter().collect::<Result<Vec<_>, Error>>()?;
            let renewed = copied.into_iter().flatten().collect();
            let record = Record::TreeCopied { id: self.id, through, objects: count, renewed };
            self.context.book.record(&record)?;
            self.context.kill.pass(KillPoint::AfterTreePage);
        }
    }

    /// Copies one object; says what its copy is called where that is another etag.
    async fn copy_one(
        &self,
        plan: &TreeMove,
        mut object: ObjectId,
    ) -> Result<Option<(String, Renewed)>, Error> {
        let mut versions = 1;
        let mut attempts = 0;
        let Some(target) = plan.key(&object.key) else { return Err(too_long(&object.key)) };
        // A marker has no content that could be lost.
        let is_marker = object.key.as_str() == plan.source;
        let precondition = if is_marker { Precondition::None } else { Precondition::Absent };
        let copy = loop {
            let options = CopyOptions {
                precondition: precondition.clone(),
                metadata: MetadataDirective::Keep,
                token: None,
            };
            let error = match self.context.store.copy(&object, &target, options).await {
                Ok(copy) => break copy.id,
                Err(error) => error,
            };
            let is_in_doubt = match error.kind {
                ErrorKind::Ambiguous
                | ErrorKind::Protocol
                | ErrorKind::Precondition
                | ErrorKind::NotFound => true,
                ErrorKind::Unavailable { .. } | ErrorKind::Integrity => false,
                ErrorKind::NoVolume
                | ErrorKind::UploadGone
                | ErrorKind::Denied
                | ErrorKind::TooLarge
                | ErrorKind::Refused
                | ErrorKind::Unsupported => return Err(Error::Store(error)),
            };
            if is_in_doubt {
                match self.patiently(|| self.look(&object, &target)).await? {
                    Looked::Copied(copy) => break copy,
                    Looked::Gone => return Ok(None),
                    Looked::Taken => return Err(conflict(&target)),
                    Looked::Replaced(newer) if versions < VERSIONS_MAX => {
                        versions += 1;
                        object = newer;
                        continue;
                    }
                    Looked::Replaced(_) | Looked::NotCopied => {}
                }
            }
            self.pause(&mut attempts, error).await?;
        };
        self.achieved();
        self.context.kill.pass(KillPoint::AfterTreeCopy);
        if copy.etag == object.etag {
            return Ok(None);
        }
        // Only the etag says that an answer is about these bytes; where it is another one, their number has to do.
        let there = self.patiently(|| head(&self.context, &target)).await?;
        if there.is_none_or(|there| there.id.size != object.size || there.id.etag != copy.etag) {
            return Err(conflict(&target));
        }
        let rest = object.key.as_str()[plan.source.len()..].to_owned();
        Ok(Some((rest, Renewed { from: object.etag, to: copy.etag })))
    }

    async fn look(&self, object: &ObjectId, target: &Key) -> Result<Looked, store::Error> {
        let there = head(&self.context, target).await?;
        Ok(match head(&self.context, &object.key).await? {
            None => Looked::Gone,
            Some(now) if now.id.etag != object.etag => Looked::Replaced(now.id),
            Some(now) => match there {
                None => Looked::NotCopied,
                Some(there) if is_copy(&there, &now) => Looked::Copied(there.id),
                Some(_) => Looked::Taken,
            },
        })
    }

    /// Removes everything under the one name that is under the other one too. Returns how many objects are not.
    async fn remove_all(&self) -> Result<u64, store::Error> {
        let plan = self.plan();
        let (doomed, kept) = match plan.phase {
            TreePhase::Removing => (&plan.source, &plan.target),
            TreePhase::Undoing | TreePhase::Copying => (&plan.target, &plan.source),
        };
        let (mut walk, mut twins) = (Walk::behind(doomed, None), Walk::behind(kept, None));
        let mut left = 0;
        loop {
            let (after, objects) = walk.take(&self.context, PAGE_OBJECTS).await?;
            walk = after;
            if objects.is_empty() {
                return Ok(left);
            }
            let mut removable = Vec::with_capacity(objects.len());
            for object in objects {
                if plan.phase != TreePhase::Removing && plan.onto_marker && object.id.key.as_str() == *doomed
                {
                    continue;
                }
                let rest = &object.id.key.as_str()[doomed.len()..];
                let twin = twins.find(&self.context, rest).await?;
                if self.is_kept_elsewhere(&plan, &object, twin).await? {
                    removable.push(object.id.key);
                } else {
                    left += 1;
                }
            }
            for result in self.context.store.delete_many(&removable).await? {
                match result {
                    Ok(()) => {}
                    Err(error) if error.kind == ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
            }
            self.context.kill.pass(KillPoint::AfterTreeRemoval);
        }
    }

    /// Whether an object is under its other name as well: as listed there, or, if the listing cannot tell, by a look.
    async fn is_kept_elsewhere(
        &self,
        plan: &TreeMove,
        object: &ObjectMeta,
        twin: Option<ObjectId>,
    ) -> Result<bool, store::Error> {
        let is_twin = |twin: &ObjectId| match plan.phase {
            TreePhase::Removing => plan.is_copy(twin, &object.id),
            TreePhase::Undoing | TreePhase::Copying => plan.is_copy(&object.id, twin),
        };
        if twin.as_ref().is_some_and(is_twin) {
            return Ok(true);
        }
        let other = match plan.phase {
            TreePhase::Removing => plan.key(&object.id.key),
            TreePhase::Undoing | TreePhase::Copying => {
                let rest = &object.id.key.as_str()[plan.target.len()..];
                Key::new(&format!("{}{rest}", plan.source)).ok()
            }
        };
        let Some(other) = other else { return Ok(false) };
        let (here, there) = (head(&self.context, &object.id.key).await?, head(&self.context, &other).await?);
        Ok(here.zip(there).is_some_and(|(here, there)| here.id == object.id && is_copy(&there, &here)))
    }

    /// Asks until there is an answer, or there has been no progress for too long.
    async fn patiently<T, F>(&self, ask: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, store::Error>>,
    {
        let mut attempts = 0;
        loop {
            match ask().await {
                Ok(answer) => {
                    self.achieved();
                    return Ok(answer);
                }
                Err(error) => self.pause(&mut attempts, error).await?,
            }
        }
    }

    /// Waits a little after a failure that may pass. Fails when it will not, or when it is time to give up.
    async fn pause(&self, attempts: &mut u32, error: store::Error) -> Result<(), Error> {
        match error.kind {
            ErrorKind::Unavailable { .. }
            | ErrorKind::Integrity
            | ErrorKind::Ambiguous
            | ErrorKind::Protocol
            | ErrorKind::Precondition
            | ErrorKind::NotFound => {}
            ErrorKind::NoVolume
            | ErrorKind::UploadGone
            | ErrorKind::Denied
            | ErrorKind::TooLarge
            | ErrorKind::Refused
            | ErrorKind::Unsupported => return Err(Error::Store(error)),
        }
        let waited = self.context.options.close_timeout;
        if let Some(progress) = &self.progress
            && progress.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > waited
        {
            return Err(Error::Timeout { waited, reason: error.to_string() });
        }
        *attempts += 1;
        tokio::time::sleep(pause(*attempts, None)).await;
        Ok(())
    }

    fn achieved(&self) {
        if let Some(progress) = &self.progress {
            *progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }

    async fn sync(&self) -> Result<(), Error> {
        let context = Arc::clone(&self.context);
        let synced = task::spawn_blocking("sync", move || context.book.sync(context.book.position())).await;
        synced.map_err(|_| stopped()).and_then(|result| result)
    }

    fn note_done(&self) {
        if let Err(error) = self.context.book.record(&Record::TreeDone { id: self.id }) {
            // The next mount sees that there is nothing left to do.
            log::warn!("The end of a directory's move cannot be noted: {}", Error::from(error));
        }
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        self.context.command(Command::Thaw { prefixes: self.prefixes.clone() });
        self.context.command(Command::MoveEnded);
    }
}

fn too_long(key: &Key) -> Error {
    let detail = format!("{key} would have a longer name than an object can have");
    Error::Staging { errno: libc::ENAMETOOLONG, detail }
}

/// A key that cannot be told from others, and so not be moved.
fn unnamable(prefix: &str) -> store::Error {
    let detail = format!("below '{prefix}' are objects whose keys this mount cannot name");
    store::Error::of(Op::List, ErrorKind::Refused, detail)
}
