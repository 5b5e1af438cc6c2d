//! What is known is no longer believed, at the user's word (pure).

use crate::namespace::edits::Tree;
use crate::namespace::freshness::Freshness;
use crate::namespace::inode::{Body, Entry};
use crate::namespace::names::Name;
use crate::types::Ino;

/// A name that is to be asked for anew, for those who remember more of it than the tree.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Doubted {
    /// The directory.
    pub parent: Ino,
    /// The name, as it is shown.
    pub name: String,
    /// What was last known to be there.
    pub ino: Option<Ino>,
}

/// How far doubt reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// This name.
    Name,
    /// And all that is known below it.
    Below,
}

impl Tree {
    /// What is known of the name at a path is believed no more; local changes stay. Of the root's own name nothing is.
    pub fn doubt(&mut self, path: &[Name], reach: Reach) -> Vec<Doubted> {
        let mut doubted = Vec::new();
        let Some((name, above)) = path.split_last() else {
            self.doubt_directory(Ino::ROOT, reach, &mut doubted);
            return doubted;
        };
        // A directory that is not known has nothing that could be doubted, but its own name.
        for (depth, part) in above.iter().enumerate() {
            if !matches!(self.known_directory(&path[..=depth]), Ok(Some(_))) {
                if let Ok(Some(parent)) = self.known_directory(&above[..depth]) {
                    self.doubt_name(parent, part, Reach::Name, &mut doubted);
                }
                return doubted;
            }
        }
        if let Ok(Some(parent)) = self.known_directory(above) {
            self.doubt_name(parent, name, reach, &mut doubted);
        }
        self.check();
        doubted
    }

    fn doubt_name(&mut self, parent: Ino, name: &Name, reach: Reach, doubted: &mut Vec<Doubted>) {
        let ino = match self.entry(parent, name) {
            Some(Entry::Present(ino)) => Some(*ino),
            Some(Entry::Absent { .. }) | None => None,
        };
        match ino {
            Some(ino) => self.doubt_directory(ino, reach, doubted),
            None => self.clear_absence(parent, name),
        }
        if let Some(folder) = self.folder_mut(parent) {
            // A complete listing would answer for the name.
            folder.listed = Freshness::Stale;
        }
        doubted.push(Doubted { parent, name: name.as_str().to_owned(), ino });
    }

    /// An inode, and with [`Reach::Below`] everything below it if it is a directory.
    fn doubt_directory(&mut self, ino: Ino, reach: Reach, doubted: &mut Vec<Doubted>) {
        self.expire(ino);
        let names: Vec<Name> = match (reach, self.inode(ino).map(|inode| &inode.body)) {
            (Reach::Below, Ok(Body::Directory(folder))) => folder.entries.keys().cloned().collect(),
            (Reach::Name | Reach::Below, _) => Vec::new(),
        };
        for name in names {
            self.doubt_name(ino, &name, reach, doubted);
        }
    }
}
