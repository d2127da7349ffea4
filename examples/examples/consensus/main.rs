//! A replicated counter: OmniPaxos, an existing consensus crate, in three processes over `busway::cluster`.
//!
//! Four clients increment; the replica that leads is killed with SIGKILL and started again while they do. At the end the
//! counter must be the number of acknowledged increments on every replica, and the history must be linearisable. Each
//! replica writes its log to disk before anything leaves that rests on it; the log's order is agreed on by OmniPaxos, and
//! the counter is what the log says.
//!
//! `cargo run -p busway-examples --example consensus -- [INCREMENTS [KILLS [SEED [HISTORY]]]]`; SEED says when who leads is
//! killed, HISTORY is a file that gets one line of JSON for each increment.

mod clock;
mod log;
mod replica;
mod workload;

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::thread;

use busway::cluster::Replica;
use busway_examples::linear::{Operation, check};

use workload::{Plan, Progress, Replicas};

const CLIENTS: u64 = 4;
/// The client that looks at the end.
const WITNESS: u64 = 1_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "replica") {
        return replica(&arguments[1..]);
    }
    let number = |at: usize, default: u64| arguments.get(at).map_or(Ok(default), |text| text.parse());
    let plan =
        Plan { increments: number(0, 200)?, kills: number(1, 1)?, seed: number(2, fastrand::u64(..))? };
    let increments = plan.increments;
    eprintln!("{increments} increments, seed {}", plan.seed);
    let directory = Directory::new()?;
    let cluster = format!("counter-{}", std::process::id());
    let mut replicas = Replicas::start(&cluster, &directory.0)?;
    let progress = Progress::default();
    let begun_ns = clock::now_ns();
    let clients = (1..=CLIENTS).map(|id| replicas.client(id)).collect::<Result<Vec<_>, _>>()?;
    let mut history: Vec<Operation> = Vec::new();
    let killed = thread::scope(|scope| -> Result<u64, Box<dyn Error>> {
        let share = |id: u64| increments / CLIENTS + u64::from(id < increments % CLIENTS);
        let running: Vec<_> = (0..)
            .zip(&clients)
            .map(|(id, client)| {
                let progress = &progress;
                scope.spawn(move || workload::increments(client, share(id), progress))
            })
            .collect();
        let killed = workload::kill_leaders(&mut replicas, &progress, plan);
        for client in running {
            history.extend(client.join().map_err(|_| "a client panicked")??);
        }
        killed
    })?;
    let took_ms = (clock::now_ns() - begun_ns) / 1_000_000;
    let counter = workload::agreed(&replicas.client(WITNESS)?, history.len() as u64)?;
    if let Some(path) = arguments.get(3) {
        write(Path::new(path), &history)?;
    }
    let found = check(&history, counter)?;
    eprintln!(
        "counter {counter} acknowledged {} unacknowledged-applied {} killed {killed} in {took_ms} ms: linearisable",
        found.acknowledged, found.unacknowledged_applied
    );
    Ok(())
}

/// One of the three processes: `CLUSTER INDEX LISTEN LOG [INDEX=ADDRESS]...`; says where it listens, and ends with its input.
fn replica(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [cluster, index, listen, log, peers @ ..] = arguments else { return Err("too few arguments".into()) };
    let index: u8 = index.parse()?;
    let mut others = Vec::new();
    for peer in peers {
        let (index, address) = peer.split_once('=').ok_or("a peer is INDEX=ADDRESS")?;
        others.push((index.parse::<u8>()?, address));
    }
    // An orphan ends: its parent's end closes the pipe.
    thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    let replica = Replica::open(cluster, index, listen.parse()?, &others)?;
    writeln!(std::io::stdout(), "{}", replica.listening()[0])?;
    replica::run(index, replica, Path::new(log))
}

fn write(path: &Path, history: &[Operation]) -> Result<(), Box<dyn Error>> {
    let mut lines = String::new();
    for operation in history {
        lines.push_str(&serde_json::to_string(operation)?);
        lines.push('\n');
    }
    Ok(std::fs::write(path, lines)?)
}

/// Where the logs are; removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("busway-consensus-{}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
