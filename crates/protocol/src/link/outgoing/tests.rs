//! What goes out of memory that others write.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

extern crate std;

use core::cell::Cell;
use std::println;

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use busway_wire::{Context, ExtensionKind, Extensions, HEADER_SIZE, Header, Kind, MessageId, Part, Seed};

use super::{Item, put};
use crate::batch::Batch;

const CLUSTER: Seed = Seed(7);

/// What follows a header, with extensions that their writer changes after so many looks.
#[derive(Clone)]
struct Changing {
    good: Rc<[u8]>,
    bad: Rc<[u8]>,
    looks: Rc<Cell<u32>>,
    most: u32,
}

impl AsRef<[u8]> for Changing {
    fn as_ref(&self) -> &[u8] {
        let look = self.looks.get();
        self.looks.set(look + 1);
        if look < self.most { &self.good } else { &self.bad }
    }
}

/// Extensions, all as long as these, which a peer would close its link for.
fn wrong(good: &[u8]) -> Vec<Vec<u8>> {
    let with = |at: usize, bytes: &[u8]| {
        let mut wrong = good.to_vec();
        wrong[at..at + bytes.len()].copy_from_slice(bytes);
        wrong
    };
    let mut part = Vec::new();
    Part { message: 1, offset: 0, total: 9 }.push(&mut part).unwrap();
    vec![with(0, &[0; 8]), with(2, &[0xff; 2]), with(0, &[9, 0x80]), with(0, &part), vec![0xff; good.len()]]
}

#[test]
fn extensions_that_are_changed_after_they_were_checked_close_no_link_and_the_message_goes() {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let context = Context::default().with_id(MessageId(7)).with_trace(trace);
    let mut good = vec![0; context.size()];
    context.write(&mut good);
    let (mut whole, mut blank, mut pieces) = (0, 0, 0);
    for (size, bad, most) in [10, 5_000, 100_000]
        .into_iter()
        .flat_map(|size| wrong(&good).into_iter().map(move |bad| (size, bad)))
        .flat_map(|(size, bad)| (0..12).map(move |most| (size, bad.clone(), most)))
    {
        let payload: Vec<u8> = (0..size).map(|at: u32| at as u8).collect();
        let mut header = Header::new(Kind::Publish);
        header.source.set(9);
        header.sequence.set(3);
        header.set_extensions(&good).unwrap();
        let following = |extensions: &[u8]| Rc::from([extensions, &payload].concat());
        let payload_of =
            Changing { good: following(&good), bad: following(&bad), looks: Rc::default(), most };
        let mut item = Item::Message { header, payload: payload_of, at: 0, begun: false };
        let (mut came, mut context_of) = (Vec::new(), None);
        for last in 0.. {
            let mut batch = Batch::new();
            let over = put(&mut item, 32_768, CLUSTER, &mut batch);
            let frame: Vec<u8> = batch.pieces().flatten().copied().collect();
            let header = Header::validate_seeded(&frame, CLUSTER)
                .unwrap_or_else(|error| panic!("the peer refuses it: {error} ({size}, {bad:?}, {most})"));
            let (extensions, bytes) = frame[HEADER_SIZE..].split_at(header.extension_bytes());
            let part = Part::of(Extensions::new(extensions)).unwrap();
            assert_eq!(part.map_or(0, |part| part.offset), came.len() as u64);
            assert_eq!(part.is_some(), size > 32_768, "a part is ours to make");
            if came.is_empty() {
                context_of = Some(Context::read(Extensions::new(extensions)).id());
                let said =
                    Extensions::new(extensions).flatten().any(|it| it.kind() == Some(ExtensionKind::Blank));
                assert_eq!(said, context_of == Some(None));
            }
            came.extend_from_slice(bytes);
            pieces += 1;
            assert!(last < 10);
            if over {
                break;
            }
        }
        assert!(came == payload);
        if context_of == Some(Some(MessageId(7))) { whole += 1 } else { blank += 1 }
    }
    assert!(whole > 0 && blank > 0);
    println!("evidence: changed=180 whole={whole} blank={blank} pieces={pieces}");
}
