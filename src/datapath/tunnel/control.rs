//! The control thread: keys, probes, and the table that the datapath's threads look into.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::libc;
use nix::sys::eventfd::EventFd;

use super::probe::Prober;
use super::receiver::seal_probe;
use super::seal::{ReceiveKey, SendKey};
use super::session::{SessionEvent, Sessions};
use super::stats::PeerCounters;
use super::table::{Forwarding, Hop, Path, PeerEntry, ReceiveEntry, Segment, Shared, Slot, Table};
use super::wire::{BodyKind, MAX_HOPS, Probe, RelayHeader};
use super::{Output, PathState, PeerRoute, PeerStatus, SegmentStatus};
use crate::datapath::{self, Via};
use crate::linux::tap::Tap;
use crate::linux::udp::UdpSocket;
use crate::types::{PeerId, SegmentId, Vni};

/// What the daemon asks.
pub(super) enum Command {
    AddSegment(SegmentId, Vni, Arc<Tap>),
    RemoveSegment(SegmentId),
    SetForwarding(SegmentId, datapath::Forwarding),
    SetPeer(PeerId, PeerRoute),
    RemovePeer(PeerId),
    Message(PeerId, Bytes),
    Status(SyncSender<(Vec<PeerStatus>, Vec<SegmentStatus>)>),
    Stop,
}

/// What the datapath's threads saw.
pub(super) enum Event {
    /// The first packet under the key of this index.
    FirstUse(u32),
    /// The newest packet of a peer came from another address than before.
    Roamed(PeerId, SocketAddr),
    /// A probe was answered.
    ProbeAnswered(PeerId, Probe),
    /// A packet was to be passed on to a peer to which no way is known here.
    Unrouted(PeerId),
    /// A datagram was larger than this host's device takes, or a peer probes that has answered
    /// nothing yet: to be probed at once.
    Suspicion(PeerId),
}

/// Where the datapath's threads leave what they saw. They never wait: what does not fit comes
/// again.
#[derive(Clone)]
pub(super) struct Events {
    pub(super) inputs: Sender<Input>,
    pub(super) waiting: Arc<AtomicUsize>,
}

impl Events {
    pub(super) fn push(&self, event: Event) {
        if self.waiting.load(Ordering::Relaxed) < MAX_EVENTS {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            // Whoever is told to stop needs no news.
            let _ = self.inputs.send(Input::Event(event));
        }
    }
}

/// What wakes the thread.
pub(super) enum Input {
    Command(Command),
    Event(Event),
}

/// How long no path works until new keys are tried: a peer that restarted cannot answer.
const RENEW_AFTER: Duration = Duration::from_secs(5);
/// Events that wait at most.
const MAX_EVENTS: usize = 1024;
/// Inputs taken before what they lead to is done.
const BURST: usize = 256;

/// The thread's state.
pub(super) struct Control {
    pub(super) me: PeerId,
    pub(super) sessions: Sessions,
    pub(super) socket: Arc<UdpSocket>,
    pub(super) shared: Arc<Shared>,
    pub(super) output: Box<dyn Fn(Output) + Send>,
    pub(super) wake: Vec<Arc<EventFd>>,
    pub(super) peers: BTreeMap<PeerId, Peer>,
    pub(super) segments: BTreeMap<SegmentId, SegmentState>,
    pub(super) receive: BTreeMap<u32, Arc<ReceiveKey>>,
    pub(super) waiting: Arc<AtomicUsize>,
    pub(super) probers: u64,
    pub(super) dirty: bool,
}

pub(super) struct SegmentState {
    vni: Vni,
    tap: Arc<Tap>,
    wanted: datapath::Forwarding,
    /// The same for the table; made again when slots or wishes change.
    made: Option<Arc<Forwarding>>,
}

pub(super) struct Peer {
    slot: Slot,
    /// Set by the daemon; a peer that only speaks to us has none.
    route: Option<PeerRoute>,
    endpoint: Option<SocketAddr>,
    send: Option<Arc<SendKey>>,
    direct: Option<Prober>,
    relayed: Option<Prober>,
    state: PathState,
    path: Option<Path>,
    renew_at: Option<Instant>,
    counters: Arc<PeerCounters>,
}

impl Control {
    /// Works until told to stop.
    pub(super) fn run(mut self, inputs: &Receiver<Input>) {
        loop {
            let now = Instant::now();
            let deadline = self.work(now);
            let patience = deadline.saturating_duration_since(now);
            match inputs.recv_timeout(patience) {
                Ok(input) => {
                    if !self.handle_input(input) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return,
            }
            for input in inputs.try_iter().take(BURST) {
                if !self.handle_input(input) {
                    return;
                }
            }
        }
    }

    /// Does what is due; returns when the next thing is.
    fn work(&mut self, now: Instant) -> Instant {
        self.sessions.handle_timeout(now);
        self.drain_sessions(now);
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.probe(peer, now);
            self.renew(peer, now);
        }
        self.drain_sessions(now);
        self.choose_paths();
        if std::mem::take(&mut self.dirty) {
            self.publish();
        }
        let probes = self.peers.values().flat_map(Peer::timeouts);
        let session = self.sessions.poll_timeout().map(|(at, _)| at);
        probes
            .chain(session)
            .min()
            .unwrap_or(now + Duration::from_secs(60))
    }

    fn handle_input(&mut self, input: Input) -> bool {
        let now = Instant::now();
        match input {
            Input::Command(Command::Stop) => return false,
            Input::Command(command) => self.handle_command(command, now),
            Input::Event(event) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                self.handle_event(event, now);
            }
        }
        true
    }

    fn handle_command(&mut self, command: Command, now: Instant) {
        match command {
            Command::AddSegment(id, vni, tap) => {
                let wanted = self.segments.remove(&id).map(|before| before.wanted);
                let state = SegmentState {
                    vni,
                    tap,
                    wanted: wanted.unwrap_or_default(),
                    made: None,
                };
                self.segments.insert(id, state);
                self.dirty = true;
            }
            Command::RemoveSegment(id) => {
                self.segments.remove(&id);
                self.dirty = true;
            }
            Command::SetForwarding(id, forwarding) => {
                if let Some(segment) = self.segments.get_mut(&id)
                    && segment.wanted != forwarding
                {
                    segment.wanted = forwarding;
                    segment.made = None;
                    self.dirty = true;
                }
            }
            Command::SetPeer(peer, route) => self.set_peer(peer, route, now),
            Command::RemovePeer(peer) => self.forget(peer),
            Command::Message(from, payload) => {
                if let Err(error) = self.sessions.handle_message(from, &payload, now) {
                    tracing::warn!(peer = %from.short(), %error, "tunnel handshake refused");
                }
            }
            Command::Status(reply) => {
                let _ = reply.try_send((self.peer_statuses(now), self.segment_statuses()));
            }
            Command::Stop => {}
        }
    }

    fn handle_event(&mut self, event: Event, now: Instant) {
        match event {
            Event::FirstUse(index) => self.sessions.handle_first_use(index, now),
            Event::Roamed(peer, from) => {
                if let Some(state) = self.peers.get_mut(&peer)
                    && state.endpoint != Some(from)
                {
                    tracing::info!(peer = %peer.short(), address = %from, "a peer's address changed");
                    state.endpoint = Some(from);
                    // What came from there is proof that the path works, if not how well.
                    if let Some(prober) = &mut state.direct {
                        prober.handle_suspicion(now);
                    }
                    self.dirty = true;
                }
            }
            Event::ProbeAnswered(peer, probe) => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    let prober = if probe.relayed {
                        &mut state.relayed
                    } else {
                        &mut state.direct
                    };
                    if let Some(prober) = prober {
                        prober.handle_answer(probe.seq, now);
                    }
                }
            }
            Event::Unrouted(peer) => {
                if !self.peers.contains_key(&peer) {
                    (self.output)(Output::Unrouted(peer));
                }
            }
            Event::Suspicion(peer) => {
                let probers = self.peers.get_mut(&peer).map(Peer::probers);
                for prober in probers.into_iter().flatten().flatten() {
                    prober.handle_suspicion(now);
                }
            }
        }
    }

    fn set_peer(&mut self, peer: PeerId, route: PeerRoute, now: Instant) {
        self.sessions.want(peer, now);
        let state = self.peer(peer);
        if state.route == Some(route) {
            return;
        }
        let before = state.route.replace(route);
        // An address that was learned from the peer's packets is newer than one that was told
        // before them.
        if route.endpoint.is_some() && before.and_then(|route| route.endpoint) != route.endpoint {
            state.endpoint = route.endpoint;
            state.direct = None;
        }
        if before.and_then(|route| route.relay) != route.relay {
            state.relayed = None;
        }
        self.dirty = true;
    }

    fn peer(&mut self, peer: PeerId) -> &mut Peer {
        let slot = free_slot(&self.peers);
        let (segments, dirty) = (&mut self.segments, &mut self.dirty);
        self.peers.entry(peer).or_insert_with(|| {
            segments
                .values_mut()
                .for_each(|segment| segment.made = None);
            *dirty = true;
            Peer {
                slot,
                route: None,
                endpoint: None,
                send: None,
                direct: None,
                relayed: None,
                state: PathState::Down,
                path: None,
                renew_at: None,
                counters: Arc::default(),
            }
        })
    }

    fn drain_sessions(&mut self, now: Instant) {
        let mut keys_changed = false;
        while let Some(event) = self.sessions.poll_event() {
            self.dirty = true;
            match event {
                SessionEvent::Receive(key) => {
                    self.peer(key.peer());
                    self.receive.insert(key.index(), key);
                    keys_changed = true;
                }
                SessionEvent::Send(peer, key) => {
                    keys_changed = true;
                    let state = self.peer(peer);
                    state.send = Some(key);
                    state.renew_at = None;
                    for prober in state.probers().into_iter().flatten() {
                        prober.handle_suspicion(now);
                    }
                }
                SessionEvent::Retire(index) => drop(self.receive.remove(&index)),
            }
        }
        // Keys before messages and probes: as soon as the peer has one, it may use what was agreed
        // on, and asks for answers.
        if keys_changed {
            self.publish();
        }
        while let Some((peer, message)) = self.sessions.poll_message() {
            (self.output)(Output::Message(peer, message.into()));
        }
    }

    fn probe(&mut self, peer: PeerId, now: Instant) {
        let next_hop = self.relay_path(peer);
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        let Some(key) = state.send.clone() else {
            return;
        };
        // Numbers say which prober a late answer belongs to: they never repeat.
        self.probers += 1;
        let first_seq = self.probers << 32;
        if let Some(endpoint) = state.endpoint {
            let prober = state
                .direct
                .get_or_insert_with(|| Prober::new(first_seq, super::probe::MAX, now));
            send_probes(prober, &self.socket, &key, endpoint, None, now);
        }
        match next_hop {
            Some((to, relay)) => {
                let prober = state
                    .relayed
                    .get_or_insert_with(|| Prober::new(first_seq, super::probe::MAX, now));
                send_probes(prober, &self.socket, &key, to, Some(relay), now);
            }
            None => state.relayed = None,
        }
    }

    fn relay_path(&self, peer: PeerId) -> Option<(SocketAddr, RelayHeader)> {
        let relay = self.peers.get(&peer)?.route?.relay?;
        let to = self.peers.get(&relay)?.endpoint?;
        let header = RelayHeader {
            hops_left: MAX_HOPS,
            to: peer,
            from: self.me,
        };
        Some((to, header))
    }

    fn renew(&mut self, peer: PeerId, now: Instant) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        let silent = state.send.is_some() && !state.probers().iter().flatten().any(|p| p.alive());
        if !silent {
            state.renew_at = None;
            return;
        }
        let renew_at = *state.renew_at.get_or_insert(now + RENEW_AFTER);
        if renew_at > now {
            return;
        }
        state.renew_at = Some(now + RENEW_AFTER);
        // One that only it wanted has ended: it used this host as a relay, and has its way again.
        if state.route.is_none() {
            self.forget(peer);
        } else {
            self.sessions.renew(peer, now);
        }
    }

    fn forget(&mut self, peer: PeerId) {
        self.sessions.forget(peer);
        self.peers.remove(&peer);
        self.segments
            .values_mut()
            .for_each(|segment| segment.made = None);
        self.dirty = true;
    }

    fn choose_paths(&mut self) {
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            let next_hop = self.relay_path(peer);
            let me = self.me;
            let Some(state) = self.peers.get_mut(&peer) else {
                continue;
            };
            let (new, path) = state.choose(me, peer, next_hop);
            if path != state.path {
                state.path = path;
                self.dirty = true;
            }
            if new != state.state {
                state.state = new;
                self.dirty = true;
                (self.output)(Output::Path(peer, new));
            }
        }
    }

    fn publish(&mut self) {
        let mut table = Table::default();
        for (id, peer) in &self.peers {
            if table.peers.len() <= peer.slot {
                table.peers.resize(peer.slot + 1, None);
            }
            table.peers[peer.slot] = Some(PeerEntry {
                id: *id,
                send: peer.send.clone(),
                endpoint: peer.endpoint,
                path: peer.path,
                down: peer.state == PathState::Down,
                counters: peer.counters.clone(),
            });
            table.slots.insert(*id, peer.slot);
            table.sources.extend(peer.endpoint);
        }
        for (index, key) in &self.receive {
            if let Some(&slot) = table.slots.get(&key.peer()) {
                let key = key.clone();
                table.receive.insert(*index, ReceiveEntry { key, slot });
            }
        }
        for segment in self.segments.values_mut() {
            let slots = &table.slots;
            let made = segment
                .made
                .get_or_insert_with(|| Arc::new(make_forwarding(&segment.wanted, slots)));
            let index = table.segments.len();
            table.vnis.insert(segment.vni.get(), index);
            table.taps.insert(segment.tap.descriptor(), index);
            table.segments.push(Segment {
                vni: segment.vni,
                tap: segment.tap.clone(),
                forwarding: made.clone(),
            });
        }
        self.shared.publish(table);
        for wake in &self.wake {
            let _ = wake.write(1);
        }
    }

    fn peer_statuses(&self, now: Instant) -> Vec<PeerStatus> {
        let status = |(id, peer): (&PeerId, &Peer)| PeerStatus {
            peer: *id,
            endpoint: peer.endpoint,
            path: peer.state,
            cipher: peer.send.as_ref().map(|key| key.cipher()),
            key_age: self.sessions.established_at(*id).map(|at| now - at),
            sessions: self.sessions.counts(*id),
            sent: peer.counters.sent.snapshot(),
            received: peer.counters.received.snapshot(),
            relayed: peer.counters.relayed.snapshot(),
            drops: peer.counters.drops.snapshot(),
        };
        self.peers.iter().map(status).collect()
    }

    fn segment_statuses(&self) -> Vec<SegmentStatus> {
        let status = |(id, segment): (&SegmentId, &SegmentState)| SegmentStatus {
            segment: id.clone(),
            vni: segment.vni,
            device: segment.tap.name().to_owned(),
            offloads: segment.tap.offloads(),
        };
        self.segments.iter().map(status).collect()
    }
}

impl Peer {
    fn probers(&mut self) -> [Option<&mut Prober>; 2] {
        [self.direct.as_mut(), self.relayed.as_mut()]
    }

    fn timeouts(&self) -> impl Iterator<Item = Instant> {
        let probers = [&self.direct, &self.relayed].into_iter().flatten();
        let probes = probers.map(|prober| prober.poll_timeout().0);
        probes.filter(|_| self.send.is_some()).chain(self.renew_at)
    }

    fn choose(
        &self,
        me: PeerId,
        peer: PeerId,
        next_hop: Option<(SocketAddr, RelayHeader)>,
    ) -> (PathState, Option<Path>) {
        if self.send.is_none() {
            return (PathState::Down, None);
        }
        if let (Some(to), Some(prober)) = (self.endpoint, &self.direct)
            && prober.alive()
        {
            let (mtu, settled) = (prober.mtu(), prober.settled());
            let path = Path {
                to,
                relay: None,
                mtu,
                settled,
            };
            return (PathState::direct(to, &path, prober), Some(path));
        }
        let via = self.route.and_then(|route| route.relay);
        if let (Some((to, _)), Some(prober), Some(via)) = (next_hop, &self.relayed, via)
            && prober.alive()
        {
            let path = Path::relayed(to, me, peer, prober.mtu(), prober.settled());
            return (PathState::relayed(via, &path, prober), Some(path));
        }
        // Nothing has answered: frames go to where the peer should be, if that is known.
        let unproven = self.endpoint.map(|to| Path {
            to,
            relay: None,
            mtu: super::probe::BASE,
            settled: false,
        });
        (PathState::Down, unproven)
    }
}

fn free_slot(peers: &BTreeMap<PeerId, Peer>) -> Slot {
    let mut taken: Vec<Slot> = peers.values().map(|peer| peer.slot).collect();
    taken.sort_unstable();
    let gap = taken.iter().enumerate().find(|(at, slot)| at != *slot);
    gap.map_or(taken.len(), |(at, _)| at)
}

fn make_forwarding(
    wanted: &datapath::Forwarding,
    slots: &std::collections::HashMap<PeerId, Slot>,
) -> Forwarding {
    let hop = |via: &Via| match via {
        Via::Tunnel(peer) => slots.get(peer).copied().map(Hop::Peer),
        Via::Vxlan(_) => Some(Hop::Elsewhere),
    };
    let unicast = wanted.unicast.iter();
    let unicast = unicast
        .filter_map(|(mac, via)| Some((*mac, hop(via)?)))
        .collect();
    let flood = wanted.flood.iter().filter_map(|via| match hop(via)? {
        Hop::Peer(slot) => Some(slot),
        Hop::Elsewhere => None,
    });
    Forwarding {
        unicast,
        flood: flood.collect(),
    }
}

fn send_probes(
    prober: &mut Prober,
    socket: &UdpSocket,
    key: &SendKey,
    to: SocketAddr,
    relay: Option<RelayHeader>,
    now: Instant,
) {
    prober.handle_timeout(now);
    while let Some(request) = prober.poll_transmit(now) {
        let probe = Probe {
            seq: request.seq,
            size: request.size,
            relayed: relay.is_some(),
        };
        let Some(packet) = seal_probe(key, relay, BodyKind::Probe, &probe, request.size.into())
        else {
            return;
        };
        if let Err(error) = socket.send_one(to, &packet)
            && error.raw_os_error() == Some(libc::EMSGSIZE)
        {
            prober.handle_too_large(request.seq, now);
        }
    }
}
