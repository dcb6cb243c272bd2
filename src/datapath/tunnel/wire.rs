//! What travels in a datagram.
//!
//! ```text
//! sealed packet   version 4 bits = 1, type 4 bits = 1 | 3 B zero | receiver index 4 B | counter 8 B
//!                 | sealed: body header 8 B, body | tag 16 B
//! relayed packet  version 4 bits = 1, type 4 bits = 2 | hops left 1 B | 2 B zero
//!                 | destination peer 16 B | source peer 16 B | sealed packet
//! ```
//!
//! Numbers are big-endian. The 16 bytes before the sealed part are authenticated with it. Who
//! listens on the underlay learns the size and time of each datagram, the receiver index (a
//! random number per pair of peers, new with each key) and the counter, and of packets that other
//! peers pass on the names of both ends. Whether a datagram is a part of a larger frame, its segment, its
//! addresses and its content are inside the sealed part.

use crate::linux::tap::Gso;
use crate::types::PeerId;

/// Bytes before the sealed part of a packet.
pub const HEADER: usize = 16;
/// Bytes of the tag after it.
pub const TAG: usize = 16;
/// Bytes before the body in the sealed part.
pub const BODY_HEADER: usize = 8;
/// Bytes that sealing adds to a body.
pub const OVERHEAD: usize = HEADER + BODY_HEADER + TAG;
/// Bytes before a packet that another peer passes on.
pub const RELAY_HEADER: usize = 36;
/// Bytes before each of the small frames packed into one body.
pub const RECORD_HEADER: usize = 4;
/// How many peers pass a packet on at most: more than a sensible mesh has across.
pub const MAX_HOPS: u8 = 8;

const SEALED: u8 = 0x11;
const RELAYED: u8 = 0x12;

/// The outside of a sealed packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// By which the receiver finds the key.
    pub receiver: u32,
    /// The number of the packet under its key, and its nonce.
    pub counter: u64,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = SEALED;
        bytes[4..8].copy_from_slice(&self.receiver.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }
}

/// One datagram, as far as it can be read without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outer {
    /// For this host.
    Sealed(Header),
    /// For another peer, or for this host by way of another.
    Relayed(RelayHeader),
}

/// The outside of a packet that another peer passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayHeader {
    /// How many more peers may pass it on.
    pub hops_left: u8,
    /// Whom it is for.
    pub to: PeerId,
    /// Who sealed it.
    pub from: PeerId,
}

impl RelayHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; RELAY_HEADER] {
        let mut bytes = [0; RELAY_HEADER];
        bytes[0] = RELAYED;
        bytes[1] = self.hops_left;
        bytes[4..20].copy_from_slice(self.to.as_bytes());
        bytes[20..36].copy_from_slice(self.from.as_bytes());
        bytes
    }
}

impl Outer {
    /// Reads the outside of a datagram; `None` when it is not one of ours.
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        match *datagram.first()? {
            SEALED => {
                if datagram.len() < OVERHEAD || datagram[1..4] != [0; 3] {
                    return None;
                }
                Some(Self::Sealed(Header {
                    receiver: u32::from_be_bytes(array(datagram, 4)?),
                    counter: u64::from_be_bytes(array(datagram, 8)?),
                }))
            }
            RELAYED => {
                if datagram.len() < RELAY_HEADER + OVERHEAD || datagram[2..4] != [0; 2] {
                    return None;
                }
                Some(Self::Relayed(RelayHeader {
                    hops_left: datagram[1],
                    to: PeerId::from_bytes(array(datagram, 4)?),
                    from: PeerId::from_bytes(array(datagram, 20)?),
                }))
            }
            _ => None,
        }
    }
}

/// What the body of a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// A whole frame, or one segment of a super-frame that the receiver may put together again.
    Segment(Gso),
    /// Several small frames, each after its [`Record`] header.
    Packed,
    /// A piece of a frame that did not fit: `index` of `count`.
    Fragment,
    /// A question whether packets of this size get through.
    Probe,
    /// The answer.
    ProbeReply,
}

/// The first bytes of the sealed part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BodyHeader {
    /// What follows.
    pub kind: BodyKind,
    /// Whether the super-frame's TCP segments carry CWR.
    pub ecn: bool,
    /// The segment's VNI; zero for what belongs to none.
    pub vni: u32,
    /// Which segment or fragment of its frame this is. Those of one frame have consecutive
    /// counters, so the counter minus the index names the frame.
    pub index: u8,
    /// How many there are.
    pub count: u8,
    /// Where the transport header begins if its checksum is partial, else zero.
    pub csum_start: u8,
    /// Where the checksum is, counted from there.
    pub csum_offset: u8,
}

impl BodyHeader {
    /// A header with nothing but its kind and segment.
    pub const fn new(kind: BodyKind, vni: u32) -> Self {
        Self {
            kind,
            ecn: false,
            vni,
            index: 0,
            count: 1,
            csum_start: 0,
            csum_offset: 0,
        }
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; BODY_HEADER] {
        let kind = match self.kind {
            BodyKind::Segment(Gso::None) => 1,
            BodyKind::Segment(Gso::Tcp4) => 2,
            BodyKind::Segment(Gso::Tcp6) => 3,
            BodyKind::Segment(Gso::Udp) => 4,
            BodyKind::Packed => 5,
            BodyKind::Fragment => 6,
            BodyKind::Probe => 7,
            BodyKind::ProbeReply => 8,
        };
        let [_, vni @ ..] = self.vni.to_be_bytes();
        [
            kind | if self.ecn { ECN } else { 0 },
            vni[0],
            vni[1],
            vni[2],
            self.index,
            self.count,
            self.csum_start,
            self.csum_offset,
        ]
    }

    /// Reads the header; `None` for kinds not known here.
    pub fn decode(body: &[u8]) -> Option<Self> {
        let bytes: [u8; BODY_HEADER] = array(body, 0)?;
        let kind = match bytes[0] & !ECN {
            1 => BodyKind::Segment(Gso::None),
            2 => BodyKind::Segment(Gso::Tcp4),
            3 => BodyKind::Segment(Gso::Tcp6),
            4 => BodyKind::Segment(Gso::Udp),
            5 => BodyKind::Packed,
            6 => BodyKind::Fragment,
            7 => BodyKind::Probe,
            8 => BodyKind::ProbeReply,
            _ => return None,
        };
        Some(Self {
            kind,
            ecn: bytes[0] & ECN != 0,
            vni: u32::from_be_bytes([0, bytes[1], bytes[2], bytes[3]]),
            index: bytes[4],
            count: bytes[5],
            csum_start: bytes[6],
            csum_offset: bytes[7],
        })
    }
}

const ECN: u8 = 0x80;

/// What precedes each packed frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Bytes of the frame.
    pub len: u16,
    /// As in [`BodyHeader`].
    pub csum_start: u8,
    /// As in [`BodyHeader`].
    pub csum_offset: u8,
}

impl Record {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; RECORD_HEADER] {
        let [high, low] = self.len.to_be_bytes();
        [high, low, self.csum_start, self.csum_offset]
    }

    /// Takes the first record off a packed body; `None` when it is cut short.
    pub fn split(body: &[u8]) -> Option<(Self, &[u8], &[u8])> {
        let [high, low, csum_start, csum_offset] = array(body, 0)?;
        let len = u16::from_be_bytes([high, low]);
        let rest = &body[RECORD_HEADER..];
        let (frame, rest) = rest.split_at_checked(usize::from(len))?;
        let record = Self {
            len,
            csum_start,
            csum_offset,
        };
        Some((record, frame, rest))
    }
}

/// What a probe and its answer say; the rest of the probe is padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Which probe.
    pub seq: u64,
    /// Bytes of the datagram that carried the probe.
    pub size: u16,
    /// Whether it went by way of other peers.
    pub relayed: bool,
}

impl Probe {
    /// Bytes of a probe without padding.
    pub const LEN: usize = 12;

    /// The probe's bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&self.seq.to_be_bytes());
        bytes[8..10].copy_from_slice(&self.size.to_be_bytes());
        bytes[10] = u8::from(self.relayed);
        bytes
    }

    /// Reads a probe; `None` when it is cut short.
    pub fn decode(body: &[u8]) -> Option<Self> {
        Some(Self {
            seq: u64::from_be_bytes(array(body, 0)?),
            size: u16::from_be_bytes(array(body, 8)?),
            relayed: *body.get(10)? & 1 != 0,
        })
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kinds() -> impl Strategy<Value = BodyKind> {
        prop::sample::select(vec![
            BodyKind::Segment(Gso::None),
            BodyKind::Segment(Gso::Tcp4),
            BodyKind::Segment(Gso::Tcp6),
            BodyKind::Segment(Gso::Udp),
            BodyKind::Packed,
            BodyKind::Fragment,
            BodyKind::Probe,
            BodyKind::ProbeReply,
        ])
    }

    proptest! {
        #[test]
        fn outer_headers_survive_the_wire(
            receiver: u32, counter: u64, hops_left: u8, to: [u8; 16], from: [u8; 16],
        ) {
            let header = Header { receiver, counter };
            let mut datagram = header.encode().to_vec();
            datagram.resize(OVERHEAD, 0);
            prop_assert_eq!(Outer::decode(&datagram), Some(Outer::Sealed(header)));
            let relay = RelayHeader {
                hops_left,
                to: PeerId::from_bytes(to),
                from: PeerId::from_bytes(from),
            };
            let relayed = [&relay.encode()[..], &datagram].concat();
            prop_assert_eq!(Outer::decode(&relayed), Some(Outer::Relayed(relay)));
        }

        #[test]
        fn body_headers_survive_the_wire(
            kind in kinds(), ecn: bool, vni in 0..1u32 << 24, index: u8, count: u8,
            csum_start: u8, csum_offset: u8,
        ) {
            let header = BodyHeader { kind, ecn, vni, index, count, csum_start, csum_offset };
            prop_assert_eq!(BodyHeader::decode(&header.encode()), Some(header));
        }

        #[test]
        fn probes_survive_the_wire(seq: u64, size: u16, relayed: bool) {
            let probe = Probe { seq, size, relayed };
            prop_assert_eq!(Probe::decode(&probe.encode()), Some(probe));
        }

        #[test]
        fn records_are_split_as_they_were_packed(frames: Vec<Vec<u8>>) {
            let mut body = Vec::new();
            for frame in &frames {
                let len = u16::try_from(frame.len()).unwrap();
                body.extend(Record { len, csum_start: 1, csum_offset: 2 }.encode());
                body.extend(frame);
            }
            let mut rest = &body[..];
            for frame in &frames {
                let (record, found, after) = Record::split(rest).unwrap();
                prop_assert_eq!((found, record.csum_offset), (&frame[..], 2));
                rest = after;
            }
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn no_bytes_make_a_parser_panic(bytes: Vec<u8>) {
            let _ = Outer::decode(&bytes);
            let _ = BodyHeader::decode(&bytes);
            let _ = Record::split(&bytes);
            let _ = Probe::decode(&bytes);
        }
    }
}
