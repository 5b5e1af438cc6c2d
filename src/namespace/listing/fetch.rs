//! Pages of a listing on their way: asked for, folded into the tree as they arrive, perhaps before anybody waits for them.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::task::JoinHandle;

use crate::namespace::fold::{Asked, IsFirst, PageNews};
use crate::namespace::freshness::Freshness;
use crate::namespace::names::Name;
use crate::namespace::refresh::Asking;
use crate::namespace::tree::{Answer, Tree};
use crate::namespace::{Attr, Error, Namespace, Options, lock};
use crate::observe::task;
use crate::store::{self, ErrorKind, ListOptions, ObjectStore, Op};
use crate::types::Ino;

/// Where a page of the store comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// What all its keys begin with.
    pub prefix: String,
    /// Where it begins; at the beginning when `None`.
    pub continuation: Option<String>,
}

/// A page that is in the tree by now.
#[derive(Debug)]
pub struct Fetched {
    /// What it shows, as it was known then.
    pub entries: Vec<(Name, Attr)>,
    /// What else it says.
    pub news: PageNews,
    /// When it was asked for.
    pub asked: Asked,
    /// Where the next one comes from.
    pub next: Option<Source>,
}

/// A page that was asked for before anybody waited for it. Given up when dropped.
#[derive(Debug)]
pub struct Ahead {
    /// Which.
    pub source: Source,
    task: JoinHandle<Result<Fetched, Error>>,
}

/// A request for a page, with all that it needs.
struct Fetch {
    store: Arc<dyn ObjectStore>,
    tree: Arc<Mutex<Tree>>,
    options: Options,
    directory: Ino,
    source: Source,
    fresh: Freshness,
}

impl Namespace {
    /// Asks for a page.
    pub(super) async fn fetch(&self, directory: Ino, source: Source, now: Instant) -> Result<Fetched, Error> {
        self.page_of(directory, source, now).run().await
    }

    /// Asks for a page that will be wanted soon.
    pub(super) fn fetch_ahead(&self, directory: Ino, source: Source, now: Instant) -> Ahead {
        let fetch = self.page_of(directory, source.clone(), now);
        Ahead { source, task: task::spawn("list-ahead", fetch.run()) }
    }

    fn page_of(&self, directory: Ino, source: Source, now: Instant) -> Fetch {
        let (store, tree) = (Arc::clone(&self.store), Arc::clone(&self.tree));
        Fetch { store, tree, options: self.options.clone(), directory, source, fresh: self.fresh_since(now) }
    }
}

impl Ahead {
    /// The page. `None` when it could not be had; it is to be asked for again then.
    pub async fn arrived(mut self) -> Option<Fetched> {
        match (&mut self.task).await {
            Ok(Ok(fetched)) => Some(fetched),
            Ok(Err(error)) => {
                log::debug!("A page of a listing did not come ahead of time: {error}");
                None
            }
            Err(_) => None,
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fetch {
    async fn run(self) -> Result<Fetched, Error> {
        let Source { prefix, continuation } = self.source;
        let asking = Asking::begin(&self.tree, &mut lock(&self.tree));
        let options = ListOptions {
            prefix: prefix.clone(),
            by_directory: true,
            continuation: continuation.clone(),
            ..ListOptions::default()
        };
        let mut page = self.store.list(options).await?;
        let next = page.next.take();
        if next.is_some() && next == continuation {
            let detail = "a page of a listing names itself as the next one";
            return Err(store::Error::of(Op::List, ErrorKind::Protocol, detail).into());
        }
        let mut tree = lock(&self.tree);
        let asked = Asked { stamp: asking.answered(&mut tree), fresh: self.fresh };
        if tree.prefix(self.directory)? != prefix {
            // It was moved: this page is about keys that are no longer its own.
            return Err(Error::Stale);
        }
        let is_first = if continuation.is_none() { IsFirst::Yes } else { IsFirst::No };
        let mut news = tree.fold_page(self.directory, page, asked, is_first)?;
        let mut entries = Vec::with_capacity(news.names.len());
        for name in std::mem::take(&mut news.names) {
            if let Answer::Present(ino) = tree.last_known(self.directory, &name)? {
                entries.push((name, tree.inode(ino)?.attr(&self.options)));
            }
        }
        let next = next.map(|next| Source { prefix, continuation: Some(next) });
        Ok(Fetched { entries, news, asked, next })
    }
}
