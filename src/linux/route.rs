//! The host's routes: where they lead, and how large a packet may be on its way.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::netlink::{Netlink, NetlinkError, Result};

/// A route that leads somewhere in particular.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// Through which interface, by its index.
    pub interface: u32,
}

impl Netlink {
    /// The IPv4 routes of the main table, without default routes.
    pub fn ipv4_routes(&mut self) -> Result<Vec<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        let all = self.dump(&RouteNetlinkMessage::GetRoute(message))?;
        Ok(all.iter().filter_map(destination).collect())
    }

    /// The largest IP packet that this namespace sends to an address, in bytes: the smaller of
    /// what its route says (including what routers on the path have complained of) and of the
    /// interface's MTU; `None` when there is no route.
    pub fn path_mtu(&mut self, to: IpAddr) -> Result<Option<u32>> {
        let mut message = RouteMessage::default();
        (
            message.header.address_family,
            message.header.destination_prefix_length,
        ) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message
            .attributes
            .push(RouteAttribute::Destination(to.into()));
        let answers = match self.request((RouteNetlinkMessage::GetRoute(message), 0)) {
            Err(error) if no_route(&error) => return Ok(None),
            result => result?,
        };
        let Some((interface, route_mtu)) = answers.iter().find_map(parse) else {
            return Ok(None);
        };
        let link_mtu = self.link_mtu(interface)?;
        Ok([route_mtu, link_mtu].into_iter().flatten().min())
    }
}

fn no_route(error: &NetlinkError) -> bool {
    [
        Errno::ENETUNREACH,
        Errno::EHOSTUNREACH,
        Errno::EAFNOSUPPORT,
        Errno::EINVAL,
        Errno::EACCES,
    ]
    .iter()
    .any(|reason| error.is(*reason))
}

fn destination(message: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return None;
    };
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let mut interface = None;
    let mut to = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Destination(RouteAddress::Inet(address)) => to = Some(*address),
            _ => {}
        }
    }
    let destination = IpNet::new(to?.into(), header.destination_prefix_length).ok()?;
    Some(Route {
        destination,
        interface: interface?,
    })
}

fn parse(message: &RouteNetlinkMessage) -> Option<(u32, Option<u32>)> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return None;
    };
    let interface = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })?;
    let mtu = message.attributes.iter().find_map(|a| match a {
        RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
            RouteMetric::Mtu(mtu) => Some(*mtu),
            _ => None,
        }),
        _ => None,
    });
    Some((interface, mtu))
}
