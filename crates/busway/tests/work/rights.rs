//! Rights of their own for work and requests between two hosts.

use std::time::Duration;

use busway::{Acl, AclRule, Bus, RequestError};

use crate::stage::{Host, PATIENCE, until};

fn list(topics: &[&str]) -> Vec<String> {
    topics.iter().map(|topic| (*topic).to_owned()).collect()
}

/// The other host may publish and subscribe to everything, and of work what is said here.
fn rule(identity: &str, change: impl FnOnce(&mut AclRule)) -> Acl {
    let mut rule = AclRule {
        identity: identity.to_owned(),
        publish: list(&[">"]),
        subscribe: list(&[">"]),
        ..AclRule::default()
    };
    change(&mut rule);
    Acl::new([rule]).unwrap()
}

/// Answers all that comes, until its bus is closed.
fn answer_all(bus: &Bus, pattern: &str) -> std::thread::JoinHandle<Vec<String>> {
    let mut responder = bus.responder(pattern).open().unwrap();
    std::thread::spawn(move || {
        let mut topics = Vec::new();
        while let Ok(request) = responder.recv() {
            topics.push(request.topic().to_owned());
            let _ = request.reply(b"answer");
        }
        topics
    })
}

#[test]
fn who_may_read_everything_pulls_and_answers_only_what_it_has_that_right_for_also_when_it_changes() {
    let rules = |pull: &[&str], answer: &[&str]| {
        rule("node/0", |rule| (rule.pull, rule.answer) = (Some(list(pull)), Some(list(answer))))
    };
    let ours = Host::with_rules(1, rules(&["job.may"], &["ask.may"]));
    let other = Host::new(0, &[(1, ours.address())]);
    other.wait_for_peers(1);
    let mut theirs = other.bus.puller(">").open().unwrap();
    let answered = answer_all(&other.bus, ">");
    let [mut may, mut not] = ["job.may", "job.not"].map(|topic| ours.bus.pusher(topic).open().unwrap());
    let asks = ["ask.may", "ask.not"]
        .map(|topic| ours.bus.requester(topic).late_join(Duration::ZERO).open().unwrap());
    may.wait_for_pullers(1, PATIENCE).unwrap();
    asks[0].wait_for_responders(1, PATIENCE).unwrap();
    not.send(b"ours").unwrap();
    may.send(b"theirs").unwrap();
    let task = theirs.recv_timeout(PATIENCE).unwrap().expect("a task");
    assert_eq!((task.sample().topic(), &task[..]), ("job.may", &b"theirs"[..]));
    drop(task);
    assert_eq!(&asks[0].request(b"what", PATIENCE).unwrap()[..], b"answer");
    assert!(matches!(asks[1].request(b"what", PATIENCE), Err(RequestError::NoResponders)));
    assert_eq!((not.pullers(), asks[1].responders()), (0, 0));
    // The rights change while the link stands.
    ours.node.as_ref().unwrap().set_acl(rules(&["job.not"], &["ask.not"]));
    not.wait_for_pullers(1, PATIENCE).unwrap();
    asks[1].wait_for_responders(1, PATIENCE).unwrap();
    until("what it may not is taken back", || may.pullers() == 0 && asks[0].responders() == 0);
    may.send(b"ours").unwrap();
    let task = theirs.recv_timeout(PATIENCE).unwrap().expect("a task");
    assert_eq!((task.sample().topic(), &task[..]), ("job.not", &b"ours"[..]));
    drop(task);
    assert_eq!(&asks[1].request(b"what", PATIENCE).unwrap()[..], b"answer");
    assert!(matches!(asks[0].request(b"what", PATIENCE), Err(RequestError::NoResponders)));
    assert!(theirs.try_recv().unwrap().is_none());
    drop(theirs);
    other.bus.close();
    assert_eq!(answered.join().unwrap(), ["ask.may", "ask.not"], "it saw none that it may not answer");
    println!("evidence: pulled=2 answered=2 kept=2");
}

#[test]
fn who_may_publish_everything_pushes_and_asks_only_what_it_has_that_right_for() {
    let rules = |rule: &mut AclRule| {
        (rule.push, rule.request) = (Some(list(&["job.may"])), Some(list(&["ask.may"])));
    };
    let ours = Host::with_rules(1, rule("node/0", rules));
    let other = Host::new(0, &[(1, ours.address())]);
    other.wait_for_peers(1);
    let mut puller = ours.bus.puller("job.*").open().unwrap();
    let answered = answer_all(&ours.bus, "ask.*");
    let [mut may, mut not] = ["job.may", "job.not"].map(|topic| other.bus.pusher(topic).open().unwrap());
    let asks = ["ask.may", "ask.not"]
        .map(|topic| other.bus.requester(topic).late_join(Duration::ZERO).open().unwrap());
    may.wait_for_pullers(1, PATIENCE).unwrap();
    asks[0].wait_for_responders(1, PATIENCE).unwrap();
    // That host pulls `job.*`, of which it may be given something: that this is not, it says when the first comes.
    not.wait_for_pullers(1, PATIENCE).unwrap();
    not.send(&[0]).unwrap();
    until("what may not be pushed is pulled no more", || not.pullers() == 0);
    let mut here = other.bus.puller("job.not").open().unwrap();
    for at in 0..9 {
        let task = here.recv_timeout(PATIENCE).unwrap().expect("others do it");
        assert_eq!((&task[..], task.deliveries()), (&[at][..], 1));
        not.send(&[at + 1]).unwrap();
    }
    may.send(b"task").unwrap();
    let task = puller.recv_timeout(PATIENCE).unwrap().expect("a task");
    assert_eq!((task.sample().topic(), &task[..]), ("job.may", &b"task"[..]));
    drop(task);
    assert!(puller.try_recv().unwrap().is_none());
    assert_eq!(&asks[0].request(b"what", PATIENCE).unwrap()[..], b"answer");
    until("that it may not ask is found", || {
        matches!(asks[1].request(b"what", Duration::from_millis(100)), Err(RequestError::NoResponders))
    });
    ours.bus.close();
    assert_eq!(answered.join().unwrap(), ["ask.may"], "none saw what may not be asked");
    println!("evidence: pushed=1 asked=1 done_by_others=9");
}

#[test]
fn what_a_host_may_not_pull_it_does_not_get_as_a_dead_letter_either() {
    let rules = |pull: &[&str]| {
        rule("node/0", |rule| {
            (rule.pull, rule.deny_subscribe) = (Some(list(pull)), list(&["job.secret"]));
        })
    };
    let ours = Host::with_rules(1, rules(&[">"]));
    let other = Host::new(0, &[(1, ours.address())]);
    other.wait_for_peers(1);
    let mut theirs = other.bus.puller(">").group("undertaker").open().unwrap();
    let mut puller = ours.bus.puller("job.secret").group("g").ack(PATIENCE).attempts(1).open().unwrap();
    let mut secret = ours.bus.pusher("job.secret").open().unwrap();
    secret.send(b"secret").unwrap();
    puller.recv_timeout(PATIENCE).unwrap().expect("a task").nack();
    until("it is a dead letter", || {
        assert!(puller.try_recv().unwrap().is_none());
        secret.account().dropped["dead_letter"] == 1
    });
    let mut open = ours.bus.pusher("job.open").open().unwrap();
    open.send(b"open").unwrap();
    let task = theirs.recv_timeout(PATIENCE).unwrap().expect("a task");
    assert_eq!((task.sample().topic(), &task[..]), ("job.open", &b"open"[..]));
    drop(task);
    ours.node.as_ref().unwrap().set_acl(rules(&["dead-letters.*"]));
    let task = theirs.recv_timeout(PATIENCE).unwrap().expect("the letter, for who may have such");
    assert_eq!((task.sample().topic(), &task[..]), ("dead-letters.g", &b"secret"[..]));
    println!("evidence: dead_letters=1 kept=1 named=1");
}
