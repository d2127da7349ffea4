//! The directory of sockets and locks: wrong modes, links and files are refused; a clean end leaves the lock alone.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::harness::{Place, names};

#[test]
fn a_directory_that_others_may_enter_is_refused() {
    for mode in [0o755, 0o777, 0o1777, 0o770] {
        let place = Place::new();
        fs::create_dir(place.bus_directory()).expect("a directory");
        fs::set_permissions(place.bus_directory(), fs::Permissions::from_mode(mode)).expect("a mode");
        let ended = place.run(&["pub", "x", "y"]).expect(3);
        let (code, _, at, remedy) = ended.report();
        assert!(code.starts_with("BUS-02"), "{mode:o}: {code}");
        assert!(at.contains("bus") && !remedy.is_empty(), "{mode:o}: {at}");
        let ended = place.run(&["doctor"]).expect(1);
        assert!(ended.text().contains("chmod 0700"), "{}", ended.text());
    }
}

#[test]
fn a_link_or_a_file_in_place_of_the_directory_is_refused() {
    let place = Place::new();
    symlink(place.temporary(), place.bus_directory()).expect("a link");
    assert!(place.run(&["pub", "x", "y"]).expect(3).report().0.starts_with("BUS-02"));
    assert!(names(&place.temporary()).is_empty(), "nothing is made behind the link");
    fs::remove_file(place.bus_directory()).expect("the link goes");
    fs::write(place.bus_directory(), "").expect("a file");
    assert!(place.run(&["pub", "x", "y"]).expect(3).report().0.starts_with("BUS-02"));
}

#[test]
fn a_clean_end_leaves_only_the_empty_lock() {
    let place = Place::new();
    let subscriber = place.subscribe(&["x", "--count", "1", "--reliable"]);
    place.run(&["pub", "x", "y", "--wait"]).expect(0);
    subscriber.finish().expect(0);
    assert_eq!(names(&place.bus_directory()), ["default.lock"]);
    let lock = fs::read(place.bus_directory().join("default.lock")).expect("the lock can be read");
    assert!(lock.is_empty(), "{lock:?}");
}
