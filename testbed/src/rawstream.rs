//! One plain TCP stream: what the shaped line gives to who does nothing else.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use crate::Failure;
use crate::clock::{now_ns, seconds_between};
use crate::node::end_with_parent;

const BLOCK: usize = 64 << 10;
/// As long as a stream finds its pace; not counted.
const WARM_NS: u64 = 500_000_000;

/// Sends for so many seconds beyond those in which the stream finds its pace.
pub(crate) fn send(address: &str, seconds: &str) -> Result<(), Failure> {
    end_with_parent()?;
    let mut stream = TcpStream::connect(address)?;
    let time = Duration::from_secs_f64(seconds.parse()?) + Duration::from_nanos(WARM_NS);
    let begun = now_ns();
    let block = vec![7; BLOCK];
    while seconds_between(begun, now_ns()) < time.as_secs_f64() {
        stream.write_all(&block)?;
    }
    Ok(())
}

/// Says `listening`, takes one stream, and says how many bytes a second came.
pub(crate) fn receive(address: &str) -> Result<(), Failure> {
    end_with_parent()?;
    let listener = TcpListener::bind(address)?;
    println!("listening");
    let (mut stream, _) = listener.accept()?;
    let (begun, mut block) = (now_ns(), vec![0; BLOCK]);
    let (mut counted, mut from_ns, mut to_ns) = (0_u64, None, 0);
    loop {
        let size = stream.read(&mut block)?;
        if size == 0 {
            break;
        }
        let now = now_ns();
        match from_ns {
            Some(_) => (counted, to_ns) = (counted + size as u64, now),
            None if now - begun >= WARM_NS => from_ns = Some(now),
            None => {}
        }
    }
    let from_ns = from_ns.ok_or("the stream ended before it had found its pace")?;
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = counted as f64 / seconds_between(from_ns, to_ns);
    println!("{rate}");
    Ok(())
}
