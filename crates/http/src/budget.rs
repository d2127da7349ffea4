//! The flow `ingress`: how many requests, bytes of bodies and streams may be under way at once.
//!
//! Nothing is queued: what finds no room is refused, and told when to come again. Room is a count that is given back when what took it is dropped.
//!
//! Invariant: what is taken is never above its limit, and what was taken is given back once.

use std::sync::Arc;

use crate::count::Count;
use crate::limits::{TRANSFER_BYTES, UPLOADS_MAX};
use crate::refusal::{Cause, Refusal};

/// One count with its limit.
#[derive(Debug)]
pub(crate) struct Room {
    taken: Count,
    limit: u64,
}

impl Room {
    pub(crate) fn new(limit: u64) -> Arc<Room> {
        Arc::new(Room { taken: Count::default(), limit })
    }

    /// Takes so much, if there is so much.
    pub(crate) fn take(self: &Arc<Room>, count: u64) -> Option<Taken> {
        self.taken.add_within(count, self.limit).then(|| Taken { room: self.clone(), count })
    }

    pub(crate) fn taken(&self) -> u64 {
        self.taken.get()
    }

    pub(crate) fn limit(&self) -> u64 {
        self.limit
    }
}

/// Room that is taken. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Taken {
    room: Arc<Room>,
    count: u64,
}

impl Taken {
    /// Takes more; false where there is none.
    pub(crate) fn grow(&mut self, count: u64) -> bool {
        let Some(more) = self.room.take(count) else { return false };
        self.count += more.count;
        // It is ours from here on.
        std::mem::forget(more);
        true
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.taken.sub(self.count);
    }
}

/// What is taken of the flow.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) requests: Arc<Room>,
    pub(crate) bytes: Arc<Room>,
    pub(crate) streams: Arc<Room>,
    pub(crate) transfers: Arc<Room>,
    uploads: Arc<Room>,
}

/// An artifact on its way: its place among these, what it has in memory, and its thread where it has one.
#[derive(Debug)]
pub(crate) struct Transfer {
    _places: (Taken, Taken, Option<Taken>),
}

/// Which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    In,
    Out,
}

impl Budget {
    pub(crate) fn new(in_flight: u32, bytes: u64, streams: u32, transfers: u32) -> Budget {
        Budget {
            requests: Room::new(in_flight.into()),
            bytes: Room::new(bytes),
            streams: Room::new(streams.into()),
            transfers: Room::new(transfers.into()),
            uploads: Room::new(UPLOADS_MAX.into()),
        }
    }

    /// A place for an artifact of so many bytes that is put or given.
    pub(crate) fn transfer(&self, way: Way, size: u64) -> Result<Transfer, Refusal> {
        let full = |count, key: &str| {
            let said = format!("{count} artifacts are on their way, which are as many as may be");
            Refusal::full(Cause::Transfers, said, key).closing()
        };
        let place = self.transfers.take(1);
        let place = place.ok_or_else(|| full(self.transfers.limit, "http.transfers_max"))?;
        let upload = (way == Way::In).then(|| self.uploads.take(1));
        if let Some(None) = upload {
            return Err(full(self.uploads.limit, "nothing: so many threads write artifacts down"));
        }
        let bytes = self.bytes.take(size.min(TRANSFER_BYTES)).ok_or_else(|| self.no_bytes())?;
        Ok(Transfer { _places: (place, bytes, upload.flatten()) })
    }

    /// A place among the requests.
    pub(crate) fn request(&self) -> Result<Taken, Refusal> {
        let full = || {
            let said = format!("{} requests are under way, which are as many as may be", self.requests.limit);
            Refusal::full(Cause::Requests, said, "flows.ingress.in_flight")
        };
        self.requests.take(1).ok_or_else(full)
    }

    /// Why there is no room for more bytes.
    pub(crate) fn no_bytes(&self) -> Refusal {
        let said =
            format!("of {} bytes for all bodies under way there are not enough left", self.bytes.limit);
        Refusal::full(Cause::Bytes, said, "flows.ingress.bytes").closing()
    }

    /// A place among the streams.
    pub(crate) fn stream(&self) -> Result<Taken, Refusal> {
        let full = || {
            let said = format!("{} streams are open, which are as many as may be", self.streams.limit);
            Refusal::full(Cause::Streams, said, "http.streams_max")
        };
        self.streams.take(1).ok_or_else(full)
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Way};
    use crate::refusal::Cause;

    #[test]
    fn what_is_taken_is_given_back_once_and_never_above_the_limit() {
        let budget = Budget::new(2, 10, 1, 6);
        let one = budget.request().expect("room");
        let two = budget.request().expect("room");
        assert_eq!(budget.request().expect_err("no room").cause, Cause::Requests);
        drop(one);
        let three = budget.request().expect("room again");
        drop((two, three));
        assert_eq!(budget.requests.taken(), 0);
        let mut bytes = budget.bytes.take(4).expect("room");
        assert!(bytes.grow(6) && !bytes.grow(1) && budget.bytes.take(u64::MAX).is_none());
        assert_eq!(budget.bytes.taken(), 10);
        drop(bytes);
        assert_eq!(budget.bytes.taken(), 0);
        // Those that are put leave room for those that are given.
        let put = |size| budget.transfer(Way::In, size);
        let some: Vec<_> = (0..4).map(|_| put(1).expect("room")).collect();
        assert_eq!(put(1).expect_err("no room").cause, Cause::Transfers);
        let given =
            (budget.transfer(Way::Out, 1).expect("room"), budget.transfer(Way::Out, 5).expect("room"));
        assert_eq!(budget.transfer(Way::Out, 0).expect_err("no room").cause, Cause::Transfers);
        drop(some);
        assert_eq!(put(7).expect_err("no room").cause, Cause::Bytes);
        drop(given);
        assert_eq!((budget.transfers.taken(), budget.uploads.taken(), budget.bytes.taken()), (0, 0, 0));
        let stream = budget.stream().expect("room");
        assert!(budget.stream().is_err());
        drop(stream);
        assert!(budget.stream().is_ok());
    }
}
