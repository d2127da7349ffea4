//! Claims about who dials, when, and who gives way.

extern crate std;

use alloc::string::ToString;
use alloc::vec;

use busway_wire::limits::{LINK_BACKOFF_MS, LINK_RETRY_AFTER_MS_MAX};
use busway_wire::link::RefusalCode;

use super::*;

const MS: u64 = 1_000_000;

fn at_ms(ms: u64) -> Time {
    Time(ms * MS)
}

fn node(index: u8) -> PeerId {
    PeerId::Node { index }
}

fn client(id: u64) -> PeerId {
    PeerId::Client { id }
}

fn config(identity: PeerId, nodes: u8) -> Config {
    Config {
        identity,
        nodes,
        given: u64::MAX,
        clients_max: 3,
        unidentified_max: 2,
        of_address_max: 2,
        seed: 7,
    }
}

/// A machine and its outputs: the words in which the claims are written.
struct Member {
    machine: Membership,
    now: Time,
    named: u64,
}

impl Member {
    fn new(config: Config) -> Member {
        Member { machine: Membership::new(config), now: Time(0), named: 1000 }
    }

    fn started(identity: PeerId, nodes: u8) -> (Member, Vec<Output>) {
        let mut member = Member::new(config(identity, nodes));
        let out = member.tell(Input::Start);
        (member, out)
    }

    fn tell(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.machine.handle(self.now, input, &mut out);
        let (held, most) = self.machine.slots();
        assert!(held <= most, "{held} of {most} slots");
        out
    }

    fn pass_ms(&mut self, ms: u64) -> Vec<Output> {
        self.now = self.now.after_ms(ms);
        self.tell(Input::Tick)
    }

    /// Moves the clock to the deadline, and says what comes of it.
    fn pass_to_deadline(&mut self) -> (u64, Vec<Output>) {
        let (at, _) = self.machine.deadline().unwrap();
        let passed = at.since(self.now);
        self.now = at;
        (passed, self.tell(Input::Tick))
    }

    fn accept(&mut self) -> (ConnectionId, Vec<Output>) {
        self.accept_from(None)
    }

    fn accept_from(&mut self, address: Option<IpAddr>) -> (ConnectionId, Vec<Output>) {
        self.named += 1;
        let connection = ConnectionId(self.named);
        (connection, self.tell(Input::Accepted { connection, address }))
    }

    /// Lets somebody in who says at once who it is.
    fn link(&mut self, identity: PeerId) -> (ConnectionId, Vec<Output>) {
        let (connection, mut out) = self.accept();
        out.extend(self.tell(Input::Identified { connection, identity }));
        (connection, out)
    }

    fn close(&mut self, connection: ConnectionId) -> Vec<Output> {
        self.tell(Input::Closed { connection, reason: "gone".to_string() })
    }

    /// Dials succeed: the connection of the only dial in `out`.
    fn connect(&mut self, out: &[Output]) -> ConnectionId {
        let [Output::Dial { attempt, .. }] = out else { panic!("{out:?}") };
        self.named += 1;
        let connection = ConnectionId(self.named);
        assert_eq!(self.tell(Input::Connected { attempt: *attempt, connection }), vec![]);
        connection
    }

    fn view(&self, peer: PeerId) -> View {
        self.machine.view().into_iter().find(|view| view.peer == Some(peer)).unwrap()
    }
}

fn dialed(out: &[Output]) -> Vec<PeerId> {
    let peers = out.iter().map(|output| match output {
        Output::Dial { peer, .. } => *peer,
        other => panic!("{other:?}"),
    });
    peers.collect()
}

/// Who is refused in `out`, and why.
fn refused(out: &[Output]) -> Vec<(ConnectionId, Why)> {
    let found = out.iter().filter_map(|output| match output {
        Output::Refuse { connection, why, .. } => Some((*connection, *why)),
        Output::Dial { .. } | Output::Abandon { .. } | Output::Use { .. } | Output::Close { .. } => None,
    });
    found.collect()
}

#[test]
fn the_lower_index_dials_the_higher_and_a_client_dials_every_node() {
    let table: &[(PeerId, u8, &[u8])] = &[
        (node(0), 3, &[1, 2]),
        (node(1), 3, &[2]),
        (node(2), 3, &[]),
        (node(0), 1, &[]),
        (client(9), 3, &[0, 1, 2]),
        (client(9), 0, &[]),
    ];
    for (identity, nodes, expected) in table {
        let mut member = Member::new(config(*identity, *nodes));
        assert_eq!(member.pass_ms(10_000), vec![], "{identity}: nobody is dialed before the start");
        let out = member.tell(Input::Start);
        let expected: Vec<PeerId> = expected.iter().map(|index| node(*index)).collect();
        assert_eq!(dialed(&out), expected, "{identity} of {nodes} nodes");
    }
    // Of each two nodes exactly one dials the other.
    let dials = |a: u8, b: u8| dialed(&Member::started(node(a), 64).1).contains(&node(b));
    for (a, b) in [(0, 63), (31, 32), (5, 4)] {
        assert_ne!(dials(a, b), dials(b, a));
    }
}

#[test]
fn waits_lie_between_their_bounds_spread_evenly_and_differ_between_seeds() {
    for cap_ms in [LINK_BACKOFF_NODE_MS_MAX, LINK_BACKOFF_CLIENT_MS_MAX] {
        let mut dice = Dice::new(1);
        for failures in [0, 1, 2, 3, 5, 9, 31, 33, 64, 70] {
            let spread_ms = (50 << failures.min(20)).min(cap_ms - 50);
            let mut sum_ms = 0;
            let mut failed = Backoff::new(cap_ms, cap_ms);
            for _ in 0..failures {
                failed.next_ns(&mut dice);
            }
            for _ in 0..2000 {
                let mut backoff = failed.clone();
                let wait_ms = backoff.next_ns(&mut dice) / MS;
                assert!((50..=50 + spread_ms).contains(&wait_ms), "{wait_ms} ms after {failures} failures");
                sum_ms += wait_ms;
            }
            let (mean, middle) = (sum_ms / 2000, 50 + spread_ms / 2);
            assert!(mean.abs_diff(middle) <= 2 + middle / 10, "{mean} ms where {middle} ms is the middle");
        }
    }
    let waits = |seed| {
        let (mut dice, mut backoff) = (Dice::new(seed), Backoff::new(30_000, 30_000));
        (0..10).map(|_| backoff.next_ns(&mut dice)).collect::<Vec<u64>>()
    };
    assert_eq!(waits(1), waits(1));
    assert_ne!(waits(1), waits(2));
}

#[test]
fn a_connect_does_not_end_the_backoff_but_the_first_message_does() {
    let (mut member, mut out) = Member::started(node(0), 2);
    for round in 1..=6 {
        // A full node accepts, says who it is, and refuses.
        let connection = member.connect(&out);
        let linked = member.tell(Input::Identified { connection, identity: node(1) });
        assert_eq!(linked, vec![Output::Use { connection, identity: node(1) }]);
        member.close(connection);
        assert_eq!(member.view(node(1)).failures, round, "the connect proved nothing");
        (_, out) = member.pass_to_deadline();
    }
    let connection = member.connect(&out);
    member.tell(Input::Identified { connection, identity: node(1) });
    member.tell(Input::Message { connection });
    assert_eq!(member.view(node(1)).failures, 0);
    member.close(connection);
    let (wait_ns, _) = member.pass_to_deadline();
    assert!(wait_ns <= 100 * MS, "{wait_ns} ns are the first wait again");
}

#[test]
fn a_link_on_which_nobody_says_anything_ends_the_backoff_when_a_ping_was_answered() {
    let (mut member, mut out) = Member::started(node(0), 2);
    for _ in 0..6 {
        let connection = member.connect(&out);
        member.close(connection);
        (_, out) = member.pass_to_deadline();
    }
    let connection = member.connect(&out);
    member.tell(Input::Answered { connection });
    assert_eq!(member.view(node(1)).failures, 6, "who it is was not shown yet");
    member.tell(Input::Identified { connection, identity: node(1) });
    member.tell(Input::Answered { connection });
    assert_eq!(member.view(node(1)).failures, 0);
}

#[test]
fn a_node_that_was_refused_is_back_within_a_second_however_long_it_was_asked_to_wait() {
    for seed in 0..200 {
        let mut member = Member::new(Config { seed, ..config(node(0), 2) });
        let mut out = member.tell(Input::Start);
        for _ in 0..8 {
            let connection = member.connect(&out);
            member.tell(Input::Refused { connection, retry_after_ms: 300_000 });
            member.close(connection);
            let wait_ns;
            (wait_ns, out) = member.pass_to_deadline();
            assert!((500 * MS..=1_000 * MS).contains(&wait_ns), "{wait_ns} ns");
        }
    }
}

#[test]
fn a_node_whose_address_nobody_gave_us_is_not_dialed_and_may_dial_us() {
    let mut member = Member::new(Config { given: 0b100, ..config(node(0), 3) });
    assert_eq!(dialed(&member.tell(Input::Start)), [node(2)]);
    let (connection, out) = member.link(node(1));
    assert_eq!(out, vec![Output::Use { connection, identity: node(1) }]);
}

#[test]
fn a_refused_peer_stays_away_as_long_as_it_was_asked_and_not_for_ever() {
    for (asked_ms, least_ms, most_ms) in [
        (0, 50, 100),
        (2_000, 2_000, 4_000),
        (u32::MAX, LINK_RETRY_AFTER_MS_MAX, 2 * LINK_RETRY_AFTER_MS_MAX),
    ] {
        let (mut member, out) = Member::started(client(1), 1);
        let connection = member.connect(&out);
        member.tell(Input::Refused { connection, retry_after_ms: asked_ms });
        member.close(connection);
        let (wait_ns, out) = member.pass_to_deadline();
        assert!((least_ms..=most_ms).contains(&(wait_ns / MS)), "asked {asked_ms} ms, waited {wait_ns} ns");
        assert_eq!(dialed(&out), [node(0)]);
    }
}

#[test]
fn a_connect_that_takes_too_long_is_abandoned_and_its_late_answer_closed() {
    let (mut member, out) = Member::started(node(0), 2);
    let [Output::Dial { attempt, .. }] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!(member.pass_ms(499), vec![]);
    assert_eq!(member.view(node(1)).state, State::Connecting);
    assert_eq!(member.pass_ms(1), vec![Output::Abandon { attempt: *attempt }]);
    let connection = ConnectionId(5);
    let out = member.tell(Input::Connected { attempt: *attempt, connection });
    assert_eq!(out, vec![Output::Close { connection, why: Why::TooLate }]);
    let failed = Input::ConnectFailed { attempt: *attempt, reason: "late".to_string() };
    assert_eq!(member.tell(failed), vec![]);
    assert_eq!(member.view(node(1)).last_error.as_deref(), Some("the connect took too long"));
    let (_, out) = member.pass_to_deadline();
    assert_eq!(dialed(&out), [node(1)], "it is tried again");
}

#[test]
fn a_node_that_is_back_is_dialed_within_two_seconds() {
    for seed in 0..200 {
        let mut member = Member::new(Config { seed, ..config(node(0), 2) });
        member.tell(Input::Start);
        // A black hole for a minute: connects that nobody answers.
        while member.now < at_ms(60_000) {
            member.pass_to_deadline();
        }
        let back = member.now;
        let out = loop {
            let (_, out) = member.pass_to_deadline();
            if matches!(out.as_slice(), [Output::Dial { .. }]) {
                break out;
            }
        };
        let connection = member.connect(&out);
        let out = member.tell(Input::Identified { connection, identity: node(1) });
        assert_eq!(out.len(), 1);
        assert!(member.now.since(back) < 2_000 * MS, "{} ns, seed {seed}", member.now.since(back));
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "the test runner collects lines of evidence")]
fn a_thousand_refused_clients_come_back_spread_out() {
    let mut server = Member::new(Config { clients_max: 0, unidentified_max: 2000, ..config(node(0), 1) });
    let new = |id| Member::new(Config { seed: id, ..config(client(id), 1) });
    let mut clients: Vec<Member> = (0..1000).map(new).collect();
    let mut pending: Vec<Vec<Output>> = clients.iter_mut().map(|client| client.tell(Input::Start)).collect();
    let mut windows = vec![0u32; 600];
    for step in 0..6000u64 {
        server.now = at_ms(step * 10);
        for (client, out) in clients.iter_mut().zip(&mut pending) {
            client.now = server.now;
            if out.is_empty() {
                if client.machine.deadline().is_some_and(|(at, _)| at > client.now) {
                    continue;
                }
                *out = client.tell(Input::Tick);
            }
            windows[(step / 10) as usize] += 1;
            let connection = client.connect(out);
            out.clear();
            let (accepted, said) = server.link(client.machine.config.identity);
            let [Output::Refuse { why: Why::Full, retry_after_ms, .. }] = said.as_slice() else {
                panic!("{said:?}")
            };
            client.tell(Input::Refused { connection, retry_after_ms: *retry_after_ms });
            client.close(connection);
            server.close(accepted);
        }
    }
    let worst = windows[5..].iter().max().copied().unwrap();
    let total: u32 = windows.iter().sum();
    assert_eq!(windows[0], 1000, "all begin at once");
    assert!(worst <= 60, "{worst} of 1000 clients came in one tenth of a second");
    assert!((3_000..15_000).contains(&total), "{total} connects in a minute");
    std::println!("evidence: clients=1000 connects={total} worst_100ms={worst}");
}

#[test]
fn when_strangers_have_no_slot_left_the_oldest_gives_way_and_is_told_why() {
    let (mut member, _) = Member::started(node(0), 1);
    let (first, _) = member.accept();
    member.now = at_ms(10);
    let (second, out) = member.accept();
    assert_eq!((out, member.machine.admits(member.now)), (vec![], Err(at_ms(100))), "newcomers better wait");
    member.now = at_ms(100);
    assert_eq!(member.machine.admits(member.now), Ok(()));
    let (third, out) = member.accept();
    assert_eq!(refused(&out), [(first, Why::Evicted)]);
    assert_eq!(Why::Evicted.code(), RefusalCode::Full);
    member.close(first);
    // Past its deadline it is told another reason, though nobody has ticked.
    member.now = at_ms(2_010);
    let (fourth, out) = member.accept();
    assert_eq!(refused(&out), [(second, Why::Handshake)]);
    member.close(second);
    assert_eq!(refused(&member.pass_ms(2_000)), [(third, Why::Handshake), (fourth, Why::Handshake)]);
    let counters = member.machine.counters();
    assert_eq!((counters.let_in, counters.evicted, counters.timeouts), (4, 1, 3));
}

#[test]
fn of_one_address_only_so_many_are_strangers_and_one_more_is_told_so_and_costs_nobody_a_slot() {
    let [here, there] = [1, 2].map(|last| Some(IpAddr::from([10, 0, 0, last])));
    let mut member = Member::new(Config { unidentified_max: 5, of_address_max: 2, ..config(node(0), 1) });
    member.tell(Input::Start);
    let (first, _) = member.accept_from(here);
    let (second, out) = member.accept_from(here);
    assert_eq!(out, vec![]);
    let (third, out) = member.accept_from(here);
    assert_eq!(refused(&out), [(third, Why::Crowded)]);
    assert_eq!(Why::Crowded.code(), RefusalCode::Full);
    for address in [there, None, None] {
        assert_eq!(member.accept_from(address).1, vec![], "others are not concerned");
    }
    assert_eq!(
        refused(&member.accept_from(here).1).len(),
        1,
        "also where all slots are taken: nobody gives way"
    );
    let counters = member.machine.counters();
    assert_eq!((counters.refused, counters.evicted), (2, 0));
    // Who has said who it is, or is gone, is no stranger any more.
    member.close(third);
    member.tell(Input::Identified { connection: first, identity: client(1) });
    member.close(second);
    for _ in 0..2 {
        assert_eq!(member.accept_from(here).1, vec![]);
    }
}

#[test]
fn who_says_nothing_for_long_gives_way_to_who_comes_from_its_address() {
    let [here, there] = [1, 2].map(|last| Some(IpAddr::from([10, 0, 0, last])));
    let mut member = Member::new(Config { unidentified_max: 5, of_address_max: 2, ..config(node(0), 1) });
    member.tell(Input::Start);
    let (other, _) = member.accept_from(there);
    let (first, _) = member.accept_from(here);
    member.pass_ms(LINK_STRANGER_MS / 2);
    let (second, _) = member.accept_from(here);
    member.pass_ms(LINK_STRANGER_MS / 2);
    let (third, out) = member.accept_from(here);
    assert_eq!(refused(&out), [(first, Why::Evicted)], "its time is over, and the newcomer is in");
    member.close(first);
    let (fourth, out) = member.accept_from(here);
    assert_eq!(refused(&out), [(fourth, Why::Crowded)], "the others came a moment ago");
    let stay = |connection| member.machine.connections.get(&connection).map(|entry| entry.stage);
    assert_eq!([other, second, third].map(stay), [Some(Stage::Stranger); 3]);
}

#[test]
fn a_newcomer_costs_the_idlest_client_its_slot_and_never_a_node() {
    let (mut member, _) = Member::started(node(2), 3);
    let nodes = [member.link(node(0)).0, member.link(node(1)).0];
    let clients: Vec<ConnectionId> = (0..3).map(|id| member.link(client(id)).0).collect();
    // The nodes are the idlest of all, the second client of its kind.
    for (ms, index) in [(10, 1), (20, 0), (30, 2)] {
        member.now = at_ms(ms);
        member.tell(Input::Message { connection: clients[index] });
    }
    let (stranger, out) = member.accept();
    assert_eq!(out, vec![], "a stranger costs no client its slot");
    let out = member.tell(Input::Identified { connection: stranger, identity: client(3) });
    assert_eq!(refused(&out), [(clients[1], Why::Idlest)]);
    assert_eq!(out.last(), Some(&Output::Use { connection: stranger, identity: client(3) }));
    for id in 4..40 {
        let (_, out) = member.link(client(id));
        for (victim, why) in refused(&out) {
            assert!(!nodes.contains(&victim), "a node gave way");
            assert_eq!(why, Why::Idlest);
            member.close(victim);
        }
    }
    assert_eq!([member.machine.link(node(0)), member.machine.link(node(1))], nodes.map(Some));
}

#[test]
fn the_spare_slot_holds_one_newcomer_and_the_next_is_closed_without_a_word() {
    let (mut member, _) = Member::started(node(0), 1);
    let clients: Vec<ConnectionId> = (0..3).map(|id| member.link(client(id)).0).collect();
    let (first, _) = member.accept();
    let (_, out) = member.accept();
    assert_eq!(out, vec![]);
    assert_eq!(member.machine.slots(), (5, 6), "but for the spare slot all are taken");
    let (newcomer, out) = member.accept();
    assert_eq!(refused(&out), [(first, Why::Evicted)], "told why");
    let (turned_away, out) = member.accept();
    assert_eq!(out, vec![Output::Close { connection: turned_away, why: Why::Full }]);
    assert_eq!(member.machine.counters().turned_away, 1);
    member.close(first);
    let (_, out) = member.accept();
    assert_eq!(refused(&out).len(), 1, "the slot is free again");
    member.tell(Input::Identified { connection: newcomer, identity: client(0) });
    assert_eq!(member.machine.link(client(1)), Some(clients[1]), "a duplicate costs nobody else anything");
}

#[test]
fn the_newest_connection_of_a_peer_takes_the_place_of_the_older() {
    let (mut member, _) = Member::started(node(1), 2);
    for identity in [node(0), client(7)] {
        let (old, _) = member.link(identity);
        let (new, out) = member.link(identity);
        assert_eq!(refused(&out), [(old, Why::Duplicate)]);
        assert_eq!(out.last(), Some(&Output::Use { connection: new, identity }));
        assert_eq!(member.close(old), vec![], "its end changes nothing");
        assert_eq!(member.machine.link(identity), Some(new));
        assert_eq!(member.view(identity).state, State::Connected);
    }
}

#[test]
fn who_is_not_who_it_may_be_is_refused_with_the_reason() {
    let table = [
        (node(1), node(1), Why::Ourselves),
        (node(1), node(3), Why::NoSuchNode),
        (node(1), node(255), Why::NoSuchNode),
        (node(1), node(2), Why::WrongWay),
    ];
    for (ours, theirs, why) in table {
        let (mut member, _) = Member::started(ours, 3);
        let (connection, out) = member.link(theirs);
        assert_eq!(refused(&out), [(connection, why)], "{theirs} at {ours}");
        assert_eq!(why.code(), RefusalCode::Identity);
    }
    let (mut member, _) = Member::started(client(1), 1);
    let (connection, out) = member.accept();
    assert_eq!(refused(&out), [(connection, Why::NotANode)]);
    let (mut member, out) = Member::started(node(0), 2);
    let connection = member.connect(&out);
    let out = member.tell(Input::Identified { connection, identity: client(5) });
    assert_eq!(refused(&out), [(connection, Why::NotWhoWasDialed)]);
    member.close(connection);
    assert_eq!(dialed(&member.pass_ms(1_000)), [node(1)], "it is dialed again");
}

#[test]
fn peers_are_shown_with_state_age_and_last_error() {
    let (mut member, out) = Member::started(node(0), 2);
    let peer = node(1);
    assert_eq!(member.view(peer).state, State::Connecting);
    member.now = at_ms(5);
    let connection = member.connect(&out);
    assert_eq!((member.view(peer).state, member.view(peer).since), (State::Handshaking, at_ms(5)));
    member.now = at_ms(6);
    member.tell(Input::Identified { connection, identity: peer });
    let view = member.view(peer);
    assert_eq!((view.state, view.since, view.connection), (State::Connected, at_ms(6), Some(connection)));
    member.now = at_ms(9);
    let reason = "x".repeat(5_000);
    member.tell(Input::Closed { connection, reason });
    let view = member.view(peer);
    assert_eq!((view.state, view.since, view.connection), (State::Closed, at_ms(9), None));
    assert_eq!(view.last_error.unwrap().len(), REASON_BYTES_MAX, "a peer's words are cut");
    assert!(view.dials_at.unwrap() >= at_ms(9 + LINK_BACKOFF_MS));
    let (stranger, _) = member.accept();
    let view = member.machine.view().pop().unwrap();
    assert_eq!((view.peer, view.state, view.connection), (None, State::Handshaking, Some(stranger)));
    member.tell(Input::Identified { connection: stranger, identity: client(4) });
    let out = member.tell(Input::Drain);
    assert_eq!(out, vec![], "links end by themselves");
    assert_eq!(member.view(client(4)).state, State::Draining);
    let (late, out) = member.accept();
    assert_eq!(refused(&out), [(late, Why::Draining)]);
    assert_eq!(member.pass_ms(60_000), vec![], "nobody is dialed any more");
}

fn configured(given: &[u8], clients_max: u32) -> Input {
    Input::Configured { given: given.iter().fold(0, |all, index| all | 1 << index), clients_max }
}

#[test]
fn a_node_that_is_added_is_dialed_and_one_that_is_taken_away_is_told_so_and_dialed_no_more() {
    let mut member = Member::new(Config { given: 0b10, ..config(node(0), 2) });
    let out = member.tell(Input::Start);
    let first = member.connect(&out);
    member.tell(Input::Identified { connection: first, identity: node(1) });
    let out = member.tell(configured(&[1, 3], 3));
    assert_eq!(dialed(&out), [node(3)], "the link that stands is not disturbed");
    let third = member.connect(&out);
    member.tell(Input::Identified { connection: third, identity: node(3) });
    let out = member.tell(configured(&[3], 3));
    assert_eq!(refused(&out), [(first, Why::NotGiven)]);
    assert_eq!(member.view(node(1)).last_error.as_deref(), Some(Why::NotGiven.text()));
    member.close(first);
    assert_eq!(member.pass_ms(60_000), vec![], "it is dialed no more");
    assert_eq!(member.machine.link(node(3)), Some(third));
    // Back again, before anything has failed: at once.
    let out = member.tell(configured(&[1, 3], 3));
    assert_eq!(dialed(&out), [node(1)]);
    let [Output::Dial { attempt, .. }] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!(member.tell(configured(&[3], 3)), vec![Output::Abandon { attempt: *attempt }]);
    assert_eq!(member.pass_ms(60_000), vec![]);
    // Nothing of it before the start, nor after the end.
    let mut early = Member::new(Config { given: 0, ..config(node(0), 2) });
    assert_eq!(early.tell(configured(&[1], 3)), vec![]);
    assert_eq!(dialed(&early.tell(Input::Start)), [node(1)]);
    early.tell(Input::Drain);
    assert_eq!(early.tell(configured(&[1, 2], 3)), vec![]);
}

#[test]
fn a_node_with_another_address_is_dialed_there_without_a_wait() {
    let (mut member, out) = Member::started(node(0), 2);
    let connection = member.connect(&out);
    member.tell(Input::Identified { connection, identity: node(1) });
    let out = member.tell(Input::Moved { index: 1 });
    assert_eq!(refused(&out), [(connection, Why::Moved)]);
    assert_eq!(member.pass_ms(0), vec![], "not before the old connection is closed");
    member.close(connection);
    let out = member.pass_ms(0);
    assert_eq!(dialed(&out), [node(1)]);
    // A dial that leads to the old address is given up.
    let [Output::Dial { attempt, .. }] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!(member.tell(Input::Moved { index: 1 }), vec![Output::Abandon { attempt: *attempt }]);
    assert_eq!(dialed(&member.pass_ms(0)), [node(1)]);
    let (mut higher, _) = Member::started(node(1), 2);
    let (link, _) = higher.link(node(0));
    assert_eq!(higher.tell(Input::Moved { index: 0 }), vec![], "who dials us is where it is");
    assert_eq!(higher.machine.link(node(0)), Some(link));
}

#[test]
fn who_is_kicked_is_told_so_and_may_come_back() {
    let (mut member, out) = Member::started(node(1), 3);
    let second = member.connect(&out);
    member.tell(Input::Identified { connection: second, identity: node(2) });
    for identity in [node(0), client(5), node(2)] {
        let link = member.machine.link(identity).unwrap_or_else(|| member.link(identity).0);
        assert_eq!(refused(&member.tell(Input::Kick { peer: identity })), [(link, Why::Kicked)]);
        assert_eq!(member.tell(Input::Kick { peer: identity }), vec![], "there is no link to end");
        member.close(link);
    }
    assert_eq!(member.view(node(2)).last_error.as_deref(), Some(Why::Kicked.text()));
    let (wait_ns, out) = member.pass_to_deadline();
    assert!(wait_ns >= LINK_BACKOFF_MS * MS, "after its back-off");
    assert_eq!(dialed(&out), [node(2)]);
    assert_eq!(member.link(client(5)).1.len(), 1, "who was kicked is let in again");
}

#[test]
fn with_room_for_fewer_clients_the_idlest_go() {
    let (mut member, _) = Member::started(node(0), 1);
    let clients: Vec<ConnectionId> = (0..3).map(|id| member.link(client(id)).0).collect();
    member.now = at_ms(10);
    member.tell(Input::Message { connection: clients[1] });
    let out = member.tell(configured(&[], 1));
    assert_eq!(refused(&out), [(clients[0], Why::Idlest), (clients[2], Why::Idlest)]);
    for connection in [clients[0], clients[2]] {
        member.close(connection);
    }
    let out = member.tell(configured(&[], 3));
    assert_eq!(out, vec![], "room for more costs nobody anything");
    assert_eq!(member.link(client(7)).1.len(), 1);
}
