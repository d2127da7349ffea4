//! One thread polls while others submit: what `epoll` must do that one thread cannot show.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests unwrap and print their evidence")]

#[path = "conformance/place.rs"]
#[expect(dead_code, reason = "only the buffers are used")]
mod place;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use busway_io::{ConnectionId, Driver, Epoll, Event, Fault, Listen, Read, Submitted};
use place::{Landing, Parcel};

type Tcp = Epoll<Landing, Parcel>;

/// A driver with a connection to itself: the dialed end, the accepted end.
fn connected() -> (Tcp, ConnectionId, ConnectionId) {
    let driver = Tcp::new().unwrap();
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let listening = driver.listen(Listen { address, backlog: 8, refusal: Vec::new() }).unwrap();
    let dialed = driver.dial(listening.address);
    let (mut accepted, mut stands) = (None, false);
    let mut events = Vec::new();
    while accepted.is_none() || !stands {
        driver.poll(Some(Duration::from_secs(10)), &mut events);
        for event in events.drain(..) {
            match event {
                Event::Accepted { connection, .. } => accepted = Some(connection),
                Event::Dialed { result, .. } => stands = result == Ok(()),
                other => panic!("{other:?}"),
            }
        }
    }
    (driver, dialed, accepted.unwrap())
}

#[test]
fn a_thread_that_polls_for_ever_is_woken_by_what_others_do() {
    let (driver, dialed, accepted) = connected();
    let over = Mutex::new(false);
    let (send, told) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut events = Vec::new();
            while !*over.lock().unwrap() {
                driver.poll(None, &mut events);
                events.drain(..).for_each(|event| send.send(format!("{event:?}")).unwrap());
            }
        });
        let patience = Duration::from_secs(30);
        driver.watch(accepted);
        let written = driver.write(dialed, Parcel(vec![vec![1]]));
        assert!(matches!(written, Submitted::Done { result: Ok(1), .. }));
        assert_eq!(told.recv_timeout(patience).unwrap(), format!("Readable {{ connection: {accepted:?} }}"));
        driver.close(dialed);
        assert_eq!(told.recv_timeout(patience).unwrap(), format!("Closed {{ connection: {dialed:?} }}"));
        // Without the wake the scope would never end.
        *over.lock().unwrap() = true;
        driver.wake();
    });
}

#[test]
fn bytes_that_one_thread_writes_and_another_polls_for_all_arrive() {
    const BYTES: usize = 16 << 20;
    let (driver, dialed, accepted) = connected();
    let (send_back, given_back) = mpsc::channel();
    let writing = &driver;
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut sent = 0;
            while sent < BYTES {
                let piece = (sent..(sent + 100_000).min(BYTES)).map(|index| (index % 251) as u8).collect();
                let result = match writing.write(dialed, Parcel(vec![piece])) {
                    Submitted::Done { result, .. } => result,
                    Submitted::Pending => given_back.recv_timeout(Duration::from_secs(30)).unwrap(),
                };
                sent += result.unwrap();
            }
            writing.shutdown(dialed).unwrap();
        });
        let came = receive(&driver, accepted, &send_back);
        assert_eq!(came, BYTES);
        println!("evidence: bytes={came}");
    });
}

/// Polls and reads until the end, and passes on what the writer waits for.
fn receive(driver: &Tcp, accepted: ConnectionId, send_back: &mpsc::Sender<Result<usize, Fault>>) -> usize {
    let mut came = 0;
    let mut events = Vec::new();
    let mut next = driver.read(accepted, Landing { first: vec![0; 3000], second: vec![0; 100_000] });
    loop {
        let (space, result) = match next {
            Submitted::Done { buffer, result } => (buffer, result),
            Submitted::Pending => loop {
                // A poll may return early; a test that hangs is stopped by its runner.
                driver.poll(Some(Duration::from_secs(30)), &mut events);
                let mut read = None;
                for event in events.drain(..) {
                    match event {
                        Event::Read { space, result, .. } => read = Some((space, result)),
                        Event::Written { result, .. } => send_back.send(result).unwrap(),
                        other => panic!("{other:?}"),
                    }
                }
                if let Some(read) = read {
                    break read;
                }
            },
        };
        match result.unwrap() {
            Read::End => return came,
            Read::Bytes(count) => {
                let bytes = space.first.iter().chain(&space.second).take(count);
                assert!(bytes.enumerate().all(|(i, byte)| *byte == ((came + i) % 251) as u8), "near {came}");
                came += count;
                next = driver.read(accepted, space);
            }
        }
    }
}
