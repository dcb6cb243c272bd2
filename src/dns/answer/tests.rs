use std::collections::{BTreeMap, BTreeSet};

use hickory_proto::op::{Edns, Message, MessageType, OpCode};
use hickory_proto::rr::Record;
use proptest::prelude::*;

use super::*;
use crate::dns::record::{Binding, Registration};
use crate::types::{PeerId, SegmentId};

const HOST: [u8; 4] = [172, 17, 0, 1];
const ON_WEB: [u8; 4] = [172, 18, 0, 2];
const ON_DB: [u8; 4] = [172, 18, 0, 3];

fn binding(segment: Option<&str>, name: &str, addresses: &[&str]) -> Binding {
    Binding {
        segment: segment.map(SegmentId::of_name),
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        names: vec![name.parse().unwrap()],
    }
}

fn domain() -> DnsName {
    "weave.local".parse().unwrap()
}

fn zone() -> Zone {
    let mut table = Table::new(PeerId::from_bytes([1; 16]), 1, &domain());
    let many: Vec<String> = (1..=60).map(|last| format!("10.9.0.{last}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let registration = Registration {
        container: None,
        bindings: vec![
            binding(Some("web"), "foo.weave.local", &["10.1.0.1", "fd00::1"]),
            binding(Some("web"), "a.sub.weave.local", &["10.1.0.2"]),
            binding(None, "many.weave.local", &many),
        ],
    };
    table.handle_registrations(BTreeMap::from([("c1".to_owned(), Some(registration))]));
    let mut zone = Zone::new(domain(), 1, table);
    zone.askers.own = [HOST.into()].into();
    zone.askers.bridges = vec!["172.18.0.0/16".parse().unwrap()];
    let on = |name| BTreeSet::from([SegmentId::of_name(name)]);
    zone.askers.containers = [(ON_WEB.into(), on("web")), (ON_DB.into(), on("db"))].into();
    zone
}

fn query(name: &str, kind: RecordType) -> Message {
    let mut query = Message::new(4711, MessageType::Query, OpCode::Query);
    query.metadata.recursion_desired = true;
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    query
}

fn verdict(message: &Message, source: [u8; 4], transport: Transport) -> Verdict {
    ask(&message.to_vec().unwrap(), source, transport).0
}

/// What is done about a query, and the answer that was written, if any.
fn ask(query: &[u8], source: [u8; 4], transport: Transport) -> (Verdict, Vec<u8>) {
    let mut desk = Desk::new([1; 32]);
    let verdict = zone().answer(query, source.into(), transport, &mut desk);
    (verdict, desk.out)
}

fn reply(message: &Message, source: [u8; 4], transport: Transport) -> Message {
    match ask(&message.to_vec().unwrap(), source, transport) {
        (Verdict::Reply(..), bytes) => Message::from_vec(&bytes).unwrap(),
        (other, _) => panic!("{other:?}"),
    }
}

fn code(name: &str, kind: RecordType, source: [u8; 4]) -> (ResponseCode, usize) {
    let reply = reply(&query(name, kind), source, Transport::Udp);
    (reply.metadata.response_code, reply.answers.len())
}

#[test]
fn names_are_answered_by_type_in_any_case_and_only_on_their_segment() {
    use RecordType::*;
    let (found, none) = (ResponseCode::NoError, ResponseCode::NXDomain);
    for (name, kind, source, expected) in [
        ("foo.weave.local.", A, HOST, (found, 1)),
        ("foo.weave.local.", A, ON_WEB, (found, 1)),
        ("foo.weave.local.", A, ON_DB, (none, 0)),
        ("FOO.Weave.LOCAL.", AAAA, ON_WEB, (found, 1)),
        ("foo.weave.local.", MX, ON_WEB, (found, 0)),
        ("foo.weave.local.", ANY, ON_WEB, (found, 2)),
        ("bar.weave.local.", A, ON_WEB, (none, 0)),
        ("sub.weave.local.", A, ON_WEB, (found, 0)),
        ("sub.weave.local.", A, ON_DB, (none, 0)),
        ("weave.local.", A, ON_WEB, (found, 0)),
        ("foo.", A, ON_WEB, (found, 1)),
        ("1.0.1.10.in-addr.arpa.", PTR, ON_WEB, (found, 1)),
        ("1.0.1.10.IN-ADDR.arpa.", PTR, ON_WEB, (found, 1)),
        ("1.0.1.10.in-addr.arpa.", PTR, ON_DB, (none, 0)),
    ] {
        assert_eq!(
            code(name, kind, source),
            expected,
            "{name} {kind} {source:?}"
        );
    }
    let reverse = reply(&query("2.0.1.10.in-addr.arpa.", PTR), HOST, Transport::Udp);
    assert_eq!(reverse.answers[0].data.to_string(), "a.sub.weave.local.");
    let mixed = reply(&query("FoO.weave.local.", A), HOST, Transport::Udp);
    assert_eq!(mixed.queries[0].name.to_string(), "FoO.weave.local.");
    assert_eq!(mixed.answers[0].name.to_string(), "FoO.weave.local.");
    assert_eq!(mixed.answers[0].ttl, 1);
    assert!(mixed.metadata.authoritative && mixed.metadata.recursion_desired);
    assert_eq!(mixed.metadata.id, 4711);
}

#[test]
fn what_is_not_ours_is_for_others_and_what_nobody_may_ask_waits() {
    for (name, kind, source) in [
        ("example.org.", RecordType::A, ON_DB),
        ("bar.", RecordType::A, ON_DB),
        ("foo.", RecordType::A, ON_DB),
        ("fooweave.local.", RecordType::A, HOST),
        ("9.0.1.10.in-addr.arpa.", RecordType::PTR, HOST),
        ("0.1.10.in-addr.arpa.", RecordType::PTR, HOST),
        // Whoever it is: the answer does not depend on that.
        ("example.org.", RecordType::MX, [172, 18, 0, 9]),
    ] {
        let forwarded = verdict(&query(name, kind), source, Transport::Udp);
        assert_eq!(forwarded, Verdict::Forward(Asked::of(kind)), "{name}");
    }
    let name = query("foo.weave.local.", RecordType::A);
    for source in [[172, 18, 0, 9], [192, 0, 2, 1]] {
        assert_eq!(verdict(&name, source, Transport::Udp), Verdict::Wait);
    }
}

#[test]
fn answers_too_large_for_a_datagram_are_cut_off_unless_the_asker_takes_more() {
    let mut many = query("many.weave.local.", RecordType::A);
    let cut = reply(&many, HOST, Transport::Udp);
    assert!(cut.metadata.truncation);
    assert!(cut.answers.len() > 20 && cut.answers.len() < 60);
    assert!(cut.to_vec().unwrap().len() <= usize::from(PLAIN_UDP));
    let whole = reply(&many, HOST, Transport::Tcp);
    assert!(!whole.metadata.truncation);
    assert_eq!(whole.answers.len(), 60);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    many.set_edns(edns);
    let large = reply(&many, HOST, Transport::Udp);
    assert!(!large.metadata.truncation && large.edns.is_some());
    assert_eq!(large.answers.len(), 60);
    many.edns
        .as_mut()
        .unwrap()
        .set_max_payload(100)
        .set_version(1);
    let version = reply(&many, HOST, Transport::Udp);
    // The same number stands for a bad signature elsewhere.
    let code = u16::from(version.metadata.response_code);
    assert_eq!(code, u16::from(ResponseCode::BADVERS));
}

#[test]
fn local_addresses_come_first_and_all_in_random_order() {
    let mut zone = zone();
    zone.table
        .handle_mesh_event(crate::mesh::MeshEvent::Reachable {
            peer: PeerId::from_bytes([2; 16]),
            address: None,
        });
    let mut other = Table::new(PeerId::from_bytes([2; 16]), 2, &domain());
    let remote = Registration {
        container: None,
        bindings: vec![binding(None, "many.weave.local", &["10.8.0.1", "10.8.0.2"])],
    };
    other.handle_registrations(BTreeMap::from([("c2".to_owned(), Some(remote))]));
    other.handle_complete();
    while let Some((key, value)) = other.poll_publish() {
        let owner = PeerId::from_bytes([2; 16]);
        let event = crate::mesh::MeshEvent::Record { owner, key, value };
        zone.table.handle_mesh_event(event);
    }
    let asked = query("many.weave.local.", RecordType::A).to_vec().unwrap();
    let mut desk = Desk::new([7; 32]);
    let mut first = BTreeSet::new();
    for _ in 0..100 {
        desk.out.clear();
        let verdict = zone.answer(&asked, HOST.into(), Transport::Tcp, &mut desk);
        assert_eq!(verdict, Verdict::Reply(Asked::A, Outcome::Found));
        let answers = Message::from_vec(&desk.out).unwrap().answers;
        let remote = |record: &Record| record.data.to_string().starts_with("10.8.");
        assert_eq!(answers.len(), 62);
        assert!(answers[60..].iter().all(remote));
        first.insert(answers[0].data.to_string());
    }
    assert!(first.len() > 30, "{first:?}");
}

#[test]
fn nonsense_is_refused_and_answers_are_not_answered() {
    let name = query("foo.weave.local.", RecordType::A);
    let bytes = name.to_vec().unwrap();
    let code = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = bytes.clone();
        change(&mut changed);
        match ask(&changed, HOST, Transport::Udp) {
            (Verdict::Reply(_, Outcome::Refused), reply) => Some(reply[3] & 0x0f),
            (Verdict::Ignore, _) => None,
            (other, _) => panic!("{other:?}"),
        }
    };
    let low = |code: ResponseCode| Some(code.low());
    assert_eq!(code(&|q| q[2] |= 0x80), None);
    assert_eq!(code(&|q| q.truncate(11)), None);
    assert_eq!(code(&|q| q.truncate(20)), low(ResponseCode::FormErr));
    assert_eq!(code(&|q| q[5] = 0), low(ResponseCode::FormErr));
    assert_eq!(code(&|q| q[5] = 2), low(ResponseCode::FormErr));
    assert_eq!(code(&|q| q[11] = 9), low(ResponseCode::FormErr));
    assert_eq!(code(&|q| q[2] |= 0x28), low(ResponseCode::NotImp));
    let class = bytes.len() - 1;
    assert_eq!(code(&|q| q[class] = 3), low(ResponseCode::Refused));
    // A name that goes on in the header, where the answer has other bytes.
    let points = [3, b'f', b'o', b'o', 0xc0, 4, 0, 1, 0, 1];
    assert_eq!(
        code(&|q| q.splice(12.., points).for_each(drop)),
        low(ResponseCode::FormErr)
    );
    // A name that points at itself.
    assert_eq!(
        code(&|q| q.splice(12.., [0xc0, 12, 0, 1, 0, 1]).for_each(drop)),
        low(ResponseCode::FormErr)
    );
}

proptest! {
    #[test]
    fn no_bytes_make_the_server_panic(bytes: Vec<u8>, source: [u8; 4]) {
        for source in [source, HOST, ON_WEB] {
            for transport in [Transport::Udp, Transport::Tcp] {
                ask(&bytes, source, transport);
            }
        }
    }

    /// A query with some bytes changed is answered with its own number or not at all, within the
    /// size of a datagram.
    #[test]
    fn damaged_queries_are_answered_in_form(
        name in "(many|foo|a\\.sub|1\\.0\\.1\\.10)",
        damage in proptest::collection::vec((2_usize..40, any::<u8>()), 0..6),
        tail in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = query(&format!("{name}.weave.local."), RecordType::A).to_vec().unwrap();
        bytes.extend(tail);
        for (at, value) in damage {
            let at = at.min(bytes.len() - 1);
            bytes[at] = value;
        }
        if let (Verdict::Reply(..), reply) = ask(&bytes, HOST, Transport::Udp) {
            prop_assert_eq!(&reply[..2], &bytes[..2]);
            prop_assert!(reply[2] & 0x80 != 0);
            prop_assert!(reply.len() <= usize::from(MOST_UDP));
            prop_assert!(Message::from_vec(&reply).is_ok());
        }
    }
}
