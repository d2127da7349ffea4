//! What messages say beside their payload: ids and traces, in memory, in requests and their replies, in handlers and outlets.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

#[path = "scene/alone.rs"]
mod alone;

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use busway::service::{DeadLetter, Retry};
use busway::{Codec, Context, MessageId, Policy, TraceParent};
use tracing::field::{Field, Visit};
use tracing::span;

use alone::Scene;

const PATIENCE: Duration = Duration::from_secs(30);
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn trace() -> TraceParent {
    TRACE.parse().unwrap()
}

/// Every context that differs in what it has.
fn contexts(id: MessageId) -> [Context<'static>; 5] {
    let none = Context::default();
    let traced = none.with_trace(trace());
    let state = traced.with_state("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE").unwrap();
    [none, none.with_id(id), traced, state, state.with_id(id)]
}

fn payload(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at * 31 + size) as u8).collect()
}

#[test]
fn a_message_says_its_id_and_its_trace_where_it_lies_whatever_its_size() {
    let scene = Scene::new();
    // What is not held is copied, and has it too.
    let mut subscriber = scene.bus.subscriber("a.>").policy(Policy::Block).holds(1).open().unwrap();
    let mut publisher = scene.bus.publisher("a.b").open().unwrap();
    let (mut held, mut copied) = (0, 0);
    for size in [0, 1, 95, 96, 97, 4_096, 60_000] {
        for context in contexts(scene.bus.next_id().unwrap()) {
            let payload = payload(size);
            publisher.in_context(context).send(&payload).unwrap();
            let kept = subscriber.recv_timeout(PATIENCE).unwrap().unwrap();
            publisher.in_context(context).send_timeout(&payload, PATIENCE).unwrap();
            let other = subscriber.recv_timeout(PATIENCE).unwrap().unwrap();
            for message in [kept, other] {
                assert_eq!((message.payload(), message.context()), (&payload[..], context));
                assert_eq!((message.id(), message.trace()), (context.id(), context.trace()));
                held += u64::from(message.is_held());
                copied += u64::from(!message.is_held() && size > 96);
                assert!(!context.is_empty() || size > 96 || !message.is_held(), "a slot is enough for it");
            }
        }
    }
    publisher.in_context(contexts(MessageId(1))[4]).send_json(&[1, 2]).unwrap();
    let json = subscriber.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(
        (json.codec(), json.json::<Vec<u32>>().unwrap(), json.id()),
        (Codec::Json, vec![1, 2], Some(MessageId(1)))
    );
    assert!(held > 0 && copied > 0);
    assert_eq!(
        publisher.bytes_sent(),
        2 * 5 * (1 + 95 + 96 + 97 + 4_096 + 60_000) + 5,
        "payloads are counted, and nothing else"
    );
    println!("evidence: held={held} copied={copied}");
}

#[test]
fn tasks_bear_their_context_to_whoever_gets_them_and_when_they_come_again() {
    let scene = Scene::new();
    let mut puller = scene.bus.puller("jobs").ack(Duration::from_secs(60)).open().unwrap();
    let mut pusher = scene.bus.pusher("jobs").open().unwrap();
    let context = contexts(scene.bus.next_id().unwrap())[4];
    pusher.in_context(context).send(b"work").unwrap();
    let first = puller.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!(first.sample().context(), context);
    first.nack();
    let again = puller.recv_timeout(PATIENCE).unwrap().unwrap();
    assert_eq!((again.deliveries(), again.sample().context(), &again[..]), (2, context, &b"work"[..]));
    again.ack().unwrap();
}

#[test]
fn loans_batches_and_typed_values_bear_a_context_each_its_own() {
    let scene = Scene::new();
    let mut subscriber = scene.bus.subscriber("a.>").policy(Policy::Block).open().unwrap();
    let mut publisher = scene.bus.publisher("a.b").open().unwrap();
    let (mut taken, mut put_back) = (0, 0);
    let mut take = |payload: &[u8], codec, context: Context<'_>| {
        let message = subscriber.recv_timeout(PATIENCE).unwrap().expect("a message");
        assert_eq!((message.payload(), message.codec()), (payload, codec));
        assert_eq!(message.context(), context);
        taken += 1;
        message
    };
    for size in [0, 1, 96, 97, 4_096, 60_000] {
        for context in contexts(scene.bus.next_id().unwrap()) {
            let payload = payload(size);
            let mut loan = publisher.in_context(context).loan(size).unwrap();
            assert_eq!(loan.len(), size);
            loan.copy_from_slice(&payload);
            loan.send().unwrap();
            take(&payload, Codec::Bytes, context);
            // One that is written elsewhere meanwhile.
            let mut later = publisher.in_context(context).try_loan(size).unwrap().detach();
            later.bytes_mut().copy_from_slice(&payload);
            drop(publisher.in_context(context).loan(size).unwrap());
            put_back += 1;
            publisher.attach(later).unwrap().try_send().unwrap();
            take(&payload, Codec::Bytes, context);
            let mut batch = publisher.batch();
            batch.send(b"before").unwrap();
            batch.in_context(context).send(&payload).unwrap();
            batch.send(b"after").unwrap();
            drop(batch);
            take(b"before", Codec::Bytes, Context::default());
            take(&payload, Codec::Bytes, context);
            take(b"after", Codec::Bytes, Context::default());
        }
    }
    let mut typed = publisher.typed::<[u64; 20]>();
    let context = contexts(MessageId(9))[4];
    typed.in_context(context).send(&[3; 20]).unwrap();
    typed.in_context(context).try_send(&[4; 20]).unwrap();
    let mut loan = typed.in_context(context).loan().unwrap();
    loan.value().unwrap()[19] = 5;
    loan.send().unwrap();
    for (first, last) in [(3, 3), (4, 4), (0, 5)] {
        let mut value = [first; 20];
        value[19] = last;
        let bytes: Vec<u8> = value.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        let message = take(&bytes, Codec::Typed, context);
        assert_eq!(message.cast::<[u64; 20]>().unwrap(), &value);
    }
    println!("evidence: messages={taken} put_back={put_back}");
}

#[test]
fn what_a_group_gives_up_keeps_its_id_its_trace_and_its_codec_and_is_pushed_again_as_the_same() {
    let scene = Scene::new();
    let pull = || scene.bus.puller("jobs").group("g").ack(PATIENCE).attempts(1);
    let mut puller = pull().drop_duplicates(8).redelivery(Duration::ZERO).open().unwrap();
    let mut pusher = scene.bus.pusher("jobs").open().unwrap();
    let context = contexts(scene.bus.next_id().unwrap())[4];
    pusher.in_context(context).send_json(&[1, 2]).unwrap();
    puller.recv_timeout(PATIENCE).unwrap().unwrap().nack();
    assert!(puller.try_recv().unwrap().is_none());
    let mut dead = scene.bus.puller("dead-letters.g").open().unwrap();
    let letter = dead.recv_timeout(PATIENCE).unwrap().expect("a dead letter");
    let sample = letter.sample();
    assert_eq!((sample.context(), sample.codec(), &letter[..]), (context, Codec::Json, &b"[1,2]"[..]));
    // It was not done, so that the same is no duplicate; once it was, it is one.
    for _ in 0..2 {
        pusher.in_context(sample.context()).send_json(&[1, 2]).unwrap();
    }
    let again = puller.recv_timeout(PATIENCE).unwrap().expect("it was mended");
    assert_eq!(again.sample().id(), context.id());
    again.ack().unwrap();
    assert!(puller.try_recv().unwrap().is_none());
    pusher.flush(PATIENCE).unwrap();
    let account = pusher.account();
    assert_eq!((account.delivered, account.dropped["dead_letter"], account.dropped["duplicate"]), (1, 1, 1));
}

#[test]
fn who_pulls_dead_letters_once_each_has_one_each_time_that_a_task_fails() {
    let scene = Scene::new();
    let mut puller = scene.bus.puller("jobs").group("g").ack(PATIENCE).attempts(1).open().unwrap();
    let mut dead = scene.bus.puller("dead-letters.g").ack(PATIENCE).drop_duplicates(8).open().unwrap();
    let mut pusher = scene.bus.pusher("jobs").open().unwrap();
    let context = contexts(scene.bus.next_id().unwrap())[4];
    for time in 1..=3 {
        pusher.in_context(context).send_json(&17).unwrap();
        puller.recv_timeout(PATIENCE).unwrap().expect("it is no duplicate: it was not done").nack();
        assert!(puller.try_recv().unwrap().is_none());
        let letter = dead.recv_timeout(PATIENCE).unwrap().unwrap_or_else(|| panic!("failure {time} is gone"));
        assert_eq!(letter.sample().context(), context);
        letter.ack().unwrap();
    }
    println!("evidence: failures=3 dead_letters=3");
}

#[test]
fn a_dead_letter_of_a_service_says_the_context_of_its_message_and_belongs_to_its_trace() {
    let scene = Scene::new();
    let mut dead = scene.bus.subscriber("dead").policy(Policy::Block).drop_duplicates(8).open().unwrap();
    let mut publisher = scene.bus.publisher("jobs").open().unwrap();
    let start = |name: &str| {
        let service = scene.bus.service(name).dead_letters("dead").on("jobs", |_| Err("no"));
        service.policy(Policy::Block).start().unwrap()
    };
    let services = [start("one"), start("two")];
    let mut letters = 0;
    for context in contexts(scene.bus.next_id().unwrap()) {
        publisher.in_context(context).send_json(&17).unwrap();
        // Both services give it up: those are two messages about one.
        for _ in &services {
            let message = dead.recv_timeout(PATIENCE).unwrap().expect("a dead letter");
            let letter = DeadLetter::decode(&message).unwrap();
            assert_eq!((letter.context, letter.codec, letter.payload), (context, Codec::Json, &b"17"[..]));
            assert_eq!((message.id(), message.context()), (None, context.without_id()));
            letters += 1;
        }
    }
    println!("evidence: dead_letters={letters}");
}

#[test]
fn a_reply_belongs_to_the_trace_of_its_request_also_one_that_was_copied() {
    let scene = Scene::new();
    let mut responder = scene.bus.responder("ask").open().unwrap();
    let server = std::thread::spawn(move || {
        let mut seen = Vec::new();
        for _ in 0..6 {
            let mut request = responder.recv_timeout(PATIENCE).unwrap().expect("a request");
            let size: usize =
                String::from_utf8(request.to_vec()).unwrap().trim_end_matches('.').parse().unwrap();
            let (id, trace, state) = (request.id(), request.trace(), request.context().state().to_owned());
            seen.push((id, trace, state));
            request.reply_part(&payload(size)).unwrap();
            request.reply(&payload(size)).unwrap();
        }
        seen
    });
    let requester = scene.bus.requester("ask").open().unwrap();
    requester.wait_for_responders(1, PATIENCE).unwrap();
    let [none, .., all] = contexts(MessageId(5));
    let mut pending = Vec::new();
    for size in [0, 50, 50_000] {
        for context in [none, all] {
            let asked = format!("{size}{}", ".".repeat(size / 10));
            pending.push((
                size,
                context,
                requester.in_context(context).send(asked.as_bytes(), PATIENCE).unwrap(),
            ));
        }
    }
    // The last is received first, so that those of the others wait as copies.
    for (size, context, mut pending) in pending.into_iter().rev() {
        let mut count = 0;
        while let Some(reply) = pending.recv().unwrap() {
            assert_eq!((&reply[..], reply.context()), (&payload(size)[..], context.without_id()), "{size}");
            count += 1;
        }
        assert_eq!(count, 2);
    }
    let seen = server.join().unwrap();
    let expected = |context: &Context<'_>| (context.id(), context.trace(), context.state().to_owned());
    for (at, seen) in seen.iter().enumerate() {
        assert_eq!(*seen, expected(if at % 2 == 0 { &none } else { &all }));
    }
    println!("evidence: replies=12");
}

/// Notes the spans that are entered and left, with their fields.
#[derive(Clone)]
struct Spans {
    entered: Arc<Mutex<Vec<Vec<String>>>>,
    known: Arc<Mutex<Vec<Vec<String>>>>,
}

struct Fields<'a>(&'a mut Vec<String>);

impl Visit for Fields<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.0.push(format!("{}={value:?}", field.name()));
    }
}

impl tracing::Subscriber for Spans {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target() == "busway::message"
    }

    fn new_span(&self, span: &span::Attributes<'_>) -> span::Id {
        let mut fields = vec![span.metadata().name().to_owned()];
        span.record(&mut Fields(&mut fields));
        let mut known = self.known.lock().unwrap();
        known.push(fields);
        span::Id::from_u64(known.len() as u64)
    }

    fn record(&self, span: &span::Id, values: &span::Record<'_>) {
        let mut known = self.known.lock().unwrap();
        values.record(&mut Fields(&mut known[span.into_u64() as usize - 1]));
    }

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {}

    fn enter(&self, span: &span::Id) {
        let known = self.known.lock().unwrap()[span.into_u64() as usize - 1].clone();
        self.entered.lock().unwrap().push(known);
    }

    fn exit(&self, _: &span::Id) {}
}

#[test]
fn a_handler_runs_in_a_span_that_says_its_trace_its_parent_and_its_id() {
    let scene = Scene::new();
    let spans = Spans { entered: Arc::default(), known: Arc::default() };
    // The workers are threads of the service: theirs is the subscriber of all. No other test here has spans.
    tracing::subscriber::set_global_default(spans.clone()).unwrap();
    let (tell, told): (Sender<Vec<Vec<String>>>, _) = channel();
    let seen = spans.clone();
    let service = scene
        .bus
        .service("traced")
        .on("orders", move |_| tell.send(std::mem::take(&mut *seen.entered.lock().unwrap())).unwrap())
        .start()
        .unwrap();
    let mut publisher = scene.bus.publisher("orders").open().unwrap();
    let [none, _, traced, _, all] = contexts(MessageId(3));
    for context in [none, traced, all] {
        publisher.in_context(context).send(b"17 apples").unwrap();
        let mut said = vec!["message".to_owned()];
        if context.trace().is_some() {
            let sequence = if context.id().is_some() { 3 } else { 2 };
            said.extend([
                "topic=\"orders\"".to_owned(),
                format!("sequence={sequence}"),
                "trace_id=4bf92f3577b34da6a3ce929d0e0e4736".to_owned(),
                "parent_id=00f067aa0ba902b7".to_owned(),
            ]);
        }
        said.extend(context.id().map(|id| format!("id={id}")));
        let entered = told.recv_timeout(PATIENCE).unwrap();
        assert_eq!(entered, if context.is_empty() { vec![] } else { vec![said] });
    }
    service.close(PATIENCE);
    println!("evidence: spans=2");
}

#[test]
fn an_outlet_gives_each_message_one_id_and_keeps_it_in_every_attempt() {
    let scene = Scene::new();
    let mut subscriber = scene.bus.subscriber("jobs").policy(Policy::Fail).open().unwrap();
    let mut publisher = scene.bus.publisher("jobs").slots_max(32).open().unwrap();
    let mut before = 0;
    while publisher.try_send(b"before").is_ok() {
        before += 1;
    }
    let (tell, told) = channel();
    let mut outlet = scene
        .bus
        .outlet(publisher)
        .with_ids()
        .before_send(move |message| tell.send(message.context().id().unwrap()).unwrap())
        .retry(Retry::times(1_000).pause(Duration::from_millis(5)).cap(Duration::from_millis(20)));
    let reader = std::thread::spawn(move || {
        let first = told.recv_timeout(PATIENCE).unwrap();
        let mut ids = Vec::new();
        for _ in 0..before + 2 {
            ids.extend(subscriber.recv_timeout(PATIENCE).unwrap().expect("a message").id());
        }
        (ids, first, told.recv_timeout(PATIENCE).unwrap())
    });
    outlet.send(b"one").unwrap();
    let id = scene.bus.next_id().unwrap();
    outlet.in_context(Context::default().with_id(id)).send(b"two").unwrap();
    let (ids, first, second) = reader.join().unwrap();
    assert_eq!((ids, second), (vec![first, id], id), "an id that the caller gave is kept");
    assert!(first < id, "it was drawn before");
    assert_eq!(outlet.account().sent, 2);
    println!("evidence: attempts={}", outlet.account().retried + 2);
}
