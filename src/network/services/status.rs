//! What is known of services.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use super::record::TaskState;
use crate::types::{NetworkId, PeerId};

/// All services, and what keeps them from working.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesStatus {
    /// Every service on every network.
    pub services: Vec<ServiceStatus>,
    /// Why the kernel cannot translate virtual addresses at all, if so.
    pub unsupported: Option<String>,
    /// What failed and is being tried again.
    pub problems: Vec<String>,
}

/// A service on one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub service: String,
    /// The network.
    pub network: NetworkId,
    /// Its virtual address there.
    pub vip: Ipv4Addr,
    /// The tasks that run.
    pub backends: Vec<BackendStatus>,
}

/// A task of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackendStatus {
    /// Its address.
    pub address: Ipv4Addr,
    /// Where it runs.
    pub peer: PeerId,
    /// Whether that host can be reached.
    pub reachable: bool,
    /// Whether it takes connections.
    pub state: TaskState,
}
