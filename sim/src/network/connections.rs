//! The connections that there are, by their numbers.
//!
//! Numbers rise and are not used again, so that a late word about an old connection reaches no new one. A table by
//! number costs a word for each connection that ever was, and no search.
//!
//! Invariant: the order is that of the numbers.

use super::Connection;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// The connection of number `n` stands at `n - 1`, as long as there is one.
    all: Vec<Option<Box<Connection>>>,
}

impl Connections {
    /// Puts a connection in: its number.
    pub(super) fn add(&mut self, connection: Connection) -> u64 {
        self.all.push(Some(Box::new(connection)));
        self.all.len() as u64
    }

    /// The connection of this number.
    pub(super) fn get(&self, number: u64) -> Option<&Connection> {
        self.all.get(place(number)).and_then(Option::as_deref)
    }

    /// The connection of this number, to be changed.
    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Connection> {
        self.all.get_mut(place(number)).and_then(Option::as_deref_mut)
    }

    /// Takes a connection out.
    pub(super) fn remove(&mut self, number: u64) {
        if let Some(place) = self.all.get_mut(place(number)) {
            *place = None;
        }
    }

    /// All, with their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Connection)> {
        (1..).zip(&self.all).filter_map(|(number, place)| Some((number, place.as_deref()?)))
    }

    /// All, with their numbers, to be changed.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u64, &mut Connection)> {
        (1..).zip(&mut self.all).filter_map(|(number, place)| Some((number, place.as_deref_mut()?)))
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number).ok().and_then(|number| number.checked_sub(1)).unwrap_or(usize::MAX)
}
