//! The devices of the segments: made, compared with what they should be, corrected.

use std::collections::BTreeMap;

use nix::errno::Errno;

use super::forwarding::{self, RemotePort};
use super::step;
use crate::datapath::{
    DatapathError, Forwarding, Inventory, PortSpec, SegmentSpec, host_name, port_name,
};
use crate::linux::fdb::{FdbChange, FdbEntry};
use crate::linux::link::{Family, Link, VethSpec, VxlanSpec};
use crate::linux::netlink::{Netlink, NetlinkError};
use crate::linux::netns::NetNs;
use crate::types::{Mac, SegmentId};

/// What [`port_name`] begins with.
const PORT_PREFIX: &str = "vp";
const BRIDGE_PREFIX: &str = "br-";

/// The devices and the ways to them.
#[derive(Debug)]
pub(super) struct Devices {
    pub(super) host: NetNs,
    pub(super) weave: NetNs,
    pub(super) in_host: Netlink,
    pub(super) in_weave: Netlink,
    pub(super) vxlan_port: u16,
    /// By tag. The truth is in the kernel; this is what it should be.
    pub(super) segments: BTreeMap<u32, Segment>,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) spec: SegmentSpec,
    pub(super) bridge: u32,
    /// `None` until it is told: what was found in the kernel is left as it is.
    pub(super) forwarding: Option<Forwarding>,
}

/// The names of all devices that a segment may have, those first that let frames in.
pub(super) fn names(tag: u32) -> impl Iterator<Item = String> {
    let remote = RemotePort::ALL.into_iter().map(move |port| port.name(tag));
    remote.chain([bridge_name(tag)])
}

/// Whether a device of this name is a container's port.
pub(super) fn is_port(name: &str) -> bool {
    name.starts_with(PORT_PREFIX)
}

impl Devices {
    pub(super) fn inventory(&mut self) -> Result<Inventory, DatapathError> {
        let links = self.in_weave.links(None);
        let links = links.map_err(step(|| "list devices".to_owned()))?;
        let tags: BTreeMap<u32, u32> = links
            .iter()
            .filter_map(|link| Some((link.index, segment_tag(&link.name)?)))
            .collect();
        let ports = links.iter().filter(|link| is_port(&link.name));
        Ok(Inventory {
            segments: tags.values().copied().collect(),
            ports: ports
                .map(|port| {
                    let tag = port.master.and_then(|master| tags.get(&master));
                    (port.name.clone(), tag.copied())
                })
                .collect(),
        })
    }

    pub(super) fn segment(&self, id: &SegmentId) -> Result<&Segment, DatapathError> {
        let segment = self.segments.get(&id.tag());
        segment
            .filter(|segment| segment.spec.id == *id)
            .ok_or_else(|| DatapathError::UnknownSegment(id.clone()))
    }

    pub(super) fn ensure_segment(&mut self, spec: SegmentSpec) -> Result<(), DatapathError> {
        let tag = spec.id.tag();
        if let Some(other) = self.segments.get(&tag)
            && other.spec.id != spec.id
        {
            return Err(DatapathError::Step {
                step: format!("set up segment {}", spec.id),
                reason: format!("segment {} has the same tag {tag:08x}", other.spec.id),
            });
        }
        let bridge = self.ensure_bridge(&spec)?;
        let before = self.segments.remove(&tag);
        let forwarding = before.and_then(|segment| segment.forwarding);
        let segment = Segment {
            spec,
            bridge,
            forwarding,
        };
        self.segments.insert(tag, segment);
        self.apply(tag)
    }

    pub(super) fn set_forwarding(
        &mut self,
        id: &SegmentId,
        forwarding: Forwarding,
    ) -> Result<(), DatapathError> {
        self.segment(id)?;
        if let Some(segment) = self.segments.get_mut(&id.tag()) {
            segment.forwarding = Some(forwarding);
        }
        self.apply(id.tag())
    }

    pub(super) fn plug(&mut self, port: &PortSpec) -> Result<String, DatapathError> {
        let segment = self.segment(&port.segment)?;
        let (bridge, segment_mtu) = (segment.bridge, segment.spec.mtu);
        let (name, peer) = (port_name(&port.endpoint), host_name(&port.endpoint));
        let failed = || format!("plug endpoint {} into {}", port.endpoint, port.segment);
        let spec = VethSpec {
            port: &name,
            port_mtu: port.mtu.max(segment_mtu),
            alias: &port_alias(port),
            bridge,
            peer_namespace: &self.host,
            peer: &peer,
            peer_mac: port.mac,
            peer_mtu: port.mtu,
        };
        let index = match self.in_weave.add_veth(&spec) {
            Err(error) if error.is(Errno::EEXIST) => {
                self.in_weave.delete_link(&name).map_err(step(failed))?;
                self.in_host.delete_link(&peer).map_err(step(failed))?;
                self.in_weave.add_veth(&spec)
            }
            result => result,
        };
        let index = index.map_err(step(failed))?;
        // Known from the start, it is never looked for on other ports.
        let entry = FdbEntry::Bridge {
            mac: port.mac,
            port: index,
        };
        self.in_weave
            .change_fdb(&[FdbChange::Set(entry)])
            .map_err(step(failed))?;
        Ok(peer)
    }

    /// A port is gone: if its address is known to be elsewhere as well, it is only there now.
    pub(super) fn unplugged(&mut self, port: &Link) -> Result<(), DatapathError> {
        let Some(mac) = mac_of(port) else {
            return Ok(());
        };
        let affected = self.segments.iter().find(|(_, segment)| {
            let forwarding = segment.forwarding.as_ref();
            Some(segment.bridge) == port.master
                && forwarding.is_some_and(|f| f.unicast.contains_key(&mac))
        });
        match affected.map(|(tag, _)| *tag) {
            Some(tag) => self.apply(tag),
            None => Ok(()),
        }
    }

    fn ensure_bridge(&mut self, spec: &SegmentSpec) -> Result<u32, DatapathError> {
        let name = bridge_name(spec.id.tag());
        let failed = || format!("set up bridge {name}");
        let alias = format!("weave {} vni {}", spec.id, spec.vni);
        let found = self.in_weave.link(&name).map_err(step(failed))?;
        let bridge = match found {
            Some(bridge) => bridge,
            None => {
                let added = self.in_weave.add_bridge(&name);
                added.map_err(step(failed))?;
                let found = self.in_weave.link(&name).map_err(step(failed))?;
                found.ok_or_else(|| DatapathError::Step {
                    step: failed(),
                    reason: "it vanished while it was being made".to_owned(),
                })?
            }
        };
        let mtu = u32::from(spec.mtu);
        if bridge.mtu != mtu {
            let ports = self.in_weave.links(Some(bridge.index));
            // Containers that have more keep it: they hear from the kernel what is too large.
            let mut smaller: Vec<_> = ports
                .map_err(step(failed))?
                .iter()
                .filter(|port| port.mtu < mtu)
                .map(|port| port.index)
                .collect();
            smaller.push(bridge.index);
            let set = self.in_weave.set_mtu(&smaller, spec.mtu);
            set.map_err(step(failed))?;
        }
        // After the MTU: below 1280 bytes the kernel knows nothing of IPv6 that could be set.
        if !bridge.up || bridge.alias != alias {
            let switched = self.in_weave.switch_on(&name, &alias);
            switched.map_err(step(failed))?;
        }
        Ok(bridge.index)
    }

    /// Makes the remote ports and the forwarding of a segment what they should be.
    fn apply(&mut self, tag: u32) -> Result<(), DatapathError> {
        let Some(segment) = self.segments.get(&tag) else {
            return Ok(());
        };
        let (spec, bridge) = (segment.spec.clone(), segment.bridge);
        let forwarding = segment.forwarding.clone();
        let (remote, mut errors) = self.ensure_remote_ports(&spec, bridge, forwarding.as_ref())?;
        if let Some(forwarding) = forwarding {
            errors.extend(
                self.apply_forwarding(&spec, bridge, &forwarding, &remote)
                    .err(),
            );
        }
        all_done(errors)
    }

    fn apply_forwarding(
        &mut self,
        spec: &SegmentSpec,
        bridge: u32,
        forwarding: &Forwarding,
        remote: &BTreeMap<RemotePort, u32>,
    ) -> Result<(), DatapathError> {
        let failed = || format!("set up the forwarding of {}", spec.id);
        let ports = self.in_weave.links(Some(bridge)).map_err(step(failed))?;
        let local = ports
            .iter()
            .filter(|port| is_port(&port.name))
            .filter_map(|port| Some((mac_of(port)?, port.index)))
            .collect();
        let current = self.in_weave.fdb(bridge).map_err(step(failed))?;
        let wanted = forwarding::entries(forwarding, remote, &local);
        let changes = forwarding::changes(&current, &wanted);
        self.in_weave.change_fdb(&changes).map_err(step(failed))
    }

    /// The remote ports that there are, and why others are not: a host without IPv6 still reaches
    /// the peers that have IPv4.
    fn ensure_remote_ports(
        &mut self,
        spec: &SegmentSpec,
        bridge: u32,
        forwarding: Option<&Forwarding>,
    ) -> Result<(BTreeMap<RemotePort, u32>, Vec<DatapathError>), DatapathError> {
        let tag = spec.id.tag();
        let names = RemotePort::ALL.map(|port| port.name(tag));
        let found = self
            .in_weave
            .links_named(names.each_ref().map(String::as_str));
        let found = found.map_err(step(|| format!("look for the devices of {}", spec.id)))?;
        let used = forwarding.map(forwarding::ports_used);
        let (mut ports, mut errors) = (BTreeMap::new(), Vec::new());
        for ((port, name), link) in RemotePort::ALL.into_iter().zip(&names).zip(found) {
            let ensured = match (port, &used) {
                (RemotePort::Tap, _) => self.ensure_tap(name, link, spec, bridge),
                (RemotePort::Vxlan(family), used) => {
                    let needed = match (family, used) {
                        (Family::Ipv4, _) => true,
                        (Family::Ipv6, Some(used)) => used.contains(&port),
                        (Family::Ipv6, None) => link.is_some(),
                    };
                    self.ensure_vxlan(family, name, link, needed && spec.vxlan, spec, bridge)
                }
            };
            match ensured {
                Ok(link) => ports.extend(link.map(|index| (port, index))),
                Err(error) => errors.push(error),
            }
        }
        Ok((ports, errors))
    }

    fn ensure_vxlan(
        &mut self,
        family: Family,
        name: &str,
        found: Option<Link>,
        needed: bool,
        spec: &SegmentSpec,
        bridge: u32,
    ) -> Result<Option<u32>, DatapathError> {
        let failed = || format!("set up VXLAN device {name}");
        let wanted = VxlanSpec {
            vni: spec.vni,
            port: self.vxlan_port,
        };
        let right = found.filter(|link| needed && link.vxlan == Some(wanted));
        let link = match right {
            Some(link) => link,
            None => {
                self.in_weave.delete_link(name).map_err(step(failed))?;
                if !needed {
                    return Ok(None);
                }
                self.in_host
                    .add_vxlan(name, &wanted, family, &self.weave)
                    .map_err(step(failed))?;
                let made = self.in_weave.link(name).map_err(step(failed))?;
                made.ok_or_else(|| DatapathError::Step {
                    step: failed(),
                    reason: "it vanished while it was being made".to_owned(),
                })?
            }
        };
        self.plug_in(name, &link, spec, bridge)
            .map_err(step(failed))?;
        Ok(Some(link.index))
    }

    /// The tunnel has made the TAP, when there is to be one.
    fn ensure_tap(
        &mut self,
        name: &str,
        found: Option<Link>,
        spec: &SegmentSpec,
        bridge: u32,
    ) -> Result<Option<u32>, DatapathError> {
        let failed = || format!("set up TAP {name}");
        let Some(link) = found else {
            return Ok(None);
        };
        if !spec.tunnel {
            self.in_weave.delete_link(name).map_err(step(failed))?;
            return Ok(None);
        }
        if link.mtu < u32::from(spec.mtu) {
            let set = self.in_weave.set_mtu(&[link.index], spec.mtu);
            set.map_err(step(failed))?;
        }
        self.plug_in(name, &link, spec, bridge)
            .map_err(step(failed))?;
        Ok(Some(link.index))
    }

    /// Makes a device a port that leads to other hosts.
    fn plug_in(
        &mut self,
        name: &str,
        link: &Link,
        spec: &SegmentSpec,
        bridge: u32,
    ) -> Result<(), NetlinkError> {
        if link.master != Some(bridge) || !link.isolated {
            self.in_weave.plug_isolated(name, bridge)?;
        }
        let alias = format!("weave {} vni {}", spec.id, spec.vni);
        if !link.up || link.alias != alias {
            self.in_weave.switch_on(name, &alias)?;
        }
        Ok(())
    }
}

/// Success if there are no errors, else all of them in one.
pub(super) fn all_done(mut errors: Vec<DatapathError>) -> Result<(), DatapathError> {
    match errors.len() {
        0 => Ok(()),
        1 => Err(errors.remove(0)),
        _ => Err(DatapathError::Several(errors)),
    }
}

fn bridge_name(tag: u32) -> String {
    format!("{BRIDGE_PREFIX}{tag:08x}")
}

/// The tag in the name of a segment's device.
fn segment_tag(name: &str) -> Option<u32> {
    let (_, digits) = name.split_once('-')?;
    let tag = u32::from_str_radix(digits, 16).ok()?;
    names(tag).any(|known| known == name).then_some(tag)
}

/// The tag of the segment whose VXLAN device has this name.
pub(super) fn vxlan_tag(name: &str) -> Option<u32> {
    let tag = segment_tag(name)?;
    let names = [Family::Ipv4, Family::Ipv6].map(|family| RemotePort::Vxlan(family).name(tag));
    names.iter().any(|known| known == name).then_some(tag)
}

/// The container's end is out of sight, so its address is written on the near one.
fn port_alias(port: &PortSpec) -> String {
    format!("weave {} {}", port.endpoint, port.mac)
}

fn mac_of(port: &Link) -> Option<Mac> {
    port.alias.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_devices_tell_their_segment_and_fit() {
        for name in names(0xdead_beef) {
            assert_eq!(segment_tag(&name), Some(0xdead_beef));
            assert!(name.len() <= 15, "{name}");
        }
        assert_eq!(segment_tag("br-lan"), None);
        assert_eq!(segment_tag("eth0-00000001"), None);
    }
}
