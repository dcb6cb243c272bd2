//! What is known of services.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::types::{NetworkId, PeerId};

/// A service on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub service: String,
    /// The network.
    pub network: NetworkId,
    /// Its virtual address there.
    pub vip: Ipv4Addr,
    /// The tasks that take its connections.
    pub backends: Vec<BackendStatus>,
}

/// A task that takes connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its address.
    pub address: Ipv4Addr,
    /// Where it runs.
    pub peer: PeerId,
    /// Whether that host can be reached.
    pub reachable: bool,
}
