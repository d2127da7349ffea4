//! The ports of this door: a publisher, a pusher and a requester for each topic that is used, kept open between requests.
//!
//! Opening one takes a ring and asks the rendezvous; so they are kept, the ones that were used last. Who uses one has it alone for that time, and waits for it
//! without a thread. What may wait for the bus runs on a thread of its own kind, of which a topic has one at a time. It goes on when its caller has gone, and so does
//! what its caller is charged: that goes with it, and is given back at its end.
//!
//! Invariant: of each kind there are at most [`PORTS_MAX`].

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busway::{Bus, Code, Error, Topic};
use tokio::sync::{Mutex as Turn, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

use crate::Shared;
use crate::budget::Who;
use crate::count::Count;
use crate::limits::PORTS_MAX;
use crate::turns::{Share, Turns};

/// A port that one at a time uses; `None` before it is opened.
pub(crate) type Slot<P> = Arc<Turn<Option<P>>>;

/// Ports of one kind by topic.
#[derive(Debug)]
pub(crate) struct Kept<P>(Mutex<BTreeMap<Topic, (Slot<P>, u64)>>);

impl<P> Default for Kept<P> {
    fn default() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

impl<P> Kept<P> {
    /// The slot of this topic; in its favour the one that was used least recently may be let go.
    fn slot(&self, topic: &Topic, now: u64) -> (Slot<P>, Option<Slot<P>>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((slot, used)) = kept.get_mut(topic) {
            *used = now;
            return (slot.clone(), None);
        }
        let oldest = kept.iter().min_by_key(|(_, (_, used))| *used).map(|(topic, _)| topic.clone());
        let oldest = oldest.filter(|_| kept.len() >= PORTS_MAX);
        let gone = oldest.and_then(|topic| kept.remove(&topic)).map(|(slot, _)| slot);
        let slot = Slot::<P>::default();
        kept.insert(topic.clone(), (slot.clone(), now));
        (slot, gone)
    }
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Ports {
    pub(crate) bus: Bus,
    pub(crate) publishers: Kept<busway::Publisher>,
    pub(crate) pushers: Kept<busway::Pusher>,
    pub(crate) requesters: Kept<Arc<crate::ask::Desk>>,
    uses: Count,
    threads: Arc<Turns>,
}

/// Under which bounds something is done with a port.
#[derive(Debug)]
pub(crate) struct Terms<C> {
    /// Whose turn on a thread it is.
    pub(crate) who: Who,
    /// Until when it has to have begun.
    pub(crate) until: Instant,
    /// What is charged for it, which is given back when it has been done.
    pub(crate) charged: C,
}

impl Ports {
    pub(crate) fn new(bus: &Bus, threads: &Arc<Turns>) -> Ports {
        Ports {
            bus: bus.clone(),
            publishers: Kept::default(),
            pushers: Kept::default(),
            requesters: Kept::default(),
            uses: Count::default(),
            threads: threads.clone(),
        }
    }

    /// Does something with the port of a topic, which is opened first where there is none, on a thread that may wait; it is told how much of its time is left. What
    /// had not its turn at it and on a thread until then is not done. What is charged for it is given back when it has been done, whoever has gone meanwhile.
    pub(crate) async fn with<P: Send + 'static, T: Send + 'static>(
        &self,
        kept: &Kept<P>,
        topic: &Topic,
        terms: Terms<impl Send + 'static>,
        open: impl FnOnce(&Bus, &Topic) -> Result<P, Error> + Send + 'static,
        deed: impl FnOnce(&mut P, Duration) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let Terms { who, until, charged } = terms;
        let (slot, gone) = kept.slot(topic, self.uses.add(1));
        let turns = async {
            let (port, share) = self.turns(&slot, &who).await?;
            Ok::<_, Error>((port, self.threads.turn(share).await?))
        };
        let (mut port, turn) = timeout_at(until, turns).await.map_err(|_| late())??;
        let (bus, topic) = (self.bus.clone(), topic.clone());
        on_a_thread(move || {
            let _turn = turn;
            let _charged = charged;
            // Closing a port asks the rendezvous too.
            drop(gone);
            if port.is_none() {
                *port = Some(open(&bus, &topic)?);
            }
            match port.as_mut() {
                Some(port) => deed(port, until.saturating_duration_since(Instant::now())),
                None => Err(Error::new(Code::Closed, "the port is closed")),
            }
        })
        .await
    }

    /// The port of a topic, and one of the turns of this caller on a thread. Who has its share of these keeps no port meanwhile: others may want it.
    async fn turns<P>(
        &self,
        slot: &Slot<P>,
        who: &Who,
    ) -> Result<(OwnedMutexGuard<Option<P>>, Share), Error> {
        loop {
            let port = slot.clone().lock_owned().await;
            if let Some(share) = self.threads.try_share(who) {
                return Ok((port, share));
            }
            drop(port);
            // Nor does who waits for a port keep a turn, which it may have use for elsewhere.
            let share = self.threads.share(who).await?;
            if let Ok(port) = slot.clone().try_lock_owned() {
                return Ok((port, share));
            }
        }
    }
}

/// Why nothing was done.
fn late() -> Error {
    Error::new(Code::IngressFull, "others were before it until its time was up, and it was not sent")
        .at("the topic")
        .remedy("send again; see who is behind with busway info")
}

/// Runs what may wait for the bus on a thread for that, when this caller has its turn on one: the turn is what bounds them, and not who waits for it.
pub(crate) async fn waiting<T: Send + 'static>(
    shared: &Shared,
    who: &Who,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let turn = shared.budget.threads.next(who).await?;
    on_a_thread(move || {
        let _turn = turn;
        work()
    })
    .await
}

/// Runs it on a thread of those that may wait, of which there is one for it.
pub(crate) async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(Error::new(Code::Closed, "the door is closing")
            .at("http")
            .remedy("ask again when the node has been started anew")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Code, Instant, Kept, Ports, Terms, Turns, Who, late, timeout_at};
    use busway::{Bus, Principal, Topic};
    use std::future::{Future, poll_fn};
    use std::sync::mpsc;
    use std::task::Poll;
    use std::time::Duration;

    fn topic() -> Topic {
        Topic::new("a").expect("a topic")
    }

    fn terms<C>(time_ms: u64, charged: C) -> Terms<C> {
        Terms { who: Who::Anybody, until: Instant::now() + Duration::from_millis(time_ms), charged }
    }

    /// Ports that have so many threads.
    fn on_a_bus<F: Future<Output = ()>>(threads: usize, test: impl FnOnce(Ports) -> F) {
        let place = std::env::temp_dir().join(format!("busway-http-{:016x}", fastrand::u64(..)));
        let bus = Bus::builder().directory(&place).open().expect("a bus");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(test(Ports::new(&bus, &Turns::new(threads))));
        bus.close();
        let _ = std::fs::remove_dir_all(place);
    }

    #[test]
    fn what_is_charged_is_given_back_when_the_work_has_ended_though_nobody_waits_for_it_any_more() {
        on_a_bus(1, |ports| async move {
            let (go, told) = mpsc::channel::<()>();
            let (began, begun) = mpsc::channel::<()>();
            // Whoever has this end learns when the other is let go.
            let (charged, given_back) = mpsc::channel::<()>();
            let work = move |_: &mut (), _| {
                began.send(()).expect("it is waited for");
                told.recv().map_err(|_| late())
            };
            let (kept, topic) = (Kept::default(), topic());
            let mut asked = Box::pin(ports.with(&kept, &topic, terms(30_000, charged), |_, _| Ok(()), work));
            poll_fn(|context| {
                assert!(asked.as_mut().poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
            begun.recv().expect("it has begun");
            drop(asked);
            assert_eq!(given_back.try_recv(), Err(mpsc::TryRecvError::Empty), "it is charged all the while");
            assert_eq!(ports.threads.taken(), 1, "and has its thread");
            go.send(()).expect("it waits");
            let ended = given_back.recv_timeout(Duration::from_secs(30));
            assert_eq!(ended, Err(mpsc::RecvTimeoutError::Disconnected));
        });
    }

    #[test]
    fn who_has_its_share_of_the_threads_keeps_no_topic_from_others() {
        on_a_bus(2, |ports| async move {
            let [greedy, other] =
                ["greedy", "other"].map(|name| Who::Known(Principal::client(name).expect("a name")));
            let (kept, topic) = (Kept::default(), topic());
            let of = |who: &Who| Terms { who: who.clone(), ..terms(30_000, ()) };
            let held = ports.threads.next(&greedy).await.expect("a turn");
            let mut asked = Box::pin(ports.with(&kept, &topic, of(&greedy), |_, _| Ok(()), |_, _| Ok(1)));
            let mut again = Box::pin(ports.with(&kept, &topic, of(&greedy), |_, _| Ok(()), |_, _| Ok(2)));
            poll_fn(|context| {
                assert!(
                    asked.as_mut().poll(context).is_pending() && again.as_mut().poll(context).is_pending()
                );
                Poll::Ready(())
            })
            .await;
            let done = ports.with(&kept, &topic, of(&other), |_, _| Ok(()), |_, _| Ok(3));
            assert_eq!(done.await.expect("a thread"), 3);
            assert_eq!(ports.threads.taken(), 1);
            drop(held);
            assert_eq!((asked.await.expect("a thread"), again.await.expect("a thread")), (1, 2));
        });
    }

    #[test]
    fn what_has_no_thread_in_its_time_is_told_so_and_never_begun() {
        on_a_bus(1, |ports| async move {
            // The only thread is at something else.
            let other = ports.threads.next(&Who::Anybody).await.expect("a turn");
            let (charged, given_back) = mpsc::channel::<()>();
            let (do_it, done) = mpsc::channel::<()>();
            let work = move |_: &mut (), _| do_it.send(()).map_err(|_| late());
            let (kept, topic) = (Kept::default(), topic());
            let refused = ports.with(&kept, &topic, terms(20, charged), |_, _| Ok(()), work);
            let refused =
                timeout_at(Instant::now() + Duration::from_secs(30), refused).await.expect("in its time");
            assert_eq!(refused.expect_err("no thread").code(), Code::IngressFull);
            assert_eq!(done.try_recv(), Err(mpsc::TryRecvError::Disconnected), "it is let go");
            assert_eq!(given_back.try_recv(), Err(mpsc::TryRecvError::Disconnected), "with what it had");
            drop(other);
            let done = ports.with(&kept, &topic, terms(30_000, ()), |_, _| Ok(()), |_, _| Ok(7)).await;
            assert_eq!(done.expect("a thread"), 7);
        });
    }
}
