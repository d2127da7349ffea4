//! Claims about budgets.

extern crate std;

use alloc::string::ToString;
use alloc::vec::Vec;

use super::*;

fn peer(id: u64) -> PeerId {
    PeerId::Client { id }
}

fn charge(flow: Flow, id: u64, bytes: u64) -> Charge {
    Charge { flow, peer: peer(id), bytes }
}

fn limits(flow: Flow, limit: Budget) -> Limits {
    let mut limits = Limits::default();
    let when_full = flow.when_full()[0];
    limits.set(flow, Rule { limit, when_full }).unwrap();
    limits.floor = Budget { messages: 2, bytes: 100 };
    limits
}

#[test]
fn the_table_of_flows_is_whole_and_its_defaults_are_allowed() {
    let names: Vec<&str> = Flow::ALL.map(Flow::name).into();
    let documented =
        ["control", "transport", "rpc", "data", "advert", "request", "chunk", "retransmission", "ingress"];
    assert_eq!(names, documented);
    assert_eq!(Flow::ALL.map(Flow::rank), [0, 0, 1, 2, 1, 2, 3, 2, 2]);
    let mut again = Limits::default();
    for (index, flow) in Flow::ALL.into_iter().enumerate() {
        assert_eq!(flow.index(), index);
        assert_eq!(again.set(flow, Limits::default().rule(flow)), Ok(()), "{flow}");
    }
    assert_eq!(again, Limits::default());
}

#[test]
fn a_limit_of_nothing_and_a_behaviour_that_the_flow_has_not_are_refused() {
    let mut limits = Limits::default();
    let rule = limits.rule(Flow::Data);
    for limit in [Budget { messages: 0, bytes: 1 }, Budget { messages: 1, bytes: 0 }] {
        assert_eq!(
            limits.set(Flow::Data, Rule { limit, ..rule }),
            Err(LimitFault::Zero { flow: Flow::Data })
        );
    }
    let wrong = Rule { when_full: WhenFull::Drop, ..limits.rule(Flow::Control) };
    let fault = limits.set(Flow::Control, wrong).unwrap_err();
    assert_eq!(fault.to_string(), "the flow control cannot drop when it is full; it can wait");
    assert_eq!(limits.set_all(0), Err(LimitFault::ZeroAll));
    assert_eq!(limits, Limits::default(), "nothing has changed");
}

#[test]
fn beyond_its_limit_a_flow_does_what_it_does_when_it_is_full() {
    let mut flows = Flows::new(limits(Flow::Request, Budget { messages: 3, bytes: 1_000 }));
    // Two of the floor and three of the flow.
    for _ in 0..5 {
        assert_eq!(flows.charge(charge(Flow::Request, 1, 10)), Ok(()));
    }
    assert_eq!(flows.charge(charge(Flow::Request, 1, 10)), Err(WhenFull::Wait));
    assert_eq!(flows.usage(Flow::Request).waited, 1);
    flows.release(charge(Flow::Request, 1, 10));
    assert_eq!(flows.charge(charge(Flow::Request, 1, 10)), Ok(()));
    assert_eq!(flows.usage(Flow::Request).in_use, Budget { messages: 5, bytes: 50 });
    assert_eq!(flows.charge(charge(Flow::Rpc, 1, 10)), Ok(()), "other flows go on");
}

#[test]
fn a_link_is_granted_what_it_wants_or_its_part_of_what_is_left_and_its_floor_always() {
    let mut dice = fastrand::Rng::with_seed(3);
    let floor = Budget { messages: 2, bytes: 100 };
    let mut limits = Limits { floor, ..Limits::default() };
    limits.set_all(100_000).unwrap();
    let mut flows = Flows::new(limits);
    let wanted = Budget { messages: 50, bytes: 2_000 };
    assert_eq!(flows.grant(peer(0), Flow::Data, wanted), wanted, "the first gets what it wants");
    let mut granted = std::collections::BTreeMap::from([(0, wanted)]);
    for step in 0..10_000 {
        let id = dice.u64(0..200);
        if dice.u8(..3) == 0 {
            flows.forget(peer(id));
            granted.remove(&id);
        } else {
            let wanted = Budget { messages: dice.u64(1..100), bytes: dice.u64(1..20_000) };
            let got = flows.grant(peer(id), Flow::Data, wanted);
            assert!(
                got.messages >= wanted.messages.min(2) && got.bytes >= wanted.bytes.min(100),
                "step {step}"
            );
            assert!(got.fits(wanted), "step {step}");
            granted.insert(id, got);
        }
        let beyond: u64 = granted.values().map(|got| got.bytes.saturating_sub(floor.bytes)).sum();
        assert_eq!(flows.shared_bytes(), beyond, "step {step}: what is given back is there again");
        assert!(beyond < 100_000, "step {step}");
    }
    for id in 0..200 {
        flows.forget(peer(id));
    }
    assert_eq!((flows.shared_bytes(), flows.usage(Flow::Data).in_use), (0, Budget::default()));
}

#[test]
fn a_peer_has_its_floor_whatever_the_others_hold() {
    let mut flows = Flows::new(limits(Flow::Data, Budget { messages: 10, bytes: 10_000 }));
    while flows.charge(charge(Flow::Data, 1, 50)).is_ok() {}
    assert_eq!(flows.usage(Flow::Data).in_use.messages, 12);
    for id in 2..50 {
        assert_eq!(flows.charge(charge(Flow::Data, id, 50)), Ok(()), "peer {id} has nothing yet");
        assert_eq!(flows.charge(charge(Flow::Data, id, 50)), Ok(()), "peer {id} is within its floor");
        assert_eq!(flows.charge(charge(Flow::Data, id, 50)), Err(WhenFull::Policy), "the rest is shared");
    }
    flows.forget(peer(1));
    assert_eq!(flows.charge(charge(Flow::Data, 2, 50)), Ok(()), "what a peer held is free when it goes");
}

#[test]
fn bytes_of_all_flows_have_one_cap() {
    let mut limits = Limits::default();
    limits.set_all(1_000).unwrap();
    limits.floor = Budget { messages: 1, bytes: 10 };
    let mut flows = Flows::new(limits);
    let mut kept = 0;
    for flow in Flow::ALL.into_iter().cycle().take(900) {
        kept += u64::from(flows.charge(charge(flow, 1, 30)).is_ok());
    }
    assert!(flows.shared_bytes() <= 1_000 + 9 * 20, "{} bytes", flows.shared_bytes());
    assert!((33..=42).contains(&kept), "{kept} messages of 30 bytes");
}

#[test]
fn a_message_larger_than_any_budget_goes_alone() {
    let mut flows = Flows::new(limits(Flow::Data, Budget { messages: 10, bytes: 1_000 }));
    assert_eq!(flows.charge(charge(Flow::Data, 1, 1 << 40)), Ok(()));
    assert_eq!(flows.charge(charge(Flow::Data, 1, 200)), Err(WhenFull::Policy));
    assert_eq!(flows.charge(charge(Flow::Data, 3, 1 << 40)), Err(WhenFull::Policy), "one at a time");
    assert_eq!(flows.charge(charge(Flow::Data, 2, 50)), Ok(()), "others have their floors");
    flows.release(charge(Flow::Data, 1, 1 << 40));
    assert_eq!(flows.charge(charge(Flow::Data, 1, 200)), Ok(()));
}

#[test]
fn what_is_in_use_is_what_was_charged_and_not_given_back() {
    let mut dice = fastrand::Rng::with_seed(3);
    let mut flows = Flows::new(limits(Flow::Data, Budget { messages: 50, bytes: 5_000 }));
    let mut taken: Vec<Charge> = Vec::new();
    for step in 0..20_000 {
        match dice.u8(..100) {
            0 => {
                let gone = peer(dice.u64(..4));
                flows.forget(gone);
                taken.retain(|charge| charge.peer != gone);
            }
            1..55 => {
                let charge = charge(dice.choice(Flow::ALL).unwrap(), dice.u64(..4), dice.u64(..300));
                let room = flows.has_room(charge);
                assert_eq!(flows.charge(charge).is_ok(), room);
                taken.extend(room.then_some(charge));
            }
            _ if taken.is_empty() => {}
            _ => flows.release(taken.swap_remove(dice.usize(..taken.len()))),
        }
        for flow in Flow::ALL {
            let of_flow = taken.iter().filter(|charge| charge.flow == flow);
            let (messages, bytes) = of_flow.fold((0, 0), |(m, b), charge| (m + 1, b + charge.bytes));
            assert_eq!(flows.usage(flow).in_use, Budget { messages, bytes }, "{flow} at step {step}");
        }
    }
    flows.release(charge(Flow::Data, 99, 5));
    (0..4).for_each(|id| flows.forget(peer(id)));
    assert_eq!((flows.shared_bytes(), flows.held.len()), (0, 0), "nothing is left");
}

/// What is held, by whom and of which flow, and by that what there is room for: as the promise says it, and slowly.
struct Model {
    limits: Limits,
    held: Vec<Charge>,
}

impl Model {
    fn of(&self, flow: Flow, peer: PeerId) -> Budget {
        let held = self.held.iter().filter(|charge| charge.flow == flow && charge.peer == peer);
        held.fold(Budget::default(), |sum, charge| sum.plus(charge.bytes))
    }

    /// What all peers hold of a flow beyond their floors.
    fn shared(&self, flow: Flow) -> Budget {
        (0..PEERS).map(|id| self.of(flow, peer(id)).minus(self.limits.floor)).fold(
            Budget::default(),
            |a, b| Budget { messages: a.messages + b.messages, bytes: a.bytes + b.bytes },
        )
    }

    fn shared_bytes(&self) -> u64 {
        Flow::ALL.into_iter().map(|flow| self.shared(flow).bytes).sum()
    }

    fn is_within_floor(&self, charge: Charge) -> bool {
        self.of(charge.flow, charge.peer).plus(charge.bytes).fits(self.limits.floor)
    }
}

const PEERS: u64 = 5;

#[test]
fn a_greedy_peer_takes_nobodys_floor_and_all_together_stay_below_one_cap() {
    const SIZE_MAX: u64 = 90;
    for seed in 0..6 {
        let mut dice = fastrand::Rng::with_seed(seed);
        let mut limits = Limits { floor: Budget { messages: 2, bytes: 100 }, ..Limits::default() };
        limits.set_all(1_500).unwrap();
        for flow in Flow::ALL {
            let limit = Budget { messages: dice.u64(1..40), bytes: dice.u64(SIZE_MAX..2_000) };
            limits.set(flow, Rule { limit, when_full: flow.when_full()[0] }).unwrap();
        }
        let mut flows = Flows::new(limits);
        let mut model = Model { limits, held: Vec::new() };
        for _ in 0..600 {
            let flow = dice.choice(Flow::ALL).unwrap();
            // The first takes all that it can get, the others now and then something.
            let id = if dice.u8(..4) > 0 { 0 } else { dice.u64(1..PEERS) };
            let charge = charge(flow, id, dice.u64(..SIZE_MAX));
            let (within, before) = (model.is_within_floor(charge), model.shared_bytes());
            match flows.charge(charge) {
                Ok(()) => model.held.push(charge),
                Err(_) => assert!(!within, "seed {seed}: {charge:?} is within the floor of its peer"),
            }
            assert!(flows.shared_bytes() == model.shared_bytes(), "seed {seed}: what is shared is the sum");
            let limit = model.limits.rule(flow).limit;
            let grown = model.shared_bytes() > before;
            assert!(!grown || model.shared_bytes() <= 1_500, "seed {seed}: {} bytes", model.shared_bytes());
            assert!(!grown || model.shared(flow).fits(limit), "seed {seed}: {:?}", model.shared(flow));
            while model.held.len() > 150 || (!model.held.is_empty() && dice.u8(..4) == 0) {
                flows.release(model.held.swap_remove(dice.usize(..model.held.len())));
            }
        }
    }
}
