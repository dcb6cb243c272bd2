//! The one place where the parts are built, wired, supervised and shut down.

mod addresses;
mod attachments;
mod control;
mod dns;
mod exposure;
mod last;
mod network_names;
mod parts;
mod peers_file;
mod proxy;
mod report;
mod tasks;
mod trust;
mod tunnel;
mod tunnel_status;

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;

use crate::config::{HostAddress, Mtu, Paths, Rejected, Scope as ScopeSetting, Settings};
use crate::control::{Targets, Warning, Warnings, http, socket};
use crate::datapath::{HybridDatapath, KernelConfig, KernelDatapath, MaybeDatapath, vxlan_filter};
use crate::dns::Dns;
use crate::docker::calls::{Calls, Drivers};
use crate::docker::discovered::DiscoveredNodes;
use crate::docker::driver::Driver;
use crate::docker::engine::Engine;
use crate::docker::ipam_driver::IpamDriver;
use crate::docker::proxy::Proxy;
use crate::docker::scope::{Scope, ScopeKeeper};
use crate::docker::{containers, names, services, swarm, weave_network};
use crate::ipam::Ipam;
use crate::mesh::{Key, Mesh, MeshConfig};
use crate::network::services::Services;
use crate::network::{self, Networks, Policy, Stores};
use crate::store::Store;

/// The packet size of Ethernet (RFC 894), where the kernel does not tell that of the underlay.
const USUAL_MTU: u16 = 1500;

/// How the daemon was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By the Engine, as a managed plugin: that socket is served too.
    Plugin,
    /// By an operator: only the legacy sockets are served.
    Standalone,
}

/// The daemon's parts, as its tasks and its reports need them.
#[derive(Debug)]
struct Daemon {
    started: Instant,
    settings: Settings,
    rejected: Vec<Rejected>,
    warnings: Warnings,
    store: Store,
    mesh: Mesh,
    networks: Networks,
    ipam: Ipam,
    services: Services,
    /// Where names are served.
    dns: Option<Dns>,
    proxy: Proxy,
    datapath: Arc<MaybeDatapath>,
    scope: ScopeKeeper,
    sockets: Arc<report::Sockets>,
    answers: report::Answers,
    network_names: network_names::NetworkNames,
    attachments: attachments::Attachments,
    parts: Arc<parts::Parts>,
    /// Held while the targets on disk are changed.
    targets: Mutex<()>,
}

/// Runs the daemon until it is told to stop (SIGTERM, SIGINT).
///
/// What fails on the way is shown in status and tried again; only a process that cannot even
/// wait for signals gives up.
pub async fn run(
    settings: Settings,
    rejected: Vec<Rejected>,
    paths: Paths,
    mode: Mode,
) -> io::Result<()> {
    let started = Instant::now();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (stop, stopped) = watch::channel(());
    let mut tasks = JoinSet::new();

    // Docker is answered from here on; calls wait for what is built below.
    let store = Store::at(paths.state());
    let engine = Engine::new(paths.docker_socket());
    let scope = ScopeKeeper::new(scope_setting(settings.scope), store.clone());
    let nodes = DiscoveredNodes::default();
    let (drivers, drivers_ready) = watch::channel(None);
    let sockets = Arc::new(report::Sockets::new(paths.clone()));
    let warnings = Warnings::default();
    let (parts, lost) = parts::Parts::load(store.clone(), settings.legacy_sockets.get());
    if let Some(error) = lost {
        let remedy = "remove the file and repeat `weave launch-plugin` or `weave stop-plugin`";
        warnings.set("parts", Warning::new(error.to_string(), remedy));
    }
    let parts = Arc::new(parts);
    let (_always, always) = watch::channel(true);
    let mut listen = |path: PathBuf, scope, wanted| {
        let calls = Calls::new(scope, nodes.clone(), drivers_ready.clone());
        let sockets = Arc::clone(&sockets);
        tasks.spawn(parts::serve(path, calls, sockets, wanted, stopped.clone()));
    };
    if mode == Mode::Plugin {
        listen(paths.managed_socket(), scope.subscribe(), always);
    }
    for legacy in parts.sockets() {
        let file = format!("{}.sock", legacy.name());
        let path = paths.legacy_plugins().join(file);
        listen(path, Scope::Local.known(), parts.plugin());
    }
    let deciding = (scope.clone(), engine.clone());
    tasks.spawn(async move {
        deciding.0.decide(&deciding.1).await;
    });

    let datapath = Arc::new(open_datapath(&settings, &paths).await);
    let mesh = start_mesh(&settings, &store, &warnings).await;
    // Who may send VXLAN is decided before there is a device that would take it.
    let filtered = filter_vxlan(&settings, &warnings).await;
    let networks = start_networks(&settings, filtered, &paths, &store, &mesh, &datapath).await;
    let services = Services::start(
        mesh.id(),
        paths.run(),
        networks.joined(),
        mesh.subscribe(),
        publisher(&mesh),
    );
    let network = Driver::new(networks.clone(), engine.clone());
    let ipam = addresses::start(&settings, &paths, &mesh, &warnings);
    drivers.send_replace(Some(Drivers {
        network,
        ipam: IpamDriver::new(ipam.clone()),
    }));

    let attachments = attachments::Attachments::load(
        attachments::Parts {
            engine: engine.clone(),
            ipam: ipam.clone(),
            networks: networks.clone(),
            datapath: Arc::clone(&datapath),
            store: store.clone(),
            default_subnet: addresses::default_subnet(&settings),
            warnings: warnings.clone(),
        },
        &paths,
    );
    tasks.spawn(peers_file::watch(
        store.clone(),
        mesh.clone(),
        warnings.clone(),
    ));
    match mode {
        Mode::Plugin => tasks.spawn(addresses::make_default_network(
            settings.clone(),
            engine.clone(),
            warnings.clone(),
        )),
        Mode::Standalone => tasks.spawn(addresses::keep_network(
            weave_network::LEGACY_DRIVER.to_owned(),
            settings.clone(),
            engine.clone(),
            parts.plugin(),
            warnings.clone(),
        )),
    };
    let legacy = parts.sockets().iter();
    let legacy: BTreeSet<String> = legacy.map(|legacy| legacy.name().to_owned()).collect();

    let dns = dns::wanted(&settings, mode)
        .then(|| dns::start(&settings, &paths, &store, &mesh, &mut tasks));
    let proxy = proxy::new(&settings, &paths, dns.clone());
    tasks.spawn(proxy.clone().serve(parts.proxy()));
    let daemon = Arc::new(Daemon {
        started,
        settings,
        rejected,
        warnings: warnings.clone(),
        store,
        mesh: mesh.clone(),
        networks: networks.clone(),
        ipam: ipam.clone(),
        services: services.clone(),
        dns: dns.clone(),
        proxy,
        datapath: Arc::clone(&datapath),
        scope: scope.clone(),
        sockets,
        answers: report::Answers::default(),
        network_names: network_names::NetworkNames::new(engine.clone()),
        attachments: attachments.clone(),
        parts,
        targets: Mutex::new(()),
    });
    let control_socket = paths.control_socket();
    tasks.spawn(socket::serve(
        control_socket,
        Arc::clone(&daemon),
        warnings.clone(),
    ));
    if let Some(address) = daemon.settings.status_addr.get() {
        tasks.spawn(http::serve(address, Arc::clone(&daemon), warnings));
    }

    let (swarm_nodes, of_swarm) = watch::channel(Default::default());
    let (told_swarm, known_swarm) = watch::channel(None);
    tasks.spawn(addresses::follow_electors(
        daemon.settings.clone(),
        scope.subscribe(),
        known_swarm.clone(),
        ipam.clone(),
    ));
    tasks.spawn(addresses::retire_nodes(
        known_swarm,
        daemon.store.clone(),
        mesh.clone(),
        ipam.clone(),
    ));
    tasks.spawn(swarm::watch_nodes(
        engine.clone(),
        scope,
        swarm_nodes,
        told_swarm,
    ));
    tasks.spawn(tasks::feed_targets("swarm", of_swarm, mesh.clone()));
    tasks.spawn(tasks::feed_targets(
        "discovered",
        nodes.subscribe(),
        mesh.clone(),
    ));
    let (told, running) = watch::channel(None);
    let (told_changes, changes) = mpsc::unbounded_channel();
    tasks.spawn(containers::watch(engine.clone(), told, told_changes));
    tasks.spawn(tasks::name_endpoints(
        running.clone(),
        attachments.endpoints(),
        networks.clone(),
    ));
    tasks.spawn(addresses::retain(
        running.clone(),
        engine.clone(),
        mode,
        legacy,
        attachments.clone(),
        ipam,
    ));
    let attached = attachments.endpoints();
    tasks.spawn(attachments.keep(running.clone()));
    tasks.spawn(addresses::watch_routes(
        daemon.settings.clone(),
        Arc::clone(&datapath),
        daemon.warnings.clone(),
    ));
    if let Some(dns) = dns {
        tasks.spawn(dns::forget_containers(dns.clone(), engine.clone()));
        let sources = names::Sources {
            engine: engine.clone(),
            changes,
            joined: networks.joined(),
            attached,
        };
        let domain = daemon.settings.dns_domain.get().clone();
        tasks.spawn(dns::feed_names(dns, domain, sources));
    }
    tasks.spawn(tasks::feed_tasks(running, services.clone()));
    let (told, known) = watch::channel(None);
    tasks.spawn(services::watch(engine, told));
    tasks.spawn(tasks::feed_services(known, services.clone()));
    let tunnel = tunnel::Config {
        address: daemon.settings.host.map(HostAddress::get),
        port: daemon.settings.port.control(),
        vxlan_port: daemon.settings.port.vxlan(),
        encrypt: daemon.settings.password.is_some(),
        trusted: match filtered {
            true => daemon
                .settings
                .trusted_subnets
                .iter()
                .map(|s| s.get())
                .collect(),
            false => Vec::new(),
        },
    };
    tasks.spawn(tunnel::run(
        tunnel,
        mesh.clone(),
        networks.clone(),
        Arc::clone(&datapath),
        daemon.warnings.clone(),
    ));
    tasks.spawn(tasks::watch_mtu(
        mesh.subscribe(),
        datapath,
        networks.clone(),
    ));

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("shutting down");
    drop(stop);
    services.stop().await;
    mesh.stop().await;
    tasks.shutdown().await;
    Ok(())
}

async fn open_datapath(settings: &Settings, paths: &Paths) -> MaybeDatapath {
    let config = KernelConfig {
        run_dir: paths.run(),
        vxlan_port: settings.port.vxlan(),
    };
    let opened = tokio::task::spawn_blocking(move || KernelDatapath::open(&config)).await;
    let error = match opened {
        Ok(Ok(kernel)) => return MaybeDatapath::Present(HybridDatapath::new(kernel)),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    tracing::error!(error, "containers cannot be attached");
    MaybeDatapath::Absent(error)
}

async fn start_mesh(settings: &Settings, store: &Store, warnings: &Warnings) -> Mesh {
    let of_commands = Targets::load(store).unwrap_or_else(|error| {
        let remedy = "repair or remove the file, then repeat `weave connect` and `weave forget`";
        warnings.set("targets", Warning::new(error.to_string(), remedy));
        Targets::default()
    });
    let config = MeshConfig {
        nickname: settings.nickname().to_string(),
        bind: settings.host.map(HostAddress::get),
        advertise: settings.host.map(HostAddress::get).into_iter().collect(),
        port: settings.port.control(),
        password: settings.password.clone(),
        discovery: !settings.no_discovery.0,
        conn_limit: settings.conn_limit.get().unwrap_or(usize::MAX),
        targets: control::targets(&of_commands, &settings.peers),
        ..MeshConfig::default()
    };
    Mesh::start(config, Some(store.clone())).await
}

/// Forbids VXLAN to all hosts, until they are known to be trusted, where both a password and
/// trusted subnets are set; returns whether it is so.
async fn filter_vxlan(settings: &Settings, warnings: &Warnings) -> bool {
    let wanted = settings.password.is_some() && !settings.trusted_subnets.is_empty();
    let port = settings.port.vxlan();
    let filter = move || match wanted {
        true => vxlan_filter::allow(port, &BTreeSet::new()),
        false => vxlan_filter::remove(),
    };
    let set = tokio::task::spawn_blocking(filter).await;
    let error = match set {
        Ok(Ok(())) => return wanted,
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    if wanted {
        let remedy = "enable NF_TABLES in the kernel; everything is encrypted until then";
        let what = format!("WEAVE_TRUSTED_SUBNETS cannot be obeyed: {error}");
        warnings.set("trusted", Warning::new(what, remedy));
    }
    false
}

async fn start_networks(
    settings: &Settings,
    filtered: bool,
    paths: &Paths,
    store: &Store,
    mesh: &Mesh,
    datapath: &Arc<MaybeDatapath>,
) -> Networks {
    let config = network::Config {
        id: mesh.id(),
        nickname: settings.nickname().to_string(),
        policy: Policy {
            encrypt: settings.password.is_some(),
            trusts: filtered,
        },
        mtu: settings.mtu.map(Mtu::get),
        multicast: settings.multicast.0,
    };
    let stores = Stores {
        durable: store.clone(),
        runtime: Store::at(paths.run().join("weave")),
    };
    let mtu = tasks::underlay_mtu(datapath, []).await;
    Networks::start(
        config,
        mtu.unwrap_or(USUAL_MTU),
        Arc::clone(datapath),
        stores,
        mesh.subscribe(),
        publisher(mesh),
    )
}

/// What tells the other peers.
fn publisher(mesh: &Mesh) -> impl Fn(Key, Option<Bytes>) + Send + 'static {
    let mesh = mesh.clone();
    move |key, value| {
        if let Err(error) = mesh.publish(key, value) {
            tracing::error!(%error, "the other peers are not told of a change");
        }
    }
}

fn scope_setting(setting: ScopeSetting) -> Option<Scope> {
    match setting {
        ScopeSetting::Auto => None,
        ScopeSetting::Local => Some(Scope::Local),
        ScopeSetting::Global => Some(Scope::Global),
    }
}
