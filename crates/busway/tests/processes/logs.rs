//! What is logged (A12): nothing for a message, one line a second for each kind of failure.

pub(crate) fn listen() -> String {
    String::new()
}
pub(crate) fn logged() -> String {
    String::new()
}
