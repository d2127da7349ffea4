//! The ports of this door: a publisher, a pusher and a requester for each topic that is used, kept open between requests.
//!
//! Opening one takes a ring and asks the rendezvous; so they are kept, the ones that were used last. Who uses one has it alone for that time, and waits for it
//! without a thread. What may wait for the bus runs on a thread of its own kind, of which a topic has one at a time. It goes on when its caller has gone, and so does
//! what its caller is charged: that goes with it, and is given back at its end.
//!
//! Invariant: of each kind there are at most [`PORTS_MAX`].

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use busway::{Bus, Code, Error, Topic};
use tokio::sync::Mutex as Turn;
use tokio::time::{Instant, timeout_at};

use crate::count::Count;
use crate::limits::PORTS_MAX;

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
}

impl Ports {
    pub(crate) fn new(bus: &Bus) -> Ports {
        Ports {
            bus: bus.clone(),
            publishers: Kept::default(),
            pushers: Kept::default(),
            requesters: Kept::default(),
            uses: Count::default(),
        }
    }

    /// Does something with the port of a topic, which is opened first where there is none, on a thread that may wait; it is told how much of its time is left. What
    /// had not its turn and a thread until then is not done. What is charged for it is given back when it has been done, whoever has gone meanwhile.
    pub(crate) async fn with<P: Send + 'static, T: Send + 'static>(
        &self,
        kept: &Kept<P>,
        topic: &Topic,
        (until, charged): (Instant, impl Send + 'static),
        open: impl FnOnce(&Bus, &Topic) -> Result<P, Error> + Send + 'static,
        deed: impl FnOnce(&mut P, Duration) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (slot, gone) = kept.slot(topic, self.uses.add(1));
        let mut port = timeout_at(until, slot.lock_owned()).await.map_err(|_| late())?;
        let (bus, topic) = (self.bus.clone(), topic.clone());
        waiting_until(until, move || {
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
}

/// Why nothing was done.
fn late() -> Error {
    Error::new(Code::IngressFull, "others were before it until its time was up, and it was not sent")
        .at("the topic")
        .remedy("send again; see who is behind with busway info")
}

/// As [`waiting`], where it has a thread until then; else it is never begun.
async fn waiting_until<T: Send + 'static>(
    until: Instant,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    fn claim<W>(work: &Mutex<Option<W>>) -> Option<W> {
        work.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
    let work = Arc::new(Mutex::new(Some(work)));
    let claimed = work.clone();
    let mut done = pin!(waiting(move || claim(&claimed).map_or_else(|| Err(late()), |work| work())));
    match timeout_at(until, done.as_mut()).await {
        Ok(done) => done,
        Err(_) => match claim(&work) {
            Some(_) => Err(late()),
            // What was begun ends in its own time.
            None => done.await,
        },
    }
}

/// Runs what may wait for the bus on a thread for that.
pub(crate) async fn waiting<T: Send + 'static>(
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
    use super::{Code, Instant, Kept, Ports, late, waiting, waiting_until};
    use busway::{Bus, Topic};
    use std::future::Future;
    use std::sync::mpsc;
    use std::time::Duration;

    #[test]
    fn what_is_charged_is_given_back_when_the_work_has_ended_though_nobody_waits_for_it_any_more() {
        let place = std::env::temp_dir().join(format!("busway-http-{:016x}", fastrand::u64(..)));
        let bus = Bus::builder().directory(&place).open().expect("a bus");
        let (ports, kept, topic) =
            (Ports::new(&bus), Kept::<()>::default(), Topic::new("a").expect("a topic"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let (go, told) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel::<()>();
        // Whoever has this end learns when the other is let go.
        let (charged, given_back) = mpsc::channel::<()>();
        runtime.block_on(async {
            let until = Instant::now() + Duration::from_secs(30);
            let open = |_: &Bus, _: &Topic| Ok(());
            let work = move |_: &mut (), _| {
                began.send(()).expect("it is waited for");
                told.recv().map_err(|_| late())
            };
            let mut asked = Box::pin(ports.with(&kept, &topic, (until, charged), open, work));
            std::future::poll_fn(|context| {
                assert!(asked.as_mut().poll(context).is_pending());
                std::task::Poll::Ready(())
            })
            .await;
            begun.recv().expect("it has begun");
            drop(asked);
            assert_eq!(given_back.try_recv(), Err(mpsc::TryRecvError::Empty), "it is charged all the while");
            go.send(()).expect("it waits");
            assert_eq!(
                given_back.recv_timeout(Duration::from_secs(30)),
                Err(mpsc::RecvTimeoutError::Disconnected)
            );
        });
        bus.close();
        let _ = std::fs::remove_dir_all(place);
    }

    #[test]
    fn what_has_no_thread_in_its_time_is_told_so_and_never_begun() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(1)
            .enable_time()
            .build()
            .expect("a runtime");
        let (go, told) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel::<()>();
        runtime.block_on(async {
            // The only thread is at something else.
            let other = tokio::spawn(waiting(move || {
                began.send(()).expect("it is waited for");
                told.recv().map_err(|_| late())
            }));
            begun.recv().expect("it has begun");
            let until = Instant::now() + Duration::from_millis(20);
            let (do_it, done) = mpsc::channel::<()>();
            let refused = waiting_until(until, move || do_it.send(()).map_err(|_| late())).await;
            assert_eq!(refused.expect_err("no thread").code(), Code::IngressFull);
            assert!(done.recv().is_err(), "it is let go, with what it had");
            go.send(()).expect("it waits");
            assert!(other.await.expect("it ends").is_ok());
            // What has begun is not given up, however late it is.
            let late = waiting_until(Instant::now() + Duration::from_secs(30), || Ok(7)).await;
            assert_eq!(late.expect("done"), 7);
        });
    }
}
