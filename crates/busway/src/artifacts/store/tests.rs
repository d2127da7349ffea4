//! What is got from a store is what was put there, whatever has happened to its files.
#![expect(clippy::print_stdout, reason = "the evidence of a row is what its test prints")]

use std::io::Read;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use busway_protocol::artifact::{Full, Name, Store as _, TopicHash, pieces};
use busway_protocol::gossip::{ArtifactId, Part};
use busway_shm::clock::Deadline;

use crate::artifacts::store::{Imported, Lease, Shelf, Store, StoreConfig};
use crate::error::{Code, Error};

const SIZE: usize = 300_000;
/// Bytes of its first piece.
const PIECE: usize = pieces::piece_bytes(SIZE as u64) as usize;
/// How many it has.
const PIECES: u32 = SIZE.div_ceil(PIECE) as u32;

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let name = format!("busway-store-{}-{:x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path).unwrap();
        Self(path)
    }

    fn store(&self, bytes_max: u64) -> Arc<Store> {
        self.try_store(bytes_max).unwrap()
    }

    fn try_store(&self, bytes_max: u64) -> Result<Arc<Store>, Error> {
        Store::open(&StoreConfig { directory: Some(self.0.clone()), bytes_max, ..StoreConfig::default() })
    }

    fn file(&self, name: Name) -> PathBuf {
        self.0.join(super::disk::file_name(name))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn body(seed: u64, size: usize) -> Vec<u8> {
    let mut body = vec![0; size];
    fastrand::Rng::with_seed(seed).fill(&mut body);
    body
}

/// The topic of all but what is said otherwise.
fn topic() -> TopicHash {
    TopicHash::of(&busway_wire::Topic::new("block.new").unwrap())
}

fn name(body: &[u8]) -> Name {
    Name { id: ArtifactId::of(body), size: body.len() as u64, topic: topic() }
}

fn import(store: &Arc<Store>, body: &[u8]) -> Result<Lease, Error> {
    match store.import_sized(topic(), &mut &body[..], body.len() as u64)? {
        Imported::Stored(lease) => Ok(lease),
        Imported::Small(_) => panic!("it is large"),
    }
}

/// All of it that can be read now.
fn read(lease: &Lease) -> Result<Vec<u8>, Error> {
    let (mut all, mut part) = (Vec::new(), vec![0; 70_001]);
    loop {
        match lease.read_at(all.len() as u64, &mut part, Deadline::after(Duration::ZERO))? {
            0 => return Ok(all),
            count => all.extend_from_slice(&part[..count]),
        }
    }
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

#[test]
fn what_was_stored_is_there_when_the_store_is_opened_again_and_no_part_of_it_that_was_not() {
    let directory = Directory::new();
    let (whole, part) = (body(1, SIZE), body(2, SIZE));
    let (id, other) = (name(&whole), name(&part));
    {
        let store = directory.store(1 << 20);
        drop(import(&store, &whole).unwrap());
        let mut shelf = Shelf(store);
        shelf.open(other).unwrap();
        shelf.put(other, Part::Tree, pieces::tree(&part).into()).unwrap();
        let (offset, bytes) = pieces::place(SIZE as u64, 3).unwrap();
        let third = &part[offset as usize..(offset + bytes) as usize];
        shelf.put(other, Part::Piece { index: 3 }, third.into()).unwrap();
        assert_eq!(directory.try_store(1).unwrap_err().code(), Code::StoreUnusable, "two have it");
    }
    let mut shelf = Shelf(directory.store(1 << 20));
    shelf.open(id).unwrap();
    shelf.open(other).unwrap();
    assert!(read(&shelf.0.lease(id).unwrap()).unwrap() == whole);
    let count = pieces::count(SIZE as u64);
    let here: Vec<u32> = (0..count).filter(|index| shelf.has(other, Part::Piece { index: *index })).collect();
    assert_eq!((here, shelf.has(other, Part::Tree)), (vec![3], true));
    // As FORMAT.md has it.
    let file = std::fs::read(directory.file(id)).unwrap();
    let marks = 64 + 32 * count as usize;
    assert_eq!(file[..24], [&b"BUSWAYAF"[..], &1_u64.to_le_bytes(), &(SIZE as u64).to_le_bytes()].concat());
    assert_eq!((&file[24..56], &file[56..64]), (&id.id.0[..], &[0; 8][..]));
    assert!(
        file[64..marks] == pieces::tree(&whole)
            && file[marks..marks + count as usize] == [1; PIECES as usize]
    );
    assert!(file[4_096..] == whole);
    println!("evidence: whole={SIZE} part=1/{count}");
}

#[test]
fn what_lies_here_of_one_topic_is_nothing_for_another_also_when_the_store_is_opened_again() {
    let directory = Directory::new();
    let whole = body(1, SIZE);
    let secret = name(&whole);
    let public = Name { topic: TopicHash::of(&busway_wire::Topic::new("block.public").unwrap()), ..secret };
    let parts = || (0..pieces::count(SIZE as u64)).map(|index| Part::Piece { index }).chain([Part::Tree]);
    for round in 0..2 {
        let mut shelf = Shelf(directory.store(1 << 20));
        if round == 0 {
            drop(import(&shelf.0, &whole).unwrap());
        }
        shelf.open(secret).unwrap();
        shelf.open(public).unwrap();
        for part in parts() {
            assert!(shelf.has(secret, part) && shelf.get(secret, part).is_some());
            assert!(!shelf.has(public, part) && shelf.get(public, part).is_none(), "{part:?}");
        }
        shelf.forget(public);
        assert!(read(&shelf.0.lease(secret).unwrap()).unwrap() == whole, "and takes nothing from it");
    }
    println!("evidence: opened=2 shown_on_the_other_topic=0");
}

#[test]
fn whatever_is_changed_in_its_files_no_other_byte_is_ever_read_of_an_artifact() {
    let whole = body(1, SIZE);
    let id = name(&whole);
    let mut random = fastrand::Rng::with_seed(11);
    let (mut refused, mut sound) = (0, 0);
    for round in 0..400 {
        let directory = Directory::new();
        drop(import(&directory.store(1 << 20), &whole).unwrap());
        let path = directory.file(id);
        let len = std::fs::metadata(&path).unwrap().len();
        let at = if round % 2 == 0 { random.u64(..300) } else { random.u64(..len) };
        match round % 5 {
            0 => std::fs::File::options().write(true).open(&path).unwrap().set_len(at).unwrap(),
            1 => overwrite(&path, at, &[0; 5_000]),
            _ => overwrite(&path, at, &[random.u8(..)]),
        }
        let mut shelf = Shelf(directory.store(1 << 20));
        shelf.open(id).unwrap();
        for index in 0..pieces::count(SIZE as u64) {
            let (offset, bytes) = pieces::place(SIZE as u64, index).unwrap();
            let right = &whole[offset as usize..(offset + bytes) as usize];
            let said = shelf.has(id, Part::Piece { index });
            assert_eq!(said, shelf.get(id, Part::Piece { index }).is_some(), "what is not right is not here");
            match shelf.get(id, Part::Piece { index }) {
                Some(piece) => {
                    assert!(piece[..] == *right, "round {round}");
                    sound += 1;
                }
                None => refused += 1,
            }
            // It comes again, and is there.
            if !shelf.has(id, Part::Tree) {
                shelf.put(id, Part::Tree, pieces::tree(&whole).into()).unwrap();
            }
            shelf.put(id, Part::Piece { index }, right.into()).unwrap();
            assert!(shelf.get(id, Part::Piece { index }).unwrap()[..] == *right, "round {round}");
        }
        assert!(read(&shelf.0.lease(id).unwrap()).unwrap() == whole);
    }
    assert!(refused > 0 && sound > 0);
    println!("evidence: changed=400 pieces_refused={refused} pieces_sound={sound} wrong=0");
}

#[test]
fn who_says_another_size_of_an_artifact_takes_nothing_from_it() {
    let directory = Directory::new();
    let whole = body(1, SIZE);
    let (true_name, lie) = (name(&whole), Name { size: SIZE as u64 + 1, ..name(&whole) });
    for disk in [true, false] {
        let config = StoreConfig { directory: disk.then(|| directory.0.clone()), ..StoreConfig::default() };
        let mut shelf = Shelf(Store::open(&config).unwrap());
        shelf.open(lie).unwrap();
        let held = import(&shelf.0, &whole).unwrap();
        shelf.open(lie).unwrap();
        shelf.open(true_name).unwrap();
        assert!(read(&held).unwrap() == whole);
        shelf.forget(lie);
        assert!(read(&held).unwrap() == whole && shelf.has(true_name, Part::Tree));
    }
}

#[test]
fn however_many_artifacts_are_needed_few_files_are_open() {
    const COUNT: u64 = 150;
    let directory = Directory::new();
    let store = directory.store(1 << 30);
    let mut shelf = Shelf(store.clone());
    let bodies: Vec<Vec<u8>> = (0..COUNT).map(|seed| body(seed, 262_145)).collect();
    let held: Vec<Lease> = bodies.iter().map(|body| import(&store, body).unwrap()).collect();
    bodies.iter().for_each(|body| shelf.open(name(body)).unwrap());
    for (held, body) in held.iter().zip(&bodies) {
        assert!(read(held).unwrap() == *body);
    }
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let path = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
    let open = open.filter_map(path).filter(|path| path.starts_with(&directory.0)).count();
    // The lock, and one that is in use.
    assert!(open <= 66, "{open}");
    println!("evidence: needed={COUNT} open={open}");
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new();
    std::fs::set_permissions(&directory.0, std::fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(directory.try_store(1).unwrap_err().code(), Code::StoreUnusable);
}

#[test]
fn what_is_of_another_form_in_the_directory_is_left_alone() {
    let directory = Directory::new();
    let foreign = |byte| Name { id: ArtifactId([byte; 32]), size: SIZE as u64, topic: topic() };
    let id = foreign(3);
    let target = directory.0.join("target");
    std::fs::write(&target, b"mine").unwrap();
    std::fs::write(directory.0.join("README"), b"mine").unwrap();
    std::fs::write(directory.file(id), b"BUSWAYAF of somebody else").unwrap();
    std::os::unix::fs::symlink(&target, directory.file(foreign(1))).unwrap();
    std::fs::create_dir(directory.file(foreign(2))).unwrap();
    std::fs::write(directory.0.join("unfinished-thesis"), b"mine").unwrap();
    let killed = directory.0.join("unfinished-0123456789abcdef");
    std::fs::write(&killed, b"of a node that was killed").unwrap();
    let store = directory.store(1);
    assert_eq!(store.counts(), (0, 0));
    drop(store);
    let mut names: Vec<_> =
        std::fs::read_dir(&directory.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!((names.len(), killed.exists()), (7, false), "{names:?}");
    assert_eq!(std::fs::read(&target).unwrap(), b"mine");
}

#[test]
fn where_there_is_no_room_the_oldest_goes_that_nobody_needs_and_nothing_that_somebody_does() {
    let directory = Directory::new();
    // Three of them, and a little.
    let room = 3 * (SIZE as u64 + 1_000);
    for disk in [true, false] {
        let config = StoreConfig {
            directory: disk.then(|| directory.0.clone()),
            bytes_max: room,
            ..StoreConfig::default()
        };
        let store = Store::open(&config).unwrap();
        let bodies: Vec<Vec<u8>> = (0..6).map(|seed| body(seed, SIZE)).collect();
        let ids: Vec<Name> = bodies.iter().map(|body| name(body)).collect();
        let first = import(&store, &bodies[0]).unwrap();
        let mut shelf = Shelf(store.clone());
        shelf.open(ids[1]).unwrap();
        shelf.put(ids[1], Part::Tree, pieces::tree(&bodies[1]).into()).unwrap();
        shelf.put(ids[1], Part::Piece { index: 0 }, bodies[1][..PIECE].into()).unwrap();
        drop(import(&store, &bodies[2]).unwrap());
        drop(import(&store, &bodies[3]).unwrap());
        assert!(!directory.file(ids[2]).exists(), "it was the oldest that nobody needs");
        assert_eq!(directory.file(ids[3]).exists(), disk, "what nobody needs leaves memory at once");
        let fourth = import(&store, &bodies[4]).unwrap();
        assert_eq!(import(&store, &bodies[5]).unwrap_err().code(), Code::Full);
        assert_eq!(shelf.open(ids[5]), Err(Full));
        assert!(read(&first).unwrap() == bodies[0] && read(&fourth).unwrap() == bodies[4]);
        drop(first);
        drop(import(&store, &bodies[5]).unwrap());
        shelf.forget(ids[1]);
        drop(fourth);
        assert!(store.counts().1 <= if disk { room } else { 0 });
        drop((store, shelf));
        // A smaller one begins with the youngest, by the files' clock, which may stand still for some milliseconds.
        for older in ids[..5].iter().filter(|id| directory.file(**id).exists()) {
            let file = std::fs::File::options().write(true).open(directory.file(*older)).unwrap();
            file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        }
        let small = Store::open(&StoreConfig { bytes_max: SIZE as u64 + 1_000, ..config }).unwrap();
        assert_eq!(directory.file(ids[5]).exists(), disk);
        drop(small);
        let _ = std::fs::remove_file(directory.file(ids[5]));
    }
}

#[test]
fn what_is_offered_here_has_room_before_what_was_only_told_of() {
    let directory = Directory::new();
    for disk in [true, false] {
        let config = StoreConfig {
            directory: disk.then(|| directory.0.clone()),
            bytes_max: SIZE as u64 + 10_000,
            ..StoreConfig::default()
        };
        let store = Store::open(&config).unwrap();
        let mut shelf = Shelf(store.clone());
        let (told, own) = (body(1, SIZE), body(2, SIZE));
        shelf.open(name(&told)).unwrap();
        shelf.put(name(&told), Part::Tree, pieces::tree(&told).into()).unwrap();
        let held = import(&store, &own).unwrap();
        assert!(read(&held).unwrap() == own);
        let piece = Part::Piece { index: 0 };
        assert_eq!(shelf.put(name(&told), piece, told[..PIECE].into()), Err(Full));
        drop(held);
        // Of what comes nothing is taken.
        shelf.open(name(&told)).unwrap();
        shelf.put(name(&told), Part::Tree, pieces::tree(&told).into()).unwrap();
        shelf.put(name(&told), piece, told[..PIECE].into()).unwrap();
        assert_eq!(import(&store, &own).unwrap_err().code(), Code::Full);
        assert!(shelf.get(name(&told), piece).unwrap()[..] == told[..PIECE]);
    }
}

#[test]
fn a_disk_that_fails_is_an_error_with_a_code_and_leaves_nothing_behind() {
    let directory = Directory::new();
    let whole = body(1, SIZE);
    let id = name(&whole);
    let store = directory.store(1 << 20);
    let mut shelf = Shelf(store.clone());
    // A reader that fails, or ends too early, offers nothing.
    let short = store.import_sized(topic(), &mut &whole[..SIZE - 1], SIZE as u64).unwrap_err();
    assert_eq!(short.code(), Code::StoreUnusable);
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            if buf.is_empty() { Ok(0) } else { Err(std::io::Error::other("it is meant to")) }
        }
    }
    let fails = std::io::Read::chain(std::io::Cursor::new(whole.clone()), Fails);
    assert_eq!(store.import(topic(), fails).unwrap_err().code(), Code::StoreUnusable);
    assert_eq!(std::fs::read_dir(&directory.0).unwrap().count(), 1, "only its lock");
    // The directory goes away under it.
    std::fs::remove_dir_all(&directory.0).unwrap();
    assert_eq!(import(&store, &whole).unwrap_err().code(), Code::StoreUnusable);
    shelf.open(id).unwrap();
    assert_eq!(shelf.put(id, Part::Tree, pieces::tree(&whole).into()), Err(Full));
    assert_eq!(shelf.put(id, Part::Piece { index: 0 }, whole[..PIECE].into()), Err(Full));
    assert_eq!(shelf.get(id, Part::Piece { index: 0 }), None);
    shelf.forget(id);
    assert_eq!(store.counts(), (0, 0));
    // And where it cannot be made at all.
    let file = Directory::new();
    std::fs::write(file.0.join("file"), b"").unwrap();
    for path in [file.0.join("file"), file.0.join("none/below"), PathBuf::from("/proc/none")] {
        let config = StoreConfig { directory: Some(path), bytes_max: 1, ..StoreConfig::default() };
        assert_eq!(Store::open(&config).unwrap_err().code(), Code::StoreUnusable);
    }
}

#[test]
fn a_node_that_has_ended_leaves_its_directory_to_the_next_though_its_artifacts_are_in_hand() {
    let directory = Directory::new();
    let (whole, other) = (body(1, SIZE), body(2, SIZE));
    let store = directory.store(1 << 20);
    let held = import(&store, &whole).unwrap();
    assert_eq!(directory.try_store(1 << 20).unwrap_err().code(), Code::StoreUnusable);
    // Who removes its file lets nobody in.
    std::fs::remove_file(directory.0.join("lock")).unwrap();
    assert_eq!(directory.try_store(1 << 20).unwrap_err().code(), Code::StoreUnusable);
    store.end();
    let next = directory.store(1 << 20);
    let mut shelf = Shelf(next.clone());
    shelf.open(name(&whole)).unwrap();
    assert!(read(&held).unwrap() == whole);
    // What has ended changes nothing there any more.
    assert_eq!(import(&store, &other).unwrap_err().code(), Code::Closed);
    drop((held, store));
    assert!(directory.file(name(&whole)).exists() && !directory.file(name(&other)).exists());
    assert!(read(&next.lease(name(&whole)).unwrap()).unwrap() == whole);
    println!("evidence: in_hand=1 taken_over=1");
}

#[test]
fn who_gives_or_takes_the_name_of_a_file_holds_up_nobody_who_reads() {
    let directory = Directory::new();
    let store = directory.store(3 * (SIZE as u64 + 1_000));
    let bodies: Vec<Vec<u8>> = (0..3).map(|seed| body(seed, SIZE)).collect();
    let held = import(&store, &bodies[0]).unwrap();
    drop(import(&store, &bodies[1]).unwrap());
    drop(import(&store, &bodies[2]).unwrap());
    // As long as the kernel takes to remove a file of some GiB.
    let names = store.disk.as_ref().unwrap().names();
    let mut shelf = Shelf(store.clone());
    for seed in 10..12 {
        shelf.open(name(&body(seed, SIZE))).unwrap();
    }
    assert!(read(&held).unwrap() == bodies[0] && store.counts().1 > 0);
    drop(held.clone());
    assert!(directory.file(name(&bodies[1])).exists(), "it is removed by who is about it");
    drop(names);
    drop(held.clone());
    assert!(!directory.file(name(&bodies[1])).exists() && !directory.file(name(&bodies[2])).exists());
    println!("evidence: opened=2 read=1 while one was about names");
}

#[test]
fn what_nobody_needs_is_known_whatever_is_done_to_it() {
    for (seed, disk) in (0..20).map(|seed| (seed, seed % 2 == 0)) {
        let directory = Directory::new();
        let bytes_max = 4 * (SIZE as u64 + 1_000);
        let config =
            StoreConfig { directory: disk.then(|| directory.0.clone()), bytes_max, ..StoreConfig::default() };
        let store = Store::open(&config).unwrap();
        let (mut shelf, mut held) = (Shelf(store.clone()), Vec::new());
        let bodies: Vec<Vec<u8>> = (0..8).map(|seed| body(seed, SIZE)).collect();
        let mut random = fastrand::Rng::with_seed(seed);
        for _ in 0..60 {
            let body = &bodies[random.usize(..bodies.len())];
            match random.u32(..6) {
                0 => held.extend(import(&store, body)),
                1 => held.extend(store.lease(name(body))),
                2 if !held.is_empty() => drop(held.swap_remove(random.usize(..held.len()))),
                3 => drop(shelf.open(name(body))),
                4 => drop(shelf.put(name(body), Part::Tree, pieces::tree(body).into())),
                _ => shelf.forget(name(body)),
            }
            let state = crate::ports::lock(&store.state);
            let free = state.kept.iter().filter(|(_, kept)| kept.is_free());
            let free: Vec<_> = free.map(|(name, kept)| (kept.used, *name)).collect();
            let cost = |name: &Name| super::cost(name.size);
            assert_eq!(state.free.len(), free.len(), "seed {seed}");
            assert!(free.iter().all(|free| state.free.contains(free)), "seed {seed}");
            assert_eq!(state.free_bytes, free.iter().map(|(_, name)| cost(name)).sum::<u64>());
            assert_eq!(state.bytes, state.kept.keys().map(cost).sum::<u64>());
            assert!(state.bytes <= bytes_max && state.trash.is_empty() && state.doomed.is_empty());
        }
    }
    println!("evidence: worlds=20 steps=1200");
}

/// In a mount namespace of its own, with 2 MiB there.
fn on_a_full_disk(path: PathBuf) {
    let directory = Directory(path);
    let store = directory.store(1 << 30);
    let bodies: Vec<Vec<u8>> = (0..9).map(|seed| body(seed, SIZE)).collect();
    // What nobody needs makes room for what is offered, though there is plenty by the store's own count.
    for body in &bodies {
        drop(import(&store, body).unwrap());
    }
    let there = |body: &Vec<u8>| directory.file(name(body)).exists();
    let kept = bodies.iter().filter(|body| there(body)).count();
    assert!(kept > 0 && kept < bodies.len(), "{kept}");
    let mut held: Vec<Lease> = Vec::new();
    let refused = loop {
        match import(&store, &body(100 + held.len() as u64, SIZE)) {
            Ok(lease) => held.push(lease),
            Err(error) => break error,
        }
    };
    assert_eq!(refused.code(), Code::StoreUnusable, "{refused}");
    assert!(!bodies.iter().any(there), "nothing is there that nobody needs");
    // Of what comes nothing is believed to be here that is not.
    let mut shelf = Shelf(store.clone());
    let come = &bodies[0];
    shelf.open(name(come)).unwrap();
    let put = |shelf: &mut Shelf, index: u32| {
        let (offset, bytes) = pieces::place(SIZE as u64, index).unwrap();
        let piece = &come[offset as usize..(offset + bytes) as usize];
        shelf.put(name(come), Part::Piece { index }, piece.into()).is_ok()
    };
    let tree = |shelf: &mut Shelf| shelf.put(name(come), Part::Tree, pieces::tree(come).into()).is_ok();
    let _ = tree(&mut shelf);
    let came: Vec<bool> = (0..PIECES).map(|index| put(&mut shelf, index)).collect();
    assert!(came.contains(&false), "{came:?}");
    assert!((0..PIECES).all(|index| shelf.has(name(come), Part::Piece { index }) == came[index as usize]));
    for (lease, seed) in held.iter().zip(100..) {
        assert!(read(lease).unwrap() == body(seed, SIZE));
    }
    let count = held.len();
    held.pop();
    assert!(tree(&mut shelf) && (0..PIECES).all(|index| put(&mut shelf, index)));
    assert!(read(&store.lease(name(come)).unwrap()).unwrap() == *come);
    println!("evidence: disk_kib=2048 artifacts={} in_hand={count} wrong=0", bodies.len() + count);
}

#[test]
fn on_a_disk_that_is_full_what_nobody_needs_makes_room_and_nothing_wrong_is_read() {
    const DIRECTORY: &str = "BUSWAY_STORE_ON_A_FULL_DISK";
    if let Some(path) = std::env::var_os(DIRECTORY) {
        return on_a_full_disk(path.into());
    }
    let directory = Directory::new();
    let mount = "mount -t tmpfs -o size=2m,mode=700 none \"$1\" || exit 77; shift; exec \"$@\"";
    let this = std::env::current_exe().unwrap();
    let test = std::thread::current().name().expect("a test has a name").to_owned();
    let child = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh"])
        .arg(&directory.0)
        .arg(this)
        .args(["--exact", &test, "--nocapture"])
        .env(DIRECTORY, &directory.0)
        .output();
    let Ok(child) = child else { return println!("skipped: there is no unshare") };
    let said = String::from_utf8_lossy(&child.stdout);
    if !said.contains("running 1 test") {
        return println!("skipped: no file system can be mounted here");
    }
    assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
    println!(
        "{}",
        said.lines().find(|line| line.starts_with("evidence")).expect("it says what it has shown")
    );
}
