//! Futex waits end for the reason they say.

use std::thread;

use super::*;

fn spawn_waker(word: &'static AtomicU32, value: u32) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        word.store(value, Ordering::Release);
        wake_all(word);
    })
}

fn leaked() -> &'static AtomicU32 {
    Box::leak(Box::new(AtomicU32::new(0)))
}

#[test]
fn wait_does_not_sleep_when_the_word_has_moved() {
    let word = AtomicU32::new(7);
    assert_eq!(wait(&word, 6, None), Wake::Changed);
    assert_eq!(wait_any(&[(&word, 7), (&word, 6)], None), Wake::Changed);
}

#[test]
fn wait_ends_when_its_time_is_up() {
    let word = AtomicU32::new(7);
    let slice = Some(Duration::from_millis(3));
    assert_eq!(wait(&word, 7, slice), Wake::TimedOut);
    assert_eq!(wait_any(&[(&word, 7), (&word, 7)], slice), Wake::TimedOut);
    assert_eq!(wait_in_slices(&[(&word, 7), (&word, 7)], Some(Duration::from_millis(25))), Wake::TimedOut);
}

#[test]
fn wake_on_any_word_ends_the_wait_with_and_without_waitv() {
    for waiter in [wait_any, wait_in_slices] {
        let (first, second) = (leaked(), leaked());
        let thread = spawn_waker(second, 1);
        while second.load(Ordering::Acquire) == 0 {
            let wake = waiter(&[(first, 0), (second, 0)], Some(Duration::from_secs(10)));
            assert_ne!(wake, Wake::TimedOut, "the second word's wake-up was lost");
        }
        thread.join().unwrap();
    }
}

#[test]
fn more_words_than_the_kernel_takes_are_cut_and_not_refused() {
    let words: Vec<AtomicU32> = (0..200).map(|_| AtomicU32::new(0)).collect();
    let pairs: Vec<(&AtomicU32, u32)> = words.iter().map(|word| (word, 0)).collect();
    assert_eq!(wait_any(&pairs, Some(Duration::from_millis(2))), Wake::TimedOut);
    assert_eq!(wait_any(&[], Some(Duration::from_secs(10))), Wake::Changed, "no words, nothing to wait for");
}

#[test]
fn absurd_timeouts_are_for_ever_and_not_an_error() {
    let word = leaked();
    let thread = spawn_waker(word, 1);
    while word.load(Ordering::Acquire) == 0 {
        wait(word, 0, Some(Duration::MAX));
    }
    thread.join().unwrap();
    assert_eq!(wait_any(&[(word, 0), (word, 1)], Some(Duration::MAX)), Wake::Changed);
}

#[test]
fn waiting_and_waking_work_on_a_read_only_mapping() {
    use crate::sys::memfd::{self, Mapping};
    let fd = memfd::create_arena("futex", 4096).unwrap();
    let writable: &'static Mapping = Box::leak(Box::new(Mapping::map_rw(&fd, 4096).unwrap()));
    let readable: &'static Mapping = Box::leak(Box::new(Mapping::map_ro(&fd, 4096).unwrap()));
    let ours: &'static AtomicU32 = writable.word_u32(64).unwrap();
    let theirs: &'static AtomicU32 = readable.word_u32(64).unwrap();
    let thread = spawn_waker(ours, 1);
    while theirs.load(Ordering::Acquire) == 0 {
        assert_ne!(wait(theirs, 0, Some(Duration::from_secs(10))), Wake::TimedOut, "the wake-up was lost");
    }
    thread.join().unwrap();
    assert_eq!(wake_all(theirs), 0, "waking through a read-only mapping is allowed");
    let thread = spawn_waker(ours, 2);
    while theirs.load(Ordering::Acquire) == 1 {
        assert_ne!(wait_any(&[(theirs, 1), (theirs, 1)], Some(Duration::from_secs(10))), Wake::TimedOut);
    }
    thread.join().unwrap();
}
