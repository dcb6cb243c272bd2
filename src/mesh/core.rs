//! The mesh as a pure state machine: what comes in goes through `handle_*`, what goes out comes
//! from `poll_*`, time is handed in.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use thiserror::Error;

use super::connector::{Connector, Hint};
use super::message::{Goodbye, MAX_KEY_ID, MAX_VALUE, Message, Position, Routed};
use super::records::{LinkInfo, PeerInfo};
use super::replica::Replica;
use super::topology::Topology;
use super::{Key, Kind, MeshEvent};
use crate::types::PeerId;

/// The time between two heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A session on which nothing has come for so long is dead.
const SILENCE: Duration = Duration::from_secs(4);

/// How long a session may take to prove that it is alive once another with the same peer exists.
const PROBE: Duration = Duration::from_secs(1);

/// How long new connections are collected before they are told to all.
const LINKS_WAIT: Duration = Duration::from_millis(50);

/// How long a session must have lasted for its end to be an accident, not a habit.
const LASTED: Duration = Duration::from_secs(5);

/// The time between two rounds of housekeeping.
const TIDY: Duration = Duration::from_secs(5);

/// How many rounds of housekeeping lie between two comparisons with a random neighbour.
const COMPARE_ROUNDS: u64 = 6;

/// How long it is remembered that a peer is gone for good.
const FORGOTTEN_STAYS: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long changes of the peers' addresses are collected before they are written to disk.
const PERSIST_WAIT: Duration = Duration::from_secs(2);

/// The time that finding all ways anew may be put off, for each connection in the mesh: it costs
/// in proportion to them.
const REFRESH_WAIT: Duration = Duration::from_micros(2);

/// How many more times than the way is long a message may be handed on, in case the way changes.
const SPARE_HOPS: u32 = 8;

/// How often others may claim in a minute to be this peer before it gives in: once for a lost
/// database, and once more in case two parts of the mesh remember different lives.
const REBIRTHS: usize = 2;

/// The window in which those claims are counted.
const REBIRTHS_WINDOW: Duration = Duration::from_secs(60);

/// Most warnings kept.
const MAX_WARNINGS: usize = 20;

/// One connection, from the decision to dial or accept it until it is closed. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// What a core is told once, at its start.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// This peer.
    pub id: PeerId,
    /// Its X25519 public key.
    pub public_key: [u8; 32],
    /// How often the daemon has started with this identity: must grow with each start. Less than
    /// 2^31.
    pub epoch: u64,
    /// A number that differs each time the daemon starts, and is greater for a later start: of two
    /// machines with the same key, the later one has to make a new one.
    pub instance: u64,
    /// What it calls itself.
    pub nickname: String,
    /// The version of its daemon.
    pub version: String,
    /// Where other peers can reach it, best first.
    pub addresses: Vec<SocketAddr>,
    /// Whether peers learned of from others are dialled.
    pub discovery: bool,
    /// Most sessions at a time.
    pub conn_limit: usize,
    /// How long a peer may be unreachable before it is taken to be gone for good.
    pub forget_after: Duration,
    /// Peers known from an earlier life.
    pub known: Vec<KnownPeer>,
}

/// A peer and where it may be reached, to be remembered on disk.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct KnownPeer {
    /// Which peer.
    pub id: PeerId,
    /// Its addresses, best first.
    pub addresses: Vec<SocketAddr>,
}

/// Who is at the other end of a connection, as the handshake proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Which peer.
    pub peer: PeerId,
    /// What it calls itself.
    pub nickname: String,
    /// Its X25519 public key.
    pub public_key: [u8; 32],
    /// The number it took at its start.
    pub instance: u64,
    /// The far end of the connection.
    pub remote: SocketAddr,
    /// The near end of the connection.
    pub local: SocketAddr,
    /// The TCP port on which the other side listens.
    pub listen_port: u16,
    /// What both sides can do: the intersection of the features named in the handshake.
    pub features: u64,
}

/// Why a connection did not become a session.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum DialError {
    /// Nobody answers there, or not in time.
    #[error("cannot connect: {0}")]
    Unreachable(String),
    /// The two sides do not have the same password, and what to do about it.
    #[error("{0}")]
    Password(String),
    /// What answers is no peer, or one that cannot be talked to.
    #[error("handshake failed: {0}")]
    Handshake(String),
}

/// A place that the mesh is told to connect to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As it was given: `host[:port]`.
    pub text: String,
    /// What it resolves to, or why it does not.
    pub addresses: Result<Vec<SocketAddr>, String>,
}

/// What the core wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Connect, shake hands and report with `handle_session` or `handle_dial_failed`.
    Dial {
        /// The name of the attempt and of the connection that comes of it.
        conn: ConnId,
        /// Where to.
        address: SocketAddr,
    },
    /// Send on an established session.
    Send {
        /// Which session.
        conn: ConnId,
        /// What to send.
        message: Message,
    },
    /// Send what is queued, then close. Nothing need be reported.
    Close {
        /// Which connection.
        conn: ConnId,
        /// Why, for the log.
        reason: String,
    },
    /// Tell the floors above.
    Event(MeshEvent),
    /// Write to disk.
    Persist {
        /// All peers that may come back, with their addresses.
        peers: Vec<KnownPeer>,
        /// The next start must take a greater epoch than this one.
        epoch: u64,
    },
    /// Another machine has the same key and keeps it: make a new identity and start again.
    Cloned {
        /// Where the other machine was seen, for people.
        evidence: String,
    },
}

/// Why a message cannot be sent.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// There is no way to the peer at present.
    #[error("expected a reachable peer, got {0}, to which there is no way")]
    Unreachable(PeerId),
    /// The payload is too long.
    #[error("expected a payload of at most 32768 bytes, got {0}")]
    TooLong(usize),
}

/// Why a record cannot be published.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PublishError {
    /// The name is too long.
    #[error("expected a record name of at most 255 bytes, got {0}")]
    NameTooLong(usize),
    /// The value is too long.
    #[error("expected a record value of at most 32768 bytes, got {0}")]
    ValueTooLong(usize),
}

/// One session and what is known of the news at its other end.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) session: Session,
    pub(super) dialled: Option<SocketAddr>,
    pub(super) since: Instant,
    pub(super) heard: Instant,
    pub(super) rtt: Option<Duration>,
    pub(super) wake: Instant,
    pub(super) ping: Option<(u64, Instant)>,
    pub(super) probe: Option<(u64, Instant)>,
    pub(super) was_reachable: bool,
    pub(super) synced: bool,
    pub(super) views: BTreeMap<PeerId, View>,
    pub(super) lazy: BTreeSet<PeerId>,
}

/// What a neighbour knows of one owner.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct View {
    pub(super) known: Position,
    /// Whether it gets its news of the owner from here.
    pub(super) eager: bool,
}

impl Link {
    /// Where the neighbour listens, as far as one can tell from here.
    fn address(&self) -> SocketAddr {
        let seen = SocketAddr::new(self.session.remote.ip(), self.session.listen_port);
        self.dialled.unwrap_or(seen)
    }

    fn dialler(&self, own: PeerId) -> PeerId {
        match self.dialled {
            Some(_) => own,
            None => self.session.peer,
        }
    }
}

/// The mesh as one peer sees it.
#[derive(Debug)]
pub struct Core {
    pub(super) config: CoreConfig,
    pub(super) rng: ChaCha8Rng,
    next_conn: u64,
    actions: VecDeque<Action>,
    pub(super) replica: Replica,
    pub(super) topology: Topology,
    pub(super) connector: Connector,
    pub(super) links: BTreeMap<ConnId, Link>,
    /// The session that is used, of each neighbour.
    pub(super) active: BTreeMap<PeerId, ConnId>,
    pub(super) neighbours: BTreeSet<PeerId>,
    wakes: BTreeSet<(Instant, ConnId)>,
    pub(super) infos: BTreeMap<PeerId, PeerInfo>,
    reported: BTreeMap<PeerId, Option<IpAddr>>,
    pub(super) touched: BTreeSet<PeerId>,
    pub(super) unreachable_since: BTreeMap<PeerId, Instant>,
    forgotten_at: BTreeMap<PeerId, Instant>,
    pub(super) changed: BTreeMap<PeerId, Position>,
    pub(super) parents: BTreeMap<PeerId, ConnId>,
    pub(super) asked: BTreeMap<PeerId, (Position, ConnId, Instant)>,
    pub(super) prunes: BTreeMap<ConnId, BTreeSet<PeerId>>,
    pub(super) pass_at: Option<Instant>,
    pub(super) passed: Instant,
    pub(super) lazy_at: Option<Instant>,
    new_links: BTreeSet<PeerId>,
    links_at: Option<Instant>,
    refresh_at: Option<Instant>,
    refreshed: Instant,
    persist_at: Option<Instant>,
    persisted: Vec<KnownPeer>,
    tidy_at: Instant,
    tidied: u64,
    epoch: u64,
    rebirths: VecDeque<Instant>,
    pub(super) warnings: VecDeque<String>,
}

impl Core {
    /// A peer that knows nobody but those of an earlier life.
    pub fn new(config: CoreConfig, mut rng: ChaCha8Rng, now: Instant) -> Self {
        let epoch = epoch_of(config.epoch, config.instance);
        let mut connector_rng = ChaCha8Rng::seed_from_u64(rng.random());
        let mut connector = Connector::new(
            config.id,
            config.discovery,
            ChaCha8Rng::from_rng(&mut connector_rng),
        );
        for known in &config.known {
            for address in &known.addresses {
                connector.learn(known.id, *address, Hint::Advertised, now);
            }
        }
        let mut core = Self {
            next_conn: 0,
            actions: VecDeque::new(),
            replica: Replica::new(config.id, epoch),
            topology: Topology::new(config.id),
            connector,
            links: BTreeMap::new(),
            active: BTreeMap::new(),
            neighbours: BTreeSet::new(),
            wakes: BTreeSet::new(),
            infos: BTreeMap::new(),
            reported: BTreeMap::new(),
            touched: BTreeSet::new(),
            unreachable_since: BTreeMap::new(),
            forgotten_at: BTreeMap::new(),
            changed: BTreeMap::new(),
            parents: BTreeMap::new(),
            asked: BTreeMap::new(),
            prunes: BTreeMap::new(),
            pass_at: None,
            passed: now,
            lazy_at: None,
            new_links: BTreeSet::new(),
            links_at: None,
            refresh_at: None,
            refreshed: now,
            persist_at: None,
            persisted: config.known.clone(),
            tidy_at: now + TIDY,
            tidied: 0,
            epoch,
            rebirths: VecDeque::new(),
            warnings: VecDeque::new(),
            config,
            rng,
        };
        core.publish_info(now);
        core
    }

    /// A name for a connection that somebody else dialled, before its handshake.
    pub fn accept(&mut self) -> ConnId {
        self.next_conn += 1;
        ConnId(self.next_conn)
    }

    /// A connection became a session: both sides are authenticated and know it.
    pub fn handle_session(&mut self, conn: ConnId, session: Session, now: Instant) {
        let dialled = self.connector.answered(conn, session.peer);
        if session.peer == self.config.id {
            self.meet_own(conn, &session, dialled, now);
            return;
        }
        let peer = session.peer;
        if !self.active.contains_key(&peer) && !self.make_room(peer, now) {
            self.refuse(conn, dialled, now);
            return;
        }
        let link = Link {
            dialled,
            since: now,
            heard: now,
            rtt: None,
            wake: now,
            ping: None,
            probe: None,
            was_reachable: self.topology.reaches(peer),
            synced: false,
            views: BTreeMap::new(),
            lazy: BTreeSet::new(),
            session,
        };
        self.wakes.insert((now, conn));
        self.links.insert(conn, link);
        for other in self.conns_of(peer) {
            if other != conn {
                self.probe(other, now);
            }
        }
        self.settle(peer, Some(conn), now);
        if self.links.contains_key(&conn) && dialled.is_some() {
            self.open(conn);
        }
    }

    fn meet_own(
        &mut self,
        conn: ConnId,
        session: &Session,
        dialled: Option<SocketAddr>,
        now: Instant,
    ) {
        if session.instance == self.config.instance {
            if let Some(address) = dialled {
                self.connector.is_own(address);
            }
            self.close(conn, "this is the daemon itself");
            return;
        }
        let evidence = format!("{} has the key of this peer", session.remote);
        if let Some(address) = dialled {
            self.connector.retry(address, evidence.clone(), now);
        }
        if self.config.instance > session.instance {
            self.give_in(evidence);
        } else {
            self.warn(format!("{evidence}; it is told to make a new one"));
            self.send_on(conn, Message::Goodbye(Goodbye::Cloned));
        }
        self.close(conn, "two machines have the same key");
    }

    /// Whether there may be a session with this peer, if need be in place of another.
    fn make_room(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.active.len() < self.config.conn_limit {
            return true;
        }
        let needed = self.connector.is_targeted(peer) || !self.topology.reaches(peer);
        if !needed {
            return false;
        }
        let spare: Vec<_> = self
            .active
            .iter()
            .filter(|(other, _)| self.topology.degree(**other) > 1)
            .filter(|(other, _)| !self.connector.is_targeted(**other))
            .map(|(_, conn)| *conn)
            .collect();
        if spare.is_empty() {
            return false;
        }
        let victim = spare[self.rng.random_range(0..spare.len())];
        let limit = self.config.conn_limit as u32;
        self.send_on(victim, Message::Goodbye(Goodbye::ConnectionLimit { limit }));
        self.close(victim, "another connection is needed more");
        self.drop_link(victim, "another connection was needed more", true, now);
        true
    }

    fn refuse(&mut self, conn: ConnId, dialled: Option<SocketAddr>, now: Instant) {
        let limit = self.config.conn_limit as u32;
        if let Some(address) = dialled {
            let reason = format!("this peer has its limit of {limit} connections");
            self.connector.retry(address, reason, now);
        }
        self.send_on(conn, Message::Goodbye(Goodbye::ConnectionLimit { limit }));
        self.close(conn, "the limit of connections is reached");
    }

    pub(super) fn conns_of(&self, peer: PeerId) -> Vec<ConnId> {
        let all = self.links.iter();
        all.filter(|(_, link)| link.session.peer == peer)
            .map(|(conn, _)| *conn)
            .collect()
    }

    /// Has the session prove that it is alive.
    fn probe(&mut self, conn: ConnId, now: Instant) {
        let number = self.rng.random();
        if let Some(link) = self.links.get_mut(&conn)
            && link.probe.is_none()
        {
            link.probe = Some((number, now + PROBE));
            let until = now + PROBE;
            if until < link.wake {
                self.wakes.remove(&(link.wake, conn));
                link.wake = until;
                self.wakes.insert((until, conn));
            }
            self.send_on(conn, Message::Ping(number));
        }
    }

    /// Chooses which of the sessions with a peer is used: of those with its latest start, the one
    /// that the smaller of the two peers dialled. Each side closes the others it dialled itself,
    /// so that none is closed before both know the one that stays.
    fn settle(&mut self, peer: PeerId, new: Option<ConnId>, now: Instant) {
        let conns = self.conns_of(peer);
        let newest = new
            .or(self.active.get(&peer).copied())
            .or(conns.first().copied());
        let Some(instance) = newest.and_then(|c| Some(self.links.get(&c)?.session.instance)) else {
            return;
        };
        let same: Vec<_> = conns
            .into_iter()
            .filter(|conn| self.links[conn].session.instance == instance)
            .collect();
        let own = self.config.id;
        let best = same
            .iter()
            .min_by_key(|conn| (self.links[*conn].dialler(own), **conn));
        let Some(best) = best.copied() else {
            return;
        };
        for conn in same {
            if conn != best && self.links[&conn].dialled.is_some() {
                self.send_on(conn, Message::Goodbye(Goodbye::Duplicate));
                self.close(conn, "another session with the same peer stays");
                self.remove_link(conn);
            }
        }
        self.connector.connected(peer);
        let before = self.active.insert(peer, best);
        if before.is_none() {
            self.neighbours.insert(peer);
            self.topology.claim(self.config.id, peer);
            self.new_links.insert(peer);
            self.links_at.get_or_insert(now + LINKS_WAIT);
        }
        if before != Some(best) {
            self.touched.insert(peer);
            let address = self.links[&best].address();
            let hint = match self.links[&best].dialled {
                Some(_) => Hint::Reached,
                None => Hint::Seen,
            };
            self.connector.learn(peer, address, hint, now);
            self.persist_at.get_or_insert(now + PERSIST_WAIT);
        }
    }

    /// A message came. Messages of sessions that the core has closed are ignored.
    pub fn handle_message(&mut self, conn: ConnId, message: Message, now: Instant) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        link.heard = now;
        match message {
            Message::Ping(number) => self.send_on(conn, Message::Pong(number)),
            Message::Pong(number) => self.handle_pong(conn, number, now),
            Message::Digest(digest) => self.handle_digest(conn, digest, now),
            Message::Delta(delta) => self.handle_delta(conn, delta, now),
            Message::Prune(owners) => self.handle_prune(conn, &owners),
            Message::Routed(routed) => self.handle_routed(conn, routed),
            Message::Goodbye(goodbye) => self.handle_goodbye(conn, goodbye, now),
        }
    }

    fn handle_pong(&mut self, conn: ConnId, number: u64, now: Instant) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        if let Some((_, sent)) = link.ping.take_if(|(sent, _)| *sent == number) {
            link.rtt = Some(now.duration_since(sent));
        }
        if link.probe.take_if(|(sent, _)| *sent == number).is_none() {
            return;
        }
        let (peer, instance) = (link.session.peer, link.session.instance);
        let twin = self.conns_of(peer).into_iter().find(|other| {
            let other = &self.links[other].session;
            other.instance != instance
        });
        if let Some(twin) = twin {
            self.part_twins(conn, twin, now);
        }
    }

    /// Two daemons live with the same key: the one with the greater number has to give it up.
    fn part_twins(&mut self, one: ConnId, two: ConnId, now: Instant) {
        let greater = |conn: &ConnId| self.links[conn].session.instance;
        let loser = if greater(&one) > greater(&two) {
            one
        } else {
            two
        };
        let loser_at = self.links[&loser].session.remote;
        let peer = self.links[&loser].session.peer;
        let instance = self.links[&loser].session.instance;
        self.warn(format!(
            "two machines have the key of peer {}; the one at {loser_at} is told to make a new one",
            peer.short()
        ));
        for conn in self.conns_of(peer) {
            if self.links[&conn].session.instance == instance {
                self.send_on(conn, Message::Goodbye(Goodbye::Cloned));
                self.close(conn, "two machines have the same key");
                self.drop_link(conn, "two machines have the same key", false, now);
            }
        }
    }

    fn handle_routed(&mut self, conn: ConnId, routed: Routed) {
        if routed.payload.len() > MAX_VALUE {
            return;
        }
        if routed.to == self.config.id {
            self.actions.push_back(Action::Event(MeshEvent::Message {
                from: routed.from,
                kind: routed.kind,
                payload: routed.payload,
            }));
            return;
        }
        let next = self.topology.next_hop(routed.to);
        let Some(next) = next.and_then(|next| self.active.get(&next).copied()) else {
            return;
        };
        if routed.ttl > 0 && next != conn {
            let ttl = routed.ttl - 1;
            self.send_on(next, Message::Routed(Routed { ttl, ..routed }));
        }
    }

    fn handle_goodbye(&mut self, conn: ConnId, goodbye: Goodbye, now: Instant) {
        let Some(link) = self.links.get(&conn) else {
            return;
        };
        let peer = link.session.peer;
        let reason = match goodbye {
            Goodbye::ConnectionLimit { limit } => {
                format!("the other peer has its limit of {limit} connections")
            }
            Goodbye::Duplicate => "another session with the same peer stays".to_owned(),
            Goodbye::Cloned => "two machines have the same key".to_owned(),
            Goodbye::Shutdown => "the other peer stops".to_owned(),
        };
        let limited = matches!(goodbye, Goodbye::ConnectionLimit { .. });
        if goodbye == Goodbye::Cloned {
            let remote = link.session.remote;
            self.give_in(format!(
                "{remote} sees another machine with the key of this peer"
            ));
        }
        self.close(conn, &reason);
        self.drop_link(conn, &reason, false, now);
        if limited {
            self.connector.refused(peer, &reason, now);
        }
    }

    /// A session ended without the core having closed it.
    pub fn handle_closed(&mut self, conn: ConnId, reason: &str, now: Instant) {
        if self.links.contains_key(&conn) {
            self.drop_link(conn, reason, true, now);
        } else {
            self.handle_lost_attempt(conn, reason, now);
        }
    }

    fn handle_lost_attempt(&mut self, conn: ConnId, reason: &str, now: Instant) {
        let error = DialError::Unreachable(reason.to_owned());
        self.connector.failed(conn, &error, now);
    }

    /// A connection did not become a session: one that was dialled, or (for the status only) one
    /// that was accepted from `remote`.
    pub fn handle_dial_failed(
        &mut self,
        conn: ConnId,
        remote: SocketAddr,
        error: DialError,
        now: Instant,
    ) {
        let attempt = self.connector.failed(conn, &error, now);
        if !attempt && matches!(error, DialError::Password(_)) {
            self.warn(format!("{} was refused: {error}", remote.ip()));
        }
    }

    /// Replaces what this source (`settings`, `swarm`, `discover`, `command`, ...) says; the
    /// union over all sources is dialled.
    pub fn handle_targets(&mut self, source: &str, targets: Vec<Target>, now: Instant) {
        self.connector.set_targets(source, targets, now);
    }

    /// This peer can be reached at these addresses, best first.
    pub fn handle_addresses(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        self.config.addresses = addresses;
        self.publish_info(now);
    }

    fn publish_info(&mut self, now: Instant) {
        let info = PeerInfo {
            nickname: self.config.nickname.clone(),
            version: self.config.version.clone(),
            public_key: self.config.public_key,
            addresses: self.config.addresses.clone(),
            instance: self.config.instance,
        };
        self.publish_own(PeerInfo::key(), Some(info.encode()), now);
    }

    /// The time that `poll_timeout` named has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, conn)) = self.wakes.first().copied().filter(|(at, _)| *at <= now) {
            self.wakes.pop_first();
            self.wake(conn, now);
        }
        if self.links_at.take_if(|at| *at <= now).is_some() {
            self.publish_links(now);
        }
        if self.lazy_at.take_if(|at| *at <= now).is_some() {
            self.announce();
        }
        if self.persist_at.take_if(|at| *at <= now).is_some() {
            self.persist();
        }
        if self.tidy_at <= now {
            self.tidy_at = now + TIDY;
            self.tidy(now);
        }
    }

    fn wake(&mut self, conn: ConnId, now: Instant) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        let silent = link.heard + SILENCE <= now;
        let failed = link.probe.is_some_and(|(_, until)| until <= now);
        if silent || failed {
            let reason = match silent {
                true => "nothing was heard for 4 s",
                false => "it did not answer, while another session with the same peer does",
            };
            self.close(conn, reason);
            self.drop_link(conn, reason, true, now);
            return;
        }
        let number = self.rng.random();
        link.ping = Some((number, now));
        link.wake = (now + HEARTBEAT).min(link.heard + SILENCE);
        if let Some((_, until)) = link.probe {
            link.wake = link.wake.min(until);
        }
        self.wakes.insert((link.wake, conn));
        self.send_on(conn, Message::Ping(number));
    }

    fn publish_links(&mut self, now: Instant) {
        for peer in std::mem::take(&mut self.new_links) {
            let Some(link) = self.active.get(&peer).and_then(|conn| self.links.get(conn)) else {
                continue;
            };
            let info = LinkInfo {
                address: link.address(),
                dialled: link.dialled.is_some(),
            };
            self.publish_own(LinkInfo::key(peer), Some(info.encode()), now);
        }
    }

    fn persist(&mut self) {
        let mut peers = self.connector.known();
        peers.retain(|known| {
            self.replica.contains(known.id) || self.config.known.iter().any(|k| k.id == known.id)
        });
        if peers == self.persisted {
            return;
        }
        self.persisted.clone_from(&peers);
        let epoch = self.epoch >> 32;
        self.actions.push_back(Action::Persist { peers, epoch });
    }

    fn tidy(&mut self, now: Instant) {
        self.tidied += 1;
        for (owner, key) in self.replica.drop_leftovers(now) {
            self.interpret(owner, key, None, now);
        }
        let stays = self.config.forget_after;
        let since = self.unreachable_since.iter();
        let gone: Vec<_> = since
            .filter(|(_, since)| now.duration_since(**since) >= stays)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in gone {
            self.forget(peer, now);
        }
        let old = self.forgotten_at.iter();
        let old: Vec<_> = old
            .filter(|(_, at)| now.duration_since(**at) >= FORGOTTEN_STAYS)
            .map(|(peer, _)| *peer)
            .collect();
        for peer in old {
            self.forgotten_at.remove(&peer);
            self.replica.drop_forgotten(peer);
        }
        self.persist_at.get_or_insert(now + PERSIST_WAIT);
        if self.tidied.is_multiple_of(COMPARE_ROUNDS) && !self.active.is_empty() {
            let chosen = self.rng.random_range(0..self.active.len());
            if let Some(conn) = self.active.values().nth(chosen).copied() {
                self.send_digests(conn, self.replica.digests());
            }
        }
    }

    /// Sets a record of this peer, or removes it with `None`.
    ///
    /// # Errors
    /// A name or value that is too long; nothing is changed then.
    pub fn publish(
        &mut self,
        key: Key,
        value: Option<Bytes>,
        now: Instant,
    ) -> Result<(), PublishError> {
        if key.id.len() > MAX_KEY_ID {
            return Err(PublishError::NameTooLong(key.id.len()));
        }
        let length = value.as_ref().map_or(0, Bytes::len);
        if length > MAX_VALUE {
            return Err(PublishError::ValueTooLong(length));
        }
        self.publish_own(key, value, now);
        Ok(())
    }

    pub(super) fn publish_own(&mut self, key: Key, value: Option<Bytes>, now: Instant) {
        let own = self.config.id;
        let before = self.replica.position(own);
        if self.replica.publish(key, value, now) {
            self.changed.entry(own).or_insert(before);
        }
    }

    /// Sends a message to one peer, through others if need be. It may get lost.
    ///
    /// # Errors
    /// No way to the peer, or a payload that is too long.
    pub fn send(
        &mut self,
        to: PeerId,
        kind: Kind,
        payload: Bytes,
        now: Instant,
    ) -> Result<(), SendError> {
        if payload.len() > MAX_VALUE {
            return Err(SendError::TooLong(payload.len()));
        }
        let from = self.config.id;
        if to == from {
            let event = MeshEvent::Message {
                from,
                kind,
                payload,
            };
            self.actions.push_back(Action::Event(event));
            return Ok(());
        }
        self.refresh(now);
        let hops = self
            .topology
            .distance(to)
            .ok_or(SendError::Unreachable(to))?;
        let next = self.topology.next_hop(to);
        let next = next.and_then(|next| self.active.get(&next).copied());
        let conn = next.ok_or(SendError::Unreachable(to))?;
        let routed = Routed {
            from,
            to,
            ttl: (hops + SPARE_HOPS).min(255) as u8,
            kind,
            payload,
        };
        self.send_on(conn, Message::Routed(routed));
        Ok(())
    }

    /// The peer is gone for good, everywhere. Should it live after all, it is welcome again.
    pub fn forget(&mut self, peer: PeerId, now: Instant) {
        let before = self.replica.position(peer);
        let Some(keys) = self.replica.forget(peer) else {
            self.unreachable_since.remove(&peer);
            return;
        };
        let gone = keys.into_iter().map(|key| (key, None)).collect();
        self.changed.entry(peer).or_insert(before);
        self.note_forgotten(peer, gone, now);
    }

    pub(super) fn note_forgotten(
        &mut self,
        peer: PeerId,
        gone: Vec<(Key, Option<Bytes>)>,
        now: Instant,
    ) {
        for (key, value) in gone {
            self.interpret(peer, key, value, now);
        }
        self.topology.remove(peer);
        if !self.active.contains_key(&peer) {
            self.connector.forget(peer);
        }
        self.infos.remove(&peer);
        self.unreachable_since.remove(&peer);
        self.forgotten_at.insert(peer, now);
        if self.reported.remove(&peer).is_some() {
            self.event(MeshEvent::Unreachable { peer });
        }
        self.event(MeshEvent::Forgotten { peer });
        self.touched.insert(peer);
        self.persist_at.get_or_insert(now + PERSIST_WAIT);
    }

    /// The daemon stops: says goodbye on all sessions.
    pub fn shutdown(&mut self, now: Instant) {
        if self.persist_at.take().is_some() {
            self.persist();
        }
        let all: Vec<_> = self.links.keys().copied().collect();
        for conn in all {
            self.send_on(conn, Message::Goodbye(Goodbye::Shutdown));
            self.close(conn, "the daemon stops");
            self.drop_link(conn, "the daemon stops", false, now);
        }
    }

    /// The next thing to do. To be called until `None` after every other call.
    #[must_use]
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        if self.actions.is_empty() {
            self.refresh_if_due(now);
            self.report(now);
            self.push_changes(now);
            self.dial(now);
        }
        self.actions.pop_front()
    }

    fn refresh_if_due(&mut self, now: Instant) {
        if !self.topology.is_stale() {
            self.refresh_at = None;
            return;
        }
        let due = self.refreshed + REFRESH_WAIT * self.topology.size() as u32;
        if due <= now {
            self.refresh(now);
        } else {
            self.refresh_at = Some(due);
        }
    }

    fn refresh(&mut self, now: Instant) {
        if self.topology.is_stale() {
            self.topology.refresh();
            self.refreshed = now;
        }
        self.refresh_at = None;
    }

    /// Tells of peers that came into reach, left it, or are reached elsewhere.
    fn report(&mut self, now: Instant) {
        self.touched.append(&mut self.topology.take_moved());
        for peer in std::mem::take(&mut self.touched) {
            if peer == self.config.id {
                continue;
            }
            if self.topology.reaches(peer) {
                self.unreachable_since.remove(&peer);
                let address = self.address_of(peer);
                if self.reported.insert(peer, address) != Some(address) {
                    self.event(MeshEvent::Reachable { peer, address });
                }
                continue;
            }
            if self.replica.contains(peer) {
                self.unreachable_since.entry(peer).or_insert(now);
            }
            if self.reported.remove(&peer).is_some() {
                self.event(MeshEvent::Unreachable { peer });
            }
        }
    }

    fn address_of(&self, peer: PeerId) -> Option<IpAddr> {
        let direct = self.active.get(&peer).and_then(|conn| self.links.get(conn));
        let direct = direct.map(|link| link.session.remote.ip());
        direct.or_else(|| Some(self.infos.get(&peer)?.addresses.first()?.ip()))
    }

    fn dial(&mut self, now: Instant) {
        loop {
            let open = self.active.len() + self.connector.attempts();
            let room = open < self.config.conn_limit;
            let Some(address) = self.connector.poll_dial(now, room) else {
                return;
            };
            let conn = self.accept();
            self.connector.dialled(conn, address);
            self.actions.push_back(Action::Dial { conn, address });
        }
    }

    /// When `handle_timeout` is to be called next, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        [
            (self.wakes.first().map(|(at, _)| *at), "heartbeat"),
            (self.connector.poll_timeout(), "dial"),
            (self.links_at, "tell of new connections"),
            (self.pass_at, "pass news on"),
            (self.lazy_at, "announce news"),
            (self.refresh_at, "find ways"),
            (self.persist_at, "persist peers"),
            (Some(self.tidy_at), "housekeeping"),
        ]
        .into_iter()
        .filter_map(|(at, reason)| Some((at?, reason)))
        .min()
    }

    /// All records of other peers and of this one.
    pub fn records(&self) -> impl Iterator<Item = (PeerId, &Key, &Bytes)> {
        self.replica.records()
    }

    fn drop_link(&mut self, conn: ConnId, reason: &str, accident: bool, now: Instant) {
        let Some(link) = self.remove_link(conn) else {
            return;
        };
        let peer = link.session.peer;
        if self.active.get(&peer) != Some(&conn) {
            return;
        }
        self.active.remove(&peer);
        self.settle(peer, None, now);
        if let Some(other) = self.active.get(&peer).copied() {
            self.send_digests(other, self.replica.digests());
            return;
        }
        self.neighbours.remove(&peer);
        self.new_links.remove(&peer);
        self.topology.withdraw(self.config.id, peer);
        self.touched.insert(peer);
        self.publish_own(LinkInfo::key(peer), None, now);
        let lasted = accident && now.duration_since(link.since) >= LASTED;
        self.connector.disconnected(peer, lasted, reason, now);
        self.find_parents(conn);
    }

    fn remove_link(&mut self, conn: ConnId) -> Option<Link> {
        let link = self.links.remove(&conn)?;
        self.wakes.remove(&(link.wake, conn));
        self.prunes.remove(&conn);
        Some(link)
    }

    /// Somebody knows more of this peer than it has said itself: from an earlier life that it
    /// does not remember, or because it was forgotten. What it says now has to count for more.
    pub(super) fn outdo(&mut self, theirs: Position, now: Instant) {
        if theirs <= self.replica.position(self.config.id) {
            return;
        }
        if !theirs.is_forgotten() {
            self.rebirths
                .retain(|at| now.duration_since(*at) < REBIRTHS_WINDOW);
            if self.rebirths.len() >= REBIRTHS {
                self.give_in(
                    "somebody else keeps publishing under the key of this peer".to_owned(),
                );
                return;
            }
            self.rebirths.push_back(now);
        }
        let before = self.replica.position(self.config.id);
        self.epoch = epoch_of((theirs.epoch >> 32) + 1, self.config.instance).max(self.epoch);
        self.replica.begin_epoch(self.epoch);
        self.changed.insert(self.config.id, before);
        let (peers, epoch) = (self.persisted.clone(), self.epoch >> 32);
        self.actions.push_back(Action::Persist { peers, epoch });
    }

    fn give_in(&mut self, evidence: String) {
        self.warn(format!("{evidence}; this one makes a new key"));
        self.actions.push_back(Action::Cloned { evidence });
    }

    pub(super) fn warn(&mut self, warning: String) {
        if self.warnings.contains(&warning) {
            return;
        }
        if self.warnings.len() >= MAX_WARNINGS {
            self.warnings.pop_front();
        }
        self.warnings.push_back(warning);
    }

    pub(super) fn event(&mut self, event: MeshEvent) {
        self.actions.push_back(Action::Event(event));
    }

    pub(super) fn send_on(&mut self, conn: ConnId, message: Message) {
        self.actions.push_back(Action::Send { conn, message });
    }

    fn close(&mut self, conn: ConnId, reason: &str) {
        let reason = reason.to_owned();
        self.actions.push_back(Action::Close { conn, reason });
    }
}

/// One number for a life of a peer: the later start is greater, and lives that a lost counter
/// gave the same number differ all the same.
fn epoch_of(counter: u64, instance: u64) -> u64 {
    counter.min(u64::from(u32::MAX)) << 32 | (instance & u64::from(u32::MAX))
}
