//! Keeps the tunnel running, tells it of the peers, and chooses the transport for each of them by
//! what the probes find.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;
use tracing::{error, info};

use super::trust;
use crate::control::{Warning, Warnings};
use crate::datapath::transport::{
    Choice, Clearance, Evidence, Transport, TunnelHealth, VxlanHealth,
};
use crate::datapath::tunnel::{Output, PathState, PeerRoute, Tunnel, TunnelConfig};
use crate::datapath::vxlan_probe::{Finding, VxlanProbes};
use crate::datapath::{HybridDatapath, MaybeDatapath, Via, vxlan_filter};
use crate::mesh::{Kind, Mesh, MeshEvent, TunnelKeys};
use crate::network::{Networks, SharedPeers};
use crate::types::PeerId;

/// How often the tunnel is looked after.
const CHECK: Duration = Duration::from_secs(5);

/// How often the mesh is asked for ways around, while a peer does not answer itself.
const LOOK: Duration = Duration::from_secs(2);

/// How long news of the mesh is collected before it is asked.
const SETTLE: Duration = Duration::from_millis(100);

/// How long a peer that has a session with this host may be silent before another passes on what
/// is for it, and how long that one may take until the next is tried.
const RELAY_PATIENCE: Duration = Duration::from_secs(4);

/// Bytes of an Ethernet header.
const ETHERNET: u16 = 14;

/// What the tunnel is told at its start, beyond its keys.
#[derive(Debug, Clone)]
pub(super) struct Config {
    /// The address to listen on; all without it.
    pub(super) address: Option<IpAddr>,
    /// The UDP port of all peers.
    pub(super) port: u16,
    /// The UDP port of VXLAN.
    pub(super) vxlan_port: u16,
    /// Whether a password is set.
    pub(super) encrypt: bool,
    /// The subnets to whose hosts frames may go in the clear although a password is set, if they
    /// trust this host as well.
    pub(super) trusted: Vec<IpNet>,
}

/// Works for ever; does nothing where there is no datapath.
pub(super) async fn run(
    config: Config,
    mesh: Mesh,
    networks: Networks,
    datapath: Arc<MaybeDatapath>,
    warnings: Warnings,
) {
    let Some(datapath) = datapath.present().cloned() else {
        return;
    };
    let (tell, news) = mpsc::unbounded_channel();
    if let Err(error) = mesh.publish(trust::key(), trust::encode(&config.trusted)) {
        error!(%error, "the other peers do not know which subnets this host trusts");
    }
    let (events, shared) = (mesh.subscribe(), networks.shared());
    let keeper = Keeper {
        config,
        mesh,
        networks,
        datapath,
        warnings,
        tell,
        running_as: None,
        probes: None,
        peers: BTreeMap::new(),
        own_addresses: Vec::new(),
        allowed: BTreeSet::new(),
        probed: None,
        check_at: Instant::now(),
        look_at: None,
    };
    keeper.run(events, shared, news).await;
}

/// What the threads of the tunnel and of the probes tell.
enum News {
    Tunnel(Output),
    Vxlan(PeerId, Finding),
}

struct Keeper {
    config: Config,
    mesh: Mesh,
    networks: Networks,
    datapath: HybridDatapath,
    warnings: Warnings,
    tell: mpsc::UnboundedSender<News>,
    /// By which name the running tunnel goes.
    running_as: Option<PeerId>,
    /// Under which name VXLAN is probed.
    probes: Option<(PeerId, VxlanProbes)>,
    peers: BTreeMap<PeerId, Peer>,
    /// Where others find this host.
    own_addresses: Vec<IpAddr>,
    /// Who may send VXLAN to this host although a password is set.
    allowed: BTreeSet<IpAddr>,
    /// Whose ends of VXLAN are probed, and with how many bytes; `None` until the devices are known
    /// to be made for that.
    probed: Option<BTreeMap<PeerId, (IpAddr, u16)>>,
    check_at: Instant,
    look_at: Option<Instant>,
}

struct Peer {
    nickname: String,
    address: Option<IpAddr>,
    reached_since: Option<Instant>,
    /// Since when it has taken part in segments of this host.
    shared_since: Option<Instant>,
    /// Whether others want packets passed on to it.
    passed_on: bool,
    /// Who is connected with it, and the next on the mesh's way to it.
    links: BTreeSet<PeerId>,
    /// The subnets that it trusts.
    trusted: Vec<IpNet>,
    next_hop: Option<PeerId>,
    path: PathState,
    silent_since: Instant,
    relay: Option<(PeerId, Instant)>,
    /// What the tunnel was told.
    route: Option<PeerRoute>,
    /// Whether the tunnel must be told although nothing changed.
    tell_again: bool,
    finding: Finding,
    transport: Transport,
}

impl Keeper {
    async fn run(
        mut self,
        mut events: mpsc::UnboundedReceiver<MeshEvent>,
        mut shared: watch::Receiver<SharedPeers>,
        mut news: mpsc::UnboundedReceiver<News>,
    ) {
        loop {
            let now = Instant::now();
            let sleep = tokio::time::sleep_until(self.deadline(now).into());
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return };
                    self.handle_mesh_event(event);
                    while let Ok(event) = events.try_recv() {
                        self.handle_mesh_event(event);
                    }
                }
                told = news.recv() => {
                    self.handle_news(told);
                    while let Ok(told) = news.try_recv() {
                        self.handle_news(Some(told));
                    }
                }
                changed = shared.changed() => if changed.is_err() { return },
                () = sleep => {}
            }
            let now = Instant::now();
            if self.check_at <= now {
                self.check_at = now + CHECK;
                self.look_after_tunnel().await;
            }
            if self.look_at.is_some_and(|at| at <= now) {
                self.look_at = None;
                self.look_at_mesh().await;
            }
            let of_networks = shared.borrow_and_update().clone();
            self.set_routes(&of_networks, now);
            self.set_probed(&of_networks).await;
            self.choose(now).await;
        }
    }

    fn deadline(&self, now: Instant) -> Instant {
        let peers = self.peers.values();
        let transports = peers.filter_map(|peer| {
            let evidence = self.evidence(peer)?;
            let (at, _) = peer.transport.poll_timeout(&evidence)?;
            // What is over has been looked at.
            (at > now).then_some(at)
        });
        let own = [Some(self.check_at), self.look_at].into_iter().flatten();
        transports.chain(own).min().unwrap_or(self.check_at)
    }

    fn handle_mesh_event(&mut self, event: MeshEvent) {
        let now = Instant::now();
        match event {
            MeshEvent::Reachable { peer, address } => {
                let known = self
                    .peers
                    .entry(peer)
                    .or_insert_with(|| Peer::new(peer, now));
                known.reached_since.get_or_insert(now);
                if address.is_some() && known.address != address {
                    known.address = address;
                    // What was found out of another address says nothing of this one.
                    known.reached_since = Some(now);
                }
                known.tell_again = true;
                if let Some(probed) = &mut self.probed {
                    probed.remove(&peer);
                }
                self.look_soon(now);
            }
            MeshEvent::Unreachable { peer } => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.reached_since = None;
                    known.passed_on = false;
                }
                self.look_soon(now);
            }
            MeshEvent::Forgotten { peer } => {
                self.peers.remove(&peer);
                self.datapath.remove_peer(peer);
            }
            MeshEvent::Message {
                from,
                kind: Kind::TUNNEL,
                payload,
            } => self.datapath.handle_mesh_message(from, payload),
            MeshEvent::Record { owner, key, value } if key == trust::key() => {
                let known = self
                    .peers
                    .entry(owner)
                    .or_insert_with(|| Peer::new(owner, now));
                known.trusted = value.as_deref().map(trust::decode).unwrap_or_default();
            }
            MeshEvent::Message { .. } | MeshEvent::Record { .. } => {}
        }
    }

    fn handle_news(&mut self, news: Option<News>) {
        let now = Instant::now();
        match news {
            Some(News::Tunnel(Output::Message(to, payload))) => {
                if let Err(error) = self.mesh.send(to, Kind::TUNNEL, payload) {
                    error!(%error, "a handshake of the tunnel is not sent");
                }
            }
            Some(News::Tunnel(Output::Path(peer, path))) => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    if path == PathState::Down {
                        known.silent_since = now;
                    }
                    known.path = path;
                    self.look_soon(now);
                }
            }
            Some(News::Tunnel(Output::Unrouted(peer))) => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.passed_on = known.reached_since.is_some();
                }
            }
            Some(News::Vxlan(peer, finding)) => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.finding = finding;
                }
            }
            None => {}
        }
    }

    fn look_soon(&mut self, now: Instant) {
        let soon = now + SETTLE;
        self.look_at = Some(self.look_at.map_or(soon, |at| at.min(soon)));
    }

    /// Starts the tunnel if there is none, if its threads ended, or if this peer has another name
    /// now.
    async fn look_after_tunnel(&mut self) {
        let dead = self.datapath.dead_threads();
        let own = self.mesh.id();
        if self.running_as == Some(own) && dead.is_empty() {
            return;
        }
        if !dead.is_empty() {
            error!(threads = dead.join(", "), "the tunnel is started again");
        }
        self.running_as = None;
        let Some(keys) = self.mesh.tunnel_keys().await else {
            return;
        };
        let name = keys.peer;
        match self.start_tunnel(keys).await {
            Ok(()) => {
                self.running_as = Some(name);
                self.warnings.clear("tunnel");
            }
            Err(problem) => {
                let remedy = "end the other program, or give all hosts another port (WEAVE_PORT)";
                self.warnings.set("tunnel", Warning::new(problem, remedy));
            }
        }
        self.start_probes(name);
    }

    async fn start_tunnel(&mut self, keys: TunnelKeys) -> Result<(), String> {
        let config = TunnelConfig {
            peer: keys.peer,
            static_key: keys.static_key,
            password_key: keys.password_key,
            address: self.config.address,
            port: self.config.port,
            seed: rand::random(),
        };
        let tell = self.tell.clone();
        let datapath = self.datapath.clone();
        let started = spawn_blocking(move || {
            datapath.end_tunnel();
            let output = move |output| {
                // Fails when the daemon stops.
                let _ = tell.send(News::Tunnel(output));
            };
            Tunnel::start(config, output)
        });
        let tunnel = started.await.map_err(|error| error.to_string())?;
        let tunnel = tunnel.map_err(|error| error.to_string())?;
        for peer in self.peers.values_mut() {
            peer.path = PathState::Down;
        }
        self.datapath.set_tunnel(tunnel);
        Ok(())
    }

    fn start_probes(&mut self, me: PeerId) {
        let never = self.config.encrypt && self.config.trusted.is_empty();
        if never || self.probes.as_ref().is_some_and(|(name, _)| *name == me) {
            return;
        }
        self.probes = None;
        let tell = self.tell.clone();
        let output = move |peer, finding| {
            let _ = tell.send(News::Vxlan(peer, finding));
        };
        let wire = self.datapath.kernel().probe_wire(me);
        let started = wire
            .map_err(|error| error.to_string())
            .and_then(|wire| VxlanProbes::start(wire, output).map_err(|error| error.to_string()));
        match started {
            Ok(probes) => {
                self.probes = Some((me, probes));
                self.probed = None;
            }
            Err(error) => error!(error, "nobody finds out whether VXLAN gets through"),
        }
    }

    /// Asks the mesh who is connected with whom.
    async fn look_at_mesh(&mut self) {
        let Some(status) = self.mesh.status().await else {
            return;
        };
        for peer in status.peers {
            if peer.id == status.id {
                self.own_addresses = peer.addresses.iter().map(SocketAddr::ip).collect();
            }
            if let Some(known) = self.peers.get_mut(&peer.id) {
                known.nickname = peer.nickname;
                known.next_hop = peer.via;
                known.links = peer.links.into_iter().collect();
            }
        }
    }

    /// Tells the tunnel of the peers that it should have sessions with, and how they are reached.
    fn set_routes(&mut self, shared: &SharedPeers, now: Instant) {
        let mut relays = BTreeMap::new();
        for (id, peer) in &self.peers {
            let wanted = shared.contains_key(id) || peer.passed_on;
            if wanted && let Some(relay) = self.relay(*id, peer, now) {
                relays.insert(*id, relay);
            }
        }
        let passing: BTreeSet<_> = relays.values().map(|(relay, _)| *relay).collect();
        let mut looking = false;
        for (id, peer) in &mut self.peers {
            let shares = shared.contains_key(id);
            match shares {
                true => peer.shared_since = peer.shared_since.or(Some(now)),
                false => peer.shared_since = None,
            }
            if !(shares || peer.passed_on || passing.contains(id)) {
                if peer.route.take().is_some() {
                    self.datapath.remove_peer(*id);
                    peer.path = PathState::Down;
                    peer.silent_since = now;
                    peer.transport = Transport::new(*id);
                }
                continue;
            }
            if peer.route.is_none() {
                peer.silent_since = now;
            }
            let direct = matches!(peer.path, PathState::Direct { .. });
            looking |= !direct && peer.reached_since.is_some();
            peer.relay = relays.get(id).copied();
            let route = PeerRoute {
                endpoint: peer
                    .address
                    .map(|address| SocketAddr::new(address, self.config.port)),
                relay: peer.relay.map(|(relay, _)| relay),
            };
            if peer.route != Some(route) || std::mem::take(&mut peer.tell_again) {
                peer.route = Some(route);
                self.datapath.set_peer(*id, route);
            }
        }
        if looking {
            self.look_at.get_or_insert(now + LOOK);
        }
    }

    /// Who passes on what is for a peer that does not answer itself, and since when.
    fn relay(&self, id: PeerId, peer: &Peer, now: Instant) -> Option<(PeerId, Instant)> {
        let silent = peer.route.is_some()
            && now.saturating_duration_since(peer.silent_since) >= RELAY_PATIENCE;
        let near = peer.next_hop == Some(id);
        match peer.path {
            PathState::Direct { .. } => return None,
            PathState::Relayed { via, .. } if peer.relay.is_some_and(|(relay, _)| relay == via) => {
                return peer.relay;
            }
            // It is connected with us, so it should answer in a moment.
            _ if near && !silent => return None,
            _ => {}
        }
        peer.reached_since?;
        let candidates = self.candidates(id, peer);
        let tried = peer.relay.and_then(|(relay, since)| {
            let at = candidates.iter().position(|candidate| *candidate == relay);
            Some((at?, since))
        });
        let (at, since) = match tried {
            None => (0, now),
            Some((at, since)) if now.saturating_duration_since(since) < RELAY_PATIENCE => {
                (at, since)
            }
            Some((at, _)) => ((at + 1) % candidates.len(), now),
        };
        candidates.get(at).map(|relay| (*relay, since))
    }

    /// Who may pass on what is for a peer: the next on the mesh's way, then who is connected with
    /// both, then whoever answers us. These may have found a way around themselves, which the mesh
    /// does not know where its own connection stays up.
    fn candidates(&self, id: PeerId, peer: &Peer) -> Vec<PeerId> {
        let hop = peer.next_hop.filter(|hop| *hop != id);
        let near = |link: &PeerId| {
            let known = self.peers.get(link);
            known.is_some_and(|known| known.next_hop == Some(*link))
        };
        let between = peer.links.iter().copied().filter(near);
        let answers = |known: &Peer| matches!(known.path, PathState::Direct { .. });
        let answering = self.peers.iter().filter(|(_, known)| answers(known));
        let answering = answering.map(|(known, _)| *known).filter(near);
        let all = hop.into_iter().chain(between).chain(answering);
        let mut seen = BTreeSet::from([id]);
        all.filter(|candidate| seen.insert(*candidate)).collect()
    }

    /// Lets VXLAN be probed to the peers whose frames it may carry.
    async fn set_probed(&mut self, shared: &SharedPeers) {
        let mut wanted: BTreeMap<_, _> = shared
            .iter()
            .filter(|_| self.probes.is_some())
            .filter_map(|(id, mtu)| {
                let peer = self.peers.get(id)?;
                let address = peer.address.filter(|_| self.clearance(peer).allows())?;
                Some((*id, (address, mtu.saturating_add(ETHERNET))))
            })
            .collect();
        if self.probed.as_ref() == Some(&wanted) {
            return;
        }
        if self.config.encrypt {
            let allowed = wanted.values().map(|(address, _)| *address).collect();
            if !self.allow(allowed).await {
                wanted.clear();
            }
        }
        let addresses = wanted.iter().map(|(id, (address, _))| (*id, *address));
        let made = self.datapath.kernel().set_probed(addresses.collect()).await;
        match made {
            Ok(()) => self.warnings.clear("vxlan"),
            Err(problem) => {
                let remedy = "load the kernel's vxlan module; until then the tunnel is used";
                let warning = Warning::new(problem.to_string(), remedy);
                self.warnings.set("vxlan", warning);
                // Tried again with the next event.
                self.probed = None;
                return;
            }
        }
        let before = self.probed.replace(wanted.clone()).unwrap_or_default();
        let Some((_, probes)) = &self.probes else {
            return;
        };
        for id in before.keys().filter(|id| !wanted.contains_key(id)) {
            probes.remove_peer(*id);
            if let Some(peer) = self.peers.get_mut(id) {
                peer.finding = Finding::default();
            }
        }
        for (id, way) in &wanted {
            if before.get(id) != Some(way) {
                probes.set_peer(*id, way.1);
            }
        }
    }

    /// Lets VXLAN in from these addresses alone; returns whether it is so.
    async fn allow(&mut self, addresses: BTreeSet<IpAddr>) -> bool {
        if self.allowed == addresses {
            return true;
        }
        let (port, wanted) = (self.config.vxlan_port, addresses.clone());
        let set = spawn_blocking(move || vxlan_filter::allow(port, &wanted)).await;
        match set {
            Ok(Ok(())) => {
                self.allowed = addresses;
                true
            }
            Ok(Err(problem)) => {
                error!(%problem, "the filter of VXLAN is not changed");
                false
            }
            Err(_) => false,
        }
    }

    fn clearance(&self, peer: &Peer) -> Clearance {
        let any = |subnets: &[IpNet], address: IpAddr| {
            subnets.iter().any(|subnet| subnet.contains(&address))
        };
        let we_trust = peer.address.is_some_and(|to| any(&self.config.trusted, to));
        let mut own = self.own_addresses.iter();
        let they_trust = own.any(|address| any(&peer.trusted, *address));
        Clearance::of(self.config.encrypt, we_trust, they_trust)
    }

    /// Tells the networks whose transport is another now.
    async fn choose(&mut self, now: Instant) {
        let mut chosen = Vec::new();
        for (id, peer) in &self.peers {
            chosen.extend(self.evidence(peer).map(|evidence| (*id, evidence)));
        }
        for (id, evidence) in chosen {
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            if let Some(choice) = peer.transport.handle_evidence(&evidence, now) {
                log(id, peer, choice);
                self.networks.transport(id, choice).await;
            }
        }
    }

    /// What the choice for a peer depends on; nothing where there is nothing to choose.
    fn evidence(&self, peer: &Peer) -> Option<Evidence> {
        let shared_since = peer.shared_since?;
        // Where nobody probes VXLAN, it stays what it was.
        if !self.config.encrypt && self.probes.is_none() {
            return None;
        }
        Some(Evidence {
            reached_since: peer.reached_since.map(|since| since.max(shared_since)),
            clearance: self.clearance(peer),
            vxlan: VxlanHealth {
                address: peer.address,
                answered_since: peer.finding.answered_since,
                full_size: peer.finding.full_size,
            },
            tunnel: match peer.path {
                PathState::Down => TunnelHealth::Down,
                PathState::Direct { .. } => TunnelHealth::Direct,
                PathState::Relayed { via, .. } => TunnelHealth::Relayed(via),
            },
        })
    }
}

impl Peer {
    fn new(id: PeerId, now: Instant) -> Self {
        Self {
            nickname: String::new(),
            address: None,
            reached_since: None,
            shared_since: None,
            passed_on: false,
            links: BTreeSet::new(),
            trusted: Vec::new(),
            next_hop: None,
            path: PathState::Down,
            silent_since: now,
            relay: None,
            route: None,
            tell_again: false,
            finding: Finding::default(),
            transport: Transport::new(id),
        }
    }
}

fn log(id: PeerId, peer: &Peer, choice: Choice) {
    let name = id.called(&peer.nickname);
    let transport = match choice.via {
        Via::Vxlan(_) => "vxlan",
        Via::Tunnel(_) => "tunnel",
    };
    info!(peer = name, transport, reason = %choice.reason, "transport chosen");
}
