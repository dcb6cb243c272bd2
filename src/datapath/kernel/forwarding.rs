//! Which entries the forwarding databases of a segment should have, and how to get there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::datapath::{Forwarding, Via, tap_name};
use crate::linux::fdb::{FLOOD, FdbChange, FdbEntry};
use crate::linux::link::Family;
use crate::types::Mac;

/// A port of a segment's bridge that leads to other hosts. All of them are isolated from each
/// other: a frame that came from another host never goes to a third.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RemotePort {
    /// The kernel's VXLAN, over IPv4 or IPv6.
    Vxlan(Family),
    /// The TAP by which the tunnel takes frames.
    Tap,
}

impl RemotePort {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [
        Self::Vxlan(Family::Ipv4),
        Self::Vxlan(Family::Ipv6),
        Self::Tap,
    ];

    /// The name of the device.
    pub(super) fn name(self, tag: u32) -> String {
        match self {
            Self::Vxlan(Family::Ipv4) => format!("vx-{tag:08x}"),
            Self::Vxlan(Family::Ipv6) => format!("vy-{tag:08x}"),
            Self::Tap => tap_name(tag),
        }
    }

    /// The port by which frames go this way, and the host to which the kernel then sends them;
    /// the tunnel knows itself where to.
    fn towards(via: Via) -> (Self, Option<IpAddr>) {
        match via {
            Via::Vxlan(host @ IpAddr::V4(_)) => (Self::Vxlan(Family::Ipv4), Some(host)),
            Via::Vxlan(host @ IpAddr::V6(_)) => (Self::Vxlan(Family::Ipv6), Some(host)),
            Via::Tunnel(_) => (Self::Tap, None),
        }
    }
}

/// The remote ports that this forwarding uses.
pub(super) fn ports_used(forwarding: &Forwarding) -> BTreeSet<RemotePort> {
    let ways = forwarding.unicast.values().chain(&forwarding.flood);
    ways.map(|via| RemotePort::towards(*via).0).collect()
}

/// The entries that make frames go where `forwarding` says, given the numbers of the remote ports
/// and of the ports of local containers. An address that is local stays local.
pub(super) fn entries(
    forwarding: &Forwarding,
    remote: &BTreeMap<RemotePort, u32>,
    local: &BTreeMap<Mac, u32>,
) -> BTreeSet<FdbEntry> {
    let mut entries = BTreeSet::new();
    for (mac, port) in local {
        entries.insert(FdbEntry::Bridge {
            mac: *mac,
            port: *port,
        });
    }
    let mut send = |mac: Mac, via: Via| {
        let (port, host) = RemotePort::towards(via);
        let Some(&device) = remote.get(&port) else {
            return;
        };
        if mac != FLOOD {
            entries.insert(FdbEntry::Bridge { mac, port: device });
        }
        entries.extend(host.map(|host| FdbEntry::Vxlan { mac, device, host }));
    };
    for (mac, via) in &forwarding.unicast {
        if !local.contains_key(mac) {
            send(*mac, *via);
        }
    }
    for via in &forwarding.flood {
        send(FLOOD, *via);
    }
    entries
}

/// The changes that lead from what is to what should be. New entries come first, what is beyond
/// the bridge before what is in it, so that at no time a frame is sent to where nobody waits.
pub(super) fn changes(current: &[FdbEntry], wanted: &BTreeSet<FdbEntry>) -> Vec<FdbChange> {
    let current: BTreeSet<_> = current.iter().copied().collect();
    let replaced: BTreeSet<_> = wanted.iter().filter_map(place).collect();
    let is_bridge = |entry: &&FdbEntry| matches!(entry, FdbEntry::Bridge { .. });
    let missing = || wanted.difference(&current);
    let removed = current
        .difference(wanted)
        .filter(|entry| place(entry).is_none_or(|place| !replaced.contains(&place)));
    missing()
        .filter(|entry| !is_bridge(entry))
        .chain(missing().filter(is_bridge))
        .map(|entry| FdbChange::Set(*entry))
        .chain(removed.map(|entry| FdbChange::Remove(*entry)))
        .collect()
}

/// Where there is room for one entry alone, so that a new one drives out the old.
fn place(entry: &FdbEntry) -> Option<(Option<u32>, Mac)> {
    match entry {
        FdbEntry::Bridge { mac, .. } => Some((None, *mac)),
        FdbEntry::Vxlan { mac: FLOOD, .. } => None,
        FdbEntry::Vxlan { mac, device, .. } => Some((Some(*device), *mac)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::{btree_map, btree_set};
    use proptest::prelude::*;

    use super::*;
    use crate::types::PeerId;

    fn mac(number: u8) -> Mac {
        Mac::new([2, 0, 0, 0, 0, number])
    }

    fn via(number: u8) -> Via {
        let host = [192, 0, 2, number].into();
        match number % 5 {
            4 => Via::Tunnel(PeerId::from_bytes([number; 16])),
            3 => Via::Vxlan(std::net::Ipv4Addr::to_ipv6_mapped(&host).into()),
            _ => Via::Vxlan(host.into()),
        }
    }

    fn remote() -> BTreeMap<RemotePort, u32> {
        RemotePort::ALL.into_iter().zip([100, 101, 102]).collect()
    }

    fn some_entries() -> impl Strategy<Value = BTreeSet<FdbEntry>> {
        let unicast = btree_map((0_u8..8).prop_map(mac), (0_u8..8).prop_map(via), 0..8);
        let flood = btree_set((0_u8..8).prop_map(via), 0..4);
        let local = btree_map((0_u8..8).prop_map(mac), 0_u32..4, 0..4);
        (unicast, flood, local).prop_map(|(unicast, flood, local)| {
            entries(&Forwarding { unicast, flood }, &remote(), &local)
        })
    }

    /// What the kernel makes of a change.
    fn apply(table: &mut BTreeSet<FdbEntry>, change: FdbChange) {
        match change {
            FdbChange::Set(entry) => {
                table.retain(|old| place(&entry).is_none() || place(old) != place(&entry));
                table.insert(entry);
            }
            FdbChange::Remove(entry) => assert!(table.remove(&entry)),
        }
    }

    #[test]
    fn an_address_that_is_local_is_never_sent_away() {
        let forwarding = Forwarding {
            unicast: [(mac(1), via(1))].into(),
            ..Forwarding::default()
        };
        let entries = entries(&forwarding, &remote(), &[(mac(1), 7)].into());
        let expected = FdbEntry::Bridge {
            mac: mac(1),
            port: 7,
        };
        assert_eq!(entries, [expected].into());
    }

    #[test]
    fn frames_for_the_tunnel_leave_by_its_port_and_by_no_vxlan() {
        let peer = Via::Tunnel(PeerId::from_bytes([1; 16]));
        let forwarding = Forwarding {
            unicast: [(mac(1), peer)].into(),
            flood: [peer].into(),
        };
        let entries = entries(&forwarding, &remote(), &BTreeMap::new());
        let expected = FdbEntry::Bridge {
            mac: mac(1),
            port: 102,
        };
        assert_eq!(entries, [expected].into());
    }

    proptest! {
        #[test]
        fn changes_lead_to_what_is_wanted(current in some_entries(), wanted in some_entries()) {
            let mut table = current.clone();
            let listed: Vec<_> = current.into_iter().collect();
            for change in changes(&listed, &wanted) {
                apply(&mut table, change);
            }
            prop_assert_eq!(table, wanted);
        }

        #[test]
        fn what_is_right_already_is_left_alone(wanted in some_entries()) {
            let listed: Vec<_> = wanted.iter().copied().collect();
            prop_assert_eq!(changes(&listed, &wanted), vec![]);
        }
    }
}
