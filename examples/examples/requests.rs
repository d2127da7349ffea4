//! Requests: many under way at once, answered by two responders, with a stream of replies and with an error.
//!
//! `cargo run -p busway-examples --example requests`

use std::time::Duration;

use busway::{Bus, Error, RequestError, Responder};

const TIMEOUT: Duration = Duration::from_secs(10);

/// Answers `N` with 1, 2 to N, and what is no number with the reason.
fn count(mut responder: Responder) -> Result<(), Error> {
    // Until the bus is closed.
    while let Ok(mut request) = responder.recv() {
        let wanted = std::str::from_utf8(&request).ok().and_then(|text| text.parse::<u32>().ok());
        match wanted {
            Some(last) if last > 0 => {
                for number in 1..last {
                    request.reply_part(number.to_string().as_bytes())?;
                }
                request.reply(last.to_string().as_bytes())?;
            }
            _ => request.fail(b"that is no number")?,
        }
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let bus = Bus::open("example-requests")?;
    let responders = [bus.responder("count").open()?, bus.responder("count").open()?];
    let servers = responders.map(|responder| std::thread::spawn(move || count(responder)));

    let requester = bus.requester("count").open()?;
    let asked: Result<Vec<_>, RequestError> =
        (1..=20_u32).map(|number| requester.send(number.to_string().as_bytes(), TIMEOUT)).collect();
    let mut replies = 0;
    for mut pending in asked? {
        while pending.recv()?.is_some() {
            replies += 1;
        }
    }
    assert_eq!(replies, (1..=20).sum::<u32>());
    eprintln!("20 requests, {replies} replies");

    let error = requester.request(b"a dozen", TIMEOUT).expect_err("it is no number");
    eprintln!("{error}");
    assert_eq!(error, RequestError::Failed(b"that is no number".to_vec()));

    bus.close();
    servers.into_iter().try_for_each(|server| server.join().expect("it does not panic"))
}
