//! The floors: the least a message can cost on this machine, measured like everything else.
//!
//! None of them checks anything, survives anything, or serves anybody but the one partner (the futex
//! and the rings: the partners) it was made for. They exist to be divided by.

pub mod flag;
pub mod futex;
pub mod line;
pub mod ring;
pub mod rings;
pub mod tcp;
