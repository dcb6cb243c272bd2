//! From the underlay to the segments' TAPs: the thread that receives, opens, puts together and
//! writes; it also answers probes and passes on what is for other peers. What containers answer
//! at once it sends itself, without waiting until the sending thread is awake.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Signals;
use super::answers::Answers;
use super::coalesce::{Coalescer, FrameSink};
use super::control::{Event, Events};
use super::fragment::Reassembler;
use super::seal::OpenError;
use super::stats::{DropReason, Drops};
use super::table::{Reader, ReceiveEntry, Table};
use super::wire::{
    BODY_HEADER, BodyHeader, BodyKind, HEADER, OVERHEAD, Outer, Probe, RELAY_HEADER, RelayHeader,
    TAG,
};
use crate::linux::tap::Gso;
use crate::linux::udp::{MAX_SEGMENTS, MAX_SEND, ReceiveBuffers, Transmit, UdpSocket};
use crate::types::PeerId;

/// Datagrams that one receive call can bring, for which room is kept.
const OPENED: usize = 2048;

/// The thread's state.
pub(super) struct Receiver {
    me: PeerId,
    reader: Reader,
    socket: Arc<UdpSocket>,
    events: Events,
    drops: Arc<Drops>,
    buffers: ReceiveBuffers,
    opened: Vec<Opened>,
    relays: Vec<Transmit>,
    replies: Vec<Reply>,
    reassembler: Reassembler,
    answers: Answers,
    signals: Signals,
}

/// What a packet brought.
struct Opened {
    key: u32,
    counter: u64,
    header: BodyHeader,
    body: Body,
}

enum Body {
    /// Opened in its place in the buffers.
    Received(Range<usize>),
    /// Put together from fragments.
    Reassembled(Vec<u8>),
}

/// An answer to a probe.
struct Reply {
    slot: usize,
    to: SocketAddr,
    probe: Probe,
}

impl Receiver {
    pub(super) fn new(
        me: PeerId,
        reader: Reader,
        socket: Arc<UdpSocket>,
        answers: Answers,
        events: Events,
        drops: Arc<Drops>,
        signals: Signals,
    ) -> Self {
        Self {
            me,
            reader,
            socket,
            events,
            drops,
            buffers: ReceiveBuffers::new(),
            opened: Vec::with_capacity(OPENED),
            relays: Vec::with_capacity(OPENED),
            replies: Vec::with_capacity(OPENED),
            reassembler: Reassembler::default(),
            answers,
            signals,
        }
    }

    /// Works until told to stop.
    pub(super) fn run(mut self) -> io::Result<()> {
        let mut table = self.reader.table();
        while !self.signals.stop.load(Ordering::Relaxed) {
            let received = self.socket.receive(&mut self.buffers);
            // Now: what came may be for keys that were published meanwhile. And though nothing came:
            // keys that have ended are not to stay.
            if self.reader.refresh() {
                self.answers.release(&table);
                table = self.reader.table();
            }
            match received {
                Ok(count) => self.handle_batch(&table, count)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.answers.release(&table);
                    self.wait()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What the kernel reports of earlier sends; the call has cleared it.
                Err(error) => tracing::debug!(%error, "receive failed"),
            }
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let mut fds = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.wake.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Ok(()),
            Err(errno) => return Err(errno.into()),
        }
        if fds[1].any() == Some(true) {
            let _ = self.signals.wake.read();
        }
        Ok(())
    }

    fn handle_batch(&mut self, table: &Table, count: usize) -> io::Result<()> {
        for at in 0..count {
            self.open_entry(table, at);
        }
        self.send_relays(table);
        self.send_replies(table);
        self.deliver(table);
        self.answers.send(table, &self.reader)
    }

    fn open_entry(&mut self, table: &Table, at: usize) {
        let base = self.buffers.offset(at);
        let (received, data) = self.buffers.entry(at);
        let mut batch = Batch {
            me: self.me,
            table,
            events: &self.events,
            drops: &self.drops,
            opened: &mut self.opened,
            relays: &mut self.relays,
            replies: &mut self.replies,
            reassembler: &mut self.reassembler,
            from: received.from,
            last: None,
        };
        if data.is_empty() {
            batch.drops.count(DropReason::Garbage);
        }
        let mut start = base;
        for datagram in data.chunks_mut(received.segment) {
            let len = datagram.len();
            batch.handle_datagram(datagram, start);
            start += len;
        }
    }

    fn send_relays(&mut self, table: &Table) {
        if self.relays.is_empty() {
            return;
        }
        self.socket
            .send(self.buffers.bytes(), &self.relays, false, |failure| {
                if let Some(peer) = table.peers.get(failure.tag).and_then(Option::as_ref) {
                    let lost = failure.datagrams as u64;
                    peer.counters.drops.add(DropReason::RelayFailed, lost);
                }
            });
        for relay in self.relays.drain(..) {
            if let Some(peer) = table.peers.get(relay.tag).and_then(Option::as_ref) {
                let (packets, bytes) = (relay.datagrams() as u64, relay.range.len() as u64);
                peer.counters.relayed.count(0, packets, bytes);
            }
        }
    }

    fn send_replies(&mut self, table: &Table) {
        for reply in self.replies.drain(..) {
            let Some(peer) = table.peers.get(reply.slot).and_then(Option::as_ref) else {
                continue;
            };
            let relay = reply.probe.relayed.then_some(RelayHeader {
                hops_left: super::wire::MAX_HOPS,
                to: peer.id,
                from: self.me,
            });
            let Some(key) = &peer.send else {
                continue;
            };
            let kind = BodyKind::ProbeReply;
            if let Some(packet) = seal_probe(key, relay, kind, &reply.probe, 0) {
                let _ = self.socket.send_one(reply.to, &packet);
            }
        }
    }

    fn deliver(&mut self, table: &Table) {
        let mut sink = Taps {
            table,
            drops: &self.drops,
            answers: &mut self.answers,
        };
        let bytes = self.buffers.bytes();
        let mut coalescer = Coalescer::new();
        for opened in &self.opened {
            let body = match &opened.body {
                Body::Received(range) => &bytes[range.clone()],
                Body::Reassembled(frame) => frame,
            };
            coalescer.push(opened.key, opened.counter, &opened.header, body, &mut sink);
        }
        coalescer.flush(&mut sink);
        self.opened.clear();
    }
}

/// What the packets of one receive call are sorted into.
struct Batch<'a> {
    me: PeerId,
    table: &'a Table,
    events: &'a Events,
    drops: &'a Drops,
    opened: &'a mut Vec<Opened>,
    relays: &'a mut Vec<Transmit>,
    replies: &'a mut Vec<Reply>,
    reassembler: &'a mut Reassembler,
    from: SocketAddr,
    last: Option<(u32, &'a ReceiveEntry)>,
}

impl<'a> Batch<'a> {
    /// Takes one datagram, which begins at `start` in the buffers.
    fn handle_datagram(&mut self, datagram: &mut [u8], start: usize) {
        match Outer::decode(datagram) {
            Some(Outer::Sealed(header)) => {
                self.handle_sealed(header.receiver, header.counter, datagram, start, false);
            }
            Some(Outer::Relayed(relay)) if relay.to == self.me => {
                let packet = &mut datagram[RELAY_HEADER..];
                match Outer::decode(packet) {
                    Some(Outer::Sealed(header)) => self.handle_sealed(
                        header.receiver,
                        header.counter,
                        packet,
                        start + RELAY_HEADER,
                        true,
                    ),
                    _ => self.drops.count(DropReason::Garbage),
                }
            }
            Some(Outer::Relayed(relay)) => self.handle_relay(relay, datagram, start),
            None => self.drops.count(DropReason::Garbage),
        }
    }

    fn handle_sealed(
        &mut self,
        receiver: u32,
        counter: u64,
        packet: &mut [u8],
        start: usize,
        relayed: bool,
    ) {
        let Some(entry) = self.lookup(receiver) else {
            self.drops.count(DropReason::UnknownKey);
            return;
        };
        let Some(peer) = self.table.peers.get(entry.slot).and_then(Option::as_ref) else {
            self.drops.count(DropReason::UnknownKey);
            return;
        };
        let len = packet.len();
        let (body, latest) = match entry.key.open(packet) {
            Ok(opened) => opened,
            Err(OpenError::Replayed) => return peer.counters.drops.count(DropReason::Replayed),
            Err(OpenError::Forged) => return peer.counters.drops.count(DropReason::Forged),
        };
        peer.counters.received.count(0, 1, len as u64);
        if entry.key.first_use() {
            self.events.push(Event::FirstUse(receiver));
        }
        if latest && !relayed && peer.endpoint != Some(self.from) {
            self.events.push(Event::Roamed(peer.id, self.from));
        }
        let Some(header) = BodyHeader::decode(body) else {
            return peer.counters.drops.count(DropReason::Malformed);
        };
        let payload = &body[BODY_HEADER..];
        match header.kind {
            BodyKind::Segment(_) | BodyKind::Packed => self.opened.push(Opened {
                key: receiver,
                counter,
                header,
                body: Body::Received(start + HEADER + BODY_HEADER..start + len - TAG),
            }),
            BodyKind::Fragment => {
                let name = (receiver, counter.wrapping_sub(header.index.into()));
                let frame = self
                    .reassembler
                    .push(name, header.index, header.count, payload);
                if let Some(frame) = frame {
                    // In its turn: those of the flow that came before it are not delivered yet.
                    let header = BodyHeader {
                        kind: BodyKind::Segment(Gso::None),
                        index: 0,
                        count: 1,
                        ..header
                    };
                    self.opened.push(Opened {
                        key: receiver,
                        counter,
                        header,
                        body: Body::Reassembled(frame),
                    });
                }
            }
            BodyKind::Probe => {
                // The path by which it came is known here, whatever it says.
                if let Some(probe) = Probe::decode(payload) {
                    let probe = Probe { relayed, ..probe };
                    // Probes of our own that came before the peer had the keys got no answer.
                    if peer.down {
                        self.events.push(Event::Suspicion(peer.id));
                    }
                    self.replies.push(Reply {
                        slot: entry.slot,
                        to: self.from,
                        probe,
                    });
                }
            }
            BodyKind::ProbeReply => {
                if let Some(probe) = Probe::decode(payload) {
                    self.events.push(Event::ProbeAnswered(peer.id, probe));
                }
            }
        }
    }

    fn handle_relay(&mut self, relay: RelayHeader, datagram: &mut [u8], start: usize) {
        if !self.table.sources.contains(&self.from) {
            return self.drops.count(DropReason::RelayRefused);
        }
        let slot = self.table.slots.get(&relay.to).copied();
        let peer = slot.and_then(|slot| self.table.peers[slot].as_ref());
        let path = peer.and_then(|peer| peer.path);
        let (Some(slot), Some(path)) = (slot, path) else {
            self.events.push(Event::Unrouted(relay.to));
            return self.drops.count(DropReason::RelayFailed);
        };
        // Never back where it came from, nor on for ever.
        if relay.hops_left == 0 || path.to == self.from {
            return self.drops.count(DropReason::RelayFailed);
        }
        datagram[1] = relay.hops_left - 1;
        let len = datagram.len();
        if let Some(last) = self.relays.last_mut() {
            let bytes = last.range.len() + len;
            let whole = last.range.len() % last.segment == 0;
            let fits = bytes <= MAX_SEND && bytes <= last.segment * MAX_SEGMENTS;
            let next = last.range.end == start && last.tag == slot && last.to == path.to;
            if next && fits && whole && len <= last.segment {
                last.range.end += len;
                return;
            }
        }
        self.relays.push(Transmit {
            to: path.to,
            range: start..start + len,
            segment: len,
            tag: slot,
        });
    }

    fn lookup(&mut self, receiver: u32) -> Option<&'a ReceiveEntry> {
        if let Some((index, entry)) = self.last
            && index == receiver
        {
            return Some(entry);
        }
        let entry = self.table.receive.get(&receiver)?;
        self.last = Some((receiver, entry));
        Some(entry)
    }
}

/// A probe or its answer, sealed; padded to its size if `size` is not zero.
pub(super) fn seal_probe(
    key: &super::seal::SendKey,
    relay: Option<RelayHeader>,
    kind: BodyKind,
    probe: &Probe,
    size: usize,
) -> Option<Vec<u8>> {
    let prefix = relay.map_or(0, |_| RELAY_HEADER);
    let len = size.max(prefix + OVERHEAD + Probe::LEN);
    let mut packet = vec![0; len];
    if let Some(relay) = relay {
        packet[..prefix].copy_from_slice(&relay.encode());
    }
    let inside = &mut packet[prefix + HEADER..];
    inside[..BODY_HEADER].copy_from_slice(&BodyHeader::new(kind, 0).encode());
    inside[BODY_HEADER..BODY_HEADER + Probe::LEN].copy_from_slice(&probe.encode());
    key.seal(key.reserve(1)?, &mut packet[prefix..]);
    Some(packet)
}

/// The TAPs of all segments.
struct Taps<'a> {
    table: &'a Table,
    drops: &'a Drops,
    answers: &'a mut Answers,
}

impl FrameSink for Taps<'_> {
    fn takes_udp(&self) -> bool {
        self.table
            .segments
            .first()
            .is_some_and(|segment| segment.tap.offloads().udp)
    }

    fn deliver(&mut self, vni: u32, pieces: &[IoSlice<'_>]) {
        let Some(&index) = self.table.vnis.get(&vni) else {
            return self.drops.count(DropReason::NoSegment);
        };
        let tap = &self.table.segments[index].tap;
        self.answers.expect(self.table, index);
        if tap.write(pieces).is_err() {
            self.drops.count(DropReason::DeviceFailed);
        }
    }

    fn malformed(&mut self) {
        self.drops.count(DropReason::Malformed);
    }
}
