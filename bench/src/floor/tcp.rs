//! A bare socket: letters and larger payloads over one TCP connection of loopback, without frames and without checks.
//!
//! The floor of everything that crosses a link. The receiver blocks or spins, as the cell asks; nothing is batched, as
//! the sender of a bare socket knows nothing of its next message.

use crate::Failure;
use crate::medium::{Channel, Letter, Medium, Quality, Receiver, Scene, Sender, from_bytes, to_bytes};
use crate::stage::{Ordering, Stage};
use std::cell::OnceCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::rc::Rc;
use std::time::Duration;

/// One process of it.
#[derive(Debug)]
pub struct BareTcp {
    line: Rc<Line>,
    size: usize,
}

/// The connection. The first side takes it in when it is first used: the second is not there before.
#[derive(Debug)]
struct Line {
    door: Option<TcpListener>,
    stream: OnceCell<TcpStream>,
    spinning: bool,
}

/// The sending end.
#[derive(Debug)]
pub struct BareTcpSender {
    line: Rc<Line>,
    buffer: Vec<u8>,
}

/// The receiving end.
#[derive(Debug)]
pub struct BareTcpReceiver {
    line: Rc<Line>,
    letter: [u8; 64],
    filled: usize,
    buffer: Vec<u8>,
}

/// Says at which port the first side listens.
pub fn tell_port(stage: &Stage, port: u16) {
    stage.board.free[0].words[0].store(u64::from(port), Ordering::Release); // pairs with Acquire in `port_of`
}

/// The port at which the first side listens.
///
/// # Errors
/// It has not said one in time.
pub fn port_of(stage: &Stage) -> Result<u16, Failure> {
    stage.wait_for("the port", 1, &stage.board.free[0].words[0])?;
    Ok(u16::try_from(stage.board.free[0].words[0].load(Ordering::Acquire))?)
}

impl Line {
    fn stream(&self) -> Result<&TcpStream, Failure> {
        if self.stream.get().is_none() {
            let door = self.door.as_ref().ok_or("a side without a connection")?;
            let (stream, _) = door.accept()?;
            self.keep(stream)?;
        }
        self.stream.get().ok_or_else(|| "no connection".into())
    }

    fn keep(&self, stream: TcpStream) -> Result<(), Failure> {
        stream.set_nodelay(true)?;
        stream.set_nonblocking(self.spinning)?;
        self.stream.set(stream).map_err(|_| "two connections".into())
    }
}

impl Medium for BareTcp {
    type Sender = BareTcpSender;
    type Receiver = BareTcpReceiver;

    fn open(scene: &Scene<'_>) -> Result<Self, Failure> {
        let spinning = scene.plan.cell == "oneway";
        let first = scene.owner == std::process::id();
        let door = first.then(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).transpose()?;
        let line = Rc::new(Line { door, stream: OnceCell::new(), spinning });
        match &line.door {
            Some(door) => tell_port(scene.stage, door.local_addr()?.port()),
            None => line.keep(TcpStream::connect((Ipv4Addr::LOCALHOST, port_of(scene.stage)?))?)?,
        }
        Ok(Self { line, size: usize::try_from(scene.plan.size)? })
    }

    fn sender(&self, _: Channel, _: Quality) -> Result<BareTcpSender, Failure> {
        Ok(BareTcpSender { line: self.line.clone(), buffer: vec![0; self.size] })
    }

    fn receiver(&self, _: Channel, _: Quality) -> Result<BareTcpReceiver, Failure> {
        let buffer = vec![0; self.size];
        Ok(BareTcpReceiver { line: self.line.clone(), letter: [0; 64], filled: 0, buffer })
    }
}

impl Sender for BareTcpSender {
    fn settle(&mut self, _: usize) -> Result<(), Failure> {
        self.line.stream().map(drop)
    }

    fn send(&mut self, letter: &Letter) -> Result<(), Failure> {
        // 64 bytes at a time, of which the other side takes each before the next: they always have room.
        Ok(self.line.stream()?.write_all(&to_bytes(letter))?)
    }

    fn send_filled(&mut self, fill: impl FnOnce(&mut [u8])) -> Result<(), Failure> {
        fill(&mut self.buffer);
        Ok(self.line.stream()?.write_all(&self.buffer)?)
    }
}

impl BareTcpReceiver {
    fn read_letter(&mut self) -> Result<Option<Letter>, Failure> {
        match self.line.stream()?.read(&mut self.letter[self.filled..]) {
            Ok(0) => return Err("the other side has gone".into()),
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        if self.filled < self.letter.len() {
            return Ok(None);
        }
        self.filled = 0;
        from_bytes(&self.letter).map(Some)
    }
}

impl Receiver for BareTcpReceiver {
    fn take(&mut self) -> Result<Option<Letter>, Failure> {
        self.read_letter()
    }

    fn sleep(&mut self, _: Duration) -> Result<Option<Letter>, Failure> {
        self.read_letter()
    }

    fn read_sized(&mut self, _: Duration, look: impl FnOnce(&[u8])) -> Result<bool, Failure> {
        self.line.stream()?.read_exact(&mut self.buffer)?;
        look(&self.buffer);
        Ok(true)
    }
}
