//! Cutting frames so that each piece fits into a datagram.
//!
//! A super-frame of TCP or UDP becomes segments, each a frame in its own right, so that a lost
//! datagram costs one segment. A TCP frame can be cut smaller than its sender asked for: TCP is a
//! stream of bytes. Everything else that does not fit is cut into fragments that only the other
//! end of the tunnel understands.

use super::frame::{Layout, TCP, UDP, Version, fold, put, verify_checksum};
use super::wire::{BodyHeader, BodyKind};
use crate::linux::tap::{Gso, VnetHeader};

/// Segments of one super-frame: as many as one send takes.
pub const MAX_PER_FRAME: usize = 64;
/// Bytes of headers that are copied to each segment.
pub const MAX_HEADERS: usize = 320;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// How a frame travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// As it is.
    Whole {
        /// Where its partial checksum begins, else zero.
        csum_start: u8,
        /// Where the checksum is, counted from there.
        csum_offset: u8,
    },
    /// As segments.
    Segments(Segments),
    /// As it is, but it does not fit.
    TooLarge,
    /// A super-frame of UDP whose datagrams do not fit.
    DatagramsTooLarge(Segments),
    /// Not at all: its headers contradict its offload header.
    Malformed,
}

impl Plan {
    /// How this frame travels when a body can hold `capacity` bytes.
    pub fn new(frame: &[u8], vnet: &VnetHeader, capacity: usize) -> Self {
        match vnet.gso {
            Gso::None if frame.len() <= capacity => Self::whole(vnet),
            Gso::None => Self::smaller(frame, vnet, capacity),
            Gso::Tcp4 | Gso::Tcp6 | Gso::Udp => Self::segments(frame, vnet, capacity),
        }
    }

    fn whole(vnet: &VnetHeader) -> Self {
        match (
            u8::try_from(vnet.csum_start),
            u8::try_from(vnet.csum_offset),
        ) {
            (Ok(csum_start), Ok(csum_offset)) => Self::Whole {
                csum_start,
                csum_offset,
            },
            _ => Self::Malformed,
        }
    }

    fn segments(frame: &[u8], vnet: &VnetHeader, capacity: usize) -> Self {
        let expected = if vnet.gso == Gso::Udp { UDP } else { TCP };
        let Some(segments) = Segments::new(frame, vnet.gso, vnet.ecn, usize::from(vnet.gso_size))
        else {
            return Self::Malformed;
        };
        if segments.layout.protocol != expected || vnet.gso_size == 0 {
            return Self::Malformed;
        }
        match vnet.gso {
            Gso::Udp if segments.headers + segments.size > capacity => {
                Self::DatagramsTooLarge(segments)
            }
            Gso::Udp => Self::Segments(segments),
            _ => segments
                .limited(capacity)
                .map_or(Self::TooLarge, Self::Segments),
        }
    }

    fn smaller(frame: &[u8], vnet: &VnetHeader, capacity: usize) -> Self {
        let Some(segments) = Segments::new(frame, Gso::None, false, usize::MAX) else {
            return Self::TooLarge;
        };
        // The receiver computes new checksums; a wrong one must not become right by that.
        let good = vnet.csum_start != 0 || verify_checksum(frame, &segments.layout);
        if segments.layout.protocol != TCP || !good {
            return Self::TooLarge;
        }
        segments
            .limited(capacity)
            .map_or(Self::TooLarge, Self::Segments)
    }
}

/// How a super-frame is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    layout: Layout,
    gso: Gso,
    ecn: bool,
    headers: usize,
    size: usize,
    end: usize,
}

impl Segments {
    fn new(frame: &[u8], gso: Gso, ecn: bool, size: usize) -> Option<Self> {
        let layout = Layout::parse(frame)?;
        let headers = layout.payload(frame)?;
        // A kernel that hands out super-frames beyond 64 KiB leaves the length zero.
        let end = if gso == Gso::None {
            layout.end(frame)?
        } else {
            frame.len()
        };
        let fits = headers <= MAX_HEADERS && u8::try_from(layout.l4).is_ok() && headers < end;
        let gso = match (gso, layout.version) {
            (Gso::None, Version::V4) => Gso::Tcp4,
            (Gso::None, Version::V6) => Gso::Tcp6,
            (gso, _) => gso,
        };
        (fits && !layout.fragment).then_some(Self {
            layout,
            gso,
            ecn,
            headers,
            size,
            end,
        })
    }

    fn limited(mut self, capacity: usize) -> Option<Self> {
        let room = capacity
            .checked_sub(self.headers)
            .filter(|&room| room > 0)?;
        self.size = self.size.min(room);
        Some(self)
    }

    /// How many segments there are.
    pub fn count(&self) -> usize {
        (self.end - self.headers).div_ceil(self.size)
    }

    /// Bytes of one segment.
    pub fn len(&self, index: usize) -> usize {
        self.headers + self.payload(index).len()
    }

    /// What precedes a segment in its body. More segments than one frame may have count as
    /// several frames.
    pub fn header(&self, index: usize, vni: u32) -> BodyHeader {
        let first = index - index % MAX_PER_FRAME;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "both made to fit when constructed"
        )]
        BodyHeader {
            kind: BodyKind::Segment(self.gso),
            ecn: self.ecn,
            vni,
            index: (index - first) as u8,
            count: (self.count() - first).min(MAX_PER_FRAME) as u8,
            csum_start: self.layout.l4 as u8,
            csum_offset: self.layout.csum_offset().unwrap_or(0) as u8,
        }
    }

    /// Writes one segment of the frame into a place of [`len`](Self::len) bytes. The checksum of
    /// the transport is left to who hands the segment on.
    pub fn write(&self, frame: &[u8], index: usize, out: &mut [u8]) {
        let payload = self.payload(index);
        let (headers, rest) = out.split_at_mut(self.headers);
        headers.copy_from_slice(&frame[..self.headers]);
        let payload_len = payload.len();
        rest[..payload_len].copy_from_slice(&frame[payload]);
        let layout = &self.layout;
        if layout.version == Version::V4 {
            let at = layout.l3 + 4;
            let id = u16::from_be_bytes([headers[at], headers[at + 1]]);
            #[expect(clippy::cast_possible_truncation, reason = "it wraps by design")]
            put(headers, at, id.wrapping_add(index as u16));
        }
        layout.set_len(headers, self.headers + payload_len - layout.l3);
        #[expect(clippy::cast_possible_truncation, reason = "a frame is below 4 GiB")]
        match layout.protocol {
            TCP => self.patch_tcp(headers, index),
            _ => put(headers, layout.l4 + 4, (8 + payload_len) as u16),
        }
    }

    /// Writes one segment as a frame of its own, its partial checksum right for it.
    pub fn write_frame(&self, frame: &[u8], index: usize, out: &mut [u8]) -> VnetHeader {
        self.write(frame, index, out);
        let layout = &self.layout;
        let offset = layout.csum_offset().unwrap_or(0);
        let pseudo = fold(layout.pseudo_sum(out, out.len() - layout.l4));
        put(out, layout.l4 + offset, pseudo);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "headers are below MAX_HEADERS"
        )]
        VnetHeader {
            csum_start: layout.l4 as u16,
            csum_offset: offset as u16,
            ..VnetHeader::default()
        }
    }

    fn patch_tcp(&self, headers: &mut [u8], index: usize) {
        let tcp = &mut headers[self.layout.l4..];
        let Some(sequence) = tcp[4..].first_chunk_mut::<4>() else {
            return;
        };
        #[expect(clippy::cast_possible_truncation, reason = "sequence numbers wrap")]
        let ahead = (index * self.size) as u32;
        *sequence = u32::from_be_bytes(*sequence)
            .wrapping_add(ahead)
            .to_be_bytes();
        if index > 0 {
            tcp[13] &= !CWR;
        }
        if index + 1 < self.count() {
            tcp[13] &= !(FIN | PSH);
        }
    }

    fn payload(&self, index: usize) -> std::ops::Range<usize> {
        let start = self.headers + index * self.size;
        start..self.end.min(start.saturating_add(self.size))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame::tests::packet;
    use super::super::frame::{ETHERNET, complete_checksum};
    use super::*;

    fn cut(frame: &[u8], vnet: &VnetHeader, capacity: usize) -> Vec<Vec<u8>> {
        let Plan::Segments(segments) = Plan::new(frame, vnet, capacity) else {
            panic!("expected segments");
        };
        let segment = |index| {
            let mut out = vec![0; segments.len(index)];
            segments.write(frame, index, &mut out);
            out
        };
        (0..segments.count()).map(segment).collect()
    }

    fn finish(segment: &mut [u8]) -> Layout {
        let layout = Layout::parse(segment).unwrap();
        let offset = layout.csum_offset().unwrap();
        let pseudo = fold(layout.pseudo_sum(segment, segment.len() - layout.l4));
        put(segment, layout.l4 + offset, pseudo);
        assert!(complete_checksum(segment, layout.l4, offset));
        layout
    }

    proptest! {
        #[test]
        fn tcp_segments_are_the_stream_in_order(
            v4: bool, vlans in 0usize..3, len in 1usize..9000, mss in 1u16..3000, capacity in 200usize..2000,
        ) {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let version = if v4 { Version::V4 } else { Version::V6 };
            let frame = packet(version, TCP, vlans, &payload);
            let gso = if v4 { Gso::Tcp4 } else { Gso::Tcp6 };
            let vnet = VnetHeader { gso, gso_size: mss, csum_start: 34, ..VnetHeader::default() };
            let segments = cut(&frame, &vnet, capacity);
            let mut stream: Vec<u8> = Vec::new();
            for (index, segment) in segments.iter().enumerate() {
                let mut segment = segment.clone();
                prop_assert!(segment.len() <= capacity);
                let layout = finish(&mut segment);
                prop_assert_eq!(layout.end(&segment), Some(segment.len()));
                prop_assert!(verify_checksum(&segment, &layout));
                let tcp = &segment[layout.l4..];
                let sequence = u32::from_be_bytes(*tcp[4..].first_chunk().unwrap());
                prop_assert_eq!(sequence as usize, 256 + stream.len());
                prop_assert_eq!(tcp[13] & PSH != 0, index + 1 == segments.len());
                prop_assert_eq!(tcp[13] & CWR != 0, index == 0);
                stream.extend(&segment[layout.payload(&segment).unwrap()..]);
            }
            prop_assert_eq!(stream, payload);
        }

        #[test]
        fn udp_segments_are_the_datagrams(v4: bool, len in 1usize..9000, size in 1u16..1200) {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let frame = packet(if v4 { Version::V4 } else { Version::V6 }, UDP, 0, &payload);
            let vnet = VnetHeader { gso: Gso::Udp, gso_size: size, csum_start: 34, ..VnetHeader::default() };
            let segments = cut(&frame, &vnet, 1400);
            let datagrams: Vec<_> = payload.chunks(usize::from(size)).collect();
            prop_assert_eq!(segments.len(), datagrams.len());
            for (mut segment, datagram) in segments.into_iter().zip(datagrams) {
                let layout = finish(&mut segment);
                prop_assert!(verify_checksum(&segment, &layout));
                prop_assert_eq!(&segment[layout.l4 + 8..], datagram);
            }
        }

        #[test]
        fn no_frame_makes_the_planner_panic(
            base in 0..4usize, noise in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            kind in 0..4usize, gso_size: u16, csum_start: u16, csum_offset: u16, cut_at: prop::sample::Index,
            capacity in 0usize..3000,
        ) {
            let version = if base & 1 == 0 { Version::V4 } else { Version::V6 };
            let mut frame = packet(version, if base & 2 == 0 { TCP } else { UDP }, base, &[7; 1500]);
            for (at, byte) in noise {
                let at = at.index(frame.len().min(90));
                frame[at] = byte;
            }
            frame.truncate(cut_at.index(frame.len() + 1));
            let gso = [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp][kind];
            let vnet = VnetHeader { gso, gso_size, csum_start, csum_offset, ..VnetHeader::default() };
            if let Plan::Segments(segments) | Plan::DatagramsTooLarge(segments) =
                Plan::new(&frame, &vnet, capacity)
            {
                let mut out = vec![0; frame.len()];
                for index in 0..segments.count() {
                    let _ = segments.header(index, 1);
                    let len = segments.len(index);
                    segments.write(&frame, index, &mut out[..len]);
                }
            }
        }
    }

    #[test]
    fn tcp_that_does_not_fit_is_cut_though_nobody_asked() {
        let frame = packet(Version::V4, TCP, 0, &[5; 1400]);
        let segments = cut(&frame, &VnetHeader::default(), 1000);
        assert_eq!(segments.len(), 2);
    }

    #[test]
    fn a_wrong_checksum_does_not_become_right_by_cutting() {
        let mut frame = packet(Version::V4, TCP, 0, &[5; 1400]);
        *frame.last_mut().unwrap() ^= 1;
        let plan = Plan::new(&frame, &VnetHeader::default(), 1000);
        assert_eq!(plan, Plan::TooLarge);
    }

    #[test]
    fn frames_without_ip_pass_whole() {
        let frame = [0xff; ETHERNET + 100];
        let whole = Plan::Whole {
            csum_start: 0,
            csum_offset: 0,
        };
        assert_eq!(Plan::new(&frame, &VnetHeader::default(), 200), whole);
        assert_eq!(
            Plan::new(&frame, &VnetHeader::default(), 100),
            Plan::TooLarge
        );
    }
}
