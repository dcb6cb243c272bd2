//! The answer to a packet that must not be fragmented and does not fit: "packet too big".
//!
//! It comes from the address that the packet was for, as the kernel's own tunnels answer on
//! bridges (`skb_tunnel_check_pmtu`): nobody between could be named.

use super::frame::{ETHERNET, ICMP, ICMP6, Layout, Version, fold, put, sum, word};

/// Bytes of the offending packet that are sent back: the answer stays below 576 bytes
/// (RFC 1812, section 4.3.2.3).
const QUOTE_V4: usize = 548;
/// The answer stays below the smallest MTU (RFC 4443, section 3.2).
const QUOTE_V6: usize = 1280 - 48;
/// No smaller MTU is ever told: IPv6 knows none (RFC 8200, section 5), for IPv4 it is Linux's
/// `min_pmtu`.
const MIN_MTU: [u16; 2] = [552, 1280];

/// The frame that tells the sender of `frame` to send packets of at most `mtu` bytes; `None`
/// when the packet may be fragmented or nobody may be answered.
pub fn answer(frame: &[u8], mtu: u16) -> Option<Vec<u8>> {
    let layout = Layout::parse(frame)?;
    // Nobody answers what was sent to a group, or by one (RFC 1122, section 3.2.2).
    if frame[0] & 1 != 0 || frame[6] & 1 != 0 {
        return None;
    }
    let packet = &frame[layout.l3..layout.end(frame)?];
    let mut answer = Vec::with_capacity(layout.l3 + QUOTE_V6 + 48);
    answer.extend(&frame[6..12]);
    answer.extend(&frame[..6]);
    answer.extend(&frame[12..layout.l3]);
    match layout.version {
        Version::V4 => answer_v4(&mut answer, packet, &layout, mtu)?,
        Version::V6 => answer_v6(&mut answer, packet, &layout, mtu)?,
    }
    Some(answer)
}

fn answer_v4(answer: &mut Vec<u8>, packet: &[u8], layout: &Layout, mtu: u16) -> Option<()> {
    let dont_fragment = packet[6] & 0x40 != 0;
    let later_fragment = word(packet, 6)? & 0x1fff != 0;
    let header = layout.l4 - layout.l3;
    // Of ICMP only questions and answers are answered: 0 and 8 (RFC 792).
    let error = layout.protocol == ICMP && !matches!(packet.get(header)?, 0 | 8);
    if !dont_fragment || later_fragment || error || mtu < MIN_MTU[0] {
        return None;
    }
    let quote = &packet[..packet.len().min(QUOTE_V4)];
    let l3 = answer.len();
    answer.extend([0x45, 0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0]);
    answer.extend(&packet[16..20]);
    answer.extend(&packet[12..16]);
    let l4 = answer.len();
    answer.extend([3, 4, 0, 0, 0, 0]);
    answer.extend(mtu.to_be_bytes());
    answer.extend(quote);
    let made = Layout {
        version: Version::V4,
        l3,
        l4,
        protocol: ICMP,
        fragment: false,
    };
    let len = answer.len() - l3;
    made.set_len(answer, len);
    let checksum = !fold(sum(&answer[l4..]));
    put(answer, l4 + 2, checksum);
    Some(())
}

fn answer_v6(answer: &mut Vec<u8>, packet: &[u8], layout: &Layout, mtu: u16) -> Option<()> {
    // Errors have types below 128 (RFC 4443, section 2.1).
    let error = layout.protocol == ICMP6 && *packet.get(layout.l4 - layout.l3)? < 128;
    if error || mtu < MIN_MTU[1] {
        return None;
    }
    let quote = &packet[..packet.len().min(QUOTE_V6)];
    let l3 = answer.len();
    answer.extend([0x60, 0, 0, 0, 0, 0, ICMP6, 64]);
    answer.extend(&packet[24..40]);
    answer.extend(&packet[8..24]);
    let l4 = answer.len();
    answer.extend([2, 0, 0, 0, 0, 0]);
    answer.extend(mtu.to_be_bytes());
    answer.extend(quote);
    let made = Layout {
        version: Version::V6,
        l3,
        l4,
        protocol: ICMP6,
        fragment: false,
    };
    let len = answer.len() - l3;
    made.set_len(answer, len);
    let checksum = !fold(made.pseudo_sum(answer, answer.len() - l4) + sum(&answer[l4..]));
    put(answer, l4 + 2, checksum);
    Some(())
}

/// The largest IP packet in a frame of this many bytes, of which `l3` are before it.
pub fn inner_mtu(capacity: usize, frame: &[u8]) -> u16 {
    let l3 = Layout::parse(frame).map_or(ETHERNET, |layout| layout.l3);
    u16::try_from(capacity.saturating_sub(l3)).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::frame::tests::packet;
    use super::super::frame::{TCP, UDP, verify_checksum};
    use super::*;

    #[test]
    fn the_answer_is_addressed_to_the_sender_and_adds_up() {
        for version in [Version::V4, Version::V6] {
            let frame = packet(version, UDP, 1, &[9; 1600]);
            let answer = answer(&frame, 1300).unwrap();
            assert_eq!((&answer[..6], &answer[6..12]), (&frame[6..12], &frame[..6]));
            let layout = Layout::parse(&answer).unwrap();
            assert_eq!(layout.end(&answer), Some(answer.len()));
            assert_eq!(word(&answer, layout.l4 + 6), Some(1300));
            match version {
                Version::V4 => assert_eq!(fold(sum(&answer[layout.l4..])), 0xffff),
                Version::V6 => assert!(verify_checksum(&answer, &layout)),
            }
        }
    }

    #[test]
    fn groups_and_errors_and_what_may_be_fragmented_are_not_answered() {
        let mut group = packet(Version::V4, UDP, 0, &[9; 1600]);
        group[0] |= 1;
        assert_eq!(answer(&group, 1300), None);
        let mut may_be_fragmented = packet(Version::V4, UDP, 0, &[9; 1600]);
        may_be_fragmented[20] = 0;
        assert_eq!(answer(&may_be_fragmented, 1300), None);
        let mut error = packet(Version::V4, ICMP, 0, &[9; 1600]);
        error[34] = 3;
        assert_eq!(answer(&error, 1300), None);
        let v6 = packet(Version::V6, TCP, 0, &[9; 1600]);
        assert_eq!(answer(&v6, 1279), None);
    }

    proptest! {
        #[test]
        fn no_frame_makes_it_panic(mut frame: Vec<u8>, v4: bool, mtu: u16) {
            put(&mut frame, 12, if v4 { 0x800 } else { 0x86dd });
            let _ = answer(&frame, mtu);
        }
    }
}
