//! A name that is not there, learnt from a listing: it is mostly asked for by somebody who is about to make it, and others
//! beside it. Where a directory was known completely and is short, one LIST of it says the same of all of them.

use std::sync::MutexGuard;
use std::time::Instant;

use crate::namespace::freshness::Freshness;
use crate::namespace::listing::fetch::Source;
use crate::namespace::names::Name;
use crate::namespace::tree::{Answer, Tree};
use crate::namespace::{Error, Namespace};
use crate::types::Ino;

/// Entries that a directory has at most that is listed for one name: a page of a store has as many.
const LISTED_ENTRIES_MAX: usize = 1000;

impl Namespace {
    /// Lists a directory anew of which everything was known not long ago, if that is one page at most. The tree when the
    /// name is not there; what is there is to be asked itself, because a listing does not tell its metadata.
    pub(in crate::namespace) async fn denied_by_listing(
        &self,
        parent: Ino,
        name: &Name,
        now: Instant,
    ) -> Result<Option<MutexGuard<'_, Tree>>, Error> {
        let source = {
            let mut tree = self.tree();
            tree.sweep(now);
            let folder = tree.folder(parent)?;
            let was_complete = matches!(folder.listed, Freshness::Until(_));
            let is_short = folder.entries.len() < LISTED_ENTRIES_MAX;
            // Such a name is told by another one, or only in part.
            let is_plain = !name.is_beside_directory() && name.stem().is_none();
            let is_news = !matches!(tree.last_known(parent, name)?, Answer::Present(_));
            let is_believed = self.fresh_since(now).holds(now);
            if !(was_complete && is_short && is_plain && is_news && is_believed) {
                return Ok(None);
            }
            Source { prefix: tree.prefix(parent)?, continuation: None }
        };
        let fetched = match self.fetch(parent, source.clone(), now).await {
            // It was moved meanwhile.
            Err(Error::Stale) => return Ok(None),
            fetched => fetched?,
        };
        self.note_unnamable(fetched.news.skipped, &source.prefix);
        let mut tree = self.tree();
        match fetched.next {
            None => tree.fold_end(parent, fetched.asked, fetched.news.doubtful)?,
            Some(_) => {
                // Others have filled it: not again before somebody has listed it to its end.
                if let Some(folder) = tree.folder_mut(parent)
                    && !folder.listed.holds(now)
                {
                    folder.listed = Freshness::Stale;
                }
            }
        }
        let is_absent = tree.answer(parent, name, now)? == Answer::Absent;
        Ok(is_absent.then_some(tree))
    }
}
