//! Peers that serve names, each with a mesh of its own, on the loopback.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::{Name, RecordType};
use weave_net::dns::{Dns, DnsConfig, LocalChanges, NameRequest};
use weave_net::mesh::{Key, Mesh, MeshConfig};
use weave_net::store::Store;

/// A busy machine may take a while.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A peer with a server of its own.
pub struct Peer {
    pub mesh: Mesh,
    pub dns: Dns,
    pub server: SocketAddr,
    _dir: tempfile::TempDir,
}

impl Peer {
    /// One that connects to another, or to nobody.
    pub async fn start(target: Option<SocketAddr>) -> Self {
        let config = MeshConfig {
            bind: Some(Ipv4Addr::LOCALHOST.into()),
            port: 0,
            targets: vec![(
                "settings".to_owned(),
                target.iter().map(ToString::to_string).collect(),
            )],
            ..MeshConfig::default()
        };
        let mesh = Mesh::start(config, None).await;
        let dir = tempfile::tempdir().unwrap();
        // A port that was free a moment ago.
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = server.local_addr().unwrap();
        let config = DnsConfig {
            id: mesh.id(),
            domain: "weave.local".parse().unwrap(),
            ttl: 1,
            listen: Some(server),
            run_dir: dir.path().to_owned(),
        };
        let published = mesh.clone();
        let publish = move |key: Key, value: Option<Bytes>| {
            published.publish(key, value).unwrap();
        };
        let dns = Dns::start(&config, Store::at(dir.path()), publish);
        tokio::spawn(dns.clone().follow(mesh.subscribe()));
        tokio::spawn(dns.clone().serve(config));
        dns.containers(LocalChanges::new());
        Self {
            mesh,
            dns,
            server,
            _dir: dir,
        }
    }

    /// Where others connect to.
    pub async fn listens_at(&self) -> SocketAddr {
        let status = self.mesh.status().await.unwrap();
        status.listening.unwrap()
    }
}

/// A name for an address.
pub fn request(name: &str, address: [u8; 4]) -> NameRequest {
    NameRequest {
        name: Some(name.parse().unwrap()),
        container: None,
        addresses: BTreeSet::from([IpAddr::from(address)]),
    }
}

/// A query for the address of a name in the domain.
pub fn query(name: &str) -> Vec<u8> {
    let mut query = Message::new(7, MessageType::Query, OpCode::Query);
    let name = Name::from_ascii(format!("{name}.weave.local.")).unwrap();
    query.add_query(Query::query(name, RecordType::A));
    query.to_vec().unwrap()
}

/// A socket that asks this server.
pub fn asker(server: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    socket
}

/// How many addresses a server answers; none while it does not listen yet.
pub fn answers(socket: &UdpSocket, query: &[u8]) -> Option<u8> {
    let mut buffer = [0; 512];
    socket.send(query).ok()?;
    socket.recv(&mut buffer).ok()?;
    Some(buffer[7])
}
