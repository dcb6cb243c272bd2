//! Putting segments together again, so that a super-frame enters the receiving host as one.
//!
//! The sender said how it cut, and segments of one frame come one after the other: nothing is
//! kept beyond one batch, and nothing is copied but headers.

use std::io::IoSlice;

use super::frame::{ETHERNET, Layout, TCP, UDP, Version, fold, put};
use super::segment::{MAX_HEADERS, MAX_PER_FRAME};
use super::wire::{BodyHeader, BodyKind, Record};
use crate::linux::tap::{Gso, VNET_HEADER, VnetHeader};

/// Bytes of IP packet in one frame for the kernel.
const MAX_PACKET: usize = 65_535;

const FIN_PSH: u8 = 0x09;

/// Takes frames for a segment; returns whether the kernel took it.
pub trait FrameSink {
    /// Whether super-frames of UDP can be delivered.
    fn takes_udp(&self) -> bool;
    /// Delivers one frame, its header first, to the segment with this VNI.
    fn deliver(&mut self, vni: u32, pieces: &[IoSlice<'_>]);
    /// Notes that something made no sense.
    fn malformed(&mut self);
}

/// What came, until it is known whether more belongs to it.
pub struct Coalescer<'a> {
    run: Option<Run<'a>>,
    payloads: [IoSlice<'a>; MAX_PER_FRAME + 1],
}

impl Default for Coalescer<'_> {
    fn default() -> Self {
        Self::new()
    }
}

struct Run<'a> {
    origin: Origin,
    vni: u32,
    gso: Gso,
    ecn: bool,
    layout: Layout,
    headers: &'a [u8],
    /// Bytes of payload of all segments but the last.
    size: usize,
    count: usize,
    bytes: usize,
    flags: u8,
    /// A shorter segment has come, which can only be the last.
    closed: bool,
}

/// What makes two segments neighbours.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Cut from one frame: the key's index, the frame's first counter, the index that follows.
    Frame(u32, u64, u8),
    /// Datagrams of one flow that were packed one after the other.
    Flow,
}

impl<'a> Coalescer<'a> {
    /// Nothing has come yet.
    pub fn new() -> Self {
        Self {
            run: None,
            payloads: [IoSlice::new(&[]); MAX_PER_FRAME + 1],
        }
    }

    /// Takes a body with a frame, a segment or packed frames, opened with the key of this index.
    pub fn push(
        &mut self,
        key: u32,
        counter: u64,
        header: &BodyHeader,
        body: &'a [u8],
        sink: &mut impl FrameSink,
    ) {
        match header.kind {
            BodyKind::Segment(Gso::None) => {
                self.flush(sink);
                whole(
                    header.vni,
                    header.csum_start,
                    header.csum_offset,
                    body,
                    sink,
                );
            }
            BodyKind::Segment(gso) => self.push_segment(key, counter, header, gso, body, sink),
            BodyKind::Packed => self.push_packed(header.vni, body, sink),
            BodyKind::Fragment | BodyKind::Probe | BodyKind::ProbeReply => sink.malformed(),
        }
    }

    /// Delivers what has come.
    pub fn flush(&mut self, sink: &mut impl FrameSink) {
        let Some(run) = self.run.take() else {
            return;
        };
        let mut space = [0; VNET_HEADER + MAX_HEADERS];
        let len = VNET_HEADER + run.headers.len();
        let (vnet, headers) = space[..len].split_at_mut(VNET_HEADER);
        headers.copy_from_slice(run.headers);
        vnet.copy_from_slice(&run.finish(headers).encode());
        let mut pieces = [IoSlice::new(&[]); MAX_PER_FRAME + 1];
        pieces[0] = IoSlice::new(&space[..len]);
        pieces[1..=run.count].copy_from_slice(&self.payloads[..run.count]);
        sink.deliver(run.vni, &pieces[..=run.count]);
    }

    fn push_segment(
        &mut self,
        key: u32,
        counter: u64,
        header: &BodyHeader,
        gso: Gso,
        body: &'a [u8],
        sink: &mut impl FrameSink,
    ) {
        let Some((layout, headers, payload)) = open(body) else {
            self.flush(sink);
            sink.malformed();
            return;
        };
        let expected = if gso == Gso::Udp { UDP } else { TCP };
        if layout.protocol != expected {
            self.flush(sink);
            sink.malformed();
            return;
        }
        let frame = counter.wrapping_sub(u64::from(header.index));
        let origin = Origin::Frame(key, frame, header.index);
        let may_join = gso != Gso::Udp || sink.takes_udp();
        if may_join && self.joins(origin, header.vni, &layout, headers, payload) {
            self.append(headers, payload);
            return;
        }
        self.flush(sink);
        self.begin(
            origin, header.vni, gso, header.ecn, layout, headers, payload,
        );
    }

    fn push_packed(&mut self, vni: u32, body: &'a [u8], sink: &mut impl FrameSink) {
        let mut rest = body;
        while !rest.is_empty() {
            let Some((record, frame, after)) = Record::split(rest) else {
                sink.malformed();
                return;
            };
            rest = after;
            self.push_small(vni, record, frame, sink);
        }
    }

    fn push_small(&mut self, vni: u32, record: Record, frame: &'a [u8], sink: &mut impl FrameSink) {
        // Only with a partial checksum is it certain that a new one hides no damage.
        let opened = open(frame).filter(|(layout, headers, payload)| {
            layout.protocol == UDP
                && !layout.fragment
                && usize::from(record.csum_start) == layout.l4
                && layout.end(frame) == Some(headers.len() + payload.len())
                && sink.takes_udp()
        });
        let Some((layout, headers, payload)) = opened else {
            self.flush(sink);
            whole(vni, record.csum_start, record.csum_offset, frame, sink);
            return;
        };
        if self.joins(Origin::Flow, vni, &layout, headers, payload) {
            self.append(headers, payload);
            return;
        }
        self.flush(sink);
        self.begin(Origin::Flow, vni, Gso::Udp, false, layout, headers, payload);
    }

    fn joins(
        &self,
        origin: Origin,
        vni: u32,
        layout: &Layout,
        headers: &[u8],
        payload: &[u8],
    ) -> bool {
        let Some(run) = &self.run else {
            return false;
        };
        run.vni == vni
            && run.origin == origin
            && !run.closed
            && run.count < MAX_PER_FRAME
            && !payload.is_empty()
            && payload.len() <= run.size
            && run.headers.len() + run.bytes + payload.len() <= MAX_PACKET
            && run.layout == *layout
            && run.headers.len() == headers.len()
            && (origin != Origin::Flow || same_flow(layout, run.headers, headers))
    }

    fn append(&mut self, headers: &[u8], payload: &'a [u8]) {
        let Some(run) = &mut self.run else {
            return;
        };
        self.payloads[run.count] = IoSlice::new(payload);
        run.count += 1;
        run.bytes += payload.len();
        run.closed = payload.len() < run.size;
        if run.layout.protocol == TCP {
            run.flags |= headers[run.layout.l4 + 13] & FIN_PSH;
        }
        run.origin = run.origin.next();
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one run")]
    fn begin(
        &mut self,
        origin: Origin,
        vni: u32,
        gso: Gso,
        ecn: bool,
        layout: Layout,
        headers: &'a [u8],
        payload: &'a [u8],
    ) {
        self.payloads[0] = IoSlice::new(payload);
        self.run = Some(Run {
            origin: origin.next(),
            vni,
            gso,
            ecn,
            layout,
            headers,
            size: payload.len(),
            count: 1,
            bytes: payload.len(),
            flags: 0,
            closed: false,
        });
    }
}

impl Origin {
    fn next(self) -> Self {
        match self {
            Self::Frame(key, frame, index) => Self::Frame(key, frame, index.wrapping_add(1)),
            Self::Flow => Self::Flow,
        }
    }
}

impl Run<'_> {
    /// Makes the first segment's headers those of the whole, with a partial checksum.
    fn finish(&self, headers: &mut [u8]) -> VnetHeader {
        let layout = &self.layout;
        let len = headers.len() + self.bytes;
        if self.count > 1 {
            layout.set_len(headers, len - layout.l3);
            #[expect(clippy::cast_possible_truncation, reason = "at most MAX_PACKET")]
            match layout.protocol {
                TCP => headers[layout.l4 + 13] |= self.flags,
                _ => put(headers, layout.l4 + 4, (len - layout.l4) as u16),
            }
        }
        let offset = if layout.protocol == TCP { 16 } else { 6 };
        let pseudo = fold(layout.pseudo_sum(headers, len - layout.l4));
        put(headers, layout.l4 + offset, pseudo);
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_PACKET")]
        let mut vnet = VnetHeader {
            csum_start: layout.l4 as u16,
            csum_offset: offset as u16,
            ..VnetHeader::default()
        };
        if self.count > 1 {
            vnet.gso = match (self.gso, layout.version) {
                (Gso::Udp, _) => Gso::Udp,
                (_, Version::V4) => Gso::Tcp4,
                (_, Version::V6) => Gso::Tcp6,
            };
            vnet.ecn = self.ecn;
            #[expect(clippy::cast_possible_truncation, reason = "at most MAX_PACKET")]
            {
                vnet.gso_size = self.size as u16;
                vnet.header_len = headers.len() as u16;
            }
        }
        vnet
    }
}

/// The headers and the payload of a frame that may be part of a larger one.
fn open(frame: &[u8]) -> Option<(Layout, &[u8], &[u8])> {
    let layout = Layout::parse(frame)?;
    let (headers, payload) = frame.split_at_checked(layout.payload(frame)?)?;
    (headers.len() <= MAX_HEADERS).then_some((layout, headers, payload))
}

/// Whether two UDP frames differ in nothing but what follows from their length and number.
fn same_flow(layout: &Layout, one: &[u8], two: &[u8]) -> bool {
    let (l3, l4) = (layout.l3, layout.l4);
    let ip = match layout.version {
        // All but length, identification and checksum.
        Version::V4 => {
            one[l3..l3 + 2] == two[l3..l3 + 2]
                && one[l3 + 6..l3 + 10] == two[l3 + 6..l3 + 10]
                && one[l3 + 12..l4] == two[l3 + 12..l4]
        }
        // All but the length.
        Version::V6 => one[l3..l3 + 4] == two[l3..l3 + 4] && one[l3 + 6..l4] == two[l3 + 6..l4],
    };
    ip && one[..l3] == two[..l3] && one[l4..l4 + 4] == two[l4..l4 + 4]
}

fn whole(vni: u32, csum_start: u8, csum_offset: u8, frame: &[u8], sink: &mut impl FrameSink) {
    if frame.len() < ETHERNET {
        sink.malformed();
        return;
    }
    let vnet = VnetHeader {
        csum_start: csum_start.into(),
        csum_offset: csum_offset.into(),
        ..VnetHeader::default()
    };
    sink.deliver(vni, &[IoSlice::new(&vnet.encode()), IoSlice::new(frame)]);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame::tests::packet;
    use super::super::frame::{complete_checksum, verify_checksum};
    use super::super::segment::Plan;
    use super::*;

    #[derive(Default)]
    struct Frames {
        delivered: Vec<(VnetHeader, Vec<u8>)>,
        malformed: usize,
        without_udp: bool,
    }

    impl FrameSink for Frames {
        fn takes_udp(&self) -> bool {
            !self.without_udp
        }

        fn deliver(&mut self, _vni: u32, pieces: &[IoSlice<'_>]) {
            let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.to_vec()).collect();
            let (vnet, frame) = bytes.split_first_chunk().unwrap();
            self.delivered
                .push((VnetHeader::decode(vnet).unwrap(), frame.to_vec()));
        }

        fn malformed(&mut self) {
            self.malformed += 1;
        }
    }

    fn segments(frame: &[u8], gso: Gso, size: u16) -> Vec<(BodyHeader, Vec<u8>)> {
        let vnet = VnetHeader {
            gso,
            gso_size: size,
            csum_start: 34,
            ..VnetHeader::default()
        };
        let Plan::Segments(plan) = Plan::new(frame, &vnet, 2000) else {
            panic!("expected segments");
        };
        let segment = |index| {
            let mut out = vec![0; plan.len(index)];
            plan.write(frame, index, &mut out);
            (plan.header(index, 5), out)
        };
        (0..plan.count()).map(segment).collect()
    }

    fn run(bodies: &[(u64, BodyHeader, Vec<u8>)], sink: &mut Frames) {
        let mut coalescer = Coalescer::new();
        for (counter, header, body) in bodies {
            coalescer.push(1, *counter, header, body, sink);
        }
        coalescer.flush(sink);
    }

    /// The frame as it would look on a wire: checksum complete.
    fn completed((vnet, mut frame): (VnetHeader, Vec<u8>)) -> Vec<u8> {
        let (start, offset) = (usize::from(vnet.csum_start), usize::from(vnet.csum_offset));
        assert!(complete_checksum(&mut frame, start, offset));
        frame
    }

    proptest! {
        #[test]
        fn what_was_cut_is_whole_again(
            v4: bool, tcp: bool, vlans in 0usize..3, len in 1201usize..30_000, size in 1000u16..1800,
        ) {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let version = if v4 { Version::V4 } else { Version::V6 };
            let frame = packet(version, if tcp { TCP } else { UDP }, vlans, &payload);
            let gso = match (tcp, v4) { (false, _) => Gso::Udp, (_, true) => Gso::Tcp4, _ => Gso::Tcp6 };
            let bodies: Vec<_> = segments(&frame, gso, size).into_iter().enumerate()
                .map(|(at, (header, body))| (100 + at as u64, header, body)).collect();
            let mut sink = Frames::default();
            run(&bodies, &mut sink);
            prop_assert_eq!(sink.delivered.len(), 1);
            if bodies.len() > 1 {
                prop_assert_eq!((sink.delivered[0].0.gso, sink.delivered[0].0.gso_size), (gso, size));
            }
            prop_assert_eq!(completed(sink.delivered.remove(0)), frame);
        }

        #[test]
        fn lost_and_reordered_segments_leave_correct_frames(
            tcp: bool, lost in prop::collection::vec(any::<bool>(), 20), swap in 0usize..19,
        ) {
            let payload: Vec<u8> = (0..20_000u32).map(|i| i as u8).collect();
            let frame = packet(Version::V4, if tcp { TCP } else { UDP }, 0, &payload);
            let gso = if tcp { Gso::Tcp4 } else { Gso::Udp };
            let mut bodies: Vec<_> = segments(&frame, gso, 1000).into_iter().enumerate()
                .map(|(at, (header, body))| (at as u64, header, body)).collect();
            bodies.swap(swap, swap + 1);
            bodies.retain(|(at, ..)| !lost[*at as usize]);
            let mut sink = Frames::default();
            run(&bodies, &mut sink);
            let mut bytes = 0;
            for delivered in sink.delivered {
                let frame = completed(delivered);
                let layout = Layout::parse(&frame).unwrap();
                prop_assert!(verify_checksum(&frame, &layout));
                let start = layout.payload(&frame).unwrap();
                bytes += frame.len() - start;
                if tcp {
                    let sequence = u32::from_be_bytes(*frame[layout.l4 + 4..].first_chunk().unwrap());
                    let at = (sequence - 256) as usize;
                    prop_assert_eq!(&frame[start..], &payload[at..at + frame.len() - start]);
                }
            }
            prop_assert_eq!(bytes, bodies.len() * 1000);
        }

        #[test]
        fn no_body_makes_it_panic(
            kind in 0..5usize, index: u8, count: u8, csum_start: u8, csum_offset: u8, body: Vec<u8>,
            base in 0..4usize, noise in prop::collection::vec((0usize..90, any::<u8>()), 0..6),
        ) {
            let kind = [BodyKind::Segment(Gso::None), BodyKind::Segment(Gso::Tcp4),
                BodyKind::Segment(Gso::Tcp6), BodyKind::Segment(Gso::Udp), BodyKind::Packed][kind];
            let header = BodyHeader { kind, ecn: false, vni: 1, index, count, csum_start, csum_offset };
            let version = if base & 1 == 0 { Version::V4 } else { Version::V6 };
            let mut frame = packet(version, if base & 2 == 0 { TCP } else { UDP }, 0, &[1; 60]);
            for (at, byte) in noise {
                if let Some(place) = frame.get_mut(at) {
                    *place = byte;
                }
            }
            let next = BodyHeader { index: index.wrapping_add(1), ..header };
            run(&[(9, header, body), (10, header, frame.clone()), (11, next, frame)], &mut Frames::default());
        }
    }

    #[test]
    fn packed_datagrams_of_one_flow_become_one_frame_and_others_stay() {
        let mut body = Vec::new();
        for (protocol, payload) in [
            (UDP, &[1; 64]),
            (UDP, &[2; 64]),
            (TCP, &[3; 64]),
            (UDP, &[4; 64]),
        ] {
            let frame = packet(Version::V4, protocol, 0, payload);
            let record = Record {
                len: frame.len() as u16,
                csum_start: 34,
                csum_offset: if protocol == UDP { 6 } else { 16 },
            };
            body.extend(record.encode());
            body.extend(frame);
        }
        let mut sink = Frames::default();
        run(
            &[(1, BodyHeader::new(BodyKind::Packed, 5), body.clone())],
            &mut sink,
        );
        assert_eq!(
            sink.delivered
                .iter()
                .map(|d| d.0.gso_size)
                .collect::<Vec<_>>(),
            [64, 0, 0]
        );
        let mut sink = Frames {
            without_udp: true,
            ..Frames::default()
        };
        run(
            &[(1, BodyHeader::new(BodyKind::Packed, 5), body)],
            &mut sink,
        );
        assert_eq!(sink.delivered.len(), 4);
    }

    #[test]
    fn a_super_frame_without_its_middle_is_two() {
        let frame = packet(Version::V4, TCP, 0, &[7; 5000]);
        let mut bodies: Vec<_> = segments(&frame, Gso::Tcp4, 1000)
            .into_iter()
            .enumerate()
            .map(|(at, (header, body))| (at as u64, header, body))
            .collect();
        bodies.remove(2);
        let mut sink = Frames::default();
        run(&bodies, &mut sink);
        assert_eq!(sink.delivered.len(), 2);
    }
}
