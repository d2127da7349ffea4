//! A stream of events over a WebSocket (RFC 6455): each event a text, `{"event", "last_event_id", "data"}`.
//!
//! Its reader is given messages and sends none: it may ping, pong and close. So what it sends is never longer than 125 bytes, nothing of it is put together, and the
//! first byte of a message, whole or the first of endless parts, ends it.
//!
//! Invariant: of what a reader sends at most [`FRAME_BYTES_MAX`] bytes and a head wait here.

use std::pin::pin;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT};
use axum::http::header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE};
use axum::http::{Request, Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use crate::Shared;
use crate::account::add;
use crate::budget::Taken;
use crate::feed::{Event, Feed, Wish};
use crate::limits::{BEAT, FRAME_BYTES_MAX, GRACE, WRITE_BYTES};
use crate::refusal::Refusal;
use crate::rights::Caller;
use crate::serve::{Open, either};

/// What the answer to a key is made of, by the RFC.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// The protocol that is spoken here, where the reader names some.
const PROTOCOL: &str = "busway.v1";
/// What a page puts before its token, since it can send no header: a protocol of this name.
pub(crate) const BEARER: &str = "busway.bearer.";

/// Why a reader is closed, by the numbers of the RFC.
mod status {
    pub(super) const AWAY: u16 = 1001;
    pub(super) const BROKEN: u16 = 1002;
    pub(super) const NO_DATA: u16 = 1003;
    pub(super) const POLICY: u16 = 1008;
}

type Socket = TokioIo<Upgraded>;

/// Whether a request asks for a WebSocket.
pub(crate) fn is_asked(headers: &HeaderMap) -> bool {
    lists(headers, &UPGRADE, "websocket") && lists(headers, &CONNECTION, "upgrade")
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).any(|item| item.trim().eq_ignore_ascii_case(wanted))
}

/// The token among the protocols that a page names.
pub(crate) fn token(headers: &HeaderMap) -> Option<&str> {
    let named = headers.get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    named.split(',').find_map(|item| item.trim().strip_prefix(BEARER))
}

/// Subscribes, and answers with the change of protocol.
pub(crate) async fn open(
    shared: &Arc<Shared>,
    caller: Caller,
    wish: Wish,
    request: Request<Body>,
) -> Result<Response<Body>, Refusal> {
    let (head, _) = request.into_parts();
    let headers = &head.headers;
    if !lists(headers, &SEC_WEBSOCKET_VERSION, "13") {
        let cause = "the version of the WebSocket is not 13";
        return Err(Refusal::wrong(cause, "header Sec-WebSocket-Version", "send 13"));
    }
    let key = headers.get(SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes).unwrap_or_default();
    if STANDARD.decode(key).map(|key| key.len()) != Ok(16) {
        let cause = "the key of the WebSocket is not 16 bytes";
        return Err(Refusal::wrong(cause, "header Sec-WebSocket-Key", "send 16 bytes in base64"));
    }
    let accept = STANDARD.encode(sha1_smol::Sha1::from([key, GUID.as_bytes()].concat()).digest().bytes());
    let spoken = lists(headers, &SEC_WEBSOCKET_PROTOCOL, PROTOCOL);
    let (upgrade, open) = (head.extensions.get::<OnUpgrade>(), head.extensions.get::<Arc<Open>>());
    let (Some(upgrade), Some(open)) = (upgrade.cloned(), open.cloned()) else {
        return Err(Refusal::wrong("the connection cannot change", "the connection", "ask over HTTP/1.1"));
    };
    let place = shared.budget.stream(&caller.who())?;
    let (feed, place) = Feed::open(shared, caller, wish, place).await?;
    add(&shared.accounts.streams, 1);
    tokio::spawn(run(shared.clone(), feed, upgrade, (place, open)));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    if let Ok(accept) = HeaderValue::try_from(accept) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if spoken {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
    }
    Ok(response)
}

async fn run(shared: Arc<Shared>, feed: Feed, upgrade: OnUpgrade, _held: (Taken, Arc<Open>)) {
    let Ok(upgraded) = upgrade.await else { return };
    let (read, write) = tokio::io::split(TokioIo::new(upgraded));
    let mut reader = Reader { half: read, frames: Frames::default() };
    let mut write = write;
    let status = serve(&shared, feed, &mut reader, &mut write).await;
    let Some(status) = status else { return };
    let number = [(status >> 8) as u8, (status & 0xff) as u8];
    if write.write_all(&frame(8, &number)).await.is_ok() && write.shutdown().await.is_ok() {
        // Its last bytes are read, or the kernel would throw away what it has not read of ours.
        let rest = async { while reader.half.read(&mut [0; 1_024]).await.is_ok_and(|count| count > 0) {} };
        let _ = tokio::time::timeout(GRACE, rest).await;
    }
}

/// Gives events until something ends it: with which status it is closed, or `None` where nobody would read that.
async fn serve(
    shared: &Shared,
    mut feed: Feed,
    reader: &mut Reader,
    write: &mut WriteHalf<Socket>,
) -> Option<u16> {
    let mut beat = interval_at(Instant::now() + BEAT, BEAT);
    // One that came late is not followed at once by the next: a pong needs its time.
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut silent = 0;
    loop {
        // First what ends it: a reader that always has messages hears of that too.
        let other = either(reader.next(), either(beat.tick(), feed.next()));
        let mut bytes = Vec::new();
        match either(shared.ended(), other).await {
            Err(Ok(Got::Ping(payload))) => {
                silent = 0;
                bytes = frame(10, &payload);
            }
            Err(Ok(Got::Pong)) => silent = 0,
            Err(Ok(Got::Close(status))) => return Some(status),
            Err(Ok(Got::Gone)) => return None,
            Err(Err(Err(Ok(event)))) => bytes = text(&event),
            Ok(()) | Err(Err(Err(Err(_)))) => return Some(status::AWAY),
            Err(Err(Ok(_))) => {
                silent += 1;
                if silent > 2 || feed.tell_gone().await.is_err() {
                    return Some(status::AWAY);
                }
                bytes = frame(9, &[]);
            }
        }
        while bytes.len() < WRITE_BYTES
            && let Ok(Some(event)) = feed.try_next()
        {
            bytes.extend(text(&event));
        }
        if !feed.is_welcome() {
            return Some(status::POLICY);
        }
        let mut all = pin!(write.write_all(&bytes));
        match either(shared.ended(), all.as_mut()).await {
            Err(written) => written.ok()?,
            Ok(()) => {
                timeout(GRACE, all).await.ok()?.ok()?;
                return Some(status::AWAY);
            }
        }
    }
}

fn text(event: &Event) -> Vec<u8> {
    let Event { name, data, place } = event;
    frame(1, format!("{{\"event\":\"{name}\",\"last_event_id\":\"{place}\",\"data\":{data}}}").as_bytes())
}

/// A whole frame of ours.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = payload.len() as u64;
    let mut bytes = Vec::with_capacity(payload.len() + 10);
    bytes.push(0x80 | kind);
    let (short, digits) = match len {
        0..=125 => (len, 0),
        126..=0xffff => (126, 2),
        _ => (127, 8),
    };
    bytes.push(short as u8);
    bytes.extend((0..digits).rev().map(|digit| (len >> (8 * digit)) as u8));
    bytes.extend_from_slice(payload);
    bytes
}

/// What a reader has sent.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    Ping(Vec<u8>),
    Pong,
    /// It closes, or is to be closed.
    Close(u16),
    /// Its end of the connection has.
    Gone,
}

struct Reader {
    half: ReadHalf<Socket>,
    frames: Frames,
}

impl Reader {
    /// Waits for a frame. What was read of one is kept when it is dropped.
    async fn next(&mut self) -> Got {
        loop {
            if let Some(got) = self.frames.next() {
                return got;
            }
            let mut bytes = [0; 256];
            match self.half.read(&mut bytes).await {
                Ok(0) | Err(_) => return Got::Gone,
                Ok(count) => self.frames.0.extend_from_slice(&bytes[..count]),
            }
        }
    }
}

/// Bytes of frames that were not looked at.
#[derive(Debug, Default)]
struct Frames(Vec<u8>);

impl Frames {
    fn next(&mut self) -> Option<Got> {
        let [first, second] = *self.0.first_chunk::<2>()?;
        let (kind, len) = (first & 0x0f, usize::from(second & 0x7f));
        if kind <= 2 && first & 0x70 == 0 {
            return Some(Got::Close(status::NO_DATA));
        }
        // A frame of control is whole, masked and short, and none of its bits is reserved.
        let sound = first & 0xf0 == 0x80 && second & 0x80 != 0 && len <= FRAME_BYTES_MAX;
        if !sound || !(8..=10).contains(&kind) {
            return Some(Got::Close(status::BROKEN));
        }
        let all = self.0.get(2..6 + len)?;
        let (mask, masked) = all.split_at(4);
        let payload: Vec<u8> =
            masked.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        self.0.drain(..6 + len);
        Some(match kind {
            8 => Got::Close(1000),
            9 => Got::Ping(payload),
            _ => Got::Pong,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Frames, Got, frame};

    fn sent(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [7, 1, 9, 3];
        let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
        [&[first, 0x80 | payload.len() as u8][..], &mask, &masked.collect::<Vec<u8>>()].concat()
    }

    #[test]
    fn what_a_reader_sends_is_read_however_it_is_cut() {
        let bytes = [sent(0x89, b"are you there"), sent(0x8a, b""), sent(0x88, &[3, 232])].concat();
        for cut in 0..bytes.len() {
            let (mut frames, mut got) = (Frames::default(), Vec::new());
            for part in [&bytes[..cut], &bytes[cut..]] {
                frames.0.extend_from_slice(part);
                got.extend(std::iter::from_fn(|| frames.next()));
            }
            assert_eq!(got, [Got::Ping(b"are you there".to_vec()), Got::Pong, Got::Close(1000)], "{cut}");
        }
    }

    #[test]
    fn whatever_a_reader_sends_nothing_of_it_is_kept_beyond_a_frame() {
        for (bytes, status) in [
            (vec![0x81, 0x80], 1003),
            (vec![0x01, 0xff], 1003),
            (vec![0x00, 0x80], 1003),
            (vec![0x89, 0x00], 1002),
            (vec![0x09, 0x80], 1002),
            (vec![0x89, 0xfe], 1002),
            (vec![0xc9, 0x80], 1002),
            (vec![0x8b, 0x80], 1002),
            (vec![0xc1, 0x80], 1002),
        ] {
            let mut frames = Frames(bytes.clone());
            assert_eq!(frames.next(), Some(Got::Close(status)), "{bytes:02x?}");
        }
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..20_000 {
            let mut frames = Frames((0..rng.usize(..300)).map(|_| rng.u8(..)).collect());
            while let Some(got) = frames.next() {
                if matches!(got, Got::Close(_)) {
                    break;
                }
            }
            assert!(frames.0.len() < 300);
        }
    }

    #[test]
    fn our_frames_say_their_length_as_the_rfc_has_it() {
        assert_eq!(frame(1, b"x"), [0x81, 1, b'x']);
        assert_eq!(frame(1, &[0; 125])[..2], [0x81, 125]);
        assert_eq!(frame(1, &[0; 126])[..4], [0x81, 126, 0, 126]);
        assert_eq!(frame(1, &[0; 65_536])[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
