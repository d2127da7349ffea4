//! Sessions across connections that die anywhere: nothing lost in silence, nothing twice, all in order.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

#[path = "rig/hosts.rs"]
mod hosts;

use std::sync::Arc;

use busway_wire::limits::{LINK_ACKNOWLEDGE_MS, LINK_CREDIT_MS};
use busway_wire::{Cause, PortId};
use hosts::{Entry, Host, Net};

const RELIABLE: PortId = PortId(1);
const LOSSY: PortId = PortId(2);

/// The payload of a message, of which every byte says which it is.
fn payload(source: PortId, sequence: u64, size: usize) -> Arc<[u8]> {
    (0..size).map(|at| (source.0 * 101 + sequence * 7 + at as u64) as u8).collect()
}

/// What a conversation is about.
struct Talk {
    messages: u64,
    size: fn(u64) -> usize,
    slots: usize,
}

/// Two hosts of which the first publishes from a reliable and from a lossy source to the second.
fn hosts(talk: &Talk) -> Net {
    let small = |config: &mut busway_protocol::Config| {
        config.hello.window_messages = 16;
        config.hello.credit_messages = 24;
    };
    let mut dialer = Host::new(0, 1, small);
    let mut listener = Host::new(1, 0, small);
    dialer.ring(RELIABLE.0, "bank.transfer", true, talk.slots);
    dialer.ring(LOSSY.0, "price.tick", false, talk.slots);
    listener.want(1, "bank.>", true);
    listener.want(2, "price.*", false);
    Net::new(dialer, listener)
}

/// Publishes what there is to publish while both go on, until all is settled; how many steps that took.
fn run(net: &mut Net, talk: &Talk) -> u64 {
    let (mut reliable, mut lossy) = (0, 0);
    for steps in 0..20_000 {
        for _ in 0..3 {
            let ring = net.dialer.rings.get_mut(&RELIABLE).unwrap();
            if reliable < talk.messages
                && ring.publish(payload(RELIABLE, reliable + 1, (talk.size)(reliable)))
            {
                reliable += 1;
            }
            let ring = net.dialer.rings.get_mut(&LOSSY).unwrap();
            if lossy < talk.messages && ring.publish(payload(LOSSY, lossy + 1, (talk.size)(lossy))) {
                lossy += 1;
            }
        }
        net.step();
        let settled = |source: PortId| {
            let account = net.dialer.session.account(source);
            account.is_some_and(|account| account.sent >= talk.messages && account.in_flight == 0)
        };
        if reliable == talk.messages && lossy == talk.messages && settled(RELIABLE) && settled(LOSSY) {
            return steps;
        }
    }
    panic!("stuck: {net:?}", net = net.dialer.session)
}

/// Compares what was published with what came.
fn check(net: &Net, talk: &Talk, what: &str) {
    let all: Vec<u64> = (1..=talk.messages).collect();
    for (source, relay) in &net.listener.relays {
        let (received, gaps) = relay.covered();
        for entry in &relay.entries {
            if let Entry::Message(sequence, bytes) = entry {
                let expected = payload(*source, *sequence, (talk.size)(*sequence - 1));
                assert_eq!(**bytes, *expected, "{what}: {source} {sequence}");
            }
        }
        let account = net.dialer.session.account(*source).unwrap();
        assert_eq!(account.sent, talk.messages, "{what}: {source}");
        if *source == RELIABLE {
            assert_eq!((received, gaps.len()), (all.clone(), 0), "{what}");
            assert_eq!(account.acked, talk.messages, "{what}");
            continue;
        }
        let lost: u64 = gaps.iter().map(|(from, to, _)| to - from + 1).sum();
        assert_eq!(received.len() as u64 + lost, talk.messages, "{what}: {received:?} {gaps:?}");
        assert_eq!(account.acked, received.len() as u64, "{what}: {gaps:?}");
        let mut by_cause = [0; Cause::COUNT];
        for (from, to, cause) in &gaps {
            assert!(matches!(cause, Cause::LinkLost | Cause::Lapped), "{what}: {cause}");
            by_cause[cause.index()] += to - from + 1;
        }
        assert_eq!(account.dropped, by_cause, "{what}");
    }
    assert_eq!(net.listener.relays.len(), 2, "{what}");
    assert_eq!(net.listener.waiting(), 0, "{what}");
    assert_eq!(
        net.listener.session.dropped(),
        ([0; Cause::COUNT], 0),
        "{what}: nothing was dropped or came twice"
    );
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]
fn a_connection_may_die_at_every_byte_of_a_conversation() {
    let talk = Talk { messages: 60, size: |_| 9, slots: 24 };
    let mut whole = Vec::new();
    for packs in [false, true] {
        let begin = || {
            let mut net = hosts(&talk);
            net.dialer.packs = packs;
            net
        };
        let mut net = begin();
        run(&mut net, &talk);
        check(&net, &talk, "undisturbed");
        let bytes = net.moved;
        whole.push(bytes);
        let (mut lost, mut rewinds, mut packed) = (0, 0, 0);
        // At every byte where messages go together and alone, as they do; where none does, at every fourth.
        for dies_at in (0..bytes).step_by(if packs { 1 } else { 4 }) {
            let mut net = begin();
            net.dies_at = Some(dies_at);
            run(&mut net, &talk);
            check(&net, &talk, &format!("packs {packs} dies at {dies_at}"));
            assert_eq!(net.connects, 2, "dies at {dies_at}: {:?}", net.dialer.closed);
            lost += net.dialer.session.account(LOSSY).unwrap().dropped[Cause::LinkLost.index()];
            rewinds += net.dialer.rings[&RELIABLE].rewinds;
            packed = packed.max(net.dialer.packed);
        }
        assert!(lost > 0 && rewinds > 0, "{lost} lost, {rewinds} rewinds");
        assert_eq!(packed > 1, packs, "{packed}");
        println!(
            "evidence: packs={packs} offsets={bytes} messages={} lost_reliable=0 twice=0 told_lost={lost}",
            2 * talk.messages
        );
    }
    assert!(whole[0] > 9_000 && whole[1] < whole[0], "{whole:?}");
}

/// Hosts, talk and faults of one seed.
fn random(seed: u64, talk: &Talk) -> (Net, fastrand::Rng) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut net = hosts(talk);
    net.step = [50, 400, 3_000, 200_000][rng.usize(0..4)];
    net.listener.room = [1, 3, usize::MAX][rng.usize(0..3)];
    net.listener.direct = rng.bool();
    net.dialer.packs = !seed.is_multiple_of(3);
    net.dies_at = Some(rng.u64(0..20_000));
    (net, rng)
}

#[test]
fn connections_may_die_again_and_again_while_relay_rings_are_full_and_writes_are_cut() {
    for seed in 0..30 {
        let talk = Talk { messages: 300, size: |at| (at % 5) as usize * 40, slots: 64 };
        let (mut net, mut rng) = random(seed, &talk);
        // A death each few thousand bytes: some in handshakes, some in the middle of a resume.
        let mut deaths = 0;
        for _ in 0..400 {
            for source in [RELIABLE, LOSSY] {
                let ring = net.dialer.rings.get_mut(&source).unwrap();
                let next = ring.first + ring.messages.len() as u64;
                if next <= talk.messages {
                    ring.publish(payload(source, next, (talk.size)(next - 1)));
                }
            }
            net.step();
            if net.dies_at.is_none() {
                let most = [300, 3_000, 9_000][rng.usize(0..3)];
                net.dies_at = Some(net.moved + rng.u64(0..most));
                deaths += 1;
            }
        }
        net.dies_at = None;
        finish(&mut net, &talk, seed);
        assert!(deaths > 1, "seed {seed}");
        check(&net, &talk, &format!("seed {seed}"));
    }
}

/// Publishes the rest and lets both settle.
fn finish(net: &mut Net, talk: &Talk, seed: u64) {
    for _ in 0..60_000 {
        let mut open = false;
        for source in [RELIABLE, LOSSY] {
            let ring = net.dialer.rings.get_mut(&source).unwrap();
            let next = ring.first + ring.messages.len() as u64;
            if next <= talk.messages {
                open = true;
                ring.publish(payload(source, next, (talk.size)(next - 1)));
            }
            let account = net.dialer.session.account(source);
            open |= account.is_none_or(|account| account.sent < talk.messages || account.in_flight > 0);
        }
        if !open && net.listener.waiting() == 0 {
            return;
        }
        net.step();
    }
    panic!("seed {seed} is stuck: {:?}\n{:?}", net.dialer.session, net.dialer.closed);
}

#[test]
fn large_messages_come_in_parts_whole_and_in_order_though_connections_die() {
    for seed in 0..8 {
        let talk =
            Talk { messages: 20, size: |at| [9, 20_000, 70_000, 150_000][(at % 4) as usize], slots: 8 };
        let (mut net, mut rng) = random(seed, &talk);
        net.step = [3_000, 30_000, 200_000][rng.usize(0..3)];
        for _ in 0..6 {
            net.dies_at = Some(net.moved + rng.u64(0..400_000));
            for _ in 0..40 {
                for source in [RELIABLE, LOSSY] {
                    let ring = net.dialer.rings.get_mut(&source).unwrap();
                    let next = ring.first + ring.messages.len() as u64;
                    if next <= talk.messages {
                        ring.publish(payload(source, next, (talk.size)(next - 1)));
                    }
                }
                net.step();
            }
        }
        net.dies_at = None;
        finish(&mut net, &talk, seed);
        check(&net, &talk, &format!("seed {seed}"));
    }
}

#[test]
fn a_little_credit_is_told_together_with_more_and_no_frame_goes_for_it_alone_with_each_acknowledgement() {
    let mut dialer = Host::new(0, 1, |_| {});
    let mut listener = Host::new(1, 0, |_| {});
    dialer.ring(LOSSY.0, "price.tick", false, 64);
    listener.want(2, "price.*", false);
    let mut net = Net::new(dialer, listener);
    (0..20).for_each(|_| net.step());
    let before = net.listener.session.stats().unwrap().frames_out.control;
    for sequence in 1..=1_000 {
        assert!(net.dialer.rings.get_mut(&LOSSY).unwrap().publish(payload(LOSSY, sequence, 100)));
        net.step();
    }
    let told = net.listener.session.stats().unwrap().frames_out.control - before;
    // In a second: an acknowledgement in 5 ms, credit in 50 ms, and what a link says of itself.
    let acknowledged = 1_000 / LINK_ACKNOWLEDGE_MS;
    assert!(told <= acknowledged + 1_000 / LINK_CREDIT_MS + 5, "{told}");
    assert!(told >= acknowledged / 2 + 1_000 / LINK_CREDIT_MS / 2, "{told}");
    assert!(net.dialer.session.account(LOSSY).unwrap().acked >= 980);
}

#[test]
fn a_large_message_behind_a_little_one_waits_no_longer_for_credit_than_an_acknowledgement_takes() {
    // The large one finds room when the little one before it is told, and not before.
    let (credit, large) = (40_000, 39_950);
    let change = |config: &mut busway_protocol::Config| config.hello.credit_bytes = credit;
    let (mut dialer, mut listener) = (Host::new(0, 1, change), Host::new(1, 0, change));
    dialer.ring(LOSSY.0, "price.tick", false, 64);
    listener.want(2, "price.*", false);
    let mut net = Net::new(dialer, listener);
    (0..20).for_each(|_| net.step());
    let mut waits = Vec::new();
    for round in 0..20 {
        let publish = |net: &mut Net, sequence, size| {
            assert!(net.dialer.rings.get_mut(&LOSSY).unwrap().publish(payload(LOSSY, sequence, size)));
        };
        publish(&mut net, 2 * round + 1, 100);
        (0..2).for_each(|_| net.step());
        publish(&mut net, 2 * round + 2, large);
        let before = net.now;
        while net.listener.relays[&LOSSY].entries.len() as u64 != 2 * round + 2 {
            net.step();
            assert!(net.now < before.after_ms(1_000), "{round}");
        }
        waits.push(net.now.since(before) / 1_000_000);
    }
    // None has come before the first of them; and it takes some steps to say so and to go.
    assert!((LINK_CREDIT_MS / 2..LINK_CREDIT_MS + 5).contains(&waits[0]), "{waits:?}");
    assert!(waits[1..].iter().all(|ms| *ms <= LINK_ACKNOWLEDGE_MS + 5), "{waits:?}");
}

#[test]
fn two_messages_larger_than_the_credit_do_not_stop_each_other() {
    let talk = Talk { messages: 6, size: |sequence| [10, 200_000][sequence as usize % 2], slots: 24 };
    let mut net = hosts(&talk);
    for host in [&mut net.dialer, &mut net.listener] {
        host.config.hello.credit_bytes = 20_000;
        host.config.hello.window_bytes = 10_000;
    }
    net.dialer.restart(1);
    net.listener.restart(0);
    net.listener.want(1, "bank.>", true);
    net.listener.want(2, "price.*", false);
    net.step = 50_000;
    run(&mut net, &talk);
    check(&net, &talk, "each larger than all credit");
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]
fn a_message_that_was_changed_on_its_way_is_lost_alone_and_one_of_a_reliable_source_comes_again() {
    let talk = Talk { messages: 6, size: |at| [9, 5_000, 20_000, 70_000][(at % 4) as usize], slots: 24 };
    let (mut spoiled, mut mended, mut flips) = (0, 0, 0);
    for (step, direct, room) in
        [(usize::MAX, false, usize::MAX), (30_000, true, 1), (3_000, true, usize::MAX)]
    {
        let begin = || {
            let mut net = hosts(&talk);
            (net.step, net.dialer.packs) = (step, false);
            (net.listener.direct, net.listener.room) = (direct, room);
            net
        };
        let mut net = begin();
        run(&mut net, &talk);
        // Behind the hellos, which the rig itself reads.
        for at in (600..net.moved).step_by(4_007) {
            let mut net = begin();
            net.flips_at = Some(at);
            run(&mut net, &talk);
            if net.flips_at.is_some() {
                continue;
            }
            flips += 1;
            let what = format!("at {at}, {step} a step");
            let (received, gaps) = net.listener.relays[&RELIABLE].covered();
            assert_eq!((received, gaps.len()), ((1..=talk.messages).collect(), 0), "{what}");
            for (source, relay) in &net.listener.relays {
                for entry in &relay.entries {
                    if let Entry::Message(sequence, bytes) = entry {
                        assert!(
                            **bytes == *payload(*source, *sequence, (talk.size)(*sequence - 1)),
                            "{what}"
                        );
                    }
                }
            }
            let (received, gaps) = net.listener.relays[&LOSSY].covered();
            let lost: u64 = gaps.iter().map(|(from, to, _)| to - from + 1).sum();
            assert_eq!(received.len() as u64 + lost, talk.messages, "{what}: {gaps:?}");
            let corrupt = gaps.iter().filter(|(.., cause)| *cause == Cause::Corrupt).count() as u64;
            assert_eq!(net.listener.session.dropped().0[Cause::Corrupt.index()], corrupt, "{what}");
            // One message, or the connection, but not both.
            assert_eq!(corrupt + net.connects, 2, "{what}: {:?}", net.dialer.closed);
            (spoiled, mended) = (spoiled + corrupt, mended + net.connects - 1);
        }
    }
    assert!(spoiled > 30 && mended > 30, "{spoiled} lost, {mended} mended");
    println!("evidence: changed={flips} lost_alone={spoiled} sent_again={mended} lost_reliable=0");
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]
fn a_reliable_message_in_which_its_program_writes_all_the_time_costs_one_connection_and_no_second() {
    const MESSAGES: u64 = 12;
    let mut shared = 0;
    for (together, step) in [(1, usize::MAX), (1, 3_000), (4, usize::MAX), (4, 30_000)] {
        let mut net = hosts(&Talk { messages: 0, size: |_| 0, slots: 24 });
        (net.writes_on, net.step, net.dialer.packs) = (true, step, false);
        let size = |sequence: u64| [9_000, 20_000, 100_000][(sequence % 3) as usize];
        let mut sent = 0;
        while sent < MESSAGES {
            for _ in 0..together {
                sent += 1;
                let ring = net.dialer.rings.get_mut(&RELIABLE).unwrap();
                assert!(ring.publish(payload(RELIABLE, sent, size(sent))));
            }
            let mut steps = 0;
            while net.dialer.session.account(RELIABLE).is_none_or(|account| account.acked < sent) {
                steps += 1;
                assert!(steps < 20_000 && net.connects <= sent + 1, "{sent}: {:?}", net.dialer.closed);
                net.step();
            }
            assert!(net.connects <= sent + 1, "{} connections for {sent} messages", net.connects);
        }
        let relay = &net.listener.relays[&RELIABLE];
        assert_eq!(relay.covered(), ((1..=MESSAGES).collect(), Vec::new()));
        for entry in &relay.entries {
            let Entry::Message(sequence, bytes) = entry else { panic!("{entry:?}") };
            assert!(
                **bytes == *payload(RELIABLE, *sequence, size(*sequence)),
                "as it was when it was copied"
            );
        }
        // Each alone is found changed once; of those that are under way together one is found, and the others go again with it.
        assert!(net.connects > 1 && (together > 1 || net.connects == MESSAGES + 1), "{}", net.connects);
        shared += u64::from(together > 1) * (MESSAGES + 1 - net.connects);
    }
    assert!(shared > 0, "what was under way beside it went as a copy too");
    println!("evidence: messages={} connections_each<=1", 4 * MESSAGES);
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]
fn sources_whose_messages_take_all_credit_have_equal_turns_beside_one_that_says_small_things() {
    let mut crossed = [0; 2];
    // All of the credit, more, so much that a second has none left, and none at all.
    for (credit, size) in [(20_000, 12_000), (20_000, 20_000), (20_000, 39_000), (0, 9_000)] {
        let mut net = hosts(&Talk { messages: 0, size: |_| 0, slots: 64 });
        for host in [&mut net.dialer, &mut net.listener] {
            (host.config.hello.credit_bytes, host.config.hello.window_bytes) = (credit, 1 << 20);
        }
        net.dialer.restart(1);
        net.listener.restart(0);
        net.listener.want(1, "bank.>", true);
        net.listener.want(2, "price.*", false);
        net.dialer.ring(3, "bank.small", true, 64);
        let all = [(RELIABLE, size), (LOSSY, size), (PortId(3), 200)];
        let mut sent = [0; 3];
        for _ in 0..12_000 {
            for (at, (source, size)) in all.into_iter().enumerate() {
                let account = net.dialer.session.account(source);
                let waits = sent[at] - account.map_or(0, |account| account.sent);
                let ring = net.dialer.rings.get_mut(&source).unwrap();
                // There is always one more, and none is lapped.
                sent[at] += u64::from(waits < 8 && ring.publish(payload(source, sent[at] + 1, size)));
            }
            net.step();
        }
        let acked = all.map(|(source, _)| net.dialer.session.account(source).unwrap().acked);
        let what = format!("{size} bytes with a credit of {credit}: {acked:?}");
        assert!(acked[0] > 10 && acked[0].abs_diff(acked[1]) <= 2 + acked[0] / 10, "{what}");
        assert!(acked[2] > acked[0], "{what}");
        assert_eq!(net.connects, 1, "{what}");
        (crossed[0], crossed[1]) = (crossed[0] + acked[0], crossed[1] + acked[1]);
    }
    println!("evidence: of_one={} of_the_other={}", crossed[0], crossed[1]);
}

#[test]
fn a_session_that_says_it_has_output_puts_some_out() {
    let talk = Talk { messages: 12, size: |_| 0, slots: 64 };
    let mut net = hosts(&talk);
    net.listener.config.hello.credit_bytes = 20_000;
    net.listener.restart(0);
    net.listener.want(1, "bank.>", true);
    net.listener.want(2, "price.*", false);
    // Small messages of one source would fit, and large ones of the other wait for all credit.
    for (source, size) in [(RELIABLE, 10), (LOSSY, 30_000)] {
        for sequence in 1..=talk.messages {
            net.dialer.rings.get_mut(&source).unwrap().publish(payload(source, sequence, size));
        }
    }
    for _ in 0..200 {
        net.step();
        if net.connected && net.dialer.batch.is_empty() && net.dialer.session.has_output() {
            net.dialer.session.transmit(net.now, &mut net.dialer.batch);
            assert!(!net.dialer.batch.is_empty(), "it would be asked for ever");
        }
    }
    for source in [RELIABLE, LOSSY] {
        assert_eq!(net.dialer.session.account(source).unwrap().acked, talk.messages, "{source}");
    }
}

#[test]
fn a_host_that_is_started_again_loses_nothing_reliable_that_is_still_in_its_ring() {
    for seed in 0..20 {
        // Some rings hold all, others are full of what the peer has already.
        let talk = Talk { messages: 200, size: |_| 30, slots: if seed % 2 == 0 { 256 } else { 16 } };
        let (mut net, mut rng) = random(seed, &talk);
        for _ in 0..6 {
            for _ in 0..rng.usize(1..60) {
                for source in [RELIABLE, LOSSY] {
                    let ring = net.dialer.rings.get_mut(&source).unwrap();
                    let next = ring.first + ring.messages.len() as u64;
                    if next <= talk.messages && ring.attached {
                        ring.publish(payload(source, next, 30));
                    }
                }
                net.step();
            }
            net.disconnect();
            net.dialer.restart(1);
        }
        net.dies_at = None;
        finish_relays(&mut net, &talk, seed);
        let relay = &net.listener.relays[&RELIABLE];
        let (received, gaps) = relay.covered();
        assert_eq!((received, gaps.len()), ((1..=talk.messages).collect(), 0), "seed {seed}");
        let (received, gaps) = net.listener.relays[&LOSSY].covered();
        let lost: u64 = gaps.iter().map(|(from, to, _)| to - from + 1).sum();
        // Before the peer had heard of it at all, what the ring no longer holds is nobody's loss.
        let all = received.len() as u64 + lost;
        assert!(all == talk.messages || talk.slots == 16, "seed {seed}: {gaps:?}");
    }
}

/// As `finish`, by what stands in the relay rings.
fn finish_relays(net: &mut Net, talk: &Talk, seed: u64) {
    for _ in 0..60_000 {
        let last = |source: &PortId| match net.listener.relays.get(source)?.entries.last()? {
            Entry::Message(sequence, _) => Some(*sequence),
            Entry::Gap(_, to, _) => Some(*to),
        };
        if last(&RELIABLE) == Some(talk.messages) && last(&LOSSY) == Some(talk.messages) {
            return;
        }
        for source in [RELIABLE, LOSSY] {
            let ring = net.dialer.rings.get_mut(&source).unwrap();
            let next = ring.first + ring.messages.len() as u64;
            if next <= talk.messages && ring.attached {
                ring.publish(payload(source, next, 30));
            }
        }
        net.step();
    }
    panic!("seed {seed} is stuck: {:?}", net.dialer.session);
}

#[test]
fn a_receiving_host_that_is_started_again_gets_all_that_was_not_acknowledged() {
    for seed in 0..20 {
        let talk = Talk { messages: 200, size: |_| 30, slots: 32 };
        let (mut net, mut rng) = random(seed, &talk);
        let mut had: Vec<u64> = Vec::new();
        for _ in 0..5 {
            for _ in 0..rng.usize(1..60) {
                for source in [RELIABLE, LOSSY] {
                    let ring = net.dialer.rings.get_mut(&source).unwrap();
                    let next = ring.first + ring.messages.len() as u64;
                    if next <= talk.messages {
                        ring.publish(payload(source, next, 30));
                    }
                }
                net.step();
            }
            net.disconnect();
            // What its relay rings held is still read by those who have them mapped.
            for (source, relay) in std::mem::take(&mut net.listener.relays) {
                if source == RELIABLE {
                    had.extend(relay.covered().0);
                }
            }
            net.listener.restart(0);
            net.listener.want(1, "bank.>", true);
            net.listener.want(2, "price.*", false);
        }
        net.dies_at = None;
        finish(&mut net, &talk, seed);
        had.extend(net.listener.relays.get(&RELIABLE).map(|relay| relay.covered().0).unwrap_or_default());
        had.sort_unstable();
        had.dedup();
        assert_eq!(had, (1..=talk.messages).collect::<Vec<u64>>(), "seed {seed}");
        let account = net.dialer.session.account(LOSSY).unwrap();
        assert_eq!(account.acked + account.dropped.iter().sum::<u64>(), talk.messages, "seed {seed}");
    }
}

#[test]
fn what_was_sent_before_a_source_ended_comes_though_the_peer_had_not_answered_yet() {
    let talk = Talk { messages: 10, size: |_| 20, slots: 64 };
    let mut net = hosts(&talk);
    for source in [RELIABLE, LOSSY] {
        for sequence in 1..=talk.messages {
            net.dialer.rings.get_mut(&source).unwrap().publish(payload(source, sequence, 20));
        }
    }
    while !net.dialer.rings[&LOSSY].attached {
        net.step();
    }
    assert_eq!(net.dialer.session.account(RELIABLE).unwrap().sent, 0, "it has not been accepted");
    let now = net.now;
    for source in [RELIABLE, LOSSY] {
        net.dialer.end_ring(now, source.0);
    }
    for _ in 0..100 {
        net.step();
    }
    for source in [RELIABLE, LOSSY] {
        let (received, gaps) = net.listener.relays[&source].covered();
        assert_eq!((received, gaps.len()), ((1..=talk.messages).collect(), 0), "{source}");
        assert!(net.listener.relays[&source].closed && net.dialer.rings[&source].done.is_some());
    }
}

#[test]
fn a_source_that_ends_is_told_behind_its_last_message_and_then_forgotten() {
    for seed in 0..20 {
        let talk = Talk { messages: 40, size: |_| 20, slots: 64 };
        let (mut net, mut rng) = random(seed, &talk);
        for source in [RELIABLE, LOSSY] {
            let ring = net.dialer.rings.get_mut(&source).unwrap();
            for sequence in 1..=talk.messages {
                ring.publish(payload(source, sequence, 20));
            }
        }
        let end_at = rng.usize(1..40);
        for step in 0..4_000 {
            net.step();
            if step == end_at + 20 {
                let now = net.now;
                net.dialer.end_ring(now, RELIABLE.0);
                net.dialer.end_ring(now, LOSSY.0);
            }
        }
        for source in [RELIABLE, LOSSY] {
            let account =
                net.dialer.rings[&source].done.unwrap_or_else(|| panic!("seed {seed}: {source} is not done"));
            assert_eq!((account.sent, account.in_flight), (talk.messages, 0), "seed {seed}");
            assert!(net.dialer.session.account(source).is_none());
            let relay = &net.listener.relays[&source];
            let (received, gaps) = relay.covered();
            let lost: u64 = gaps.iter().map(|(from, to, _)| to - from + 1).sum();
            assert_eq!((received.len() as u64 + lost, relay.closed), (talk.messages, true), "seed {seed}");
        }
    }
}

#[test]
fn who_has_started_again_and_wants_a_source_only_later_gets_all_that_was_kept() {
    let talk = Talk { messages: 30, size: |_| 9, slots: 64 };
    let mut net = hosts(&talk);
    run(&mut net, &talk);
    net.disconnect();
    net.listener.restart(0);
    let ring = net.dialer.rings.get_mut(&RELIABLE).unwrap();
    for sequence in 31..=40 {
        assert!(ring.publish(payload(RELIABLE, sequence, 9)));
    }
    // The link stands, and its node does not know yet what is wanted beside it.
    for _ in 0..20 {
        net.step();
    }
    assert_eq!(net.dialer.session.account(RELIABLE).unwrap().acked, 30);
    net.listener.want(1, "bank.>", true);
    for _ in 0..100 {
        net.step();
    }
    let account = net.dialer.session.account(RELIABLE).unwrap();
    assert_eq!((account.acked, account.in_flight), (40, 0), "{account:?}");
    let (received, gaps) = net.listener.relays[&RELIABLE].covered();
    assert_eq!((received.last(), gaps.len()), (Some(&40), 0), "{received:?}");
}

#[test]
fn who_has_started_again_and_wants_a_source_while_it_is_announced_may_answer_twice() {
    for step in [50, 100, 200, 400, 3_000] {
        let talk = Talk { messages: 30, size: |_| 9, slots: 64 };
        let mut net = hosts(&talk);
        run(&mut net, &talk);
        net.disconnect();
        net.listener.restart(0);
        net.listener.want(1, "bank.>", true);
        net.step = step;
        let connects = net.connects;
        let ring = net.dialer.rings.get_mut(&RELIABLE).unwrap();
        for sequence in 31..=40 {
            assert!(ring.publish(payload(RELIABLE, sequence, 9)));
        }
        for _ in 0..300 {
            net.step();
        }
        assert_eq!(net.dialer.session.account(RELIABLE).unwrap().acked, 40, "{step}");
        assert_eq!(net.connects, connects + 1, "{step}: {:?}", net.dialer.closed);
    }
}

#[test]
fn a_large_message_is_acknowledged_at_once_and_a_small_one_soon() {
    for (size, most_ms) in [(64, 20), (1 << 20, 3)] {
        let talk = Talk { messages: 3, size: |_| 9, slots: 64 };
        let mut net = hosts(&talk);
        run(&mut net, &talk);
        let begun = net.now;
        assert!(net.dialer.rings.get_mut(&RELIABLE).unwrap().publish(payload(RELIABLE, 4, size)));
        while net.dialer.session.account(RELIABLE).unwrap().acked < 4 {
            net.step();
            // The batch of a link takes a step for each quarter of a mebibyte, and one is for the relay ring.
            let most_ms = most_ms + (size as u64 >> 18);
            assert!(net.now <= begun.after_ms(most_ms), "{size} bytes: nothing for {most_ms} ms");
        }
    }
}

#[test]
fn of_a_source_that_a_peer_may_not_have_any_more_it_keeps_no_place_while_the_link_stands() {
    let talk = Talk { messages: 40, size: |_| 9, slots: 64 };
    let mut net = hosts(&talk);
    run(&mut net, &talk);
    assert!(!net.listener.relays[&LOSSY].closed);
    net.dialer.rings.get_mut(&LOSSY).unwrap().attached = true;
    let connects = net.connects;
    net.dialer.handle(net.now, busway_protocol::Input::Revoked { source: LOSSY });
    for _ in 0..100 {
        net.step();
    }
    assert!(net.listener.relays[&LOSSY].closed, "it was told of its end");
    assert!(!net.listener.relays[&RELIABLE].closed);
    assert_eq!(net.connects, connects, "the link stands");
}
