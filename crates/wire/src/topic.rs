//! The name of a topic: a checked string that cannot be anything else.
//!
//! A `Topic` exists only if its name follows the grammar of FORMAT.md, so nobody downstream checks again. It
//! does not normalise: `caf\u{e9}` and `cafe\u{301}` are two topics. It says nothing about who may publish.
//!
//! Invariant: the text is 1 to `NAME_BYTES_MAX` bytes and passes `check_topic`, or is a reserved name that does.

use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::marker::PhantomData;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::TopicId;
use crate::limits::NAME_BYTES_MAX;
use crate::name::{self, NameError, NameFault};

/// The name of a topic: tokens between dots, `price.tick`.
///
/// Cloning is cheap: the text is shared.
///
/// ```
/// use busway_wire::Topic;
/// let topic = Topic::new("price.tick")?;
/// assert_eq!(topic.tokens().collect::<Vec<_>>(), ["price", "tick"]);
/// assert_eq!(topic.id(), "price.tick".parse::<Topic>()?.id());
/// # Ok::<(), busway_wire::NameError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// Checks a name that a user gave.
    ///
    /// # Errors
    /// The first byte that breaks the grammar. Names that begin with `$` are refused, see [`Topic::reserved`].
    pub fn new(text: &str) -> Result<Topic, NameError> {
        if text.starts_with('$') {
            return Err(NameError::new(0, NameFault::Reserved));
        }
        check_topic(text)?;
        Ok(Topic(Arc::from(text)))
    }

    /// Checks a name that the bus uses for itself: as [`Topic::new`], but it must begin with `$`.
    ///
    /// # Errors
    /// The first byte that breaks the grammar.
    pub fn reserved(text: &str) -> Result<Topic, NameError> {
        if !text.starts_with('$') {
            return Err(NameError::new(0, NameFault::NotReserved));
        }
        check_topic(text)?;
        Ok(Topic(Arc::from(text)))
    }

    /// Makes a topic of any bytes, escaping as `%XX` (two capital hex digits) what a name may not contain.
    ///
    /// Escaped are: bytes that are not UTF-8; each byte of a forbidden character; `%` itself; a dot that would
    /// make an empty token; `*` and `>` where they would be a token; `^` and `$` at the beginning. Different
    /// bytes never become the same name, because undoing the escapes gives the bytes back; bytes that are a
    /// name without `%` stay as they are.
    ///
    /// ```
    /// use busway_wire::Topic;
    /// assert_eq!(Topic::from_bytes(b"a b..c%\xff")?.as_str(), "a%20b.%2Ec%25%FF");
    /// # Ok::<(), busway_wire::NameError>(())
    /// ```
    ///
    /// # Errors
    /// No bytes at all, or more than 255 after escaping.
    pub fn from_bytes(bytes: &[u8]) -> Result<Topic, NameError> {
        // Escapes only lengthen, so this refuses nothing that could pass and bounds what is allocated below.
        if bytes.len() > NAME_BYTES_MAX {
            let fault = NameFault::TooLong { size: bytes.len(), size_max: NAME_BYTES_MAX };
            return Err(NameError::new(NAME_BYTES_MAX, fault));
        }
        let text = escape(bytes);
        check_topic(&text)?;
        Ok(Topic(Arc::from(text)))
    }

    /// The topic `service.instance.event`. Each part is one token, so that no two triples make the same topic.
    ///
    /// # Errors
    /// The first byte, counted in the whole name, that breaks the grammar, or a dot inside a part.
    pub fn service(service: &str, instance: &str, event: &str) -> Result<Topic, NameError> {
        let mut text = String::with_capacity(service.len() + instance.len() + event.len() + 2);
        for part in [service, instance, event] {
            if !text.is_empty() {
                text.push('.');
            }
            if part.is_empty() {
                return Err(NameError::new(text.len(), NameFault::EmptyToken));
            }
            if let Some(at) = part.find('.') {
                return Err(NameError::new(text.len() + at, NameFault::Dot));
            }
            text.push_str(part);
        }
        Topic::new(&text)
    }

    /// The id: the first 8 bytes of BLAKE3 of the name. It costs a hash, so keep it.
    #[must_use]
    pub fn id(&self) -> TopicId {
        TopicId(first_of_hash(&[self.0.as_bytes()]))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tokens between the dots, of which none is empty.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Whether the bus keeps this name for itself: it begins with `$`.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        self.0.starts_with('$')
    }

    /// A name of either kind, as it comes from a member of the domain.
    pub(crate) fn parse_any(text: &str) -> Result<Topic, NameError> {
        check_topic(text)?;
        Ok(Topic(Arc::from(text)))
    }
}

/// The grammar, but for the dollar sign. The order decides which fault a name with several is told about.
pub(crate) fn check_topic(text: &str) -> Result<(), NameError> {
    let first = name::check_size(text, NAME_BYTES_MAX)?;
    if first == '^' {
        return Err(NameError::new(0, NameFault::Caret));
    }
    name::check_characters(text)?;
    name::check_tokens(text)?;
    let mut at = 0;
    for token in text.split('.') {
        if let "*" | ">" = token {
            let wildcard = if token == "*" { '*' } else { '>' };
            return Err(NameError::new(at, NameFault::Wildcard(wildcard)));
        }
        at += token.len() + 1;
    }
    Ok(())
}

/// Escapes whatever `check_topic` refuses, but for the length.
fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            escape_character(&mut text, character);
        }
        for byte in chunk.invalid() {
            escape_byte(&mut text, *byte);
        }
    }
    escape_wildcard(&mut text);
    // A dot at the end leaves an empty token behind it.
    if text.ends_with('.') {
        text.pop();
        escape_byte(&mut text, b'.');
    }
    text
}

fn escape_character(text: &mut String, character: char) {
    let leads = text.is_empty();
    let escaped = match character {
        '%' => true,
        '^' | '$' => leads,
        '.' => {
            escape_wildcard(text);
            leads || text.ends_with('.')
        }
        other => name::is_forbidden(other),
    };
    if escaped {
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            escape_byte(text, byte);
        }
    } else {
        text.push(character);
    }
}

/// Escapes the last token if it is a wildcard. Called where a token ends.
fn escape_wildcard(text: &mut String) {
    let start = text.rfind('.').map_or(0, |dot| dot + 1);
    let byte = match text.get(start..) {
        Some("*") => b'*',
        Some(">") => b'>',
        _ => return,
    };
    text.pop();
    escape_byte(text, byte);
}

fn escape_byte(text: &mut String, byte: u8) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    text.push('%');
    text.push(DIGITS[usize::from(byte >> 4)]);
    text.push(DIGITS[usize::from(byte & 15)]);
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({:?})", &*self.0)
    }
}

impl AsRef<str> for Topic {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl FromStr for Topic {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Topic, NameError> {
        Topic::new(text)
    }
}

impl Serialize for Topic {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Topic {
    /// Takes reserved names as well: the bus tells its members about its own topics.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Topic, D::Error> {
        deserialize_text(deserializer, Topic::parse_any)
    }
}

/// Reads a string and hands it to `parse` without keeping a copy of it.
pub(crate) fn deserialize_text<'de, D, T, F>(deserializer: D, parse: F) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    F: FnOnce(&str) -> Result<T, NameError>,
{
    struct Text<T, F>(F, PhantomData<T>);

    impl<T, F: FnOnce(&str) -> Result<T, NameError>> serde::de::Visitor<'_> for Text<T, F> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a name")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            (self.0)(text).map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(parse, PhantomData))
}

/// The id of the cluster of this name: what its links are seeded with. The first 8 bytes of BLAKE3 of
/// `busway.cluster.` and the name, so that it is no topic's id.
#[must_use]
pub fn cluster_id(name: &str) -> u64 {
    first_of_hash(&[b"busway.cluster.", name.as_bytes()])
}

/// The id of the client of this name where the name is no number: the first 8 bytes of BLAKE3 of `busway.client.` and
/// the name, with the highest bit set, so that no number below 2^63 is one.
#[must_use]
pub fn named_client_id(name: &str) -> u64 {
    first_of_hash(&[b"busway.client.", name.as_bytes()]) | 1 << 63
}

fn first_of_hash(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(part);
    }
    let [a, b, c, d, e, f, g, h, ..] = *hasher.finalize().as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}
