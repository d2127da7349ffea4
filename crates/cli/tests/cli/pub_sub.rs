//! `pub` to `sub`: bytes, lines, accounts and fields.

use serde_json::{Value, json};

use crate::harness::{Place, flights, keys};

#[test]
fn a_line_is_topic_tab_body() {
    let place = Place::new();
    let subscriber = place.subscribe(&["price.*", "--count", "2"]);
    place.run(&["pub", "price.tick", "101.5"]).expect(0);
    place.run(&["pub", "price.tock", ""]).expect(0);
    let ended = subscriber.finish().expect(0);
    assert_eq!(ended.text(), "price.tick\t101.5\nprice.tock\t\n");
    assert_eq!(ended.stderr, ["ready price.*", "received 2 lost 0"]);
}

#[test]
fn what_is_published_before_anybody_subscribes_waits_for_the_first_as_long_as_it_is_told_to() {
    let place = Place::new();
    let publisher = place.start(&["pub", "news", "early", "--count", "3", "--late-join", "60s", "--json"]);
    let subscriber = place.start(&["sub", "news", "--raw", "--count", "3", "--timeout", "60s"]);
    assert_eq!(subscriber.finish().expect(0).text(), "early\nearly\nearly\n");
    let account = publisher.finish().expect(0).object();
    assert_eq!(
        (&account["sent"], &account["subscribers"], &account["dropped"]),
        (&json!(3), &json!(1), &json!({}))
    );
    let ended = place.run(&["pub", "news", "in vain", "--late-join", "1ms"]).expect(0);
    assert_eq!(ended.last_error_line(), "sent 1 subscribers 0 delivered 0 dropped 1 in-flight 0");
}

#[test]
fn every_byte_of_a_body_arrives_and_nothing_is_added() {
    let place = Place::new();
    let body: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let raw = place.subscribe(&["x", "--raw", "--count", "1", "--reliable"]);
    let raw0 = place.subscribe(&["x", "--raw0", "--count", "1", "--reliable"]);
    place.run_with(&body, &["pub", "x", "-", "--wait=2"]).expect(0);
    assert_eq!(raw.finish().expect(0).stdout, [&body[..], b"\n"].concat());
    assert_eq!(raw0.finish().expect(0).stdout, [&body[..], b"\0"].concat());
}

#[test]
fn lines_lose_their_line_feed_and_nothing_else() {
    let place = Place::new();
    let subscriber = place.subscribe(&["x", "--raw0", "--count", "4", "--reliable"]);
    let ended = place.run_with(b"one\n\n\r\nlast", &["pub", "x", "--lines", "--wait"]).expect(0);
    assert_eq!(subscriber.finish().expect(0).stdout, b"one\0\0\r\0last\0");
    assert_eq!(ended.last_error_line(), "sent 4 subscribers 1 delivered 4 dropped 0 in-flight 0");
}

#[test]
fn who_waits_for_others_is_told_once_how_many_have_come_and_goes_on_waiting() {
    let place = Place::new();
    let [subscriber, puller] = [["sub", "x", "--reliable"], ["pull", "x", "--raw"]];
    for (sends, takes, whom) in [("pub", subscriber, "subscribers"), ("push", puller, "pullers")] {
        let start = || {
            let mut reader = place.start(&[&takes[..], &["--count", "1"]].concat());
            reader.stderr_until(|line| line.starts_with("ready "));
            reader
        };
        let mut readers = vec![start()];
        let mut sender = place.start(&[sends, "x", "body", "--count", "2", "--wait=2", "--linger", "60s"]);
        sender.stderr_until(|line| {
            line.starts_with("note: ") && line.contains(whom) && line.contains(" of 2 ")
        });
        readers.push(start());
        let notes = sender.finish().expect(0).stderr;
        assert_eq!(notes.iter().filter(|line| line.starts_with("note: ")).count(), 1, "{notes:?}");
        for reader in readers {
            reader.finish().expect(0);
        }
        // Who has all that it waits for within that time is told nothing.
        let _reader = start();
        let at_once = place.run(&[sends, "x", "body", "--wait"]).expect(0);
        assert_eq!(at_once.stderr.len(), 1, "{:?}", at_once.stderr);
    }
}

#[test]
fn lines_stop_at_the_count() {
    let place = Place::new();
    let ended =
        place.run_with(b"a\nb\nc\n", &["pub", "x", "-", "--lines", "--count", "2", "--json"]).expect(0);
    assert_eq!(ended.object()["sent"], 2);
}

#[test]
fn real_records_reach_two_subscribers_unchanged() {
    let place = Place::new();
    let flights = flights();
    let arguments = ["flights", "--reliable", "--raw", "--count", "20000"];
    let (first, second) = (place.subscribe(&arguments), place.subscribe(&arguments));
    let ended = place.run_with(&flights, &["pub", "flights", "-", "--lines", "--wait=2"]).expect(0);
    assert!(first.finish().expect(0).stdout == flights, "the first subscriber's bytes differ");
    assert!(second.finish().expect(0).stdout == flights, "the second subscriber's bytes differ");
    assert_eq!(ended.last_error_line(), "sent 20000 subscribers 2 delivered 40000 dropped 0 in-flight 0");
}

#[test]
fn the_account_of_a_publisher_is_one_object_with_json() {
    let place = Place::new();
    let subscriber = place.subscribe(&["x", "--reliable", "--count", "3"]);
    let ended = place.run(&["pub", "x", "y", "--count", "3", "--wait", "--json"]).expect(0);
    subscriber.finish().expect(0);
    let account = ended.object();
    assert_eq!(
        keys(&account),
        ["delivered", "dropped", "in_flight", "seconds", "sent", "subscribers", "topic"]
    );
    assert_eq!(account["topic"], "x");
    assert_eq!(
        (&account["sent"], &account["subscribers"], &account["delivered"]),
        (&json!(3), &json!(1), &json!(3))
    );
    assert_eq!((&account["dropped"], &account["in_flight"]), (&json!({}), &json!(0)));
    assert!(ended.stderr.is_empty(), "{:?}", ended.stderr);
}

#[test]
fn a_message_is_an_object_with_json_and_binary_is_base64() {
    let place = Place::new();
    let subscriber = place.subscribe(&["x", "--json", "--count", "2", "--reliable"]);
    place.run_with(b"text\n\xff\xfe\n", &["pub", "x", "--lines", "--wait"]).expect(0);
    let ended = subscriber.finish().expect(0);
    let messages: Vec<Value> =
        ended.lines().iter().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    assert_eq!(keys(&messages[0]), ["body", "publisher", "sequence", "size", "source", "time_ns", "topic"]);
    assert_eq!(
        keys(&messages[1]),
        ["body_base64", "publisher", "sequence", "size", "source", "time_ns", "topic"]
    );
    assert_eq!((&messages[0]["body"], &messages[0]["size"]), (&json!("text"), &json!(4)));
    assert_eq!((&messages[1]["body_base64"], &messages[1]["size"]), (&json!("//4="), &json!(2)));
    assert_eq!(messages[0]["topic"], "x");
    assert_eq!(messages[0]["publisher"], "busway-pub");
    assert_eq!(messages[0]["source"], messages[1]["source"]);
    let sequences: Vec<u64> = messages.iter().filter_map(|message| message["sequence"].as_u64()).collect();
    assert_eq!(sequences, [1, 2]);
}

#[test]
fn nobody_to_hear_is_no_failure_but_a_note() {
    let ended = Place::new().run(&["pub", "x", "hello"]).expect(0);
    assert_eq!(ended.stderr.len(), 2, "{:?}", ended.stderr);
    assert!(ended.stderr[0].contains("nobody subscribes to x"), "{:?}", ended.stderr);
    assert_eq!(ended.last_error_line(), "sent 1 subscribers 0 delivered 0 dropped 0 in-flight 0");
    let quiet = Place::new().run(&["-q", "pub", "x", "hello"]).expect(0);
    assert!(quiet.stderr.is_empty(), "{:?}", quiet.stderr);
}

#[test]
fn waiting_for_subscribers_that_do_not_come_ends_with_one() {
    let ended = Place::new().run(&["pub", "x", "y", "--wait=2", "--timeout", "100ms"]).expect(1);
    let (code, cause, ..) = ended.report();
    assert_eq!((code.as_str(), cause.as_str()), ("BUS-0803", "0 of 2 subscribers came in 100ms"));
}

#[test]
fn a_count_that_is_not_reached_ends_with_one() {
    let place = Place::new();
    let subscriber = place.subscribe(&["x", "--count", "2", "--timeout", "5s", "--reliable"]);
    place.run(&["pub", "x", "one", "--wait"]).expect(0);
    let ended = subscriber.finish().expect(1);
    assert_eq!(ended.text(), "x\tone\n");
    assert_eq!(ended.report().1, "1 of 2 messages came in 5s");
}

#[test]
fn a_subscriber_without_a_count_ends_well_if_anything_came() {
    let place = Place::new();
    let subscriber = place.subscribe(&["x", "--timeout", "5s", "--reliable"]);
    place.run(&["pub", "x", "one", "--wait"]).expect(0);
    assert_eq!(subscriber.finish().expect(0).text(), "x\tone\n");
    let ended = place.run(&["sub", "x", "--timeout", "100ms"]).expect(1);
    assert_eq!(ended.report().0, "BUS-0804");
}

#[test]
fn several_patterns_share_one_count() {
    let place = Place::new();
    let subscriber = place.subscribe(&["a.*", "^b", "--count", "3", "--reliable"]);
    for topic in ["a.x", "bbb", "c", "b.y"] {
        place.run(&["pub", topic, "-5"]).expect(0);
    }
    let mut lines = subscriber.finish().expect(0).lines();
    lines.sort();
    assert_eq!(lines, ["a.x\t-5", "b.y\t-5", "bbb\t-5"]);
}

#[test]
fn seeded_bodies_are_the_same_in_each_run() {
    let run = || {
        let place = Place::new();
        let subscriber = place.subscribe(&["x", "--raw0", "--count", "2", "--reliable"]);
        place.run(&["pub", "x", "--size", "1KiB", "--count", "2", "--wait"]).expect(0);
        subscriber.finish().expect(0).stdout
    };
    let first = run();
    assert_eq!(first.len(), 2 * 1025);
    assert_ne!(first[..1024], first[1025..2049], "two messages have different bytes");
    assert_eq!(first, run());
}

#[test]
fn a_publisher_ends_before_its_subscribers_print_and_nothing_is_lost() {
    let place = Place::new();
    let subscribers: Vec<_> =
        (0..3).map(|_| place.subscribe(&["x", "--reliable", "--count", "20", "--raw"])).collect();
    for _ in 0..20 {
        place.run(&["pub", "x", "hello"]).expect(0);
    }
    for subscriber in subscribers {
        assert_eq!(subscriber.finish().expect(0).text(), "hello\n".repeat(20));
    }
}
