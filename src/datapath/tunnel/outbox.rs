//! Packets on their way out: cut, packed, sealed, and sent many at once.

use std::io::IoSlice;
use std::mem;
use std::sync::Arc;

use nix::libc;

use super::control::{Event, Events};
use super::fragment_count;
use super::seal::SendKey;
use super::segment::{MAX_PER_FRAME, Plan, Segments};
use super::stats::{DropReason, PeerCounters};
use super::table::{Path, PeerEntry, Slot, Table};
use super::too_big;
use super::wire::{BODY_HEADER, BodyHeader, BodyKind, HEADER, OVERHEAD, RECORD_HEADER, Record};
use crate::linux::tap::{Gso, VnetHeader};
use crate::linux::udp::{MAX_SEGMENTS, MAX_SEND, Transmit, UdpSocket};
use crate::types::Vni;

/// Bytes sealed before they are sent: enough for several super-frames.
const ARENA: usize = 512 * 1024;
/// Frames up to this size are packed together: two then fit into a datagram of an underlay of
/// 1,500 bytes.
pub(super) const SMALL: usize = 700;

/// What is sealed and not yet sent.
pub(super) struct Outbox {
    socket: Arc<UdpSocket>,
    events: Events,
    arena: Vec<u8>,
    used: usize,
    transmits: Vec<Transmit>,
    /// Whether the last transmit can take more.
    open: bool,
    packers: Vec<Packer>,
    /// Whether what finds no room in the socket waits for it; else it is lost.
    patient: bool,
}

/// Small frames for one peer and segment, waiting until the TAP is empty or the datagram full.
struct Packer {
    slot: Slot,
    vni: Vni,
    body: Vec<u8>,
    frames: u64,
}

impl Outbox {
    pub(super) fn new(socket: Arc<UdpSocket>, events: Events) -> Self {
        Self {
            socket,
            events,
            arena: vec![0; ARENA],
            used: 0,
            transmits: Vec::with_capacity(256),
            open: false,
            packers: Vec::new(),
            patient: true,
        }
    }

    /// From now on, whether what finds no room in the socket waits for it; else it is lost.
    pub(super) fn set_patient(&mut self, patient: bool) {
        self.patient = patient;
    }

    /// Takes one frame for one peer. Some of it may wait until [`flush`](Self::flush).
    pub(super) fn emit(
        &mut self,
        table: &Table,
        segment: usize,
        slot: Slot,
        frame: &[u8],
        vnet: &VnetHeader,
        scratch: &mut [u8],
    ) {
        let Some(peer) = table.peers.get(slot).and_then(Option::as_ref) else {
            return;
        };
        let Some(key) = &peer.send else {
            peer.counters.drops.count(DropReason::NoSession);
            return;
        };
        let Some(path) = peer.path else {
            peer.counters.drops.count(DropReason::NoPath);
            return;
        };
        let vni = table.segments[segment].vni;
        let lane = Lane {
            slot,
            vni,
            key,
            path,
            counters: &peer.counters,
        };
        let plan = Plan::new(frame, vnet, path.capacity());
        if let Plan::Whole {
            csum_start,
            csum_offset,
        } = plan
            && frame.len() <= SMALL
        {
            self.pack(table, &lane, frame, csum_start, csum_offset);
            return;
        }
        self.flush_packer(table, slot);
        match plan {
            Plan::Whole {
                csum_start,
                csum_offset,
            } => {
                let header = BodyHeader {
                    csum_start,
                    csum_offset,
                    ..BodyHeader::new(BodyKind::Segment(Gso::None), vni.get())
                };
                self.send_body(table, &lane, &header, frame, 1);
            }
            Plan::Segments(segments) => self.send_segments(table, &lane, frame, &segments),
            Plan::TooLarge => {
                let answered = path.settled && answer(table, segment, path.capacity(), frame);
                if answered {
                    peer.counters.drops.count(DropReason::Answered);
                } else {
                    self.send_fragments(table, &lane, frame, vnet);
                }
            }
            Plan::DatagramsTooLarge(segments) => {
                for index in 0..segments.count() {
                    let len = segments.len(index);
                    let single = segments.write_frame(frame, index, &mut scratch[..len]);
                    if path.settled && answer(table, segment, path.capacity(), &scratch[..len]) {
                        peer.counters.drops.count(DropReason::Answered);
                        break;
                    }
                    self.send_fragments(table, &lane, &scratch[..len], &single);
                }
            }
            Plan::Malformed => peer.counters.drops.count(DropReason::Malformed),
        }
    }

    /// Sends all that waits.
    pub(super) fn flush(&mut self, table: &Table) {
        self.flush_packers(table);
        self.transmit(table);
    }

    fn pack(
        &mut self,
        table: &Table,
        lane: &Lane<'_>,
        frame: &[u8],
        csum_start: u8,
        csum_offset: u8,
    ) {
        let Ok(len) = u16::try_from(frame.len()) else {
            return;
        };
        let at = self
            .packers
            .iter()
            .position(|packer| packer.slot == lane.slot);
        let at = at.unwrap_or_else(|| {
            self.packers.push(Packer {
                slot: lane.slot,
                vni: lane.vni,
                body: Vec::with_capacity(usize::from(super::probe::MAX)),
                frames: 0,
            });
            self.packers.len() - 1
        });
        let packer = &self.packers[at];
        let full = packer.body.len() + RECORD_HEADER + frame.len() > lane.path.capacity();
        if packer.frames > 0 && (full || packer.vni != lane.vni) {
            self.flush_packer(table, lane.slot);
        }
        let record = Record {
            len,
            csum_start,
            csum_offset,
        };
        let packer = &mut self.packers[at];
        packer.vni = lane.vni;
        packer.body.extend(record.encode());
        packer.body.extend(frame);
        packer.frames += 1;
    }

    fn flush_packers(&mut self, table: &Table) {
        for at in 0..self.packers.len() {
            if self.packers[at].frames > 0 {
                self.flush_packer(table, self.packers[at].slot);
            }
        }
    }

    fn flush_packer(&mut self, table: &Table, slot: Slot) {
        let Some(at) = self
            .packers
            .iter()
            .position(|p| p.slot == slot && p.frames > 0)
        else {
            return;
        };
        let packer = &mut self.packers[at];
        let (vni, frames) = (packer.vni, mem::take(&mut packer.frames));
        let mut body = mem::take(&mut packer.body);
        if let Some(PeerEntry {
            send: Some(key),
            path: Some(path),
            counters,
            ..
        }) = table.peers.get(slot).and_then(Option::as_ref)
        {
            let lane = Lane {
                slot,
                vni,
                key,
                path: *path,
                counters,
            };
            self.send_packed(table, &lane, &body, frames);
        }
        // The room is used again.
        body.clear();
        self.packers[at].body = body;
    }

    fn send_packed(&mut self, table: &Table, lane: &Lane<'_>, body: &[u8], frames: u64) {
        if frames > 1 {
            let header = BodyHeader::new(BodyKind::Packed, lane.vni.get());
            self.send_body(table, lane, &header, body, frames);
            return;
        }
        let Some((record, frame, _)) = Record::split(body) else {
            return;
        };
        let header = BodyHeader {
            csum_start: record.csum_start,
            csum_offset: record.csum_offset,
            ..BodyHeader::new(BodyKind::Segment(Gso::None), lane.vni.get())
        };
        self.send_body(table, lane, &header, frame, 1);
    }

    fn send_segments(&mut self, table: &Table, lane: &Lane<'_>, frame: &[u8], segments: &Segments) {
        let total = segments.count();
        let mut index = 0;
        let mut bytes = 0;
        while index < total {
            let count = (total - index).min(MAX_PER_FRAME);
            let Some(first) = lane.key.reserve(count as u64) else {
                lane.counters.drops.count(DropReason::NoSession);
                return;
            };
            for (counter, index) in (first..).zip(index..index + count) {
                let len = segments.len(index);
                let packet = self.place(table, lane, len);
                let body = &mut packet[HEADER..];
                body[..BODY_HEADER]
                    .copy_from_slice(&segments.header(index, lane.vni.get()).encode());
                segments.write(frame, index, &mut body[BODY_HEADER..BODY_HEADER + len]);
                lane.key.seal(counter, packet);
                bytes += packet.len() + lane.path.prefix();
            }
            index += count;
        }
        lane.counters.sent.count(1, total as u64, bytes as u64);
    }

    fn send_fragments(&mut self, table: &Table, lane: &Lane<'_>, frame: &[u8], vnet: &VnetHeader) {
        let capacity = lane.path.capacity();
        let Some(count) = fragment_count(frame.len(), capacity) else {
            lane.counters.drops.count(DropReason::TooLarge);
            return;
        };
        let (Ok(csum_start), Ok(csum_offset)) = (
            u8::try_from(vnet.csum_start),
            u8::try_from(vnet.csum_offset),
        ) else {
            lane.counters.drops.count(DropReason::Malformed);
            return;
        };
        let Some(first) = lane.key.reserve(count.into()) else {
            lane.counters.drops.count(DropReason::NoSession);
            return;
        };
        let mut header = BodyHeader {
            count,
            csum_start,
            csum_offset,
            ..BodyHeader::new(BodyKind::Fragment, lane.vni.get())
        };
        let mut bytes = 0;
        for (index, piece) in (0..count).zip(frame.chunks(capacity)) {
            header.index = index;
            bytes += self.seal_body(table, lane, first + u64::from(index), &header, piece);
        }
        lane.counters.sent.count(1, count.into(), bytes as u64);
    }

    fn send_body(
        &mut self,
        table: &Table,
        lane: &Lane<'_>,
        header: &BodyHeader,
        body: &[u8],
        frames: u64,
    ) {
        let Some(counter) = lane.key.reserve(1) else {
            lane.counters.drops.count(DropReason::NoSession);
            return;
        };
        let len = self.seal_body(table, lane, counter, header, body);
        lane.counters.sent.count(frames, 1, len as u64);
    }

    fn seal_body(
        &mut self,
        table: &Table,
        lane: &Lane<'_>,
        counter: u64,
        header: &BodyHeader,
        body: &[u8],
    ) -> usize {
        let packet = self.place(table, lane, body.len());
        let inside = &mut packet[HEADER..];
        inside[..BODY_HEADER].copy_from_slice(&header.encode());
        inside[BODY_HEADER..BODY_HEADER + body.len()].copy_from_slice(body);
        lane.key.seal(counter, packet);
        packet.len() + lane.path.prefix()
    }

    /// A place for a packet whose body has `len` bytes, after those that go the same way.
    fn place(&mut self, table: &Table, lane: &Lane<'_>, len: usize) -> &mut [u8] {
        let prefix = lane.path.prefix();
        let total = prefix + OVERHEAD + len;
        if self.used + total > self.arena.len() {
            self.transmit(table);
        }
        let start = self.used;
        self.used += total;
        self.join(lane, start, total);
        let packet = &mut self.arena[start..start + total];
        if let Some(relay) = &lane.path.relay {
            packet[..prefix].copy_from_slice(&relay.encode());
        }
        &mut packet[prefix..]
    }

    fn join(&mut self, lane: &Lane<'_>, start: usize, total: usize) {
        if let Some(last) = self.transmits.last_mut().filter(|_| self.open) {
            let bytes = last.range.len() + total;
            let full = bytes > MAX_SEND || bytes > last.segment * MAX_SEGMENTS;
            if last.tag == lane.slot && last.to == lane.path.to && total <= last.segment && !full {
                last.range.end += total;
                // A shorter one can only be the last.
                self.open = total == last.segment;
                return;
            }
        }
        self.transmits.push(Transmit {
            to: lane.path.to,
            range: start..start + total,
            segment: total,
            tag: lane.slot,
        });
        self.open = true;
    }

    fn transmit(&mut self, table: &Table) {
        if self.transmits.is_empty() {
            return;
        }
        let events = &self.events;
        self.socket.send(
            &self.arena[..self.used],
            &self.transmits,
            self.patient,
            |failure| {
                let Some(peer) = table.peers.get(failure.tag).and_then(Option::as_ref) else {
                    return;
                };
                let lost = failure.datagrams as u64;
                peer.counters.drops.add(DropReason::SendFailed, lost);
                if failure.error.raw_os_error() == Some(libc::EMSGSIZE) {
                    events.push(Event::Suspicion(peer.id));
                }
            },
        );
        self.transmits.clear();
        self.used = 0;
        self.open = false;
    }
}

/// The way to one peer from one segment.
struct Lane<'a> {
    slot: Slot,
    vni: Vni,
    key: &'a SendKey,
    path: Path,
    counters: &'a PeerCounters,
}

fn answer(table: &Table, segment: usize, capacity: usize, frame: &[u8]) -> bool {
    let Some(answer) = too_big::answer(frame, too_big::inner_mtu(capacity, frame)) else {
        return false;
    };
    let header = VnetHeader::default().encode();
    let pieces = [IoSlice::new(&header), IoSlice::new(&answer)];
    table.segments[segment].tap.write(&pieces).is_ok()
}
