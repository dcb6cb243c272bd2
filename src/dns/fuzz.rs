//! What takes bytes from the network here, for [`crate::fuzz`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use hickory_proto::op::Message;

use super::answer::{Desk, Transport, Verdict, Zone, error_reply};
use super::record::{Binding, NameRecord, Registration, decode_generation};
use super::table::Table;
use super::upstream;
use crate::types::{PeerId, SegmentId};

const HOST: [u8; 4] = [172, 17, 0, 1];
const CONTAINER: [u8; 4] = [172, 17, 0, 2];

/// A query from anybody, and an answer of another server to it.
pub fn message(bytes: &[u8]) {
    let zone = zone();
    for source in [HOST, CONTAINER, [192, 0, 2, 1]] {
        for transport in [Transport::Udp, Transport::Tcp] {
            let mut desk = Desk::new([1; 32]);
            let verdict = zone.answer(bytes, source.into(), transport, &mut desk);
            match verdict {
                Verdict::Reply(..) => {
                    assert_eq!(desk.out[..2], bytes[..2]);
                    assert!(Message::from_vec(&desk.out).is_ok());
                }
                Verdict::Forward(_) => {
                    let failure = error_reply(bytes, hickory_proto::op::ResponseCode::ServFail);
                    assert!(Message::from_vec(&failure).is_ok());
                }
                Verdict::Wait | Verdict::Ignore => assert!(desk.out.is_empty()),
            }
        }
    }
    upstream::check(bytes, bytes);
}

/// What a peer tells of its names.
pub fn record(bytes: &[u8]) {
    if let Ok(record) = NameRecord::decode(bytes) {
        assert_eq!(NameRecord::decode(&record.encode()), Ok(record));
    }
    let _ = decode_generation(bytes);
}

fn zone() -> Zone {
    let segment = SegmentId::of_name("web");
    let bindings = ["foo.weave.local", "a.sub.weave.local"].map(|name| Binding {
        segment: Some(segment.clone()),
        addresses: (1..=60)
            .map(|last| IpAddr::from([10, 1, 0, last]))
            .collect(),
        names: name.parse().into_iter().collect(),
    });
    let registration = Registration {
        container: None,
        bindings: bindings.into(),
    };
    // The text is a name.
    let domain = "weave.local".parse().expect("a domain");
    let mut table = Table::new(PeerId::from_bytes([1; 16]), 1, &domain);
    table.handle_registrations(BTreeMap::from([("c".to_owned(), Some(registration))]));
    let mut zone = Zone::new(domain, 1, table);
    zone.askers.own = [HOST.into()].into();
    zone.askers.containers = BTreeMap::from([(CONTAINER.into(), BTreeSet::from([segment]))]);
    zone
}
