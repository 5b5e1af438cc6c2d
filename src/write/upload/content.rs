//! One sealed content of a file: which bytes are staged, which show the base through, and what changed since the last.

use serde::{Deserialize, Serialize};

use crate::types::{Attributes, ByteRange, Key, ObjectId, RangeSet, SessionId, Sha256, UploadToken};
use crate::write::extents::Extent;
use crate::write::upload::plan::Shape;

/// The object whose bytes show through where nothing is staged.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Base {
    /// The version.
    pub object: ObjectId,
    /// Only bytes before this offset show through: a cut hides the rest, also when the file grows again.
    pub valid: u64,
}

impl Base {
    /// All of an object.
    pub fn whole(object: ObjectId) -> Base {
        Base { valid: object.size, object }
    }

    /// With everything from `end` on hidden.
    pub fn cut(self, end: u64) -> Base {
        Base { valid: self.valid.min(end), ..self }
    }
}

/// What was changed since an earlier sealed content.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// The earlier content's session.
    pub session: SessionId,
    /// Bytes written since.
    pub dirty: RangeSet,
    /// The smallest size the file had since: bytes from here on are not the earlier content's.
    pub valid: u64,
}

impl Change {
    /// This change after an earlier one, as one change.
    fn after(&self, earlier: &Change) -> Change {
        Change {
            session: earlier.session,
            dirty: union(&earlier.dirty, &self.dirty),
            valid: self.valid.min(earlier.valid),
        }
    }
}

/// The content of a file at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Content {
    /// The session that commits it.
    pub session: SessionId,
    /// Length in bytes.
    pub size: u64,
    /// Where the staged bytes are.
    pub extents: Vec<Extent>,
    /// What shows through where nothing is staged.
    pub base: Option<Base>,
    /// Bytes written since the base; the staged ones may be more.
    pub dirty: RangeSet,
    /// What changed since the content sealed before it, by which it goes on from that one's object.
    pub change: Option<Change>,
    /// Attributes to commit with it.
    pub attributes: Attributes,
}

impl Content {
    /// What plans are made from. `copies` is whether the base may be copied on the server.
    pub fn shape(&self, copies: bool) -> Shape<'_> {
        Shape {
            size: self.size,
            base_valid: self.base.as_ref().map_or(0, |base| base.valid.min(self.size)),
            base_bytes: self.base.as_ref().map_or(0, |base| base.object.size),
            dirty: &self.dirty,
            copies,
        }
    }

    /// Whether it has the bytes that are under its key already, and only its attributes are new.
    pub fn is_base_with_attributes(&self, key: &Key) -> bool {
        let is_whole =
            |base: &Base| base.object.key == *key && base.valid == self.size && base.object.size == self.size;
        self.base.as_ref().is_some_and(is_whole) && self.dirty.is_empty() && self.extents.is_empty()
    }

    /// The mark of a request that makes the whole content an object. It is the same each time, so that the object is known
    /// to be this content also where power was lost with the note that the request was made. `None` where that is not
    /// certain, for some checksum is not known.
    pub fn token(&self) -> Option<UploadToken> {
        self.extents.iter().all(|extent| extent.crc.is_some()).then_some(())?;
        let text = serde_json::to_vec(self).ok()?;
        let digest = Sha256::of(&text);
        let bits = digest.0.first_chunk().expect("a digest is longer than 128 bits");
        Some(UploadToken::from_bits(u128::from_be_bytes(*bits)))
    }

    /// This content over the object that the content before it has become.
    pub fn over_object(mut self, object: &ObjectId) -> Content {
        if let Some(change) = self.change.take() {
            self.base = Some(Base::whole(object.clone()).cut(change.valid));
            self.dirty = change.dirty;
        }
        self.within_size()
    }

    /// This content over the base of the content before it, which has not become an object.
    pub fn over_base_of(mut self, earlier: &Content) -> Content {
        if let Some(change) = &self.change {
            self.base = earlier.base.clone().map(|base| base.cut(change.valid));
            self.dirty = union(&earlier.dirty, &change.dirty);
        }
        self.within_size()
    }

    /// This content in place of the one before it, whose own change it takes over.
    pub fn replacing(mut self, earlier: &Content) -> Content {
        self.change = match (&earlier.change, &self.change) {
            (Some(first), Some(second)) => Some(second.after(first)),
            (None, _) | (_, None) => None,
        };
        self
    }

    fn within_size(mut self) -> Content {
        self.dirty.remove(ByteRange::new(self.size, u64::MAX));
        self
    }
}

/// The bytes in either set.
pub fn union(one: &RangeSet, other: &RangeSet) -> RangeSet {
    one.iter().chain(other.iter()).collect()
}
