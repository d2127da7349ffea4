//! FORMAT.md is true: its tables against the structures, numbers and names of this crate.
//!
//! The page is read as a stranger would read it, by heading and column; nothing here knows line numbers.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in what its tests share")]

#[path = "sample/fixed.rs"]
mod fixed;
#[path = "sample/frames.rs"]
mod frames;

use std::mem::{offset_of, size_of_val};

use busway_wire::link::{Identity, RefusalCode};
use busway_wire::{
    Cause, Codec, Control, ControlKind, DeadLetterHead, DeadReason, ExtensionKind, Flags, Header, Kind,
    Pattern, Policy, PortId, Record, ReplyHead, ReplyState, RequestHead, Topic, VERSION, lane_of, limits,
    responders,
};

const PAGE: &str = include_str!("../../../FORMAT.md");

/// The tables under a heading, each with its header row first; cells without spaces and code marks.
fn tables(heading: &str) -> Vec<Vec<Vec<String>>> {
    let level = heading.chars().take_while(|character| *character == '#').count();
    let mut tables: Vec<Vec<Vec<String>>> = Vec::new();
    let (mut inside, mut in_table, mut in_code) = (false, false, false);
    for line in PAGE.lines() {
        in_code ^= line.starts_with("```");
        let depth = line.chars().take_while(|character| *character == '#').count();
        if depth > 0 && !in_code {
            // A table belongs to the nearest heading: a deeper one begins a section of its own.
            inside = line == heading && depth == level;
        }
        let is_row = inside && line.starts_with('|');
        if is_row {
            let cells: Vec<String> = line.trim_matches('|').split('|').map(clean).collect();
            let is_rule = cells.iter().all(|cell| cell.chars().all(|character| "-: ".contains(character)));
            match tables.last_mut() {
                Some(table) if in_table && !is_rule => table.push(cells),
                Some(_) if in_table => {}
                _ => tables.push(vec![cells]),
            }
        }
        in_table = is_row;
    }
    assert!(!tables.is_empty(), "FORMAT.md has no table under {heading:?}");
    tables
}

fn clean(cell: &str) -> String {
    cell.trim().trim_matches('`').to_owned()
}

/// The rows of the one table under a heading whose header row begins with these columns.
fn rows(heading: &str, columns: &[&str]) -> Vec<Vec<String>> {
    let mut found = tables(heading).into_iter().filter(|table| {
        table.first().is_some_and(|head| columns.iter().zip(head).all(|(column, cell)| column == cell))
    });
    let table = found.next().unwrap_or_else(|| panic!("no table with {columns:?} under {heading:?}"));
    assert!(found.next().is_none(), "two tables with {columns:?} under {heading:?}");
    assert!(table.len() > 1, "the table with {columns:?} is empty");
    table.into_iter().skip(1).collect()
}

fn pairs(heading: &str, columns: [&str; 2]) -> Vec<(String, String)> {
    rows(heading, &columns).into_iter().map(|row| (row[0].clone(), row[1].clone())).collect()
}

fn numbered<N: ToString>(items: impl IntoIterator<Item = (N, &'static str)>) -> Vec<(String, String)> {
    items.into_iter().map(|(number, name)| (number.to_string(), name.to_owned())).collect()
}

#[test]
#[expect(clippy::print_stdout, reason = "the evidence line is read by the test runner")]
fn every_field_of_the_header_lies_where_the_page_says() {
    macro_rules! fields {
        ($structure:ident, $value:expr; $($field:ident),+ $(,)?) => {
            vec![$((offset_of!($structure, $field), size_of_val(&$value.$field), stringify!($field))),+]
        };
    }
    let header = Header::new(Kind::Publish);
    let structure = fields!(Header, header; checksum, checksum_payload, size, kind, hops_version, flags,
        extensions, topic, source, sequence, time_ns, correlation);
    let fields = compare("### struct Header", &structure, size_of::<Header>());
    println!("evidence: struct=Header fields={fields} bytes={}", size_of::<Header>());
    let record = Record { size: 0.into(), flags: 0, parts: 0, time: 0.into() };
    let structure = fields!(Record, record; size, flags, parts, time);
    compare("#### struct Record", &structure, size_of::<Record>());
    let head: DeadLetterHead = zerocopy::FromZeros::new_zeroed();
    let structure = fields!(DeadLetterHead, head; magic, source, sequence, time_ns, correlation, attempts,
        reason, codec, topic_bytes, error_bytes, service_bytes, context_bytes, reserved);
    compare("### struct DeadLetterHead", &structure, size_of::<DeadLetterHead>());
    let reasons = numbered(DeadReason::ALL.map(|reason| (reason as u8, reason.name())));
    assert_eq!(reasons, pairs("### struct DeadLetterHead", ["number", "reason"]));
    assert!(PAGE.contains(&format!("the bytes `{}`", str::from_utf8(&DeadLetterHead::MAGIC).unwrap())));
    let request = RequestHead { deadline_ns: 0.into() };
    let structure = fields!(RequestHead, request; deadline_ns);
    compare("#### struct RequestHead", &structure, size_of::<RequestHead>());
    let reply = ReplyHead::new(0, ReplyState::Part);
    let structure = fields!(ReplyHead, reply; index, state, reserved);
    compare("#### struct ReplyHead", &structure, size_of::<ReplyHead>());
}

/// Compares a structure with its table; how many fields both have.
fn compare(heading: &str, structure: &[(usize, usize, &str)], size: usize) -> usize {
    let page: Vec<(usize, usize, String)> = rows(heading, &["offset", "size", "field"])
        .into_iter()
        .map(|row| (row[0].parse().unwrap(), row[1].parse().unwrap(), row[2].clone()))
        .collect();
    assert_eq!(page.len(), structure.len());
    let mut end = 0;
    for ((offset, size, name), row) in structure.iter().zip(&page) {
        assert_eq!((offset, size, *name), (&row.0, &row.1, row.2.as_str()));
        assert_eq!(*offset, end, "a gap before {name}");
        end = offset + size;
    }
    assert_eq!(end, size, "the page ends where the structure ends");
    page.len()
}

#[test]
fn version_kinds_flags_codecs_and_extensions_are_those_of_the_page() {
    assert!(PAGE.contains(&format!("The version of this page is **{VERSION}**")));
    let kinds = numbered(Kind::ALL.map(|kind| (kind.number(), kind.name())));
    assert_eq!(pairs("### Kinds", ["number", "kind"]), kinds);
    let flags: Vec<_> =
        Flags::ALL.iter().map(|(name, flag)| (format!("{:08b}", flag.bits()), (*name).to_owned())).collect();
    assert_eq!(pairs("### Flags", ["bits", "flag"]), flags);
    let codecs = numbered(Codec::ALL.map(|codec| (codec as u8, codec.name())));
    assert_eq!(pairs("### Flags", ["codec", "name"]), codecs);
    let extensions = numbered(ExtensionKind::ALL.map(|kind| (kind.number(), kind.name())));
    assert_eq!(pairs("### Extensions", ["type", "extension"]), extensions);
}

#[test]
fn requests_and_replies_are_those_of_the_page() {
    let states = numbered(ReplyState::ALL.map(|state| (state as u8, state.name())));
    assert_eq!(pairs("#### struct ReplyHead", ["state", "name"]), states);
    assert!(PAGE.contains(&format!("`{}`", responders())));
    assert_eq!(lane_of(PortId(0xc0ffee)).as_str(), "$lane.0000000000c0ffee");
    assert!(PAGE.contains("on the topic `$lane.` and the requester's port"));
}

#[test]
fn causes_and_policies_are_those_of_the_page() {
    let causes = numbered(Cause::ALL.map(|cause| (cause.index(), cause.name())));
    assert_eq!(pairs("## Causes", ["index", "cause"]), causes);
    assert!(PAGE.contains(&format!("{} words are reserved", Cause::COUNT)));
    let policies = [
        Policy::default(),
        Policy::KeepLatest,
        Policy::DropNewest { depth: limits::DROP_NEWEST_DEPTH_MAX },
        Policy::Block,
        Policy::Fail,
        Policy::Evict,
    ];
    let page = rows("### Policies", &["number", "policy", "depth", "publisher waits"]);
    assert_eq!(page.len(), policies.len());
    for (row, policy) in page.iter().zip(policies) {
        // The number is the first byte of the policy's encoding, which ends a `Subscribe` but for its time and a flag.
        let number = usize::from(policy_bytes(policy)[0]);
        assert_eq!((row[0].parse(), row[1].as_str()), (Ok(number), policy.name()));
        assert_eq!(row[3] == "yes", policy.gates(), "{policy}");
        let has_depth = matches!(policy, Policy::DropOldest { .. } | Policy::DropNewest { .. });
        assert_eq!(!row[2].is_empty(), has_depth, "{policy}");
    }
    let (oldest, newest) = (&page[0][2], &page[2][2]);
    assert_eq!(*oldest, format!("1 to {}; {}: as the ring", limits::RING_SLOTS_HARD_MAX, Policy::DEPTH_RING));
    assert_eq!(*newest, format!("1 to {}", limits::DROP_NEWEST_DEPTH_MAX));
}

fn policy_bytes(policy: Policy) -> Vec<u8> {
    let pattern = Pattern::parse("a").unwrap();
    let subscribe =
        Control::Subscribe { port: busway_wire::PortId(1), pattern, policy, created_ns: 0, export: false };
    let mut out = Vec::new();
    busway_wire::encode(&subscribe, &mut out).unwrap();
    // Behind the header: number, port, the pattern's length, the pattern; before the end: the time and a flag.
    out[busway_wire::HEADER_SIZE + 4..out.len() - 2].to_vec()
}

#[test]
fn every_control_message_has_the_number_and_the_fields_of_the_page() {
    let page = rows("## Control messages", &["number", "message", "fields", "way", "descriptors"]);
    assert_eq!(page.len(), Control::COUNT);
    for (row, kind) in page.iter().zip(ControlKind::ALL) {
        assert_eq!((row[0].as_str(), row[1].as_str()), (kind.number().to_string().as_str(), kind.name()));
        let debug = format!("{:?}", fixed::control(kind));
        let fields: Vec<(&str, &str)> = row[2]
            .split(", ")
            .filter(|field| !field.is_empty())
            .map(|field| field.split_once(": ").unwrap())
            .collect();
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, field_names(&debug), "{kind}");
        for (name, of) in fields {
            let value = &debug[debug.find(&format!("{name}: ")).unwrap() + name.len() + 2..];
            assert!(is_of(value, of), "{kind}.{name} is no {of}: {value}");
        }
    }
}

#[test]
fn every_link_frame_has_the_number_and_the_fields_of_the_page() {
    let page = rows("## Link frames", &["number", "frame", "fields", "who, when"]);
    let frames = frames::all();
    assert_eq!(page.len(), frames.len());
    for (row, frame) in page.iter().zip(frames) {
        let kind = frame.kind();
        assert_eq!((row[0].as_str(), row[1].as_str()), (kind.number().to_string().as_str(), kind.name()));
        let debug = format!("{frame:?}");
        let fields: Vec<(&str, &str)> =
            row[2].split(", ").map(|field| field.split_once(": ").unwrap()).collect();
        let names: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, field_names(&debug), "{kind}");
        for (name, of) in fields {
            let value = &debug[debug.find(&format!("{name}: ")).unwrap() + name.len() + 2..];
            assert!(is_of(value, of), "{kind}.{name} is no {of}: {value}");
        }
    }
    let codes = numbered(RefusalCode::ALL.map(|code| (code.number(), code.name())));
    assert_eq!(pairs("## Link frames", ["number", "refusal"]), codes);
    let identities = [Identity::Node { index: 0 }, Identity::Client { id: 0 }];
    let page = pairs("## Link frames", ["number", "identity"]);
    for ((number, name), identity) in page.iter().zip(identities) {
        assert!(identity.to_string().starts_with(name));
        assert_eq!(*number, if *name == "node" { "0" } else { "1" });
    }
    assert_eq!(page.len(), identities.len());
}

/// The names of the fields of a value, in order, from its debug text: words before a colon, one level deep.
fn field_names(debug: &str) -> Vec<&str> {
    let inner = debug.split_once(" { ").map_or("", |(_, inner)| inner);
    let (mut names, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, character) in inner.char_indices() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth -= 1,
            ',' if depth == 0 => start = at + 2,
            ':' if depth == 0 && start <= at => names.push(&inner[start..at]),
            _ => {}
        }
    }
    names
}

/// Whether a debug text begins like a value of a type of the page.
fn is_of(value: &str, of: &str) -> bool {
    let digit = value.starts_with(|character: char| character.is_ascii_digit());
    match of {
        "u16" | "u32" | "u64" => digit,
        "bool" => value.starts_with("true") || value.starts_with("false"),
        "text" => {
            ["\"", "Topic(", "Exact(", "Tokens(", "Prefix("].iter().any(|start| value.starts_with(start))
        }
        "Group" => value.starts_with("Group {"),
        "Policy" => ["Block", "DropNewest"].iter().any(|start| value.starts_with(start)),
        "option of u64" | "option of text" => value.starts_with("Some("),
        // A secret: only its length is shown.
        "bytes" => value.starts_with("(3 bytes)"),
        "list of Wanted" => value.starts_with("[Wanted {"),
        "list of u32" => value.starts_with("[2, "),
        "Identity" => value.starts_with("Node {"),
        "RefusalCode" => value.starts_with("Full"),
        "Cause" => value.starts_with("LinkLost") || value.starts_with("Denied"),
        "list of ProcessId" => value.starts_with("[ProcessId("),
        id => value.starts_with(&format!("{id}(")),
    }
}

#[test]
fn the_examples_of_names_are_what_the_code_does() {
    for (name, id) in pairs("## Names", ["topic", "id"]) {
        assert_eq!(Topic::new(&name).unwrap().id().to_string(), id, "{name}");
    }
    for row in rows("## Names", &["pattern", "topic", "result"]) {
        let topic = Topic::new(&row[1]).or_else(|_| Topic::reserved(&row[1])).unwrap();
        let expected = match row[2].as_str() {
            "match" => true,
            "no match" => false,
            other => panic!("{other:?} is no result"),
        };
        assert_eq!(Pattern::parse(&row[0]).unwrap().matches(&topic), expected, "{row:?}");
    }
    for (bytes, topic) in pairs("## Names", ["bytes", "topic"]) {
        let bytes: Vec<u8> = bytes.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
        assert_eq!(Topic::from_bytes(&bytes).unwrap().as_str(), topic);
    }
}

#[test]
fn the_limits_of_the_format_are_those_of_the_page() {
    macro_rules! limits {
        ($($name:ident),+ $(,)?) => { vec![$((stringify!($name).to_owned(), limits::$name.to_string())),+] };
    }
    let expected = limits![
        NAME_BYTES_MAX,
        DOMAIN_NAME_BYTES_MAX,
        PROCESS_NAME_BYTES_MAX,
        REASON_BYTES_MAX,
        MESSAGE_BYTES_MAX,
        EXTENSION_BYTES_MAX,
        CONTROL_BYTES_MAX,
        MATCHED_MAX,
        MESSAGE_FDS_MAX,
        INLINE_BYTES_MAX,
        RINGS_MAX,
        ROWS_MAX,
        EXTENTS_MAX,
        EXTENT_CHUNKS_MAX,
        GROUP_ACK_MS_MAX,
        GROUP_ATTEMPTS_MAX,
        GROUP_PULLERS_MAX,
        BELL_LINES,
        LINK_FRAME_BYTES_MAX,
        LINK_RUN_MESSAGES_MAX,
        LINK_RUN_PAYLOAD_BYTES_MAX,
        LINK_PIECE_BYTES_MAX,
        LINK_INTEREST_ENTRIES_MAX,
        LINK_INTERESTS_MAX,
        LINK_SOURCES_MAX,
        LINK_RESERVED_SOURCES_MAX,
        LINK_TOKEN_BYTES_MAX,
        ARTIFACT_INSIDE_BYTES_MAX,
        ARTIFACT_CHUNK_BYTES,
        ARTIFACT_ATTRIBUTE_BYTES_MAX,
        GOSSIP_WORD_BYTES_MAX,
        GOSSIP_WORD_ENTRIES_MAX,
        GOSSIP_FILTER_PATTERNS_MAX,
        HATCH_WORD_BYTES_MAX,
        HATCH_BYTES_MAX,
        HATCH_LISTED_MAX,
        HATCH_MISSING_MAX,
        HATCH_NOTES_MAX,
        HATCH_NOTES_BYTES_MAX,
        HATCH_ENDS_MAX,
    ];
    assert_eq!(pairs("## Limits of the format", ["limit", "value"]), expected);
}
