//! What a subscription asks for: a name, a name with wildcards, or a prefix.
//!
//! A pattern is compared with one topic at a time, from left to right, once: no backtracking, no recursion, so
//! that ten thousand wildcards cost ten thousand steps. It holds no index; the rendezvous keeps its own.
//!
//! Invariant: matching costs at most the length of the topic and of the pattern in steps, and a topic that
//! begins with `$` is matched only by a pattern that begins with `$` or `^$`.

use alloc::sync::Arc;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::limits::NAME_BYTES_MAX;
use crate::name::{self, NameError, NameFault};
use crate::topic::{Topic, deserialize_text};

/// What a subscription asks for.
///
/// | text | matches |
/// | --- | --- |
/// | `price.tick` | this topic |
/// | `price.*` | `*` is exactly one token: `price.tick`, not `price.tick.eu` |
/// | `price.>` | `>` is one or more tokens and stands last: both of them, not `price` |
/// | `>` | every topic but the reserved ones |
/// | `^pri` | every topic whose bytes begin with `pri` |
///
/// ```
/// use busway_wire::{Pattern, Topic};
/// let pattern: Pattern = "price.*.eu".parse()?;
/// assert!(pattern.matches(&Topic::new("price.tick.eu")?));
/// # Ok::<(), busway_wire::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pattern {
    /// One topic, by its whole name.
    Exact(Topic),
    /// Tokens, of which some are wildcards.
    Tokens(Tokens),
    /// Every topic that begins with these bytes.
    Prefix(Prefix),
}

/// The text of a pattern with at least one `*` or `>` among its tokens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tokens(Arc<str>);

/// The text of a pattern that begins with `^`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// The first byte that breaks the grammar.
    pub fn parse(text: &str) -> Result<Pattern, NameError> {
        let first = name::check_size(text, NAME_BYTES_MAX)?;
        name::check_characters(text)?;
        if first == '^' {
            return Ok(Pattern::Prefix(Prefix(Arc::from(text))));
        }
        name::check_tokens(text)?;
        if !text.split('.').any(|token| matches!(token, "*" | ">")) {
            return Topic::parse_any(text).map(Pattern::Exact);
        }
        let mut at = 0;
        for token in text.split('.') {
            if token == ">" && at + 1 != text.len() {
                return Err(NameError::new(at, NameFault::RestNotLast));
            }
            at += token.len() + 1;
        }
        Ok(Pattern::Tokens(Tokens(Arc::from(text))))
    }

    /// Whether a subscription with this pattern gets messages of `topic`.
    #[must_use]
    pub fn matches(&self, topic: &Topic) -> bool {
        match self {
            Pattern::Exact(exact) => exact == topic,
            Pattern::Tokens(tokens) => tokens.matches(topic.as_str()),
            Pattern::Prefix(prefix) => prefix.matches(topic.as_str()),
        }
    }

    /// Whether a topic may match both. `false`: none does; of prefixes it may be true where none does either.
    ///
    /// ```
    /// use busway_wire::Pattern;
    /// let orders: Pattern = "order.*".parse()?;
    /// assert!(orders.may_meet(&"*.new".parse()?));
    /// assert!(!orders.may_meet(&"price.>".parse()?));
    /// # Ok::<(), busway_wire::NameError>(())
    /// ```
    #[must_use]
    pub fn may_meet(&self, other: &Pattern) -> bool {
        match (self, other) {
            (Pattern::Exact(topic), pattern) | (pattern, Pattern::Exact(topic)) => pattern.matches(topic),
            (Pattern::Tokens(one), Pattern::Tokens(two)) => tokens_meet(&one.0, &two.0),
            (Pattern::Prefix(_), _) | (_, Pattern::Prefix(_)) => true,
        }
    }

    /// The topic, if the pattern can match no other.
    #[must_use]
    pub fn exact(&self) -> Option<&Topic> {
        match self {
            Pattern::Exact(topic) => Some(topic),
            Pattern::Tokens(_) | Pattern::Prefix(_) => None,
        }
    }

    /// The text that [`Pattern::parse`] reads.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Pattern::Exact(topic) => topic.as_str(),
            Pattern::Tokens(Tokens(text)) | Pattern::Prefix(Prefix(text)) => text,
        }
    }
}

impl Tokens {
    fn matches(&self, topic: &str) -> bool {
        token_match(&self.0, topic)
    }
}

/// Compares the text of a tokens pattern with the name of a topic, in one pass over both.
fn token_match(pattern: &str, topic: &str) -> bool {
    if topic.starts_with('$') && !pattern.starts_with('$') {
        return false;
    }
    let mut tokens = topic.split('.');
    for wanted in pattern.split('.') {
        let Some(token) = tokens.next() else {
            return false;
        };
        match wanted {
            // The last token of the pattern, by the grammar; one token of the topic is there, the rest may be.
            ">" => return true,
            "*" => {}
            name if name == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}

/// Whether a name can have the tokens of both.
fn tokens_meet(one: &str, two: &str) -> bool {
    let (mut one, mut two) = (one.split('.'), two.split('.'));
    loop {
        match (one.next(), two.next()) {
            (None, None) | (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

impl Prefix {
    /// The bytes that a topic must begin with: the text without its `^`.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.0.as_bytes().strip_prefix(b"^").unwrap_or_default()
    }

    fn matches(&self, topic: &str) -> bool {
        let bytes = self.bytes();
        topic.as_bytes().starts_with(bytes) && (!topic.starts_with('$') || bytes.starts_with(b"$"))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Pattern {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Pattern, NameError> {
        Pattern::parse(text)
    }
}

impl From<Topic> for Pattern {
    fn from(topic: Topic) -> Pattern {
        Pattern::Exact(topic)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pattern, D::Error> {
        deserialize_text(deserializer, Pattern::parse)
    }
}

#[cfg(test)]
mod tests {
    //! The matcher beyond what a pattern may be: only here can it be given ten thousand wildcards.

    use alloc::vec;

    use super::token_match;

    #[test]
    fn ten_thousand_wildcards_are_matched_in_one_pass() {
        // Under Miri 10 000 tokens take minutes, and its findings do not depend on their number.
        let count = if cfg!(miri) { 300 } else { 10_000 };
        let (stars, names) = (vec!["*"; count].join("."), vec!["a"; count].join("."));
        assert!(token_match(&stars, &names));
        // A matcher that backtracks would not come back from these before the sun is cold.
        let (almost, longer) = (stars.clone() + ".b", names.clone() + ".a");
        assert!(!token_match(&almost, &longer));
        assert!(!token_match(&stars, &longer));
        assert!(!token_match(&almost, &names));
        assert!(token_match(&(stars + ".>"), &longer));
    }
}
