//! The frames that tell neighbours whose address is where.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::types::Mac;

const BROADCAST: Mac = Mac::new([0xff; 6]);
/// `ff02::1`, all nodes of the link, as an Ethernet address (RFC 2464, section 7).
const ALL_NODES_MAC: Mac = Mac::new([0x33, 0x33, 0, 0, 0, 1]);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
/// IPv6's number of ICMPv6 (RFC 4443, section 1).
const ICMPV6: u8 = 58;

/// A frame for everybody that says: this address is at this MAC.
pub(super) fn frame(mac: Mac, address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(ip) => arp_announcement(mac, ip),
        IpAddr::V6(ip) => neighbour_advertisement(mac, ip),
    }
}

/// RFC 5227, section 3: a request for one's own address; the format is RFC 826's.
fn arp_announcement(mac: Mac, ip: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(BROADCAST, mac, ETHERTYPE_ARP);
    // Ethernet, IPv4, their lengths, request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.octets());
    frame.extend(ip.octets());
    frame.extend([0; 6]);
    frame.extend(ip.octets());
    frame
}

/// RFC 4861, sections 4.4 and 7.2.6: unsolicited, overriding what is cached.
fn neighbour_advertisement(mac: Mac, ip: Ipv6Addr) -> Vec<u8> {
    // Type 136, code 0, checksum to come, flags: override.
    let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    body.extend(ip.octets());
    // Option 2, one unit of 8 bytes: the target's link-layer address.
    body.extend([2, 1]);
    body.extend(mac.octets());
    let sum = checksum(ip, ALL_NODES, &body);
    body[2..4].copy_from_slice(&sum.to_be_bytes());

    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    // Version 6, length, next header, hop limit 255 (others are refused).
    frame.extend([0x60, 0, 0, 0, 0, body.len() as u8, ICMPV6, 255]);
    frame.extend(ip.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(body);
    frame
}

fn ethernet(to: Mac, from: Mac, ethertype: u16) -> Vec<u8> {
    [&to.octets()[..], &from.octets(), &ethertype.to_be_bytes()].concat()
}

/// RFC 4443, section 2.3: the Internet checksum with IPv6's pseudo-header.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, body: &[u8]) -> u16 {
    let mut bytes = [from.octets(), to.octets()].concat();
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, ICMPV6]);
    bytes.extend(body);
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    // The sum of at most 2^16 words of 16 bits folds in two steps.
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac::new([2, 0x77, 10, 0, 0, 1]);

    #[test]
    fn an_arp_announcement_asks_for_its_own_address() {
        let frame = frame(MAC, "10.0.0.1".parse().unwrap());
        assert_eq!(frame.len(), 14 + 28);
        assert_eq!(&frame[..6], &[0xff; 6]);
        assert_eq!(&frame[6..12], &MAC.octets());
        assert_eq!(&frame[28..32], &[10, 0, 0, 1]);
        assert_eq!(&frame[38..42], &[10, 0, 0, 1]);
    }

    #[test]
    fn a_neighbour_advertisement_passes_its_own_checksum() {
        let ip: Ipv6Addr = "fd00::1".parse().unwrap();
        let frame = frame(MAC, ip.into());
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(checksum(ip, ALL_NODES, &frame[54..]), 0);
    }
}
