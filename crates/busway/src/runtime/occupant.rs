//! Who listens at an address that we cannot have, as far as the kernel tells: for an error that names the process.
//!
//! The kernel lists sockets with their inodes, and each process's descriptors with theirs; where both can be read, they
//! meet. What cannot be read is not known, and nothing is guessed.
//!
//! Invariant: it reads; it never fails and never waits.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Sockets that are looked at: more than a host has, and a bound on what the kernel's list costs.
const SOCKETS_MAX: usize = 1 << 20;

/// Bytes of one line of that list; it has 150.
const LINE_BYTES_MAX: u64 = 512;

/// A socket that listens, in the kernel's list.
const LISTENING: &str = "0A";

/// A process that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Occupant {
    pub(crate) pid: u32,
    /// What the kernel calls it.
    pub(crate) name: String,
}

/// Who listens where `address` would.
pub(crate) fn of(address: SocketAddr) -> Option<Occupant> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].into_iter().find_map(|path| listener(path, address))?;
    let link = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let pid = pids.into_iter().find(|pid| has(*pid, &link))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Occupant { pid, name: name.trim().escape_debug().to_string() })
}

fn has(pid: u32, link: &str) -> bool {
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    descriptors
        .flatten()
        .any(|entry| fs::read_link(entry.path()).is_ok_and(|target| target.as_os_str() == link))
}

/// The inode of the socket in this list that listens where `address` would.
fn listener(path: &str, address: SocketAddr) -> Option<u64> {
    let mut lines = BufReader::new(fs::File::open(path).ok()?);
    for _ in 0..SOCKETS_MAX {
        let mut line = Vec::new();
        if lines.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).ok()? == 0 {
            return None;
        }
        if let Some((found, inode)) = std::str::from_utf8(&line).ok().and_then(parse)
            && collides(found, address)
        {
            return Some(inode);
        }
    }
    None
}

/// Address and inode of a line of the list, if that socket listens.
fn parse(line: &str) -> Option<(SocketAddr, u64)> {
    let mut words = line.split_whitespace();
    let (_, local, _, state) = (words.next()?, words.next()?, words.next()?, words.next()?);
    if state != LISTENING {
        return None;
    }
    // Behind: queues, timer, retransmits, uid, time-out, inode.
    let inode = words.nth(5)?.parse().ok()?;
    let (host, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    Some((SocketAddr::new(host_of(host)?, port), inode))
}

/// Words of 32 bits in the order of the machine, which is a little-endian one.
fn host_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_le_bytes());
    match text.len() {
        8 => Some(IpAddr::V4(Ipv4Addr::from(word(0)?))),
        32 => {
            let mut bytes = [0; 16];
            for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index * 8)?);
            }
            Some(IpAddr::V6(Ipv6Addr::from(bytes)))
        }
        _ => None,
    }
}

/// Whether who listens at `found` keeps others from `wanted`: any address of a family covers each of it, and that of
/// IPv6 those of IPv4 too.
fn collides(found: SocketAddr, wanted: SocketAddr) -> bool {
    if found.port() != wanted.port() {
        return false;
    }
    let (found, wanted) = (found.ip().to_canonical(), wanted.ip().to_canonical());
    let covers = |any: IpAddr, other: IpAddr| any.is_unspecified() && (any.is_ipv6() || other.is_ipv4());
    found == wanted || covers(found, wanted) || covers(wanted, found)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};

    use super::{collides, of, parse};

    #[test]
    fn who_listens_is_found_by_the_kernels_lists() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        let found = of(address).expect("it is us");
        assert_eq!(found.pid, std::process::id());
        assert!(!found.name.is_empty());
        drop(listener);
        assert!(of(address).is_none_or(|other| other.pid != found.pid), "we listen there no more");
    }

    #[test]
    fn lines_of_the_list_are_read_and_others_are_not() {
        let line = "   0: 0100007F:1144 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0";
        assert_eq!(parse(line), Some(("127.0.0.1:4420".parse().expect("an address"), 4711)));
        let line = "   1: 00000000000000000000000001000000:1144 0:0 0A 0:0 00:0 0 0 0 12";
        assert_eq!(parse(line), Some(("[::1]:4420".parse().expect("an address"), 12)));
        for wrong in [
            "",
            "  sl  local_address rem_address   st tx_queue rx_queue",
            "   0: 0100007F:1144 00000000:0000 01 0:0 00:0 0 0 0 4711",
            "   0: 0100007F 0:0 0A 0:0 00:0 0 0 0 4711",
            "   0: XXXX007F:1144 0:0 0A 0:0 00:0 0 0 0 4711",
            "   0: 0100007F:1144 0:0 0A 0:0 00:0",
            "\u{e4}: \u{e4}\u{e4}\u{e4}\u{e4}:1 0:0 0A 0:0 00:0 0 0 0 1",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_address_of_all_keeps_others_from_each() {
        let table = [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "0.0.0.0:1", true),
            ("[::]:1", "127.0.0.1:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("127.0.0.1:2", "127.0.0.1:1", false),
            ("127.0.0.2:1", "127.0.0.1:1", false),
        ];
        for (found, wanted, expected) in table {
            let address = |text: &str| text.parse::<SocketAddr>().expect("an address");
            assert_eq!(collides(address(found), address(wanted)), expected, "{found} {wanted}");
        }
    }
}
