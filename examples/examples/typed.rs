//! Values instead of bytes: a plain structure as it lies in memory, and serde's values as JSON and MessagePack.
//!
//! `cargo run -p busway-examples --example typed`

use busway::{Bus, Error};
use serde::{Deserialize, Serialize};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Plain data: the derives refuse a structure with padding or with bytes that could be invalid.
#[derive(Debug, PartialEq, FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct Scan {
    taken_ns: u64,
    ranges_mm: [u32; 360],
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Order {
    customer: String,
    items: Vec<(String, u32)>,
}

fn main() -> Result<(), Error> {
    let bus = Bus::open("example-typed")?;
    let mut scans = bus.subscriber("robot.scan").open()?;
    let mut scanner = bus.publisher("robot.scan").open()?.typed::<Scan>();

    // Written where subscribers will read it: nothing is encoded, nothing is copied.
    let mut loan = scanner.loan()?;
    let scan = loan.value()?;
    scan.taken_ns = 42;
    scan.ranges_mm[90] = 1_500;
    loan.send()?;
    let sample = scans.recv()?;
    let scan: &Scan = sample.cast()?;
    assert!(sample.is_held(), "1 448 bytes are looked at in the publisher's memory");
    assert_eq!((scan.taken_ns, scan.ranges_mm[90]), (42, 1_500));

    // The wrong type is refused, not misread.
    let refused = sample.cast::<u64>().expect_err("a scan is not a number");
    eprintln!("{refused}");

    let mut orders = bus.subscriber("shop.*").open()?;
    let mut publisher = bus.publisher("shop.orders").open()?;
    let order = Order { customer: "Ada".to_owned(), items: vec![("gears".to_owned(), 12)] };
    publisher.send_json(&order)?;
    publisher.send_msgpack(&order)?;
    let (json, packed) = (orders.recv()?, orders.recv()?);
    assert_eq!((json.json::<Order>()?, packed.msgpack::<Order>()?), (order.clone(), order));
    eprintln!(
        "{:?} as {} bytes of {:?} and {} of {:?}",
        json.topic(),
        json.len(),
        json.codec(),
        packed.len(),
        packed.codec()
    );
    Ok(())
}
