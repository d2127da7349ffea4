//! A bus that is alone in a domain of its own: what one program does with itself.
//!
//! Invariant: the bus is closed before its directory is removed.

use std::path::PathBuf;

use busway::Bus;

pub(crate) struct Scene {
    pub(crate) bus: Bus,
    directory: PathBuf,
}

impl Scene {
    pub(crate) fn new() -> Scene {
        let random = busway_shm::sys::identity::random_u64().unwrap();
        let directory = std::env::temp_dir().join(format!("busway-alone-{random:016x}"));
        Scene { bus: Bus::builder().directory(&directory).open().unwrap(), directory }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.bus.close();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
