//! Commands that say on stdout that they are ready.

use std::io::{BufRead, BufReader, PipeReader};
use std::process::Command;

use crate::harness::{Place, Running};

impl Place {
    /// Starts a node; returns when it holds the rendezvous.
    pub(crate) fn up(&self) -> Running {
        Running::spoken(self.command(&["up"])).0
    }
}

impl Running {
    /// Starts a command whose stdout the test reads itself; returns with its first line.
    pub(crate) fn spoken(mut command: Command) -> (Self, BufReader<PipeReader>, String) {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        command.stdout(writer);
        let running = Self::start(command);
        let (mut stream, mut line) = (BufReader::new(reader), String::new());
        stream.read_line(&mut line).expect("the process speaks");
        (running, stream, line)
    }
}
