//! `busway-gossipsub`: a node of libp2p-gossipsub that does the work of a node of the testbed.
//!
//! It is started by `busway-swarm --against`, in a network namespace, and is told line by line what a node of ours is told:
//! see `testbed/src/node.rs`. How it is set, and why, stands in `bench/peers/settings/libp2p-gossipsub.md`. It links no
//! part of the bus.

mod counted;
mod node;
mod settings;
mod work;

use std::process::ExitCode;

/// What went wrong, for who started it.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["node", directory, set, index, listen, peers @ ..] => {
            // It keeps nothing in files; the testbed gives each node a directory.
            let _ = directory;
            node::run(set, index, listen, peers)
        }
        ["name", set] => settings::Settings::read(set).map(|settings| node::say(&settings.name())),
        _ => Err("usage: busway-gossipsub node DIRECTORY SETTINGS INDEX ADDRESS PEERS (started by busway-swarm --against)".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("busway-gossipsub: {error}");
            ExitCode::FAILURE
        }
    }
}
