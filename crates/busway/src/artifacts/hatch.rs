//! Where the programs of a host come for artifacts: the node's process answers their requests.
//!
//! ```text
//! program: one open request  -> | bw-hatch-door | -> sessions <- | bw-hatch-tell | <- mailboxes, ends of offers
//!          all other requests -> | bw-hatch      | -> calls -> bw-gossip
//! ```
//!
//! What a program subscribes to or offers is of its session, and the session is of a request that stays open: when the program goes, however it does, the request is not
//! wanted any more, and what it had here ends. What it is told are partial replies to that request, no more than it has room for, so that one that does not read keeps
//! nothing from others and is kept little.
//!
//! It decides nothing about artifacts: what is asked is done as if a thread of this process had asked.
//!
//! Invariant: nothing of a session is left when its request is over, but offers that are kept.

use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use busway_shm::sync::{AtomicBool, AtomicUsize, Ordering};
use busway_wire::hatch::{Ask, Tell, decode_ask, encode, topic, topic_alone, topic_of};
use busway_wire::limits::HATCH_LOOK_MS;

use crate::artifacts::words;
use crate::bus::{Bus, Core};
use crate::error::{Code, Error};
use crate::outcome::RecvError;
use crate::ports::lock;
use crate::responder::{Request, Responder};
use crate::runtime::{Calls, News};

mod clerk;
mod session;
mod taken;

pub(in crate::artifacts) use clerk::check_pattern;
use session::Sessions;

/// So often it is looked whether programs are gone, while there are some.
const LOOK: Duration = Duration::from_millis(HATCH_LOOK_MS);
/// So often lanes are looked for that nobody needs any more, while there are some.
const SWEEP: Duration = Duration::from_secs(1);
/// So often a thread looks at all: whatever was missed is found then.
const SLEEP: Duration = Duration::from_secs(60);

/// What its threads share.
#[derive(Debug)]
struct Shared {
    calls: Arc<Calls>,
    news: Arc<News>,
    /// The number of this hatch.
    number: u64,
    sessions: Mutex<Sessions>,
    /// Large artifacts that come from programs now.
    taken: AtomicUsize,
    ends: AtomicBool,
}

/// Which hosts a node reaches: one that reaches others goes before one that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HatchReach {
    /// It listens, or dials.
    Hosts,
    /// It does neither.
    Alone,
}

/// See the head of this file. Dropping it ends all sessions.
#[derive(Debug)]
pub(crate) struct Hatch {
    shared: Arc<Shared>,
    bus: Bus,
    threads: Vec<JoinHandle<()>>,
}

impl Hatch {
    /// Answers from now on; `calls` are those of the node of this process.
    pub(crate) fn open(bus: &Bus, calls: Arc<Calls>, reach: HatchReach) -> Result<Hatch, Error> {
        let number = Core::new_port()?.0;
        let shared = Arc::new(Shared {
            calls,
            news: Arc::default(),
            number,
            sessions: Mutex::default(),
            taken: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
        });
        let mut hatch = Hatch { shared: shared.clone(), bus: bus.clone(), threads: Vec::new() };
        let clerk = bus.responder(topic_of(number).as_str()).open_reserved()?;
        let door = match reach {
            HatchReach::Hosts => topic(),
            HatchReach::Alone => topic_alone(),
        };
        let door = bus.responder(door.as_str()).open_reserved()?;
        hatch.run("bw-hatch", {
            let shared = shared.clone();
            move || shared.answer(clerk, |shared, request| shared.serve(request))
        })?;
        hatch.run("bw-hatch-tell", {
            let shared = shared.clone();
            move || shared.tell()
        })?;
        hatch.run("bw-hatch-door", move || shared.answer(door, |shared, request| shared.admit(request)))?;
        Ok(hatch)
    }

    fn run(&mut self, name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(body);
        self.threads.push(thread.map_err(|error| {
            Error::new(Code::ThreadRefused, format!("a thread cannot be started: {error}"))
                .at(name.to_owned())
                .remedy("raise the limit on processes: ulimit -u")
        })?);
        Ok(())
    }
}

impl Drop for Hatch {
    fn drop(&mut self) {
        if self.bus.is_inherited() {
            return;
        }
        self.shared.ends.store(true, Ordering::Release); // pairs with Acquire in `Shared::ends`
        self.shared.news.wake();
        self.bus.core.ports.wake_all();
        for thread in self.threads.drain(..) {
            // It has nothing to say; a panic was printed when it happened.
            let _ = thread.join();
        }
        lock(&self.shared.sessions).end_all(&self.shared.calls);
    }
}

impl Shared {
    fn ends(&self) -> bool {
        self.ends.load(Ordering::Acquire) // pairs with Release in `Hatch::drop`
    }

    /// The body of a thread that answers.
    fn answer(self: &Arc<Self>, mut responder: Responder, each: impl Fn(&Arc<Self>, Request)) {
        let news = responder.news();
        while !self.ends() {
            let most = if responder.lanes() > 0 { SWEEP } else { SLEEP };
            let found = news.wait(most, || match responder.look() {
                Ok(None) => (self.ends() || responder.must_look_again()).then_some(Ok(None)),
                found => Some(found),
            });
            match found.and_then(|found| found.unwrap_or(Ok(None))) {
                Ok(Some(request)) => each(self, request),
                Ok(None) => {}
                Err(RecvError::Closed | RecvError::Forked) => return,
                Err(error) => {
                    tracing::warn!(target: "busway::gossip", "programs of this host are not heard: {error}");
                    std::thread::park_timeout(LOOK);
                }
            }
        }
    }

    /// The body of `bw-hatch-tell`.
    fn tell(&self) {
        let mut most = SLEEP;
        while !self.ends() {
            let news = self.news.take(most);
            let mut sessions = lock(&self.sessions);
            for whose in news {
                sessions.tell(&self.calls, whose);
            }
            sessions.look(&self.calls);
            most = if sessions.is_empty() { SLEEP } else { LOOK };
        }
    }

    /// Begins a session.
    fn admit(&self, mut request: Request) {
        if !matches!(decode_ask(&request), Ok((Ask::Open, _))) {
            let error = Error::new(Code::ProtocolBroken, "this is asked of one node, in a session");
            return self
                .refuse(request, &error.at(topic().as_str()).remedy("use the same version of busway"));
        }
        let session = match Core::new_port() {
            Ok(drawn) => drawn.0,
            Err(error) => return self.refuse(request, &error),
        };
        let mut sessions = lock(&self.sessions);
        sessions.look(&self.calls);
        if let Err(error) = sessions.has_room() {
            drop(sessions);
            return self.refuse(request, &error);
        }
        // Whoever is gone already is found by the next look.
        let said = request.reply_part(&encode(&Tell::Opened { session, hatch: self.number }, &[]));
        // It stays open: what lies in the memory of who asked is not kept so long.
        request.let_go();
        if said.is_ok() {
            sessions.admit(session, request);
            self.news.wake();
        }
    }

    fn refuse(&self, request: Request, error: &Error) {
        self.calls.count_refused();
        say(request, &words::refusal(error));
    }
}

fn say(request: Request, word: &Tell) {
    say_with(request, word, &[]);
}

fn say_with(request: Request, word: &Tell, bytes: &[u8]) {
    // Who does not wait for it any more does without.
    let _ = request.reply(&encode(word, bytes));
}
