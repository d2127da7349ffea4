//! The id of a message: a ULID, which sorts by the time at which it was drawn.
//!
//! 48 bits of milliseconds since 1970 and 80 others, in text 26 digits of Crockford's base 32. It draws none: who has a clock does.
//!
//! Invariant: each id has one text in upper case, and sorts as it does.

use core::fmt;
use core::str::FromStr;

/// The digits: no I, L, O or U.
const DIGITS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Bits that are not time.
const RANDOM_BITS: u32 = 80;

/// The id of a message, which it keeps however often it is sent.
///
/// ```
/// use busway_wire::MessageId;
/// let id: MessageId = "01ARZ3NDEKTSV4RRFFQ69G5FAV".parse()?;
/// assert_eq!(id.to_string(), "01ARZ3NDEKTSV4RRFFQ69G5FAV");
/// assert_eq!(id.time_ms(), 1_469_922_850_259);
/// # Ok::<(), busway_wire::MessageIdError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub u128);

/// A text that is no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageIdError;

impl fmt::Display for MessageIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id is a ULID: 26 digits of Crockford's base 32, the first at most 7")
    }
}

impl core::error::Error for MessageIdError {}

impl MessageId {
    /// Bytes of it in a message.
    pub const SIZE: usize = 16;
    /// Digits of its text.
    pub const DIGITS: usize = 26;

    /// An id of this time, in milliseconds since 1970, and these other 80 bits; what is beyond either is left away.
    #[must_use]
    pub const fn new(time_ms: u64, random: u128) -> MessageId {
        MessageId(((time_ms as u128) << RANDOM_BITS) | (random & ((1 << RANDOM_BITS) - 1)))
    }

    /// When it was drawn: milliseconds since 1970.
    #[must_use]
    pub const fn time_ms(self) -> u64 {
        (self.0 >> RANDOM_BITS) as u64
    }

    /// Its bytes, as a message has them: the lowest first, as of every number there.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; MessageId::SIZE] {
        self.0.to_le_bytes()
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; MessageId::DIGITS];
        let mut rest = self.0;
        for digit in text.iter_mut().rev() {
            *digit = DIGITS[(rest & 31) as usize];
            rest >>= 5;
        }
        f.write_str(core::str::from_utf8(&text).unwrap_or_default())
    }
}

impl FromStr for MessageId {
    type Err = MessageIdError;

    fn from_str(text: &str) -> Result<MessageId, MessageIdError> {
        // Of 130 bits the first two are zero.
        if text.len() != MessageId::DIGITS || text.as_bytes()[0] > b'7' {
            return Err(MessageIdError);
        }
        let digit = |byte: u8| DIGITS.iter().position(|digit| *digit == byte.to_ascii_uppercase());
        text.bytes().try_fold(MessageId(0), |id, byte| {
            digit(byte).map(|digit| MessageId((id.0 << 5) | digit as u128)).ok_or(MessageIdError)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{MessageId, MessageIdError};
    use alloc::string::ToString;

    #[test]
    fn ids_come_out_as_they_went_in_and_sort_as_their_texts_do() {
        let mut rng = fastrand::Rng::with_seed(26);
        let mut last = (MessageId(0), MessageId(0).to_string());
        assert_eq!(last.1, "0".repeat(26));
        for _ in 0..1_000 {
            let id = MessageId(rng.u128(..) >> rng.u32(0..128));
            let text = id.to_string();
            assert_eq!((text.parse(), text.to_lowercase().parse()), (Ok(id), Ok(id)));
            assert_eq!(id.cmp(&last.0), text.cmp(&last.1));
            assert_eq!(MessageId::new(id.time_ms(), id.0), id);
            last = (id, text);
        }
        assert_eq!(MessageId(u128::MAX).to_string(), "7ZZZZZZZZZZZZZZZZZZZZZZZZZ");
    }

    #[test]
    fn what_is_no_id_is_refused() {
        let right = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
        for wrong in [
            "",
            &right[1..],
            "801ARZ3NDEKTSV4RRFFQ69G5FA",
            "01ARZ3NDEKTSV4RRFFQ69G5FAI",
            "01ARZ3NDEKTSV4RRFFQ69G5FAU",
            "01ARZ3NDEKTSV4RRFFQ69G5F-V",
            "01ARZ3NDEKTSV4RRFFQ69G5F\u{e9}",
        ] {
            assert_eq!(wrong.parse::<MessageId>(), Err(MessageIdError), "{wrong}");
        }
    }
}
