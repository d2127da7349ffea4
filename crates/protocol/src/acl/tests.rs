//! The decision against a second one that is written in another way, over random rules.

use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use busway_wire::{Pattern, Topic};

use super::{Acl, Deed, Permits, Rule, Whom};
use crate::principal::Principal;

const ALL: [Deed; 6] = [Deed::Publish, Deed::Subscribe, Deed::Push, Deed::Request, Deed::Pull, Deed::Answer];

fn rule(whom: &str, lists: [&[&str]; 4]) -> Rule {
    let patterns = |list: &[&str]| list.iter().map(|text| Pattern::parse(text).expect("a pattern")).collect();
    let [publish, subscribe, deny_publish, deny_subscribe] = lists.map(patterns);
    let whom = whom.parse().expect("whom");
    let (push, request, pull, answer) = (None, None, None, None);
    Rule { whom, publish, subscribe, deny_publish, deny_subscribe, push, request, pull, answer }
}

fn topic(text: &str) -> Topic {
    Topic::new(text).expect("a topic")
}

#[test]
fn a_denial_wins_over_any_number_of_allowances_in_any_order() {
    let allow = rule("*", [&["a.*"], &["a.*", ">"], &[], &[]]);
    let deny = rule("client/lamp", [&[], &[], &["a.b"], &["a.b"]]);
    let lamp = Principal::client("lamp").expect("a name");
    let other = Principal::client("other").expect("a name");
    for rules in [vec![allow.clone(), deny.clone()], vec![deny, allow]] {
        let acl = Acl::new(rules);
        for deed in ALL {
            assert!(!acl.allows(&lamp, deed, &topic("a.b")));
            assert!(acl.allows(&lamp, deed, &topic("a.c")));
            assert!(acl.allows(&other, deed, &topic("a.b")));
        }
        assert!(!acl.allows(&lamp, Deed::Publish, &topic("b")));
    }
}

#[test]
fn without_rules_all_is_allowed_and_with_none_that_applies_nothing_and_never_what_is_reserved() {
    let node = Principal::Node { index: 3 };
    let reserved = Topic::reserved("$bus.peers").expect("a topic");
    let greedy = Acl::new(vec![rule("*", [&["$bus.>", ">"], &["^$", "^"], &[], &[]])]);
    for deed in ALL {
        assert!(Permits::new(node.clone(), None).allow(deed, &topic("a")));
        assert!(!Permits::new(node.clone(), None).allow(deed, &reserved));
        assert!(!Permits::new(node.clone(), Some(&Acl::default())).allow(deed, &topic("a")));
        assert!(Permits::new(node.clone(), Some(&greedy)).allow(deed, &topic("a")));
        assert!(!Permits::new(node.clone(), Some(&greedy)).allow(deed, &reserved));
    }
}

#[test]
fn dead_letters_are_pulled_by_those_whom_a_rule_names_them_to_and_what_denies_them_denies_them() {
    let lamp = Principal::client("lamp").expect("a name");
    let letters = topic("dead-letters.g");
    for (allowed, may) in [
        (">", false),
        ("*.*", false),
        ("*.g", false),
        ("^", false),
        ("^dead", false),
        ("dead-letters.g", true),
        ("dead-letters.*", true),
        ("dead-letters.>", true),
        ("^dead-letters.", true),
    ] {
        let acl = Acl::new(vec![rule("*", [&[], &[allowed], &[], &[]])]);
        assert_eq!(acl.allows(&lamp, Deed::Pull, &letters), may, "{allowed}");
        assert!(
            may || acl.allows(&lamp, Deed::Subscribe, &letters),
            "of messages it is a topic as any other"
        );
        assert!(allowed != ">" || acl.allows(&lamp, Deed::Pull, &topic("dead-letters")));
    }
    let denied = Acl::new(vec![rule("*", [&[], &["dead-letters.*"], &[], &["*.g"]])]);
    assert!(!denied.allows(&lamp, Deed::Pull, &letters), "a denial need not name them");
    assert!(Permits::new(lamp, None).allow(Deed::Pull, &letters), "where there are no rules");
}

#[test]
fn whom_a_rule_applies_to_has_five_spellings_and_no_other() {
    for text in ["*", "node/*", "client/*", "node/7", "client/lamp"] {
        assert!(text.parse::<Whom>().is_ok(), "{text}");
    }
    for text in ["", "node", "node/", "client/", "clients/*", "node/*/x", "NODE/1", "client/a*", "*/x", " *"]
    {
        assert!(text.parse::<Whom>().is_err(), "{text}");
    }
}

/// A name or a pattern of a small world, so that they often meet.
fn text(random: &mut fastrand::Rng, wild: bool) -> String {
    let mut tokens: Vec<&str> = (0..random.usize(1..4))
        .map(|_| if wild && random.u8(..4) == 0 { "*" } else { ["a", "b", "c"][random.usize(..3)] })
        .collect();
    if wild && random.u8(..4) == 0 {
        tokens.push(">");
    }
    let text = tokens.join(".");
    if wild && random.u8(..8) == 0 { format!("^{}", &text[..1]) } else { text }
}

#[test]
fn the_decision_is_that_of_the_plain_words_for_random_rules() {
    let seed = fastrand::u64(..);
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut allowed, mut denied) = (0, 0);
    for round in 0..20_000 {
        let list = |random: &mut fastrand::Rng| -> Vec<Pattern> {
            (0..random.usize(..3)).map(|_| Pattern::parse(&text(random, true)).expect("a pattern")).collect()
        };
        let whoms = ["*", "node/*", "client/*", "node/1", "client/x", "client/y"];
        let rules: Vec<Rule> = (0..random.usize(..5))
            .map(|_| Rule {
                whom: whoms[random.usize(..whoms.len())].parse().expect("whom"),
                publish: list(&mut random),
                subscribe: list(&mut random),
                deny_publish: list(&mut random),
                deny_subscribe: list(&mut random),
                push: random.bool().then(|| list(&mut random)),
                request: random.bool().then(|| list(&mut random)),
                pull: random.bool().then(|| list(&mut random)),
                answer: random.bool().then(|| list(&mut random)),
            })
            .collect();
        let who: Principal =
            ["node/1", "node/2", "client/x", "client/y"][random.usize(..4)].parse().expect("who");
        let topic = topic(&text(&mut random, false));
        let applies = |rule: &&Rule| {
            let (kind, _) = who_text(&who);
            [format!("{who}"), format!("{kind}/*"), "*".to_owned()]
                .iter()
                .any(|spelling| spelling.parse::<Whom>().is_ok_and(|whom| whom == rule.whom))
        };
        for deed in ALL {
            let pick = |rule: &Rule| {
                let (own, usual, deny) = match deed {
                    Deed::Publish => (None, &rule.publish, &rule.deny_publish),
                    Deed::Push => (rule.push.as_ref(), &rule.publish, &rule.deny_publish),
                    Deed::Request => (rule.request.as_ref(), &rule.publish, &rule.deny_publish),
                    Deed::Subscribe => (None, &rule.subscribe, &rule.deny_subscribe),
                    Deed::Pull => (rule.pull.as_ref(), &rule.subscribe, &rule.deny_subscribe),
                    Deed::Answer => (rule.answer.as_ref(), &rule.subscribe, &rule.deny_subscribe),
                };
                // A list of its own is all that counts, also an empty one.
                (own.unwrap_or(usual).clone(), deny.clone())
            };
            let mine: Vec<_> = rules.iter().filter(applies).map(pick).collect();
            let any = |list: &[Pattern]| list.iter().any(|pattern| pattern.matches(&topic));
            let expected =
                mine.iter().any(|(allow, _)| any(allow)) && !mine.iter().any(|(_, deny)| any(deny));
            let acl = Acl::new(rules.clone());
            let permits = Permits::new(who.clone(), Some(&acl));
            assert_eq!(acl.allows(&who, deed, &topic), expected, "seed {seed} round {round}");
            assert_eq!(permits.allow(deed, &topic), expected, "seed {seed} round {round}");
            if expected { allowed += 1 } else { denied += 1 }
        }
    }
    assert!(allowed > 1_000 && denied > 1_000, "both are met: {allowed} {denied}");
}

fn who_text(who: &Principal) -> (&'static str, &Principal) {
    match who {
        Principal::Node { .. } => ("node", who),
        Principal::Client { .. } => ("client", who),
    }
}

#[test]
fn of_a_pattern_it_is_known_whether_anything_of_it_could_be_allowed() {
    let lamp = Principal::client("lamp").expect("a name");
    let rules = vec![rule("client/lamp", [&["a.*"], &["a.b", "c.>", "^pre"], &[], &["a.b"]])];
    let permits = Permits::new(lamp.clone(), Some(&Acl::new(rules)));
    let could = |deed, text: &str| permits.could(deed, &Pattern::parse(text).expect("a pattern"));
    for (text, publishes) in
        [(">", true), ("*", false), ("*.x", true), ("a.>", true), ("a.b.c", false), ("b.*", false)]
    {
        assert_eq!(could(Deed::Publish, text), publishes, "{text}");
    }
    // A prefix may meet anything: what it may is asked for each topic.
    for text in ["d", "d.*", "c.x", "a.b"] {
        assert!(text == "d" || could(Deed::Subscribe, text), "{text}");
    }
    assert!(!could(Deed::Subscribe, "$bus.>"));
    assert!(Permits::new(lamp, None).could(Deed::Publish, &Pattern::parse("x").expect("a pattern")));
}

/// Whatever is allowed of a topic could be allowed of each pattern that matches it.
#[test]
fn what_is_allowed_of_a_topic_could_be_of_every_pattern_that_matches_it() {
    let mut rng = fastrand::Rng::with_seed(11);
    let mut both = 0;
    let text = |rng: &mut fastrand::Rng, wild: bool| {
        let tokens: Vec<&str> = (0..rng.usize(1..4))
            .map(|_| if wild && rng.u8(..3) == 0 { "*" } else { ["a", "b"][rng.usize(..2)] })
            .collect();
        let end = if wild && rng.u8(..4) == 0 { ".>" } else { "" };
        format!("{}{end}", tokens.join("."))
    };
    for _ in 0..20_000 {
        let (one, two) = (text(&mut rng, true), text(&mut rng, true));
        let name = topic(&text(&mut rng, false));
        let (one, two) = (Pattern::parse(&one).expect("a pattern"), Pattern::parse(&two).expect("a pattern"));
        if one.matches(&name) && two.matches(&name) {
            both += 1;
            assert!(one.may_meet(&two) && two.may_meet(&one), "{name}: {one} and {two}");
        }
    }
    assert!(both > 500, "{both}");
}
