//! libzmq: PUSH and PULL over TCP of loopback, as its own throughput program does; requests over a socket of the host.
//!
//! Every setting and the page that recommends it stand in `settings/libzmq.md`.

use busway_bench::Failure;
use busway_bench::cell::requests::{Answers, Asker, answer};
use busway_bench::floor::tcp::{port_of, tell_port};
use busway_bench::medium::{
    Channel, END, Letter, Medium, Quality, Receiver, Scene, Sender, from_bytes, to_bytes,
};
use std::cell::RefCell;
use std::time::Duration;
use zmq::{Context, Message, Socket};

/// The receiver waits so long: set once, as setting it for each message would cost.
const SILENCE_MS: i32 = 5_000;

/// One process: a context with its one I/O thread, and the one socket of the measurement.
pub(crate) struct Libzmq {
    // Ends after its socket.
    _context: Context,
    socket: RefCell<Option<Socket>>,
    size: usize,
}

/// A PUSH socket.
pub(crate) struct LibzmqSender {
    socket: Socket,
    size: usize,
}

/// A PULL socket.
pub(crate) struct LibzmqReceiver {
    socket: Socket,
    message: Message,
}

impl Medium for Libzmq {
    type Sender = LibzmqSender;
    type Receiver = LibzmqReceiver;

    fn open(scene: &Scene<'_>) -> Result<Self, Failure> {
        let context = Context::new();
        let first = scene.owner == std::process::id();
        let socket = context.socket(if first { zmq::PUSH } else { zmq::PULL })?;
        if first {
            socket.bind("tcp://127.0.0.1:*")?;
            let address = socket.get_last_endpoint()?.map_err(|_| "an address that is no text")?;
            let port = address.rsplit(':').next().ok_or("an address without a port")?;
            tell_port(scene.stage, port.parse()?);
        } else {
            socket.connect(&format!("tcp://127.0.0.1:{}", port_of(scene.stage)?))?;
        }
        let size = usize::try_from(scene.plan.size)?;
        Ok(Self { _context: context, socket: RefCell::new(Some(socket)), size })
    }

    fn sender(&self, _: Channel, _: Quality) -> Result<LibzmqSender, Failure> {
        let socket = self.socket.take().ok_or("one socket a side")?;
        Ok(LibzmqSender { socket, size: self.size })
    }

    fn receiver(&self, _: Channel, _: Quality) -> Result<LibzmqReceiver, Failure> {
        let socket = self.socket.take().ok_or("one socket a side")?;
        socket.set_rcvtimeo(SILENCE_MS)?;
        Ok(LibzmqReceiver { socket, message: Message::new() })
    }
}

impl Sender for LibzmqSender {
    fn settle(&mut self, _: usize) -> Result<(), Failure> {
        // PUSH waits for somebody to pull.
        Ok(())
    }

    fn send(&mut self, _: &Letter) -> Result<(), Failure> {
        Err("libzmq is measured by payloads".into())
    }

    #[inline]
    fn send_filled(&mut self, fill: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        let mut message = Message::with_size(self.size);
        fill(&mut message);
        Ok(self.socket.send(message, 0)?)
    }
}

impl Receiver for LibzmqReceiver {
    fn take(&mut self) -> Result<Option<Letter>, Failure> {
        Err("libzmq is measured by payloads".into())
    }

    #[inline]
    fn read_sized(&mut self, _: Duration, look: impl FnOnce(&[u8])) -> Result<bool, Failure> {
        match self.socket.recv(&mut self.message, 0) {
            Ok(()) => look(&self.message),
            Err(zmq::Error::EAGAIN) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        Ok(true)
    }
}

/// REQ for one request under way, DEALER for more.
pub(crate) struct LibzmqAsker {
    socket: Socket,
    // Ends after its socket.
    _context: Context,
}

fn endpoint(owner: u32) -> String {
    format!("ipc://@busway-bench-{owner}")
}

impl Answers for Libzmq {
    type Asker = LibzmqAsker;

    fn asker(scene: &Scene<'_>, at_once: usize) -> Result<LibzmqAsker, Failure> {
        let context = Context::new();
        let socket = context.socket(if at_once == 1 { zmq::REQ } else { zmq::DEALER })?;
        socket.set_rcvtimeo(SILENCE_MS)?;
        socket.bind(&endpoint(scene.owner))?;
        Ok(LibzmqAsker { socket, _context: context })
    }

    fn serve(scene: &Scene<'_>, ready: impl FnOnce() -> Result<(), Failure>) -> Result<(), Failure> {
        let context = Context::new();
        let one = scene.plan.size <= 1;
        let socket = context.socket(if one { zmq::REP } else { zmq::ROUTER })?;
        socket.set_rcvtimeo(SILENCE_MS)?;
        socket.connect(&endpoint(scene.owner))?;
        ready()?;
        let mut message = Message::new();
        loop {
            let who = if one { None } else { Some(socket.recv_msg(0)?) };
            socket.recv(&mut message, 0)?;
            let letter = from_bytes(&message)?;
            if let Some(who) = who {
                socket.send(who, zmq::SNDMORE)?;
            }
            socket.send(&to_bytes(&answer(&letter))[..], 0)?;
            if letter[0] == END {
                return Ok(());
            }
        }
    }
}

impl Asker for LibzmqAsker {
    fn settle(&mut self) -> Result<(), Failure> {
        // Who sends waits for somebody to be there.
        Ok(())
    }

    fn ask(&mut self, letter: &Letter) -> Result<(), Failure> {
        Ok(self.socket.send(&to_bytes(letter)[..], 0)?)
    }

    fn reply(&mut self) -> Result<Letter, Failure> {
        from_bytes(&self.socket.recv_msg(0)?)
    }
}
