//! A domain of several members in this process: a runtime directory of its own.
//!
//! Invariant: what a member has fits into a gigabyte, so that a test can run out of it.

use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use busway::Bus;

/// Removed when it is dropped.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Self {
        let random = busway_shm::sys::identity::random_u64().unwrap();
        let path = std::env::temp_dir().join(format!("busway-members-{random:016x}"));
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    /// A member of the domain.
    pub(crate) fn join(&self, name: &str) -> Bus {
        let bus = Bus::builder().directory(&self.0).domain("members").name(name).arena_bytes(1 << 30);
        bus.open().unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
