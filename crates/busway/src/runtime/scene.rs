//! What tests of the runtime share: hosts at a network in memory, whose interfaces have gates as real ones have.

use std::net::SocketAddr;

use busway_io::{HostId, Manners, Network, Path};
use busway_protocol::PeerId;

use crate::artifacts::store::StoreConfig;
use crate::node::{FlowLimits, Granted, Strangers};
use crate::runtime::hub::HubConfig;
use crate::tokens::Tokens;

pub(crate) const NEAR: HostId = HostId(1);
pub(crate) const FAR: HostId = HostId(2);
/// Bytes a second of the way between them.
pub(crate) const RATE: u64 = 10_000_000;

pub(crate) fn address(host: HostId) -> SocketAddr {
    SocketAddr::new(host.ipv4(), 4420)
}

/// The lower index dials the other.
pub(crate) fn config(index: u8, own: HostId, peers: &[(u8, HostId)]) -> HubConfig {
    HubConfig {
        shares_work: false,
        shares_artifacts: false,
        store: StoreConfig::default(),
        handling: None,
        artifact_workers: None,
        cluster: "test".to_owned(),
        identity: PeerId::Node { index },
        listen: vec![address(own)],
        nodes: peers.iter().map(|(index, host)| (*index, address(*host).to_string())).collect(),
        clients_max: 8,
        keep_alive_ms: 1_000,
        strangers: Strangers { max: 8, of_address_max: 8 },
        flows: FlowLimits { bytes: 1 << 30, floor: Granted { messages: 64, bytes: 256 << 10 } },
        data: Granted { messages: 16_384, bytes: 32 << 20 },
        host: format!("host {index}"),
        plain_beyond_loopback: true,
        tls: None,
        token: None,
        tokens: Tokens::default(),
        acl: None,
    }
}

pub(crate) fn network(kernel_bytes: usize) -> Network {
    let manners =
        Manners { send_bytes_max: kernel_bytes, receive_bytes_max: kernel_bytes, ..Manners::smooth() };
    let network = Network::new(5, manners);
    network.set_usual_path(Path { bytes_per_second: Some(RATE), ..Path::default() });
    network
}
