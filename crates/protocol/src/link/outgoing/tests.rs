//! What goes out of memory that others write.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

extern crate std;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::println;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use busway_wire::{
    Context, DecodeError, ExtensionKind, Extensions, HEADER_SIZE, Header, Kind, MessageId, Part, Seed,
};

use super::{Item, Way, put};
use crate::batch::Batch;

const CLUSTER: Seed = Seed(7);

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

/// Our own memory, written as the program does that sent it: while it is read.
struct Writer {
    memory: File,
    at: u64,
}

impl Writer {
    fn new(of: &Arc<[u8]>) -> Writer {
        let memory = OpenOptions::new().write(true).open("/proc/self/mem").unwrap();
        Writer { memory, at: of.as_ptr() as u64 }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        self.memory.write_all_at(bytes, self.at + at as u64).unwrap();
    }

    /// Writes these extensions, and another byte at the end of the payload, again and again until nobody is there who sends.
    fn go_on(&self, good: &[u8], wrong: &[Vec<u8>], size: usize, sends: &Receiver<()>) {
        for turn in 0.. {
            if sends.try_recv() == Err(TryRecvError::Disconnected) {
                break;
            }
            self.write(0, &wrong[turn % wrong.len()]);
            self.write(good.len() + size - 1, &[turn as u8]);
            self.write(0, good);
        }
    }
}

/// What a peer read of messages that were changed meanwhile.
#[derive(Debug, Default)]
struct Seen {
    whole: u32,
    blank: u32,
    pieces: u32,
    spoiled: u32,
}

/// Puts out one message and reads it as a peer does.
fn send(header: Header, payload: &Arc<[u8]>, way: Way, seen: &mut Seen) {
    let mut item = Item::Message { header, payload: payload.clone(), at: 0, begun: false, way };
    for piece in 0.. {
        let mut batch = Batch::new();
        let over = put(&mut item, 32_768, CLUSTER, &mut batch);
        let frame: Vec<u8> = batch.pieces().flatten().copied().collect();
        match Header::validate_seeded(&frame, CLUSTER) {
            Ok(_) => {}
            Err(DecodeError::ChecksumPayload) => seen.spoiled += 1,
            Err(error) => panic!("the peer refuses it: {error}"),
        }
        let header = Header::validate_head(&frame, CLUSTER).unwrap();
        let extensions = || Extensions::new(&frame[HEADER_SIZE..HEADER_SIZE + header.extension_bytes()]);
        let part = Part::of(extensions()).unwrap();
        assert_eq!(part.is_some(), payload.len() > 32_768, "a part is ours to make");
        let body = &frame[HEADER_SIZE + header.extension_bytes()..];
        let stays = &body[..body.len() - usize::from(over)];
        assert!(stays.iter().all(|byte| *byte == 5), "what nobody changes goes as it lies there");
        if piece == 0 {
            let said = extensions().flatten().any(|it| it.kind() == Some(ExtensionKind::Blank));
            assert_eq!(said, Context::read(extensions()).id() != Some(MessageId(7)));
            *(if said { &mut seen.blank } else { &mut seen.whole }) += 1;
        }
        seen.pieces += 1;
        assert!(piece < 10);
        if over {
            break;
        }
    }
}

#[test]
fn what_is_changed_while_it_goes_closes_no_link_and_what_was_copied_is_what_was_summed() {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap();
    let context = Context::default().with_id(MessageId(7)).with_trace(trace);
    let mut good = vec![0; context.size()];
    context.write(&mut good);
    let wrong = wrong(&good);
    let (mut all, mut spoiled) = (0, 0);
    for (size, way) in [
        (10, Way::InPlace),
        (2_000, Way::InPlace),
        (5_000, Way::Copied),
        (100_000, Way::Copied),
        (5_000, Way::InPlace),
        (100_000, Way::InPlace),
    ] {
        let mut header = Header::new(Kind::Publish);
        header.source.set(9);
        header.sequence.set(3);
        header.set_extensions(&good).unwrap();
        let payload: Arc<[u8]> = [&good[..], &vec![5; size]].concat().into();
        let writer = Writer::new(&payload);
        let mut seen = Seen::default();
        let holds = size < 4_096 || way == Way::Copied;
        let rounds = if size < 4_096 { 500_000 } else { 5_000 };
        thread::scope(|scope| {
            // Dropped at the end, and where a test fails.
            let (sending, sends) = channel();
            let (writer, good, wrong) = (&writer, &good, &wrong);
            scope.spawn(move || writer.go_on(good, wrong, size, &sends));
            for round in 0..rounds {
                send(header, &payload, way, &mut seen);
                let changed = seen.blank > 100 && seen.whole > 100 && (holds || seen.spoiled > 10);
                if changed && (size > 4_096 || round > 5_000) {
                    break;
                }
            }
            drop(sending);
        });
        assert!(seen.blank > 100 && seen.whole > 100, "{size} bytes, {way:?}: {seen:?}");
        assert_eq!(seen.spoiled > 0, !holds, "{size} bytes, {way:?}: {seen:?}");
        (all, spoiled) = (all + seen.whole + seen.blank, spoiled + seen.spoiled);
    }
    println!("evidence: sent={all} refused=0 summed_before_changed={spoiled}");
}
