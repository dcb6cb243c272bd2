//! What a peer tells the others about its segments and endpoints.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::mesh::form::{self, FormError};
use crate::mesh::{Key, Kind};
use crate::types::{EndpointId, Mac, SegmentId, Vni};

/// The form of what the networks' records say. A value of another form comes from a later version of the daemon
/// and is left alone.
pub(super) const FORM: u8 = 1;

/// A peer takes part in a segment: it has a network there. The record is named after the segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SegmentRecord {
    /// The VNI that the peer uses.
    pub vni: Vni,
    /// The largest packet that the peer's underlay carries, in bytes.
    pub underlay_mtu: u16,
    /// What the peer's host is called.
    pub host: String,
}

/// A peer has an endpoint. The record is named after the endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EndpointRecord {
    /// Where it is plugged in.
    pub segment: SegmentId,
    /// Its Ethernet address.
    pub mac: Mac,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Option<Ipv6Addr>,
    /// The name of its container, once the engine has told it.
    pub container: Option<String>,
    /// Orders the claims to an address: larger than all that were known when it was made.
    pub claim: u64,
}

impl SegmentRecord {
    /// The name of a segment's record.
    pub(super) fn key(segment: &SegmentId) -> Key {
        Key::new(Kind::SEGMENT, segment.as_str().to_owned())
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

impl EndpointRecord {
    /// The name of an endpoint's record.
    pub(super) fn key(endpoint: &EndpointId) -> Key {
        Key::new(Kind::ENDPOINT, endpoint.short().to_owned())
    }

    /// The form that goes over the wire.
    pub(super) fn encode(&self) -> Bytes {
        form::encode(FORM, self)
    }

    /// The record in a value that came over the wire.
    pub(super) fn decode(value: &[u8]) -> Result<Self, FormError> {
        form::decode(FORM, value)
    }

    /// Its addresses.
    pub(super) fn addresses(&self) -> Vec<IpAddr> {
        let ipv4 = self.ipv4.map(IpAddr::V4);
        ipv4.into_iter().chain(self.ipv6.map(IpAddr::V6)).collect()
    }

    /// Whether the endpoint has this address.
    pub(super) fn has_address(&self, address: &IpNet) -> bool {
        match address {
            IpNet::V4(net) => self.ipv4 == Some(net.addr()),
            IpNet::V6(net) => self.ipv6 == Some(net.addr()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn endpoint_records_survive_the_wire(
            name in "[a-z0-9./:]{1,60}",
            mac: [u8; 6],
            ipv4: Option<Ipv4Addr>,
            ipv6: Option<Ipv6Addr>,
            container: Option<String>,
            claim: u64,
        ) {
            let record = EndpointRecord {
                segment: SegmentId::of_name(&name),
                mac: Mac::new(mac),
                ipv4,
                ipv6,
                container,
                claim,
            };
            prop_assert_eq!(EndpointRecord::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn segment_records_survive_the_wire(
            vni in 1..=Vni::MAX,
            underlay_mtu: u16,
            host: String,
        ) {
            let record = SegmentRecord { vni: vni.try_into().unwrap(), underlay_mtu, host };
            prop_assert_eq!(SegmentRecord::decode(&record.encode()), Ok(record));
        }

        #[test]
        fn no_value_makes_decoding_panic(value: Vec<u8>) {
            let _ = SegmentRecord::decode(&value);
            let _ = EndpointRecord::decode(&value);
        }
    }
}
