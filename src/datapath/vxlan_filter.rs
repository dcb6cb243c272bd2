//! Who may send VXLAN to this host, where a password forbids it to all but trusted peers.
//!
//! A VXLAN device takes frames from every host. So a filter stands before it, in tables of our own
//! in the host's namespace, and is there before the device.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::linux::nftables::{
    Batch, ChainKind, Element, Family, Hook, KeyType, NftError, PRIORITY_FILTER, Step, Verdict,
};

const TABLE: &str = "weave-vxlan";
const SET: &str = "trusted";
const CHAIN: &str = "input";

/// UDP's number (RFC 768).
const UDP: u8 = 17;

/// Lets VXLAN in from these addresses alone, in the namespace of the calling thread.
///
/// # Errors
/// When the kernel refuses; what was in force before still is.
pub fn allow(port: u16, addresses: &BTreeSet<IpAddr>) -> Result<(), NftError> {
    let mut batch = Batch::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let (source, length, key) = match family {
            Family::Ipv6 => (8, 16, KeyType::Ipv6),
            _ => (12, 4, KeyType::Ipv4),
        };
        let elements: Vec<Element> = addresses
            .iter()
            .filter_map(|address| match (family, address) {
                (Family::Ipv4, IpAddr::V4(address)) => Some(address.octets().to_vec()),
                (Family::Ipv6, IpAddr::V6(address)) => Some(address.octets().to_vec()),
                _ => None,
            })
            .map(|key| Element { key, data: None })
            .collect();
        batch.replace_table(family, TABLE);
        batch.add_set(family, TABLE, SET, key);
        if !elements.is_empty() {
            batch.add_elements(family, TABLE, SET, &elements);
        }
        batch.add_base_chain(
            family,
            TABLE,
            CHAIN,
            ChainKind::Filter,
            Hook::Input,
            PRIORITY_FILTER,
        );
        let steps = [
            Step::Protocol,
            Step::Equals(vec![UDP]),
            Step::TransportHeader {
                offset: 2,
                length: 2,
            },
            Step::Equals(port.to_be_bytes().to_vec()),
            Step::NetworkHeader {
                offset: source,
                length,
            },
            Step::InSet {
                set: SET.to_owned(),
                inverted: true,
            },
            Step::Count,
            Step::Verdict(Verdict::Drop),
        ];
        batch.add_rule(family, TABLE, CHAIN, &steps);
    }
    batch.apply()
}

/// Takes the filter away, if there is one.
///
/// # Errors
/// When the kernel refuses.
pub fn remove() -> Result<(), NftError> {
    let mut batch = Batch::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        batch.add_table(family, TABLE);
        batch.delete_table(family, TABLE);
    }
    batch.apply()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::linux::netns::tests::in_namespace;

    #[test]
    fn only_the_allowed_get_through() {
        in_namespace(|| {
            let up = std::process::Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status();
            assert!(up.unwrap().success());
            let receiver = UdpSocket::bind("127.0.0.1:6784").unwrap();
            let patience = Duration::from_millis(200);
            receiver.set_read_timeout(Some(patience)).unwrap();
            let hears = |from: &str| {
                let sender = UdpSocket::bind((from, 0)).unwrap();
                sender.send_to(b"x", "127.0.0.1:6784").unwrap();
                receiver.recv(&mut [0]).is_ok()
            };
            assert!(hears("127.0.0.2"));
            allow(6784, &BTreeSet::new()).unwrap();
            assert!(!hears("127.0.0.2"));
            allow(6784, &BTreeSet::from(["127.0.0.2".parse().unwrap()])).unwrap();
            assert!(hears("127.0.0.2"));
            assert!(!hears("127.0.0.3"));
            remove().unwrap();
            assert!(hears("127.0.0.3"));
            remove().unwrap();
        });
    }
}
