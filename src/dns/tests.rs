//! The server over real sockets of the loopback.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::upstream::{read_message, write_message};
use super::*;

/// A busy machine may take a while.
const PATIENCE: Duration = Duration::from_secs(20);

fn query(name: &str) -> Vec<u8> {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    query.to_vec().unwrap()
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(query).await.unwrap();
    let mut buffer = vec![0; 4096];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await;
    buffer.truncate(length.unwrap().unwrap());
    buffer
}

struct Running {
    dns: Dns,
    address: SocketAddr,
    _dir: tempfile::TempDir,
}

async fn start() -> Running {
    let dir = tempfile::tempdir().unwrap();
    let config = DnsConfig::of_test(dir.path());
    let dns = Dns::start(&config, Store::at(dir.path()), |_, _| ());
    let server = Server::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = server.address();
    tokio::spawn(server.serve(Arc::clone(&dns.shared)));
    Running {
        dns,
        address,
        _dir: dir,
    }
}

fn added(name: &str, addresses: &[[u8; 4]]) -> NameRequest {
    NameRequest {
        name: Some(name.parse().unwrap()),
        container: None,
        addresses: addresses.iter().map(|a| IpAddr::from(*a)).collect(),
    }
}

#[tokio::test]
async fn names_are_answered_over_datagrams_and_connections() {
    let running = start().await;
    running.dns.containers(LocalChanges::new());
    running.dns.add(added("foo", &[[192, 0, 2, 1]])).unwrap();
    let asked = query("foo.weave.local.");
    let datagram = over_udp(running.address, &asked).await;
    let mut stream = TcpStream::connect(running.address).await.unwrap();
    // Two queries over one connection.
    for _ in 0..2 {
        write_message(&mut stream, &asked).await.unwrap();
        let over_tcp = timeout(PATIENCE, read_message(&mut stream)).await.unwrap();
        assert_eq!(over_tcp.unwrap(), datagram);
    }
    let reply = Message::from_vec(&datagram).unwrap();
    assert_eq!(reply.answers[0].data.to_string(), "192.0.2.1");
    assert_eq!(running.dns.lookup(&"foo".parse().unwrap()).len(), 1);
    running.dns.remove(added("foo", &[])).unwrap();
    let gone = over_udp(running.address, &asked).await;
    let gone = Message::from_vec(&gone).unwrap();
    assert_eq!(gone.metadata.response_code, ResponseCode::NXDomain);
    let counters = running.dns.status().counters;
    assert_eq!((counters.total().found, counters.total().unknown), (3, 1));
    assert_eq!(counters.answer_times.count, 4);
}

#[tokio::test]
async fn queries_that_come_together_are_all_answered() {
    const QUERIES: u8 = 200;
    let running = start().await;
    running.dns.containers(LocalChanges::new());
    running.dns.add(added("foo", &[[192, 0, 2, 1]])).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(running.address).await.unwrap();
    socket.writable().await.unwrap();
    let mut asked = query("foo.weave.local.");
    // Nobody serves them before this test waits for the answers.
    for number in 0..QUERIES {
        asked[1] = number;
        socket.try_send(&asked).unwrap();
    }
    let mut answered = BTreeSet::new();
    let mut buffer = [0; 512];
    while answered.len() < usize::from(QUERIES) {
        let length = timeout(PATIENCE, socket.recv(&mut buffer)).await;
        let reply = Message::from_vec(&buffer[..length.unwrap().unwrap()]).unwrap();
        assert_eq!(reply.answers.len(), 1);
        answered.insert(reply.metadata.id);
    }
    let counters = running.dns.status().counters;
    assert_eq!(counters.by_type["A"].found, u64::from(QUERIES));
}

#[tokio::test]
async fn other_names_are_asked_of_the_host_s_servers_and_failures_are_told() {
    let running = start().await;
    let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    running
        .dns
        .shared
        .upstreams
        .set(vec![upstream.local_addr().unwrap()]);
    tokio::spawn(async move {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = upstream.recv_from(&mut buffer).await {
            buffer[2] |= 0x80;
            let _ = upstream.send_to(&buffer[..length], from).await;
        }
    });
    let asked = query("example.org.");
    let mut expected = asked.clone();
    expected[2] |= 0x80;
    assert_eq!(over_udp(running.address, &asked).await, expected);
    running.dns.shared.upstreams.set(vec![]);
    let failure = over_udp(running.address, &asked).await;
    let failure = Message::from_vec(&failure).unwrap();
    assert_eq!(failure.metadata.response_code, ResponseCode::ServFail);
    let counters = running.dns.status().counters;
    assert_eq!(
        (counters.total().forwarded, counters.total().failed),
        (1, 1)
    );
    assert!(counters.last_failure.unwrap().contains("no DNS servers"));
}

#[tokio::test]
async fn a_server_that_is_its_own_upstream_fails_instead_of_asking_for_ever() {
    let running = start().await;
    running.dns.shared.upstreams.set(vec![running.address]);
    let reply = over_udp(running.address, &query("example.org.")).await;
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
    let counters = running.dns.status().counters;
    let total = counters.total();
    assert!(total.forwarded + total.failed < 50, "{counters:?}");
}
