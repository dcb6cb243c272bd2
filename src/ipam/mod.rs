//! Addresses: pools for networks and addresses for their containers, unique across all hosts.
//!
//! # How the same address is never handed out twice
//!
//! Every address of a space (the main range, and every subnet outside it that a user gave) has at
//! most one owner at any time, and only the owner hands it out.
//!
//! * **Birth.** The founders are agreed on once, by Paxos among the expected peers ([`birth`]), or
//!   are named in the settings. Founder *i* of *n* owns slot *i* of **every** space, those included
//!   that nobody has thought of yet; so a new subnet needs no agreement, and every founder can
//!   allocate from it at once.
//! * **Gifts.** Space changes hands by the owner's will alone: in one durable step the giver stops
//!   owning it and says to whose life it went (`donation`); in one durable step the receiver
//!   takes it, in the order of the giver's numbers, so none is taken twice. The message may be
//!   lost: the giver's part says the same until the receiver's part says that it has it.
//! * **Lives.** A peer whose state was lost, or whose space was taken over, begins another life.
//!   Gifts, slots and votes belong to a life, so nothing of the old one is mistaken for the new
//!   one's. What is left of a life that has ended is taken over by the others (`removal`).
//! * **Takeover** needs the consent of every member that is not gone itself, each of which stops
//!   all gifts until it is over: so what was on its way is counted once. Automatic takeover also
//!   needs a majority, and a peer that has not seen a majority for three quarters of that time
//!   hands out nothing new. A peer that comes back finds its old life removed, begins another, and
//!   asks for the addresses that its containers still use.
//! * **Durability.** Every step is one entry of the journal, on the disk before anything that
//!   follows from it leaves the host ([`state`], [`journal`]). Who drops its own note of some space
//!   writes down the part of the peer that has it now: that peer's disk may be lost.
//!
//! What this cannot protect against: an operator who removes a peer that is alive; more electors
//! than were expected, in parts of a network that cannot see each other; a peer that loses its
//! state while nobody who knew it can be reached. All three end in rings or parts that differ,
//! which is seen as soon as they meet: both go on, nothing is overwritten, and the status says
//! what to do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::types::{Mac, PeerId};

mod addresses;
pub mod allocator;
pub mod birth;
mod donation;
mod joining;
pub mod journal;
pub mod pools;
pub mod range;
mod removal;
pub mod ring;
pub mod shell;
pub mod space;
pub mod state;
mod status;
pub mod table;
#[cfg(test)]
mod tests;
mod waiting;
pub mod wire;

pub use shell::MeshCommand;
pub use status::{IpamStatus, PeerShare, SpaceStatus};

/// After how long the others take over the space of a peer that nobody can reach, by default:
/// longer than a host is usually down for repair.
pub const TAKEOVER_AFTER: Duration = Duration::from_secs(24 * 3600);

/// How the ring comes into being.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Init {
    /// By agreement, once more than half of so many electors can be reached.
    Consensus {
        /// How many electors there are, this one among them.
        expected: u16,
    },
    /// The founders are named, by nickname or identifier, alike on all hosts.
    Seed(Vec<String>),
    /// This peer has no vote; it waits for the others.
    Observer,
}

/// The allocator's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This peer.
    pub me: PeerId,
    /// What it calls itself.
    pub nickname: String,
    /// `IPALLOC_RANGE`.
    pub range: IpNet,
    /// `--ipalloc-default-subnet`: the subnet of the network `weave`; within the range.
    pub default_subnet: IpNet,
    /// `--ipalloc-init`.
    pub init: Init,
    /// After how long without contact a majority takes over a peer's space; `None`: never.
    pub takeover_after: Option<Duration>,
}

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

/// What the allocator is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// A pool.
    Pool(PoolRequest),
    /// A pool is given back.
    ReleasePool(PoolId),
    /// An address.
    Address(AddressRequest),
    /// An address is given back.
    ReleaseAddress(PoolId, IpAddr),
    /// An address for a container, the same if it has one of that subnet already.
    Allocate {
        /// The container's identifier, or a name that begins with `weave:`.
        container: String,
        /// From which subnet; the default one if none is named.
        subnet: Option<IpNet>,
    },
    /// An address for a container that has it, or wants this very one.
    Claim {
        /// The container's identifier, or a name that begins with `weave:`.
        container: String,
        /// The address with its subnet's prefix length.
        address: IpNet,
        /// Whether the container has it already: then a silent owner is no reason to refuse.
        running: bool,
    },
    /// The addresses of a container.
    Lookup {
        /// The container's identifier.
        container: String,
    },
    /// A container is done with its addresses, or with one of them.
    Release {
        /// The container's identifier.
        container: String,
        /// Which one; all if none is named.
        address: Option<IpAddr>,
    },
    /// Of what was in use before the daemon started, only this is still in use.
    Retain(InUse),
    /// Docker has made a network of these subnets: what it asks for from now on is for containers.
    NetworkMade(Vec<IpNet>),
    /// The ring comes into being otherwise than was thought: the swarm's managers are known.
    Init(Init),
    /// This peer's name in the mesh; another than before where its machine is a clone.
    Identity(PeerId),
    /// A peer is gone for good: take its space over.
    RemovePeer(PeerId),
    /// This peer leaves: give all space to another.
    Reset,
    /// Is there a ring?
    Prime,
    /// What is going on?
    Status,
}

/// What the Engine says is in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    /// Addresses of this host's networks that get theirs from this allocator, with the networks'
    /// subnets.
    pub local: BTreeSet<(IpNet, IpAddr)>,
    /// The same, of the swarm's networks.
    pub global: BTreeSet<(IpNet, IpAddr)>,
    /// Addresses of these networks that no container gets: gateways and auxiliary ones. Those of
    /// the swarm's networks are told where this host's engine leads the swarm.
    pub reserved: BTreeSet<(IpNet, IpAddr, AddressSpace)>,
    /// The virtual addresses of services, where this host's engine leads the swarm.
    pub services: BTreeSet<(IpNet, IpAddr)>,
    /// The subnets of all these networks.
    pub pools: BTreeSet<IpNet>,
    /// The running containers' identifiers.
    pub containers: BTreeSet<String>,
}

impl Request {
    /// Whether nothing changes by it.
    pub fn only_reads(&self) -> bool {
        matches!(self, Self::Lookup { .. } | Self::Prime | Self::Status)
    }
}

/// What the allocator answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// A pool.
    Pool(Pool),
    /// An address with its prefix length.
    Address(IpNet),
    /// Addresses with their prefix lengths.
    Addresses(Vec<IpNet>),
    /// What is going on.
    Status(Box<IpamStatus>),
    /// It is done.
    Done,
}

/// The way to the allocator from the floors above; cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Ipam {
    commands: mpsc::Sender<Command>,
}

/// A request and where its answer goes.
#[derive(Debug)]
struct Command {
    request: Request,
    reply: oneshot::Sender<Result<Response, IpamError>>,
}

impl Ipam {
    /// Grants a pool.
    pub async fn request_pool(&self, request: PoolRequest) -> Result<Pool, IpamError> {
        match self.ask(Request::Pool(request)).await? {
            Response::Pool(pool) => Ok(pool),
            _ => Err(IpamError::Stopped),
        }
    }

    /// Gives a pool back; one that is not known is as good as given back.
    pub async fn release_pool(&self, pool: PoolId) -> Result<(), IpamError> {
        self.ask(Request::ReleasePool(pool)).await.map(drop)
    }

    /// Grants an address, with the subnet's prefix length.
    pub async fn request_address(&self, request: AddressRequest) -> Result<IpNet, IpamError> {
        self.ask_address(Request::Address(request)).await
    }

    /// Gives an address back; one that is not in use is as good as given back.
    pub async fn release_address(&self, pool: PoolId, address: IpAddr) -> Result<(), IpamError> {
        let request = Request::ReleaseAddress(pool, address);
        self.ask(request).await.map(drop)
    }

    /// Grants a container an address of a subnet (the default one if none is named); the one it
    /// has, if it has one there.
    pub async fn allocate(
        &self,
        container: String,
        subnet: Option<IpNet>,
    ) -> Result<IpNet, IpamError> {
        self.ask_address(Request::Allocate { container, subnet })
            .await
    }

    /// Notes that a container has this address, or is to have it. Addresses outside of all spaces
    /// are nobody's business and always granted.
    ///
    /// For one that is `running` with it already, an owner that does not answer is no reason to
    /// refuse; the address is asked for until it is this host's.
    pub async fn claim(
        &self,
        container: String,
        address: IpNet,
        running: bool,
    ) -> Result<(), IpamError> {
        let request = Request::Claim {
            container,
            address,
            running,
        };
        self.ask(request).await.map(drop)
    }

    /// The addresses of a container.
    pub async fn lookup(&self, container: String) -> Result<Vec<IpNet>, IpamError> {
        match self.ask(Request::Lookup { container }).await? {
            Response::Addresses(addresses) => Ok(addresses),
            _ => Err(IpamError::Stopped),
        }
    }

    /// Gives back one address of a container, or all.
    pub async fn release(
        &self,
        container: String,
        address: Option<IpAddr>,
    ) -> Result<(), IpamError> {
        let request = Request::Release { container, address };
        self.ask(request).await.map(drop)
    }

    /// Frees what was in use before the daemon started and is not any more. What is in use and was
    /// not known, because the state was lost, is asked for until it is this host's.
    pub async fn retain(&self, in_use: InUse) -> Result<(), IpamError> {
        self.ask(Request::Retain(in_use)).await.map(drop)
    }

    /// Takes note that Docker has made a network of these subnets: until then it asks for the
    /// network's auxiliary addresses, in the same words as for containers' addresses after that.
    pub fn network_made(&self, subnets: Vec<IpNet>) {
        let (reply, _) = oneshot::channel();
        let request = Request::NetworkMade(subnets);
        // When the queue is full, time does the same.
        let _ = self.commands.try_send(Command { request, reply });
    }

    /// From now on the ring comes into being like this, unless it was born already.
    pub async fn init(&self, init: Init) -> Result<(), IpamError> {
        self.ask(Request::Init(init)).await.map(drop)
    }

    /// Takes note of this peer's name in the mesh. With another than before it owns nothing, and asks
    /// for the addresses that its containers have.
    pub async fn identity(&self, me: PeerId) -> Result<(), IpamError> {
        self.ask(Request::Identity(me)).await.map(drop)
    }

    /// Takes over the space of a peer that is gone for good.
    pub async fn remove_peer(&self, peer: PeerId) -> Result<(), IpamError> {
        self.ask(Request::RemovePeer(peer)).await.map(drop)
    }

    /// Gives all of this host's space to another peer: it leaves.
    pub async fn reset(&self) -> Result<(), IpamError> {
        self.ask(Request::Reset).await.map(drop)
    }

    /// Waits until there is a ring, for at most eight seconds; says what is missing otherwise.
    pub async fn prime(&self) -> Result<(), IpamError> {
        self.ask(Request::Prime).await.map(drop)
    }

    /// What is going on.
    pub async fn status(&self) -> Result<IpamStatus, IpamError> {
        match self.ask(Request::Status).await? {
            Response::Status(status) => Ok(*status),
            _ => Err(IpamError::Stopped),
        }
    }

    async fn ask_address(&self, request: Request) -> Result<IpNet, IpamError> {
        match self.ask(request).await? {
            Response::Address(address) => Ok(address),
            _ => Err(IpamError::Stopped),
        }
    }

    async fn ask(&self, request: Request) -> Result<Response, IpamError> {
        let (reply, answer) = oneshot::channel();
        self.commands
            .send(Command { request, reply })
            .await
            .map_err(|_| IpamError::Stopped)?;
        answer.await.map_err(|_| IpamError::Stopped)?
    }
}

#[cfg(test)]
impl Ipam {
    /// A handle whose calls nobody answers as long as the other half is held.
    pub(crate) fn silent() -> (Self, impl Sized) {
        let (commands, calls) = mpsc::channel(1);
        (Self { commands }, calls)
    }
}
