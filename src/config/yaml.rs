//! Step one: the file as a flat list of keys, each with its raw text and its line.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_saphyr::Spanned;

/// A value as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Raw {
    /// One text, whatever it will turn out to mean.
    One(String),
    /// A list of texts.
    Many(Vec<String>),
}

/// A key of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    /// With its section: `drain.min`.
    pub(crate) key: String,
    /// What it is set to; `None` when nothing is written behind it.
    pub(crate) raw: Option<Raw>,
    /// Its line, from 1.
    pub(crate) line: u64,
}

/// What is wrong with the file as YAML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Broken {
    /// Where, if it is known.
    pub(crate) line: Option<u64>,
    /// What.
    pub(crate) message: String,
}

/// Reads a document: a mapping of keys and sections, or nothing.
///
/// # Errors
/// [`Broken`] when it is no YAML, or no mapping.
pub(crate) fn read(text: &str) -> Result<Vec<Given>, Broken> {
    let root: Spanned<Node> = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map(|at| at.line());
        Broken { line, message: first_line(&error.to_string()) }
    })?;
    let mut given = Vec::new();
    match root.value {
        Node::Nothing => {}
        Node::Section(keys) => flatten(text, "", keys, &mut given)?,
        _ => return Err(Broken { line: Some(1), message: "expected keys, like `grace_period: 60s`".into() }),
    }
    Ok(given)
}

enum Node {
    Nothing,
    /// Quoted, or plain text that means nothing else.
    Text(String),
    /// A number or truth value: the raw text is what was meant (`control_token: 0123`).
    Literal(String),
    List(Vec<Spanned<Node>>),
    Section(Vec<(Spanned<String>, Spanned<Node>)>),
}

fn flatten(
    text: &str,
    section: &str,
    keys: Vec<(Spanned<String>, Spanned<Node>)>,
    given: &mut Vec<Given>,
) -> Result<(), Broken> {
    for (name, node) in keys {
        let line = name.referenced.line();
        let key = if section.is_empty() { name.value } else { format!("{section}.{}", name.value) };
        match node.value {
            Node::Section(keys) => flatten(text, &key, keys, given)?,
            Node::Nothing => given.push(Given { key, raw: None, line }),
            Node::List(items) => {
                let raw = items.into_iter().map(|item| one(text, item)).collect::<Result<_, _>>()?;
                given.push(Given { key, raw: Some(Raw::Many(raw)), line });
            }
            Node::Text(_) | Node::Literal(_) => {
                given.push(Given { key, raw: Some(Raw::One(one(text, node)?)), line });
            }
        }
    }
    Ok(())
}

fn one(text: &str, node: Spanned<Node>) -> Result<String, Broken> {
    let span = node.defined.span();
    match node.value {
        Node::Text(value) => Ok(value),
        Node::Literal(value) => {
            let begin = span.byte_offset().and_then(|n| usize::try_from(n).ok());
            let len = span.byte_len().and_then(|n| usize::try_from(n).ok());
            let written = begin.zip(len).and_then(|(begin, len)| text.get(begin..begin + len));
            Ok(written.map_or(value, |written| written.trim().to_owned()))
        }
        Node::Nothing | Node::List(_) | Node::Section(_) => Err(Broken {
            line: Some(node.referenced.line()),
            message: "a list may contain only plain values".into(),
        }),
    }
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or a section")
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Nothing)
    }

    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Text(value.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Literal(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Literal(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Literal(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Literal(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
        let mut section = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            section.push(entry);
        }
        Ok(Node::Section(section))
    }
}

#[cfg(any(test, feature = "fuzz"))]
pub(crate) mod fuzzed {
    use super::*;

    /// A configuration file is read, or its fault is named.
    pub(crate) fn file(bytes: &[u8]) {
        if let Err(broken) = read(&String::from_utf8_lossy(bytes)) {
            assert!(!broken.message.is_empty() && !broken.message.contains('\n'), "{}", broken.message);
        }
    }

    /// Values, one a line as `KEY=value` of the environment, are taken or refused with a reason.
    pub(crate) fn values(bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let pairs = pairs.map(|(name, value)| (format!("PITSTOP_{name}"), value.to_owned()));
        if let Err(error) = crate::config::load(None, pairs) {
            assert!(!error.to_string().is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, Option<Raw>, u64)> {
        read(text).unwrap().into_iter().map(|g| (g.key, g.raw, g.line)).collect()
    }

    fn one(text: &str) -> Option<Raw> {
        Some(Raw::One(text.into()))
    }

    #[test]
    fn sections_become_dotted_keys_with_their_lines() {
        let text = "# a comment\ngrace_period: 60s\n\ndrain:\n  min: 5s\n  ignore_peers: [10.0.0.1, '::1']\n";
        let list = Some(Raw::Many(vec!["10.0.0.1".into(), "::1".into()]));
        assert_eq!(
            pairs(text),
            [
                ("grace_period".into(), one("60s"), 2),
                ("drain.min".into(), one("5s"), 5),
                ("drain.ignore_peers".into(), list, 6),
            ]
        );
    }

    #[test]
    fn a_value_keeps_the_form_it_was_written_in() {
        let text = "a: 0123\nb: 1e3 # a comment\nc: yes\nd: \"007\"\ne: 0x10\nf: true\ng: &x 012\nh: *x\n";
        let raw: Vec<_> = pairs(text).into_iter().map(|(_, raw, _)| raw).collect();
        let expected = ["0123", "1e3", "yes", "007", "0x10", "true", "012", "012"];
        assert_eq!(raw, expected.map(one));
    }

    #[test]
    fn nothing_behind_a_key_is_nothing() {
        assert_eq!(pairs("pod:\ndrain: ~\n"), [("pod".into(), None, 1), ("drain".into(), None, 2)]);
        assert_eq!(pairs(""), []);
        assert_eq!(pairs("# only a comment\n"), []);
    }

    #[test]
    fn what_is_no_mapping_is_refused_with_its_line() {
        assert_eq!(read("- a\n- b\n").unwrap_err().line, Some(1));
        assert_eq!(read("pod: [[a]]\n").unwrap_err().message, "a list may contain only plain values");
        let twice = read("pod: a\ndrain:\n  min: 1s\npod: b\n").unwrap_err();
        assert_eq!(twice.line, Some(4), "{}", twice.message);
        assert!(read("pod: 'a\nx: [\n").unwrap_err().line.is_some());
    }
}
