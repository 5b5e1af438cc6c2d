//! Reads the small XML documents that object stores answer with, and writes those they take.
//!
//! A tree instead of typed shapes: names keep their white space exactly (an object may be called ` a`), lists may be
//! interleaved in any order, and namespaces and unknown elements do not matter.

use std::fmt::Write;

use quick_xml::Reader;
use quick_xml::events::Event;

/// Deepest nesting that is read; real answers have four levels.
const DEPTH_MAX: usize = 16;

/// One element: its name without a namespace prefix, its text, its children in order.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Element {
    /// The local name.
    pub name: String,
    /// The text directly in it, unescaped.
    pub text: String,
    /// The elements in it.
    pub children: Vec<Element>,
}

/// Why a text is no document.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unreadable XML: {0}")]
pub struct XmlError(String);

impl Element {
    /// The root of a document.
    pub fn parse(document: &[u8]) -> Result<Element, XmlError> {
        let text = std::str::from_utf8(document).map_err(|_| XmlError("not UTF-8".to_owned()))?;
        let mut reader = Reader::from_str(text);
        // The bottom element stands for the document; the root becomes its child.
        let mut open = vec![Element::default()];
        loop {
            let event = reader.read_event().map_err(|error| XmlError(error.to_string()))?;
            let top = open.last_mut().expect("the bottom element is never closed");
            match event {
                Event::Start(tag) => {
                    if open.len() > DEPTH_MAX {
                        return Err(XmlError("nested too deeply".to_owned()));
                    }
                    open.push(Element { name: tag.local_name().as_ref().to_owned(), ..Element::default() });
                }
                Event::Empty(tag) => {
                    let name = tag.local_name().as_ref().to_owned();
                    top.children.push(Element { name, ..Element::default() });
                }
                Event::End(_) => {
                    let closed = open.pop().expect("the reader checks that tags match");
                    let parent = open.last_mut().ok_or_else(|| XmlError("a stray end tag".to_owned()))?;
                    parent.children.push(closed);
                }
                Event::Text(piece) => top.text.push_str(&piece.xml10_content()),
                Event::CData(piece) => top.text.push_str(&piece.xml10_content()),
                Event::GeneralRef(name) => match name.resolve_char_ref() {
                    Ok(Some(character)) => top.text.push(character),
                    Ok(None) => top.text.push(named(&name)?),
                    Err(error) => return Err(XmlError(error.to_string())),
                },
                Event::Eof => break,
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::DocType(_) => {}
            }
        }
        let document = open.pop().filter(|_| open.is_empty());
        let root = document.and_then(|document| document.children.into_iter().next());
        root.ok_or_else(|| XmlError("it ends too early".to_owned()))
    }

    /// The first child of this name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// All children of this name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the first child of this name, exactly as written.
    pub fn text_of(&self, name: &str) -> Option<&str> {
        self.child(name).map(|child| child.text.as_str())
    }

    /// The text of the first child of this name as a number.
    pub fn number_of(&self, name: &str) -> Option<u64> {
        self.text_of(name).and_then(|text| text.trim().parse().ok())
    }
}

/// Appends `<name>text</name>`, escaped.
pub fn push_text(document: &mut String, name: &str, text: &str) {
    let escaped = quick_xml::escape::escape(text);
    write!(document, "<{name}>{escaped}</{name}>").expect("writing to a string does not fail");
}

/// Whether XML 1.0 can carry this text at all (production `Char`).
pub fn can_carry(text: &str) -> bool {
    text.chars().all(|c| !(c.is_control() && c < '\u{80}') || matches!(c, '\t' | '\n'))
        && !text.contains(['\u{fffe}', '\u{ffff}'])
}

/// The entities that XML itself defines; stores use no others.
fn named(name: &str) -> Result<char, XmlError> {
    match name {
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "amp" => Ok('&'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => Err(XmlError("an unknown entity".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_text_exactly_and_lists_in_any_order() {
        let document = br#"<?xml version="1.0" encoding="UTF-8"?>
            <s3:List xmlns:s3="http://x/"><K> a&amp;b&#x41;&lt; c </K><P/><K><![CDATA[<raw>]]></K><P>2</P></s3:List>"#;
        let root = Element::parse(document).unwrap();
        assert_eq!(root.name, "List");
        let keys: Vec<_> = root.all("K").map(|k| k.text.as_str()).collect();
        assert_eq!(keys, [" a&bA< c ", "<raw>"]);
        assert_eq!(root.all("P").count(), 2);
        assert_eq!(root.text_of("P"), Some(""));
        assert_eq!(root.number_of("P"), None);
        assert_eq!(root.text_of("Q"), None);
    }

    #[test]
    fn refuses_what_is_no_document() {
        let deep = "<a>".repeat(40) + &"</a>".repeat(40);
        for text in ["", "plain", "<a>", "<a></b>", "<a>&nope;</a>", "<a", "</a>", deep.as_str()] {
            assert!(Element::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Element::parse(b"<a>\xff</a>").is_err());
    }

    #[test]
    fn what_is_written_is_read_back() {
        for text in ["plain", " <&>\"' ", "\u{e9}\u{20ac}\t"] {
            let mut document = "<r>".to_owned();
            push_text(&mut document, "K", text);
            document.push_str("</r>");
            assert_eq!(Element::parse(document.as_bytes()).unwrap().text_of("K"), Some(text));
        }
    }

    #[test]
    fn control_characters_cannot_be_carried() {
        assert!(can_carry("a\tb\u{e9}"));
        for text in ["\u{1}", "a\u{1f}", "\u{ffff}", "\r"] {
            assert!(!can_carry(text), "{text:?}");
        }
    }
}
