//! How large a packet fits through the wire.

use std::net::IpAddr;

use super::tunnel::wire::OVERHEAD;

/// What VXLAN adds to an IP packet over IPv4: the inner Ethernet header (14 bytes), VXLAN's own
/// (8), UDP's (8) and IPv4's (20) (RFC 7348, section 5).
pub const VXLAN_OVERHEAD_IPV4: u32 = 14 + 8 + 8 + 20;

/// The same over IPv6, whose header has 40 bytes (RFC 8200, section 3).
pub const VXLAN_OVERHEAD_IPV6: u32 = 14 + 8 + 8 + 40;

/// What the tunnel adds to an IP packet over IPv4: the inner Ethernet header (14 bytes), its own
/// ([`OVERHEAD`]), UDP's (8) and IPv4's (20).
pub const TUNNEL_OVERHEAD_IPV4: u32 = 14 + OVERHEAD as u32 + 8 + 20;

/// The same over IPv6.
pub const TUNNEL_OVERHEAD_IPV6: u32 = 14 + OVERHEAD as u32 + 8 + 40;

/// The largest packet on the underlay that the tunnel makes: Ethernet's jumbo frames.
const TUNNEL_LARGEST: u32 = super::tunnel::probe::MAX as u32 + 8 + 20;

/// The smallest packet that every IPv4 link carries (RFC 791, section 3.2); the kernel gives no
/// device less.
pub const SMALLEST: u16 = 68;

/// The largest packet that a container may send so that it fits, with VXLAN around it, into
/// packets of `underlay` bytes to the host at `to`.
pub fn through_vxlan(underlay: u32, to: IpAddr) -> u16 {
    let overhead = match to {
        IpAddr::V4(_) => VXLAN_OVERHEAD_IPV4,
        IpAddr::V6(_) => VXLAN_OVERHEAD_IPV6,
    };
    within(underlay, overhead)
}

/// The same with the tunnel around it.
pub fn through_tunnel(underlay: u32, to: IpAddr) -> u16 {
    let overhead = match to {
        IpAddr::V4(_) => TUNNEL_OVERHEAD_IPV4,
        IpAddr::V6(_) => TUNNEL_OVERHEAD_IPV6,
    };
    within(underlay.min(TUNNEL_LARGEST), overhead)
}

fn within(underlay: u32, overhead: u32) -> u16 {
    let inner = underlay.saturating_sub(overhead);
    u16::try_from(inner).unwrap_or(u16::MAX).max(SMALLEST)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn vxlan_takes_50_bytes_over_ipv4_and_70_over_ipv6() {
        let v4 = Ipv4Addr::LOCALHOST.into();
        assert_eq!(through_vxlan(1500, v4), 1450);
        assert_eq!(through_vxlan(9000, Ipv6Addr::LOCALHOST.into()), 8930);
        assert_eq!(through_vxlan(0, v4), SMALLEST);
        assert_eq!(through_vxlan(u32::MAX, v4), u16::MAX);
    }

    #[test]
    fn the_tunnel_takes_82_bytes_over_ipv4_and_102_over_ipv6() {
        let v4 = Ipv4Addr::LOCALHOST.into();
        assert_eq!(through_tunnel(1500, v4), 1418);
        assert_eq!(through_tunnel(1500, Ipv6Addr::LOCALHOST.into()), 1398);
        assert_eq!(through_tunnel(65_536, v4), 8918);
    }
}
