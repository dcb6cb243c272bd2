//! The mesh: peers, the sessions between them, and the records they replicate.
//!
//! A peer owns records and numbers their changes; every peer ends up with all records of all
//! peers. What a record means is not known here: the floors above give each kind its form.

mod admission;
mod connection;
mod connector;
pub mod core;
mod credentials;
pub mod form;
mod framing;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handle;
mod handshake;
mod identity;
mod keeper;
mod listener;
pub mod message;
mod news;
pub mod records;
mod refusal;
mod replica;
mod shell;
mod status;
mod targets;
mod topology;
mod traffic;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::types::PeerId;

pub use self::core::{PublishError, SendError};
pub use self::credentials::TunnelKeys;
pub use self::handle::{DEFAULT_CONN_LIMIT, DEFAULT_PORT, Mesh, MeshConfig};
pub use self::traffic::MeshCounters;

/// Which part of the daemon a record or message belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Kind(pub u8);

impl Kind {
    /// What a peer says of itself: nickname, addresses, version, features.
    pub const PEER: Self = Self(0);
    /// One direct connection of a peer.
    pub const LINK: Self = Self(1);
    /// A segment that a peer takes part in.
    pub const SEGMENT: Self = Self(2);
    /// A container's endpoint.
    pub const ENDPOINT: Self = Self(3);
    /// A peer's part of the address ring.
    pub const RING: Self = Self(4);
    /// A name and its address.
    pub const NAME: Self = Self(5);
    /// A virtual address of a swarm service.
    pub const SERVICE: Self = Self(6);
    /// A task that backs a swarm service.
    pub const BACKEND: Self = Self(7);
    /// Handshakes of tunnel sessions (messages only).
    pub const TUNNEL: Self = Self(8);
    /// The subnets that a peer trusts.
    pub const TRUST: Self = Self(9);
}

/// The name of a record among those of its owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    /// Which part of the daemon it belongs to.
    pub kind: Kind,
    /// Its name within that part: at most 255 bytes.
    pub id: Bytes,
}

impl Key {
    /// The record of this kind with this name.
    pub fn new(kind: Kind, id: impl Into<Bytes>) -> Self {
        Self {
            kind,
            id: id.into(),
        }
    }
}

/// What the mesh tells the floors above.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MeshEvent {
    /// A record of another peer is new, changed (`Some`) or gone (`None`). Links are not told of
    /// here: `Reachable` and `Unreachable` say what follows from them.
    Record {
        /// Whose record.
        owner: PeerId,
        /// Which one.
        key: Key,
        /// What it says.
        value: Option<Bytes>,
    },
    /// A peer can be reached, directly or through others; or the address by which it is reached
    /// changed.
    Reachable {
        /// Which peer.
        peer: PeerId,
        /// Its underlay address: of the session with it, else the first one it advertises.
        address: Option<IpAddr>,
    },
    /// A peer cannot be reached any more. Its records stay until it is forgotten: its containers
    /// may well be running.
    Unreachable {
        /// Which peer.
        peer: PeerId,
    },
    /// A peer is gone for good. Its records have been reported gone before this.
    Forgotten {
        /// Which peer.
        peer: PeerId,
    },
    /// A message for this peer alone.
    Message {
        /// Who sent it.
        from: PeerId,
        /// Which part of the daemon it is for.
        kind: Kind,
        /// What it says.
        payload: Bytes,
    },
}

/// The state of a connection, or of a target that has none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// Where it goes, or where the peer was seen.
    pub address: SocketAddr,
    /// Whether this side dialled.
    pub outbound: bool,
    /// `connecting`, `established`, `retrying`, `refused`.
    pub state: String,
    /// Why it is in this state, for people.
    pub reason: String,
    /// Who is at the other end, once known.
    pub peer: Option<PeerId>,
    /// Its nickname, once known.
    pub nickname: Option<String>,
    /// Round trip of the last heartbeat.
    pub rtt: Option<Duration>,
    /// When it is dialled again.
    pub retry_in: Option<Duration>,
}

/// One peer as this one sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Which peer.
    pub id: PeerId,
    /// What it calls itself.
    pub nickname: String,
    /// The version of its daemon.
    pub version: String,
    /// Whether it can be reached, directly or through others.
    pub reachable: bool,
    /// The next peer on the way to it; itself when there is a direct connection.
    pub via: Option<PeerId>,
    /// Its underlay addresses, best first.
    pub addresses: Vec<SocketAddr>,
    /// Its direct connections.
    pub links: Vec<PeerId>,
    /// How many records of it are known.
    pub records: usize,
    /// How many of its changes are known: the same on all peers once news has spread.
    #[serde(default)]
    pub changes: u64,
}

/// What the mesh says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MeshStatus {
    /// This peer.
    pub id: PeerId,
    /// What it calls itself.
    pub nickname: String,
    /// Where it listens, or why it does not.
    pub listening: Result<SocketAddr, String>,
    /// Whether sessions are protected by a password.
    pub password: bool,
    /// Where it was told to connect to, and by whom (settings, swarm, a command, ...).
    pub targets: Vec<TargetStatus>,
    /// Connections and attempts.
    pub connections: Vec<ConnectionStatus>,
    /// All known peers, this one among them.
    pub peers: Vec<PeerStatus>,
    /// What the connections came to since the start.
    #[serde(default)]
    pub counters: MeshCounters,
    /// By kind, how many records are gone that others may still have to be told of.
    #[serde(default)]
    pub tombstones: BTreeMap<u8, usize>,
    /// What an operator should know: cloned keys, refused passwords, addresses that do not
    /// resolve.
    pub warnings: Vec<String>,
}

/// A place that the mesh was told to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// As it was given: `host[:port]`.
    pub target: String,
    /// Who gave it.
    pub source: String,
    /// What it resolves to.
    pub addresses: Vec<SocketAddr>,
    /// Why it does not resolve.
    pub error: Option<String>,
}
