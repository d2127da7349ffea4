//! Busway: the message bus for every distance.
