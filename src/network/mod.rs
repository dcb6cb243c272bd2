//! The domain: networks, the segments they are made of, the endpoints on them.

mod actor;
mod address_spec;
mod core;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod mechanic;
mod record;
pub mod services;
mod status;
mod switch;

use std::collections::BTreeMap;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

pub use self::actor::Stores;
pub use self::address_spec::AddressSpec;
pub use self::core::CoreConfig as Config;
pub use self::status::{EndpointStatus, NetworkStatus, RouteStatus, SegmentStatus};
pub use self::switch::{Policy, Route};
use crate::datapath::transport::Choice;
use crate::types::{EndpointId, Mac, NetworkId, ParseError, PeerId, SegmentId, Vni};

/// The option that carries a network's VNI from the swarm manager to all nodes.
pub const VNI_OPTION: &str = "works.weave.vni";

/// A Docker network, as the Engine describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkSpec {
    /// Docker's identifier.
    pub id: NetworkId,
    /// The subnets with their gateways, IPv4 first.
    pub pools: Vec<Pool>,
    /// What the user, or the swarm manager, asked for.
    pub options: NetworkOptions,
}

/// One subnet of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The subnet.
    pub subnet: IpNet,
    /// The gateway's address, where Docker's IPAM has set one aside.
    pub gateway: Option<IpNet>,
}

/// A network's options, parsed and checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkOptions {
    /// `works.weave.vni`: chosen by the swarm manager; its presence makes the network global.
    pub vni: Option<Vni>,
    /// `works.weave.network`: the segment of a local-scope network.
    pub segment: Option<String>,
    /// `com.docker.network.driver.mtu`, in bytes.
    pub mtu: Option<u16>,
    /// `works.weave.multicast`.
    pub multicast: Option<bool>,
    /// `--internal`: no way out.
    pub internal: bool,
}

/// An endpoint, as the Engine asks for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSpec {
    /// The network it is on.
    pub network: NetworkId,
    /// Docker's identifier.
    pub endpoint: EndpointId,
    /// The container's address with the subnet's prefix length.
    pub ipv4: Option<IpNet>,
    /// The container's address with the subnet's prefix length.
    pub ipv6: Option<IpNet>,
    /// The MAC address that the user chose.
    pub mac: Option<Mac>,
    /// Whether multicast is to go this way, where the container's user says so and not the network.
    #[serde(default)]
    pub wants_multicast: Option<bool>,
}

/// What Docker needs to finish an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// The interface, in the host's namespace, that Docker is to move into the container.
    pub interface: String,
    /// Destinations that are directly connected there.
    pub connected_routes: Vec<IpNet>,
}

/// An endpoint that a container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// The network it is on.
    pub network: NetworkId,
    /// The segment that network is part of.
    pub segment: SegmentId,
    /// The file of the container's network namespace, as Docker names it. Docker mounts the
    /// namespace there only when the container starts.
    pub sandbox: PathBuf,
}

/// The endpoints that this host's containers use.
pub type JoinedEndpoints = BTreeMap<EndpointId, Joined>;

/// The peers that take part in segments of this host, with the largest packet, in bytes, that the
/// containers of both exchange.
pub type SharedPeers = BTreeMap<PeerId, u16>;

/// Why a network or endpoint is not as Docker asked.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetworkError {
    /// The network was never created here, or its definition was lost.
    #[error("network {0} is not known on this host")]
    UnknownNetwork(NetworkId),
    /// The endpoint was never created here.
    #[error("endpoint {0} is not known on this host")]
    UnknownEndpoint(EndpointId),
    /// An option cannot be obeyed.
    #[error("network option {option}: {source}")]
    Option {
        /// Which one.
        option: String,
        /// What was expected and what came.
        source: ParseError,
    },
    /// Another endpoint of the segment has the address.
    #[error(
        "address {address} is already used by {holder} on host {host}; give each host its own \
         part of the subnet with `docker network create --ip-range`, or let the plugin hand out \
         addresses with `--ipam-driver`"
    )]
    AddressInUse {
        /// Which address.
        address: std::net::IpAddr,
        /// The container, or the endpoint, that has it.
        holder: String,
        /// The nickname of the peer where it runs.
        host: String,
    },
    /// No unused VNI was found.
    #[error("no unused VNI is left for network {0}")]
    NoVni(NetworkId),
    /// The kernel's devices could not be set up.
    #[error("{0}")]
    Datapath(String),
    /// The state could not be made durable; nothing was changed.
    #[error("the state cannot be stored: {0}")]
    Store(String),
    /// The daemon is shutting down.
    #[error("the daemon is shutting down")]
    Stopped,
}

/// The way to the networks from the floors above; cloning gives another handle.
///
/// Calls are answered in order by one task, each within milliseconds: none waits for another
/// host.
#[derive(Debug, Clone)]
pub struct Networks {
    commands: mpsc::Sender<Command>,
    joined: watch::Receiver<JoinedEndpoints>,
    shared: watch::Receiver<SharedPeers>,
}

pub(crate) type Reply<T> = oneshot::Sender<Result<T, NetworkError>>;

#[derive(Debug)]
pub(crate) enum Command {
    Allocate(
        NetworkId,
        BTreeMap<String, String>,
        Reply<BTreeMap<String, String>>,
    ),
    Free(NetworkId, Reply<()>),
    Create(NetworkSpec, Reply<()>),
    Delete(NetworkId, Reply<()>),
    CreateEndpoint(EndpointSpec, Reply<Mac>),
    Join(NetworkId, EndpointId, Option<PathBuf>, Reply<Attachment>),
    Leave(EndpointId, Reply<()>),
    DeleteEndpoint(EndpointId, Reply<()>),
    Describe(EndpointId, Reply<BTreeMap<String, String>>),
    Containers(BTreeMap<EndpointId, String>),
    UnderlayMtu(u16),
    Transport(PeerId, Choice),
    Status(Reply<NetworkStatus>),
}

impl Networks {
    /// Chooses what a global network needs on every node (its VNI): called on the swarm manager,
    /// and again with what it answered before.
    pub async fn allocate(
        &self,
        id: NetworkId,
        options: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, NetworkError> {
        self.ask(|reply| Command::Allocate(id, options, reply))
            .await
    }

    /// A global network is gone: called on the swarm manager.
    pub async fn free(&self, id: NetworkId) -> Result<(), NetworkError> {
        self.ask(|reply| Command::Free(id, reply)).await
    }

    /// Takes note of a network and makes its devices.
    pub async fn create(&self, spec: NetworkSpec) -> Result<(), NetworkError> {
        self.ask(|reply| Command::Create(spec, reply)).await
    }

    /// Forgets a network; one that is not known is as good as forgotten.
    pub async fn delete(&self, id: NetworkId) -> Result<(), NetworkError> {
        self.ask(|reply| Command::Delete(id, reply)).await
    }

    /// Makes an endpoint, replacing a stale one of the same identifier; returns its MAC address.
    pub async fn create_endpoint(&self, spec: EndpointSpec) -> Result<Mac, NetworkError> {
        self.ask(|reply| Command::CreateEndpoint(spec, reply)).await
    }

    /// Plugs an endpoint into its segment, for the container whose namespace is at `sandbox`.
    pub async fn join(
        &self,
        network: NetworkId,
        endpoint: EndpointId,
        sandbox: Option<PathBuf>,
    ) -> Result<Attachment, NetworkError> {
        self.ask(|reply| Command::Join(network, endpoint, sandbox, reply))
            .await
    }

    /// The container no longer uses the endpoint.
    pub async fn leave(&self, endpoint: EndpointId) -> Result<(), NetworkError> {
        self.ask(|reply| Command::Leave(endpoint, reply)).await
    }

    /// Removes an endpoint; one that is not known is as good as removed.
    pub async fn delete_endpoint(&self, endpoint: EndpointId) -> Result<(), NetworkError> {
        self.ask(|reply| Command::DeleteEndpoint(endpoint, reply))
            .await
    }

    /// What is worth knowing about an endpoint; empty for one that is not known.
    pub async fn describe(
        &self,
        endpoint: EndpointId,
    ) -> Result<BTreeMap<String, String>, NetworkError> {
        self.ask(|reply| Command::Describe(endpoint, reply)).await
    }

    /// Tells which containers run, by the identifiers of their endpoints: their names are shown,
    /// and endpoints that no container has any more are removed.
    pub async fn containers(&self, containers: BTreeMap<EndpointId, String>) {
        // A task that is gone has nothing to keep in order.
        let _ = self.commands.send(Command::Containers(containers)).await;
    }

    /// Tells the largest packet, in bytes, that the ways to the other hosts carry.
    pub async fn underlay_mtu(&self, mtu: u16) {
        let _ = self.commands.send(Command::UnderlayMtu(mtu)).await;
    }

    /// Tells which transport reaches a peer from now on.
    pub async fn transport(&self, peer: PeerId, choice: Choice) {
        let _ = self.commands.send(Command::Transport(peer, choice)).await;
    }

    /// The peers that take part in segments of this host, now and whenever that changes.
    pub fn shared(&self) -> watch::Receiver<SharedPeers> {
        self.shared.clone()
    }

    /// The endpoints that this host's containers use, now and whenever that changes.
    pub fn joined(&self) -> watch::Receiver<JoinedEndpoints> {
        self.joined.clone()
    }

    /// What is known of segments, endpoints and the ways to other hosts.
    pub async fn status(&self) -> Result<NetworkStatus, NetworkError> {
        self.ask(Command::Status).await
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(command(reply))
            .await
            .map_err(|_| NetworkError::Stopped)?;
        answer.await.map_err(|_| NetworkError::Stopped)?
    }
}

#[cfg(test)]
impl Networks {
    /// A handle whose calls the test itself answers.
    pub(crate) fn twin() -> (Self, mpsc::Receiver<Command>) {
        let (commands, calls) = mpsc::channel(1);
        let joined = watch::channel(JoinedEndpoints::new()).1;
        let shared = watch::channel(SharedPeers::new()).1;
        let twin = Self {
            commands,
            joined,
            shared,
        };
        (twin, calls)
    }
}
