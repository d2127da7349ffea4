//! Segments keep what their seals promise.
