//! What Busway promises of requests: each is answered by one responder, ends once, and tells its caller at once where there will be no answer.
//!
//! Responders and requesters that are killed are processes: the test binary starts itself again for each (`service`). One test at a time.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]
#![expect(clippy::unwrap_used, reason = "a test fails where its story breaks")]

#[path = "../scene/asleep.rs"]
mod asleep;
mod breaker;
mod budgets;
mod deaths;
mod ends;
mod hostile;
#[path = "../scene/part.rs"]
mod part;
#[path = "../scene/place.rs"]
mod place;
mod replies;
mod service;
mod watched;

#[test]
fn plays_its_part_if_it_was_started_for_one() {
    if let Some(part) = part::Part::given() {
        service::play(&part);
    }
}
