//! rename of directories: everything below is copied, then the name changes, then the old keys go.
//!
//! Until the name changes, everything is under the old one, for reading too. Open files stay open and can be written to
//! all the while; what is written is committed under the new name, so a `close` below the directory waits for the move.
//! Other changes of names below either directory wait as well.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::fs::FileSystem;
use crate::fs::error::{Error, Result};
use crate::fs::file::Source;
use crate::fs::rename::Place;
use crate::fs::rename::turns::{Claim, Turn};
use crate::observe::task;
use crate::types::ObjectId;
use crate::write::{Tree, TreeMove, TreePhase};

impl FileSystem {
    /// Moves a directory, for which the caller has the turn. Goes on when nobody waits for it any more.
    pub(super) async fn rename_directory(
        self: &Arc<Self>,
        from: &Place,
        to: &Place,
        is_taken: bool,
        turn: Turn,
    ) -> Result<()> {
        let source = self.directory_prefix(from)?;
        let target = self.directory_prefix(to)?;
        if target.starts_with(&source) {
            return Err(Error::Invalid);
        }
        let onto_marker =
            is_taken && self.namespace.require_empty(to.parent, &to.name, Instant::now()).await?;
        self.namespace.keep_directory(from.parent, &from.name, Instant::now()).await?;
        let tree = self.writer.move_tree(&source, &target, onto_marker).await?;
        let (answer, answered) = oneshot::channel();
        task::spawn("move-directory", Arc::clone(self).carry_on(tree, turn, Some(answer)));
        answered.await.unwrap_or_else(|_| Err(Error::Io("the move of a directory was broken off".to_owned())))
    }

    /// Goes on with a directory's move that an earlier mount left.
    pub(crate) async fn resume_move(self: Arc<Self>, tree: Tree) {
        let TreeMove { source, target, .. } = tree.plan();
        let parents = [&source, &target].map(|prefix| parent_of(prefix).to_owned());
        let claim = Claim { trees: vec![source, target], ..Claim::on(parents.to_vec()) };
        let turn = self.turns.take(claim).await;
        self.carry_on(tree, turn, None).await;
    }

    /// Sees a move to its end. Who waits is told when all is done, or when the name has changed and the rest takes long.
    async fn carry_on(
        self: Arc<Self>,
        tree: Tree,
        _turn: Turn,
        mut waiting: Option<oneshot::Sender<Result<()>>>,
    ) {
        let mut result = Ok(());
        if tree.plan().phase == TreePhase::Copying {
            result = match tree.copy().await {
                Ok(()) => self.switch(&tree),
                Err(error) => Err(error.into()),
            };
        }
        let mut answer = move |result: Result<()>| {
            if let Some(waiting) = waiting.take() {
                // Whoever asked may have stopped waiting.
                waiting.send(result).ok();
            }
        };
        let phase = tree.plan().phase;
        if phase == TreePhase::Copying {
            // The mount ends, or the journal takes nothing; the next mount goes on.
            return answer(result);
        }
        {
            let mut finish = std::pin::pin!(tree.finish());
            if tokio::time::timeout(self.writer.close_timeout(), &mut finish).await.is_err() {
                answer(result.clone());
                finish.await;
            }
        }
        let TreeMove { source, target, .. } = tree.plan();
        match phase {
            TreePhase::Removing => self.namespace.forget_directory(&source, Instant::now()),
            TreePhase::Undoing | TreePhase::Copying => self.namespace.expire_directory(&target),
        }
        answer(result);
    }

    /// The directory has its new name: journal, tree, and everything that is open below it, at once.
    fn switch(&self, tree: &Tree) -> Result<()> {
        let _alone = self.switching.write().unwrap_or_else(PoisonError::into_inner);
        let plan: TreeMove = tree.switch()?;
        let renaming = |object: &ObjectId| plan.object(object);
        if let Err(why) =
            self.namespace.rename_directory(&plan.source, &plan.target, &renaming, Instant::now())
        {
            // Only what is remembered of the directory is lost by that; the bucket is asked again.
            log::warn!("The tree cannot follow the move of {}: {why}", plan.source);
        }
        self.files.carry_keys(|key| plan.key(key));
        for state in self.files.all() {
            let mut content = state.content();
            match &mut content.source {
                Source::Unknown => {}
                Source::Local(local) => {
                    local.file.carried(&plan);
                    local.base = None;
                }
                Source::Remote(object) => {
                    let before = object.id.clone();
                    if let Some(id) = plan.object(&before) {
                        let mut object = object.clone();
                        object.id = id;
                        self.pages.renamed(state.ino, &before, &object.id);
                        content.set_remote(object);
                    }
                }
            }
        }
        Ok(())
    }

    /// The prefix that a name has, or would have, as a directory.
    pub(super) fn directory_prefix(&self, place: &Place) -> Result<String> {
        Ok(self.namespace.child_prefix(place.parent, &place.name)?)
    }
}

/// The prefix of the directory that one is in.
fn parent_of(prefix: &str) -> &str {
    let name = prefix.strip_suffix('/').unwrap_or(prefix);
    name.rfind('/').map_or("", |slash| &prefix[..=slash])
}
