//! To which trace a message belongs, as W3C Trace Context says it: trace, parent, and flags; and beside it the state of vendors.
//!
//! In text it is the header `traceparent`, `00-TRACE-PARENT-FLAGS` in lower-case hexadecimal digits; in a message 25 bytes. It starts no
//! spans and draws no numbers: who traces does.
//!
//! Invariant: neither number of a `TraceParent` is zero, and it has no flags but those that are defined.

use core::fmt;
use core::str::FromStr;

use crate::limits::{TRACE_STATE_BYTES_MAX, TRACE_STATE_MEMBERS_MAX};

/// Bytes of a `traceparent` in text, in the version that is written.
const TEXT_BYTES: usize = 55;
/// The flags that are defined: sampled, and that the trace's number is random.
const FLAGS: u8 = 0b11;

/// Which trace, and which of its spans was under way when the message was sent.
///
/// ```
/// use busway_wire::TraceParent;
/// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let trace: TraceParent = text.parse()?;
/// assert_eq!(trace.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
/// assert_eq!(trace.parent_id().to_string(), "00f067aa0ba902b7");
/// assert!(trace.is_sampled());
/// assert_eq!(trace.to_string(), text);
/// # Ok::<(), busway_wire::TraceError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceParent {
    trace: TraceId,
    parent: SpanId,
    flags: u8,
}

/// The number of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TraceId(pub [u8; 16]);

/// The number of one span of a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpanId(pub [u8; 8]);

/// Why a text is no trace context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TraceError {
    /// It is no `traceparent`.
    Parent,
    /// It is no `tracestate`.
    State,
    /// A `tracestate` that is too long.
    StateTooLong {
        /// Bytes there are.
        size: usize,
    },
    /// A `tracestate` without a `traceparent`.
    StateAlone,
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TraceError::Parent => {
                f.write_str("a traceparent is 00-TRACE-PARENT-FLAGS, with 32, 16 and 2 hexadecimal digits")
            }
            TraceError::State => f.write_str("a tracestate is a list of at most 32 KEY=VALUE, each key once"),
            TraceError::StateTooLong { size } => {
                write!(f, "a tracestate has at most {TRACE_STATE_BYTES_MAX} bytes, this one {size}")
            }
            TraceError::StateAlone => f.write_str("a tracestate belongs to a traceparent"),
        }
    }
}

impl core::error::Error for TraceError {}

impl TraceParent {
    /// Bytes of it in a message.
    pub const SIZE: usize = 25;

    /// Of these numbers; `None` where one of them is zero.
    #[must_use]
    pub fn new(trace: TraceId, parent: SpanId, sampled: Sampled) -> Option<TraceParent> {
        let flags = u8::from(sampled == Sampled::Yes);
        (trace.0 != [0; 16] && parent.0 != [0; 8]).then_some(TraceParent { trace, parent, flags })
    }

    /// The trace.
    #[must_use]
    pub fn trace_id(&self) -> TraceId {
        self.trace
    }

    /// The span that was under way.
    #[must_use]
    pub fn parent_id(&self) -> SpanId {
        self.parent
    }

    /// Whether who sent it records the trace.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 != 0
    }

    /// The same trace, seen from another of its spans.
    #[must_use]
    pub fn child(self, span: SpanId) -> Option<TraceParent> {
        (span.0 != [0; 8]).then_some(TraceParent { parent: span, ..self })
    }

    pub(crate) fn to_bytes(self) -> [u8; TraceParent::SIZE] {
        let mut bytes = [0; TraceParent::SIZE];
        bytes[..16].copy_from_slice(&self.trace.0);
        bytes[16..24].copy_from_slice(&self.parent.0);
        bytes[24] = self.flags;
        bytes
    }

    /// `None` where the bytes are none that [`TraceParent::to_bytes`] makes.
    pub(crate) fn of(bytes: &[u8]) -> Option<TraceParent> {
        let (trace, rest) = bytes.split_first_chunk::<16>()?;
        let (parent, rest) = rest.split_first_chunk::<8>()?;
        let [flags] = *rest else { return None };
        let known = *trace != [0; 16] && *parent != [0; 8] && flags & !FLAGS == 0;
        known.then_some(TraceParent { trace: TraceId(*trace), parent: SpanId(*parent), flags })
    }
}

/// Whether a trace is recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampled {
    /// It is.
    Yes,
    /// It may not be.
    No,
}

impl FromStr for TraceParent {
    type Err = TraceError;

    /// A later version is read as far as this one knows it, as the recommendation asks.
    fn from_str(text: &str) -> Result<TraceParent, TraceError> {
        let bytes = text.as_bytes();
        let fits = bytes.len() == TEXT_BYTES || bytes.get(TEXT_BYTES) == Some(&b'-');
        let [version, trace, parent, flags] =
            [0..2, 3..35, 36..52, 53..55].map(|place| bytes.get(place).unwrap_or_default());
        let dashes = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
        let version = hex::<1>(version).filter(|_| fits && dashes).ok_or(TraceError::Parent)?;
        let known = match version {
            [0] if bytes.len() == TEXT_BYTES => FLAGS,
            [0 | 0xff] => return Err(TraceError::Parent),
            _ => 1,
        };
        let parts = hex(trace).zip(hex(parent)).zip(hex::<1>(flags));
        let ((trace, parent), [flags]) = parts.ok_or(TraceError::Parent)?;
        let found = TraceParent { trace: TraceId(trace), parent: SpanId(parent), flags: flags & known };
        TraceParent::of(&found.to_bytes()).ok_or(TraceError::Parent)
    }
}

/// Lower-case digits, two a byte.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = digits.as_chunks::<2>() else { return None };
    let mut bytes = [0; N];
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = (digit(*high)? << 4) | digit(*low)?;
    }
    Some(bytes)
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.parent, self.flags)
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Checks a `tracestate`: a list of `KEY=VALUE`, with commas between them; an empty one is one that says nothing.
pub(crate) fn check_state(text: &str) -> Result<(), TraceError> {
    if text.len() > TRACE_STATE_BYTES_MAX {
        return Err(TraceError::StateTooLong { size: text.len() });
    }
    let members =
        || text.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty());
    let mut count = 0;
    for member in members() {
        count += 1;
        let (key, value) = member.split_once('=').ok_or(TraceError::State)?;
        let twice =
            members().filter(|other| other.split_once('=').is_some_and(|(known, _)| known == key)).count()
                > 1;
        if twice || count > TRACE_STATE_MEMBERS_MAX || !is_key(key) || !is_value(value) {
            return Err(TraceError::State);
        }
    }
    Ok(())
}

fn is_key(key: &str) -> bool {
    let part = |text: &str, most: usize| {
        let inside = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
        (1..=most).contains(&text.len()) && text.bytes().all(inside)
    };
    let begins = |text: &str, digit: bool| {
        text.starts_with(|first: char| first.is_ascii_lowercase() || digit && first.is_ascii_digit())
    };
    match key.split_once('@') {
        None => part(key, 256) && begins(key, false),
        Some((tenant, system)) => {
            part(tenant, 241) && begins(tenant, true) && part(system, 14) && begins(system, false)
        }
    }
}

fn is_value(value: &str) -> bool {
    let inside = |byte: u8| matches!(byte, b' '..=b'~') && byte != b',' && byte != b'=';
    (1..=256).contains(&value.len()) && value.bytes().all(inside)
}

#[cfg(test)]
mod tests {
    use super::{SpanId, TraceError, TraceParent, check_state};
    use alloc::format;
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;

    const TEXT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_comes_out_as_it_went_in_and_what_is_none_is_refused() {
        let trace: TraceParent = TEXT.parse().unwrap();
        assert_eq!(trace.to_string(), TEXT);
        assert_eq!(TraceParent::of(&trace.to_bytes()), Some(trace));
        let other = trace.child(SpanId([7; 8])).unwrap();
        assert_eq!((other.trace_id(), other.parent_id()), (trace.trace_id(), SpanId([7; 8])));
        assert_eq!(trace.child(SpanId([0; 8])), None);
        let wrong = [
            String::new(),
            TEXT[..54].to_string(),
            format!("{TEXT}-"),
            format!("{TEXT}-more"),
            TEXT.to_uppercase(),
            TEXT.replace("00-4", "ff-4"),
            TEXT.replace("00-4", "0g-4"),
            TEXT.replace('-', "_"),
            TEXT.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            TEXT.replace("00f067aa0ba902b7", &"0".repeat(16)),
            TEXT.replace("01", "0x"),
            TEXT.replace("4bf9", "é9"),
        ];
        for text in &wrong {
            assert_eq!(text.parse::<TraceParent>(), Err(TraceError::Parent), "{text}");
        }
        for cut in 0..TraceParent::SIZE {
            assert_eq!(TraceParent::of(&trace.to_bytes()[..cut]), None);
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later: TraceParent =
            format!("{}-and more", TEXT.replace("00-4", "cc-4").replace("-01", "-ff")).parse().unwrap();
        assert_eq!(later.to_string(), TEXT);
        let flags: TraceParent = TEXT.replace("-01", "-fe").parse().unwrap();
        assert_eq!(
            flags.to_string(),
            TEXT.replace("-01", "-02"),
            "flags that are not defined are not sent on"
        );
    }

    #[test]
    fn a_tracestate_is_a_bounded_list_of_keys_and_values() {
        let many = |count: usize| (0..count).map(|at| format!("k{at}=v")).collect::<Vec<_>>().join(",");
        for right in ["", "rojo=00f067aa0ba902b7", "congo=t61rcWkgMzE , rojo=a b", "1a@b=c", &many(32)] {
            assert_eq!(check_state(right), Ok(()), "{right}");
        }
        for wrong in
            ["rojo", "=a", "a=", "A=b", "1a=b", "a=b,a=c", "a=b=c", "a=\u{e9}", "a@=b", "a=\u{7}", &many(33)]
        {
            assert_eq!(check_state(wrong), Err(TraceError::State), "{wrong}");
        }
        assert_eq!(check_state(&"a".repeat(513)), Err(TraceError::StateTooLong { size: 513 }));
    }
}
