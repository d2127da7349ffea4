//! The clients, and who kills: increments from several sides while the leader dies.
//!
//! A client asks one replica, and another when no answer comes; it sends a request under one number until it is answered.
//! Now and then the replica that leads is killed; it is started again once the others have shown that they go on without it.
//!
//! Invariant: the history has each request once, with the time of its first sending and of its answer.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use busway::cluster::{Client, Outcome, Peer};
use busway_examples::linear::{Answer, Operation};

use crate::clock::now_ns;
use crate::replica::Said;

/// Whoever does not answer for so long is not asked again at first.
const PATIENCE: Duration = Duration::from_millis(500);
/// Everything is over by then, or something is wrong.
const DEADLINE: Duration = Duration::from_secs(100);
/// Increments without the killed replica before it is started again.
const WITHOUT: u64 = 10;

/// The processes of the three replicas.
pub(crate) struct Replicas {
    cluster: String,
    directory: PathBuf,
    addresses: Vec<Option<SocketAddr>>,
    children: Vec<Option<Child>>,
}

impl Replicas {
    /// Starts all three; the one with the highest index first, as the lower ones connect to it.
    pub(crate) fn start(cluster: &str, directory: &Path) -> Result<Self, Box<dyn Error>> {
        let mut replicas = Self {
            cluster: cluster.to_owned(),
            directory: directory.to_owned(),
            addresses: vec![None; 3],
            children: (0..3).map(|_| None).collect(),
        };
        for index in (0..3).rev() {
            replicas.start_one(index)?;
        }
        Ok(replicas)
    }

    /// Starts one, where it was before if it was.
    pub(crate) fn start_one(&mut self, index: usize) -> Result<(), Box<dyn Error>> {
        let listen = self.addresses[index].map_or("127.0.0.1:0".to_owned(), |address| address.to_string());
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["replica", &self.cluster, &index.to_string(), &listen]).arg(self.log(index));
        for (above, address) in self.addresses.iter().enumerate().skip(index + 1) {
            let address = address.ok_or("the replicas above are started first")?;
            command.arg(format!("{above}={address}"));
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().ok_or("its output is a pipe")?;
        self.children[index] = Some(child);
        BufReader::new(stdout).read_line(&mut line)?;
        self.addresses[index] = Some(line.trim().parse().map_err(|_| format!("replica {index} has ended"))?);
        Ok(())
    }

    /// Kills one, whatever it is doing.
    pub(crate) fn kill(&mut self, index: usize) -> Result<(), Box<dyn Error>> {
        if let Some(mut child) = self.children[index].take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    fn log(&self, index: usize) -> PathBuf {
        self.directory.join(format!("replica-{index}.log"))
    }

    /// A client of all three.
    pub(crate) fn client(&self, id: u64) -> Result<Client, Box<dyn Error>> {
        let mut builder = Client::builder(&self.cluster, id);
        for (index, address) in (0_u8..).zip(self.addresses.iter().flatten()) {
            builder = builder.replica(index, &address.to_string());
        }
        Ok(builder.open()?)
    }
}

impl Drop for Replicas {
    fn drop(&mut self) {
        for index in 0..self.children.len() {
            // One that cannot be killed has ended.
            let _ = self.kill(index);
        }
    }
}

/// How far the clients are, for who kills.
#[derive(Default)]
pub(crate) struct Progress {
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    answered: u64,
    leader: Option<u8>,
    failed: bool,
}

impl Progress {
    fn answered(&self, leader: Option<u8>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.answered += 1;
        state.leader = leader.or(state.leader);
        self.moved.notify_all();
    }

    fn fail(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).failed = true;
        self.moved.notify_all();
    }

    /// Waits until so many are answered; returns who leads, and how many are.
    fn wait(&self, answered: u64) -> Result<(Option<u8>, u64), Box<dyn Error>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let short = |state: &mut State| state.answered < answered && !state.failed;
        let waited = self.moved.wait_timeout_while(state, DEADLINE, short);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if state.answered < answered {
            return Err(format!("{} of {answered} increments were answered", state.answered).into());
        }
        Ok((state.leader, state.answered))
    }
}

/// What is killed when.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) increments: u64,
    pub(crate) kills: u64,
    pub(crate) seed: u64,
}

impl Plan {
    /// After so many answers each leader dies: somewhere in the first half of its share, as the seed says.
    fn kills_at(self) -> impl Iterator<Item = u64> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        let share = self.increments / (self.kills + 1);
        (1..=self.kills).map(move |kill| kill * share + random.u64(0..=share / 2))
    }
}

/// Kills the leader as planned, and starts it again each time. Returns how many died.
pub(crate) fn kill_leaders(
    replicas: &mut Replicas,
    progress: &Progress,
    plan: Plan,
) -> Result<u64, Box<dyn Error>> {
    for at in plan.kills_at() {
        let (leader, answered) = progress.wait(at)?;
        let leader = usize::from(leader.ok_or("nobody leads, and yet there are answers")?);
        replicas.kill(leader)?;
        eprintln!("{answered} increments answered: replica {leader}, which leads, is killed");
        let (next, answered) = progress.wait((answered + WITHOUT).min(plan.increments))?;
        replicas.start_one(leader)?;
        let next = next.map_or("nobody".to_owned(), |index| format!("replica {index}"));
        eprintln!("{answered} increments answered: it is started again; now {next} leads");
    }
    Ok(plan.kills)
}

/// One client's increments.
pub(crate) fn increments(client: &Client, count: u64, progress: &Progress) -> Result<Vec<Operation>, String> {
    let mut session = Session { client, asked: u8::try_from(own(client) % 3).unwrap_or(0) };
    let mut history = Vec::new();
    for request in 1..=count {
        let invoked_ns = now_ns();
        let (value, leader) = session.increment(request).inspect_err(|_| progress.fail())?;
        let answer = Some(Answer { responded_ns: now_ns(), value });
        history.push(Operation { client: own(client), request, invoked_ns, answer });
        progress.answered(leader);
    }
    Ok(history)
}

fn own(client: &Client) -> u64 {
    match client.own() {
        Peer::Client(id) => id,
        Peer::Replica(index) => u64::from(index),
    }
}

struct Session<'a> {
    client: &'a Client,
    /// Whom it asks.
    asked: u8,
}

impl Session<'_> {
    /// Asks until there is an answer: the counter, and who leads.
    fn increment(&mut self, request: u64) -> Result<(u64, Option<u8>), String> {
        let end_ns = now_ns() + DEADLINE.as_nanos() as u64;
        while now_ns() < end_ns {
            match self.client.send_to_replica(self.asked, &encoded(&Said::Increment { request })) {
                Outcome::Queued => {
                    if let Some(answer) = self.answer(request)? {
                        return Ok(answer);
                    }
                }
                // While nobody is there, an event tells of who comes; the timeout is for those that were told before.
                _ => drop(self.client.event(Duration::from_millis(5))),
            }
            self.asked = (self.asked + 1) % 3;
        }
        Err(format!("request {request} of {} was not answered", self.client.own()))
    }

    fn answer(&self, request: u64) -> Result<Option<(u64, Option<u8>)>, String> {
        let until_ns = now_ns() + PATIENCE.as_nanos() as u64;
        loop {
            let left = Duration::from_nanos(until_ns.saturating_sub(now_ns()));
            let message = self.client.recv(left).map_err(|error| error.to_string())?;
            let Some(message) = message else { return Ok(None) };
            match serde_json::from_slice(&message).map_err(|error| error.to_string())? {
                Said::Counted { request: of, value, leader } if of == request => {
                    return Ok(Some((value, leader)));
                }
                // An answer that came late, of one that was asked more than once.
                _ => {}
            }
        }
    }
}

/// Waits until every replica says the same counter, and at least `least`.
pub(crate) fn agreed(client: &Client, least: u64) -> Result<u64, Box<dyn Error>> {
    let end_ns = now_ns() + DEADLINE.as_nanos() as u64;
    let mut seen = [None; 3];
    while now_ns() < end_ns {
        for index in 0..3 {
            // Who is not there is asked again in the next round.
            let _ = client.send_to_replica(index, &encoded(&Said::Look));
        }
        while let Some(message) = client.recv(Duration::from_millis(20))? {
            if let (Peer::Replica(index), Said::Seen { counter }) =
                (message.from(), serde_json::from_slice(&message)?)
            {
                seen[usize::from(index)] = Some(counter);
            }
        }
        if let [Some(one), Some(other), Some(last)] = seen
            && one == other
            && other == last
            && one >= least
        {
            return Ok(one);
        }
    }
    Err(format!("the replicas do not agree: {seen:?}").into())
}

fn encoded(said: &Said) -> Vec<u8> {
    serde_json::to_vec(said).expect("what is said has no map with keys that are not strings")
}
