//! Addresses: pools for networks and addresses for their containers, unique across all hosts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::types::Mac;

/// Docker's two kinds of address space: of this host's networks, and of the swarm's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum AddressSpace {
    /// `weavelocal`: networks that this host's engine defines.
    Local,
    /// `weaveglobal`: networks that swarm's managers define.
    Global,
}

/// The handle by which Docker knows a pool: the address space, the subnet and the range in text,
/// so that nothing needs to be remembered to understand it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PoolId(pub String);

/// What Docker asks of a new pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRequest {
    /// Whose networks it is for.
    pub space: AddressSpace,
    /// The subnet the user gave (`--subnet`).
    pub subnet: Option<IpNet>,
    /// The part of it to allocate from (`--ip-range`).
    pub range: Option<IpNet>,
    /// `--ipam-opt` values.
    pub options: BTreeMap<String, String>,
    /// Whether an IPv6 pool is wanted. Swarm managers never set it; a given subnet decides.
    pub v6: bool,
}

/// A pool that was granted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its handle.
    pub id: PoolId,
    /// Its subnet.
    pub subnet: IpNet,
    /// A gateway that uses up no address; `None` lets Docker ask for one.
    pub gateway: Option<IpNet>,
}

/// What Docker asks of a new address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressRequest {
    /// From which pool.
    pub pool: PoolId,
    /// The address that was chosen already (`--ip`, a gateway, a swarm manager's choice).
    pub address: Option<IpAddr>,
    /// Whether it is for the network's gateway.
    pub gateway: bool,
    /// Whether a freed address should not be used again soon (swarm).
    pub serial: bool,
    /// The endpoint's MAC address, where Docker tells it.
    pub mac: Option<Mac>,
}

/// Why there is no pool or address.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum IpamError {
    /// The handle is not one of ours.
    #[error("pool {0:?} is not one that this plugin handed out")]
    UnknownPool(String),
    /// The request contradicts itself or the configuration.
    #[error("{0}")]
    Invalid(String),
    /// The address is in use.
    #[error("address {address} is already used by {holder}")]
    InUse {
        /// Which address.
        address: IpAddr,
        /// Who has it, with the host.
        holder: String,
    },
    /// No address is left, here or with the peers that could be asked.
    #[error("no address is left in {pool}: {reason}")]
    Exhausted {
        /// In which range.
        pool: String,
        /// Who was asked and what came back.
        reason: String,
    },
    /// What is needed is not there yet.
    #[error("{0}")]
    Waiting(String),
    /// The state could not be made durable; nothing was handed out.
    #[error("the state cannot be stored: {0}")]
    Store(String),
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    Stopped,
}

/// The way to the allocator from the floors above; cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Ipam {
    commands: mpsc::Sender<Command>,
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, IpamError>>;

#[derive(Debug)]
pub(crate) enum Command {
    RequestPool(PoolRequest, Reply<Pool>),
    ReleasePool(PoolId, Reply<()>),
    RequestAddress(AddressRequest, Reply<IpNet>),
    ReleaseAddress(PoolId, IpAddr, Reply<()>),
}

impl Ipam {
    /// An allocator that has stopped.
    pub fn unavailable() -> Self {
        let (commands, _) = mpsc::channel(1);
        Self { commands }
    }

    /// Grants a pool.
    pub async fn request_pool(&self, request: PoolRequest) -> Result<Pool, IpamError> {
        self.ask(|reply| Command::RequestPool(request, reply)).await
    }

    /// Gives a pool back; one that is not known is as good as given back.
    pub async fn release_pool(&self, pool: PoolId) -> Result<(), IpamError> {
        self.ask(|reply| Command::ReleasePool(pool, reply)).await
    }

    /// Grants an address, with the subnet's prefix length.
    pub async fn request_address(&self, request: AddressRequest) -> Result<IpNet, IpamError> {
        self.ask(|reply| Command::RequestAddress(request, reply))
            .await
    }

    /// Gives an address back; one that is not in use is as good as given back.
    pub async fn release_address(&self, pool: PoolId, address: IpAddr) -> Result<(), IpamError> {
        self.ask(|reply| Command::ReleaseAddress(pool, address, reply))
            .await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, IpamError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| IpamError::Stopped)?;
        answer.await.map_err(|_| IpamError::Stopped)?
    }
}

#[cfg(test)]
impl Ipam {
    /// A handle whose calls the test itself answers.
    pub(crate) fn twin() -> (Self, mpsc::Receiver<Command>) {
        let (commands, calls) = mpsc::channel(1);
        (Self { commands }, calls)
    }
}
