//! weaveDNS over real meshes and sockets of the loopback.

mod dns_peer;

use std::time::{Duration, Instant};

use dns_peer::{PATIENCE, Peer, answers, asker, query, request};

async fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_by_other_peers_and_end_with_their_own() {
    let one = Peer::start(None).await;
    let two = Peer::start(Some(one.listens_at().await)).await;
    one.dns.add(request("foo", [192, 0, 2, 1])).unwrap();
    let (socket, asked) = (asker(two.server), query("foo"));
    wait_for("the name", || answers(&socket, &asked) == Some(1)).await;
    one.mesh.stop().await;
    wait_for("its end", || answers(&socket, &asked) == Some(0)).await;
    two.mesh.stop().await;
}
