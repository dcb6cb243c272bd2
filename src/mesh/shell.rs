//! The task that owns the core and does what it wants: sockets, clocks, disk, subscribers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinSet};

use super::admission::Admission;
use super::connection::{self, CLOSE_TIMEOUT, Queue, Report, Reports};
use super::core::{Action, ConnId, Core, CoreConfig, DialError, KnownPeer, Target};
use super::credentials::{Credentials, Details, StretchedPassword};
use super::handle::{Command, MeshConfig};
use super::handshake::Role;
use super::identity::Identity;
use super::keeper::{self, Keeper};
use super::listener::{self, Heard};
use super::message::Message;
use super::targets::{self, Resolved, Told};
use super::traffic::Traffic;
use super::{Key, Kind, MeshCounters, MeshEvent, MeshStatus};
use crate::store::Store;
use crate::types::{PeerId, Secret};

/// How long a peer may be unreachable before its records are dropped everywhere. A host that is
/// switched off over a long weekend is still known.
const FORGET_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often routes are asked for this host's addresses.
const ADDRESS_CHECK: Duration = Duration::from_secs(30);

/// How long stopping may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);

/// Reports that wait for the core; beyond, connections wait with reading.
const REPORTS: usize = 64;

/// Starts the mesh's tasks; gives the peer's identity, which may change.
pub(super) async fn start(
    config: MeshConfig,
    store: Option<Store>,
    commands: mpsc::UnboundedReceiver<Command>,
) -> watch::Receiver<PeerId> {
    let for_loading = store.clone();
    let load = move || {
        let (identity, warning) = Identity::load(for_loading.as_ref());
        let (known, unread) = keeper::known_peers(for_loading.as_ref());
        (identity, warning, known, unread)
    };
    let loaded = tokio::task::spawn_blocking(load).await;
    // Only a runtime that is shutting down does not run it.
    let (identity, warning, known, unread) =
        loaded.unwrap_or_else(|_| (Identity::generate(), None, Vec::new(), None));
    let mut warnings = Warnings::default();
    warnings.set("identity", warning);
    warnings.set("known peers", unread);
    let bound = listener::bind(config.bind, config.port);
    let listening = bound
        .as_ref()
        .map_err(Clone::clone)
        .and_then(listener::local_address);

    let (heard_sender, heard) = mpsc::channel(1);
    let (reports_sender, reports) = mpsc::channel(REPORTS);
    let (resolved_sender, resolved) = mpsc::channel(16);
    let (unkept_sender, unkept) = watch::channel(None);
    let told = watch::Sender::new(config.targets.iter().cloned().collect::<Told>());
    let (id_sender, id) = watch::channel(identity.id());

    let mut helpers = JoinSet::new();
    let listen = listener::run(bound.ok(), config.bind, config.port, heard_sender);
    helpers.spawn(listen);
    helpers.spawn(targets::run(told.subscribe(), config.port, resolved_sender));

    let inputs = Inputs {
        commands,
        heard,
        reports,
        resolved,
        unkept,
    };
    let outputs = Outputs {
        reports: reports_sender,
        told,
        unkept: unkept_sender,
        id: id_sender,
    };
    let run = async move {
        let password = stretch(config.password.clone(), &mut warnings).await;
        let shell = Shell::new(
            config,
            store,
            Loaded { identity, known },
            password,
            listening,
            outputs,
        );
        shell.run(inputs, warnings).await;
        helpers.shutdown().await;
    };
    tokio::spawn(run);
    id
}

/// Off the threads that run tasks: it takes tens of milliseconds.
async fn stretch(password: Option<Secret>, warnings: &mut Warnings) -> Option<StretchedPassword> {
    let password = password?;
    let stretching =
        tokio::task::spawn_blocking(move || StretchedPassword::stretch(&password)).await;
    match stretching {
        Ok(Ok(stretched)) => Some(stretched),
        failure => {
            let warning = format!("the password cannot be used, so no peer is let in: {failure:?}");
            warnings.set("password", Some(warning));
            Some(StretchedPassword::unknown())
        }
    }
}

/// What an operator should know, by what it is about.
#[derive(Debug, Default)]
struct Warnings(BTreeMap<&'static str, String>);

impl Warnings {
    fn set(&mut self, about: &'static str, warning: Option<String>) {
        let Some(warning) = warning else {
            self.0.remove(about);
            return;
        };
        tracing::warn!(about, "{warning}");
        self.0.insert(about, warning);
    }
}

/// What an earlier start left on disk.
struct Loaded {
    identity: Identity,
    known: Vec<KnownPeer>,
}

struct Inputs {
    commands: mpsc::UnboundedReceiver<Command>,
    heard: mpsc::Receiver<Heard>,
    reports: mpsc::Receiver<(ConnId, Report)>,
    resolved: mpsc::Receiver<Resolved>,
    unkept: watch::Receiver<Option<String>>,
}

struct Outputs {
    reports: Reports,
    told: watch::Sender<Told>,
    unkept: watch::Sender<Option<String>>,
    id: watch::Sender<PeerId>,
}

struct Connection {
    queue: Queue,
    task: AbortHandle,
    /// Where it was accepted from, until its handshake is over.
    half_open: Option<IpAddr>,
    /// This host's address in it, once it is a session.
    near: Option<IpAddr>,
    /// Who is at the other end, for people, once it is a session.
    peer: Option<String>,
}

struct Shell {
    config: MeshConfig,
    store: Option<Store>,
    credentials: Arc<Credentials>,
    core: Core,
    keeper: Option<Keeper>,
    connections: BTreeMap<ConnId, Connection>,
    tasks: JoinSet<()>,
    admission: Admission,
    subscribers: Vec<mpsc::UnboundedSender<MeshEvent>>,
    reachable: BTreeMap<PeerId, Option<IpAddr>>,
    resolved: BTreeMap<String, Vec<Target>>,
    known: Vec<KnownPeer>,
    addresses: Vec<SocketAddr>,
    listening: Result<SocketAddr, String>,
    warnings: Warnings,
    outputs: Outputs,
    counters: MeshCounters,
    traffic: Arc<Traffic>,
}

impl Shell {
    fn new(
        config: MeshConfig,
        store: Option<Store>,
        loaded: Loaded,
        password: Option<StretchedPassword>,
        listening: Result<SocketAddr, String>,
        outputs: Outputs,
    ) -> Self {
        let Loaded { identity, known } = loaded;
        let port = listening.as_ref().map_or(config.port, SocketAddr::port);
        let addresses = own_addresses(&config, port, BTreeSet::new());
        let core = new_core(&config, &identity, addresses.clone(), known.clone());
        let keeper = new_keeper(store.as_ref(), &identity, &outputs);
        let credentials = Arc::new(new_credentials(&config, identity, password, port));
        Self {
            config,
            store,
            credentials,
            core,
            keeper: Some(keeper),
            connections: BTreeMap::new(),
            tasks: JoinSet::new(),
            admission: Admission::default(),
            subscribers: Vec::new(),
            reachable: BTreeMap::new(),
            resolved: BTreeMap::new(),
            known,
            addresses,
            listening,
            warnings: Warnings::default(),
            outputs,
            counters: MeshCounters::default(),
            traffic: Arc::default(),
        }
    }

    async fn run(mut self, mut inputs: Inputs, warnings: Warnings) {
        self.warnings = warnings;
        let mut address_check = tokio::time::interval(ADDRESS_CHECK);
        let stopped = loop {
            self.act().await;
            let timeout = self.core.poll_timeout();
            let wake = async {
                match timeout {
                    Some((at, _)) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                command = inputs.commands.recv() => match command {
                    Some(Command::Stop(reply)) => break Some(reply),
                    Some(command) => self.on_command(command),
                    None => break None,
                },
                Some((conn, report)) = inputs.reports.recv() => self.on_report(conn, report),
                Some(heard) = inputs.heard.recv() => self.on_heard(heard),
                Some((source, targets)) = inputs.resolved.recv() => {
                    self.core.handle_targets(&source, targets.clone(), Instant::now());
                    self.resolved.insert(source, targets);
                }
                Ok(()) = inputs.unkept.changed() => {
                    let unkept = inputs.unkept.borrow_and_update().clone();
                    let warning = unkept.map(|error| format!("known peers are not kept: {error}"));
                    self.warnings.set("disk", warning);
                }
                _ = address_check.tick() => self.check_addresses(),
                Some(_) = self.tasks.join_next() => {}
                () = wake => self.core.handle_timeout(Instant::now()),
            }
        };
        // What was published before it was stopped is to be said.
        while let Ok(command) = inputs.commands.try_recv() {
            self.on_command(command);
        }
        self.stop(inputs, stopped).await;
    }

    fn on_command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Publish(key, value) => {
                if let Err(error) = self.core.publish(key, value, now) {
                    tracing::error!(%error, "a record was not published");
                }
            }
            Command::Send(to, kind, payload) => {
                if let Err(error) = self.core.send(to, kind, payload, now) {
                    tracing::debug!(%error, "a message was not sent");
                }
            }
            Command::Targets(source, targets) => {
                self.outputs.told.send_modify(|told| {
                    told.insert(source, targets);
                });
            }
            Command::Forget(peer) => self.core.forget(peer, now),
            Command::Subscribe(events) => self.subscribe(events),
            // Who asked may have gone.
            Command::Status(reply) => drop(reply.send(self.status())),
            Command::TunnelKeys(reply) => drop(reply.send(self.credentials.tunnel_keys())),
            Command::Stop(reply) => drop(reply.send(())),
        }
    }

    fn subscribe(&mut self, events: mpsc::UnboundedSender<MeshEvent>) {
        let own = self.credentials.identity.id();
        let records = self.core.records().filter(|(owner, ..)| *owner != own);
        let records = records.map(|(owner, key, value)| MeshEvent::Record {
            owner,
            key: key.clone(),
            value: Some(value.clone()),
        });
        let reachable = self.reachable.iter().map(|(peer, address)| {
            let (peer, address) = (*peer, *address);
            MeshEvent::Reachable { peer, address }
        });
        for event in records.chain(reachable) {
            // A subscriber that has gone is noticed at the next event.
            let _ = events.send(event);
        }
        self.subscribers.push(events);
    }

    fn status(&self) -> MeshStatus {
        let mut status = self.core.status(Instant::now());
        status.listening = self.listening.clone();
        status.password = self.config.password.is_some();
        status.counters = self.traffic.complete(self.counters);
        status.warnings.extend(self.warnings.0.values().cloned());
        if let Err(reason) = &self.listening {
            status.warnings.push(format!("{reason}; trying again"));
        }
        status
    }

    fn on_heard(&mut self, heard: Heard) {
        match heard {
            Heard::Listening(listening) => {
                if listening != self.listening {
                    tracing::info!(?listening, "the listener has changed");
                }
                self.listening = listening;
            }
            Heard::Accepted(stream, remote) => self.accept(stream, remote),
        }
    }

    fn accept(&mut self, stream: TcpStream, remote: SocketAddr) {
        if !self.admission.begin(remote.ip(), Instant::now()) {
            tracing::debug!(%remote, "too many or failing handshakes from there");
            return;
        }
        let conn = self.core.accept();
        let (queue, outbox) = connection::queue(&self.traffic);
        let credentials = Arc::clone(&self.credentials);
        let reports = self.outputs.reports.clone();
        let role = Role::Responder;
        let run = connection::run(conn, stream, remote, role, credentials, outbox, reports);
        self.spawn(conn, queue, Some(remote.ip()), run);
    }

    fn dial(&mut self, conn: ConnId, address: SocketAddr) {
        let (queue, outbox) = connection::queue(&self.traffic);
        let credentials = Arc::clone(&self.credentials);
        let dial = connection::dial(
            conn,
            address,
            credentials,
            outbox,
            self.outputs.reports.clone(),
        );
        self.spawn(conn, queue, None, dial);
    }

    fn spawn(
        &mut self,
        conn: ConnId,
        queue: Queue,
        half_open: Option<IpAddr>,
        run: impl Future<Output = ()> + Send + 'static,
    ) {
        let connection = Connection {
            queue,
            task: self.tasks.spawn(run),
            half_open,
            near: None,
            peer: None,
        };
        self.connections.insert(conn, connection);
    }

    fn on_report(&mut self, conn: ConnId, report: Report) {
        let now = Instant::now();
        let Some(connection) = self.connections.get_mut(&conn) else {
            return;
        };
        match report {
            Report::Established(session) => {
                if let Some(source) = connection.half_open.take() {
                    self.admission.end(source, false, now);
                }
                connection.near = Some(session.local.ip());
                // One with this peer itself is over at once.
                if session.peer != self.credentials.identity.id() {
                    let peer = session.peer.called(&session.nickname);
                    tracing::info!(peer, remote = %session.remote, "session");
                    connection.peer = Some(peer);
                    self.counters.sessions += 1;
                }
                self.core.handle_session(conn, session, now);
                self.check_addresses();
            }
            Report::Failed {
                remote,
                error,
                suspect,
            } => {
                let source = connection.half_open.take();
                self.connections.remove(&conn);
                if let Some(source) = source {
                    self.admission.end(source, suspect, now);
                }
                // Whoever tries a port leaves no trace in the status; a peer with another
                // password does.
                if source.is_none() || matches!(error, DialError::Password(_)) {
                    tracing::debug!(%remote, %error, "no session");
                    self.core.handle_dial_failed(conn, remote, error, now);
                }
            }
            Report::CaughtUp => self.core.handle_caught_up(conn),
            Report::Message(message) => self.core.handle_message(conn, message, now),
            Report::Closed(reason) => {
                if let Some(connection) = self.connections.remove(&conn) {
                    self.note_end(&connection, &reason);
                }
                self.core.handle_closed(conn, &reason, now);
            }
        }
    }

    /// Does what the core wants done.
    async fn act(&mut self) {
        while let Some(action) = self.core.poll_action(Instant::now()) {
            match action {
                Action::Dial { conn, address } => self.dial(conn, address),
                Action::Send { conn, message } => self.send(conn, &message),
                Action::Close { conn, reason } => self.close(conn, &reason),
                Action::Event(event) => self.tell(event),
                Action::Persist { peers, epoch } => {
                    self.known.clone_from(&peers);
                    if let Some(keeper) = &self.keeper {
                        keeper.keep(peers, epoch);
                    }
                }
                Action::Cloned { evidence } => self.become_another(&evidence).await,
            }
        }
    }

    fn send(&mut self, conn: ConnId, message: &Message) {
        let Some(connection) = self.connections.get(&conn) else {
            return;
        };
        if connection.queue.push(message).is_ok() {
            return;
        }
        connection.task.abort();
        let reason = "the other side does not read what it is sent";
        if let Some(connection) = self.connections.remove(&conn) {
            self.note_end(&connection, reason);
        }
        self.core.handle_closed(conn, reason, Instant::now());
    }

    fn close(&mut self, conn: ConnId, reason: &str) {
        let Some(connection) = self.connections.remove(&conn) else {
            return;
        };
        self.note_end(&connection, reason);
        if let Some(source) = connection.half_open {
            self.admission.end(source, false, Instant::now());
        }
        // A session sends what is queued and ends; anything else just ends.
        if connection.near.is_none() {
            connection.task.abort();
            return;
        }
        drop(connection.queue);
        tokio::spawn(async move {
            tokio::time::sleep(CLOSE_TIMEOUT * 2).await;
            connection.task.abort();
        });
    }

    fn note_end(&mut self, connection: &Connection, reason: &str) {
        if let Some(peer) = &connection.peer {
            tracing::info!(peer, reason, "session closed");
            self.counters.terminations += 1;
        }
    }

    fn tell(&mut self, event: MeshEvent) {
        match &event {
            MeshEvent::Reachable { peer, address } => {
                self.reachable.insert(*peer, *address);
            }
            MeshEvent::Unreachable { peer } | MeshEvent::Forgotten { peer } => {
                self.reachable.remove(peer);
            }
            MeshEvent::Record { .. } | MeshEvent::Message { .. } => {}
        }
        self.subscribers
            .retain(|subscriber| subscriber.send(event.clone()).is_ok());
    }

    fn check_addresses(&mut self) {
        let port = self.credentials.details.port;
        let near = self.connections.values().filter_map(|c| c.near).collect();
        let addresses = own_addresses(&self.config, port, near);
        if addresses != self.addresses {
            self.addresses.clone_from(&addresses);
            self.core.handle_addresses(addresses, Instant::now());
        }
    }

    /// Another machine has this key and keeps it. The records of this peer move to the new one, but
    /// for those that are true of the old one alone.
    async fn become_another(&mut self, evidence: &str) {
        let own = self.credentials.identity.id();
        let (mut published, mut theirs) = (Vec::new(), Vec::new());
        for (owner, key, value) in self.core.records() {
            if owner != own {
                theirs.push((owner, key.clone()));
            } else if !of_identity(key.kind) {
                published.push((key.clone(), value.clone()));
            }
        }
        let (keeper, store) = (self.keeper.take(), self.store.clone());
        let regenerate = move || {
            keeper.into_iter().for_each(Keeper::finish);
            Identity::regenerate(store.as_ref())
        };
        let made = tokio::task::spawn_blocking(regenerate).await;
        let (identity, warning) = made.unwrap_or_else(|_| (Identity::generate(), None));
        self.warnings.set("identity", warning);
        let warning = format!(
            "another machine had the same identity {} ({evidence}), as clones do: this one is now {}",
            own.short(),
            identity.id().short()
        );
        self.warnings.set("clone", Some(warning));
        self.rebuild(identity, published, theirs);
    }

    fn rebuild(
        &mut self,
        identity: Identity,
        published: Vec<(Key, Bytes)>,
        theirs: Vec<(PeerId, Key)>,
    ) {
        for (_, connection) in std::mem::take(&mut self.connections) {
            if let Some(source) = connection.half_open {
                self.admission.end(source, false, Instant::now());
            }
            connection.task.abort();
        }
        for (owner, key) in theirs {
            let value = None;
            self.tell(MeshEvent::Record { owner, key, value });
        }
        for peer in std::mem::take(&mut self.reachable).into_keys() {
            self.tell(MeshEvent::Unreachable { peer });
        }
        let now = Instant::now();
        self.keeper = Some(new_keeper(self.store.as_ref(), &identity, &self.outputs));
        let (addresses, known) = (self.addresses.clone(), self.known.clone());
        self.core = new_core(&self.config, &identity, addresses, known);
        for (source, targets) in &self.resolved {
            self.core.handle_targets(source, targets.clone(), now);
        }
        for (key, value) in published {
            if let Err(error) = self.core.publish(key, Some(value), now) {
                tracing::error!(%error, "a record was not published");
            }
        }
        self.outputs.id.send_replace(identity.id());
        let (password, port) = (&self.credentials.password, self.credentials.details.port);
        let credentials = new_credentials(&self.config, identity, password.clone(), port);
        self.credentials = Arc::new(credentials);
    }

    async fn stop(mut self, mut inputs: Inputs, reply: Option<oneshot::Sender<()>>) {
        self.act().await;
        self.core.shutdown(Instant::now());
        self.act().await;
        let sessions: Vec<_> = self.connections.keys().copied().collect();
        for conn in sessions {
            self.close(conn, "stopping");
        }
        let keeper = self.keeper.take();
        let keep = tokio::task::spawn_blocking(|| keeper.into_iter().for_each(Keeper::finish));
        let goodbyes = async {
            loop {
                tokio::select! {
                    ended = self.tasks.join_next() => if ended.is_none() { break },
                    // A connection that cannot report would end before it has said goodbye.
                    Some(_) = inputs.reports.recv() => {}
                }
            }
        };
        // What takes longer is cut off: the peers notice that as well.
        let _ = tokio::time::timeout(STOP_TIMEOUT, goodbyes).await;
        self.tasks.shutdown().await;
        // Fails only when the runtime ends.
        let _ = keep.await;
        if let Some(reply) = reply {
            // Who asked may have gone.
            let _ = reply.send(());
        }
    }
}

/// Whether records of this kind say what only a peer of that identity may say: who it is, and what
/// it owns.
fn of_identity(kind: Kind) -> bool {
    [Kind::PEER, Kind::LINK, Kind::RING].contains(&kind)
}

fn new_core(
    config: &MeshConfig,
    identity: &Identity,
    addresses: Vec<SocketAddr>,
    known: Vec<KnownPeer>,
) -> Core {
    let config = CoreConfig {
        id: identity.id(),
        public_key: *identity.public_key(),
        epoch: identity.epoch(),
        instance: identity.instance(),
        nickname: config.nickname.clone(),
        version: config.version.clone(),
        addresses,
        discovery: config.discovery,
        conn_limit: config.conn_limit,
        forget_after: FORGET_AFTER,
        known,
    };
    Core::new(
        config,
        ChaCha8Rng::from_seed(rand::random()),
        Instant::now(),
    )
}

fn new_keeper(store: Option<&Store>, identity: &Identity, outputs: &Outputs) -> Keeper {
    let unkept = outputs.unkept.clone();
    Keeper::new(store.cloned(), identity.clone(), move |failure| {
        unkept.send_replace(failure);
    })
}

fn new_credentials(
    config: &MeshConfig,
    identity: Identity,
    password: Option<StretchedPassword>,
    port: u16,
) -> Credentials {
    let details = Details {
        nickname: config.nickname.clone(),
        version: config.version.clone(),
        instance: identity.instance(),
        epoch: identity.epoch(),
        port,
        features: 0,
    };
    Credentials {
        identity,
        password,
        details,
    }
}

/// Where others can reach this peer: as it was told, else where it listens, else this host's
/// addresses in its sessions and towards the world. The loopback addresses only count as told.
fn own_addresses(config: &MeshConfig, port: u16, near: BTreeSet<IpAddr>) -> Vec<SocketAddr> {
    let found = || {
        let mut found = listener::default_sources();
        found.extend(near);
        found.retain(|ip| !ip.is_loopback() && !ip.is_unspecified());
        found
    };
    let ips = match config.bind {
        _ if !config.advertise.is_empty() => config.advertise.clone(),
        Some(bind) if !bind.is_unspecified() => vec![bind],
        _ => found(),
    };
    let mut addresses = Vec::new();
    for ip in ips {
        let address = SocketAddr::new(ip, port);
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;
    use crate::mesh::Mesh;
    use crate::mesh::handshake::Handshake;

    fn config(targets: Vec<String>) -> MeshConfig {
        MeshConfig {
            bind: Some(Ipv4Addr::LOCALHOST.into()),
            port: 0,
            targets: vec![("settings".to_owned(), targets)],
            ..MeshConfig::default()
        }
    }

    /// A session of a peer that then does nothing more.
    async fn mute_session(address: SocketAddr) -> (TcpStream, PeerId) {
        let identity = Identity::generate();
        let id = identity.id();
        let credentials = new_credentials(&config(Vec::new()), identity, None, 0);
        let mut handshake = Handshake::new(Role::Initiator, Arc::new(credentials));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut buffer = [0; 1024];
        loop {
            if let Some(bytes) = handshake.poll_transmit() {
                stream.write_all(&bytes).await.unwrap();
            }
            if handshake.is_done() {
                return (stream, id);
            }
            let len = stream.read(&mut buffer).await.unwrap();
            handshake.handle_bytes(&buffer[..len]).unwrap();
        }
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_closed_and_harms_nobody() {
        let one = Mesh::start(config(Vec::new()), None).await;
        let address = one.status().await.unwrap().listening.unwrap();
        let two = Mesh::start(config(vec![address.to_string()]), None).await;
        let mut at_one = one.subscribe();
        let (_stuck, stuck) = mute_session(address).await;
        let mut events = Vec::new();
        while !events.contains(&two.id()) || !events.contains(&stuck) {
            if let Some(MeshEvent::Reachable { peer, .. }) = at_one.recv().await {
                events.push(peer);
            }
        }
        let records = 800_u32;
        let value = Bytes::from(vec![7; 32 * 1024]);
        let mut at_two = two.subscribe();
        for number in 0..records {
            let key = Key::new(Kind::NAME, number.to_be_bytes().to_vec());
            one.publish(key, Some(value.clone())).unwrap();
        }
        let arrive = async {
            let mut arrived = BTreeSet::new();
            while arrived.len() < records as usize {
                if let Some(MeshEvent::Record { key, .. }) = at_two.recv().await
                    && key.kind == Kind::NAME
                {
                    arrived.insert(key);
                }
            }
        };
        timeout(Duration::from_secs(60), arrive).await.unwrap();
        let end = async {
            let closed = MeshEvent::Unreachable { peer: stuck };
            while at_one.recv().await != Some(closed.clone()) {}
        };
        timeout(Duration::from_secs(60), end).await.unwrap();
    }

    #[test]
    fn addresses_are_as_told_or_as_found() {
        let near = || BTreeSet::from([IpAddr::from([10, 1, 2, 3]), IpAddr::from([127, 0, 0, 1])]);
        let told = MeshConfig {
            advertise: vec![[192, 0, 2, 9].into()],
            ..config(Vec::new())
        };
        assert_eq!(
            own_addresses(&told, 1, near()),
            [([192, 0, 2, 9], 1).into()]
        );
        assert_eq!(
            own_addresses(&config(Vec::new()), 1, near()),
            [([127, 0, 0, 1], 1).into()]
        );
        let found = own_addresses(&MeshConfig::default(), 1, near());
        assert!(found.contains(&([10, 1, 2, 3], 1).into()));
        assert!(found.iter().all(|address| !address.ip().is_loopback()));
    }
}
