//! Three nodes in three processes, links that are lost and nodes that are killed.

use crate::part::Part;
use crate::stage::Directory;

/// Three that are linked with each other, or of which the first and the last are not.
fn three(directories: &[Directory; 3], chain: bool) -> [Part; 3] {
    let any = "127.0.0.1:0";
    let last = Part::start(directories[2].path(), 2, any, &[]);
    let middle = Part::start(directories[1].path(), 1, any, &[(2, &last.address)]);
    let both = [(1, middle.address.as_str()), (2, last.address.as_str())];
    let peers = if chain { &both[..1] } else { &both[..] };
    let first = Part::start(directories[0].path(), 0, any, peers);
    [first, middle, last]
}

/// The next seeds that it says with this word, in no order.
fn seeds(part: &mut Part, word: &str, count: usize) -> Vec<u64> {
    let mut seeds: Vec<u64> = (0..count).map(|_| part.hear(word).parse().unwrap()).collect();
    seeds.sort_unstable();
    seeds
}

/// Changes of offers that it was told, those of them that are accounted for, and bytes that it fetched.
fn counted(part: &mut Part) -> [u64; 3] {
    part.tell("count");
    let line = part.hear("counted");
    let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

#[test]
fn what_a_process_offers_comes_to_two_others_once_and_its_end_too_and_each_change_is_accounted_for() {
    const OFFERS: u64 = 50;
    for chain in [false, true] {
        let directories = [Directory::new(), Directory::new(), Directory::new()];
        let mut parts = three(&directories, chain);
        let all: Vec<u64> = (1..=OFFERS).collect();
        for seed in &all {
            parts[0].tell(&format!("offer {seed}"));
        }
        for part in &mut parts {
            assert_eq!(seeds(part, "received", all.len()), all);
        }
        for seed in &all {
            parts[0].tell(&format!("withdraw {seed}"));
        }
        for part in &mut parts {
            assert_eq!(seeds(part, "withdrawn", all.len()), all);
        }
        let (mut told, mut accounted) = (0, 0);
        for part in &mut parts[1..] {
            let [of, sum, bytes] = counted(part);
            assert_eq!(bytes, OFFERS * 20_000, "each byte once");
            (told, accounted) = (told + of, accounted + sum);
        }
        assert!(told >= 2 * OFFERS && told == accounted, "{accounted} of {told}");
        println!(
            "evidence: chain={chain} offers={OFFERS} came=3x told={told} accounted={accounted} fetched_twice=0"
        );
    }
}

#[test]
fn after_a_link_was_lost_the_difference_is_told_and_no_byte_is_fetched_again() {
    const OFFERS: u64 = 50;
    let directories = [Directory::new(), Directory::new(), Directory::new()];
    let mut parts = three(&directories, false);
    let all: Vec<u64> = (1..=OFFERS).collect();
    for seed in &all {
        parts[0].tell(&format!("offer {seed}"));
    }
    for part in &mut parts {
        assert_eq!(seeds(part, "received", all.len()), all);
    }
    let before = counted(&mut parts[2]);
    parts[0].tell("kick 2");
    assert_eq!(parts[0].hear_any(), "kicked");
    for line in ["offer 100", "offer 101", "withdraw 1", "withdraw 2"] {
        parts[0].tell(line);
    }
    // Ends and offers come in an order of their own.
    let mut heard = [String::new(), String::new(), String::new(), String::new()];
    for line in &mut heard {
        *line = parts[2].hear_any();
    }
    heard.sort();
    assert_eq!(heard, ["received 100", "received 101", "withdrawn 1", "withdrawn 2"]);
    let after = counted(&mut parts[2]);
    assert_eq!(after[2] - before[2], 2 * 20_000, "no byte again");
    // By the middle one too, at most.
    assert!(after[0] - before[0] <= 2 * 4, "{before:?} {after:?}");
    println!(
        "evidence: stood={OFFERS} changed=4 told={} fetched={}",
        after[0] - before[0],
        after[2] - before[2]
    );
}

#[test]
fn a_node_that_is_killed_and_starts_again_is_given_what_stands_once_and_its_offers_end_at_the_others() {
    const OFFERS: u64 = 20;
    let directories = [Directory::new(), Directory::new(), Directory::new()];
    let mut parts = three(&directories, false);
    let all: Vec<u64> = (1..=OFFERS).collect();
    for seed in &all {
        parts[0].tell(&format!("offer {seed}"));
    }
    parts[2].tell("offer 1000");
    let with_its_own: Vec<u64> = all.iter().copied().chain([1_000]).collect();
    for part in &mut parts {
        assert_eq!(seeds(part, "received", with_its_own.len()), with_its_own);
    }
    let before = counted(&mut parts[1]);
    let [mut first, mut middle, last] = parts;
    let address = last.kill();
    for line in ["offer 100", "withdraw 1"] {
        first.tell(line);
    }
    for part in [&mut first, &mut middle] {
        let mut heard = [part.hear_any(), part.hear_any()];
        heard.sort();
        assert_eq!(heard, ["received 100", "withdrawn 1"]);
    }
    let mut last = Part::start(directories[2].path(), 2, &address, &[]);
    let stands: Vec<u64> = (2..=OFFERS).chain([100]).collect();
    assert_eq!(seeds(&mut last, "received", stands.len()), stands);
    for part in [&mut first, &mut middle] {
        assert_eq!(part.hear("withdrawn"), "1000", "its earlier start offers nothing");
    }
    assert_eq!(counted(&mut last)[2], stands.len() as u64 * 20_000, "each byte once");
    assert_eq!(counted(&mut middle)[2] - before[2], 20_000, "who stayed fetches nothing again");
    println!("evidence: killed=1 stands={} came_twice=0", stands.len());
}
