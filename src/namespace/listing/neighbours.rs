//! The files around a file: for those who guess what will be read next.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use crate::namespace::fold::{Asked, News};
use crate::namespace::freshness::Freshness;
use crate::namespace::inode::{Body, Place, Residence, Stamp};
use crate::namespace::names::Name;
use crate::namespace::tree::Tree;
use crate::namespace::{Namespace, lock};
use crate::types::{Ino, ObjectId, ObjectMeta};

/// An order in which programs go through a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// By name, as a listing shows them.
    Names,
    /// By inode number, as `cp -r` sorts them.
    Numbers,
}

/// A file next to another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// Its inode.
    pub ino: Ino,
    /// What it was last known to be.
    pub object: ObjectId,
}

/// A look at a file's object that somebody else takes, by asking for its bytes. Dropped without an answer it was given up.
#[derive(Debug)]
pub struct Look {
    tree: Arc<Mutex<Tree>>,
    stamp: Option<Stamp>,
    parent: Ino,
    name: Name,
    fresh: Freshness,
}

impl Namespace {
    /// The directory that a file is in. `None` when it has no name, or is not known.
    pub fn directory_of(&self, ino: Ino) -> Option<Ino> {
        place_of(&self.tree(), ino).map(|(parent, _)| parent)
    }

    /// The files behind `ino` in its directory, in this order, as last known: at most `files_max`, and only those without
    /// local changes. No request.
    pub fn files_behind(&self, ino: Ino, order: Order, files_max: usize) -> Vec<Neighbour> {
        let tree = self.tree();
        let Some((parent, name)) = place_of(&tree, ino) else {
            return Vec::new();
        };
        let Ok(folder) = tree.folder(parent) else {
            return Vec::new();
        };
        let file = |child: Ino| match &tree.inode(child).ok()?.body {
            Body::File(Residence::Remote(seen)) if !seen.is_symlink() => {
                Some(Neighbour { ino: child, object: seen.meta.id.clone() })
            }
            Body::File(Residence::Remote(_) | Residence::Local { .. }) | Body::Directory(_) => None,
        };
        match order {
            Order::Names => {
                folder.children_behind(&name).filter_map(|(_, child)| file(child)).take(files_max).collect()
            }
            Order::Numbers => {
                let mut behind: Vec<Ino> =
                    folder.children().map(|(_, child)| child).filter(|&child| child > ino).collect();
                behind.sort_unstable();
                behind.into_iter().filter_map(file).take(files_max).collect()
            }
        }
    }

    /// Notes that a file's object is asked for now. `None` when the file has no name, or is not known.
    pub fn look(&self, ino: Ino, now: Instant) -> Option<Look> {
        let mut tree = self.tree();
        let (parent, name) = place_of(&tree, ino)?;
        let stamp = Some(tree.ask());
        Some(Look { tree: Arc::clone(&self.tree), stamp, parent, name, fresh: self.fresh_since(now) })
    }
}

impl Look {
    /// The object is there, and this is what the store told of it.
    pub fn found(mut self, mut object: ObjectMeta) {
        // Attributes stay `None` only where nobody asked the object itself.
        object.attributes.get_or_insert_default();
        let mut tree = lock(&self.tree);
        let Some(stamp) = self.stamp.take() else {
            return;
        };
        tree.answered(stamp);
        let asked = Asked { stamp, fresh: self.fresh };
        if let Err(why) = tree.fold(self.parent, &self.name, asked, News::File(object)) {
            log::debug!("A look at a file is not noted: {why}");
        }
    }
}

impl Drop for Look {
    fn drop(&mut self) {
        if let Some(stamp) = self.stamp.take() {
            lock(&self.tree).answered(stamp);
        }
    }
}

fn place_of(tree: &Tree, ino: Ino) -> Option<(Ino, Name)> {
    match &tree.inode(ino).ok()?.place {
        Place::Under { parent, name } => Some((*parent, name.clone())),
        Place::Root | Place::Removed | Place::Vanished => None,
    }
}
