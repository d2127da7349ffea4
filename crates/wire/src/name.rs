//! What may stand in a name, and precisely what is wrong with one that may not.
//!
//! Topics, patterns, domains and processes have names; the rules they share are here. An error says which byte,
//! what is wrong with it and what to write instead, because people meet it at a command line. Nothing is
//! normalised: two names are the same if and only if their bytes are.

use alloc::string::String;
use core::fmt;

use crate::limits::{DOMAIN_NAME_BYTES_MAX, PROCESS_NAME_BYTES_MAX};

/// Why a text is not a name: the position, the fault and the remedy.
///
/// ```
/// let error = busway_wire::Topic::new("price..tick").unwrap_err();
/// assert_eq!(error.at, 6);
/// assert_eq!(
///     error.to_string(),
///     "byte 6: empty token; write something between the dots, or remove one of them"
/// );
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameError {
    /// The byte that is wrong, counted from 0; the length of the name when something is missing at its end.
    pub at: usize,
    /// What is wrong with it.
    pub fault: NameFault,
}

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFault {
    /// There is nothing.
    Empty,
    /// It is longer than it may be.
    TooLong {
        /// Its length in bytes.
        size: usize,
        /// The largest length in bytes.
        size_max: usize,
    },
    /// It is not UTF-8.
    NotUtf8,
    /// Two dots meet, or a dot stands at the beginning or at the end.
    EmptyToken,
    /// A NUL, a control character or a space of any script.
    Forbidden(char),
    /// A token that is `*` or `>` in the name of a topic.
    Wildcard(char),
    /// A topic that begins with `^`, the mark of a prefix pattern.
    Caret,
    /// A topic that begins with `$`, which the bus keeps for itself.
    Reserved,
    /// A reserved topic that does not begin with `$`.
    NotReserved,
    /// A `>` that is not the last token of a pattern.
    RestNotLast,
    /// A dot in one part of (service, instance, event).
    Dot,
    /// A character that may not stand in a domain's name, which becomes part of a file's name.
    NotPortable(char),
    /// A domain's name that begins with a dot or a dash.
    Leading(char),
}

impl NameError {
    /// What to do about it: the second half of the message.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self.fault {
            NameFault::Empty => "write at least one character",
            NameFault::TooLong { .. } => "shorten it",
            NameFault::NotUtf8 => "write UTF-8, or let Topic::from_bytes escape the bytes",
            NameFault::EmptyToken => "write something between the dots, or remove one of them",
            NameFault::Forbidden(_) => "remove it, or write a dash or a dot in its place",
            NameFault::Wildcard(_) => {
                "only subscriptions take wildcards; write a name, or add a character to the token"
            }
            NameFault::Caret => "only subscriptions take a prefix; begin with another character",
            NameFault::Reserved => "the bus keeps these names for itself; begin with another character",
            NameFault::NotReserved => "begin with a dollar sign",
            NameFault::RestNotLast => "end the pattern there, or write * for a single token",
            NameFault::Dot => "each part is one token; replace the dot by a dash",
            NameFault::NotPortable(_) => "use ASCII letters, digits, dash, underscore and dot",
            NameFault::Leading(_) => "begin with a letter, a digit or an underscore",
        }
    }

    pub(crate) const fn new(at: usize, fault: NameFault) -> NameError {
        NameError { at, fault }
    }
}

impl fmt::Display for NameFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameFault::Empty => f.write_str("empty name"),
            NameFault::TooLong { size, size_max } => {
                write!(f, "the name has {size} bytes, at most {size_max} are allowed")
            }
            NameFault::NotUtf8 => f.write_str("not UTF-8"),
            NameFault::EmptyToken => f.write_str("empty token"),
            // A space is what people type; escaped it would read `\u{20}`.
            NameFault::Forbidden(' ') => f.write_str("a space is not allowed"),
            NameFault::Forbidden(character) => {
                write!(f, "the character {} is not allowed", character.escape_unicode())
            }
            NameFault::Wildcard(character) => {
                write!(f, "a topic to publish cannot have the wildcard {character}")
            }
            NameFault::Caret => f.write_str("a topic cannot begin with ^"),
            NameFault::Reserved => f.write_str("a topic cannot begin with $"),
            NameFault::NotReserved => f.write_str("a reserved topic begins with $"),
            NameFault::RestNotLast => f.write_str("the wildcard > must be the last token"),
            NameFault::Dot => f.write_str("a dot in one part of (service, instance, event)"),
            NameFault::NotPortable(character) => {
                write!(
                    f,
                    "the character {} is not allowed in a domain, which names a file",
                    character.escape_default()
                )
            }
            NameFault::Leading(character) => write!(f, "a domain cannot begin with {character}"),
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "byte {}: {}; {}", self.at, self.fault, self.remedy())
    }
}

impl core::error::Error for NameError {}

/// Checks the name of a domain: 1 to 64 of `A-Z a-z 0-9 - _ .`, not beginning with a dot or a dash.
///
/// The name becomes part of a file's name, so nothing that means something to a path may stand in it.
///
/// # Errors
/// The first byte that is wrong.
pub fn check_domain_name(name: &str) -> Result<(), NameError> {
    let first = check_size(name, DOMAIN_NAME_BYTES_MAX)?;
    if matches!(first, '.' | '-') {
        return Err(NameError::new(0, NameFault::Leading(first)));
    }
    match name.char_indices().find(|(_, c)| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.')) {
        Some((at, character)) => Err(NameError::new(at, NameFault::NotPortable(character))),
        None => Ok(()),
    }
}

/// Checks the name of a process: 1 to 64 bytes of UTF-8 without control characters. Spaces are allowed.
///
/// The name is only shown to people, on terminals and in logs: it must not be able to write there by itself.
///
/// # Errors
/// The first byte that is wrong.
pub fn check_process_name(name: &str) -> Result<(), NameError> {
    check_size(name, PROCESS_NAME_BYTES_MAX)?;
    check_printable(name)
}

/// Makes a process's name of any text, for names that nobody chose: control characters become spaces, what is
/// too long is cut off, nothing becomes `unnamed`.
#[must_use]
pub fn process_name(text: &str) -> String {
    let name = printable(text, PROCESS_NAME_BYTES_MAX);
    if name.is_empty() { String::from("unnamed") } else { name }
}

/// As much of a text as fits, with spaces for its control characters.
pub(crate) fn printable(text: &str, size_max: usize) -> String {
    let mut result = String::with_capacity(text.len().min(size_max));
    for character in text.chars() {
        let character = if character.is_control() { ' ' } else { character };
        if result.len() + character.len_utf8() > size_max {
            break;
        }
        result.push(character);
    }
    result
}

/// Refuses control characters: for text that is only shown.
pub(crate) fn check_printable(text: &str) -> Result<(), NameError> {
    match text.char_indices().find(|(_, character)| character.is_control()) {
        Some((at, character)) => Err(NameError::new(at, NameFault::Forbidden(character))),
        None => Ok(()),
    }
}

/// Checks that a name is neither empty nor longer than `size_max`, and returns its first character.
pub(crate) fn check_size(name: &str, size_max: usize) -> Result<char, NameError> {
    let Some(first) = name.chars().next() else {
        return Err(NameError::new(0, NameFault::Empty));
    };
    if name.len() > size_max {
        return Err(NameError::new(size_max, NameFault::TooLong { size: name.len(), size_max }));
    }
    Ok(first)
}

/// Checks that no character is forbidden in topics and patterns.
pub(crate) fn check_characters(name: &str) -> Result<(), NameError> {
    match name.char_indices().find(|(_, character)| is_forbidden(*character)) {
        Some((at, character)) => Err(NameError::new(at, NameFault::Forbidden(character))),
        None => Ok(()),
    }
}

/// Checks that no token is empty: no dot at the beginning, at the end, or after another.
pub(crate) fn check_tokens(name: &str) -> Result<(), NameError> {
    let mut at = 0;
    for token in name.split('.') {
        if token.is_empty() {
            return Err(NameError::new(at, NameFault::EmptyToken));
        }
        at += token.len() + 1;
    }
    Ok(())
}

/// Whether a character may not stand in the name of a topic: it would split or disguise a line of output.
pub(crate) fn is_forbidden(character: char) -> bool {
    character.is_control() || character.is_whitespace()
}
