//! A line between two nodes whose connections end after so many bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use busway_shm::sync::{AtomicU64, Ordering};

/// Passes on what comes to its address.
pub(crate) struct Line {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    /// So many bytes of a connection go through, both ways together.
    bytes_max: AtomicU64,
    /// Connections that were cut for it.
    cuts: AtomicU64,
}

impl Line {
    /// One that lets all through.
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State { bytes_max: AtomicU64::new(u64::MAX), cuts: AtomicU64::new(0) });
        let of_all = state.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(target)) else { continue };
                let passed = Arc::new(AtomicU64::new(0));
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let (passed, state) = (passed.clone(), of_all.clone());
                    std::thread::spawn(move || pass(from, to, &passed, &state));
                }
            }
        });
        Self { address, state }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on a connection ends with the first byte beyond so many.
    pub(crate) fn end_after(&self, bytes_max: u64) {
        self.state.bytes_max.store(bytes_max, Ordering::SeqCst);
    }

    pub(crate) fn cuts(&self) -> u64 {
        self.state.cuts.load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, passed: &AtomicU64, state: &State) {
    let mut bytes = vec![0; 4 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let before = passed.fetch_add(count as u64, Ordering::SeqCst);
        let most = state.bytes_max.load(Ordering::SeqCst);
        if before + count as u64 > most {
            state.cuts.fetch_add(u64::from(before <= most), Ordering::SeqCst);
            let _ = from.shutdown(Shutdown::Both);
            break;
        }
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
