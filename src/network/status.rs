//! What the networks say of themselves.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::switch::Route;
use crate::types::{EndpointId, Mac, NetworkId, PeerId, SegmentId, Vni};

/// Segments, endpoints and the ways to the other hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// The segments that this host takes part in.
    pub segments: Vec<SegmentStatus>,
    /// The endpoints on those segments, here and on other hosts.
    pub endpoints: Vec<EndpointStatus>,
    /// How frames reach each known peer.
    pub routes: Vec<RouteStatus>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// One segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentStatus {
    /// Its name.
    pub segment: SegmentId,
    /// Its identifier on the wire.
    pub vni: Vni,
    /// The largest packet that containers send, in bytes.
    pub mtu: u16,
    /// Docker's networks on it, on this host.
    pub networks: Vec<NetworkId>,
    /// Their subnets.
    pub subnets: Vec<IpNet>,
    /// The other peers that have endpoints on it.
    pub peers: Vec<PeerId>,
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointStatus {
    /// The segment it is plugged into.
    pub segment: SegmentId,
    /// Docker's network; known for endpoints of this host.
    pub network: Option<NetworkId>,
    /// Docker's identifier; its first 12 characters for endpoints of other hosts.
    pub endpoint: EndpointId,
    /// The container's name, once the engine has told it.
    pub container: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its Ethernet address.
    pub mac: Mac,
    /// The peer where it is.
    pub peer: PeerId,
    /// What that peer's host is called.
    pub host: String,
}

/// The way to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// Which peer.
    pub peer: PeerId,
    /// Its underlay address.
    pub address: Option<IpAddr>,
    /// The transport and the reason for it.
    #[serde(flatten)]
    pub route: Route,
}
