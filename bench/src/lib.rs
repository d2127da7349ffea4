//! The measurements of Busway: how a figure of `RESULTS.md` comes about.
//!
//! A *figure* is judged over interleaved rounds of *cells*; a cell is one measurement of one side (a
//! bare floor, the bus, a rival), made by fresh, pinned processes that share a *stage*. All sides
//! implement [`medium::Medium`], so the same code measures them all. This crate links the bus only with
//! the feature `bus`, and never a rival: rivals live in `peers`, with this crate as their harness.
//!
//! It changes no setting of the machine, and asserts no time: figures are recorded, not enforced.

pub mod cell;
pub mod clock;
pub mod command;
pub mod figure;
pub mod floor;
pub mod medium;
pub mod outcome;
pub mod partners;
pub mod place;
pub mod plan;
pub mod python;
pub mod stage;

#[cfg(feature = "bus")]
pub mod bus;

/// Why a measurement could not be made. It is shown to the person who asked for it, and never matched on.
pub type Failure = Box<dyn core::error::Error + Send + Sync>;
