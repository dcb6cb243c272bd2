//! How a peer tells the others which subnets it trusts.

use bytes::Bytes;
use ipnet::IpNet;

use crate::mesh::{Key, Kind, form};

/// The form of the value. One of another form comes from a later version, which is then trusted
/// with nothing.
const FORM: u8 = 1;

/// The record's name: there is one of each peer.
pub(super) fn key() -> Key {
    Key::new(Kind::TRUST, "subnets")
}

/// The record; none where nothing is trusted.
pub(super) fn encode(subnets: &[IpNet]) -> Option<Bytes> {
    (!subnets.is_empty()).then(|| form::encode(FORM, subnets))
}

/// What a peer trusts.
pub(super) fn decode(value: &[u8]) -> Vec<IpNet> {
    form::decode(FORM, value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn subnets_survive_the_wire() {
        let subnets = [
            "192.0.2.0/24".parse().unwrap(),
            "fd00::/64".parse().unwrap(),
        ];
        let encoded = encode(&subnets).unwrap();
        assert_eq!(decode(&encoded), subnets);
        assert_eq!(encode(&[]), None);
        assert_eq!(decode(&[9, 1]), []);
    }

    proptest! {
        #[test]
        fn no_value_makes_decoding_panic(value: Vec<u8>) {
            let _ = decode(&value);
        }
    }
}
