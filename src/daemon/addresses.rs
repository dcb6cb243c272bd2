//! The address allocator, started as the settings say, and what it is told of this host and of the
//! swarm.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::Mode;
use super::attachments::Attachments;
use crate::config::{AllocationInit, Host, Paths, PeerAddress, Settings};
use crate::control::{Warning, Warnings};
use crate::datapath::MaybeDatapath;
use crate::docker::containers::Running;
use crate::docker::engine::{Engine, EngineError};
use crate::docker::scope::Scope;
use crate::docker::swarm::{self, Swarm};
use crate::docker::weave_network;
use crate::ipam::pools::DEFAULT_NETWORK;
use crate::ipam::{Config, InUse, Init, Ipam, MeshCommand};
use crate::mesh::Mesh;
use crate::store::Store;

/// Where the allocator keeps its journal, within the directory of the state.
const DIRECTORY: &str = "ipam";

/// The document with the swarm's nodes, so that those are known that left while the daemon was
/// away.
const NODES: &str = "swarm-nodes";

/// Events of the mesh that wait for the allocator.
const QUEUE: usize = 1024;

/// The range where `IPALLOC_RANGE` is empty: then only subnets that users name are allocated from.
const NO_RANGE: &str = "10.32.0.0/12";

/// How soon the Engine is asked again.
const RETRY: Duration = Duration::from_secs(1);

/// How often the host's routes are looked at: nobody tells when they change.
const ROUTES_INTERVAL: Duration = Duration::from_secs(30);

/// The subnet of networks that name none.
pub(super) fn default_subnet(settings: &Settings) -> IpNet {
    let subnet = settings.ipalloc_default_subnet.map(|s| IpNet::V4(s.get()));
    subnet.unwrap_or_else(|| range(settings))
}

fn range(settings: &Settings) -> IpNet {
    match settings.ipalloc_range.get() {
        Some(range) => IpNet::V4(range),
        // The text is a constant and a network.
        None => NO_RANGE.parse().expect("the usual range is a network"),
    }
}

/// Starts the allocator; where it cannot be, everything else goes on without.
pub(super) fn start(settings: &Settings, paths: &Paths, mesh: &Mesh, warnings: &Warnings) -> Ipam {
    let config = Config {
        me: mesh.id(),
        nickname: settings.nickname().to_string(),
        range: range(settings),
        default_subnet: default_subnet(settings),
        // Without a word from the operator it depends on the swarm, which is not known yet.
        init: init(settings).unwrap_or(Init::Observer),
        takeover_after: settings.ipalloc_takeover_after.get(),
    };
    let (commands, of_ipam) = mpsc::unbounded_channel();
    let (events, of_mesh) = mpsc::channel(QUEUE);
    match Ipam::start(config, &paths.state().join(DIRECTORY), commands, of_mesh) {
        Ok(ipam) => {
            tokio::spawn(carry_to_mesh(of_ipam, mesh.clone()));
            tokio::spawn(carry_from_mesh(mesh.clone(), events));
            tokio::spawn(follow_identity(mesh.clone(), ipam.clone()));
            ipam
        }
        Err(error) => {
            let remedy = "repair or remove the directory; until then `--ipam-driver` with this \
                          plugin does not work";
            warnings.set("ipam", Warning::new(error.to_string(), remedy));
            Ipam::unavailable(error.to_string())
        }
    }
}

/// Tells the allocator who votes for the ring, where the operator has not said: in a swarm its
/// managers, as all nodes know how many there are, and they allocate for the others; else this
/// host alone.
pub(super) async fn follow_electors(
    settings: Settings,
    mut scope: watch::Receiver<Option<Scope>>,
    mut swarm: watch::Receiver<Option<Swarm>>,
    ipam: Ipam,
) {
    if init(&settings).is_some() {
        return;
    }
    let Ok(Some(scope)) = scope.wait_for(Option::is_some).await.map(|scope| *scope) else {
        return;
    };
    loop {
        let init = match (scope, swarm.borrow_and_update().as_ref()) {
            (Scope::Global, Some(swarm)) if swarm.is_manager => Init::Consensus {
                expected: u16::try_from(swarm.managers).unwrap_or(u16::MAX).max(1),
            },
            (Scope::Global, _) => Init::Observer,
            (Scope::Local, _) => Init::Consensus { expected: 1 },
        };
        if ipam.init(init).await.is_err() || swarm.changed().await.is_err() {
            return;
        }
    }
}

/// Takes over, for ever, the addresses of nodes that were removed from the swarm, as soon as they
/// cannot be reached. Only managers know.
pub(super) async fn retire_nodes(
    mut swarm: watch::Receiver<Option<Swarm>>,
    store: Store,
    mesh: Mesh,
    ipam: Ipam,
) {
    let mut nodes: BTreeMap<String, BTreeSet<IpAddr>> =
        store.load(NODES).ok().flatten().unwrap_or_default();
    let mut gone: BTreeSet<IpAddr> = BTreeSet::new();
    loop {
        let pause = if gone.is_empty() {
            Duration::MAX
        } else {
            RETRY
        };
        tokio::select! {
            changed = swarm.changed() => if changed.is_err() { return },
            () = sleep(pause) => {}
        }
        let now = swarm
            .borrow_and_update()
            .as_ref()
            .and_then(|s| s.nodes.clone());
        if let Some(now) = now {
            let left = nodes.iter().filter(|(id, _)| !now.contains_key(*id));
            gone.extend(left.flat_map(|(_, addresses)| addresses));
            gone.retain(|address| !now.values().any(|other| other.contains(address)));
            if nodes != now {
                if let Err(error) = store.save(NODES, &now) {
                    tracing::warn!(%error, "swarm's nodes will not be remembered");
                }
                nodes = now;
            }
        }
        if gone.is_empty() {
            continue;
        }
        let peers = mesh.status().await.into_iter().flat_map(|mesh| mesh.peers);
        for peer in peers.filter(|peer| !peer.reachable) {
            let at = |address: &IpAddr| peer.addresses.iter().any(|a| a.ip() == *address);
            if gone.iter().any(at) && ipam.remove_peer(peer.id).await.is_ok() {
                gone.retain(|address| !at(address));
                mesh.forget(peer.id);
            }
        }
    }
}

/// Tells the allocator, once, which addresses are in use: by what runs on the networks of these
/// drivers, and by what was attached beside Docker.
pub(super) async fn retain(
    mut running: watch::Receiver<Option<Running>>,
    engine: Engine,
    mode: Mode,
    mut drivers: BTreeSet<String>,
    attachments: Attachments,
    ipam: Ipam,
) {
    if mode == Mode::Plugin {
        let managed = name_of_this_plugin(&engine).await;
        drivers.extend(managed.strip_suffix(":latest").map(str::to_owned));
        drivers.insert(managed);
    }
    loop {
        let Ok(now) = running
            .wait_for(Option::is_some)
            .await
            .map(|now| now.clone())
        else {
            return;
        };
        match in_use(&engine, now.unwrap_or_default(), &drivers).await {
            // A disk that takes nothing now may take it later.
            Ok(mut in_use) => {
                in_use.containers.extend(attachments.holders());
                if ipam.retain(in_use).await.is_ok() {
                    return;
                }
            }
            Err(error) => tracing::debug!(%error, "addresses in use are not known"),
        }
        sleep(RETRY).await;
    }
}

/// The networks are asked for after the containers: so all of these are on networks known.
async fn in_use(
    engine: &Engine,
    running: Running,
    drivers: &BTreeSet<String>,
) -> Result<InUse, EngineError> {
    let networks = engine.all_networks().await?;
    let services = swarm::services_where_leader(engine).await?;
    let ours = |driver: &str| drivers.contains(driver);
    Ok(running.in_use(&networks, services.as_deref(), ours))
}

/// The name by which the Engine knows this plugin, asked for until it tells.
async fn name_of_this_plugin(engine: &Engine) -> String {
    loop {
        match weave_network::driver_of_this_plugin(engine).await {
            Ok(Some(driver)) => return driver,
            Ok(None) => tracing::debug!("docker does not list this plugin"),
            Err(error) => tracing::debug!(%error, "this plugin's name is not known"),
        }
        sleep(RETRY).await;
    }
}

/// Makes the network `weave` of this plugin, where it is wanted.
pub(super) async fn make_default_network(settings: Settings, engine: Engine, warnings: Warnings) {
    let has_subnet = settings
        .ipalloc_default_subnet
        .map(|subnet| subnet.get())
        .or(settings.ipalloc_range.get())
        .is_some();
    if !settings.default_network.0 || !has_subnet {
        return;
    }
    let driver = name_of_this_plugin(&engine).await;
    let (_always, always) = watch::channel(true);
    keep_network(driver, settings, engine, always, warnings).await;
}

/// Sees to it, while `wanted`, that the network `weave` is there, and warns where it cannot be.
pub(super) async fn keep_network(
    driver: String,
    settings: Settings,
    engine: Engine,
    wanted: watch::Receiver<bool>,
    warnings: Warnings,
) {
    let topic = "network weave";
    let remedy = format!(
        "it is tried again; `docker network create -d {driver}` makes others, under other names"
    );
    let tell = move |problem| match problem {
        Some(reason) => {
            let what = format!("docker has no network `{DEFAULT_NETWORK}` of ours: {reason}");
            warnings.set(topic, Warning::new(what, remedy.as_str()));
        }
        None => warnings.clear(topic),
    };
    weave_network::keep(engine, driver, default_subnet(&settings), wanted, tell).await;
}

/// Warns, for ever, of routes of this host that lead where containers are thought to be.
pub(super) async fn watch_routes(
    settings: Settings,
    datapath: Arc<MaybeDatapath>,
    warnings: Warnings,
) {
    let (Some(range), Some(datapath)) = (settings.ipalloc_range.get(), datapath.present()) else {
        return;
    };
    loop {
        match datapath.kernel().routes_within(range).await {
            Ok(routes) if routes.is_empty() => warnings.clear("routes"),
            Ok(routes) => {
                let what = format!(
                    "IPALLOC_RANGE {range} overlaps routes of this host: {}",
                    routes.join(", ")
                );
                let remedy = "containers do not reach what is behind them: choose another range, \
                              the same on all hosts";
                warnings.set("routes", Warning::new(what, remedy));
            }
            Err(error) => tracing::debug!(%error, "the host's routes are not known"),
        }
        sleep(ROUTES_INTERVAL).await;
    }
}

/// How the ring comes into being, as the operator has it; `None` where nothing was said.
fn init(settings: &Settings) -> Option<Init> {
    Some(match &settings.ipalloc_init {
        AllocationInit::Consensus(Some(expected)) => Init::Consensus {
            expected: *expected,
        },
        AllocationInit::Consensus(None) if settings.peers.is_empty() => return None,
        AllocationInit::Consensus(None) => Init::Consensus {
            expected: expected(
                &settings.peers,
                settings.nickname().as_str(),
                &own_addresses(),
            ),
        },
        AllocationInit::Seed(founders) => Init::Seed(founders.clone()),
        AllocationInit::Observer => Init::Observer,
    })
}

/// How many peers there will be: this one, and those that were named beside it.
fn expected(peers: &[PeerAddress], name: &str, own: &BTreeSet<IpAddr>) -> u16 {
    let is_other = |peer: &&PeerAddress| match peer.host() {
        Host::Ip(address) => !own.contains(address),
        Host::Name(host) => host != name && host != "localhost",
    };
    let others = peers.iter().filter(is_other).count();
    u16::try_from(others).unwrap_or(u16::MAX).saturating_add(1)
}

fn own_addresses() -> BTreeSet<IpAddr> {
    let Ok(interfaces) = getifaddrs() else {
        return BTreeSet::new();
    };
    interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let ipv4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            ipv4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .collect()
}

async fn carry_to_mesh(mut commands: mpsc::UnboundedReceiver<MeshCommand>, mesh: Mesh) {
    while let Some(command) = commands.recv().await {
        let refused = match command {
            MeshCommand::Publish(key, value) => {
                mesh.publish(key, value).err().map(|e| e.to_string())
            }
            MeshCommand::Send(to, kind, payload) => {
                mesh.send(to, kind, payload).err().map(|e| e.to_string())
            }
        };
        if let Some(error) = refused {
            tracing::error!(error, "the other peers are not told of addresses");
        }
    }
}

async fn follow_identity(mesh: Mesh, ipam: Ipam) {
    let mut me = mesh.id();
    // The allocator was started with the name of before; it may have changed since.
    while ipam.identity(me).await.is_ok() {
        me = mesh.another_id(me).await;
    }
}

async fn carry_from_mesh(mesh: Mesh, events: mpsc::Sender<crate::mesh::MeshEvent>) {
    let mut of_mesh = mesh.subscribe();
    while let Some(event) = of_mesh.recv().await {
        if events.send(event).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_counts_once_whoever_names_it() {
        let own = BTreeSet::from(["192.0.2.1".parse().unwrap()]);
        let count = |text: &str| {
            let peers: Vec<_> = text.split(' ').map(|p| p.parse().unwrap()).collect();
            expected(&peers, "node1", &own)
        };
        assert_eq!(count("192.0.2.1 192.0.2.2 node3"), 3);
        assert_eq!(count("node1 node2"), 2);
        assert_eq!(expected(&[], "node1", &own), 1);
    }
}
