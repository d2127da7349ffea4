//! What a process asks its kernel, in the network in memory: read, write, shut down, close.
//!
//! It decides how much of what is possible is done, by chance. It waits for nothing: who asks is told "not yet".
//!
//! Invariant: bytes that were taken from a writer land, or both ends learn that they are cut.

use crate::driver::{Backlog, ConnectionId, Fault, Read, Space};
use crate::fake::host::HostId;
use crate::fake::network::{Happening, State, StreamId};
use crate::fake::stream::{Segment, Side};

// A segment of a network card that cuts large writes itself.
const SEGMENT_BYTES_MAX: usize = 16 << 10;

impl State {
    fn standing(&self, host: HostId, connection: ConnectionId) -> Result<(StreamId, Side), Fault> {
        let contact =
            self.hosts.get(&host).and_then(|host| host.contacts.get(&connection)).ok_or(Fault::Closed)?;
        contact.stream.filter(|_| contact.stands).ok_or(Fault::Dialing)
    }

    /// Whether a read would be done at once, and bring so many bytes if any more come at all.
    pub(crate) fn has_bytes(&self, host: HostId, connection: ConnectionId, least: usize) -> bool {
        let Ok((id, side)) = self.standing(host, connection) else { return false };
        // A buffer that is full brings no more.
        let least = least.clamp(1, self.manners.receive_bytes_max.max(1));
        self.streams.get(&id).is_some_and(|stream| {
            stream.pipe(side.other()).has_news(least) || stream.end(side).failed.is_some()
        })
    }

    /// Whether a write would be done at once.
    pub(crate) fn has_room(&self, host: HostId, connection: ConnectionId) -> bool {
        let Ok((id, side)) = self.standing(host, connection) else { return false };
        self.streams.get(&id).is_some_and(|stream| {
            let end = stream.end(side);
            !end.shut && end.failed.is_none() && self.room(stream.pipe(side).unacknowledged) > 0
        })
    }

    /// How much a writer may add. As with the kernel, a buffer with less than a third free has no room: if each segment
    /// that lands let one of its size follow, and some are cut, segments would shrink to single bytes and stay so.
    fn room(&self, unacknowledged: usize) -> usize {
        let most = self.manners.send_bytes_max;
        let room = most.saturating_sub(unacknowledged);
        if room < most.div_ceil(3) { 0 } else { room }
    }

    /// What has landed and was not read is thrown away.
    pub(crate) fn forget_bytes(&mut self, host: HostId, connection: ConnectionId) {
        let Ok((id, side)) = self.standing(host, connection) else { return };
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.pipe_mut(side.other()).landed.clear();
        }
    }

    /// None: nothing is there yet.
    pub(crate) fn read(
        &mut self,
        host: HostId,
        connection: ConnectionId,
        space: &mut impl Space,
    ) -> Option<Result<Read, Fault>> {
        let (id, side) = match self.standing(host, connection) {
            Ok(standing) => standing,
            Err(fault) => return Some(Err(fault)),
        };
        let spans = space.spans();
        let room = spans[0].len() + spans[1].len();
        if room == 0 {
            return Some(Err(Fault::Empty));
        }
        let stream = self.streams.get_mut(&id)?;
        let failed = stream.end(side).failed;
        let pipe = stream.pipe_mut(side.other());
        if pipe.landed.is_empty() {
            let end = pipe.ended.then_some(Ok(Read::End));
            return end.or(failed.map(Err));
        }
        let most = room.min(pipe.landed.len());
        let most = if self.dice.chance(self.manners.partial_ppm) { self.dice.part_of(most) } else { most };
        let count = pipe.take(spans, most);
        let blocked = std::mem::take(&mut pipe.blocked);
        if blocked {
            self.land(id, side.other());
        }
        Some(Ok(Read::Bytes(count)))
    }

    /// None: there is no room yet.
    pub(crate) fn write(
        &mut self,
        host: HostId,
        connection: ConnectionId,
        pieces: &[&[u8]],
    ) -> Option<Result<usize, Fault>> {
        let (id, side) = match self.standing(host, connection) {
            Ok(standing) => standing,
            Err(fault) => return Some(Err(fault)),
        };
        let size: usize = pieces.iter().map(|piece| piece.len()).sum();
        let stream = self.streams.get(&id)?;
        let end = stream.end(side);
        if end.shut {
            return Some(Err(Fault::ShutDown));
        }
        if size == 0 {
            return Some(Err(Fault::Empty));
        }
        if let Some(fault) = end.failed {
            return Some(Err(fault));
        }
        let room = self.room(stream.pipe(side).unacknowledged);
        if room == 0 {
            return None;
        }
        let most = room.min(size);
        let most = if self.dice.chance(self.manners.partial_ppm) { self.dice.part_of(most) } else { most };
        let bytes: Vec<u8> = pieces.iter().copied().flatten().copied().take(most).collect();
        self.send(id, side, &bytes);
        Some(Ok(most))
    }

    /// Cuts `bytes` into segments and puts them on their way.
    fn send(&mut self, id: StreamId, side: Side, bytes: &[u8]) {
        let mut left = bytes;
        while !left.is_empty() {
            let most = left.len().min(SEGMENT_BYTES_MAX);
            let size =
                if self.dice.chance(self.manners.partial_ppm) { self.dice.part_of(most) } else { most };
            let (now, rest) = left.split_at(size);
            left = rest;
            self.send_segment(id, side, now.to_vec(), false);
        }
    }

    fn send_segment(&mut self, id: StreamId, side: Side, bytes: Vec<u8>, end: bool) {
        let now_ns = self.now_ns;
        let Some(stream) = self.streams.get(&id) else { return };
        let (from, to) = stream.route(side);
        let latency_ns = self.latency_ns(from, to);
        let rate = self.path(from, to).bytes_per_second;
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let pipe = stream.pipe_mut(side);
        let wire_ns = rate.map_or(0, |rate| (bytes.len() as u64).saturating_mul(1_000_000_000) / rate.max(1));
        pipe.busy_until_ns = pipe.busy_until_ns.max(now_ns).saturating_add(wire_ns);
        let arrives_ns = pipe.busy_until_ns.saturating_add(latency_ns).max(pipe.last_arrival_ns);
        pipe.last_arrival_ns = arrives_ns;
        pipe.unacknowledged += bytes.len();
        pipe.flight.push_back(Segment { arrives_ns, bytes, end });
        self.later(arrives_ns - now_ns, Happening::Land { stream: id, side });
    }

    pub(crate) fn shutdown(&mut self, host: HostId, connection: ConnectionId) -> Result<(), Fault> {
        let (id, side) = self.standing(host, connection)?;
        self.half_close(id, side)
    }

    /// This end writes no more; the other hears so behind what was written.
    pub(crate) fn half_close(&mut self, id: StreamId, side: Side) -> Result<(), Fault> {
        let Some(stream) = self.streams.get_mut(&id) else { return Err(Fault::Reset) };
        let end = stream.end_mut(side);
        if let Some(fault) = end.failed {
            return Err(fault);
        }
        if !std::mem::replace(&mut end.shut, true) {
            self.send_segment(id, side, Vec::new(), true);
        }
        Ok(())
    }

    /// Whether there was such a connection.
    pub(crate) fn close(&mut self, host: HostId, connection: ConnectionId) -> bool {
        let Some(contact) = self.host(host).contacts.remove(&connection) else { return false };
        self.host(host).touched.remove(&connection);
        if let Some((id, side)) = contact.stream {
            self.end(id, side);
        }
        true
    }

    /// The end is closed by its kernel.
    pub(crate) fn end(&mut self, id: StreamId, side: Side) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let unread = !stream.pipe(side.other()).landed.is_empty();
        let end = stream.end_mut(side);
        end.open = false;
        let quiet = end.failed.is_some();
        let shut = std::mem::replace(&mut end.shut, true);
        if unread && !quiet {
            // As the kernel does: bytes that nobody has read make a close a reset.
            self.send_reset(id, side.other());
        } else if !shut && !quiet {
            self.send_segment(id, side, Vec::new(), true);
        }
        self.forget_if_over(id);
    }

    /// From where and to where a connection writes.
    pub(crate) fn route(&self, host: HostId, connection: ConnectionId) -> Option<(HostId, HostId)> {
        let (id, side) = self.standing(host, connection).ok()?;
        Some(self.streams.get(&id)?.route(side))
    }

    pub(crate) fn backlog(&self, host: HostId, connection: ConnectionId) -> Result<Backlog, Fault> {
        let (id, side) = self.standing(host, connection)?;
        let stream = self.streams.get(&id).ok_or(Fault::Reset)?;
        let pipe = stream.pipe(side);
        let (from, to) = stream.route(side);
        let rate = self.path(from, to).bytes_per_second.unwrap_or(0);
        let wire_ns = u128::from(pipe.busy_until_ns.saturating_sub(self.now_ns));
        let here = u64::try_from(wire_ns * u128::from(rate) / 1_000_000_000).unwrap_or(u64::MAX);
        let unacknowledged = pipe.unacknowledged as u64;
        Ok(Backlog { unacknowledged, here: here.min(unacknowledged) })
    }
}
