//! A desk for tests: a bus, a peer, and no link between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use busway_protocol::{Acl, PeerId, Permits, Principal, Rule, Whom};
use busway_wire::{Pattern, PortId};

use super::opener::{For, Opener};
use super::partner::Partner;
use super::{Between, Context};
use crate::bus::Bus;
use crate::responder::Lanes;

pub(super) struct Scene {
    pub(super) bus: Bus,
    pub(super) opener: Opener,
    pub(super) lanes: Arc<Lanes>,
    permits: Permits,
    pub(super) others: BTreeMap<PeerId, (Between, Partner)>,
    directory: std::path::PathBuf,
}

impl Scene {
    pub(super) fn new() -> Self {
        let random = busway_shm::sys::identity::random_u64().unwrap();
        let directory = std::env::temp_dir().join(format!("busway-near-{random:016x}"));
        let bus = Bus::builder().directory(&directory).open().unwrap();
        let permits = Permits::new(Principal::Node { index: 1 }, None);
        let (opener, lanes) = (Opener::without_thread(), Lanes::of(&bus));
        Self { opener, lanes, bus, permits, others: BTreeMap::new(), directory }
    }

    /// Another program of the same host.
    pub(super) fn another_bus(&self) -> Bus {
        Bus::builder().directory(&self.directory).open().unwrap()
    }

    pub(super) fn context(&self, now_ns: u64) -> Context<'_> {
        let Self { bus, lanes, opener, permits, others, .. } = self;
        let between = Between { theirs: PortId(1), ours: PortId(2) };
        let whom = For { peer: PeerId::Node { index: 1 }, between, pull: 0, number: 0 };
        Context { bus, ports: &bus.core.ports, opener, lanes, permits, others, whom, now_ns }
    }

    /// What the peer may do.
    pub(super) fn permits(&self) -> &Permits {
        &self.permits
    }

    pub(super) fn may(&mut self, publish: &[&str], subscribe: &[&str]) {
        let patterns = |topics: &[&str]| topics.iter().map(|topic| Pattern::parse(topic).unwrap()).collect();
        let (publish, subscribe) = (patterns(publish), patterns(subscribe));
        self.may_by(|rule| (rule.publish, rule.subscribe) = (publish, subscribe));
    }

    /// What the rule says that is made so, of one which allows nothing.
    pub(super) fn may_by(&mut self, say: impl FnOnce(&mut Rule)) {
        let (publish, subscribe, deny_publish, deny_subscribe) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (push, request, pull, answer) = (None, None, None, None);
        let whom = Whom::Anybody;
        let mut rule =
            Rule { whom, publish, subscribe, deny_publish, deny_subscribe, push, request, pull, answer };
        say(&mut rule);
        self.permits = Permits::new(Principal::Node { index: 1 }, Some(&Acl::new(vec![rule])));
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
