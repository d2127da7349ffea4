//! One end: what replicas and clients have in common.
//!
//! A thread, `bw-cluster`, looks at the links whenever they change and opens or gives up the ways to peers; another,
//! `bw-message`, runs the handler, if there is one. Everything else happens in the thread that calls.
//!
//! Invariant: when an endpoint is gone, so are its threads, its links, its domain and what it kept.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use busway_protocol::PeerId;
use busway_shm::clock::Deadline;
use busway_wire::limits::CLUSTER_DRAIN_MS;

use super::inbox::Inbox;
use super::outgoing::{Outgoing, Sender};
use super::tidings::{Order, Tidings};
use super::{Counters, Ending, Event, Message, Next, Outcome, Peer, address};
use crate::bus::Bus;
use crate::error::{Code, Error};
use crate::node::{Node, NodeBuilder, PeerView};
use crate::outcome::RecvError;
use crate::ports::lock;
use crate::runtime::Hub;
use busway_wire::Policy;

/// The links are looked at so often while nothing changes.
const LOOK: Duration = Duration::from_secs(1);
/// A peer that is linked and does not read yet is looked at after this, then after twice as long, and so on.
const LOOK_FIRST: Duration = Duration::from_millis(1);
const LOOK_LAST: Duration = Duration::from_millis(250);
/// A handler that holds as many messages as it may is tried again after this.
const HELD: Duration = Duration::from_millis(5);

/// What a [`Replica`](super::Replica) and a [`Client`](super::Client) can both do.
#[derive(Debug)]
pub struct Endpoint {
    own: Peer,
    tidings: Arc<Tidings>,
    outgoing: Arc<Outgoing>,
    inbox: Mutex<Option<Inbox>>,
    handler: Mutex<Option<JoinHandle<Inbox>>>,
    attendant: Option<JoinHandle<()>>,
    node: Option<Node>,
    bus: Bus,
}

impl Endpoint {
    pub(super) fn start(own: PeerId, bus: Bus, node: NodeBuilder) -> Result<Self, Error> {
        // First who reads: peers hear what is wanted here with the first words of a link.
        let pattern = address::inbox(own).map_err(Error::from)?;
        let subscriber = bus.subscriber_of(pattern).policy(Policy::Block).open()?;
        let node = node.open(&bus)?;
        let tidings = Arc::new(Tidings::new(bus.core.clone()));
        let outgoing = Arc::new(Outgoing::new(&bus, own, &tidings));
        let inbox = Inbox::new(subscriber, &tidings, &outgoing, node.hub());
        let mut endpoint = Self {
            own: own.into(),
            tidings: tidings.clone(),
            outgoing: outgoing.clone(),
            inbox: Mutex::new(Some(inbox)),
            handler: Mutex::new(None),
            attendant: None,
            node: None,
            bus,
        };
        let hub = node.hub().clone();
        endpoint.node = Some(node);
        endpoint.attendant = Some(thread("bw-cluster", move || attend(&hub, &outgoing, &tidings))?);
        Ok(endpoint)
    }

    /// Who this is.
    #[must_use]
    pub fn own(&self) -> Peer {
        self.own
    }

    /// Sends to the replica with this index. It never waits.
    pub fn send_to_replica(&self, index: u8, payload: &[u8]) -> Outcome {
        self.outgoing.send(Peer::Replica(index), payload)
    }

    /// Sends to whomever; an answer goes to [`Message::from`]. It never waits.
    pub fn send(&self, to: Peer, payload: &[u8]) -> Outcome {
        self.outgoing.send(to, payload)
    }

    /// What sends, for other threads and for handlers.
    #[must_use]
    pub fn sender(&self) -> Sender {
        Sender { outgoing: self.outgoing.clone() }
    }

    /// The next message; waits for it, at most `timeout`. `None` when the time is up.
    ///
    /// # Errors
    /// [`RecvError::Closed`] when this end is closing, or a handler has taken over; [`RecvError::HoldsExhausted`] when so many
    /// messages are kept by the caller that the next, which is large, cannot be handed out.
    pub fn recv(&self, timeout: Duration) -> Result<Option<Message>, RecvError> {
        let deadline = Deadline::after(timeout);
        let mut inbox = lock(&self.inbox);
        let inbox = inbox.as_mut().ok_or(RecvError::Closed)?;
        inbox.next(deadline)
    }

    /// From now on `handler` gets each message, on a thread of its own, in the order of each sender. What it returns says
    /// whether it is done with the message. A handler that waits holds all senders back.
    ///
    /// # Errors
    /// [`Code::BadSetting`] where there is one already; [`Code::ThreadRefused`].
    pub fn on_message(
        &self,
        mut handler: impl FnMut(&Sender, &Message) -> Next + Send + 'static,
    ) -> Result<(), Error> {
        let Some(mut inbox) = lock(&self.inbox).take() else {
            return Err(Error::new(Code::BadSetting, "there is a handler already")
                .at(format!("the messages to {}", self.own))
                .remedy("set one handler, once"));
        };
        let (sender, tidings) = (self.sender(), self.tidings.clone());
        let running = thread("bw-message", move || {
            loop {
                match inbox.next(Deadline::never()) {
                    Ok(Some(message)) => match handler(&sender, &message) {
                        Next::Taken => {}
                        Next::Suspend => inbox.suspend(message),
                    },
                    Ok(None) => {}
                    Err(RecvError::HoldsExhausted) => tidings.wait(Deadline::after(HELD)),
                    Err(_) => return inbox,
                }
            }
        })?;
        *lock(&self.handler) = Some(running);
        Ok(())
    }

    /// Nothing is handed out until [`Endpoint::resume`]: what comes is kept, and those who send are held back.
    pub fn suspend(&self) {
        self.tidings.pause();
    }

    /// Gives a message back that [`Endpoint::recv`] has returned: it comes again after [`Endpoint::resume`], before all
    /// others of its sender, who is held back meanwhile. Others are not.
    pub fn suspend_message(&self, message: Message) {
        self.tidings.order(Order::Suspend(message));
    }

    /// What was suspended comes again, and nobody is held back any more.
    pub fn resume(&self) {
        self.tidings.order(Order::Resume);
    }

    /// What happened to peers: the next event; waits for it, at most `timeout`. `None` when the time is up, or this end is
    /// closing and everything was told.
    #[must_use]
    pub fn event(&self, timeout: Duration) -> Option<Event> {
        self.tidings.event(timeout)
    }

    /// The peers that messages are queued for now.
    #[must_use]
    pub fn connected(&self) -> Vec<Peer> {
        self.outgoing.up()
    }

    /// Whether messages are queued for `peer` now.
    #[must_use]
    pub fn is_connected(&self, peer: Peer) -> bool {
        self.outgoing.is_up(peer)
    }

    /// Every peer that is configured or known, with the state of its link, since when, and why the last one ended.
    #[must_use]
    pub fn peers(&self) -> Vec<PeerView> {
        self.node.as_ref().map(Node::peers).unwrap_or_default()
    }

    /// What was counted since this end was opened.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.tidings.counters()
    }

    /// The bus that carries the messages of this end: nobody else should use it, but `busway ls` and `busway info` can look.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.bus
    }

    pub(super) fn node(&self) -> Option<&Node> {
        self.node.as_ref()
    }

    /// Begins to end: nothing is sent or handed out from now on, and who waits returns. Returns at once.
    pub fn shutdown(&self) {
        self.outgoing.close();
        self.tidings.close();
    }

    /// Ends in order: shuts down, waits for what is queued to be acknowledged by those that are there, at most a second,
    /// closes the links, and frees everything.
    pub(super) fn end(&mut self) -> Ending {
        self.shutdown();
        let mut ending = Ending::default();
        if let Some(running) = lock(&self.handler).take() {
            // A handler that panicked took its messages along.
            *lock(&self.inbox) = running.join().ok();
        }
        if let Some(node) = &self.node {
            node.hub().nudge();
        }
        if let Some(attendant) = self.attendant.take() {
            // It has nothing to say; a panic was printed when it happened.
            let _ = attendant.join();
        }
        if self.node.is_some() {
            ending.unacknowledged = self.outgoing.drain(Duration::from_millis(CLUSTER_DRAIN_MS));
        }
        // The links end before who reads: what finds no room with us stays with its sender, which tells it as lost.
        drop(self.node.take());
        if let Some(mut inbox) = lock(&self.inbox).take() {
            ending.unread = inbox.unread();
        }
        self.outgoing.clear();
        self.bus.close();
        ending
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.end();
    }
}

/// Follows the links until the end.
fn attend(hub: &Hub, outgoing: &Outgoing, tidings: &Tidings) {
    let (mut seen, mut next) = (0, LOOK_FIRST);
    while !tidings.is_closing() {
        let to_come = outgoing.follow(&hub.links());
        let wait = if to_come { next } else { LOOK };
        let now = hub.wait_for_change(seen, wait);
        next = if now == seen { (next * 2).min(LOOK_LAST) } else { LOOK_FIRST };
        seen = now;
    }
}

fn thread<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, Error> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|error| {
        Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
            .at(name.to_owned())
            .remedy("raise the limit on processes: ulimit -u")
    })
}
