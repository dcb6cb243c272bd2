//! This host's ends of the VXLAN devices that probes go through.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::devices::Devices;
use super::{lock, step};
use crate::datapath::DatapathError;
use crate::datapath::transport::PROBE_VNI;
use crate::datapath::vxlan_probe::{Message, Wire};
use crate::linux::fdb::{FdbChange, FdbEntry};
use crate::linux::link::{Family, VxlanSpec};
use crate::linux::packet::PacketSocket;
use crate::types::{Mac, PeerId, Vni};

/// The devices' names.
const NAMES: [(Family, &str); 2] = [(Family::Ipv4, "vx-probe"), (Family::Ipv6, "vy-probe")];

/// The EtherType of probes: IEEE's first one for local experiments (IEEE 802, section 9.2.3).
const ETHER_TYPE: u16 = 0x88b5;

/// Bytes before a probe in its frame: Ethernet's header and the name of who sent it.
pub(super) const HEADER: usize = 14 + 16;

/// Who is probed, and by which devices.
#[derive(Debug, Default)]
pub(super) struct Probed {
    /// `None` until it is known what an earlier life of the daemon left.
    devices: Option<BTreeMap<Family, u32>>,
    peers: BTreeMap<PeerId, IpAddr>,
}

/// The way of probes through the devices.
#[derive(Debug)]
pub struct ProbeWire {
    pub(super) me: PeerId,
    pub(super) socket: PacketSocket,
    pub(super) probed: Arc<Mutex<Probed>>,
    pub(super) frame: Vec<u8>,
}

impl ProbeWire {
    pub(super) fn new(
        me: PeerId,
        socket: PacketSocket,
        probed: Arc<Mutex<Probed>>,
    ) -> io::Result<Self> {
        socket.listen_for(ETHER_TYPE)?;
        Ok(Self {
            me,
            socket,
            probed,
            frame: Vec::new(),
        })
    }
}

impl Wire for ProbeWire {
    fn send(&mut self, to: PeerId, probe: &[u8]) -> io::Result<()> {
        let device = {
            let probed = lock(&self.probed);
            let family = probed.peers.get(&to).map(family_of);
            family.and_then(|family| probed.devices.as_ref()?.get(&family).copied())
        };
        let device = device.ok_or(io::ErrorKind::NotConnected)?;
        self.frame.clear();
        self.frame.extend(mac_of(to).octets());
        self.frame.extend(mac_of(self.me).octets());
        self.frame.extend(ETHER_TYPE.to_be_bytes());
        self.frame.extend(self.me.as_bytes());
        self.frame.extend(&probe[..Message::LEN]);
        // What is asked for is the size of the frame, its header included.
        let size = probe.len().max(self.frame.len());
        self.frame.resize(size, 0);
        self.socket.send(device, &self.frame)
    }

    fn receive(&mut self, buffer: &mut [u8], patience: Duration) -> io::Result<(usize, PeerId)> {
        let patience = u16::try_from(patience.as_millis()).unwrap_or(u16::MAX);
        let (length, device) = self.socket.receive(buffer, patience.max(1))?;
        let ours = lock(&self.probed)
            .devices
            .as_ref()
            .is_some_and(|devices| devices.values().any(|own| *own == device));
        let name = buffer.get(14..HEADER).and_then(|name| name.try_into().ok());
        match name {
            Some(name) if ours && length >= HEADER => {
                buffer.copy_within(HEADER..length, 0);
                Ok((length - HEADER, PeerId::from_bytes(name)))
            }
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Devices {
    /// Makes what leads to exactly these peers.
    pub(super) fn set_probed(
        &mut self,
        probed: &Mutex<Probed>,
        peers: BTreeMap<PeerId, IpAddr>,
    ) -> Result<(), DatapathError> {
        let (known, before) = {
            let probed = lock(probed);
            (probed.devices.clone(), probed.peers.clone())
        };
        let mut devices = known.unwrap_or_default();
        for (family, name) in NAMES {
            let wanted = peers.values().any(|address| family_of(address) == family);
            let known = devices.contains_key(&family);
            if wanted && !known {
                self.remove_probe_device(name)?;
                devices.insert(family, self.make_probe_device(name, family)?);
            } else if !wanted && (known || lock(probed).devices.is_none()) {
                self.remove_probe_device(name)?;
                devices.remove(&family);
            }
        }
        let entry = |(peer, address): (&PeerId, &IpAddr)| {
            Some(FdbEntry::Vxlan {
                mac: mac_of(*peer),
                device: *devices.get(&family_of(address))?,
                host: *address,
            })
        };
        let gone = before.iter().filter(|(peer, address)| {
            let now = peers.get(*peer);
            now.is_none_or(|now| family_of(now) != family_of(address))
        });
        let removed = gone.filter_map(entry).map(FdbChange::Remove);
        let added = peers.iter().filter_map(entry).map(FdbChange::Set);
        let changes: Vec<_> = removed.chain(added).collect();
        let changed = self.in_weave.change_fdb(&changes);
        let mut probed = lock(probed);
        probed.devices = Some(devices);
        changed.map_err(step(|| "set up probes through VXLAN".to_owned()))?;
        probed.peers = peers;
        Ok(())
    }

    fn make_probe_device(&mut self, name: &str, family: Family) -> Result<u32, DatapathError> {
        let failed = || format!("set up VXLAN device {name}");
        let unfit = |reason: &str| DatapathError::Step {
            step: failed(),
            reason: reason.to_owned(),
        };
        let spec = VxlanSpec {
            vni: Vni::try_from(PROBE_VNI).map_err(|error| unfit(&error.to_string()))?,
            port: self.vxlan_port,
        };
        self.in_host
            .add_vxlan(name, &spec, family, &self.weave)
            .map_err(step(failed))?;
        self.in_weave
            .switch_on(name, "weave probes")
            .map_err(step(failed))?;
        let link = self.in_weave.link(name).map_err(step(failed))?;
        let link = link.ok_or_else(|| unfit("it vanished while it was being made"))?;
        Ok(link.index)
    }

    fn remove_probe_device(&mut self, name: &str) -> Result<(), DatapathError> {
        let removed = self.in_weave.delete_link(name);
        removed.map_err(step(|| format!("remove {name}")))
    }
}

fn family_of(address: &IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::Ipv4,
        IpAddr::V6(_) => Family::Ipv6,
    }
}

/// A unicast address that no manufacturer gave.
fn mac_of(peer: PeerId) -> Mac {
    let [a, b, c, d, e, ..] = *peer.as_bytes();
    Mac::new([2, a, b, c, d, e])
}
