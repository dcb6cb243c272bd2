//! The records by which the mesh describes itself.

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Key, Kind};
use crate::types::PeerId;

/// What a peer says of itself in its one record of [`Kind::PEER`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerInfo {
    /// What it calls itself.
    pub nickname: String,
    /// The version of its daemon.
    pub version: String,
    /// Its X25519 public key.
    pub public_key: [u8; 32],
    /// Where it can be reached, best first.
    pub addresses: Vec<SocketAddr>,
    /// A number that differs each time the daemon starts.
    pub instance: u64,
}

impl PeerInfo {
    /// The name of the record.
    pub fn key() -> Key {
        Key::new(Kind::PEER, Bytes::new())
    }

    /// The value of the record.
    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    /// What the value of such a record says, if it is one.
    pub fn decode(value: &[u8]) -> Option<Self> {
        postcard::from_bytes(value).ok()
    }
}

/// What a peer says of one direct connection, in a record of [`Kind::LINK`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkInfo {
    /// Where it believes that the neighbour listens.
    pub address: SocketAddr,
    /// Whether it reached the neighbour there; otherwise the neighbour came from that address.
    pub dialled: bool,
}

impl LinkInfo {
    /// The name of the record of the link with this neighbour.
    pub fn key(neighbour: PeerId) -> Key {
        Key::new(Kind::LINK, neighbour.as_bytes().to_vec())
    }

    /// The value of the record.
    pub fn encode(&self) -> Bytes {
        encode(self)
    }

    /// What the value of such a record says, if it is one.
    pub fn decode(value: &[u8]) -> Option<Self> {
        postcard::from_bytes(value).ok()
    }

    /// The neighbour that a record of this name is about.
    pub fn neighbour(key: &Key) -> Option<PeerId> {
        Some(PeerId::from_bytes(key.id.as_ref().try_into().ok()?))
    }
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    // Serializing fails only for sequences of unknown length and full buffers; neither is here.
    postcard::to_extend(value, Vec::new())
        .unwrap_or_default()
        .into()
}
