//! Network devices: bridges, veth pairs, VXLAN.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::os::fd::AsRawFd;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgeStpState, In6AddrGenMode, InfoBridge, InfoBridgePort,
    InfoData, InfoKind, InfoPortData, InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute,
    LinkExtentMask, LinkFlags, LinkInfo, LinkMessage, VxlanDf,
};
use nix::errno::Errno;

use super::netlink::{Netlink, NetlinkError, Request, Result};
use super::netns::NetNs;
use crate::types::{Mac, Vni};

/// The longest alias, with the kernel's end of text (`IFALIASZ`, linux/if.h).
const ALIAS: usize = 255;

/// The smallest MTU of an Ethernet device (`ETH_MIN_MTU`, linux/if_ether.h).
const SMALLEST_MTU: u16 = 68;

/// The largest MTU of a VXLAN device over either family: 65535 less headers of 70 bytes.
const VXLAN_MTU: u16 = 65_465;

/// A device as the kernel describes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its number in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, `vxlan`, ...; empty for hardware.
    pub kind: String,
    /// The bridge it is plugged into.
    pub master: Option<u32>,
    /// The largest IP packet, in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// What we wrote on it, for people and for our next life.
    pub alias: String,
    /// Whether its bridge keeps it apart from other isolated ports, and learns nothing of what
    /// comes from it.
    pub isolated: bool,
    /// What a VXLAN device was made with.
    pub vxlan: Option<VxlanSpec>,
}

/// What a VXLAN device is made with, and keeps for life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VxlanSpec {
    /// The identifier on the wire.
    pub vni: Vni,
    /// The UDP port, here and at the other hosts.
    pub port: u16,
}

/// What passed through a device since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LinkTraffic {
    /// Packets that it sent.
    pub sent_packets: u64,
    /// Their bytes.
    pub sent_bytes: u64,
    /// Packets that came.
    pub received_packets: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Packets of either direction that it dropped, or could not send.
    pub dropped: u64,
}

/// Whether a VXLAN device's outer packets are IPv4 or IPv6: it speaks one of them alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// RFC 791.
    Ipv4,
    /// RFC 8200.
    Ipv6,
}

/// A veth pair to be made.
#[derive(Debug)]
pub struct VethSpec<'a> {
    /// The name of the end that is plugged into the bridge.
    pub port: &'a str,
    /// The largest IP packet of that end.
    pub port_mtu: u16,
    /// What to write on that end.
    pub alias: &'a str,
    /// The bridge, by number.
    pub bridge: u32,
    /// The namespace of the other end.
    pub peer_namespace: &'a NetNs,
    /// The name of the other end.
    pub peer: &'a str,
    /// The address of the other end.
    pub peer_mac: Mac,
    /// The largest IP packet of the other end.
    pub peer_mtu: u16,
}

impl LinkTraffic {
    /// Adds what passed through another device.
    pub fn add(&mut self, other: Self) {
        self.sent_packets += other.sent_packets;
        self.sent_bytes += other.sent_bytes;
        self.received_packets += other.received_packets;
        self.received_bytes += other.received_bytes;
        self.dropped += other.dropped;
    }
}

impl Netlink {
    /// The device of this name.
    pub fn link(&mut self, name: &str) -> Result<Option<Link>> {
        let [link] = self.links_named([name])?;
        Ok(link)
    }

    /// The largest IP packet of the device of this number, in bytes.
    pub fn link_mtu(&mut self, index: u32) -> Result<Option<u32>> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        match self.request((RouteNetlinkMessage::GetLink(message), 0)) {
            Err(error) if error.is(Errno::ENODEV) => Ok(None),
            result => Ok(result?.iter().find_map(parse).map(|link| link.mtu)),
        }
    }

    /// The devices of these names, in the same order.
    pub fn links_named<const N: usize>(&mut self, names: [&str; N]) -> Result<[Option<Link>; N]> {
        let results = self.batch(names.map(get_request).into())?;
        let mut found = [const { None }; N];
        for (slot, result) in found.iter_mut().zip(results) {
            match result {
                Err(error) if error.is(Errno::ENODEV) => {}
                result => *slot = result?.iter().find_map(parse),
            }
        }
        Ok(found)
    }

    /// All devices of the namespace, or those plugged into one bridge.
    pub fn links(&mut self, bridge: Option<u32>) -> Result<Vec<Link>> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
        message
            .attributes
            .extend(bridge.map(LinkAttribute::Controller));
        let answers = self.dump(&RouteNetlinkMessage::GetLink(message))?;
        let links = answers.iter().filter_map(parse);
        // A kernel without strict checks ignores the filter.
        Ok(links
            .filter(|link| bridge.is_none() || link.master == bridge)
            .collect())
    }

    /// What passed through all devices of the namespace, by their names.
    pub fn traffic(&mut self) -> Result<BTreeMap<String, LinkTraffic>> {
        let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let answers = self.dump(&all)?;
        Ok(answers.iter().filter_map(parse_traffic).collect())
    }

    /// Makes a bridge that forwards at once and everything: no spanning tree, no multicast
    /// snooping (without a querier it would cut off listeners), no VLANs of its own.
    ///
    /// Its MTU is the smallest there is and must be set: one that was not changed after the making
    /// is taken from the ports.
    pub fn add_bridge(&mut self, name: &str) -> Result<()> {
        let data = InfoData::Bridge(vec![
            InfoBridge::StpState(BridgeStpState::Disabled),
            InfoBridge::ForwardDelay(0),
            InfoBridge::MulticastSnooping(false),
            InfoBridge::VlanDefaultPvid(0),
        ]);
        self.add(named(name, SMALLEST_MTU), InfoKind::Bridge, Some(data))
    }

    /// Makes a VXLAN device whose socket is in this socket's namespace and which itself is in
    /// `home`. It learns nothing: it sends where it is told.
    ///
    /// Its own MTU is no limit, so that a packet too large for the path is not dropped silently by
    /// the bridge but refused by this device, which tells the sender (Linux 5.9).
    /// Outer IPv4 packets may be fragmented on the way: where a router's complaints are filtered,
    /// that is slower instead of a black hole.
    pub fn add_vxlan(
        &mut self,
        name: &str,
        spec: &VxlanSpec,
        family: Family,
        home: &NetNs,
    ) -> Result<()> {
        let mut data = vec![
            InfoVxlan::Id(spec.vni.get()),
            InfoVxlan::Port(spec.port),
            InfoVxlan::Learning(false),
            InfoVxlan::Df(VxlanDf::Unset),
            // With an outer checksum the receiver need not verify the inner ones, and the
            // sender's costs next to nothing (Linux, networking/checksum-offloads).
            InfoVxlan::UDPCsum(true),
        ];
        // "Any" fixes no address, yet makes it a device for IPv6.
        if family == Family::Ipv6 {
            data.push(InfoVxlan::Local6(Ipv6Addr::UNSPECIFIED));
        }
        let mut message = named(name, VXLAN_MTU);
        message
            .attributes
            .push(LinkAttribute::NetNsFd(home.as_raw_fd()));
        self.add(message, InfoKind::Vxlan, Some(InfoData::Vxlan(data)))
    }

    /// Makes a veth pair, one end in the bridge and switched on, the other as it should come into
    /// the container; returns the number of the former.
    ///
    /// # Errors
    /// `EEXIST` when either name is taken; `EINVAL` or `ENODEV` when the bridge is gone.
    pub fn add_veth(&mut self, spec: &VethSpec<'_>) -> Result<u32> {
        let mut peer = named(spec.peer, spec.peer_mtu);
        peer.attributes
            .push(LinkAttribute::Address(spec.peer_mac.octets().to_vec()));
        peer.attributes
            .push(LinkAttribute::NetNsFd(spec.peer_namespace.as_raw_fd()));
        let mut message = named(spec.port, spec.port_mtu);
        message.attributes.extend([
            LinkAttribute::Controller(spec.bridge),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ]);
        let [quiet, up] = switch_on(spec.port, spec.alias);
        let requests = vec![create(message), quiet, up, get_request(spec.port)];
        let results = self.batch(requests)?;
        let expected = "an answer to each request";
        let Ok([created, quiet, up, found]) = <[_; 4]>::try_from(results) else {
            return Err(NetlinkError::Malformed { expected });
        };
        created?;
        tolerate(quiet, Errno::EAFNOSUPPORT)?;
        up?;
        let port = found?.iter().find_map(parse);
        let port = port.ok_or(NetlinkError::Malformed { expected })?;
        Ok(port.index)
    }

    /// Switches a device on, with an alias, and without IPv6 addresses of its own: it would
    /// announce them to the containers.
    pub fn switch_on(&mut self, name: &str, alias: &str) -> Result<()> {
        let results = self.batch(switch_on(name, alias).into())?;
        for result in results {
            // A kernel without IPv6 makes no addresses anyway.
            tolerate(result, Errno::EAFNOSUPPORT)?;
        }
        Ok(())
    }

    /// Plugs a device into a bridge as a way to other hosts: what comes from one such way never
    /// leaves by another. Nothing is learned from it: a host that is answered by one way while it
    /// still speaks by the other must not move its containers' addresses there.
    pub fn plug_isolated(&mut self, name: &str, bridge: u32) -> Result<()> {
        let mut plug = LinkMessage::default();
        plug.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::Controller(bridge),
        ];
        let mut isolate = LinkMessage::default();
        isolate.attributes = vec![
            LinkAttribute::IfName(name.to_owned()),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::PortKind(InfoPortKind::Bridge),
                LinkInfo::PortData(InfoPortData::BridgePort(vec![
                    InfoBridgePort::Isolated(true),
                    InfoBridgePort::Learning(false),
                ])),
            ]),
        ];
        let isolate = (RouteNetlinkMessage::NewLink(isolate), 0);
        for result in self.batch(vec![set_request(plug), isolate])? {
            result?;
        }
        Ok(())
    }

    /// Sets the largest IP packet of several devices, given by number.
    pub fn set_mtu(&mut self, indices: &[u32], mtu: u16) -> Result<()> {
        let requests = indices.iter().map(|index| {
            let mut message = LinkMessage::default();
            message.header.index = *index;
            message.attributes = vec![LinkAttribute::Mtu(mtu.into())];
            set_request(message)
        });
        for result in self.batch(requests.collect())? {
            tolerate(result, Errno::ENODEV)?;
        }
        Ok(())
    }

    /// Removes a device; one that is not there is as good as removed.
    pub fn delete_link(&mut self, name: &str) -> Result<()> {
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        let result = self.request((RouteNetlinkMessage::DelLink(message), 0));
        tolerate(result, Errno::ENODEV)
    }

    /// Whether the kernel can make devices of this kind, found without making one: it is asked
    /// for a device with a group address, which it refuses only after it has found the kind.
    ///
    /// # Errors
    /// `EOPNOTSUPP` when it cannot; `EPERM` when we may not.
    pub fn probe(&mut self, kind: InfoKind) -> Result<()> {
        let mut message = named("weave-probe", 1500);
        message
            .attributes
            .push(LinkAttribute::Address(vec![1, 0, 0, 0, 0, 0]));
        tolerate(self.add(message, kind, None), Errno::EADDRNOTAVAIL)
    }

    fn add(
        &mut self,
        mut message: LinkMessage,
        kind: InfoKind,
        data: Option<InfoData>,
    ) -> Result<()> {
        let mut info = vec![LinkInfo::Kind(kind)];
        info.extend(data.map(LinkInfo::Data));
        message.attributes.push(LinkAttribute::LinkInfo(info));
        self.request(create(message)).map(drop)
    }
}

/// Takes one kind of refusal for success.
pub(super) fn tolerate<T>(result: Result<T>, reason: Errno) -> Result<()> {
    match result {
        Err(error) if !error.is(reason) => Err(error),
        _ => Ok(()),
    }
}

fn named(name: &str, mtu: u16) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu.into()),
    ];
    message
}

fn create(message: LinkMessage) -> Request {
    let message = RouteNetlinkMessage::NewLink(message);
    (message, NLM_F_CREATE | NLM_F_EXCL)
}

fn get_request(name: &str) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]),
    ];
    (RouteNetlinkMessage::GetLink(message), 0)
}

fn set_request(message: LinkMessage) -> Request {
    (RouteNetlinkMessage::SetLink(message), 0)
}

/// Two requests, because the kernel would switch the device on, and give it an address, before it
/// read in the same request that it should not.
fn switch_on(name: &str, alias: &str) -> [Request; 2] {
    let named = LinkAttribute::IfName(name.to_owned());
    let no_addresses = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    let mut quiet = LinkMessage::default();
    quiet.attributes = vec![
        named.clone(),
        LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![no_addresses])]),
    ];
    let alias = alias.chars().filter(char::is_ascii).take(ALIAS).collect();
    let mut up = LinkMessage::default();
    up.header.flags = LinkFlags::Up;
    up.header.change_mask = LinkFlags::Up;
    up.attributes = vec![named, LinkAttribute::IfAlias(alias)];
    [quiet, up].map(set_request)
}

fn parse(message: &RouteNetlinkMessage) -> Option<Link> {
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    let mut link = Link {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Controller(index) => link.master = Some(*index),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::LinkInfo(infos) => parse_info(infos, &mut link),
            _ => {}
        }
    }
    Some(link)
}

fn parse_traffic(message: &RouteNetlinkMessage) -> Option<(String, LinkTraffic)> {
    let name = parse(message)?.name;
    let RouteNetlinkMessage::NewLink(message) = message else {
        return None;
    };
    message.attributes.iter().find_map(|attribute| {
        let LinkAttribute::Stats64(stats) = attribute else {
            return None;
        };
        let traffic = LinkTraffic {
            sent_packets: stats.tx_packets,
            sent_bytes: stats.tx_bytes,
            received_packets: stats.rx_packets,
            received_bytes: stats.rx_bytes,
            dropped: stats.rx_dropped + stats.tx_dropped + stats.rx_errors + stats.tx_errors,
        };
        Some((name.clone(), traffic))
    })
}

fn parse_info(infos: &[LinkInfo], link: &mut Link) {
    for info in infos {
        match info {
            LinkInfo::Kind(kind) => link.kind = kind.to_string(),
            LinkInfo::Data(InfoData::Vxlan(data)) => link.vxlan = parse_vxlan(data),
            LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
                link.isolated = data.contains(&InfoBridgePort::Isolated(true))
                    && data.contains(&InfoBridgePort::Learning(false));
            }
            _ => {}
        }
    }
}

fn parse_vxlan(data: &[InfoVxlan]) -> Option<VxlanSpec> {
    let vni = data.iter().find_map(|info| match info {
        InfoVxlan::Id(id) => Vni::try_from(*id).ok(),
        _ => None,
    })?;
    let port = data.iter().find_map(|info| match info {
        InfoVxlan::Port(port) => Some(*port),
        _ => None,
    })?;
    Some(VxlanSpec { vni, port })
}
