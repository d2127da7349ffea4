//! The bus over a link: two domains, each with a node in the measured process itself, over TCP of loopback.
//!
//! The same processes as every rival without a broker has: one that sends, one that receives.

use crate::Failure;
use crate::bus::medium::{BuswayReceiver, BuswaySender};
use crate::bus::{PATIENCE, directory};
use crate::floor::tcp::{port_of, tell_port};
use crate::medium::{Channel, Medium, Quality, Scene};
use busway::{Bus, Node};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

mod certificates;

/// One process: a domain of its own, and its node.
#[derive(Debug)]
pub struct Link {
    bus: Bus,
    size: usize,
    // Ends when the last port has.
    node: Rc<Node>,
}

impl Link {
    /// The bus of this process.
    pub(super) fn bus(&self) -> &Bus {
        &self.bus
    }
}

impl Medium for Link {
    type Sender = BuswaySender;
    type Receiver = BuswayReceiver;

    fn open(scene: &Scene<'_>) -> Result<Self, Failure> {
        let first = scene.owner == std::process::id();
        let domain = if first { "bench-there" } else { "bench-back" };
        let bus = Bus::builder().domain(domain).directory(directory(scene.owner)).timeout(PATIENCE).open()?;
        let mut builder = Node::builder().cluster("bench");
        if scene.plan.side == "link-tls" {
            builder = builder.tls(certificates::tls(&directory(scene.owner), first)?);
        }
        let node = if first {
            let node = builder.index(1).listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).open(&bus)?;
            let address = node.listening().first().ok_or("a node that listens nowhere")?;
            tell_port(scene.stage, address.port());
            node
        } else {
            let node =
                builder.index(0).peer(1, &format!("127.0.0.1:{}", port_of(scene.stage)?)).open(&bus)?;
            if !node.wait_for_peers(1, PATIENCE) {
                return Err("no link".into());
            }
            node
        };
        Ok(Self { bus, size: usize::try_from(scene.plan.size)?, node: Rc::new(node) })
    }

    fn sender(&self, channel: Channel, quality: Quality) -> Result<BuswaySender, Failure> {
        BuswaySender::open(&self.bus, channel, quality, self.size, Some(self.node.clone()))
    }

    fn receiver(&self, channel: Channel, quality: Quality) -> Result<BuswayReceiver, Failure> {
        BuswayReceiver::open(&self.bus, channel, quality)
    }
}
