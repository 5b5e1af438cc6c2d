//! All objects below a prefix, in the order of the store, page by page.

use std::collections::VecDeque;

use crate::store::{self, ListOptions};
use crate::types::{Key, ObjectId, ObjectMeta};
use crate::write::context::Context;
use crate::write::rename::tree::unnamable;

/// Pages without an entry that are passed over at once: a server may send some.
const EMPTY_PAGES_MAX: u32 = 64;

/// How far a walk is. A copy of it can go the same way again.
#[derive(Clone, Debug)]
pub struct Walk {
    prefix: String,
    behind: Option<Key>,
    ahead: VecDeque<ObjectMeta>,
    next: Next,
}

#[derive(Clone, Debug)]
enum Next {
    First,
    Page(String),
    End,
}

impl Walk {
    /// From the first object below a prefix, or from the first behind a key.
    pub fn behind(prefix: &str, key: Option<Key>) -> Walk {
        Walk { prefix: prefix.to_owned(), behind: key, ahead: VecDeque::new(), next: Next::First }
    }

    /// The next objects, `count` unless the end is near, and where the walk is then. None at the end.
    pub async fn take(
        mut self,
        context: &Context,
        count: usize,
    ) -> Result<(Walk, Vec<ObjectMeta>), store::Error> {
        while self.ahead.len() < count && self.fill(context).await? {}
        let count = count.min(self.ahead.len());
        let taken = self.ahead.drain(..count).collect();
        Ok((self, taken))
    }

    /// Goes on to where the key with this part behind the prefix is or would be. Only for ever greater ones.
    pub async fn find(&mut self, context: &Context, rest: &str) -> Result<Option<ObjectId>, store::Error> {
        loop {
            while let Some(object) = self.ahead.front() {
                match object.id.key.as_str()[self.prefix.len()..].cmp(rest) {
                    std::cmp::Ordering::Less => drop(self.ahead.pop_front()),
                    std::cmp::Ordering::Equal => return Ok(Some(object.id.clone())),
                    std::cmp::Ordering::Greater => return Ok(None),
                }
            }
            if !self.fill(context).await? {
                return Ok(None);
            }
        }
    }

    /// Reads on. Says no at the end.
    async fn fill(&mut self, context: &Context) -> Result<bool, store::Error> {
        for _ in 0..EMPTY_PAGES_MAX {
            let continuation = match &self.next {
                Next::First => None,
                Next::Page(next) => Some(next.clone()),
                Next::End => return Ok(false),
            };
            let start_after = match continuation {
                None => self.behind.as_ref().map(ToString::to_string),
                Some(_) => None,
            };
            let options = ListOptions {
                prefix: self.prefix.clone(),
                continuation: continuation.clone(),
                start_after,
                ..ListOptions::default()
            };
            let page = context.store.list(options).await?;
            if page.skipped > 0 || page.next.is_some() && page.next == continuation {
                return Err(unnamable(&self.prefix));
            }
            self.next = page.next.map_or(Next::End, Next::Page);
            self.ahead.extend(page.objects);
            if !self.ahead.is_empty() {
                return Ok(true);
            }
        }
        Err(unnamable(&self.prefix))
    }
}
