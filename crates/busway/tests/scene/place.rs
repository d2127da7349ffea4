//! Where a test happens: a runtime directory of its own, removed with it, and a watchdog.
//!
//! Invariant: a test that hangs ends its process with a sentence, long before the suite's own limit.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use busway::{Bus, BusBuilder};

/// Far longer than any step here takes, also on a machine that does ten other things.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Longer than any test here takes.
const WATCHDOG: Duration = Duration::from_secs(90);

/// A domain of its own.
#[derive(Debug)]
pub(crate) struct Scene {
    directory: PathBuf,
    // Dropped with the scene, which ends the watchdog.
    _watchdog: Sender<()>,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let directory = std::env::temp_dir().join(format!("busway-scene-{:016x}", fastrand::u64(..)));
        Scene { directory, _watchdog: watchdog() }
    }

    /// The runtime directory; the first bus makes it.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A member of the domain, in this process.
    pub(crate) fn bus(&self, name: &str) -> Bus {
        join(self.directory(), name).open().unwrap_or_else(|error| panic!("{name} joins: {error}"))
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// How everybody joins: an address space that a thousand processes can have beside each other.
pub(crate) fn join(directory: &Path, name: &str) -> BusBuilder {
    Bus::builder().domain("test").directory(directory).name(name).timeout(PATIENCE).arena_bytes(8 << 30)
}

/// Ends this process if the sender that it returns is not dropped in time.
pub(crate) fn watchdog() -> Sender<()> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        if receiver.recv_timeout(WATCHDOG) == Err(RecvTimeoutError::Timeout) {
            eprintln!("the watchdog: a test hangs");
            std::process::abort();
        }
    });
    sender
}
