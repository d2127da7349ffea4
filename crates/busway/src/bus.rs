//! The bus: where a program joins a domain.
//!
//! A [`Bus`] is a cheap handle; all of its clones share one arena, one control thread and one membership. Publishers
//! and subscribers keep it open. It does not carry messages: they go from arena to arena.
//!
//! Invariant: [`Bus::close`] and the drop of the last handle return within a second and leave nothing behind.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use busway_shm::arena::{ArenaOptions, OwnArena};
use busway_shm::clock::Deadline;
use busway_shm::sync::{AtomicBool, Ordering};
use busway_wire::limits::ARENA_BYTES_DEFAULT;
use busway_wire::{MessageId, Pattern, PortId, Topic};

use crate::artifacts::Artifacts;
use crate::control::{Control, ControlSettings, Role, Runs};
use crate::directory::{Directory, Realm};
use crate::error::{Code, Error, memory};
use crate::ids::Ids;
use crate::inspection::Inspection;
use crate::metrics::ProcessMetrics;
use crate::ports::PortTable;
use crate::publisher::PublisherBuilder;
use crate::puller::PullerBuilder;
use crate::pusher::PusherBuilder;
use crate::requester::RequesterBuilder;
use crate::responder::{Lanes, ResponderBuilder};
use crate::runtime::Calls;
use crate::subscriber::SubscriberBuilder;
use crate::wake::WakeThread;

/// How long joining, registering and listing may take unless the builder says otherwise.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

/// What all handles of a bus share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) own: Arc<OwnArena>,
    pub(crate) ports: Arc<PortTable>,
    pub(crate) control: Control,
    pub(crate) wake: WakeThread,
    pub(crate) timeout: Duration,
    /// Where this process replies; kept by those who do.
    pub(crate) lanes: Mutex<Weak<Lanes>>,
    pub(crate) ids: Ids,
    /// What is wanted of the artifacts of the node of this process, if it has one.
    pub(crate) artifacts: Mutex<Option<Arc<Calls>>>,
    /// The same of a node in another process, while somebody here uses it.
    pub(crate) artifacts_away: Mutex<Weak<Calls>>,
    closed: AtomicBool,
    name: String,
    domain: String,
}

impl Core {
    /// `Ok` while the bus may be used: not closed, and not inherited through `fork`.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), Error> {
        if self.own.forked() {
            return Err(forked());
        }
        if self.closed.load(Ordering::Relaxed) { Err(closed()) } else { Ok(()) }
    }

    #[inline]
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// As [`PortTable::wait_for`]; without a thread for the control plane by stepping it, until there is nothing left to do.
    pub(crate) fn wait_for(
        &self,
        deadline: Deadline,
        quiet: Duration,
        mut done: impl FnMut() -> bool,
    ) -> bool {
        if self.control.due_ns().is_none() {
            return self.ports.wait_for(deadline, quiet, done);
        }
        self.control.step();
        done()
    }

    pub(crate) fn new_port() -> Result<PortId, Error> {
        let random =
            busway_shm::sys::identity::random_u64().map_err(|error| memory(&error, "drawing a port's id"))?;
        Ok(PortId(random.max(1)))
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        if !self.own.forked() {
            self.control.close();
            self.wake.stop(&self.ports);
        }
    }
}

pub(crate) fn closed() -> Error {
    Error::new(Code::Closed, "the bus is closed").remedy("open a new one")
}

pub(crate) fn forked() -> Error {
    Error::new(Code::Forked, "the handle was inherited through fork and belongs to the parent")
        .remedy("open a new bus in the child")
}

/// A membership in a domain: the way to publishers and subscribers.
///
/// ```
/// # fn main() -> Result<(), busway::Error> {
/// let bus = busway::Bus::open("example-of-the-docs")?;
/// let mut subscriber = bus.subscriber("price.*").open()?;
/// let mut publisher = bus.publisher("price.tick").open()?;
/// publisher.send(b"42")?;
/// let sample = subscriber.recv()?;
/// assert_eq!((&sample[..], sample.topic()), (&b"42"[..], "price.tick"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Bus {
    pub(crate) core: Arc<Core>,
}

impl Bus {
    /// Joins the domain of this name, with the defaults of [`Bus::builder`].
    ///
    /// # Errors
    /// As [`BusBuilder::open`].
    pub fn open(domain: &str) -> Result<Bus, Error> {
        Bus::builder().domain(domain).open()
    }

    /// How to join, setting by setting.
    #[must_use]
    pub fn builder() -> BusBuilder {
        BusBuilder::default()
    }

    /// A publisher of `topic`, to be opened with [`PublisherBuilder::open`].
    pub fn publisher(&self, topic: &str) -> PublisherBuilder {
        PublisherBuilder::new(self, Topic::new(topic).map_err(Error::from))
    }

    /// A publisher of a topic that was checked before, or made by [`Topic::service`] or [`Topic::from_bytes`].
    pub fn publisher_of(&self, topic: Topic) -> PublisherBuilder {
        PublisherBuilder::new(self, Ok(topic))
    }

    /// A subscriber of all topics that `pattern` matches: `price.tick`, `price.*`, `price.>`, `^pri`.
    pub fn subscriber(&self, pattern: &str) -> SubscriberBuilder {
        SubscriberBuilder::new(self, Pattern::parse(pattern).map_err(Error::bad_pattern))
    }

    /// A subscriber of a pattern that was checked before.
    pub fn subscriber_of(&self, pattern: Pattern) -> SubscriberBuilder {
        SubscriberBuilder::new(self, Ok(pattern))
    }

    /// A pusher of `topic`: its messages are shared by the pullers of a group. To be opened with [`PusherBuilder::open`].
    ///
    /// ```
    /// # fn main() -> Result<(), busway::Error> {
    /// # use std::time::Duration;
    /// let bus = busway::Bus::open("example-of-work")?;
    /// let mut pusher = bus.pusher("resize").open()?;
    /// pusher.send(b"cat.png")?;
    /// let mut puller = bus.puller("resize").group("resizers").ack(Duration::from_secs(30)).open()?;
    /// let task = puller.recv()?;
    /// assert_eq!((&task[..], task.deliveries()), (&b"cat.png"[..], 1));
    /// task.ack()?;
    /// pusher.flush(Duration::from_secs(5))?;
    /// assert_eq!(pusher.account().delivered, 1);
    /// # Ok(())
    /// # }
    /// ```
    pub fn pusher(&self, topic: &str) -> PusherBuilder {
        PusherBuilder::new(self, Topic::new(topic).map_err(Error::from))
    }

    /// A puller of the work of all pushers whose topics match: each message goes to one puller of its group. See [`Bus::pusher`].
    pub fn puller(&self, pattern: &str) -> PullerBuilder {
        PullerBuilder::new(self, Pattern::parse(pattern).map_err(Error::bad_pattern))
    }

    /// A requester of `topic`: what it asks is answered by one of the responders there. To be opened with [`RequesterBuilder::open`].
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # use std::time::Duration;
    /// let bus = busway::Bus::open("example-of-requests")?;
    /// let mut responder = bus.responder("time").open()?;
    /// let server = std::thread::spawn(move || responder.recv()?.reply(b"noon").map_err(busway::Error::from));
    /// let requester = bus.requester("time").open()?;
    /// let reply = requester.request(b"what time is it?", Duration::from_secs(5))?;
    /// assert_eq!(&reply[..], b"noon");
    /// # server.join().expect("it does not panic")?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn requester(&self, topic: &str) -> RequesterBuilder {
        RequesterBuilder::new(self, Topic::new(topic).map_err(Error::from))
    }

    /// A responder to what is asked on the topics that `pattern` matches: each request goes to one responder. See [`Bus::requester`].
    pub fn responder(&self, pattern: &str) -> ResponderBuilder {
        ResponderBuilder::new(self, pattern)
    }

    /// The artifacts of a topic, or of the topics that a pattern matches: bodies that are to be at many nodes. It is a node that has them: that of this process,
    /// else that of its host, which is asked over the bus and waited for at most a second.
    ///
    /// ```
    /// # fn main() -> Result<(), busway::Error> {
    /// # use std::time::Duration;
    /// use busway::artifacts::Event;
    /// let bus = busway::Bus::open("example-of-artifacts")?;
    /// let node = busway::Node::builder().index(0).open(&bus)?;
    /// let mut subscriber = bus.artifacts("block.>")?.subscriber().open()?;
    /// let offer = bus.artifacts("block.new")?.offer(b"a block").open()?;
    /// let Some(Event::Received(artifact)) = subscriber.recv_timeout(Duration::from_secs(5))? else { panic!("it comes") };
    /// assert_eq!((&artifact.bytes()?[..], artifact.advert().id()), (&b"a block"[..], offer.id()));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Code::BadPattern`]; [`Code::ReservedTopic`]; [`Code::NoNode`] where no process of this host has a node, or only such as are clients; [`Code::Full`] where it serves as many programs as it may; [`Code::Closed`], [`Code::Forked`].
    pub fn artifacts(&self, pattern: &str) -> Result<Artifacts, Error> {
        Artifacts::of(self, pattern)
    }

    /// What the domain looks like now: topics, ports, processes, segments, each read from its owner's memory.
    ///
    /// # Errors
    /// [`Code::HolderSilent`] where the holder of the rendezvous does not answer in time; [`Code::Closed`],
    /// [`Code::Forked`].
    pub fn inspect(&self) -> Result<Inspection, Error> {
        self.core.check()?;
        let list = self.core.control.members(Deadline::after(self.core.timeout))?;
        Ok(crate::inspect::inspect(&list, self.core.ports.domain().as_deref()))
    }

    /// What this process has counted, see [`metrics`](crate::metrics). Nobody is asked.
    ///
    /// # Errors
    /// [`Code::Closed`], [`Code::Forked`].
    pub fn metrics(&self) -> Result<ProcessMetrics, Error> {
        self.core.check()?;
        let Core { own, ports, .. } = &*self.core;
        Ok(crate::metrics::of_own(own.process(), own.tables(), &ports.rings()))
    }

    /// What each living process of the domain has counted, by name, read from its owner's memory.
    ///
    /// # Errors
    /// As [`Bus::inspect`].
    pub fn metrics_of_all(&self) -> Result<Vec<ProcessMetrics>, Error> {
        self.core.check()?;
        let list = self.core.control.members(Deadline::after(self.core.timeout))?;
        Ok(crate::metrics::of_all(&list.members))
    }

    /// An id for a message, greater than all that were drawn from this bus before: a ULID. A message has it when it is sent
    /// [with it](crate::Publisher::in_context).
    ///
    /// # Errors
    /// The bus is closed, or was inherited by `fork`; the kernel gives no random numbers ([`Code::MemoryRefused`]).
    pub fn next_id(&self) -> Result<MessageId, Error> {
        self.core.check()?;
        self.core.ids.next()
    }

    /// The name of this process on the bus.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.core.name
    }

    /// The name of the domain.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.core.domain
    }

    /// Whether this process holds the domain's rendezvous now.
    #[must_use]
    pub fn is_rendezvous(&self) -> bool {
        self.core.control.is_holder()
    }

    /// The domain's socket.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        self.core.control.socket_path()
    }

    /// Samples that this process holds now, and the most that it held at one moment.
    #[must_use]
    pub fn held(&self) -> (u64, u64) {
        (self.core.ports.budget.held(), self.core.ports.budget.high())
    }

    /// Whether this handle was inherited through `fork`: it is the parent's, and so is all that was opened with it.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.core.own.forked()
    }

    /// Whether [`Bus::close`] was called.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.core.is_closed()
    }

    /// Leaves the domain. Publishers and subscribers that still exist return [`Code::Closed`]; threads that wait in
    /// them return. What was published stays readable for those who were subscribed.
    pub fn close(&self) {
        if self.core.own.forked() {
            return;
        }
        self.core.closed.store(true, Ordering::Release);
        self.core.control.close();
        self.core.wake.stop(&self.core.ports);
        self.core.ports.wake_all();
    }
}

/// How a program joins a domain. Made by [`Bus::builder`].
#[derive(Clone, Debug)]
pub struct BusBuilder {
    domain: String,
    directory: Option<PathBuf>,
    name: Option<String>,
    timeout: Duration,
    realm: Realm,
    monitored: bool,
    budget_bytes: Option<u64>,
    arena_bytes: u64,
    role: Role,
    runs: Runs,
}

impl Default for BusBuilder {
    fn default() -> Self {
        Self {
            domain: "default".to_owned(),
            directory: None,
            name: None,
            timeout: TIMEOUT_DEFAULT,
            realm: Realm::default(),
            monitored: true,
            budget_bytes: None,
            arena_bytes: ARENA_BYTES_DEFAULT,
            role: Role::WhereFree,
            runs: Runs::OnThread,
        }
    }
}

impl BusBuilder {
    /// The domain's name: 1 to 64 bytes of letters, digits, `-`, `_`, `.`. Default `default`.
    #[must_use]
    pub fn domain(mut self, domain: &str) -> Self {
        self.domain = domain.to_owned();
        self
    }

    /// The runtime directory. Default `$BUSWAY_DIR`, else `$XDG_RUNTIME_DIR/busway`, else `/tmp/busway-UID`.
    #[must_use]
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// The name of this process, for people: 1 to 64 bytes. Default: the program's name.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.name = Some(name.to_owned());
        self
    }

    /// How long joining, registering a port and listing may take. Default 5 s.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Who may join: the user alone (default), or a group.
    #[must_use]
    pub fn realm(mut self, realm: Realm) -> Self {
        self.realm = realm;
        self
    }

    /// Others do not report when this process hangs: for programs that are stopped on purpose.
    #[must_use]
    pub fn unmonitored(mut self) -> Self {
        self.monitored = false;
        self
    }

    /// The domain's byte budget, at least 1, if this process is the one that makes the domain; a domain that is there keeps
    /// its own. Default: a quarter of the machine's memory or of the cgroup's limit.
    #[must_use]
    pub fn budget(mut self, bytes: u64) -> Self {
        self.budget_bytes = Some(bytes);
        self
    }

    /// Address space of each of this process's two sparse files. Default 64 GiB, at most 256 GiB, less where limits leave
    /// less. Other processes map as much of it as is used.
    #[must_use]
    pub fn arena_bytes(mut self, bytes: u64) -> Self {
        self.arena_bytes = bytes;
        self
    }

    /// Takes the rendezvous over from whoever holds it, as `busway up` does.
    #[must_use]
    pub fn take_role(mut self) -> Self {
        self.role = Role::Take;
        self
    }

    /// The bus has no thread: it goes on when it is stepped, and its calls wait for nothing. It is for the simulator, in a
    /// domain where nobody else is.
    #[doc(hidden)]
    #[must_use]
    pub fn in_steps(mut self) -> Self {
        self.runs = Runs::InSteps;
        self
    }

    /// Joins. Where nobody is, this process holds the rendezvous until it leaves.
    ///
    /// # Errors
    /// A name that breaks its grammar (01xx), a directory, user or holder that refuses or does not answer (02xx),
    /// memory, descriptors or address space that cannot be had (03xx).
    pub fn open(self) -> Result<Bus, Error> {
        if self.budget_bytes == Some(0) {
            return Err(Error::new(Code::BadSetting, "a domain with a budget of 0 bytes can hold nothing")
                .at("the setting `budget`")
                .remedy("give it some mebibytes at least, or leave it out"));
        }
        let name = self.name.unwrap_or_else(program_name);
        let options =
            ArenaOptions { name: name.clone(), bytes_max: self.arena_bytes, monitored: self.monitored };
        let own = OwnArena::create(&options).map_err(|error| memory(&error, "the arena of this process"))?;
        let ports = Arc::new(PortTable::new(own.clone()));
        let settings = ControlSettings {
            directory: self.directory.unwrap_or_else(Directory::default_path),
            domain: self.domain.clone(),
            name: name.clone(),
            timeout: self.timeout,
            realm: self.realm,
            budget_bytes: self.budget_bytes,
            role: self.role,
            monitored: self.monitored,
            runs: self.runs,
        };
        let control = Control::start(settings, own.clone(), ports.clone())?;
        ports.adopt(&control.domain()).map_err(|error| memory(&error, "the domain's budget"))?;
        let wake = WakeThread::default();
        let closed = AtomicBool::new(false);
        let (lanes, timeout, domain) = (Mutex::default(), self.timeout, self.domain);
        let (ids, artifacts, artifacts_away) = (Ids::default(), Mutex::default(), Mutex::default());
        let core = Core {
            own,
            ports,
            control,
            wake,
            timeout,
            lanes,
            ids,
            artifacts,
            artifacts_away,
            closed,
            name,
            domain,
        };
        Ok(Bus { core: Arc::new(core) })
    }
}

fn program_name() -> String {
    let program = std::env::args_os().next().map(PathBuf::from);
    let stem = program.as_deref().and_then(Path::file_name).map(|stem| stem.to_string_lossy().into_owned());
    busway_wire::process_name(&stem.unwrap_or_else(|| "busway".to_owned()))
}
