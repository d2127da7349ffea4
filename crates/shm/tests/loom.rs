//! Every interleaving of the memory protocols, explored by loom.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p busway-shm --test loom --release --target-dir target/loom
//! ```
//!
//! Each model runs the code that ships, prints how many executions were explored, and stands beside
//! seeded bugs that loom must find: a model that finds nothing wrong in a wrong protocol shows nothing.

#![cfg(loom)]
#![expect(clippy::print_stdout, reason = "the evidence that a row of PROMISES shows")]

#[path = "loom/bell.rs"]
mod bell;
#[path = "loom/claims.rs"]
mod claims;
#[path = "loom/marks.rs"]
mod marks;
#[path = "loom/ring.rs"]
mod ring;
#[path = "loom/room.rs"]
mod room;

use std::panic::{AssertUnwindSafe, catch_unwind};
// Counts executions across the runs of a model, so it must not be one of loom's.
use std::sync::Mutex;

/// Executions that a model must have had to count as explored.
const EXECUTIONS_MIN: usize = 1_000;

/// Threads that the scheduler may take the processor from in the midst of what they do; 3 finds every
/// bug known in protocols of two words, and without a bound the larger models would not end.
const PREEMPTIONS_MAX: usize = 3;

/// Explores `model` and returns the number of executions.
fn explore(model: impl Fn() + Send + Sync + 'static) -> usize {
    let executions = std::sync::Arc::new(Mutex::new(0_usize));
    let counter = std::sync::Arc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(move || {
        *counter.lock().expect("no execution panics while it counts") += 1;
        model();
    });
    *executions.lock().expect("no execution panics while it counts")
}

/// Explores `model`, which must hold.
fn holds(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let executions = explore(model);
    println!("evidence: model={name} executions={executions}");
    assert!(executions >= EXECUTIONS_MIN, "{name}: {executions} executions are too few to show anything");
}

/// Explores `model`, which has a seeded bug that loom must find: somebody sleeps for ever.
fn deadlock_is_found(name: &str, model: impl Fn() + Send + Sync + 'static) {
    let panic = failure_of(model).unwrap_or_default();
    let found = panic.contains("deadlock");
    println!("evidence: seeded_bug={name} found={found}");
    assert!(found, "loom explored {name} and did not find its bug, but: {panic:?}");
}

/// Explores `model`, which has a seeded bug that loom must find: it panics with `words`.
fn failure_is_found(name: &str, words: &str, model: impl Fn() + Send + Sync + 'static) {
    let panic = failure_of(model).unwrap_or_default();
    let found = panic.contains(words);
    println!("evidence: seeded_bug={name} found={found}");
    assert!(found, "loom explored {name} and did not find its bug, but: {panic:?}");
}

/// Explores `model` and returns what it panicked with, if it did.
fn failure_of(model: impl Fn() + Send + Sync + 'static) -> Option<String> {
    // In a thread of its own: loom's state is the thread's, and a failed exploration leaves it behind.
    let explored = std::thread::spawn(move || catch_unwind(AssertUnwindSafe(|| explore(model)))).join();
    match explored {
        Ok(Ok(_)) => None,
        Ok(Err(panic)) | Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        }
    }
}
