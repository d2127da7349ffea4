//! STUB of the public API, thrown away at merge; only `inspection.rs` stays.
mod api_stub;
mod inspection;
pub use api_stub::*;
pub use inspection::{
    Account, BudgetView, Dropped, Inspection, PortState, ProcessView, PublisherView, SegmentView, SubscriberView, TopicView,
};
