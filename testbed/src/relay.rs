//! Delay without a module of the kernel: a relay of TCP streams in user space, which hands on what has come when it is so old.
//!
//! It knows no packets: it can be late, not lose. What it holds is bounded by [`HELD_MAX`] blocks a stream and way; past that it reads no more, as a full line.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::Failure;
use crate::clock::{now_ns, pause};
use crate::node::end_with_parent;

const BLOCK: usize = 16 << 10;
/// Four mebibytes: a quarter of a second at 100 Mbit/s.
const HELD_MAX: usize = 256;

/// `MILLISECONDS LISTEN TARGET [LISTEN TARGET]...`, for ever. Says `ready` when it listens.
pub(crate) fn run(words: &[&str]) -> Result<(), Failure> {
    end_with_parent()?;
    let (delay, routes) = words.split_first().ok_or("a relay needs a delay")?;
    let delay = Duration::from_millis(delay.parse()?);
    let mut threads = Vec::new();
    for route in routes.chunks_exact(2) {
        let (listener, target) = (TcpListener::bind(route[0])?, route[1].to_owned());
        threads.push(std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // Nobody there: who dialed sees that its stream ends.
                if let Ok(far) = TcpStream::connect(&target) {
                    join(&near, &far, delay);
                }
            }
        }));
    }
    println!("ready");
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn join(near: &TcpStream, far: &TcpStream, delay: Duration) {
    let _ = near.set_nodelay(true);
    let _ = far.set_nodelay(true);
    for (from, to) in [(near, far), (far, near)] {
        let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) else { return };
        let (held, due) = sync_channel(HELD_MAX);
        std::thread::spawn(move || take(from, &held));
        std::thread::spawn(move || hand_on(&to, &due, delay));
    }
}

fn take(mut from: TcpStream, held: &SyncSender<(u64, Vec<u8>)>) {
    loop {
        let mut block = vec![0; BLOCK];
        match from.read(&mut block) {
            Ok(size) if size > 0 => block.truncate(size),
            _ => return,
        }
        if held.send((now_ns(), block)).is_err() {
            return;
        }
    }
}

fn hand_on(mut to: &TcpStream, due: &Receiver<(u64, Vec<u8>)>, delay: Duration) {
    for (came_ns, block) in due {
        let old = Duration::from_nanos(now_ns().saturating_sub(came_ns));
        pause(delay.saturating_sub(old));
        if to.write_all(&block).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
