//! One example a file: `cargo run -p busway-examples --example hello`.

pub mod linear;
