//! The devices that carry frames: bridges, veth pairs, VXLAN.
//!
//! Everything shared between containers lives in a network namespace of its own (`weave`), out of
//! reach of the host's firewall; the sockets that carry frames between hosts stay in the host's
//! namespace, where Docker also finds the container's end of each veth pair. The devices outlive
//! the daemon: restarting it interrupts no traffic.

mod absent;
mod announcement;
mod hybrid;
mod kernel;
pub mod memory;
pub mod mtu;
pub mod transport;
pub mod tunnel;
pub mod vxlan_filter;
pub mod vxlan_probe;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use thiserror::Error;

pub use absent::MaybeDatapath;
pub use hybrid::HybridDatapath;
pub use kernel::{KernelConfig, KernelDatapath, NAMESPACE, ProbeWire};

use crate::types::{EndpointId, Mac, PeerId, SegmentId, Vni};

/// The devices of one segment on this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentSpec {
    /// Which segment; its [`tag`](SegmentId::tag) is in the names of the devices.
    pub id: SegmentId,
    /// The identifier of the segment on the wire.
    pub vni: Vni,
    /// The largest IP packet that containers may send, in bytes.
    pub mtu: u16,
    /// Whether frames may travel in the clear. Without this the segment has no VXLAN device at
    /// all: nothing is sent by it and nothing is accepted.
    pub vxlan: bool,
    /// Whether frames travel through the tunnel. Without this the segment has no TAP.
    pub tunnel: bool,
}

/// How frames reach another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Via {
    /// In the clear, by the kernel's VXLAN, to this underlay address.
    Vxlan(IpAddr),
    /// Through the tunnel to this peer.
    Tunnel(PeerId),
}

/// Where a segment's frames go beyond this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// Frames for these addresses go to one host.
    pub unicast: BTreeMap<Mac, Via>,
    /// Frames for everybody, and for nobody known, go to all of these.
    pub flood: BTreeSet<Via>,
}

/// One container's port on a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Whose port; the names of the veth pair are made from it.
    pub endpoint: EndpointId,
    /// The segment to plug it into.
    pub segment: SegmentId,
    /// The address of the container's end.
    pub mac: Mac,
    /// The largest IP packet of the container's end, in bytes.
    pub mtu: u16,
}

/// What was found in the kernel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// Tags of the segments that have devices.
    pub segments: BTreeSet<u32>,
    /// Names of the bridge ports of containers, as [`port_name`] makes them, with the tag of the
    /// segment whose bridge they are plugged into, if any.
    pub ports: BTreeMap<String, Option<u32>>,
}

/// Why the kernel's devices are not as they should be.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DatapathError {
    /// The kernel, or a permission, lacks something that every segment needs.
    #[error("{what} cannot be used here: {reason}")]
    Unsupported {
        /// What is missing.
        what: &'static str,
        /// What the kernel said when it was tried.
        reason: String,
    },
    /// One step failed; the steps before it remain and are completed by the next try.
    #[error("cannot {step}: {reason}")]
    Step {
        /// What was being done, with names.
        step: String,
        /// What the kernel said.
        reason: String,
    },
    /// The segment has no devices on this host.
    #[error("segment {0} has no devices on this host")]
    UnknownSegment(SegmentId),
    /// Several steps of a teardown failed; everything that could be removed was.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<DatapathError>),
}

/// What the network floor asks of the devices.
///
/// Every call is idempotent and completes what an earlier one left undone. The kernel's datapath
/// implements it for real; tests of the floors above have a twin in memory.
pub trait Datapath: Send + Sync + 'static {
    /// What is there already, left by an earlier life of the daemon.
    fn inventory(&self) -> impl Future<Output = Result<Inventory, DatapathError>> + Send;

    /// Makes the segment's devices, or changes what differs.
    fn ensure_segment(
        &self,
        spec: &SegmentSpec,
    ) -> impl Future<Output = Result<(), DatapathError>> + Send;

    /// Removes the devices of the segment with this tag.
    fn remove_segment(&self, tag: u32) -> impl Future<Output = Result<(), DatapathError>> + Send;

    /// Makes the forwarding of a segment exactly this.
    fn set_forwarding(
        &self,
        segment: &SegmentId,
        forwarding: &Forwarding,
    ) -> impl Future<Output = Result<(), DatapathError>> + Send;

    /// Makes a veth pair with one end in the segment's bridge and the other in the host's
    /// namespace; returns the name of the latter, which Docker moves into the container.
    /// A stale pair of the same endpoint is replaced.
    fn plug(&self, port: &PortSpec) -> impl Future<Output = Result<String, DatapathError>> + Send;

    /// Removes the veth pair whose bridge port has this name, as [`port_name`] makes it.
    fn unplug(&self, port: &str) -> impl Future<Output = Result<(), DatapathError>> + Send;

    /// Tells a segment's containers, here and elsewhere, that an address now belongs to this MAC
    /// (gratuitous ARP, RFC 5227 section 3; unsolicited neighbour advertisement, RFC 4861 section
    /// 7.2.6).
    fn announce(
        &self,
        segment: &SegmentId,
        mac: Mac,
        addresses: &[IpAddr],
    ) -> impl Future<Output = Result<(), DatapathError>> + Send;
}

/// The name of the TAP of the segment with this tag.
pub fn tap_name(tag: u32) -> String {
    format!("vt-{tag:08x}")
}

/// The name of an endpoint's bridge port: at most 15 bytes, the kernel's limit (`IFNAMSIZ`).
pub fn port_name(endpoint: &EndpointId) -> String {
    format!("vp{}", endpoint.short())
}

/// The name of an endpoint's other end while it is in the host's namespace.
pub fn host_name(endpoint: &EndpointId) -> String {
    format!("vw{}", endpoint.short())
}
