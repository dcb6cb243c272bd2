//! What peers say to each other inside a session.
//!
//! The first byte names the kind of message, the rest is its body in postcard's form. A kind that
//! is not known is skipped, so that a newer peer may say more than an older one understands;
//! fields are only ever added at the end of a body, where an older peer does not look.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::{Key, Kind};
use crate::types::PeerId;

/// Longest message, encoded: what one Noise transport message carries (Noise specification,
/// section 3: 65535 bytes) less its tag of 16 bytes, rounded down to leave room for framing.
pub const MAX_MESSAGE: usize = 65_000;

/// Longest value of a record or payload of a routed message.
pub const MAX_VALUE: usize = 32 * 1024;

/// Longest name of a record.
pub const MAX_KEY_ID: usize = 255;

/// How far the news of one owner is known.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// The life of the owner: grows whenever it begins to number its changes anew.
    pub epoch: u64,
    /// All changes up to this one are known. `FORGOTTEN` stands behind the last of them.
    pub version: u64,
}

impl Position {
    /// The version of an owner that is gone for good: greater than any it gave itself.
    pub const FORGOTTEN: u64 = u64::MAX;

    /// Whether it says that this life of the owner is over.
    pub fn is_forgotten(self) -> bool {
        self.version == Self::FORGOTTEN
    }
}

/// One record as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which record.
    pub key: Key,
    /// The change of its owner that made it what it is.
    pub version: u64,
    /// What it says; `None` once it is gone.
    pub value: Option<Bytes>,
}

/// The changes of one owner after one version up to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// Whose records.
    pub owner: PeerId,
    /// In which life of the owner.
    pub epoch: u64,
    /// The version that the receiver must have to make sense of it; 0 for all there is.
    pub from: u64,
    /// The version that the receiver has with it.
    pub to: u64,
    /// Tombstones up to this version are not kept any more.
    pub collected: u64,
    /// The records whose last change is in `from + 1 ..= to`, in the order of their versions.
    pub entries: Vec<Entry>,
}

/// How far the sender knows the news of some owners. The receiver asks for what it lacks itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Whether the receiver is to send what the sender lacks, even if the sender will probably
    /// hear it from elsewhere.
    pub asks: bool,
    /// First and last of the owners about which everything is said: one of these that is not in
    /// `positions` is unknown to the sender.
    pub covers: Option<(PeerId, PeerId)>,
    /// Owners in ascending order, and how far each is known.
    pub positions: Vec<(PeerId, Position)>,
}

/// A message for one peer, handed on from neighbour to neighbour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Routed {
    /// Who sent it.
    pub from: PeerId,
    /// Who is to get it.
    pub to: PeerId,
    /// How many more times it may be handed on.
    pub ttl: u8,
    /// Which part of the daemon it is for.
    pub kind: Kind,
    /// What it says.
    pub payload: Bytes,
}

/// Why the other side closes the session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goodbye {
    /// It has as many connections as it may have.
    ConnectionLimit {
        /// How many that is.
        limit: u32,
    },
    /// Another session with the same peer stays.
    Duplicate,
    /// Two machines have the same key, and the receiver is the one that has to make a new one.
    Cloned,
    /// It is told to stop.
    Shutdown,
}

/// What peers say to each other inside a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Are you there? To be answered with `Pong` and the same number.
    Ping(u64),
    /// I am here.
    Pong(u64),
    /// How far the sender knows the news.
    Digest(Digest),
    /// News.
    Delta(Delta),
    /// The sender has the news of these owners from elsewhere and need not be pushed them.
    Prune(Vec<PeerId>),
    /// A message for one peer.
    Routed(Routed),
    /// The session ends.
    Goodbye(Goodbye),
}

/// Why bytes are not a message.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DecodeError {
    /// Not even a kind.
    #[error("expected a message, got no bytes")]
    Empty,
    /// Longer than any message may be.
    #[error("expected a message of at most {MAX_MESSAGE} bytes, got {0}")]
    TooLong(usize),
    /// The body does not fit the kind.
    #[error("expected the body of a {kind} message, got {length} bytes of something else")]
    Body {
        /// What the first byte announced.
        kind: &'static str,
        /// How long the body is.
        length: usize,
    },
}

impl Message {
    /// The bytes that go over the wire.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ping(number) => body(0, number),
            Self::Pong(number) => body(1, number),
            Self::Digest(digest) => body(2, digest),
            Self::Delta(delta) => body(3, delta),
            Self::Prune(owners) => body(4, owners),
            Self::Routed(routed) => body(5, routed),
            Self::Goodbye(goodbye) => body(6, goodbye),
        }
    }

    /// The message in these bytes, or `None` for one of a kind that only newer peers know.
    ///
    /// # Errors
    /// Bytes that no peer would send.
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, DecodeError> {
        if bytes.len() > MAX_MESSAGE {
            return Err(DecodeError::TooLong(bytes.len()));
        }
        let (kind, body) = bytes.split_first().ok_or(DecodeError::Empty)?;
        let message = match kind {
            0 => Self::Ping(parse("ping", body)?),
            1 => Self::Pong(parse("pong", body)?),
            2 => Self::Digest(parse("digest", body)?),
            3 => Self::Delta(parse("delta", body)?),
            4 => Self::Prune(parse("prune", body)?),
            5 => Self::Routed(parse("routed", body)?),
            6 => Self::Goodbye(parse("goodbye", body)?),
            _ => return Ok(None),
        };
        Ok(Some(message))
    }
}

fn body<T: Serialize>(kind: u8, value: &T) -> Vec<u8> {
    // Serializing fails only for sequences of unknown length and full buffers; neither is here.
    postcard::to_extend(value, vec![kind]).unwrap_or_default()
}

fn parse<T: DeserializeOwned>(kind: &'static str, body: &[u8]) -> Result<T, DecodeError> {
    postcard::from_bytes(body).map_err(|_| DecodeError::Body {
        kind,
        length: body.len(),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer() -> impl Strategy<Value = PeerId> {
        any::<[u8; 16]>().prop_map(PeerId::from_bytes)
    }

    fn bytes() -> impl Strategy<Value = Bytes> {
        prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let fields = (
            any::<u8>(),
            bytes(),
            any::<u64>(),
            prop::option::of(bytes()),
        );
        fields.prop_map(|(kind, id, version, value)| Entry {
            key: Key::new(Kind(kind), id),
            version,
            value,
        })
    }

    fn message() -> impl Strategy<Value = Message> {
        let position = (any::<u64>(), any::<u64>());
        let position = position.prop_map(|(epoch, version)| Position { epoch, version });
        let positions = prop::collection::vec((peer(), position), 0..5);
        let digest = (any::<bool>(), prop::option::of((peer(), peer())), positions);
        let entries = prop::collection::vec(entry(), 0..5);
        let delta = (peer(), any::<[u64; 4]>(), entries);
        let routed = (peer(), peer(), any::<u8>(), any::<u8>(), bytes());
        prop_oneof![
            any::<u64>().prop_map(Message::Ping),
            any::<u64>().prop_map(Message::Pong),
            digest.prop_map(|(asks, covers, positions)| Message::Digest(Digest {
                asks,
                covers,
                positions,
            })),
            delta.prop_map(|(owner, [epoch, from, to, collected], entries)| {
                Message::Delta(Delta {
                    owner,
                    epoch,
                    from,
                    to,
                    collected,
                    entries,
                })
            }),
            prop::collection::vec(peer(), 0..5).prop_map(Message::Prune),
            routed.prop_map(|(from, to, ttl, kind, payload)| Message::Routed(Routed {
                from,
                to,
                ttl,
                kind: Kind(kind),
                payload,
            })),
            any::<u32>().prop_map(|limit| Message::Goodbye(Goodbye::ConnectionLimit { limit })),
            Just(Message::Goodbye(Goodbye::Cloned)),
        ]
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire(message in message()) {
            prop_assert_eq!(Message::decode(&message.encode()), Ok(Some(message)));
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::decode(&bytes);
        }

        #[test]
        fn fields_that_newer_peers_add_are_skipped(message in message(), more in bytes()) {
            let mut encoded = message.encode();
            encoded.extend_from_slice(&more);
            prop_assert_eq!(Message::decode(&encoded), Ok(Some(message)));
        }

        #[test]
        fn kinds_that_newer_peers_know_are_skipped(kind in 7_u8.., body in bytes()) {
            let encoded = [&[kind], body.as_ref()].concat();
            prop_assert_eq!(Message::decode(&encoded), Ok(None));
        }
    }
}
