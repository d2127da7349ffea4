//! One fixed frame of each kind, for golden bytes and for the names of the fields.

use busway_wire::link::{
    Accept, Announce, Credit, Deny, Frame, Gap, Hello, Identity, Interest, Refusal, RefusalCode, Retire,
    Wanted,
};
use busway_wire::{Cause, Pattern, PortId, Topic};

/// The fixed frame of each kind, in order of their numbers.
pub(crate) fn all() -> Vec<Frame> {
    let source = PortId(0x1112_1314_1516_1718);
    let wanted = |id, text, reliable| Wanted { id, pattern: Pattern::parse(text).unwrap(), reliable };
    vec![
        Frame::Hello(Hello {
            cluster: 0xfeed_f00d_dead_beef,
            identity: Identity::Node { index: 3 },
            instance: 0x0102_0304_0506_0708,
            name: "eu-1".to_owned(),
            message_bytes_max: 1 << 20,
            credit_messages: 16_384,
            credit_bytes: 32 << 20,
            window_messages: 4_096,
            window_bytes: 8 << 20,
            token: vec![0, 255, 7],
            features: 0,
        }),
        Frame::Refusal(Refusal {
            code: RefusalCode::Full,
            reason: "no room for another client".to_owned(),
            retry_after_ms: 1_500,
        }),
        Frame::Interest(Interest {
            add: vec![wanted(1, "price.>", true), wanted(300, "^pri", false)],
            remove: vec![2, 400],
            complete: true,
        }),
        Frame::Announce(Announce {
            source,
            topic: Topic::new("price.tick").unwrap(),
            publisher: "feed".to_owned(),
            process: "probe".to_owned(),
            host: String::new(),
            created_ns: 1_000_000_007,
            reliable: true,
            resumes: false,
        }),
        Frame::Retire(Retire { source, last: 300 }),
        Frame::Accept(Accept { source, passed: Some(299), window_messages: 4_096, window_bytes: 8 << 20 }),
        Frame::Credit(Credit { messages: 20_000, bytes: 40 << 20, received: 3_616 }),
        Frame::Gap(Gap { source, from: 7, to: 300, cause: Cause::LinkLost, link: "node 3".to_owned() }),
        Frame::Ping { stamp: 1_000_000_007 },
        Frame::Pong { stamp: 1_000_000_007 },
        Frame::Goodbye { reason: "going down".to_owned() },
        Frame::Deny(Deny { source, cause: Cause::Denied }),
    ]
}
