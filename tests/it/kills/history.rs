//! What a program asked for under each of its names, and how far it was told that it is safe.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::kills::{PART, short};

/// What a name has: bytes, or nothing.
pub type Content = Option<Arc<Vec<u8>>>;

/// A name's contents, oldest first; never empty.
#[derive(Debug)]
struct Line {
    contents: Vec<Content>,
    /// The last of them that was acknowledged: the bucket has it, or will.
    acknowledged: usize,
    /// The last of them that was said to be in the bucket.
    visible: usize,
}

/// What an answer promises.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Promise {
    /// It is in the bucket.
    Visible,
    /// It will be.
    Safe,
}

/// A rename: while the source's last content is `nothing`, the target must have what it moved there.
#[derive(Debug)]
struct Moved {
    from: String,
    to: String,
    content: Content,
}

/// All names of one program.
#[derive(Debug, Default)]
pub struct History {
    lines: BTreeMap<String, Line>,
    /// The one that was under way at the kill, if it was one.
    moved: Option<Moved>,
    /// What was seen that must not be.
    wrong: Vec<String>,
    parts: u64,
}

impl History {
    /// What the program last gave a name.
    pub fn current(&self, name: &str) -> Content {
        self.lines.get(name).and_then(|line| line.contents.last().cloned()).flatten()
    }

    /// A name is about to get a content.
    pub fn ask(&mut self, name: &str, content: Content) {
        self.parts += content.as_ref().map_or(0, |bytes| bytes.len().div_ceil(PART) as u64 + 1);
        self.line(name).contents.push(content);
        self.moved = None;
    }

    /// What it was asked for last is safe.
    pub fn acknowledge(&mut self, name: &str, promise: Promise) {
        let line = self.line(name);
        line.acknowledged = line.contents.len() - 1;
        match promise {
            Promise::Visible => line.visible = line.acknowledged,
            Promise::Safe => {}
        }
    }

    /// Names of which the last answer did not come.
    pub fn in_doubt(&self) -> Vec<String> {
        let is_in_doubt = |line: &Line| line.acknowledged + 1 < line.contents.len();
        self.lines.iter().filter(|(_, line)| is_in_doubt(line)).map(|(name, _)| name.clone()).collect()
    }

    /// The next mount shows this under a name in doubt, so that is what it has now and will have.
    pub fn learn(&mut self, name: &str, shown: Option<Vec<u8>>) {
        let line = self.lines.get_mut(name).expect("the name is in doubt");
        let allowed = &line.contents[line.acknowledged..];
        let Some(content) = allowed.iter().rfind(|content| content.as_deref() == shown.as_ref()).cloned()
        else {
            let shown = short(&shown.map(Arc::new));
            return self.wrong.push(format!("{name} is shown with {shown}"));
        };
        line.contents.push(content);
        line.acknowledged = line.contents.len() - 1;
    }

    /// All names in doubt have been learnt.
    pub fn learnt(&mut self) {
        if let Some(Moved { from, to, content }) = self.moved.take()
            && self.current(&from).is_none()
            && self.current(&to) != content
        {
            self.wrong.push(format!("{from} was to be {to} and is shown nowhere"));
        }
    }

    /// One name is about to be given to another's content.
    pub fn ask_to_move(&mut self, from: &str, to: &str) {
        let content = self.current(from);
        self.ask(to, content.clone());
        self.ask(from, None);
        self.moved = Some(Moved { from: from.to_owned(), to: to.to_owned(), content });
    }

    /// Parts that all this can take to send.
    pub fn parts_asked_for(&self) -> u64 {
        self.parts
    }

    /// Names that do not have what they may have right after a kill.
    pub fn wrong_after_kill(&self, look: impl Fn(&str) -> Option<Vec<u8>>) -> Vec<String> {
        self.wrong(look, |line| line.visible)
    }

    /// Names that do not have what they must have after recovery, and moves that lost what they moved.
    pub fn wrong_after_recovery(&self, look: impl Fn(&str) -> Option<Vec<u8>>) -> Vec<String> {
        let mut wrong = self.wrong(&look, |line| line.acknowledged);
        if let Some(Moved { from, to, content }) = &self.moved {
            let is_gone = look(from).is_none();
            if is_gone && look(to).as_ref() != content.as_deref() {
                wrong.push(format!("{from} was to be {to} and is lost"));
            }
        }
        wrong
    }

    fn wrong(&self, look: impl Fn(&str) -> Option<Vec<u8>>, from: impl Fn(&Line) -> usize) -> Vec<String> {
        let is_wrong = |(name, line): (&String, &Line)| {
            let found = look(name);
            let allowed = &line.contents[from(line)..];
            let is_allowed = allowed.iter().any(|content| content.as_deref() == found.as_ref());
            (!is_allowed).then(|| {
                let found = found.map(Arc::new);
                let which = line.contents.iter().position(|content| *content == found);
                format!("{name} has {} (its content number {which:?})", short(&found))
            })
        };
        self.wrong.iter().cloned().chain(self.lines.iter().filter_map(is_wrong)).collect()
    }

    /// Begins anew with what the bucket has; returns that.
    pub fn restart(&mut self, look: impl Fn(&str) -> Option<Vec<u8>>) -> Vec<(String, Content)> {
        self.moved = None;
        for (name, line) in &mut self.lines {
            *line = Line { contents: vec![look(name).map(Arc::new)], acknowledged: 0, visible: 0 };
        }
        self.names_and_contents().map(|(name, content)| (name.to_owned(), content.cloned())).collect()
    }

    /// Every name with its last content.
    pub fn names_and_contents(&self) -> impl Iterator<Item = (&str, Option<&Arc<Vec<u8>>>)> {
        self.lines.iter().map(|(name, line)| (name.as_str(), line.contents.last().and_then(Option::as_ref)))
    }

    /// For messages.
    pub fn describe(&self) -> String {
        let line = |(name, line): (&String, &Line)| {
            let contents: Vec<String> = line.contents.iter().map(short).collect();
            let Line { acknowledged, visible, .. } = line;
            format!("{name}: number {visible} visible, {acknowledged} acknowledged of {contents:?}")
        };
        self.lines.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn line(&mut self, name: &str) -> &mut Line {
        self.lines.entry(name.to_owned()).or_insert_with(|| Line {
            contents: vec![None],
            acknowledged: 0,
            visible: 0,
        })
    }
}
