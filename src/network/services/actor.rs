//! The task that keeps the virtual addresses in all containers' namespaces up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::core::{Balances, Core};
use super::record::{Backend, Life, Service, ServiceId};
use super::sandbox::Sandbox;
use super::status::ServicesStatus;
use super::support::{self, Support};
use crate::linux::conntrack::{self, Flow};
use crate::linux::netns::NetNs;
use crate::linux::nftables::NftError;
use crate::mesh::{Key, MeshEvent};
use crate::network::JoinedEndpoints;
use crate::types::{EndpointId, NetworkId, PeerId};

/// How many namespaces are worked on at a time: the kernel takes one change of rules after the
/// other.
const JOBS: usize = 2;

/// How long a namespace in which rules could not be changed waits for the next try.
const RETRY: Duration = Duration::from_secs(1);

/// How long it waits where the kernel lacks what is needed.
const RETRY_UNSUPPORTED: Duration = Duration::from_secs(60);

/// How long an engine takes at most from attaching a container to starting it, as a rule; and how
/// often its namespace is looked for in that time and later. Docker tells nobody when it is there,
/// and the container's first instruction follows some milliseconds after.
const STARTING: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_millis(2);
const LATER: Duration = Duration::from_millis(100);

/// How long the rules of a container that has left all our networks stay: most leave because they
/// end, and their namespace goes with them.
const LEAVING: Duration = Duration::from_secs(1);

/// How long rules from an earlier life of the daemon are left alone: until the other peers are
/// heard again, and this host's engine has told of its tasks.
const HOLD: Duration = Duration::from_secs(3);
const HOLD_LONGEST: Duration = Duration::from_secs(15);

/// The way to the services' virtual addresses from the floors above; cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Services {
    commands: mpsc::UnboundedSender<Command>,
}

#[derive(Debug)]
enum Command {
    Tasks(BTreeMap<EndpointId, Backend>),
    Services(Option<BTreeMap<ServiceId, Service>>),
    Status(oneshot::Sender<ServicesStatus>),
    Stop(oneshot::Sender<()>),
}

impl Services {
    /// Starts the task, where the host's `/run` is seen at `run_dir`.
    pub fn start(
        id: PeerId,
        run_dir: PathBuf,
        joined: watch::Receiver<JoinedEndpoints>,
        mesh_events: mpsc::UnboundedReceiver<MeshEvent>,
        publish: impl Fn(Key, Option<Bytes>) + Send + 'static,
    ) -> Self {
        let (commands, queue) = mpsc::unbounded_channel();
        let actor = Actor {
            core: Core::new(id, Life(rand::random())),
            run_dir: run_dir.into(),
            started: Instant::now(),
            tasks: None,
            clients: BTreeMap::new(),
            jobs: JoinSet::new(),
            support: Support::default(),
            publish,
        };
        tokio::spawn(actor.run(queue, joined, mesh_events));
        Self { commands }
    }

    /// Tells which tasks run on this host: all of them, by endpoint. Those on networks of other
    /// drivers are passed over.
    pub fn tasks(&self, tasks: BTreeMap<EndpointId, Backend>) {
        self.command(Command::Tasks(tasks));
    }

    /// Tells the services that this host's engine knows: all of them, or `None` when it is no
    /// manager.
    pub fn services(&self, services: Option<BTreeMap<ServiceId, Service>>) {
        self.command(Command::Services(services));
    }

    /// What is known; nothing once the task has stopped.
    pub async fn status(&self) -> ServicesStatus {
        let (reply, status) = oneshot::channel();
        self.command(Command::Status(reply));
        status.await.unwrap_or_default()
    }

    /// Ends the task and leaves all rules as they are. To be called before the mesh ends: that
    /// other hosts are no longer heard then does not mean that they are gone.
    pub async fn stop(&self) {
        let (reply, stopped) = oneshot::channel();
        self.command(Command::Stop(reply));
        // No answer comes when it has stopped before.
        let _ = stopped.await;
    }

    /// Commands to a task that has stopped have no effect.
    fn command(&self, command: Command) {
        let _ = self.commands.send(command);
    }
}

struct Actor<P> {
    core: Core,
    run_dir: Arc<Path>,
    started: Instant,
    /// `None` until the engine has told.
    tasks: Option<BTreeMap<EndpointId, Backend>>,
    clients: BTreeMap<PathBuf, Client>,
    jobs: JoinSet<Done>,
    support: Support,
    publish: P,
}

/// A container, by the file of its namespace.
#[derive(Debug)]
struct Client {
    networks: BTreeSet<NetworkId>,
    joined: Instant,
    /// Known from an earlier life of the daemon.
    inherited: bool,
    /// Not here while a job works on it.
    sandbox: Option<Sandbox>,
    /// When to bring its rules up to date; `None` when they are.
    due: Option<Instant>,
    problem: Option<String>,
}

/// The end of a job.
enum Done {
    Probed(io::Result<Support>),
    Applied {
        path: PathBuf,
        sandbox: Sandbox,
        result: Result<(), ApplyError>,
    },
}

#[derive(Debug, Error)]
enum ApplyError {
    #[error("its namespace cannot be entered: {0}")]
    Namespace(#[from] io::Error),
    #[error(transparent)]
    Rules(#[from] NftError),
}

impl<P: Fn(Key, Option<Bytes>) + Send + 'static> Actor<P> {
    async fn run(
        mut self,
        mut queue: mpsc::UnboundedReceiver<Command>,
        mut joined: watch::Receiver<JoinedEndpoints>,
        mut mesh_events: mpsc::UnboundedReceiver<MeshEvent>,
    ) {
        self.jobs.spawn_blocking(|| Done::Probed(support::probe()));
        self.handle_joined(&joined.borrow_and_update().clone(), true);
        let (mut networks_live, mut mesh_lives) = (true, true);
        loop {
            self.start_jobs(Instant::now());
            let deadline = self.deadline();
            let sleep = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            let tell = tokio::select! {
                command = queue.recv() => match command {
                    Some(Command::Stop(reply)) => {
                        // A caller that has gone away needs no answer.
                        let _ = reply.send(());
                        return;
                    }
                    Some(command) => self.handle(command),
                    None => return,
                },
                event = mesh_events.recv(), if mesh_lives => {
                    mesh_lives = event.is_some();
                    // Rules are worked out once for all the news that has come.
                    let mut next = event;
                    while let Some(event) = next {
                        self.core.handle_mesh_event(event);
                        next = mesh_events.try_recv().ok();
                    }
                    false
                }
                told = joined.changed(), if networks_live => {
                    networks_live = told.is_ok();
                    let joined = joined.borrow_and_update().clone();
                    self.handle_joined(&joined, false);
                    true
                }
                Some(done) = self.jobs.join_next() => {
                    if let Ok(done) = done {
                        self.handle_done(done, Instant::now());
                    }
                    false
                }
                () = sleep => false,
            };
            if tell {
                self.tell_tasks(&joined.borrow());
            }
            self.rebalance();
            while let Some((key, value)) = self.core.poll_publish() {
                (self.publish)(key, value);
            }
        }
    }

    /// Returns whether this host's tasks may be others.
    fn handle(&mut self, command: Command) -> bool {
        match command {
            Command::Tasks(tasks) => {
                self.tasks = Some(tasks);
                return true;
            }
            Command::Services(services) => self.core.handle_services(services),
            Command::Status(reply) => self.tell_status(reply),
            Command::Stop(_) => {}
        }
        false
    }

    fn tell_tasks(&mut self, joined: &JoinedEndpoints) {
        let Some(tasks) = &self.tasks else {
            return;
        };
        let ours = |(id, _): &(&EndpointId, &Backend)| joined.contains_key(*id);
        let ours = tasks.iter().filter(ours);
        self.core
            .handle_tasks(ours.map(|(id, task)| (id.clone(), task.clone())).collect());
    }

    fn handle_joined(&mut self, joined: &JoinedEndpoints, inherited: bool) {
        let mut networks: BTreeMap<&Path, BTreeSet<NetworkId>> = BTreeMap::new();
        for endpoint in joined.values() {
            let of_container = networks.entry(&endpoint.sandbox).or_default();
            of_container.insert(endpoint.network.clone());
        }
        let now = Instant::now();
        for (path, client) in &mut self.clients {
            if !client.networks.is_empty() && !networks.contains_key(path.as_path()) {
                client.networks.clear();
                client.due = Some(now + LEAVING);
            }
        }
        for (path, networks) in networks {
            match self.clients.get_mut(path) {
                Some(client) if client.networks == networks => {}
                Some(client) => {
                    client.networks = networks;
                    client.due = Some(now);
                }
                None => {
                    let client = Client::new(networks, inherited, now);
                    self.clients.insert(path.to_owned(), client);
                }
            }
        }
    }

    /// Works out what is to be balanced, and which containers it concerns.
    fn rebalance(&mut self) {
        let changed = self.core.poll_changed();
        if changed.is_empty() {
            return;
        }
        let now = Instant::now();
        for client in self.clients.values_mut() {
            if !client.networks.is_disjoint(&changed) {
                client.due = Some(client.due.unwrap_or(now).min(now));
            }
        }
    }

    fn start_jobs(&mut self, now: Instant) {
        let held = self.is_held(now);
        let run_dir = Arc::clone(&self.run_dir);
        let is_sandbox = |path: &Path| NetNs::is_sandbox(&run_dir, path);
        self.clients.retain(|path, client| {
            let due = client.due.is_some_and(|due| due <= now);
            let left = client.networks.is_empty() && client.sandbox.is_some();
            let cleared = client.is_in_force(&Balances::new());
            !(left && (!client.has_table() || due && (cleared || !is_sandbox(path))))
        });
        for (path, client) in &mut self.clients {
            if self.jobs.len() >= JOBS {
                return;
            }
            let due = client.due.is_some_and(|due| due <= now);
            if !due || (client.inherited && held) {
                continue;
            }
            let wanted = client.wanted(self.core.balances());
            if client.is_in_force(&wanted) {
                client.due = None;
                continue;
            }
            if !is_sandbox(path) {
                let young = now.saturating_duration_since(client.joined) < STARTING;
                client.due = Some(now + if young { SOON } else { LATER });
                continue;
            }
            // While another job works on it, its end is waited for.
            let Some(sandbox) = client.sandbox.take() else {
                continue;
            };
            client.due = None;
            let (run_dir, path) = (Arc::clone(&self.run_dir), path.clone());
            self.jobs
                .spawn_blocking(move || apply(&run_dir, path, sandbox, &wanted));
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let held = self.held_until();
        let waiting = self.clients.values().filter(|c| c.sandbox.is_some());
        let due = waiting.filter_map(|client| match client.inherited {
            true => client.due.and_then(|due| Some(due.max(held?))),
            false => client.due,
        });
        match self.jobs.len() < JOBS {
            true => due.min(),
            // The end of a job is what comes next.
            false => None,
        }
    }

    fn is_held(&self, now: Instant) -> bool {
        self.held_until().is_none_or(|until| now < until)
    }

    /// Until when rules of an earlier life of the daemon are left alone; `None` until somebody
    /// tells of services: while no manager can be reached, they are all that is known.
    fn held_until(&self) -> Option<Instant> {
        if !self.core.knows_services() {
            return None;
        }
        let hold = match self.tasks {
            Some(_) => HOLD,
            None => HOLD_LONGEST,
        };
        self.started.checked_add(hold)
    }

    fn handle_done(&mut self, done: Done, now: Instant) {
        let (path, sandbox, result) = match done {
            Done::Applied {
                path,
                sandbox,
                result,
            } => (path, sandbox, result),
            Done::Probed(Ok(support)) => {
                for reason in [&support.unsupported, &support.no_flows]
                    .into_iter()
                    .flatten()
                {
                    warn!(reason, "virtual addresses of services will not work fully");
                }
                self.support = support;
                return;
            }
            Done::Probed(Err(error)) => {
                warn!(%error, "what the kernel can do for services is not known");
                return;
            }
        };
        let Some(client) = self.clients.get_mut(&path) else {
            return;
        };
        client.sandbox = Some(sandbox);
        client.inherited &= result.is_err();
        client.problem = result.err().map(|error| error.to_string());
        if client.networks.is_empty() {
            client.due = Some(now);
        }
        if let Some(problem) = &client.problem {
            debug!(problem, path = %path.display(), "rules not changed");
            let pause = match self.support.unsupported {
                Some(_) => RETRY_UNSUPPORTED,
                None => RETRY,
            };
            client.due = Some(now + pause);
        }
    }

    /// Answers once the connections have been counted, which nothing else waits for.
    fn tell_status(&self, reply: oneshot::Sender<ServicesStatus>) {
        let mut status = self.status();
        let run_dir = Arc::clone(&self.run_dir);
        let clients = self.clients.iter().filter(|(_, client)| client.has_table());
        let clients = clients.map(|(path, client)| (path.clone(), client.networks.clone()));
        let clients: Vec<_> = clients.collect();
        tokio::task::spawn_blocking(move || {
            let connections = count(&run_dir, &clients);
            for service in &mut status.services {
                for task in &mut service.backends {
                    let of_task = (service.network.clone(), service.vip, task.address);
                    task.connections = connections.get(&of_task).copied().unwrap_or(0);
                }
            }
            let _ = reply.send(status);
        });
    }

    fn status(&self) -> ServicesStatus {
        let problems = self.clients.iter().filter_map(|(path, client)| {
            let problem = client.problem.as_ref()?;
            let path = path.display();
            Some(format!(
                "services' virtual addresses in namespace {path}: {problem}"
            ))
        });
        ServicesStatus {
            services: self.core.status(),
            unsupported: self.support.unsupported.clone(),
            no_flows: self.support.no_flows.clone(),
            // Each of them says the same then.
            problems: match self.support.unsupported {
                Some(_) => Vec::new(),
                None => problems.collect(),
            },
        }
    }
}

impl Client {
    fn new(networks: BTreeSet<NetworkId>, inherited: bool, now: Instant) -> Self {
        Self {
            networks,
            joined: now,
            inherited,
            sandbox: Some(match inherited {
                true => Sandbox::inherited(),
                false => Sandbox::default(),
            }),
            due: Some(now),
            problem: None,
        }
    }

    fn wanted(&self, balances: &BTreeMap<NetworkId, Balances>) -> Balances {
        let mine = self.networks.iter().filter_map(|id| balances.get(id));
        mine.flatten()
            .map(|(vip, backends)| (*vip, Arc::clone(backends)))
            .collect()
    }

    /// Whether there may be rules in its namespace, as far as no job is changing them.
    fn has_table(&self) -> bool {
        self.sandbox.as_ref().is_none_or(Sandbox::has_table)
    }

    fn is_in_force(&self, wanted: &Balances) -> bool {
        let sandbox = self.sandbox.as_ref();
        sandbox.is_some_and(|sandbox| sandbox.is_in_force(wanted))
    }
}

fn apply(run_dir: &Path, path: PathBuf, mut sandbox: Sandbox, wanted: &Balances) -> Done {
    // Held open no longer than needed: an open namespace outlives its container.
    let result = NetNs::open_sandbox(run_dir, &path)
        .and_then(|namespace| namespace.run(|| sandbox.apply(wanted)))
        .map_err(ApplyError::from)
        .and_then(|applied| applied.map_err(ApplyError::from));
    Done::Applied {
        path,
        sandbox,
        result,
    }
}

/// How many connections these containers have open, by network, virtual address and task.
fn count(
    run_dir: &Path,
    clients: &[(PathBuf, BTreeSet<NetworkId>)],
) -> BTreeMap<(NetworkId, Ipv4Addr, Ipv4Addr), usize> {
    let mut connections = BTreeMap::new();
    for (path, networks) in clients {
        // One that has ended meanwhile has none.
        let flows = NetNs::open_sandbox(run_dir, path)
            .and_then(|namespace| namespace.run(conntrack::flows))
            .flatten();
        for flow in flows.unwrap_or_default().iter().filter(|flow| flow.open) {
            let Flow {
                destination,
                answers_from,
                ..
            } = flow;
            for network in networks {
                let of_task = (network.clone(), *destination, *answers_from);
                *connections.entry(of_task).or_default() += 1;
            }
        }
    }
    connections
}

#[cfg(test)]
mod tests {
    use std::process::Command as Process;
    use std::sync::mpsc as std_mpsc;

    use nix::sched::{CloneFlags, unshare};

    use super::*;
    use crate::network::Joined;
    use crate::network::services::TaskState;
    use crate::types::SegmentId;

    /// A namespace of its own, kept by a thread that runs `nft` when it is asked to.
    struct Container {
        path: PathBuf,
        ask: std_mpsc::Sender<oneshot::Sender<String>>,
    }

    impl Container {
        fn start() -> Self {
            let (ask, asked) = std_mpsc::channel::<oneshot::Sender<String>>();
            let (told, path) = std_mpsc::channel();
            std::thread::spawn(move || {
                unshare(CloneFlags::CLONE_NEWNET).unwrap();
                let path = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid());
                told.send(PathBuf::from(path)).unwrap();
                for reply in asked {
                    let listed = Process::new("nft").args(["list", "ruleset"]).output();
                    let _ = reply.send(String::from_utf8(listed.unwrap().stdout).unwrap());
                }
            });
            let path = path.recv().unwrap();
            Self { path, ask }
        }

        /// Waits until the rules are as they should be.
        async fn until(&self, is_so: impl Fn(&str) -> bool) {
            let asking = async {
                loop {
                    let (reply, rules) = oneshot::channel();
                    self.ask.send(reply).unwrap();
                    if is_so(&rules.await.unwrap()) {
                        return;
                    }
                }
            };
            let patience = Duration::from_secs(60);
            tokio::time::timeout(patience, asking).await.unwrap();
        }
    }

    #[tokio::test]
    async fn each_container_translates_the_addresses_of_its_own_networks() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let (one, two) = (Container::start(), Container::start());
        let (tell, joined) = watch::channel(JoinedEndpoints::new());
        let (_mesh, mesh_events) = mpsc::unbounded_channel();
        let id = PeerId::from_bytes([1; 16]);
        let services = Services::start(id, "/run".into(), joined, mesh_events, |_, _| ());
        services.services(Some(BTreeMap::from([
            service("s1", "n1", [10, 0, 1, 2]),
            service("s2", "n2", [10, 0, 2, 2]),
        ])));
        services.tasks(BTreeMap::from([task("e1", "s1", "n1", [10, 0, 1, 3])]));
        tell.send_replace(JoinedEndpoints::from([
            endpoint("e1", "n1", &one.path),
            endpoint("e2", "n2", &two.path),
        ]));
        one.until(|rules| rules.contains("10.0.1.3") && !rules.contains("10.0.2.2"))
            .await;
        two.until(|rules| rules.contains("10.0.2.2") && !rules.contains("10.0.1.2"))
            .await;

        // Another network, and a service that is gone.
        tell.send_replace(JoinedEndpoints::from([
            endpoint("e1", "n1", &one.path),
            endpoint("e3", "n2", &one.path),
        ]));
        one.until(|rules| rules.contains("10.0.1.2") && rules.contains("10.0.2.2"))
            .await;
        services.services(Some([service("s2", "n2", [10, 0, 2, 2])].into()));
        one.until(|rules| !rules.contains("10.0.1.2") && rules.contains("10.0.2.2"))
            .await;
        // The container that has left the network goes on without its addresses.
        two.until(|rules| !rules.contains("10.0.2.2")).await;
        assert_eq!(services.status().await.problems, [""; 0]);
        services.stop().await;
    }

    fn service(id: &str, network: &str, vip: [u8; 4]) -> (ServiceId, Service) {
        let service = Service {
            name: id.to_owned(),
            vips: vec![(network.parse().unwrap(), vip.into())],
        };
        (ServiceId(id.to_owned()), service)
    }

    fn task(id: &str, service: &str, network: &str, address: [u8; 4]) -> (EndpointId, Backend) {
        let backend = Backend {
            service: ServiceId(service.to_owned()),
            network: network.parse().unwrap(),
            address: address.into(),
            state: TaskState::Ready,
        };
        (id.parse().unwrap(), backend)
    }

    fn endpoint(id: &str, network: &str, sandbox: &Path) -> (EndpointId, Joined) {
        let joined = Joined {
            network: network.parse().unwrap(),
            segment: SegmentId::of_name(network),
            sandbox: sandbox.to_owned(),
        };
        (id.parse().unwrap(), joined)
    }
}
