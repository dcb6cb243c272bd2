//! The swarm, asked of the Engine again and again: its other nodes as places to find peers, and
//! who its managers are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::watch;

use super::engine::{Engine, EngineError, Events, Info, Node, Service};
use super::scope::ScopeKeeper;

/// The first pause; it doubles up to [`LONGEST_PAUSE`]. The Engine's API comes up within seconds
/// of the plugin.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The pause when all has been quiet. The Engine also tells of nodes as they join.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A swarm as one of its nodes knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Swarm {
    /// Whether this node is one of its managers.
    pub is_manager: bool,
    /// How many managers it has.
    pub managers: usize,
    /// The addresses of its nodes by their identifiers, those that are down included; `None` where
    /// it is not known, as only managers with a quorum know.
    pub nodes: Option<BTreeMap<String, BTreeSet<IpAddr>>>,
}

/// What the Engine says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Found {
    targets: BTreeSet<IpAddr>,
    swarm: Option<Swarm>,
}

/// Asks for ever. What is found replaces what was found before; while the Engine does not answer,
/// that stays. The keeper of the scope is told of every change in membership.
pub async fn watch_nodes(
    engine: Engine,
    scope: ScopeKeeper,
    targets: watch::Sender<BTreeSet<IpAddr>>,
    swarm: watch::Sender<Option<Swarm>>,
) {
    let mut pause = FIRST_PAUSE;
    let mut answered = None;
    let mut events = None;
    loop {
        if events.is_none() {
            events = engine.events(&["node"]).await.ok();
        }
        let before = targets.borrow().clone();
        let found = find(&engine, &scope, before).await;
        let changed = match &found {
            Ok(found) => replace(&targets, &found.targets) | replace(&swarm, &found.swarm),
            Err(error) => {
                tracing::debug!(%error, "swarm's nodes are not known");
                false
            }
        };
        if changed || answered.replace(found.is_ok()) != Some(found.is_ok()) {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            news = next(&mut events) => {
                // An end of the events is that of the Engine: it is asked again in its own time.
                if !news {
                    events = None;
                    tokio::time::sleep(FIRST_PAUSE).await;
                }
                pause = FIRST_PAUSE;
            }
        }
    }
}

/// The swarm's services, if this node is the manager that decides where they get their addresses.
///
/// # Errors
/// When it cannot be said for now.
pub async fn services_where_leader(engine: &Engine) -> Result<Option<Vec<Service>>, EngineError> {
    let swarm = engine.info().await?.swarm;
    if !swarm.control_available {
        return Ok(None);
    }
    let leads = |node: &Node| {
        let status = node.manager_status.as_ref();
        node.id == swarm.node_id && status.is_some_and(|status| status.leader)
    };
    match engine.nodes().await {
        Ok(nodes) if nodes.iter().any(leads) => engine.services().await.map(Some),
        // Without a quorum there is no leader.
        Ok(_) | Err(EngineError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Waits for an event; returns whether more may come.
async fn next(events: &mut Option<Events>) -> bool {
    match events {
        Some(events) => matches!(events.next().await, Ok(Some(_))),
        None => std::future::pending().await,
    }
}

fn replace<T: Clone + PartialEq>(told: &watch::Sender<T>, new: &T) -> bool {
    told.send_if_modified(|old| {
        let changed = old != new;
        old.clone_from(new);
        changed
    })
}

async fn find(
    engine: &Engine,
    scope: &ScopeKeeper,
    before: BTreeSet<IpAddr>,
) -> Result<Found, EngineError> {
    let info = engine.info().await?;
    scope.note(&info.swarm);
    let mut found = Found {
        targets: addresses(&info, &[]),
        swarm: (info.swarm.is_member() == Some(true)).then_some(Swarm {
            is_manager: info.swarm.control_available,
            managers: info.swarm.remote_managers.len(),
            nodes: None,
        }),
    };
    if !info.swarm.control_available {
        return Ok(found);
    }
    match engine.nodes().await {
        Ok(nodes) => {
            found.targets = addresses(&info, &nodes);
            if let Some(swarm) = &mut found.swarm {
                swarm.nodes = Some(by_identifier(&nodes));
            }
        }
        // A manager without a quorum cannot tell, and its nodes are where they were.
        Err(error) => {
            tracing::debug!(%error, "only swarm's managers are known");
            found.targets.extend(before);
        }
    }
    Ok(found)
}

fn by_identifier(nodes: &[Node]) -> BTreeMap<String, BTreeSet<IpAddr>> {
    let of = |node: &Node| (node.id.clone(), places(node).filter_map(host).collect());
    nodes.iter().map(of).collect()
}

/// A manager's address among the nodes can be the 0.0.0.0 that it listens on.
fn places(node: &Node) -> impl Iterator<Item = &str> {
    let manager = node.manager_status.as_ref().map(|m| m.addr.as_str());
    manager.into_iter().chain([node.status.addr.as_str()])
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
        .flat_map(places);
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
        assert_eq!(found.targets.len(), 2);
        let swarm = found.swarm.unwrap();
        assert!(swarm.is_manager && swarm.managers == 2 && swarm.nodes.is_none());
    }

    #[tokio::test]
    async fn a_manager_knows_its_nodes_that_are_down_as_well() {
        let dir = tempfile::tempdir().unwrap();
        let scope = ScopeKeeper::new(None, Store::open(dir.path()).unwrap());
        let fake = FakeEngine::start(Some("1.41"), [("/info", MANAGER), ("/nodes", NODES)]);
        let found = find(&fake.engine(), &scope, BTreeSet::new()).await.unwrap();
        let nodes = found.swarm.unwrap().nodes.unwrap();
        assert_eq!(nodes.len(), 4);
        assert!(nodes["d"].contains(&"192.0.2.4".parse().unwrap()));
        let lone = FakeEngine::start(Some("1.41"), [("/info", LONE)]);
        let found = find(&lone.engine(), &scope, BTreeSet::new()).await;
        assert_eq!(found.unwrap(), Found::default());
    }

    #[tokio::test]
    async fn only_the_leader_tells_the_services() {
        let services = ("/services", r#"[{"ID":"s"}]"#);
        let leading = NODES.replacen(
            r#""ManagerStatus":{"#,
            r#""ManagerStatus":{"Leader":true,"#,
            1,
        );
        for (info, nodes, expected) in [
            (MANAGER, leading.as_str(), Some(1)),
            (MANAGER, NODES, None),
            (WORKER, NODES, None),
        ] {
            let answers = [("/info", info), ("/nodes", nodes), services];
            let fake = FakeEngine::start(Some("1.41"), answers);
            let told = services_where_leader(&fake.engine()).await.unwrap();
            assert_eq!(told.map(|services| services.len()), expected);
        }
        let leaderless = FakeEngine::start(Some("1.41"), [("/info", MANAGER), services]);
        let told = services_where_leader(&leaderless.engine()).await;
        assert_eq!(told.unwrap(), None);
    }

    #[tokio::test]
    async fn an_engine_that_comes_late_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let scope = ScopeKeeper::new(None, Store::open(dir.path()).unwrap());
        let fake = FakeEngine::start(Some("1.41"), [("/info", MANAGER), ("/nodes", NODES)]);
        let late = dir.path().join("docker.sock");
        let (targets, mut found) = watch::channel(BTreeSet::new());
        let task = tokio::spawn(watch_nodes(
            Engine::new(&late),
            scope,
            targets,
            watch::channel(None).0,
        ));
        std::os::unix::fs::symlink(fake.socket(), &late).unwrap();
        found.changed().await.unwrap();
        assert_eq!(found.borrow().len(), 2);
        task.abort();
    }
}
