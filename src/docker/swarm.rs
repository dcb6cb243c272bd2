//! The other nodes of the swarm, asked of the Engine again and again, as places to find peers.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::watch;

use super::engine::{Engine, EngineError, Info, Node};
use super::scope::ScopeKeeper;

/// The first pause; it doubles up to [`LONGEST_PAUSE`]. The Engine's API comes up within seconds
/// of the plugin.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The pause when all has been quiet. The Engine also tells of nodes as they join.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Asks for ever. What is found replaces what was found before; while the Engine does not answer,
/// that stays. The keeper of the scope is told of every change in membership.
pub async fn watch_nodes(
    engine: Engine,
    scope: ScopeKeeper,
    targets: watch::Sender<BTreeSet<IpAddr>>,
) {
    let mut pause = FIRST_PAUSE;
    let mut answered = None;
    loop {
        let before = targets.borrow().clone();
        let found = find(&engine, &scope, before).await;
        let changed = match &found {
            Ok(found) => targets.send_if_modified(|old| {
                let changed = old != found;
                old.clone_from(found);
                changed
            }),
            Err(error) => {
                tracing::debug!(%error, "swarm's nodes are not known");
                false
            }
        };
        if changed || answered.replace(found.is_ok()) != Some(found.is_ok()) {
            pause = FIRST_PAUSE;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

async fn find(
    engine: &Engine,
    scope: &ScopeKeeper,
    before: BTreeSet<IpAddr>,
) -> Result<BTreeSet<IpAddr>, EngineError> {
    let info = engine.info().await?;
    scope.note(&info.swarm);
    if !info.swarm.control_available {
        return Ok(addresses(&info, &[]));
    }
    match engine.nodes().await {
        Ok(nodes) => Ok(addresses(&info, &nodes)),
        // A manager without a quorum cannot tell, and its nodes are where they were.
        Err(error) => {
            tracing::debug!(%error, "only swarm's managers are known");
            Ok(&addresses(&info, &[]) | &before)
        }
    }
}

/// The managers that every node knows and, on a manager, all nodes; without this one.
fn addresses(info: &Info, nodes: &[Node]) -> BTreeSet<IpAddr> {
    let own = &info.swarm.node_id;
    let managers = info
        .swarm
        .remote_managers
        .iter()
        .filter(|manager| manager.node_id != *own)
        .map(|manager| manager.addr.as_str());
    let nodes = nodes
        .iter()
        .filter(|node| node.id != *own && node.status.state != "down")
        .flat_map(|node| {
            let manager = node.manager_status.as_ref().map(|m| m.addr.as_str());
            // A manager's address among the nodes can be the 0.0.0.0 that it listens on.
            manager.into_iter().chain([node.status.addr.as_str()])
        });
    managers
        .chain(nodes)
        .filter_map(host)
        .filter(|address| !address.is_unspecified() && !address.is_loopback())
        .filter(|address| address.to_string() != info.swarm.node_addr)
        .collect()
}

/// The address in `ADDRESS` or `ADDRESS:PORT`.
fn host(text: &str) -> Option<IpAddr> {
    text.parse()
        .or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()))
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::engine::tests::FakeEngine;
    use crate::store::Store;

    const WORKER: &str = r#"{"Swarm":{"NodeID":"w","NodeAddr":"192.0.2.2","LocalNodeState":"active",
        "RemoteManagers":[{"NodeID":"m","Addr":"192.0.2.1:2377"},{"NodeID":"w","Addr":"x"}]}}"#;
    const MANAGER: &str = r#"{"Swarm":{"NodeID":"m","NodeAddr":"192.0.2.1","ControlAvailable":true,
        "LocalNodeState":"active","RemoteManagers":[{"NodeID":"m","Addr":"192.0.2.1:2377"}]}}"#;
    const NODES: &str = r#"[
        {"ID":"m","Status":{"State":"ready","Addr":"0.0.0.0"},"ManagerStatus":{"Addr":"192.0.2.1:2377"}},
        {"ID":"w","Status":{"State":"ready","Addr":"192.0.2.2"}},
        {"ID":"n","Status":{"State":"ready","Addr":"0.0.0.0"},"ManagerStatus":{"Addr":"192.0.2.3:2377"}},
        {"ID":"d","Status":{"State":"down","Addr":"192.0.2.4"}}]"#;
    const LONE: &str = r#"{"Swarm":{"NodeID":"","NodeAddr":"","LocalNodeState":"inactive",
        "ControlAvailable":false,"RemoteManagers":null}}"#;

    fn of(info: &str, nodes: &str) -> Vec<String> {
        let info = serde_json::from_str(info).unwrap();
        let nodes: Vec<Node> = serde_json::from_str(nodes).unwrap();
        let found = addresses(&info, &nodes);
        found.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn a_worker_knows_the_managers_and_a_manager_all_nodes() {
        assert_eq!(of(WORKER, "[]"), ["192.0.2.1"]);
        assert_eq!(of(MANAGER, NODES), ["192.0.2.2", "192.0.2.3"]);
        assert!(of(LONE, "[]").is_empty());
    }

    #[tokio::test]
    async fn without_a_quorum_the_nodes_are_where_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let scope = ScopeKeeper::new(None, Store::open(dir.path()).unwrap());
        let info = MANAGER.replace(
            r#"[{"NodeID""#,
            r#"[{"NodeID":"n","Addr":"192.0.2.3:1"},{"NodeID""#,
        );
        let fake = FakeEngine::start(Some("1.41"), [("/info", info)]);
        let before = BTreeSet::from(["192.0.2.2".parse().unwrap()]);
        let found = find(&fake.engine(), &scope, before).await.unwrap();
        assert_eq!(found.len(), 2);
    }

    #[tokio::test]
    async fn an_engine_that_comes_late_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let scope = ScopeKeeper::new(None, Store::open(dir.path()).unwrap());
        let fake = FakeEngine::start(Some("1.41"), [("/info", MANAGER), ("/nodes", NODES)]);
        let late = dir.path().join("docker.sock");
        let (targets, mut found) = watch::channel(BTreeSet::new());
        let task = tokio::spawn(watch_nodes(Engine::new(&late), scope, targets));
        std::os::unix::fs::symlink(fake.socket(), &late).unwrap();
        found.changed().await.unwrap();
        assert_eq!(found.borrow().len(), 2);
        task.abort();
    }
}
