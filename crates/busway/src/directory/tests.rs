//! The runtime directory: which are made, which are refused, and with what words.

use super::{Directory, DomainName, Realm, choose};
use crate::control::scratch::Scratch;
use crate::error::{Code, Error};
use rustix::fs::Mode;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn refused(path: &Path, realm: Realm) -> Error {
    let error = Directory::open(path, realm).expect_err("the directory must be refused");
    assert!(!error.cause().is_empty() && !error.place().is_empty() && !error.try_().is_empty(), "{error}");
    error
}

fn mode_of(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn variables_are_tried_in_order_and_empty_ones_do_not_count() {
    let set = |text: &str| Some(OsString::from(text));
    assert_eq!(choose(set("/a"), set("/b"), 7), PathBuf::from("/a"));
    assert_eq!(choose(set(""), set("/b"), 7), PathBuf::from("/b/busway"));
    assert_eq!(choose(None, set("relative"), 7), PathBuf::from("/tmp/busway-7"));
    assert_eq!(choose(None, None, 7), PathBuf::from("/tmp/busway-7"));
}

#[test]
fn a_missing_directory_is_made_for_its_owner_alone() {
    let scratch = Scratch::new();
    let path = scratch.path().join("run");
    let directory = Directory::open(&path, Realm::User).unwrap();
    assert_eq!(mode_of(&path), 0o700);
    assert_eq!(directory.path, path);
    Directory::open(&path, Realm::User).expect("a second process opens what the first made");
}

#[test]
fn a_directory_that_others_may_enter_is_refused() {
    let scratch = Scratch::new();
    let path = scratch.path().join("run");
    std::fs::create_dir(&path).unwrap();
    for mode in [0o755, 0o770, 0o701, 0o1700, 0o500] {
        rustix::fs::chmod(&path, Mode::from_raw_mode(mode)).unwrap();
        assert_eq!(refused(&path, Realm::User).code(), Code::DirectoryMode, "mode {mode:o}");
    }
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    // The root directory belongs to root; where the test runs as root, a directory is given away instead.
    let scratch = Scratch::new();
    let path = scratch.path().join("run");
    std::fs::create_dir(&path).unwrap();
    let path = if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
        path
    } else {
        PathBuf::from("/")
    };
    assert_eq!(refused(&path, Realm::User).code(), Code::DirectoryOwner);
}

#[test]
fn a_link_is_refused_also_with_a_closing_slash() {
    let scratch = Scratch::new();
    let (real, link) = (scratch.path().join("real"), scratch.path().join("link"));
    Directory::open(&real, Realm::User).unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let slashed = PathBuf::from(format!("{}/", link.display()));
    for path in [&link, &slashed, &slashed.join(".")] {
        let error = refused(path, Realm::User);
        assert_eq!(error.code(), Code::DirectoryKind);
        assert!(error.cause().contains("symbolic link"), "{error}");
    }
}

#[test]
fn a_file_in_its_place_and_a_missing_parent_are_refused() {
    let scratch = Scratch::new();
    let file = scratch.path().join("file");
    std::fs::write(&file, b"").unwrap();
    assert_eq!(refused(&file, Realm::User).code(), Code::DirectoryKind);
    assert_eq!(refused(&scratch.path().join("no/run"), Realm::User).code(), Code::DirectoryUnusable);
}

#[test]
fn a_group_realm_wants_2770_of_its_group() {
    let scratch = Scratch::new();
    let gid = rustix::process::getegid().as_raw();
    let path = scratch.path().join("run");
    Directory::open(&path, Realm::Group(gid)).unwrap();
    assert_eq!(mode_of(&path), 0o2770);
    assert_eq!(refused(&path, Realm::User).code(), Code::DirectoryMode);
    assert_eq!(refused(&path, Realm::Group(gid + 1)).code(), Code::DirectoryOwner);
    rustix::fs::chmod(&path, Mode::from_raw_mode(0o770)).unwrap();
    assert_eq!(refused(&path, Realm::Group(gid)).code(), Code::DirectoryMode);
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1, "no half-made directory is left");
}

#[test]
fn groups_are_found_by_name_and_number() {
    assert_eq!(Realm::group("root").unwrap(), Realm::Group(0));
    assert_eq!(Realm::group("77").unwrap(), Realm::Group(77));
    assert_eq!(Realm::group("no such group").unwrap_err().code(), Code::RealmUnknown);
}

#[test]
fn an_address_is_short_however_long_the_path() {
    let scratch = Scratch::new();
    let mut path = scratch.path().to_owned();
    for _ in 0..3 {
        path.push("x".repeat(100));
        std::fs::create_dir(&path).unwrap();
    }
    let directory = Directory::open(&path.join("run"), Realm::User).unwrap();
    let name = DomainName::new(&"d".repeat(64)).unwrap();
    let address = directory.address_of(&name.socket_new()).unwrap();
    assert!(address.as_os_str().len() < 108, "{}", address.display());
    assert!(directory.path_of(&name.socket()).starts_with(&path));
}

#[test]
fn names_of_domains_are_one_visible_file_name() {
    for good in ["default", "a", "A.b_c-9", &"x".repeat(64)] {
        assert_eq!(DomainName::new(good).unwrap().to_string(), good);
    }
    let long = "x".repeat(65);
    let huge = "\u{1F980}".repeat(100_000);
    for bad in ["", ".", "..", ".hidden", "a/b", "/etc", "a%2fb/", "a b", "a\0b", "a\nb", "é", &long, &huge]
    {
        let error = DomainName::new(bad).expect_err(bad);
        assert_eq!(error.code(), Code::BadDomain);
        assert!(error.to_string().len() < 1_000, "the error stays short");
    }
}

#[test]
fn many_who_make_a_directory_for_a_group_at_once_all_have_it() {
    let scratch = Scratch::new();
    let gid = rustix::process::getegid().as_raw();
    for round in 0..100 {
        let path = scratch.path().join(format!("run-{round}"));
        // As the first processes of containers, these have one number and so one name for what is half made.
        let start = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    start.wait();
                    Directory::open(&path, Realm::Group(gid)).expect("whoever made it");
                });
            }
        });
        assert_eq!(mode_of(&path), 0o2770);
    }
    let left = std::fs::read_dir(scratch.path()).unwrap().count();
    assert_eq!(left, 100, "nothing half made stays");
}
