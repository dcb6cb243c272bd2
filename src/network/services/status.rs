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
    /// Why flows of datagrams stay with tasks that are gone, if so.
    pub no_flows: Option<String>,
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
    /// How sure it is that it runs.
    pub certainty: Certainty,
    /// Whether it takes connections.
    pub state: TaskState,
    /// How many connections this host's containers have to it through the virtual address.
    pub connections: usize,
}

/// How sure it is that a task runs, the surest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Certainty {
    /// Its host says so.
    Confirmed,
    /// Its host said so before its daemon started anew, and not since.
    Remembered,
    /// Its host cannot be reached.
    Unreachable,
}
