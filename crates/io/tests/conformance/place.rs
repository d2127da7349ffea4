//! Where two drivers meet: on this host by TCP, or in a network in memory.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use busway_io::{Driver, Epoll, FakeDriver, HostId, Manners, Network, Pieces, Space};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Two spans of any sizes.
#[derive(Debug)]
pub(crate) struct Landing {
    pub(crate) first: Vec<u8>,
    pub(crate) second: Vec<u8>,
}

impl Space for Landing {
    fn spans(&mut self) -> [&mut [u8]; 2] {
        [&mut self.first, &mut self.second]
    }
}

/// Pieces of any number and sizes.
#[derive(Debug, Clone)]
pub(crate) struct Parcel(pub Vec<Vec<u8>>);

impl Pieces for Parcel {
    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }
}

/// Two hosts, or one that is both.
pub(crate) trait Place {
    type Driver: Driver<Landing, Parcel>;
    fn near(&self) -> &Self::Driver;
    fn far(&self) -> &Self::Driver;
    /// Addresses of the far host, of each family that there is.
    fn far_addresses(&self) -> Vec<IpAddr>;
    /// Whether both are one host.
    fn is_one_host(&self) -> bool;
    /// Which address of the near host the far one sees.
    fn near_address(&self, far: IpAddr) -> IpAddr;
    /// A port that nobody of the far host is given who asks for any; it may be in use.
    fn port_apart(&self, dice: &mut fastrand::Rng) -> u16;
    /// The far process gets no more descriptors, or again as many as it likes.
    fn limit_far(&mut self, limited: bool);
    /// What to print when a claim fails.
    fn describe(&self) -> String;
}

// Who sets the limit of the process must be alone; everybody else may run beside each other.
static DESCRIPTORS: RwLock<()> = RwLock::new(());

#[expect(dead_code, reason = "held, not read")]
enum Guard {
    Shared(RwLockReadGuard<'static, ()>),
    Alone(RwLockWriteGuard<'static, ()>),
}

pub(crate) struct Tcp {
    near: Epoll<Landing, Parcel>,
    far: Epoll<Landing, Parcel>,
    limit: Rlimit,
    plugs: Vec<File>,
    guard: Option<Guard>,
}

impl Tcp {
    pub(crate) fn new() -> Self {
        let guard = DESCRIPTORS.read().unwrap_or_else(PoisonError::into_inner);
        let (near, far) = (Epoll::new().unwrap(), Epoll::new().unwrap());
        Self {
            near,
            far,
            limit: getrlimit(Resource::Nofile),
            plugs: Vec::new(),
            guard: Some(Guard::Shared(guard)),
        }
    }
}

impl Place for Tcp {
    type Driver = Epoll<Landing, Parcel>;

    fn near(&self) -> &Self::Driver {
        &self.near
    }

    fn far(&self) -> &Self::Driver {
        &self.far
    }

    fn far_addresses(&self) -> Vec<IpAddr> {
        let six = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
        let four = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let six = six.then_some(IpAddr::V6(Ipv6Addr::LOCALHOST));
        [four].into_iter().chain(six).chain(reachable()).collect()
    }

    fn is_one_host(&self) -> bool {
        true
    }

    fn near_address(&self, far: IpAddr) -> IpAddr {
        far
    }

    fn port_apart(&self, _: &mut fastrand::Rng) -> u16 {
        let given = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
        let first: u16 = given.split_whitespace().next().unwrap().parse().unwrap();
        // Not by the seed of the scene: other processes that run the same claims would try the same ports.
        fastrand::u16(first.min(1 << 15) / 2..first.max(1 << 14))
    }

    fn limit_far(&mut self, limited: bool) {
        if limited {
            self.guard = None;
            let alone = DESCRIPTORS.write().unwrap_or_else(PoisonError::into_inner);
            self.guard = Some(Guard::Alone(alone));
            // Every number below the highest that is used is plugged; so with the next one as the limit there is
            // none left, and what is closed later is there again.
            let used = std::fs::read_dir("/proc/self/fd").unwrap();
            let highest =
                used.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).max().unwrap();
            let number = |plug: &File| plug.as_raw_fd();
            while self.plugs.last().is_none_or(|plug| number(plug) < highest) {
                self.plugs.push(File::open("/dev/null").unwrap());
            }
            let current = self.plugs.last().map(|plug| number(plug) as u64 + 1);
            setrlimit(Resource::Nofile, Rlimit { current, maximum: self.limit.maximum }).unwrap();
        } else {
            setrlimit(Resource::Nofile, self.limit).unwrap();
            self.plugs.clear();
        }
    }

    fn describe(&self) -> String {
        "TCP on this host".to_owned()
    }
}

/// The address of this host by which it would reach others, if it would.
fn reachable() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Nothing is sent: the kernel only looks for the way to an address that is kept for documents.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

impl Drop for Tcp {
    fn drop(&mut self) {
        // Before the guard goes, also when a claim has failed.
        let _ = setrlimit(Resource::Nofile, self.limit);
    }
}

const NEAR: HostId = HostId(1);
const FAR: HostId = HostId(2);

pub(crate) struct Memory {
    network: Network,
    near: FakeDriver<Landing, Parcel>,
    far: FakeDriver<Landing, Parcel>,
    seed: u64,
}

impl Memory {
    pub(crate) fn smooth() -> Self {
        Self::new(1, Manners::smooth())
    }

    pub(crate) fn rough(seed: u64) -> Self {
        Self::new(seed, Manners::rough())
    }

    fn new(seed: u64, manners: Manners) -> Self {
        let network = Network::new(seed, manners);
        let (near, far) = (network.start(NEAR), network.start(FAR));
        Self { network, near, far, seed }
    }
}

impl Place for Memory {
    type Driver = FakeDriver<Landing, Parcel>;

    fn near(&self) -> &Self::Driver {
        &self.near
    }

    fn far(&self) -> &Self::Driver {
        &self.far
    }

    fn far_addresses(&self) -> Vec<IpAddr> {
        vec![FAR.ipv4(), FAR.ipv6()]
    }

    fn is_one_host(&self) -> bool {
        false
    }

    fn near_address(&self, far: IpAddr) -> IpAddr {
        if far.is_ipv4() { NEAR.ipv4() } else { NEAR.ipv6() }
    }

    fn port_apart(&self, dice: &mut fastrand::Rng) -> u16 {
        dice.u16(1..1024)
    }

    fn limit_far(&mut self, limited: bool) {
        self.network.limit_descriptors(FAR, limited.then_some(0));
    }

    fn describe(&self) -> String {
        format!("a network in memory, seed {}", self.seed)
    }
}
