//! A desk for tests: a bus, a peer, and no link between them.

use std::sync::Arc;

use busway_protocol::{Acl, PeerId, Permits, Principal, Rule, Whom};
use busway_wire::{Pattern, PortId};

use super::opener::{For, Opener};
use super::{Between, Context};
use crate::bus::Bus;
use crate::responder::Lanes;

pub(super) struct Scene {
    pub(super) bus: Bus,
    pub(super) opener: Opener,
    pub(super) lanes: Arc<Lanes>,
    permits: Permits,
    directory: std::path::PathBuf,
}

impl Scene {
    pub(super) fn new() -> Self {
        let random = busway_shm::sys::identity::random_u64().unwrap();
        let directory = std::env::temp_dir().join(format!("busway-near-{random:016x}"));
        let bus = Bus::builder().directory(&directory).open().unwrap();
        let permits = Permits::new(Principal::Node { index: 1 }, None);
        Self { opener: Opener::without_thread(), lanes: Lanes::of(&bus), bus, permits, directory }
    }

    pub(super) fn context(&self, now_ns: u64) -> Context<'_> {
        let Self { bus, lanes, opener, permits, .. } = self;
        let between = Between { theirs: PortId(1), ours: PortId(2) };
        let whom = For { peer: PeerId::Node { index: 1 }, between, pull: 0, number: 0 };
        Context { bus, ports: &bus.core.ports, opener, lanes, permits, whom, now_ns }
    }

    pub(super) fn may(&mut self, publish: &[&str], subscribe: &[&str]) {
        let patterns = |topics: &[&str]| topics.iter().map(|topic| Pattern::parse(topic).unwrap()).collect();
        let (publish, subscribe) = (patterns(publish), patterns(subscribe));
        let (deny_publish, deny_subscribe) = (Vec::new(), Vec::new());
        let rule = Rule { whom: Whom::Anybody, publish, subscribe, deny_publish, deny_subscribe };
        self.permits = Permits::new(Principal::Node { index: 1 }, Some(&Acl::new(vec![rule])));
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
