//! The Busway node.
