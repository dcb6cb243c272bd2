//! The one place where the parts are built, wired, supervised and shut down.

mod addresses;
mod control;
mod report;
mod tasks;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

use crate::config::{HostAddress, Mtu, Paths, Rejected, Scope as ScopeSetting, Settings};
use crate::control::{Targets, Warning, Warnings, http, socket};
use crate::datapath::{KernelConfig, KernelDatapath, MaybeDatapath};
use crate::docker::calls::{Calls, Drivers};
use crate::docker::discovered::DiscoveredNodes;
use crate::docker::driver::Driver;
use crate::docker::engine::Engine;
use crate::docker::ipam_driver::IpamDriver;
use crate::docker::plugin_socket::PluginSocket;
use crate::docker::scope::{Scope, ScopeKeeper};
use crate::docker::{containers, services, swarm};
use crate::ipam::Ipam;
use crate::mesh::{Key, Mesh, MeshConfig};
use crate::network::services::Services;
use crate::network::{self, Networks, Policy, Stores};
use crate::store::Store;

/// How long a socket that could not be made waits for its next try.
const RETRY: Duration = Duration::from_secs(1);

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
    datapath: Arc<MaybeDatapath>,
    scope: ScopeKeeper,
    sockets: Arc<report::Sockets>,
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
    let sockets = Arc::new(report::Sockets::default());
    let mut listen = |path: PathBuf, scope| {
        let calls = Calls::new(scope, nodes.clone(), drivers_ready.clone());
        tasks.spawn(serve(path, calls, Arc::clone(&sockets), stopped.clone()));
    };
    if mode == Mode::Plugin {
        listen(paths.managed_socket(), scope.subscribe());
    }
    for legacy in settings.legacy_sockets.get() {
        let file = format!("{}.sock", legacy.name());
        listen(paths.legacy_plugins().join(file), Scope::Local.known());
    }
    let deciding = (scope.clone(), engine.clone());
    tasks.spawn(async move {
        deciding.0.decide(&deciding.1).await;
    });

    let warnings = Warnings::default();
    let datapath = Arc::new(open_datapath(&settings, &paths).await);
    let mesh = start_mesh(&settings, &store, &warnings).await;
    let networks = start_networks(&settings, &paths, &store, &mesh, &datapath).await;
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
        datapath: Arc::clone(&datapath),
        scope: scope.clone(),
        sockets,
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
    tasks.spawn(swarm::watch_nodes(engine.clone(), scope, swarm_nodes));
    tasks.spawn(tasks::feed_targets("swarm", of_swarm, mesh.clone()));
    tasks.spawn(tasks::feed_targets(
        "discovered",
        nodes.subscribe(),
        mesh.clone(),
    ));
    let (told, running) = watch::channel(None);
    tasks.spawn(containers::watch(engine.clone(), told));
    tasks.spawn(tasks::name_endpoints(running.clone(), networks.clone()));
    tasks.spawn(tasks::retain_addresses(running.clone(), ipam));
    tasks.spawn(tasks::feed_tasks(running, services.clone()));
    let (told, known) = watch::channel(None);
    tasks.spawn(services::watch(engine, told));
    tasks.spawn(tasks::feed_services(known, services.clone()));
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

/// Serves one plugin socket; where it cannot be made, tries again until it can.
async fn serve(
    path: PathBuf,
    calls: Calls,
    sockets: Arc<report::Sockets>,
    mut stopped: watch::Receiver<()>,
) {
    loop {
        let bound = PluginSocket::bind(&path);
        sockets.note(&path, bound.as_ref().err().map(ToString::to_string));
        match bound {
            Ok(socket) => {
                let shutdown = async move {
                    // Fails when the sender is dropped, which is all it is for.
                    let _ = stopped.changed().await;
                };
                return socket.serve(calls, shutdown).await;
            }
            Err(_) => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn open_datapath(settings: &Settings, paths: &Paths) -> MaybeDatapath {
    let config = KernelConfig {
        run_dir: paths.run(),
        vxlan_port: settings.port.vxlan(),
    };
    let opened = tokio::task::spawn_blocking(move || KernelDatapath::open(&config)).await;
    let error = match opened {
        Ok(Ok(kernel)) => return MaybeDatapath::Kernel(kernel),
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

async fn start_networks(
    settings: &Settings,
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
