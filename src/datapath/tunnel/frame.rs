//! Where the headers of an Ethernet frame lie, and the checksums in them.

/// Bytes of an Ethernet header without VLAN tags.
pub const ETHERNET: usize = 14;
/// Protocol numbers (IANA).
pub const TCP: u8 = 6;
/// See [`TCP`].
pub const UDP: u8 = 17;
/// See [`TCP`].
pub const ICMP: u8 = 1;
/// See [`TCP`].
pub const ICMP6: u8 = 58;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: [u16; 2] = [0x8100, 0x88a8];
/// Tags that are looked through: a customer's inside a provider's (IEEE 802.1ad).
const MAX_VLAN_TAGS: usize = 2;
/// IPv6 extension headers that are looked through.
const MAX_EXTENSIONS: usize = 4;

/// Which IP a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// Where the headers of a frame with an IP packet lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Which IP.
    pub version: Version,
    /// Where the IP header begins.
    pub l3: usize,
    /// Where the transport header begins.
    pub l4: usize,
    /// What the transport is.
    pub protocol: u8,
    /// Whether it is a part of a larger packet.
    pub fragment: bool,
}

impl Layout {
    /// Looks at a frame; `None` when it carries no IP, or not all of the headers.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let mut l3 = ETHERNET;
        let mut ethertype = word(frame, 12)?;
        for _ in 0..MAX_VLAN_TAGS {
            if ETHERTYPE_VLAN.contains(&ethertype) {
                ethertype = word(frame, l3 + 2)?;
                l3 += 4;
            }
        }
        match ethertype {
            ETHERTYPE_IPV4 => Self::parse_v4(frame, l3),
            ETHERTYPE_IPV6 => Self::parse_v6(frame, l3),
            _ => None,
        }
    }

    fn parse_v4(frame: &[u8], l3: usize) -> Option<Self> {
        let header = frame.get(l3..l3 + 20)?;
        let len = usize::from(header[0] & 15) * 4;
        if header[0] >> 4 != 4 || len < 20 || frame.len() < l3 + len {
            return None;
        }
        Some(Self {
            version: Version::V4,
            l3,
            l4: l3 + len,
            protocol: header[9],
            // More fragments follow, or this is not the first (RFC 791, section 3.1).
            fragment: word(header, 6)? & 0x3fff != 0,
        })
    }

    fn parse_v6(frame: &[u8], l3: usize) -> Option<Self> {
        let header = frame.get(l3..l3 + 40)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let (mut protocol, mut l4, mut fragment) = (header[6], l3 + 40, false);
        for _ in 0..MAX_EXTENSIONS {
            match protocol {
                // Hop-by-hop, routing and destination options (RFC 8200, section 4).
                0 | 43 | 60 => {
                    let extension = frame.get(l4..l4 + 2)?;
                    protocol = extension[0];
                    l4 += (usize::from(extension[1]) + 1) * 8;
                }
                44 => {
                    protocol = *frame.get(l4)?;
                    l4 += 8;
                    fragment = true;
                }
                _ => break,
            }
        }
        (l4 <= frame.len()).then_some(Self {
            version: Version::V6,
            l3,
            l4,
            protocol,
            fragment,
        })
    }

    /// Where the payload of TCP or UDP begins.
    pub fn payload(&self, frame: &[u8]) -> Option<usize> {
        let len = match self.protocol {
            TCP => usize::from(frame.get(self.l4 + 12)? >> 4) * 4,
            UDP => 8,
            _ => return None,
        };
        if self.protocol == TCP && len < 20 {
            return None;
        }
        (self.l4 + len <= frame.len()).then_some(self.l4 + len)
    }

    /// Where the IP packet ends, which may be before the frame does.
    pub fn end(&self, frame: &[u8]) -> Option<usize> {
        let end = match self.version {
            Version::V4 => self.l3 + usize::from(word(frame, self.l3 + 2)?),
            Version::V6 => self.l3 + 40 + usize::from(word(frame, self.l3 + 4)?),
        };
        (self.l4 <= end && end <= frame.len()).then_some(end)
    }

    /// Where the checksum of TCP or UDP is, counted from the transport header.
    pub fn csum_offset(&self) -> Option<usize> {
        match self.protocol {
            TCP => Some(16),
            UDP => Some(6),
            _ => None,
        }
    }

    /// Writes the length of an IP packet that ends `len` bytes after its header begins, and for
    /// IPv4 the sum over the header.
    pub fn set_len(&self, headers: &mut [u8], len: usize) {
        #[expect(clippy::cast_possible_truncation, reason = "callers keep to 64 KiB")]
        match self.version {
            Version::V4 => {
                put(headers, self.l3 + 2, len as u16);
                self.sum_ip(headers);
            }
            Version::V6 => put(headers, self.l3 + 4, len.saturating_sub(40) as u16),
        }
    }

    /// Completes the sum over an IPv4 header; IPv6 has none.
    pub fn sum_ip(&self, headers: &mut [u8]) {
        if self.version == Version::V6 {
            return;
        }
        put(headers, self.l3 + 10, 0);
        let sum = !fold(sum(&headers[self.l3..self.l4]));
        put(headers, self.l3 + 10, sum);
    }

    /// The sum over the pseudo header of a transport of `len` bytes (RFC 9293 section 3.1,
    /// RFC 8200 section 8.1), neither folded nor inverted.
    pub fn pseudo_sum(&self, headers: &[u8], len: usize) -> u64 {
        let addresses = match self.version {
            Version::V4 => self.l3 + 12..self.l3 + 20,
            Version::V6 => self.l3 + 8..self.l3 + 40,
        };
        sum(&headers[addresses]) + u64::from(self.protocol) + len as u64
    }
}

/// Completes a checksum that covers only the pseudo header yet. Returns whether it could.
pub fn complete_checksum(frame: &mut [u8], start: usize, offset: usize) -> bool {
    if start + offset + 2 > frame.len() {
        return false;
    }
    let end = Layout::parse(frame)
        .and_then(|layout| layout.end(frame))
        .unwrap_or(frame.len());
    if end < start + offset + 2 {
        return false;
    }
    let complete = match !fold(sum(&frame[start..end])) {
        // Zero means that there is none (RFC 768).
        0 => 0xffff,
        complete => complete,
    };
    put(frame, start + offset, complete);
    true
}

/// Whether the checksum of a TCP or UDP packet is right.
pub fn verify_checksum(frame: &[u8], layout: &Layout) -> bool {
    let Some(end) = layout.end(frame) else {
        return false;
    };
    let sum = layout.pseudo_sum(frame, end - layout.l4) + sum(&frame[layout.l4..end]);
    fold(sum) == 0xffff
}

/// The sum of big-endian words (RFC 1071), of which an odd last byte is the upper half.
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum: u64 = words
        .iter()
        .map(|w| u64::from(u16::from_be_bytes(*w)))
        .sum();
    sum + rest.first().map_or(0, |&last| u64::from(last) << 8)
}

/// Brings a sum to 16 bits.
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    #[expect(clippy::cast_possible_truncation, reason = "just made to fit")]
    {
        sum as u16
    }
}

/// The word at this place, if there is one.
pub fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .copied()
        .map(u16::from_be_bytes)
}

/// Writes a word, if there is room.
pub fn put(bytes: &mut [u8], at: usize, word: u16) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.first_chunk_mut()) {
        *place = word.to_be_bytes();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// An Ethernet frame with TCP or UDP in it, its checksum complete.
    pub(in super::super) fn packet(
        version: Version,
        protocol: u8,
        vlans: usize,
        payload: &[u8],
    ) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for tag in 0..vlans {
            frame.extend([0x81, 0, 0, tag as u8]);
        }
        let mut transport = match protocol {
            // Ports, sequence, acknowledgement, header of 32 bytes, ACK and PSH and CWR.
            TCP => {
                let mut tcp = vec![
                    0, 80, 1, 2, 0, 0, 1, 0, 0, 0, 0, 9, 0x80, 0x98, 1, 0, 0, 0, 0, 0,
                ];
                tcp.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
                tcp
            }
            UDP => {
                let mut udp = vec![0, 80, 1, 2, 0, 0, 0, 0];
                put(&mut udp, 4, (8 + payload.len()) as u16);
                udp
            }
            _ => vec![0; 8],
        };
        transport.extend(payload);
        let l3 = frame.len() + 2;
        match version {
            Version::V4 => {
                frame.extend([8, 0, 0x45, 0, 0, 0, 0x12, 0x34, 0x40, 0, 64, protocol, 0, 0]);
                frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
            }
            Version::V6 => {
                frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, protocol, 64]);
                frame.extend([0xfd; 16]);
                frame.extend([0xfc; 16]);
            }
        }
        let l4 = frame.len();
        frame.extend(transport);
        let layout = Layout {
            version,
            l3,
            l4,
            protocol,
            fragment: false,
        };
        let len = frame.len() - l3;
        layout.set_len(&mut frame, len);
        if let Some(offset) = layout.csum_offset() {
            let pseudo = fold(layout.pseudo_sum(&frame, frame.len() - l4));
            put(&mut frame, l4 + offset, pseudo);
            assert!(complete_checksum(&mut frame, l4, offset));
        }
        frame
    }

    fn naive_sum(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_textbook(bytes: Vec<u8>) {
            prop_assert_eq!(fold(sum(&bytes)), naive_sum(&bytes));
        }

        #[test]
        fn headers_are_found_behind_vlan_tags(
            v4: bool, tcp: bool, vlans in 0usize..3, payload: Vec<u8>,
        ) {
            let version = if v4 { Version::V4 } else { Version::V6 };
            let frame = packet(version, if tcp { TCP } else { UDP }, vlans, &payload);
            let layout = Layout::parse(&frame).unwrap();
            prop_assert_eq!(layout.payload(&frame), Some(frame.len() - payload.len()));
            prop_assert_eq!(layout.end(&frame), Some(frame.len()));
            prop_assert!(verify_checksum(&frame, &layout));
        }

        #[test]
        fn no_frame_makes_the_parser_panic(
            mut frame: Vec<u8>, kind in prop::sample::select(vec![0u16, 0x800, 0x86dd, 0x8100]),
            start in 0usize..300, offset in 0usize..300,
        ) {
            put(&mut frame, 12, kind);
            if let Some(layout) = Layout::parse(&frame) {
                let _ = (layout.payload(&frame), layout.end(&frame));
                let _ = verify_checksum(&frame, &layout);
            }
            complete_checksum(&mut frame, start, offset);
        }
    }
}
