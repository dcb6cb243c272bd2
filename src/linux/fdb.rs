//! Forwarding databases: which port of a bridge, and which host behind a VXLAN device, has an
//! Ethernet address.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::link::tolerate;
use super::netlink::{Netlink, Request, Result};
use crate::types::Mac;

/// The address of frames for nobody known, in a VXLAN device: its hosts get them all.
pub const FLOOD: Mac = Mac::new([0; 6]);

/// One entry of a forwarding database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FdbEntry {
    /// The bridge sends frames for the address out of this port. A static entry does not age; it
    /// follows the address when that speaks elsewhere.
    Bridge {
        /// Whose address.
        mac: Mac,
        /// The number of the port.
        port: u32,
    },
    /// The VXLAN device sends frames for the address to this host; there may be several hosts for
    /// [`FLOOD`] alone.
    Vxlan {
        /// Whose address.
        mac: Mac,
        /// The number of the device.
        device: u32,
        /// The underlay address of the host.
        host: IpAddr,
    },
}

impl Netlink {
    /// The static entries of a bridge and of the VXLAN devices plugged into it.
    pub fn fdb(&mut self, bridge: u32) -> Result<Vec<FdbEntry>> {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Bridge;
        message
            .attributes
            .push(NeighbourAttribute::Controller(bridge));
        let answers = self.dump(&RouteNetlinkMessage::GetNeighbour(message))?;
        let mut entries: Vec<_> = answers
            .iter()
            .filter_map(|answer| parse(answer, bridge))
            .collect();
        entries.sort_unstable();
        entries.dedup();
        Ok(entries)
    }

    /// Makes changes, in order. What is already there, or already gone, is no error.
    pub fn change_fdb(&mut self, changes: &[FdbChange]) -> Result<()> {
        let requests = changes.iter().map(FdbChange::request).collect();
        let results = self.batch(requests)?;
        for (change, result) in changes.iter().zip(results) {
            match change {
                FdbChange::Set(_) => tolerate(result, Errno::EEXIST)?,
                FdbChange::Remove(_) => tolerate(result, Errno::ENOENT)?,
            }
        }
        Ok(())
    }
}

/// A change of a forwarding database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdbChange {
    /// Adds the entry. It takes the place of another for the same address, without a gap, except
    /// that [`FLOOD`] collects.
    Set(FdbEntry),
    /// Removes the entry.
    Remove(FdbEntry),
}

impl FdbChange {
    fn request(&self) -> Request {
        match *self {
            Self::Set(entry) => {
                let flags = match entry {
                    FdbEntry::Vxlan { mac: FLOOD, .. } => NLM_F_CREATE | NLM_F_APPEND,
                    _ => NLM_F_CREATE | NLM_F_REPLACE,
                };
                (RouteNetlinkMessage::NewNeighbour(message(entry)), flags)
            }
            Self::Remove(entry) => (RouteNetlinkMessage::DelNeighbour(message(entry)), 0),
        }
    }
}

fn message(entry: FdbEntry) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    let (mac, index) = match entry {
        FdbEntry::Bridge { mac, port } => {
            // A bridge takes `Permanent` for an address of the host itself.
            message.header.state = NeighbourState::Noarp;
            message.header.flags = NeighbourFlags::Controller;
            (mac, port)
        }
        FdbEntry::Vxlan { mac, device, host } => {
            message.header.state = NeighbourState::Permanent;
            message.header.flags = NeighbourFlags::Own;
            message
                .attributes
                .push(NeighbourAttribute::Destination(host.into()));
            (mac, device)
        }
    };
    message.header.ifindex = index;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    message
}

fn parse(message: &RouteNetlinkMessage, bridge: u32) -> Option<FdbEntry> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else {
        return None;
    };
    let mac = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::LinkLayerAddress(bytes) => Some(Mac::new(bytes[..].try_into().ok()?)),
        _ => None,
    })?;
    let master = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Controller(index) => Some(*index),
        _ => None,
    });
    let host = message.attributes.iter().find_map(|a| match a {
        NeighbourAttribute::Destination(address) => parse_address(address),
        _ => None,
    });
    let index = message.header.ifindex;
    match (master, host) {
        (Some(master), None)
            if master == bridge && message.header.state == NeighbourState::Noarp =>
        {
            Some(FdbEntry::Bridge { mac, port: index })
        }
        (None, Some(host)) => Some(FdbEntry::Vxlan {
            mac,
            device: index,
            host,
        }),
        _ => None,
    }
}

/// In this family the address is of either kind, known by its length.
fn parse_address(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(ip) => Some((*ip).into()),
        NeighbourAddress::Inet6(ip) => Some((*ip).into()),
        NeighbourAddress::Other(bytes) => match bytes.len() {
            4 => Some(<[u8; 4]>::try_from(&bytes[..]).ok()?.into()),
            16 => Some(<[u8; 16]>::try_from(&bytes[..]).ok()?.into()),
            _ => None,
        },
        _ => None,
    }
}
