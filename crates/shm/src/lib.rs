//! The memory of Busway.
