//! The smallest program: one publisher, one subscriber, one message.
//!
//! `cargo run -p busway-examples --example hello`

use busway::{Bus, Error};

fn main() -> Result<(), Error> {
    let bus = Bus::open("example-hello")?;
    let mut subscriber = bus.subscriber("greeting.*").open()?;
    let mut publisher = bus.publisher("greeting.world").open()?;
    publisher.send(b"hello")?;
    let sample = subscriber.recv()?;
    assert_eq!(&sample[..], b"hello");
    eprintln!("{} said {} on {}", sample.publisher().name, String::from_utf8_lossy(&sample), sample.topic());
    Ok(())
}
