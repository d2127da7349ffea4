//! The flow `ingress`: how many requests, bytes of bodies and streams may be under way at once.
//!
//! Nothing is queued: what finds no room is refused, and told when to come again. Room is a count that is given back when what took it is dropped. Where callers can be
//! told apart one has at most half of a room, and of the requests one topic has at most half: who takes all that it may leaves the rest to others.
//!
//! Invariant: what is taken is never above its limit, nor above the share of who took it, and what was taken is given back once.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use busway::{Principal, Topic};
use tokio::time::timeout;

use crate::HttpConfig;
use crate::count::Count;
use crate::limits::{QUESTIONS_MAX, SEND_TIME, THREADS_WAITING_MAX, TRANSFER_BYTES, UPLOADS_MAX};
use crate::refusal::{Cause, Refusal};
use crate::turns::{Turn, Turns};

/// For whom room is taken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Who {
    /// Somebody of this host, where nobody shows a token: all of them have all room.
    Anybody,
    /// Somebody of another host, where nobody shows a token: its address as [`place_of`] has it.
    From(IpAddr),
    /// Who has shown a token.
    Known(Principal),
    /// Whoever uses this topic.
    Topic(Topic),
}

/// What stands for all addresses of one place: the whole of IPv4, and of IPv6 the first half, since a host may choose the other as it likes.
pub(crate) fn place_of(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip => ip,
    }
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// All of it is taken.
    All,
    /// Who asks has its share.
    Share,
}

/// One count with its limit.
#[derive(Debug)]
pub(crate) struct Room {
    taken: Count,
    limit: u64,
    /// What one may have of it, and what each has that has some.
    share: u64,
    shares: Mutex<BTreeMap<Who, u64>>,
}

impl Room {
    /// Room of which anybody may have all.
    pub(crate) fn new(limit: u64) -> Arc<Room> {
        Room::shared(limit, limit)
    }

    /// Room of which one may have so much.
    fn shared(limit: u64, share: u64) -> Arc<Room> {
        Arc::new(Room { taken: Count::default(), limit, share, shares: Mutex::default() })
    }

    /// Takes so much for anybody, if there is so much.
    pub(crate) fn take(self: &Arc<Room>, count: u64) -> Option<Taken> {
        self.take_for(&Who::Anybody, count).ok()
    }

    /// Takes so much for this one, if there is so much for it.
    pub(crate) fn take_for(self: &Arc<Room>, who: &Who, count: u64) -> Result<Taken, Full> {
        self.add(who, count)?;
        Ok(Taken { room: self.clone(), who: who.clone(), count })
    }

    /// Whether there is so much for this one. It may be gone in the next moment.
    pub(crate) fn has(&self, who: &Who, count: u64) -> Result<(), Full> {
        let free = self.limit.saturating_sub(self.taken());
        let own = self.share.saturating_sub(self.shares().get(who).copied().unwrap_or(0));
        match count {
            count if count > free => Err(Full::All),
            count if *who != Who::Anybody && count > own => Err(Full::Share),
            _ => Ok(()),
        }
    }

    fn shares(&self) -> MutexGuard<'_, BTreeMap<Who, u64>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, who: &Who, count: u64) -> Result<(), Full> {
        let all = || self.taken.add_within(count, self.limit).then_some(()).ok_or(Full::All);
        if *who == Who::Anybody {
            return all();
        }
        let mut shares = self.shares();
        let has = shares.get(who).copied().unwrap_or(0);
        let sum = has.checked_add(count).filter(|sum| *sum <= self.share).ok_or(Full::Share)?;
        all()?;
        if sum > 0 {
            shares.insert(who.clone(), sum);
        }
        Ok(())
    }

    fn give_back(&self, who: &Who, count: u64) {
        if *who != Who::Anybody {
            let mut shares = self.shares();
            let left = shares.get(who).map_or(0, |has| has.saturating_sub(count));
            // Who has nothing is not remembered.
            match left {
                0 => _ = shares.remove(who),
                left => _ = shares.insert(who.clone(), left),
            }
        }
        self.taken.sub(count);
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
    who: Who,
    count: u64,
}

impl Taken {
    /// How much it is.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// Takes more, if there is so much.
    pub(crate) fn grow(&mut self, count: u64) -> Result<(), Full> {
        self.room.add(&self.who, count)?;
        self.count += count;
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.give_back(&self.who, self.count);
    }
}

/// What is taken of the flow.
#[derive(Debug)]
pub(crate) struct Budget {
    pub(crate) requests: Arc<Room>,
    /// The same requests by their topics.
    topics: Arc<Room>,
    pub(crate) bytes: Arc<Room>,
    pub(crate) streams: Arc<Room>,
    pub(crate) transfers: Arc<Room>,
    uploads: Arc<Room>,
    /// Questions that look at all of the bus, of which a few go at a time.
    questions: Arc<Turns>,
    /// Threads that wait for the bus.
    pub(crate) threads: Arc<Turns>,
}

/// A request that is under way: its place among all, and among those of its topic.
#[derive(Debug)]
pub(crate) struct Place {
    _taken: (Taken, Taken),
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

/// Half of a room, and of the smallest all.
pub(crate) fn half(limit: u64) -> u64 {
    limit.div_ceil(2)
}

impl Budget {
    pub(crate) fn new(config: &HttpConfig) -> Budget {
        let rooms = |limit: u64| Room::shared(limit, half(limit));
        // One body fits into a share, whatever its size.
        let bytes = half(config.bytes).max(config.body_bytes_max).min(config.bytes);
        Budget {
            requests: rooms(config.in_flight.into()),
            topics: rooms(config.in_flight.into()),
            bytes: Room::shared(config.bytes, bytes),
            streams: rooms(config.streams_max.into()),
            transfers: rooms(config.transfers_max.into()),
            uploads: rooms(UPLOADS_MAX.into()),
            questions: Turns::new(QUESTIONS_MAX),
            threads: Turns::new(THREADS_WAITING_MAX),
        }
    }

    /// A place for an artifact of so many bytes that is put or given.
    pub(crate) fn transfer(&self, who: &Who, way: Way, size: u64) -> Result<Transfer, Refusal> {
        let full = |full, count, key: &str| {
            let said = said(full, count, "artifacts are on their way");
            Refusal::full(Cause::Transfers, said, key).closing()
        };
        let place = self.transfers.take_for(who, 1);
        let place = place.map_err(|why| full(why, self.transfers.limit, "http.transfers_max"))?;
        let upload = (way == Way::In).then(|| self.uploads.take_for(who, 1)).transpose();
        let upload = upload
            .map_err(|why| full(why, self.uploads.limit, "nothing: so many threads write artifacts down"))?;
        let bytes = self.bytes.take_for(who, size.min(TRANSFER_BYTES)).map_err(|why| self.no_bytes(why))?;
        Ok(Transfer { _places: (place, bytes, upload) })
    }

    /// A place among the requests.
    pub(crate) fn request(&self, who: &Who, topic: &Topic) -> Result<Place, Refusal> {
        let one = self.requests.take_for(who, 1).map_err(|why| self.no_requests(why))?;
        let of_topic = self.topics.take_for(&Who::Topic(topic.clone()), 1);
        Ok(Place { _taken: (one, of_topic.map_err(|_| self.no_requests_of(topic))?) })
    }

    /// Whether there is such a place now: who would be refused afterwards need not send a body.
    pub(crate) fn has_request(&self, who: &Who, topic: &Topic) -> Result<(), Refusal> {
        self.requests.has(who, 1).map_err(|why| self.no_requests(why))?;
        self.topics.has(&Who::Topic(topic.clone()), 1).map_err(|_| self.no_requests_of(topic))
    }

    fn no_requests(&self, full: Full) -> Refusal {
        let said = said(full, self.requests.limit, "requests are under way");
        Refusal::full(Cause::Requests, said, "flows.ingress.in_flight")
    }

    fn no_requests_of(&self, topic: &Topic) -> Refusal {
        let said =
            format!("{} requests of topic {topic} are under way, which is its share", self.topics.share);
        Refusal::full(Cause::Requests, said, "flows.ingress.in_flight")
    }

    /// Why there is no room for more bytes.
    pub(crate) fn no_bytes(&self, full: Full) -> Refusal {
        let said = match full {
            Full::All => {
                format!("of {} bytes for all bodies under way there are not enough left", self.bytes.limit)
            }
            Full::Share => format!(
                "of {} bytes for the bodies of one caller there are not enough left",
                self.bytes.share
            ),
        };
        Refusal::full(Cause::Bytes, said, "flows.ingress.bytes").closing()
    }

    /// A place among the streams.
    pub(crate) fn stream(&self, who: &Who) -> Result<Taken, Refusal> {
        let full = |full| {
            let said = said(full, self.streams.limit, "streams are open");
            Refusal::full(Cause::Streams, said, "http.streams_max")
        };
        self.streams.take_for(who, 1).map_err(full)
    }

    /// The turn of a question that looks at all of the bus.
    pub(crate) async fn question(&self, who: &Who) -> Result<Turn, Refusal> {
        let turn = timeout(SEND_TIME, self.questions.next(who)).await;
        turn.ok().and_then(Result::ok).ok_or_else(|| {
            let said =
                format!("{QUESTIONS_MAX} questions about all of the bus are looked into, half of them for one caller, and more wait");
            Refusal::full(Cause::Requests, said, "nothing: ask less often")
        })
    }
}

fn said(full: Full, limit: u64, what: &str) -> String {
    match full {
        Full::All => format!("{limit} {what}, which are as many as may be"),
        Full::Share => format!("{} {what} for this caller, which are as many as one may have", half(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::{Budget, Full, Way, Who, place_of};
    use crate::HttpConfig;
    use crate::limits::QUESTIONS_MAX;
    use crate::refusal::Cause;
    use busway::{Principal, Topic};

    fn budget() -> Budget {
        Budget::new(&HttpConfig {
            in_flight: 4,
            bytes: 10,
            body_bytes_max: 3,
            streams_max: 2,
            transfers_max: 6,
            ..HttpConfig::default()
        })
    }

    fn topic(name: &str) -> Topic {
        Topic::new(name).expect("a topic")
    }

    #[test]
    fn what_is_taken_is_given_back_once_and_never_above_the_limit() {
        let (budget, who) = (budget(), Who::Anybody);
        let request = |name: &str| budget.request(&who, &topic(name));
        let kept: Vec<_> = ["a", "b", "c", "d"].map(|name| request(name).expect("room")).into();
        assert_eq!(request("e").expect_err("no room").cause, Cause::Requests);
        assert!(budget.has_request(&who, &topic("e")).is_err());
        drop(kept);
        assert!(request("e").is_ok());
        assert_eq!((budget.requests.taken(), budget.topics.taken()), (0, 0));
        let mut bytes = budget.bytes.take(4).expect("room");
        assert!(bytes.grow(6).is_ok() && budget.bytes.take(u64::MAX).is_none());
        assert_eq!((bytes.grow(1), budget.bytes.taken(), bytes.count()), (Err(Full::All), 10, 10));
        drop(bytes);
        assert_eq!(budget.bytes.taken(), 0);
        // Those that are put leave room for those that are given.
        let put = |size| budget.transfer(&who, Way::In, size);
        let get = |size| budget.transfer(&who, Way::Out, size);
        let some: Vec<_> = (0..4).map(|_| put(1).expect("room")).collect();
        assert_eq!(put(1).expect_err("no room").cause, Cause::Transfers);
        let given = (get(1).expect("room"), get(5).expect("room"));
        assert_eq!(get(0).expect_err("no room").cause, Cause::Transfers);
        drop(some);
        assert_eq!(put(7).expect_err("no room").cause, Cause::Bytes);
        drop(given);
        assert_eq!((budget.transfers.taken(), budget.uploads.taken(), budget.bytes.taken()), (0, 0, 0));
        let streams = [budget.stream(&who).expect("room"), budget.stream(&who).expect("room")];
        assert!(budget.stream(&who).is_err());
        drop(streams);
        assert!(budget.stream(&who).is_ok());
    }

    #[test]
    fn one_caller_and_one_topic_have_half_of_each_room_and_others_have_the_rest() {
        let budget = budget();
        let known = |name: &str| Who::Known(Principal::client(name).expect("a name"));
        let (greedy, other) = (known("greedy"), Who::From([10, 0, 0, 5].into()));
        let _two = ["a", "b"].map(|name| budget.request(&greedy, &topic(name)).expect("room"));
        assert!(
            budget.has_request(&greedy, &topic("c")).is_err()
                && budget.request(&greedy, &topic("c")).is_err()
        );
        let third = budget.request(&other, &topic("a")).expect("room of others");
        assert!(
            budget.has_request(&other, &topic("a")).is_err() && budget.request(&other, &topic("a")).is_err()
        );
        assert_eq!(budget.requests.taken(), 3, "what was refused for its topic has no place");
        drop(third);
        assert!(budget.request(&other, &topic("a")).is_ok());
        let mut bytes = budget.bytes.take_for(&greedy, 4).expect("room");
        assert_eq!(
            (bytes.grow(2), budget.bytes.has(&greedy, 2), bytes.grow(1)),
            (Err(Full::Share), Err(Full::Share), Ok(()))
        );
        assert!(budget.bytes.take_for(&other, 5).is_ok());
        let _stream = budget.stream(&greedy).expect("room");
        assert!(budget.stream(&greedy).is_err() && budget.stream(&other).is_ok());
        drop(bytes);
        let _puts = [(); 2].map(|()| budget.transfer(&greedy, Way::In, 1).expect("room"));
        assert!(budget.transfer(&greedy, Way::In, 1).is_err() && budget.transfer(&other, Way::In, 1).is_ok());
        let _get = budget.transfer(&greedy, Way::Out, 1).expect("room");
        assert!(
            budget.transfer(&greedy, Way::Out, 1).is_err() && budget.transfer(&other, Way::Out, 1).is_ok()
        );
        // Who has nothing more is forgotten.
        assert_eq!(budget.requests.shares().len(), 1);
    }

    #[test]
    fn a_host_with_many_addresses_of_ipv6_is_one_caller_and_two_of_ipv4_are_two() {
        let of = |text: &str| place_of(text.parse().expect("an address"));
        assert_eq!(of("2001:db8:1:2:3:4:5:6"), of("2001:db8:1:2:ffff::1"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
    }

    #[test]
    fn a_few_questions_about_all_of_the_bus_go_at_a_time_and_more_are_told_to_come_again() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let budget = budget();
            let mut turns = Vec::new();
            for _ in 0..QUESTIONS_MAX {
                turns.push(budget.question(&Who::Anybody).await.expect("a turn"));
            }
            assert_eq!(budget.question(&Who::Anybody).await.expect_err("no turn").cause, Cause::Requests);
            turns.pop();
            assert!(budget.question(&Who::Anybody).await.is_ok());
        });
    }
}
