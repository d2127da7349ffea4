//! Where a reader lays what it hands out: places that are used again and again.
//!
//! What is handed out is as small as a pointer, so that a user moves it about for nothing, and is not counted: each place
//! has a flag that the tray raises and the item lowers by one plain store. An item may go to another thread and outlive
//! its tray. The memory of a tray that is gone while items are left is kept aside, and freed when it is looked at again:
//! at the latest when twice as much has been put there.
//!
//! It does not know messages. It never shrinks: it has as many places as were in use at one time, rounded up.
//!
//! Invariant: a place that is not taken is touched by its tray only, a taken one by its item only, whose last access is
//! the store that lowers the flag. Places are freed when their tray is gone and none of them is taken.

use std::cell::UnsafeCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Mutex, PoisonError};

use crate::sync::{AtomicU32, Ordering};

/// Places of a new tray: of ten thousand, most are never asked for more than one item at a time.
const FIRST: usize = 4;

/// What lies on a tray.
pub trait Lay: Send + Sync + 'static {
    /// Lets go of what must not stay when the item is dropped.
    fn clear(&mut self);
}

struct Place<T> {
    taken: AtomicU32,
    value: UnsafeCell<T>,
}

/// Places that were made together, freed by hand because items point into them.
struct Block<T> {
    places: NonNull<[Place<T>]>,
}

// SAFETY: a block alone gives access to the flags only; the values are reached through items, of which each is the only
// one of its place. What moves between threads with them is `T`, which is `Send`.
unsafe impl<T: Send> Send for Block<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Block<T> {}

impl<T> Block<T> {
    fn new(places: usize, make: impl Fn() -> T) -> Self {
        let place = || Place { taken: AtomicU32::new(0), value: UnsafeCell::new(make()) };
        let places: Box<[Place<T>]> = (0..places).map(|_| place()).collect();
        Self { places: NonNull::from(Box::leak(places)) }
    }

    fn places(&self) -> &[Place<T>] {
        // SAFETY: leaked in `new` and taken back only in `drop`; through this reference only flags are touched.
        unsafe { self.places.as_ref() }
    }
}

impl<T> Drop for Block<T> {
    fn drop(&mut self) {
        if self.places().iter().all(Place::is_free) {
            // SAFETY: leaked in `new`, and this is the only drop. Nobody has an item of it: none of the places is taken,
            // and the tray, which alone takes, is gone.
            drop(unsafe { Box::from_raw(self.places.as_ptr()) });
        }
        // Else the memory is given up: this only happens to blocks that nobody could look at again.
    }
}

impl<T> Place<T> {
    #[inline]
    fn is_free(&self) -> bool {
        self.taken.load(Ordering::Acquire) == 0 // pairs with Release in `Item::drop`
    }
}

/// A block whose tray is gone.
trait Left: Send {
    fn is_free(&self) -> bool;
}

impl<T: Lay> Left for Block<T> {
    fn is_free(&self) -> bool {
        self.places().iter().all(Place::is_free)
    }
}

/// Blocks whose trays are gone and whose items were not when they were looked at last.
struct LeftOver {
    blocks: Vec<Box<dyn Left>>,
    /// At so many blocks all are looked at: at twice those that were there after the last look, so that who drops ten
    /// thousand trays does not look at all blocks for each.
    look_at: usize,
}

static LEFT_OVER: Mutex<LeftOver> = Mutex::new(LeftOver { blocks: Vec::new(), look_at: 0 });

impl LeftOver {
    fn add(&mut self, block: Box<dyn Left>) {
        self.blocks.push(block);
        if self.blocks.len() >= self.look_at {
            self.look();
        }
    }

    /// Frees the blocks that are free by now.
    fn look(&mut self) {
        self.blocks.retain(|block| !block.is_free());
        self.look_at = (2 * self.blocks.len()).max(16);
    }
}

/// Frees what was left over by trays that are gone and is free by now; returns how many blocks are kept for their items.
pub fn left_over() -> usize {
    let mut left = LEFT_OVER.lock().unwrap_or_else(PoisonError::into_inner);
    left.look();
    left.blocks.len()
}

/// Gives out items. Belongs to one thread at a time.
pub struct Tray<T: Lay> {
    blocks: Vec<Block<T>>,
    free: Vec<NonNull<Place<T>>>,
    last: Option<NonNull<Place<T>>>,
}

// SAFETY: the pointers point into `blocks`, and are used by whoever has the tray.
unsafe impl<T: Lay> Send for Tray<T> {}
// SAFETY: nothing can be done with a shared tray.
unsafe impl<T: Lay> Sync for Tray<T> {}

impl<T: Lay> Tray<T> {
    /// A tray without places: the first are made when an item is taken.
    pub fn new() -> Self {
        Self { blocks: Vec::new(), free: Vec::new(), last: None }
    }

    /// Takes an item, which is what it was when it was last dropped and cleared, or is new.
    #[inline]
    pub fn take(&mut self, make: impl Fn() -> T) -> Item<T> {
        let place = match self.last {
            // The one that was taken last is most likely free again, and in the nearest cache.
            // SAFETY: it points into a block, and these live as long as the tray.
            Some(last) if unsafe { last.as_ref() }.is_free() => last,
            _ => self.other(make),
        };
        self.last = Some(place);
        // SAFETY: as above. Relaxed: who takes the item to another thread orders this by that.
        unsafe { place.as_ref() }.taken.store(1, Ordering::Relaxed);
        Item { place }
    }

    fn other(&mut self, make: impl Fn() -> T) -> NonNull<Place<T>> {
        loop {
            if let Some(place) = self.free.pop() {
                // SAFETY: it points into a block. It may be the one that was taken last, and taken since.
                if unsafe { place.as_ref() }.is_free() {
                    return place;
                }
            } else {
                self.find(&make);
            }
        }
    }

    /// Looks for free places. Unless half of all are free as many again are made, so that a look costs little for each
    /// item whatever is kept.
    #[cold]
    fn find(&mut self, make: &impl Fn() -> T) {
        let all: usize = self.blocks.iter().map(|block| block.places().len()).sum();
        let places = self.blocks.iter().flat_map(|block| block.places());
        self.free.extend(places.filter(|place| place.is_free()).map(NonNull::from));
        if 2 * self.free.len() < all.max(1) {
            let block = Block::new(all.max(FIRST), make);
            self.free.reserve(2 * all.max(FIRST));
            self.free.extend(block.places().iter().map(NonNull::from));
            self.blocks.push(block);
        }
    }
}

impl<T: Lay> Default for Tray<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Lay> Drop for Tray<T> {
    fn drop(&mut self) {
        self.blocks.retain(|block| !Left::is_free(block));
        if !self.blocks.is_empty() {
            let mut left = LEFT_OVER.lock().unwrap_or_else(PoisonError::into_inner);
            self.blocks.drain(..).for_each(|block| left.add(Box::new(block)));
        }
    }
}

impl<T: Lay> fmt::Debug for Tray<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tray").field("blocks", &self.blocks.len()).finish_non_exhaustive()
    }
}

/// What was taken from a tray; dropped, it is cleared and its place is free.
pub struct Item<T: Lay> {
    place: NonNull<Place<T>>,
}

// SAFETY: an item is the only one of its place, as a `Box` is of its memory.
unsafe impl<T: Lay> Send for Item<T> {}
// SAFETY: as above: a shared item gives `&T`, and `T` is `Sync`.
unsafe impl<T: Lay> Sync for Item<T> {}

impl<T: Lay> Item<T> {
    #[inline]
    fn place(&self) -> &Place<T> {
        // SAFETY: the place is taken by us, and no block is freed while one of its places is taken.
        unsafe { self.place.as_ref() }
    }
}

impl<T: Lay> Deref for Item<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the place is taken by us, so nobody else has a reference to its value but through `&self`.
        unsafe { &*self.place().value.get() }
    }
}

impl<T: Lay> DerefMut for Item<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and through `&mut self` nobody else at all.
        unsafe { &mut *self.place().value.get() }
    }
}

impl<T: Lay> Drop for Item<T> {
    #[inline]
    fn drop(&mut self) {
        self.clear();
        self.place().taken.store(0, Ordering::Release); // pairs with Acquire in `is_free`
    }
}

impl<T: Lay + fmt::Debug> fmt::Debug for Item<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, formatter)
    }
}

#[cfg(test)]
mod tests;
