//! What a peer tells the others about names.

use std::net::IpAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::mesh::form::{self, FormError};
use crate::mesh::{Key, Kind};
use crate::types::{DnsName, SegmentId};

/// The form of the values below. A value of another form comes from a later version of the daemon
/// and is left alone.
const FORM: u8 = 1;

/// The name of the record that says which generation of a peer's records is the current one.
pub(super) const GENERATION: &[u8] = b"";

/// Names that stand for the same addresses to the same askers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Only askers on this segment are told; with `None`, all.
    pub segment: Option<SegmentId>,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// The names.
    pub names: Vec<DnsName>,
}

/// All names that have one origin: a container, or what an operator has added.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Registration {
    /// The container's name, for people.
    pub(super) container: Option<String>,
    /// What it is called where.
    pub(super) bindings: Vec<Binding>,
}

/// A registration as it goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NameRecord {
    /// Only records of the peer's current generation count: what a daemon said in an earlier life
    /// ends all at once when it knows better.
    pub(super) generation: u64,
    /// What is registered.
    pub(super) registration: Registration,
}

impl NameRecord {
    /// The name of the record of this origin.
    pub(super) fn key(origin: &str) -> Key {
        Key::new(Kind::NAME, origin.to_owned())
    }

    /// The form that goes over the wire.
    pub(super) fn encode(&self) -> Bytes {
        form::encode(FORM, self)
    }

    /// The record in a value that came over the wire.
    pub(super) fn decode(value: &[u8]) -> Result<Self, FormError> {
        form::decode(FORM, value)
    }
}

/// The record of a peer's current generation.
pub(super) fn generation_key() -> Key {
    Key::new(Kind::NAME, GENERATION)
}

pub(super) fn encode_generation(generation: u64) -> Bytes {
    form::encode(FORM, &generation)
}

pub(super) fn decode_generation(value: &[u8]) -> Result<u64, FormError> {
    form::decode(FORM, value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_survive_the_wire(
            generation: u64,
            container: Option<String>,
            segment in proptest::option::of("[a-z0-9./:]{1,60}"),
            addresses: Vec<IpAddr>,
            names in proptest::collection::vec("[a-z0-9_-]{1,20}(\\.[a-z0-9]{1,20}){0,3}", 0..5),
        ) {
            let record = NameRecord {
                generation,
                registration: Registration {
                    container,
                    bindings: vec![Binding {
                        segment: segment.map(|name| SegmentId::of_name(&name)),
                        addresses,
                        names: names.iter().map(|name| name.parse().unwrap()).collect(),
                    }],
                },
            };
            prop_assert_eq!(NameRecord::decode(&record.encode()), Ok(record));
            prop_assert_eq!(decode_generation(&encode_generation(generation)), Ok(generation));
        }

        #[test]
        fn no_value_makes_decoding_panic(value: Vec<u8>) {
            let _ = NameRecord::decode(&value);
            let _ = decode_generation(&value);
        }
    }

    #[test]
    fn names_that_are_none_are_told_apart() {
        let registered = (
            1_u64,
            None::<String>,
            vec![(None::<String>, Vec::<IpAddr>::new(), vec!["foo"])],
        );
        let mut value = form::encode(FORM, &registered).to_vec();
        assert!(NameRecord::decode(&value).is_ok());
        let dot = value.iter().rposition(|byte| *byte == b'f').unwrap();
        value[dot] = b'.';
        assert!(matches!(
            NameRecord::decode(&value),
            Err(FormError::Malformed(_))
        ));
    }
}
