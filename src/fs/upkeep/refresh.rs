//! Names that are asked for anew, at the user's word.

use crate::fs::FileSystem;
use crate::fs::error::Result;
use crate::namespace::Reach;

impl FileSystem {
    /// What is known of these paths (as in [`crate::fs::upkeep::Work`]), and with `below` of everything below them, is
    /// forgotten, and the kernel told. The next look asks the bucket. Paths need not exist.
    pub fn refresh(&self, paths: &[String], below: bool) -> Result<()> {
        let reach = if below { Reach::Below } else { Reach::Name };
        for path in paths {
            for doubted in self.namespace.doubt(path, reach)? {
                let Some(invalidator) = self.invalidator.get() else { continue };
                if let Some(ino) = doubted.ino {
                    invalidator.attributes_changed(ino);
                }
                invalidator.name_changed(doubted.parent, &doubted.name);
            }
        }
        Ok(())
    }
}
