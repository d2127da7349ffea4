//! The bytes of Busway: header, names, ids, control bodies.
#![no_std]
#![forbid(unsafe_code)]
