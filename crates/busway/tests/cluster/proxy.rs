//! A connection that can be cut: bytes go through until they do not.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use busway_shm::sync::{AtomicBool, AtomicU64, Ordering};

/// Passes on what comes to its address.
pub(crate) struct Proxy {
    address: SocketAddr,
    /// Of each connection the side of who dialed, and the other.
    streams: Arc<Mutex<Vec<[TcpStream; 2]>>>,
    cuts: AtomicU64,
    closed: Arc<AtomicBool>,
    mode: Arc<Mode>,
}

/// What becomes of bytes, and of who does not dial.
#[derive(Default)]
struct Mode {
    /// Bytes of who dials go nowhere, and nobody is told.
    swallows: AtomicBool,
    /// Those that went nowhere.
    swallowed: Mutex<Vec<u8>>,
    /// Who does not dial is not told that the other is gone.
    is_silent: AtomicBool,
}

impl Proxy {
    pub(crate) fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(Mutex::new(Vec::new()));
        let kept = open.clone();
        let closed = Arc::new(AtomicBool::new(false));
        let refuses = closed.clone();
        let mode = Arc::new(Mode::default());
        let of_all = mode.clone();
        // Ends with the process.
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (Ok(near), Ok(far)) = (near, TcpStream::connect(target)) else { continue };
                let mut open = kept.lock().unwrap();
                if refuses.load(Ordering::SeqCst) {
                    continue;
                }
                for (from, to, dials) in [(&near, &far, true), (&far, &near, false)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let mode = of_all.clone();
                    std::thread::spawn(move || pass(from, to, dials, &mode));
                }
                open.push([near, far]);
            }
        });
        Self { address, streams: open, cuts: AtomicU64::new(0), closed, mode }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends every connection, whatever is on its way.
    pub(crate) fn cut(&self) {
        self.close();
        self.open();
    }

    /// As `cut`, and lets none through until it is opened again.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        for stream in self.streams.lock().unwrap().drain(..).flatten() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.cuts.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn open(&self) {
        self.mode.swallows.store(false, Ordering::SeqCst);
        self.mode.is_silent.store(false, Ordering::SeqCst);
        self.closed.store(false, Ordering::SeqCst);
    }

    /// From now on what who dials says goes nowhere, until it is opened again. The other is heard.
    pub(crate) fn swallow(&self) {
        self.mode.swallows.store(true, Ordering::SeqCst);
    }

    /// Whether these bytes are among those that went nowhere.
    pub(crate) fn has_swallowed(&self, bytes: &[u8]) -> bool {
        self.mode.swallowed.lock().unwrap().windows(bytes.len()).any(|window| window == bytes)
    }

    /// As `close`, for who dials; the other is not told.
    pub(crate) fn close_for_who_dials(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.mode.is_silent.store(true, Ordering::SeqCst);
        for [near, _] in &*self.streams.lock().unwrap() {
            let _ = near.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, dials: bool, mode: &Mode) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if dials && mode.swallows.load(Ordering::SeqCst) {
            mode.swallowed.lock().unwrap().extend_from_slice(&bytes[..count]);
        } else if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    if !mode.is_silent.load(Ordering::SeqCst) {
        let _ = to.shutdown(Shutdown::Both);
    }
}
