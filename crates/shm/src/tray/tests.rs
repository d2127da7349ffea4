//! What trays promise to readers. One test at a time looks at the blocks that are left: it takes a lock.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::{FIRST, Item, Lay, Tray, left_over};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

#[derive(Debug)]
struct Thing {
    number: u64,
    owned: Option<Arc<()>>,
}

impl Lay for Thing {
    fn clear(&mut self) {
        self.owned = None;
    }
}

fn make() -> Thing {
    Thing { number: 0, owned: None }
}

fn filled(tray: &mut Tray<Thing>, number: u64) -> Item<Thing> {
    let mut item = tray.take(make);
    item.number = number;
    item
}

#[test]
fn no_two_items_lie_in_one_place_whatever_is_kept() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut random = fastrand::Rng::with_seed(7);
    let mut tray = Tray::new();
    let mut kept: Vec<Item<Thing>> = Vec::new();
    for number in 0..20_000 {
        let item = filled(&mut tray, number);
        if random.u32(..4) > 0 && kept.len() < 500 {
            kept.push(item);
        }
        if random.u32(..3) == 0 && !kept.is_empty() {
            kept.swap_remove(random.usize(..kept.len()));
        }
    }
    let places: BTreeSet<*const Thing> = kept.iter().map(|item| std::ptr::from_ref(&**item)).collect();
    assert_eq!(places.len(), kept.len(), "each has its own");
    let numbers: BTreeSet<u64> = kept.iter().map(|item| item.number).collect();
    assert_eq!(numbers.len(), kept.len(), "and nobody wrote into it");
}

#[test]
fn places_are_used_again_and_grow_to_what_is_kept_at_one_time() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut tray = Tray::new();
    for number in 0..1000 {
        drop(filled(&mut tray, number));
    }
    assert_eq!(tray.blocks.len(), 1, "one place would do");
    let kept: Vec<_> = (0..1000).map(|number| filled(&mut tray, number)).collect();
    let made: usize = tray.blocks.iter().map(|block| block.places().len()).sum();
    assert!((1000..=4 * 1000 + FIRST).contains(&made), "{made} places for 1000 items");
    drop(kept);
    for _ in 0..10 {
        let again: Vec<_> = (0..1000).map(|number| filled(&mut tray, number)).collect();
        drop(again);
    }
    let later: usize = tray.blocks.iter().map(|block| block.places().len()).sum();
    assert!(later <= 4 * 1000 + FIRST, "{later} places after ten times 1000 items");
}

#[test]
fn what_an_item_owns_goes_with_it_and_not_with_its_tray() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let owned = Arc::new(());
    let mut tray = Tray::new();
    let mut item = filled(&mut tray, 1);
    item.owned = Some(owned.clone());
    drop(item);
    assert_eq!(Arc::strong_count(&owned), 1);
}

#[test]
fn items_outlive_their_tray_and_its_memory_goes_with_the_last() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = left_over();
    let mut tray = Tray::new();
    let items: Vec<_> = (0..FIRST as u64 * 3).map(|number| filled(&mut tray, number)).collect();
    drop(tray);
    assert!(left_over() > before, "the items' memory stays");
    assert!(items.iter().zip(0..).all(|(item, number)| item.number == number));
    drop(items);
    assert_eq!(left_over(), before, "and goes");
}

#[test]
fn items_are_dropped_on_other_threads_while_their_tray_goes_on() {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let (sender, receiver) = std::sync::mpsc::sync_channel::<(u64, Item<Thing>)>(64);
    let other = std::thread::spawn(move || {
        let mut wrong = 0;
        for (number, item) in receiver {
            wrong += u64::from(item.number != number);
        }
        wrong
    });
    let mut tray = Tray::new();
    let count = if cfg!(miri) { 300 } else { 100_000 };
    for number in 0..count {
        let item = filled(&mut tray, number);
        sender.send((number, item)).expect("the other thread reads until we end");
    }
    drop(tray);
    drop(sender);
    assert_eq!(other.join().expect("it does not panic"), 0, "an item changed under its owner");
}
