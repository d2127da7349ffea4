//! TLS between a connection and a session: ciphertext in, plaintext out, and the reverse.
//!
//! A cipher knows neither sockets nor frames. What comes is opened piece by piece into `plain`; what goes is taken out
//! of a batch, sealed, and put into its place, so that one write carries it. A connection without TLS has no cipher
//! and costs nothing. Who the peer is, its certificate says; whether that is who was dialed is looked at here, before
//! a word is said to it. What it may do is decided elsewhere.
//!
//! Invariant: no byte of a batch goes out before the handshake is over and the peer is who was dialed. What is kept is
//! bounded: a record or a message of the handshake that has not come whole, a frame that has not, and one batch.

use busway_protocol::{Batch, Framer, PeerId, Principal, Step};
use busway_wire::link::{Frame, Refusal, RefusalCode};
use busway_wire::{DecodeError, HEADER_SIZE, Header, Kind, Seed};
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};

use crate::runtime::Outbound;
use crate::tls::{Tls, principal_of, told};

/// Bytes that have come and cannot be opened yet: the largest message of a handshake in records, and one more record.
/// More is no handshake.
const SEALED_BYTES_MAX: usize = 128 << 10;
/// What stands in front of a record: its type, its version, and its size.
const RECORD_HEAD_BYTES: usize = 5;
/// Bytes of plaintext in a record of full size, and what sealing adds to each.
const RECORD_BYTES: usize = 16 << 10;
const RECORD_EXTRA: usize = 22;

enum Side {
    Dialed(UnbufferedClientConnection),
    Accepted(UnbufferedServerConnection),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No byte of the peer has come.
    Silent,
    Handshake,
    Ready,
    /// It has failed, or been refused.
    Over,
}

/// Why a connection can go on no longer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It is over. What is sealed, an alert, is for the peer.
    Broken(String),
    /// The peer refused us in clear, before TLS.
    Refused(Refusal),
    /// The peer is not who was dialed; it is to be told so.
    Stranger(Refusal),
    /// The peer dialed us, and does not speak TLS.
    Plain,
}

/// See the head of this file.
pub(crate) struct Cipher {
    side: Side,
    stage: Stage,
    cluster: String,
    /// Who was dialed.
    expected: Option<Principal>,
    /// What has come and is not opened.
    incoming: Vec<u8>,
    /// What was opened and is not read.
    plain: Vec<u8>,
    /// What is to be written.
    sealed: Vec<u8>,
    /// A batch in one piece, while it is sealed.
    whole: Vec<u8>,
}

impl std::fmt::Debug for Cipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cipher").field("stage", &self.stage).finish_non_exhaustive()
    }
}

/// What TLS wants next.
enum Next {
    /// To be asked again.
    More,
    /// More bytes of the peer.
    Bytes,
}

impl Cipher {
    /// For a connection that was dialed to this peer.
    pub(crate) fn dial(tls: &Tls, cluster: &str, peer: PeerId) -> Result<Self, String> {
        // It is neither sent nor looked at: who a node is does not depend on the name of its host.
        let name = ServerName::try_from("busway.invalid").map_err(|error| error.to_string())?;
        let side = UnbufferedClientConnection::new(tls.dial(), name).map_err(|error| told(&error))?;
        let mut cipher = Self::new(Side::Dialed(side), cluster, Some(Principal::of_identity(peer)));
        cipher.open(&mut []).map_err(|_| "TLS cannot begin".to_owned())?;
        Ok(cipher)
    }

    /// For a connection that was accepted.
    pub(crate) fn accept(tls: &Tls, cluster: &str) -> Result<Self, String> {
        let config = tls.accept().ok_or("there is no certificate to show")?;
        let side = UnbufferedServerConnection::new(config).map_err(|error| told(&error))?;
        Ok(Self::new(Side::Accepted(side), cluster, None))
    }

    fn new(side: Side, cluster: &str, expected: Option<Principal>) -> Self {
        let (incoming, plain, sealed, whole) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let cluster = cluster.to_owned();
        Self { side, stage: Stage::Silent, cluster, expected, incoming, plain, sealed, whole }
    }

    /// Whether the handshake is over, and the peer is who was dialed.
    pub(crate) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Whether nothing was sealed yet and nothing came: what is said now is said in clear.
    pub(crate) fn is_silent(&self) -> bool {
        self.stage == Stage::Silent
    }

    /// Who the peer's certificate says it is; `None` without one. Known when the handshake is over.
    pub(crate) fn principal(&self) -> Result<Option<Principal>, String> {
        let chain = match &self.side {
            Side::Dialed(side) => side.peer_certificates(),
            Side::Accepted(side) => side.peer_certificates(),
        };
        chain.filter(|chain| !chain.is_empty()).map(|chain| principal_of(&self.cluster, chain)).transpose()
    }

    /// The plaintext that has come; what is not done with is to be given back by [`Cipher::keep`].
    pub(crate) fn take_plain(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.plain)
    }

    /// Keeps what is behind the first `done` bytes of the plaintext.
    pub(crate) fn keep(&mut self, mut plain: Vec<u8>, done: usize) {
        plain.drain(..done.min(plain.len()));
        self.plain = plain;
    }

    /// What has come and could not be opened: a read puts more behind it.
    pub(crate) fn incoming(&self) -> &[u8] {
        &self.incoming
    }

    /// Opens what has come: `incoming`, and what was read behind it.
    pub(crate) fn open(&mut self, bytes: &mut [u8]) -> Result<(), Trouble> {
        self.incoming.clear();
        if self.stage == Stage::Over {
            return Ok(());
        }
        if self.stage == Stage::Silent && !bytes.is_empty() {
            match First::of(bytes) {
                First::Record => self.stage = Stage::Handshake,
                First::Frame => {
                    self.incoming.extend_from_slice(bytes);
                    return self.hear_in_clear();
                }
                First::Either => {
                    self.incoming.extend_from_slice(bytes);
                    return Ok(());
                }
            }
        }
        let mut at = 0;
        loop {
            let rest = bytes.get_mut(at..).unwrap_or_default();
            match self.step(rest) {
                Ok((discard, next)) => {
                    at += discard;
                    if matches!(next, Next::Bytes) {
                        break;
                    }
                }
                Err((discard, reason)) => {
                    // Once more, for the alert that says so.
                    let _ = self.step(bytes.get_mut(at + discard..).unwrap_or_default());
                    return Err(self.broken(reason));
                }
            }
        }
        self.incoming.extend_from_slice(bytes.get(at..).unwrap_or_default());
        if self.incoming.len() > SEALED_BYTES_MAX {
            return Err(self.broken("TLS: more than a handshake has".to_owned()));
        }
        self.look_who_it_is()
    }

    fn broken(&mut self, reason: String) -> Trouble {
        self.stage = Stage::Over;
        self.incoming.clear();
        Trouble::Broken(reason)
    }

    /// One step with what has come: how many bytes are done with, and what is wanted next.
    fn step(&mut self, bytes: &mut [u8]) -> Result<(usize, Next), (usize, String)> {
        let plain = &mut self.plain;
        match &mut self.side {
            Side::Dialed(side) => advance(side.process_tls_records(bytes), plain, &mut self.sealed),
            Side::Accepted(side) => advance(side.process_tls_records(bytes), plain, &mut self.sealed),
        }
    }

    /// Once the handshake is over: is this who was dialed?
    fn look_who_it_is(&mut self) -> Result<(), Trouble> {
        let handshaking = match &self.side {
            Side::Dialed(side) => side.is_handshaking(),
            Side::Accepted(side) => side.is_handshaking(),
        };
        if self.stage != Stage::Handshake || handshaking {
            return Ok(());
        }
        self.stage = Stage::Ready;
        let Some(expected) = &self.expected else { return Ok(()) };
        let reason = match self.principal() {
            Ok(Some(found)) if found == *expected => return Ok(()),
            Ok(Some(found)) => {
                format!("the certificate is of {found} where {expected} was dialed; check the list of nodes")
            }
            Ok(None) => format!("no certificate where {expected} was dialed"),
            Err(reason) => format!("{reason}, where {expected} was dialed"),
        };
        Err(Trouble::Stranger(Refusal::new(RefusalCode::Credentials, &reason, 0)))
    }

    /// The first bytes are no TLS. A node that was dialed may say in clear that it has no room.
    fn hear_in_clear(&mut self) -> Result<(), Trouble> {
        if self.expected.is_none() {
            self.stage = Stage::Over;
            return Err(Trouble::Plain);
        }
        let heard = match Framer::new(Seed::LOCAL).next(&self.incoming) {
            Ok(Step::Need(need)) if need > self.incoming.len() => return Ok(()),
            Ok(Step::Frame { header, body, .. }) if header.kind() == Some(Kind::Refusal) => {
                busway_wire::link::decode(&header, body).ok()
            }
            Ok(_) | Err(_) => None,
        };
        self.stage = Stage::Over;
        Err(match heard {
            Some(Frame::Refusal(refusal)) => Trouble::Refused(refusal),
            Some(_) | None => Trouble::Broken("the peer does not speak TLS".to_owned()),
        })
    }

    /// Puts into the place of a batch what it is when sealed, behind what the handshake has to say.
    pub(crate) fn seal(&mut self, batch: &mut Batch<Outbound>) -> Result<(), Trouble> {
        if self.stage == Stage::Ready && !batch.is_empty() {
            let mut whole = std::mem::take(&mut self.whole);
            whole.clear();
            for piece in batch.pieces() {
                whole.extend_from_slice(piece);
            }
            let sealed = self.encrypt(&whole);
            self.whole = whole;
            sealed.map_err(|reason| self.broken(reason))?;
        } else {
            debug_assert!(batch.is_empty(), "nothing is said before the handshake is over");
        }
        batch.replace(&mut self.sealed);
        Ok(())
    }

    fn encrypt(&mut self, whole: &[u8]) -> Result<(), String> {
        let (plain, sealed, incoming) = (&mut self.plain, &mut self.sealed, &mut self.incoming);
        // What is left of a record that has not come whole is shown again: TLS counts from its beginning.
        loop {
            let (discard, done) = match &mut self.side {
                Side::Dialed(side) => encrypt(side.process_tls_records(incoming), whole, plain, sealed)?,
                Side::Accepted(side) => encrypt(side.process_tls_records(incoming), whole, plain, sealed)?,
            };
            incoming.drain(..discard);
            if done {
                return Ok(());
            }
        }
    }
}

/// Does what TLS asks for, once.
fn advance<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &mut Vec<u8>,
    sealed: &mut Vec<u8>,
) -> Result<(usize, Next), (usize, String)> {
    let discard = status.discard;
    let broken = |reason: String| (discard, reason);
    let next = match status.state.map_err(|error| broken(told(&error)))? {
        ConnectionState::ReadTraffic(mut traffic) => {
            while let Some(record) = traffic.next_record() {
                plain.extend_from_slice(record.map_err(|error| broken(told(&error)))?.payload);
            }
            Next::More
        }
        ConnectionState::EncodeTlsData(mut data) => {
            let start = sealed.len();
            let mut size = RECORD_BYTES;
            loop {
                sealed.resize(start + size, 0);
                match data.encode(&mut sealed[start..]) {
                    Ok(written) => break sealed.truncate(start + written),
                    Err(EncodeError::InsufficientSize(wanted)) => size = wanted.required_size,
                    Err(EncodeError::AlreadyEncoded) => break sealed.truncate(start),
                }
            }
            Next::More
        }
        ConnectionState::TransmitTlsData(data) => {
            // What is sealed goes out before anything else; more than that is not asked.
            data.done();
            Next::More
        }
        // The end of the bytes tells the same, and comes next.
        ConnectionState::PeerClosed => Next::More,
        ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) | ConnectionState::Closed => {
            Next::Bytes
        }
        _ => return Err(broken("TLS: early data, which nobody asked for".to_owned())),
    };
    Ok((discard, next))
}

/// Seals `whole` if TLS is at a point where it may; else does what it asks for.
fn encrypt<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    whole: &[u8],
    plain: &mut Vec<u8>,
    sealed: &mut Vec<u8>,
) -> Result<(usize, bool), String> {
    let UnbufferedStatus { discard, state } = status;
    let mut traffic = match state {
        Ok(ConnectionState::WriteTraffic(traffic)) => traffic,
        state => {
            let (discard, next) =
                advance(UnbufferedStatus { discard, state }, plain, sealed).map_err(|(_, reason)| reason)?;
            return match next {
                Next::More => Ok((discard, false)),
                Next::Bytes => Err("TLS: the peer has ended".to_owned()),
            };
        }
    };
    let start = sealed.len();
    let mut size = whole.len() + (whole.len() / RECORD_BYTES + 1) * RECORD_EXTRA;
    loop {
        sealed.resize(start + size, 0);
        match traffic.encrypt(whole, &mut sealed[start..]) {
            Ok(written) => {
                sealed.truncate(start + written);
                return Ok((discard, true));
            }
            Err(EncryptError::InsufficientSize(wanted)) if wanted.required_size > size => {
                size = wanted.required_size;
            }
            Err(error) => return Err(format!("TLS: {error}")),
        }
    }
}

/// What the first bytes of a connection are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum First {
    /// Busway in clear, or nothing that is known.
    Frame,
    /// TLS.
    Record,
    /// Either: more must come before it is known.
    Either,
}

impl First {
    /// A frame begins with its checksum, which may be any bytes: in one of 16 384 they are those of a record. So a record is
    /// what begins as one and is no frame, as is known when a header is there, or a whole record that is shorter.
    pub(crate) fn of(bytes: &[u8]) -> First {
        if !matches!(bytes.first(), Some(0x14..=0x17)) || bytes.get(1).is_some_and(|major| *major != 3) {
            return First::Frame;
        }
        if bytes.len() < HEADER_SIZE {
            let size = bytes.get(3..5).map(|size| usize::from(size[0]) << 8 | usize::from(size[1]));
            let whole = size.is_some_and(|size| bytes.len() >= RECORD_HEAD_BYTES + size);
            return if whole { First::Record } else { First::Either };
        }
        match Header::validate_head_of_any_version(bytes, Seed::LOCAL) {
            Err(DecodeError::Checksum) => First::Record,
            Ok(_) | Err(_) => First::Frame,
        }
    }
}
