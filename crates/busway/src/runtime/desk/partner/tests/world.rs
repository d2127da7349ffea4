//! Two hosts side by side, and the link between them: each has a bus, the machines for its peer and the channel to it. What is said goes
//! through the codec, and waits on its way for as long as the dice say.
//!
//! Time is virtual, as far as the machines ask for it. Ports are real: what the control threads have to notice is waited for. With each connection a host may want
//! the source of large words that did not, or want it no more; what is large is cut into pieces of some hundred bytes.
//!
//! Invariant: what is on the way of one source arrives in its order, or not at all because the link was cut; between the two sources of a host the dice decide.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use busway_protocol::{Deed, Delivery, Input};
use busway_shm::clock;
use busway_wire::work::{Word, decode};
use busway_wire::{Acknowledge, Group, Header, PortId, ProcessId, Topic, responders};

use crate::control::Watched;
use crate::puller::{Puller, Task};
use crate::pusher::Pusher;
use crate::requester::{Pending, RequestError, Requester};
use crate::responder::{Request, Responder};
use crate::runtime::desk::channel::{Between, Channel, Course};
use crate::runtime::desk::far::Far;
use crate::runtime::desk::near::Near;
use crate::runtime::desk::opener::{For, Opened, Wanted};
use crate::runtime::desk::partner::{Heard, Partner};
use crate::runtime::desk::pulls::Pulls;
use crate::runtime::desk::scene::Scene;
use crate::runtime::desk::{Context, Says};
use crate::runtime::import::Inputs;

const PATIENCE: Duration = Duration::from_secs(30);
/// The groups: what nobody acknowledges, and what is acknowledged within a second.
pub(super) const GROUPS: [&str; 2] = ["plain", "kept"];
const WITHIN: Duration = Duration::from_secs(1);
/// Pullers of one group on one host at most.
const PULLERS_MAX: usize = 2;

/// Bytes behind what something says: none, or so many that it is large.
fn sometimes_large(dice: &mut fastrand::Rng) -> usize {
    if dice.u8(..4) == 0 { dice.usize(9_000..11_000) } else { 0 }
}

pub(super) fn until(what: &str, mut done: impl FnMut() -> bool) {
    let until_ns = clock::monotonic_ns() + PATIENCE.as_nanos() as u64;
    while !done() {
        assert!(clock::monotonic_ns() < until_ns, "in vain: {what}");
        std::thread::yield_now();
    }
}

/// Bytes of a piece of what is large.
const PIECE_BYTES: usize = 700;

/// What a session knows of one source, on each side of it.
#[derive(Clone, Copy, Default)]
struct Known {
    /// The peer said from where on it hears us.
    may_say: bool,
    /// Whose words come, and how far they were heard and taken.
    theirs: Option<PortId>,
    heard: u64,
    taken: u64,
    /// Our source, as it was announced last, and so far the peer has confirmed what we said.
    announced: Option<PortId>,
    behind: u64,
}

/// What goes over the link, of what a session would make of it.
enum Frame {
    /// A source is announced, which says again what is behind that.
    Source {
        source: PortId,
        behind: u64,
    },
    /// So far that source was heard: behind it is said.
    Heard {
        source: PortId,
        to: u64,
    },
    /// So far it was taken.
    Taken {
        source: PortId,
        to: u64,
    },
    Word {
        header: Header,
        body: Vec<u8>,
    },
}

/// One host.
pub(super) struct Host {
    pub(super) scene: Scene,
    pub(super) channel: Channel,
    inputs: Inputs,
    pub(super) partner: Option<(Between, Partner)>,
    pub(super) pulls: Pulls,
    /// Its session knows that the link stands.
    up: bool,
    known: [Known; 2],
    pub(super) pushers: BTreeMap<&'static str, Pusher>,
    pub(super) pullers: Vec<(&'static str, Puller)>,
    pub(super) hand: Vec<(&'static str, Task)>,
    pub(super) requester: Option<Requester>,
    pub(super) pending: Vec<Pending>,
    pub(super) responders: Vec<Responder>,
    pub(super) requests: Vec<Request>,
    pub(super) begun_anew: u64,
}

impl Host {
    fn new(scene: Scene) -> Self {
        let channel = channel(&scene);
        Self {
            scene,
            channel,
            inputs: Inputs::new(),
            partner: None,
            pulls: Pulls::default(),
            up: false,
            known: [Known::default(); 2],
            pushers: BTreeMap::new(),
            pullers: Vec::new(),
            hand: Vec::new(),
            requester: None,
            pending: Vec::new(),
            responders: Vec::new(),
            requests: Vec::new(),
            begun_anew: 0,
        }
    }

    fn context(&self, now_ns: u64, between: Between) -> Context<'_> {
        let mut context = self.scene.context(now_ns);
        context.whom.between = between;
        context
    }

    pub(super) fn near(&self) -> Option<&Near> {
        self.partner.as_ref().map(|(_, partner)| &partner.near)
    }

    pub(super) fn far(&self) -> Option<&Far> {
        self.partner.as_ref().map(|(_, partner)| &partner.far)
    }

    fn pullers_of(&self, group: &str) -> usize {
        self.pullers.iter().filter(|(of, _)| *of == group).count()
    }
}

fn channel(scene: &Scene) -> Channel {
    let mut channel = Channel::new(&scene.bus.core, "host").unwrap();
    channel.set_piece_bytes(PIECE_BYTES);
    channel
}

/// Both, and what is between them. What is in `ways[0]` was said by the first.
pub(super) struct World {
    pub(super) dice: fastrand::Rng,
    pub(super) hosts: [Host; 2],
    ways: [[VecDeque<Frame>; 2]; 2],
    /// Who wants the source of large words.
    two: [bool; 2],
    pub(super) now_ns: u64,
    pub(super) topics: String,
    next: u64,
    /// Of each task that was pushed: its group, and in what deliveries it was done.
    pub(super) done: BTreeMap<u64, Vec<u32>>,
    pub(super) pushed: BTreeMap<&'static str, Vec<u64>>,
    /// Words that were lost on their way.
    pub(super) gaps: u64,
    pub(super) ended: BTreeMap<String, u64>,
    pub(super) asked: u64,
    /// Pieces of large words that went.
    pub(super) pieces: u64,
    /// Rights change while the desk looks.
    pub(super) changes: bool,
}

impl World {
    pub(super) fn new(scenes: [Scene; 2], seed: u64) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let two = [dice.u8(..8) > 0, dice.u8(..8) > 0];
        let mut world = Self {
            dice,
            hosts: scenes.map(Host::new),
            ways: Default::default(),
            two,
            now_ns: clock::monotonic_ns() + 3_600_000_000_000,
            topics: format!("s{seed}"),
            next: 0,
            done: BTreeMap::new(),
            pushed: BTreeMap::new(),
            gaps: 0,
            ended: BTreeMap::new(),
            asked: 0,
            pieces: 0,
            changes: false,
        };
        world.connect();
        world
    }

    /// The buses are used again.
    pub(super) fn into_scenes(self) -> [Scene; 2] {
        self.hosts.map(|host| host.scene)
    }

    pub(super) fn one_of_two(&mut self) -> usize {
        self.dice.usize(..2)
    }

    /// The link stands again, if it did not.
    pub(super) fn connect(&mut self) {
        for at in 0..2 {
            let changes = !self.hosts[at].up && self.dice.u8(..8) == 0;
            self.two[at] ^= changes;
        }
        for at in 0..2 {
            if self.hosts[at].up {
                continue;
            }
            self.ways[at].iter_mut().for_each(VecDeque::clear);
            let host = &mut self.hosts[at];
            host.up = true;
            host.channel.established(1, &mut host.inputs);
            // Who wants it no more hears nothing of it.
            let known = &mut host.known[Course::Large as usize];
            if !self.two[at] && known.theirs.take().is_some() {
                (known.heard, known.taken) = (0, 0);
                host.channel.close(Course::Large, &mut host.inputs);
            }
            for course in Course::ALL {
                let known = &mut host.known[course as usize];
                known.may_say = false;
                if course == Course::Large && !self.two[1 - at] {
                    host.channel.unwanted(course as u32, &mut host.inputs);
                    continue;
                }
                host.channel.wanted(course, course as u32, &mut host.inputs);
                let (source, behind) = (host.channel.source(course), known.behind);
                self.ways[at][course as usize].push_back(Frame::Source { source, behind });
            }
            self.carry_out(at);
        }
    }

    /// The connection ends; who `misses` it notices.
    pub(super) fn cut(&mut self, misses: [bool; 2]) {
        self.ways.iter_mut().flatten().for_each(VecDeque::clear);
        for (host, misses) in self.hosts.iter_mut().zip(misses) {
            // The other notices when there is a new one.
            if misses {
                host.channel.lost();
            }
            host.up = false;
            for (known, course) in host.known.iter_mut().zip(Course::ALL) {
                known.may_say = false;
                host.channel.abort(course);
            }
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.hosts.iter().all(|host| host.up)
    }

    /// Its peer was struck from the list, and is there again.
    pub(super) fn forget(&mut self, at: usize) {
        self.cut([true; 2]);
        let host = &mut self.hosts[at];
        if let Some((between, mut partner)) = host.partner.take() {
            partner.forget(&host.context(self.now_ns, between), &mut Says::default());
        }
        host.channel = channel(&host.scene);
        let announced = host.known.map(|known| known.announced);
        host.known = announced.map(|announced| Known { announced, ..Known::default() });
        host.inputs.clear();
    }

    /// What the channel asks of its session.
    fn carry_out(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        for input in host.inputs.drain(..) {
            match input {
                Input::Published { source, sequence } => {
                    let mut all = host.known.iter_mut().zip(&mut self.ways[at]);
                    let Some((known, way)) = all.find(|(known, _)| known.theirs == Some(source)) else {
                        continue;
                    };
                    known.taken = known.taken.max(sequence);
                    if host.up {
                        way.push_back(Frame::Taken { source, to: sequence });
                    }
                }
                Input::Source { announce, .. } => {
                    let course = host.channel.ours(announce.source).unwrap();
                    let known = &mut host.known[course as usize];
                    if known.announced.replace(announce.source) != Some(announce.source) {
                        known.behind = 0;
                    }
                    if host.up {
                        known.may_say = false;
                        let (source, behind) = (announce.source, known.behind);
                        self.ways[at][course as usize].push_back(Frame::Source { source, behind });
                    }
                }
                Input::SourceGone { .. } | Input::Revoked { .. } => host.begun_anew += 1,
                _ => {}
            }
        }
    }

    /// Puts on its way what the host has to say, if the link has room for it.
    fn say(&mut self, at: usize) {
        let most = self.dice.usize(1..64);
        for course in Course::ALL {
            let way = course as usize;
            while self.hosts[at].up
                && self.hosts[at].known[way].may_say
                && self.ways[at][way].len() < most
                && let Some((header, body)) = self.hosts[at].channel.next(course)
            {
                let body = body.as_ref().to_vec();
                self.may_have(at, &body);
                self.pieces += u64::from(course == Course::Large);
                self.ways[at][way].push_back(Frame::Word { header, body });
            }
        }
    }

    /// Nothing goes that the other may not have.
    fn may_have(&self, at: usize, body: &[u8]) {
        let Ok((Word::Task { topic, left_ns, .. }, _)) = decode(body) else { return };
        let deed = if left_ns > 0 { Deed::Answer } else { Deed::Pull };
        assert!(self.hosts[at].scene.permits().allow(deed, &topic), "{topic} goes to who may not have it");
    }

    /// The first of what the host has said by one of its sources arrives.
    pub(super) fn arrive(&mut self, from: usize, lose: bool) -> bool {
        self.say(from);
        let to = 1 - from;
        if !self.hosts[to].up {
            return false;
        }
        let first = self.dice.usize(..2);
        let ways = &self.ways[from];
        let Some(at) = [first, 1 - first].into_iter().find(|at| !ways[*at].is_empty()) else { return false };
        let Some(frame) = self.ways[from][at].pop_front() else { return false };
        let course = Course::ALL[at];
        let host = &mut self.hosts[to];
        let known = &mut host.known[at];
        match frame {
            Frame::Source { source, behind } => {
                if known.theirs != Some(source) {
                    (known.heard, known.taken) = (0, 0);
                }
                known.theirs = Some(source);
                known.heard = known.heard.max(behind);
                known.taken = known.taken.max(behind);
                host.channel.open(course, source, &mut host.inputs);
                self.ways[to][at].push_back(Frame::Heard { source, to: known.heard });
                self.ways[to][at].push_back(Frame::Taken { source, to: known.taken });
            }
            Frame::Heard { source, to: heard } => {
                if source == host.channel.source(course) {
                    host.channel.rewind(course, heard, host.scene.permits());
                    known.may_say = true;
                }
            }
            Frame::Taken { source, to: taken } => {
                if source == host.channel.source(course) {
                    host.channel.confirm(course, taken);
                    known.behind = known.behind.max(taken);
                }
            }
            Frame::Word { header, body } => {
                let (source, sequence) = (PortId(header.source.get()), header.sequence.get());
                if known.theirs == Some(source) && sequence > known.heard {
                    assert_eq!(sequence, known.heard + 1, "words come in their order");
                    known.heard = sequence;
                    if lose {
                        self.gaps += 1;
                        host.channel.gap(course, sequence);
                    } else {
                        let delivery = Delivery::Message { header, body: &body };
                        host.channel.deliver(course, delivery, &mut host.inputs);
                    }
                }
            }
        }
        self.carry_out(to);
        true
    }

    /// One look of the desk. What was asked for is answered up to `answers`.
    pub(super) fn look(&mut self, at: usize, answers: usize) -> bool {
        let now_ns = self.now_ns;
        let host = &mut self.hosts[at];
        let (mut heard, mut say) = (Heard::default(), Says::default());
        host.channel.passes(now_ns);
        host.channel.take(&mut heard.come, &mut host.inputs);
        heard.withheld = host.channel.withheld();
        let standing = host.channel.standing();
        host.scene.lanes.sweep();
        if host.partner.as_ref().is_some_and(|(former, _)| Some(*former) != standing.between)
            && let Some((between, mut partner)) = host.partner.take()
        {
            partner.forget(&host.context(now_ns, between), &mut Says::default());
        }
        let mut busy = !heard.come.is_empty() || !heard.withheld.is_empty();
        if let Some(between) = standing.between {
            let opened = self.opened(at, between, answers);
            let host = &mut self.hosts[at];
            busy |= !opened.is_empty();
            let mut partner = host.partner.take().map(|(_, partner)| partner).unwrap_or_default();
            heard.opened = opened;
            let by = host.scene.permits().clone();
            partner.serve(&host.context(now_ns, between), &host.pulls, standing, heard, &mut say);
            host.partner = Some((between, partner));
            busy |= !say.is_empty();
            if self.changes {
                // While the desk looked.
                self.change_rights(at);
            }
            let host = &mut self.hosts[at];
            host.channel.say_all(between, say, [&by, host.scene.permits()], &mut host.inputs);
        }
        self.carry_out(at);
        busy
    }

    /// Opens what was asked for, as the opener does.
    fn opened(&mut self, at: usize, between: Between, answers: usize) -> Vec<(For, Opened)> {
        let mut all = Vec::new();
        for _ in 0..answers {
            let host = &self.hosts[at];
            let Some((whom, wanted)) = host.scene.opener.next() else { break };
            if whom.between != between {
                continue;
            }
            let bus = &host.scene.bus;
            let opened = match wanted {
                Wanted::Puller(builder) => Opened::Puller(builder.redelivery(Duration::ZERO).open().unwrap()),
                Wanted::Pusher(topic, group) => {
                    let count = host.pullers_of(group.name().as_str());
                    let pusher = bus.pusher(topic.as_str()).open_for_work(group).unwrap();
                    until("the pullers meet the ring", || pusher.ring().pullers() >= count);
                    Opened::Pusher(topic, pusher)
                }
                Wanted::Lane { requester, pusher, deadline_ns } => {
                    Opened::Lane(host.scene.lanes.open_for(requester, pusher, deadline_ns).ok())
                }
                Wanted::Requester(topic) => {
                    let requester = bus.requester(topic.as_str()).for_another_host().open().unwrap();
                    let count = host.responders.len();
                    until("the responders meet it", || requester.responders() >= count);
                    Opened::Requester(topic, requester)
                }
            };
            all.push((whom, opened));
        }
        all
    }

    pub(super) fn push(&mut self, at: usize, topic: &'static str) {
        let name = format!("{}.{topic}", self.topics);
        let host = &mut self.hosts[at];
        let pusher = host.pushers.entry(topic).or_insert_with(|| {
            let builder = host.scene.bus.pusher(&name).slots_max(32).late_join(PATIENCE);
            builder.open().unwrap()
        });
        self.next += 1;
        let mut task = self.next.to_le_bytes().to_vec();
        task.resize(task.len() + sometimes_large(&mut self.dice), 7);
        if pusher.try_send(&task).is_ok() {
            self.pushed.entry(topic).or_default().push(self.next);
        }
    }

    /// A program pulls. The topics of a group are those that are called as it is.
    pub(super) fn pull(&mut self, at: usize, group: &'static str) {
        let pattern = format!("{}.{group}", self.topics);
        let host = &mut self.hosts[at];
        if host.pullers_of(group) >= PULLERS_MAX {
            return;
        }
        let mut builder = host.scene.bus.puller(&pattern).group(group).redelivery(Duration::ZERO);
        if group == GROUPS[1] {
            builder = builder.ack(WITHIN).attempts(62);
        }
        let puller = builder.open().unwrap();
        let (process, pattern, port) = (ProcessId(1), puller.pattern().clone(), puller.id());
        let how = Acknowledge { within_ms: WITHIN.as_millis() as u32, attempts: 62 };
        let of = Group::new(Topic::new(group).unwrap(), (group == GROUPS[1]).then_some(how)).unwrap();
        host.pulls.watched(Watched::Pulled { process, port, pattern, group: of });
        host.pullers.push((group, puller));
    }

    pub(super) fn close_puller(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        if host.pullers.is_empty() {
            return;
        }
        let (_, puller) = host.pullers.swap_remove(self.dice.usize(..host.pullers.len()));
        host.pulls.watched(Watched::Unwanted { process: ProcessId(1), port: puller.id() });
    }

    /// Somebody who pulls looks for a task.
    pub(super) fn take(&mut self, at: usize, most: usize) -> bool {
        let host = &mut self.hosts[at];
        let mut took = false;
        for (group, puller) in &mut host.pullers {
            while host.hand.len() < most
                && let Ok(Some(task)) = puller.look()
            {
                host.hand.push((group, task));
                took = true;
            }
        }
        took
    }

    /// Somebody has done a task, or has not.
    pub(super) fn finish(&mut self, at: usize, does: bool) -> bool {
        let host = &mut self.hosts[at];
        if host.hand.is_empty() {
            return false;
        }
        let (group, task) = host.hand.swap_remove(self.dice.usize(..host.hand.len()));
        let number = u64::from_le_bytes(task[..8].try_into().unwrap());
        assert!(task[8..].iter().all(|byte| *byte == 7) && (task.len() == 8 || task.len() > 9_000));
        if does || group == GROUPS[0] {
            self.done.entry(number).or_default().push(task.deliveries());
            let _ = task.ack();
        } else {
            task.nack();
        }
        true
    }

    pub(super) fn respond(&mut self, at: usize) {
        let pattern = format!("{}.ask", self.topics);
        let host = &mut self.hosts[at];
        if host.responders.len() >= PULLERS_MAX {
            return;
        }
        let responder = host.scene.bus.responder(&pattern).open().unwrap();
        let (process, port, pattern) = (ProcessId(1), responder.id(), responder.pattern().clone());
        let group = Group::new(responders(), None).unwrap();
        host.pulls.watched(Watched::Pulled { process, port, pattern, group });
        host.responders.push(responder);
    }

    pub(super) fn close_responder(&mut self, at: usize) {
        let host = &mut self.hosts[at];
        if let Some(responder) = host.responders.pop() {
            host.pulls.watched(Watched::Unwanted { process: ProcessId(1), port: responder.id() });
        }
    }

    pub(super) fn ask(&mut self, at: usize) {
        let topic = format!("{}.ask", self.topics);
        let asked = vec![7; 4 + sometimes_large(&mut self.dice)];
        let host = &mut self.hosts[at];
        let requester = host.requester.get_or_insert_with(|| {
            let builder = host.scene.bus.requester(&topic).in_flight(32).slots_max(64);
            builder.late_join(Duration::ZERO).open().unwrap()
        });
        let asked = requester.send_within(&asked, Duration::from_secs(100_000), Duration::ZERO);
        match asked {
            Ok(Some(pending)) => {
                host.pending.push(pending);
                self.asked += 1;
            }
            Ok(None) => {}
            Err(RequestError::NoResponders) => self.note("nobody at once"),
            Err(error) => panic!("{error:?}"),
        }
    }

    fn note(&mut self, how: &str) {
        *self.ended.entry(how.to_owned()).or_default() += 1;
    }

    pub(super) fn answer(&mut self, at: usize, looks: bool, answers: bool) -> bool {
        let host = &mut self.hosts[at];
        let mut busy = false;
        if looks {
            for responder in &mut host.responders {
                while let Ok(Some(request)) = responder.look() {
                    host.requests.push(request);
                    busy = true;
                }
            }
        }
        if answers && !host.requests.is_empty() {
            busy = true;
            let mut request = host.requests.swap_remove(self.dice.usize(..host.requests.len()));
            let dice = &mut self.dice;
            let mut reply = || vec![7; 4 + sometimes_large(dice)];
            let (one, two, three) = (reply(), reply(), reply());
            match self.dice.u8(..8) {
                0 => drop(request),
                1 => drop(request.fail(&one)),
                2..4 => {
                    let _ = request.reply_part(&one);
                    let _ = request.reply_part(&two);
                    let _ = request.reply(&three);
                }
                _ => drop(request.reply(&one)),
            }
        }
        busy
    }

    pub(super) fn hear_answers(&mut self, at: usize) -> bool {
        let mut ended = Vec::new();
        self.hosts[at].pending.retain_mut(|pending| {
            loop {
                match pending.try_recv() {
                    Ok(Some(reply)) => {
                        assert!(reply.iter().all(|byte| *byte == 7), "replies are whole");
                        assert!(reply.len() == 4 || reply.len() > 9_000);
                        if reply.is_last() {
                            ended.push("answered".to_owned());
                        } else {
                            continue;
                        }
                    }
                    Ok(None) if pending.is_over() => ended.push("over".to_owned()),
                    Ok(None) => return true,
                    Err(error) => ended.push(format!("{error:?}")),
                }
                return false;
            }
        });
        let busy = !ended.is_empty();
        ended.iter().for_each(|how| self.note(how));
        busy
    }
}
