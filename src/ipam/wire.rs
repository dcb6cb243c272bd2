//! The form of the ring's records and messages: a version byte, then postcard.

use std::collections::BTreeMap;

use bytes::Bytes;
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::AddressSpace;
use super::birth::Ballots;
use super::range::Range;
use super::ring::{Agreement, Gift, Life, Lineage, Part};

/// The version of everything here; what has another is skipped.
const VERSION: u8 = 1;

/// The longest piece of a part in one record: with its head it stays under the mesh's 64 KB.
const PIECE: usize = 60_000;

/// The most pieces a part may have: bounds what a peer can make the others keep.
const MAX_PIECES: u16 = 64;

/// A message to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Asks for space, of this range: all of one address, or some of more.
    Ask {
        /// The asker's number for it.
        id: u64,
        /// The asker's life.
        incarnation: u64,
        /// The asker's ring.
        lineage: Lineage,
        /// In which subnet's space.
        universe: IpNet,
        /// What would help.
        range: Range,
        /// For which kind of network.
        space: AddressSpace,
        /// The number of the last gift that the asker took from the receiver.
        taken: Option<u64>,
    },
    /// All gifts to this peer that it has not taken yet, as far as the giver knows.
    Gifts {
        /// The giver's life.
        incarnation: u64,
        /// The giver's ring.
        lineage: Lineage,
        /// The gifts, by number.
        gifts: Vec<Gift>,
    },
    /// Nothing can be given.
    Refusal {
        /// The asker's number.
        id: u64,
        /// Why.
        reason: Refusal,
    },
    /// I was cut off for long: has the space of this life of mine been taken over?
    AmIAlive(Life),
    /// It has not, and the sender has not agreed that it may be.
    Alive(Life),
    /// It has.
    Gone(Life),
    /// May I take over?
    Remove(Agreement),
    /// The sender agrees, takes nothing from that life any more and lets no space change hands.
    Agreed {
        /// To what.
        agreement: Agreement,
        /// In which of the sender's lives.
        incarnation: u64,
        /// The sender's part as it was when it agreed.
        revision: u64,
        /// The newest part of the life in question that the sender knows.
        known: u64,
    },
    /// Is the receiver still about to take over?
    Still(Agreement),
    /// The sender is not about to take over.
    Abort(Agreement),
}

/// Why nothing is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Nothing is free there.
    Nothing,
    /// The address is in use by this holder.
    InUse(String),
    /// The address is a swarm service's, which the asker's host is to run.
    SwarmOwned,
    /// The asker is of another ring.
    OtherRing,
    /// Giving is not possible now.
    NotNow(String),
}

/// Puts a value into its form.
pub fn encode<T: Serialize>(value: &T) -> Bytes {
    // Writing into memory cannot fail, and every type here has a known length.
    postcard::to_extend(value, vec![VERSION])
        .unwrap_or_default()
        .into()
}

/// Reads a value; `None` for what this version does not understand.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (&version, rest) = bytes.split_first()?;
    if version != VERSION {
        return None;
    }
    match postcard::take_from_bytes(rest) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

/// The record of ballots on the ring's birth.
pub const BIRTH_KEY: &[u8] = b"birth";

/// The record with this piece of a part.
pub fn part_key(index: u16) -> Bytes {
    let [high, low] = index.to_be_bytes();
    Bytes::copy_from_slice(&[b'p', high, low])
}

/// A piece of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Piece {
    /// The first bytes of the whole part's SHA-256: pieces with the same stamp belong together.
    stamp: u64,
    count: u16,
    #[serde(with = "serde_bytes_compat")]
    bytes: Vec<u8>,
}

mod serde_bytes_compat {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        <&[u8]>::deserialize(from).map(<[u8]>::to_vec)
    }
}

/// The records of a part, in order.
pub fn split(part: &Part) -> Vec<Bytes> {
    let whole = postcard::to_extend(part, Vec::new()).unwrap_or_default();
    let count = whole.len().div_ceil(PIECE) as u16;
    let stamp = stamp(&whole);
    whole
        .chunks(PIECE)
        .map(|bytes| {
            encode(&Piece {
                stamp,
                count,
                bytes: bytes.to_vec(),
            })
        })
        .collect()
}

fn stamp(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    let mut stamp = [0; 8];
    stamp.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(stamp)
}

/// Puts the pieces of one peer's part together.
#[derive(Debug, Default)]
pub struct Assembly {
    pieces: BTreeMap<u16, Piece>,
}

impl Assembly {
    /// Whether nothing is waiting for its other pieces.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Takes a record (`None`: it is gone); returns the part once all of its pieces are there.
    pub fn take(&mut self, key: &[u8], value: Option<&[u8]>) -> Option<Part> {
        let &[b'p', high, low] = key else {
            return None;
        };
        let index = u16::from_be_bytes([high, low]);
        let Some(piece) = value.and_then(decode::<Piece>) else {
            self.pieces.remove(&index);
            return None;
        };
        if piece.count > MAX_PIECES || index >= piece.count || piece.bytes.len() > PIECE {
            return None;
        }
        let (stamp, count) = (piece.stamp, piece.count);
        self.pieces.insert(index, piece);
        let parts: Vec<&Piece> = (0..count)
            .map_while(|index| self.pieces.get(&index))
            .filter(|piece| piece.stamp == stamp)
            .collect();
        if parts.len() != usize::from(count) {
            return None;
        }
        let whole: Vec<u8> = parts.iter().flat_map(|p| p.bytes.iter().copied()).collect();
        // The whole of it lives on as the part; only the stamp of a single piece is needed.
        if count == 1 {
            self.pieces.clear();
        }
        let part: Part = postcard::from_bytes(&whole).ok()?;
        part.is_sound().then_some(part)
    }
}

/// What the record on the ring's birth holds.
pub type BirthRecord = Ballots;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ring::tests::any_part;
    use super::*;

    proptest! {
        #[test]
        fn parts_survive_the_wire(part in any_part()) {
            let mut assembly = Assembly::default();
            let records = split(&part);
            let got = assembly.take(&part_key(0), Some(&records[0]));
            prop_assert_eq!(got, Some(part));
        }

        #[test]
        fn long_parts_arrive_whole_in_any_order(mut part in any_part(), order in any::<bool>()) {
            part.names = (0..9000).map(|n| (format!("net-{n}"), part.range)).collect();
            let records: Vec<_> = split(&part).into_iter().enumerate().collect();
            prop_assert!(records.len() > 1 && records.iter().all(|(_, r)| r.len() < 64 * 1024));
            let mut assembly = Assembly::default();
            let mut got = None;
            let ordered: Vec<_> = if order { records } else { records.into_iter().rev().collect() };
            for (index, record) in ordered {
                prop_assert_eq!(&got, &None);
                got = assembly.take(&part_key(index as u16), Some(&record));
            }
            prop_assert_eq!(got, Some(part));
        }

        #[test]
        fn no_bytes_make_it_panic(key in prop::collection::vec(any::<u8>(), 0..5), value in prop::collection::vec(any::<u8>(), 0..200)) {
            Assembly::default().take(&key, Some(&value));
            let _ = decode::<Message>(&value);
            let _ = decode::<BirthRecord>(&value);
        }

        #[test]
        fn messages_survive_the_wire(id: u64, first: u128, more in 0u128..9) {
            let message = Message::Ask {
                id,
                incarnation: 1,
                lineage: Lineage(id),
                universe: "fd00::/64".parse().unwrap(),
                range: Range::new(first.saturating_sub(more), first),
                space: AddressSpace::Global,
                taken: Some(id),
            };
            prop_assert_eq!(decode(&encode(&message)), Some(message));
        }
    }
}
