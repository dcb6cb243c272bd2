//! The datapath as the Linux kernel does it: one bridge per segment, a veth pair per container,
//! VXLAN between hosts.

mod devices;
mod forwarding;
mod probe;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use netlink_packet_route::link::InfoKind;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::{Datapath, DatapathError, Forwarding, Inventory, PortSpec, SegmentSpec, announcement};
use crate::linux::link::LinkTraffic;
use crate::linux::netlink::{Netlink, NetlinkError};
use crate::linux::netns::{NetNs, Persistence};
use crate::linux::packet::PacketSocket;
use crate::linux::route::Route;
use crate::linux::sysctl;
use crate::types::{Mac, PeerId, SegmentId};
use devices::Devices;
use probe::Probed;

pub use probe::ProbeWire;

/// The name of the namespace of the segments' devices.
pub const NAMESPACE: &str = "weave";

/// How long a call may take; Docker waits 10 seconds before it tries again
/// (docker, pkg/plugins/client.go).
const CALL_DEADLINE: Duration = Duration::from_secs(8);

/// Addresses that no network has (RFC 5737, RFC 3849): the way to them is the default route.
const NOWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// What the kernel's datapath needs to know.
#[derive(Debug, Clone)]
pub struct KernelConfig {
    /// Where the host's `/run` is seen: `/host/run` in a managed plugin.
    pub run_dir: PathBuf,
    /// The UDP port of VXLAN, on all hosts.
    pub vxlan_port: u16,
}

/// The kernel's datapath; cloning gives another handle.
#[derive(Debug, Clone)]
pub struct KernelDatapath {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    weave: NetNs,
    devices: Mutex<Devices>,
    /// Removing a device takes long; it must not hold up an attach.
    teardown: Mutex<Netlink>,
    /// Held while a segment is made or removed: the one would undo the other.
    segments: Mutex<()>,
    announcer: PacketSocket,
    probed: Arc<Mutex<Probed>>,
    limits: Vec<DatapathError>,
}

impl KernelDatapath {
    /// Opens the datapath of the calling thread's namespace, and the namespace `weave` for the
    /// devices, which is made if need be. Devices found there are adopted untouched.
    ///
    /// What the kernel lacks is no error here; [`limits`](Self::limits) tells it.
    ///
    /// # Errors
    /// When there can be no namespace or no netlink: then no segment can have devices.
    pub fn open(config: &KernelConfig) -> Result<Self, DatapathError> {
        let host = NetNs::current().map_err(unsupported("the host's network namespace"))?;
        let (weave, persistence) = NetNs::persistent(&config.run_dir, NAMESPACE)
            .map_err(unsupported("a network namespace"))?;
        let netlink = |namespace: &NetNs| Netlink::open(namespace).map_err(unsupported("netlink"));
        let mut devices = Devices {
            in_host: netlink(&host)?,
            in_weave: netlink(&weave)?,
            host,
            weave: weave.clone(),
            vxlan_port: config.vxlan_port,
            segments: BTreeMap::new(),
        };
        let mut limits = probe(&mut devices);
        if let Persistence::Lost(reason) = persistence {
            let what = "a network namespace that outlives the daemon";
            limits.push(DatapathError::Unsupported { what, reason });
        }
        limits.extend(keep_firewall_out(&weave).err());
        let inner = Inner {
            devices: Mutex::new(devices),
            teardown: Mutex::new(netlink(&weave)?),
            segments: Mutex::new(()),
            announcer: PacketSocket::open(&weave).map_err(unsupported("packet sockets"))?,
            probed: Arc::default(),
            weave,
            limits,
        };
        let inner = Arc::new(inner);
        Ok(Self { inner })
    }

    /// What cannot be had here, and why, as found at start.
    pub fn limits(&self) -> &[DatapathError] {
        &self.inner.limits
    }

    /// The namespace of the devices.
    pub fn namespace(&self) -> &NetNs {
        &self.inner.weave
    }

    /// The largest IP packet that this host sends to a peer's underlay address, in bytes; without
    /// a peer, by its default route. `None` when there is no route.
    pub async fn underlay_mtu(&self, peer: Option<IpAddr>) -> Result<Option<u32>, DatapathError> {
        self.run("find the path's MTU", move |inner| {
            let mut devices = inner.devices();
            let ways = peer.map_or(NOWHERE.to_vec(), |peer| vec![peer]);
            for to in ways {
                let mtu = devices.in_host.path_mtu(to);
                let mtu = mtu.map_err(step(|| format!("find the MTU of the path to {to}")))?;
                if mtu.is_some() {
                    return Ok(mtu);
                }
            }
            Ok(None)
        })
        .await
    }

    /// What VXLAN carried of each segment, by the segment's [`tag`](SegmentId::tag).
    pub async fn vxlan_traffic(&self) -> Result<BTreeMap<u32, LinkTraffic>, DatapathError> {
        self.run("count what VXLAN carries", move |inner| {
            let all = inner.devices().in_weave.traffic();
            let all = all.map_err(step(|| "count what devices carry".to_owned()))?;
            let mut of_segments = BTreeMap::<u32, LinkTraffic>::new();
            for (name, traffic) in all {
                if let Some(tag) = devices::vxlan_tag(&name) {
                    of_segments.entry(tag).or_default().add(traffic);
                }
            }
            Ok(of_segments)
        })
        .await
    }

    /// The way of probes through VXLAN itself.
    ///
    /// # Errors
    /// When the kernel has no packet sockets.
    pub fn probe_wire(&self, me: PeerId) -> Result<ProbeWire, DatapathError> {
        let socket = PacketSocket::open(&self.inner.weave);
        let wire = socket.and_then(|socket| {
            let probed = Arc::clone(&self.inner.probed);
            ProbeWire::new(me, socket, probed)
        });
        wire.map_err(unsupported("probes through VXLAN"))
    }

    /// Lets probes go to exactly these peers, at their underlay addresses.
    ///
    /// # Errors
    /// When a device cannot be made; nothing is probed over it then.
    pub async fn set_probed(&self, peers: BTreeMap<PeerId, IpAddr>) -> Result<(), DatapathError> {
        self.run("set up probes through VXLAN", move |inner| {
            inner.devices().set_probed(&inner.probed, peers)
        })
        .await
    }

    /// The routes of this host that overlap an IPv4 subnet, as people know them.
    pub async fn routes_within(&self, subnet: Ipv4Net) -> Result<Vec<String>, DatapathError> {
        self.run("list the host's routes", move |inner| {
            let mut devices = inner.devices();
            let host = &mut devices.in_host;
            let routes = host
                .ipv4_routes()
                .map_err(step(|| "list the host's routes".to_owned()))?;
            let links = host
                .links(None)
                .map_err(step(|| "list the host's links".to_owned()))?;
            let name = |index: u32| links.iter().find(|link| link.index == index);
            let overlaps = |net: &IpNet| match net {
                IpNet::V4(net) => net.contains(&subnet) || subnet.contains(net),
                IpNet::V6(_) => false,
            };
            let overlapping = routes.iter().filter(|route| overlaps(&route.destination));
            let text = |route: &Route| match name(route.interface) {
                Some(link) => format!("{} dev {}", route.destination, link.name),
                None => route.destination.to_string(),
            };
            Ok(overlapping.map(text).collect())
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        call: impl FnOnce(&Inner) -> Result<T, DatapathError> + Send + 'static,
    ) -> Result<T, DatapathError> {
        let inner = Arc::clone(&self.inner);
        let failed = |reason: String| DatapathError::Step {
            step: what.to_owned(),
            reason,
        };
        match timeout(CALL_DEADLINE, spawn_blocking(move || call(&inner))).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!(
                "the kernel took longer than {} s",
                CALL_DEADLINE.as_secs()
            ))),
        }
    }
}

impl Inner {
    fn devices(&self) -> MutexGuard<'_, Devices> {
        lock(&self.devices)
    }

    fn ensure_segment(&self, spec: SegmentSpec) -> Result<(), DatapathError> {
        let _alone = lock(&self.segments);
        self.devices().ensure_segment(spec)
    }

    fn remove_segment(&self, tag: u32) -> Result<(), DatapathError> {
        let _alone = lock(&self.segments);
        self.devices().segments.remove(&tag);
        let mut netlink = lock(&self.teardown);
        let errors: Vec<_> = devices::names(tag)
            .filter_map(|name| {
                let result = netlink.delete_link(&name);
                result.map_err(step(|| format!("remove {name}"))).err()
            })
            .collect();
        devices::all_done(errors)
    }

    fn unplug(&self, port: &str) -> Result<(), DatapathError> {
        let failed = || format!("remove port {port}");
        if !devices::is_port(port) {
            return Err(DatapathError::Step {
                step: failed(),
                reason: "expected the name of a container's port".to_owned(),
            });
        }
        let mut netlink = lock(&self.teardown);
        let Some(link) = netlink.link(port).map_err(step(failed))? else {
            return Ok(());
        };
        netlink.delete_link(port).map_err(step(failed))?;
        drop(netlink);
        self.devices().unplugged(&link)
    }

    fn announce(
        &self,
        segment: &SegmentId,
        mac: Mac,
        addresses: &[IpAddr],
    ) -> Result<(), DatapathError> {
        let bridge = self.devices().segment(segment)?.bridge;
        for address in addresses {
            let frame = announcement::frame(mac, *address);
            self.announcer
                .send(bridge, &frame)
                .map_err(step(|| format!("announce {address} at {mac}")))?;
        }
        Ok(())
    }
}

impl Datapath for KernelDatapath {
    async fn inventory(&self) -> Result<Inventory, DatapathError> {
        self.run("list devices", |inner| inner.devices().inventory())
            .await
    }

    async fn ensure_segment(&self, spec: &SegmentSpec) -> Result<(), DatapathError> {
        let spec = spec.clone();
        self.run("set up a segment", move |inner| inner.ensure_segment(spec))
            .await
    }

    async fn remove_segment(&self, tag: u32) -> Result<(), DatapathError> {
        self.run("remove a segment", move |inner| inner.remove_segment(tag))
            .await
    }

    async fn set_forwarding(
        &self,
        segment: &SegmentId,
        forwarding: &Forwarding,
    ) -> Result<(), DatapathError> {
        let (segment, forwarding) = (segment.clone(), forwarding.clone());
        self.run("set up forwarding", move |inner| {
            inner.devices().set_forwarding(&segment, forwarding)
        })
        .await
    }

    async fn plug(&self, port: &PortSpec) -> Result<String, DatapathError> {
        let port = port.clone();
        self.run("plug in a container", move |inner| {
            inner.devices().plug(&port)
        })
        .await
    }

    async fn unplug(&self, port: &str) -> Result<(), DatapathError> {
        let port = port.to_owned();
        self.run("remove a port", move |inner| inner.unplug(&port))
            .await
    }

    async fn announce(
        &self,
        segment: &SegmentId,
        mac: Mac,
        addresses: &[IpAddr],
    ) -> Result<(), DatapathError> {
        let (segment, addresses) = (segment.clone(), addresses.to_vec());
        self.run("announce addresses", move |inner| {
            inner.announce(&segment, mac, &addresses)
        })
        .await
    }
}

/// Whatever a panic interrupted, the next call compares with the kernel anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks the kernel for every kind of device that will be needed.
fn probe(devices: &mut Devices) -> Vec<DatapathError> {
    let kinds = [
        (InfoKind::Bridge, "bridges"),
        (InfoKind::Veth, "veth pairs"),
        (InfoKind::Vxlan, "VXLAN"),
    ];
    let probed = kinds.map(|(kind, what)| {
        let result = devices.in_weave.probe(kind);
        result.map_err(unsupported(what)).err()
    });
    probed.into_iter().flatten().collect()
}

/// Where `br_netfilter` is loaded it passes bridged packets through the namespace's firewall,
/// which is empty, and takes time for it.
fn keep_firewall_out(namespace: &NetNs) -> Result<(), DatapathError> {
    for name in ["iptables", "ip6tables", "arptables"] {
        let name = format!("net/bridge/bridge-nf-call-{name}");
        match sysctl::set(namespace, &name, "0") {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(unsupported("bridges without netfilter")(error));
            }
            _ => {}
        }
    }
    Ok(())
}

fn unsupported<E: ToString>(what: &'static str) -> impl FnOnce(E) -> DatapathError {
    move |error| DatapathError::Unsupported {
        what,
        reason: error.to_string(),
    }
}

fn step<E: Into<NetlinkError>>(step: impl FnOnce() -> String) -> impl FnOnce(E) -> DatapathError {
    move |error| DatapathError::Step {
        step: step(),
        reason: error.into().to_string(),
    }
}
