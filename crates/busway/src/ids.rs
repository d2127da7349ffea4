//! Drawing the ids of messages: ULIDs, each greater than the last of its bus.
//!
//! Within a millisecond the next is the last and one, so that they sort as they were drawn; where the clock goes back they go on from the
//! latest time that was seen. Of the 80 bits that are not time the first is zero when they are drawn: counting up from there does not
//! reach the end. And what a reader remembers, to drop what comes again. It gives no message an id by itself.
//!
//! Invariant: an id is greater than all that were drawn before it from the same bus.

use std::sync::{Arc, Mutex};

use busway_shm::arena::OwnArena;
use busway_shm::clock;
use busway_shm::sys::identity::random_u64;
use busway_wire::MessageId;
use busway_wire::limits::IDS_SEEN_MAX;

use crate::error::{Code, Error, memory};
use crate::ports::lock;

mod seen;

pub(crate) use seen::Seen;

/// Nanoseconds of a millisecond.
const MS: u64 = 1_000_000;

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Ids {
    last: Mutex<Option<MessageId>>,
}

impl Ids {
    pub(crate) fn next(&self) -> Result<MessageId, Error> {
        // Drawn before the lock: most often it is used.
        let drawn = || random_u64().map_err(|error| memory(&error, "drawing an id"));
        let random = (u128::from(drawn()?) << 16) | u128::from(drawn()? & 0xffff);
        Ok(self.after(clock::realtime_ns() / MS, random))
    }

    fn after(&self, now_ms: u64, random: u128) -> MessageId {
        let mut last = lock(&self.last);
        let fresh = MessageId::new(now_ms, random >> 1 & (u128::MAX >> 49));
        let next = match *last {
            Some(last) if last.time_ms() >= now_ms => MessageId(last.0.saturating_add(1)),
            Some(_) | None => fresh,
        };
        *last.insert(next)
    }
}

/// What a reader remembers, of so many ids.
pub(crate) fn seen(
    ids: Option<u32>,
    own: &Arc<OwnArena>,
    at: impl FnOnce() -> String,
) -> Result<Option<Seen>, Error> {
    match ids {
        None => Ok(None),
        Some(ids @ 1..=IDS_SEEN_MAX) => Ok(Some(Seen::new(ids, own))),
        Some(_) => {
            let cause = format!("ids that are remembered must be 1 to {IDS_SEEN_MAX}");
            Err(Error::new(Code::BadSetting, cause)
                .at(at())
                .remedy("remember fewer: the last are what comes again"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Ids;

    #[test]
    fn ids_rise_within_a_millisecond_and_where_the_clock_goes_back() {
        let ids = Ids::default();
        let mut rng = fastrand::Rng::with_seed(80);
        let mut last = ids.after(5, u128::MAX);
        assert_eq!(last.time_ms(), 5, "what is random does not reach into the time");
        for at in 0..100_000_u64 {
            let next = ids.after(rng.u64(0..3) + at / 100, rng.u128(..));
            assert!(next > last, "{next} after {last}");
            last = next;
        }
        assert!((1_000..=1_002).contains(&last.time_ms()), "it keeps to the clock");
    }

    #[test]
    fn two_buses_draw_different_ids() {
        let (one, other) = (Ids::default(), Ids::default());
        let mut all: Vec<_> =
            (0..2_000).map(|at| if at % 2 == 0 { one.next() } else { other.next() }.unwrap()).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 2_000);
    }
}
