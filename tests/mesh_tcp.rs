//! Meshes in one process, over TCP on the loopback interface.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;
use weave_net::mesh::{Key, Kind, Mesh, MeshConfig, MeshEvent, MeshStatus};
use weave_net::store::Store;
use weave_net::types::{PeerId, Secret};

const PATIENCE: Duration = Duration::from_secs(60);

fn config(nickname: &str, target: Option<SocketAddr>) -> MeshConfig {
    let targets = target
        .map(|target| target.to_string())
        .into_iter()
        .collect();
    MeshConfig {
        nickname: nickname.to_owned(),
        bind: Some(Ipv4Addr::LOCALHOST.into()),
        port: 0,
        targets: vec![("settings".to_owned(), targets)],
        ..MeshConfig::default()
    }
}

fn with_password(config: MeshConfig, password: Option<&str>) -> MeshConfig {
    let password = password.map(Secret::new);
    MeshConfig { password, ..config }
}

async fn start(config: MeshConfig) -> (Mesh, SocketAddr) {
    let mesh = Mesh::start(config, None).await;
    let address = mesh.status().await.unwrap().listening.unwrap();
    (mesh, address)
}

async fn until(events: &mut UnboundedReceiver<MeshEvent>, wanted: impl Fn(&MeshEvent) -> bool) {
    let search = async { while !wanted(&events.recv().await.expect("the mesh goes on")) {} };
    timeout(PATIENCE, search).await.expect("the event comes");
}

async fn until_status(mesh: &Mesh, wanted: impl Fn(&MeshStatus) -> bool) -> MeshStatus {
    let begin = Instant::now();
    loop {
        let status = mesh.status().await.unwrap();
        if wanted(&status) {
            return status;
        }
        assert!(
            begin.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {status:#?}"
        );
        // The status has no event: it is asked for.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn reached(peer: PeerId) -> impl Fn(&MeshEvent) -> bool {
    move |event| matches!(event, MeshEvent::Reachable { peer: p, .. } if *p == peer)
}

fn lost(peer: PeerId) -> impl Fn(&MeshEvent) -> bool {
    move |event| matches!(event, MeshEvent::Unreachable { peer: p } if *p == peer)
}

fn says(
    owner: PeerId,
    id: &'static str,
    value: Option<&'static str>,
) -> impl Fn(&MeshEvent) -> bool {
    let wanted = MeshEvent::Record {
        owner,
        key: Key::new(Kind::NAME, id),
        value: value.map(Bytes::from),
    };
    move |event| *event == wanted
}

fn name(id: &'static str) -> Key {
    Key::new(Kind::NAME, id)
}

fn publish(mesh: &Mesh, id: &'static str, value: Option<&'static str>) {
    mesh.publish(name(id), value.map(Bytes::from)).unwrap();
}

#[tokio::test]
async fn peers_told_of_one_find_all_and_share_records() {
    let (seed, address) = start(config("seed", None)).await;
    let mut meshes = vec![seed];
    for number in 1..6 {
        meshes.push(
            start(config(&format!("peer{number}"), Some(address)))
                .await
                .0,
        );
    }
    publish(&meshes[5], "five", Some("5"));
    for mesh in &meshes[..5] {
        let mut events = mesh.subscribe();
        until(&mut events, says(meshes[5].id(), "five", Some("5"))).await;
    }
    for mesh in &meshes {
        let direct = |status: &MeshStatus| {
            let others = status.peers.iter().filter(|peer| peer.id != status.id);
            others.filter(|peer| peer.via == Some(peer.id)).count() == 5
        };
        until_status(mesh, direct).await;
    }
    let mut events = meshes[0].subscribe();
    publish(&meshes[5], "five", None);
    until(&mut events, says(meshes[5].id(), "five", None)).await;
}

#[tokio::test]
async fn what_is_published_alone_is_not_lost() {
    let (one, address) = start(config("one", None)).await;
    publish(&one, "early", Some("bird"));
    let (two, _) = start(config("two", Some(address))).await;
    let mut events = two.subscribe();
    until(&mut events, says(one.id(), "early", Some("bird"))).await;
}

#[tokio::test]
async fn a_late_subscriber_gets_the_state_first() {
    let (one, address) = start(config("one", None)).await;
    let (two, _) = start(config("two", Some(address))).await;
    publish(&one, "a", Some("1"));
    until(&mut two.subscribe(), says(one.id(), "a", Some("1"))).await;
    let mut late = two.subscribe();
    until(&mut late, says(one.id(), "a", Some("1"))).await;
    until(&mut late, reached(one.id())).await;
}

#[tokio::test]
async fn messages_reach_the_peer_they_are_for() {
    let (one, address) = start(config("one", None)).await;
    let (two, _) = start(config("two", Some(address))).await;
    let (mut at_one, mut at_two) = (one.subscribe(), two.subscribe());
    until(&mut at_two, reached(one.id())).await;
    two.send(one.id(), Kind::TUNNEL, Bytes::from("hello"))
        .unwrap();
    let wanted = MeshEvent::Message {
        from: two.id(),
        kind: Kind::TUNNEL,
        payload: Bytes::from("hello"),
    };
    until(&mut at_one, |event| *event == wanted).await;
}

#[tokio::test]
async fn the_same_password_lets_peers_in() {
    let (one, address) = start(with_password(config("one", None), Some("secret"))).await;
    let (two, _) = start(with_password(config("two", Some(address)), Some("secret"))).await;
    until(&mut two.subscribe(), reached(one.id())).await;
    assert!(two.status().await.unwrap().password);
}

#[tokio::test]
async fn wrong_passwords_are_refused_with_a_reason_on_both_sides() {
    let (differ, mine, yours) = (
        "passwords differ",
        "this host has a password",
        "the other host has a password",
    );
    let cases = [
        (Some("secret"), Some("wrong"), differ, differ),
        (Some("secret"), None, mine, yours),
        (None, Some("secret"), yours, mine),
    ];
    for (dialled, dialling, reason_there, reason_here) in cases {
        let (there, address) = start(with_password(config("there", None), dialled)).await;
        let (here, _) = start(with_password(config("here", Some(address)), dialling)).await;
        for (mesh, reason) in [(&here, reason_here), (&there, reason_there)] {
            let refused = |status: &MeshStatus| {
                let mut connections = status.connections.iter();
                let in_connections =
                    connections.any(|c| c.state == "refused" && c.reason.contains(reason));
                in_connections || status.warnings.iter().any(|w| w.contains(reason))
            };
            let status = until_status(mesh, refused).await;
            assert_eq!(status.peers.len(), 1, "{status:#?}");
        }
    }
}

#[tokio::test]
async fn a_stopped_peer_is_gone_within_a_second() {
    let (one, address) = start(config("one", None)).await;
    let (two, _) = start(config("two", Some(address))).await;
    let (three, _) = start(config("three", Some(address))).await;
    let (mut at_one, mut at_two) = (one.subscribe(), two.subscribe());
    until(&mut at_one, reached(three.id())).await;
    until(&mut at_two, reached(three.id())).await;
    let begin = Instant::now();
    three.stop().await;
    until(&mut at_one, lost(three.id())).await;
    until(&mut at_two, lost(three.id())).await;
    assert!(
        begin.elapsed() < Duration::from_secs(1),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(three.status().await, None);
}

#[tokio::test]
async fn a_restarted_peer_is_the_same_and_back_with_what_it_then_says() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let (one, address) = start(config("one", None)).await;
    let mut at_one = one.subscribe();
    let two = Mesh::start(config("two", Some(address)), Some(store.clone())).await;
    let id = two.id();
    publish(&two, "old", Some("x"));
    until(&mut at_one, says(id, "old", Some("x"))).await;
    two.stop().await;
    until(&mut at_one, lost(id)).await;

    // It is not told again where to go: it remembers.
    let two = Mesh::start(config("two", None), Some(store)).await;
    assert_eq!(two.id(), id);
    publish(&two, "new", Some("y"));
    until(&mut at_one, says(id, "new", Some("y"))).await;
    let mut state = one.subscribe();
    until(&mut state, says(id, "new", Some("y"))).await;
}

#[tokio::test]
async fn a_cloned_machine_becomes_another_and_keeps_its_records() {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = Store::open(dir.path()).unwrap();
    let (one, address) = start(config("one", None)).await;
    let two = Mesh::start(config("two", Some(address)), Some(store.clone())).await;
    until(&mut one.subscribe(), reached(two.id())).await;

    let document = "identity.json";
    std::fs::copy(dir.path().join(document), copy.path().join(document)).unwrap();
    let clone_store = Store::open(copy.path()).unwrap();
    let clone = Mesh::start(config("clone", Some(address)), Some(clone_store)).await;
    publish(&two, "mine", Some("two"));
    publish(&clone, "mine", Some("clone"));
    let begin = Instant::now();
    while two.id() == clone.id() {
        assert!(begin.elapsed() < PATIENCE, "both keep the identity");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut at_one = one.subscribe();
    until(&mut at_one, says(clone.id(), "mine", Some("clone"))).await;
    let mut at_one = one.subscribe();
    until(&mut at_one, says(two.id(), "mine", Some("two"))).await;
    let warned = |status: &MeshStatus| status.warnings.iter().any(|w| w.contains("same identity"));
    let warned = warned(&two.status().await.unwrap()) || warned(&clone.status().await.unwrap());
    assert!(warned);
}

#[tokio::test]
async fn a_peer_told_of_itself_does_not_keep_calling() {
    let (one, address) = start(config("one", None)).await;
    one.set_targets("command", vec![address.to_string()]);
    let itself = |status: &MeshStatus| {
        let target = status.targets.iter().find(|t| t.source == "command");
        target.is_some_and(|target| target.addresses == [address])
    };
    until_status(&one, itself).await;
    let quiet = |status: &MeshStatus| status.connections.iter().all(|c| c.state != "established");
    assert!(quiet(&until_status(&one, quiet).await));
}

#[tokio::test]
async fn a_port_in_use_is_a_degraded_mesh_that_still_dials() {
    let (one, address) = start(config("one", None)).await;
    let taken = MeshConfig {
        port: address.port(),
        ..config("two", Some(address))
    };
    let two = Mesh::start(taken, None).await;
    until(&mut two.subscribe(), reached(one.id())).await;
    let status = two.status().await.unwrap();
    assert!(status.listening.unwrap_err().contains("in use"));
    one.stop().await;
    until_status(&two, |status| status.listening.is_ok()).await;
}

#[tokio::test]
async fn a_port_that_is_taken_over_is_listened_on_by_itself() {
    let blocker = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = blocker.local_addr().unwrap().port();
    let mesh = Mesh::start(
        MeshConfig {
            port,
            ..config("one", None)
        },
        None,
    )
    .await;
    assert!(mesh.status().await.unwrap().listening.is_err());
    drop(blocker);
    until_status(&mesh, |status| status.listening.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_connections_is_bounded_and_keeps_nobody_out() {
    let (one, address) = start(config("one", None)).await;
    let flood = tokio::task::spawn_blocking(move || {
        (0..500)
            .filter_map(|_| TcpStream::connect(address).ok())
            .collect::<Vec<_>>()
    });
    let flood = flood.await.unwrap();
    // Those that were let in are held; all others are closed at once.
    let closed = |stream: &mut TcpStream| {
        stream
            .set_read_timeout(Some(Duration::from_millis(5)))
            .unwrap();
        !matches!(stream.read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    };
    let checked = tokio::task::spawn_blocking(move || {
        let mut flood = flood;
        let closed = flood
            .iter_mut()
            .filter_map(|stream| closed(stream).then_some(()))
            .count();
        (flood, closed)
    });
    let (flood, closed) = checked.await.unwrap();
    assert!(closed > 400, "{closed} closed");
    let elsewhere = MeshConfig {
        bind: Some(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2))),
        ..config("two", None)
    };
    let (two, address_of_two) = start(elsewhere).await;
    one.set_targets("command", vec![address_of_two.to_string()]);
    until(&mut one.subscribe(), reached(two.id())).await;
    drop(flood);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_speaks_something_else_is_hung_up_on() {
    let (_one, address) = start(config("one", None)).await;
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map(|_| answer)
    });
    assert_eq!(answer.await.unwrap().unwrap_or_default(), b"");
}
