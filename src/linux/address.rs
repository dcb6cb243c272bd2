//! Giving a device its place: namespace, name, addresses, routes.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::errno::Errno;

use super::link::tolerate;
use super::netlink::{Netlink, NetlinkError, Result};
use super::netns::NetNs;

impl Netlink {
    /// Moves a device, given by name, into a namespace, where it has another name.
    ///
    /// # Errors
    /// `ENODEV` when there is no such device, `EEXIST` when the new name is taken.
    pub fn move_link(&mut self, name: &str, to: &NetNs, new_name: &str) -> Result<()> {
        let link = self.link(name)?.ok_or_else(|| NetlinkError::Refused {
            errno: Errno::ENODEV,
            message: name.to_owned(),
        })?;
        let mut message = LinkMessage::default();
        message.header.index = link.index;
        message.attributes = vec![
            LinkAttribute::NetNsFd(to.as_raw_fd()),
            LinkAttribute::IfName(new_name.to_owned()),
        ];
        self.request((RouteNetlinkMessage::SetLink(message), 0))
            .map(drop)
    }

    /// Gives a device an address and switches it on; then adds routes that need no next hop.
    pub fn bring_up(&mut self, name: &str, address: IpNet, routes: &[IpNet]) -> Result<()> {
        let link = self.link(name)?.ok_or_else(|| NetlinkError::Refused {
            errno: Errno::ENODEV,
            message: name.to_owned(),
        })?;
        let add = RouteNetlinkMessage::NewAddress(address_message(link.index, address));
        let added = self.request((add, NLM_F_CREATE | NLM_F_EXCL));
        tolerate(added, Errno::EEXIST)?;
        let mut up = LinkMessage::default();
        up.header.index = link.index;
        up.header.flags = LinkFlags::Up;
        up.header.change_mask = LinkFlags::Up;
        self.request((RouteNetlinkMessage::SetLink(up), 0))?;
        for route in routes {
            let add = RouteNetlinkMessage::NewRoute(route_message(link.index, *route));
            // The namespace may have that route by another device.
            let added = self.request((add, NLM_F_CREATE | NLM_F_EXCL));
            tolerate(added, Errno::EEXIST)?;
        }
        Ok(())
    }
}

fn address_message(index: u32, address: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = address.prefix_len();
    message.header.family = family(address.addr());
    message.attributes = vec![
        AddressAttribute::Local(address.addr()),
        AddressAttribute::Address(address.addr()),
    ];
    if let IpNet::V4(net) = address
        && net.prefix_len() < 31
    {
        let broadcast = AddressAttribute::Broadcast(net.broadcast());
        message.attributes.push(broadcast);
    }
    message
}

fn route_message(index: u32, destination: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Link;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![
        RouteAttribute::Destination(destination.addr().into()),
        RouteAttribute::Oif(index),
    ];
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use netlink_packet_route::link::InfoKind;

    use super::*;

    fn ip(namespace: &NetNs, arguments: &str) -> String {
        let words = arguments.split(' ');
        let run = || Command::new("ip").args(words).output();
        let output = namespace.run(run).unwrap().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_device_is_moved_renamed_and_has_its_address_and_routes() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let [host, container] = [(); 2].map(|()| NetNs::anonymous().unwrap());
        let mut in_host = Netlink::open(&host).unwrap();
        in_host.probe(InfoKind::Veth).unwrap();
        ip(&host, "link add vw1 type veth peer name vp1");
        ip(&host, "link set vp1 up");
        in_host.move_link("vw1", &container, "ethwe").unwrap();
        assert!(in_host.link("vw1").unwrap().is_none());
        let again = in_host.move_link("vw1", &container, "ethwe").unwrap_err();
        assert!(again.is(Errno::ENODEV), "{again}");

        let mut inside = Netlink::open(&container).unwrap();
        let address = "10.9.1.2/16".parse().unwrap();
        let route = "224.0.0.0/4".parse().unwrap();
        for _ in 0..2 {
            inside.bring_up("ethwe", address, &[route]).unwrap();
        }
        let shown = ip(&container, "-4 addr show ethwe");
        assert!(
            shown.contains("inet 10.9.1.2/16 brd 10.9.255.255"),
            "{shown}"
        );
        let shown = ip(&container, "route");
        assert!(shown.contains("224.0.0.0/4 dev ethwe"), "{shown}");
        assert!(shown.contains("10.9.0.0/16 dev ethwe"), "{shown}");
    }
}
