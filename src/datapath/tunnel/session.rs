//! Sessions with all peers: when keys are agreed on, taken into use, replaced and forgotten.
//!
//! Pure: messages, events and `now` go in; [`Sessions::poll_message`], [`Sessions::poll_event`]
//! and [`Sessions::poll_timeout`] say what comes out.
//!
//! No packet is lost when keys are replaced: a key for receiving is in place before the other
//! side can have the one for sending, and the old one stays for a while after. Keys are used
//! beyond their time when no new ones can be agreed on: traffic does not stop because the mesh
//! is stuck.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand_chacha::ChaCha20Rng;

use super::handshake::{Handshake, HandshakeError, Identity, Keys, Message};
use super::seal::{MAX_PACKETS, ReceiveKey, SendKey};
use crate::types::PeerId;

/// How long a key is used, as WireGuard does (`REKEY_AFTER_TIME`).
const REKEY_AFTER: Duration = Duration::from_secs(120);
/// After how many packets a key is replaced though its time has not come: half of what it may
/// seal, so that new ones can be agreed on meanwhile.
const REKEY_AFTER_PACKETS: u64 = MAX_PACKETS / 2;
/// How much later the side that did not begin takes its turn.
const REKEY_PATIENCE: Duration = Duration::from_secs(10);
/// How long packets under a replaced key are still taken, counted anew while some come.
const GRACE: Duration = Duration::from_secs(20);
/// First wait for an answer; doubled with each try.
const RETRY: Duration = Duration::from_millis(500);
/// Longest wait for an answer.
const MAX_RETRY: Duration = Duration::from_secs(5);
/// Tries of one message, after which the handshake begins anew: the peer may have forgotten it.
const TRIES: u32 = 4;

/// What the datapath is to do.
#[derive(Debug, Clone)]
pub enum SessionEvent {
    /// Open packets with this key too.
    Receive(Arc<ReceiveKey>),
    /// Seal what goes to this peer with this key.
    Send(PeerId, Arc<SendKey>),
    /// Open nothing any more with the key of this index.
    Retire(u32),
}

/// What happened with a peer's sessions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionCounts {
    /// Sessions agreed on: the first, and one with each change of keys.
    pub established: u64,
    /// Handshake messages sent again.
    pub retransmitted: u64,
    /// Handshake messages refused.
    pub refused: u64,
}

/// The sessions with all peers.
pub struct Sessions {
    identity: Identity,
    rng: ChaCha20Rng,
    peers: BTreeMap<PeerId, Peer>,
    owners: BTreeMap<u32, PeerId>,
    messages: VecDeque<(PeerId, Message)>,
    events: VecDeque<SessionEvent>,
}

#[derive(Default)]
struct Peer {
    wanted: bool,
    attempt: Option<Attempt>,
    answered: Option<Answered>,
    completed: Option<u32>,
    current: Option<Current>,
    retiring: VecDeque<Retiring>,
    counts: SessionCounts,
}

/// A handshake that this side began.
struct Attempt {
    number: u32,
    local_index: u32,
    stage: Stage,
    message: Message,
    tries: u32,
    retry_at: Instant,
}

enum Stage {
    Began(Box<Handshake>),
    Finished(SessionKeys),
}

/// The keys of one session.
struct SessionKeys {
    send: Arc<SendKey>,
    receive: Arc<ReceiveKey>,
}

/// A handshake that the other side began.
struct Answered {
    number: u32,
    local_index: u32,
    first: Vec<u8>,
    answer: Message,
    handshake: Box<Handshake>,
}

struct Current {
    keys: SessionKeys,
    since: Instant,
    initiator: bool,
}

/// A replaced key that is still opened with.
struct Retiring {
    key: Arc<ReceiveKey>,
    /// What it had opened when its time began.
    opened: u64,
    until: Instant,
}

impl Sessions {
    /// No sessions yet. The generator must be seeded with true randomness.
    pub fn new(identity: Identity, rng: ChaCha20Rng) -> Self {
        Self {
            identity,
            rng,
            peers: BTreeMap::new(),
            owners: BTreeMap::new(),
            messages: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Sees to it that there is a session with this peer from now on.
    pub fn want(&mut self, peer: PeerId, now: Instant) {
        let state = self.peers.entry(peer).or_default();
        state.wanted = true;
        if state.current.is_none() && state.attempt.is_none() {
            self.begin(peer, now);
        }
    }

    /// Agrees on new keys, because those in use seem not to be the peer's any more.
    pub fn renew(&mut self, peer: PeerId, now: Instant) {
        if self
            .peers
            .get(&peer)
            .is_some_and(|p| p.wanted && p.attempt.is_none())
        {
            self.begin(peer, now);
        }
    }

    /// Ends all sessions with a peer.
    pub fn forget(&mut self, peer: PeerId) {
        self.peers.remove(&peer);
        let gone: Vec<u32> = self
            .owners
            .iter()
            .filter(|(_, owner)| **owner == peer)
            .map(|(index, _)| *index)
            .collect();
        gone.into_iter().for_each(|index| self.retire(index));
    }

    /// What happened with a peer so far.
    pub fn counts(&self, peer: PeerId) -> SessionCounts {
        self.peers
            .get(&peer)
            .map_or_else(SessionCounts::default, |peer| peer.counts)
    }

    /// Since when the keys in use have been in use.
    pub fn established_at(&self, peer: PeerId) -> Option<Instant> {
        Some(self.peers.get(&peer)?.current.as_ref()?.since)
    }

    /// Takes a message that the mesh brought from a peer.
    ///
    /// # Errors
    /// When it makes no sense or proves nothing; the sessions go on as before.
    pub fn handle_message(
        &mut self,
        from: PeerId,
        bytes: &[u8],
        now: Instant,
    ) -> Result<(), HandshakeError> {
        let handled = Message::decode(bytes).and_then(|message| match message {
            Message::Begin { attempt, noise } => self.handle_begin(from, attempt, noise),
            Message::Answer { attempt, noise } => self.handle_answer(from, attempt, &noise, now),
            Message::Finish { attempt, noise } => self.handle_finish(from, attempt, &noise, now),
            Message::Done { attempt } => {
                self.handle_done(from, attempt, now);
                Ok(())
            }
        });
        if handled.is_err() {
            self.peers.entry(from).or_default().counts.refused += 1;
        }
        handled
    }

    /// Notes that the first packet under the key of this index came: the peer has its key.
    pub fn handle_first_use(&mut self, index: u32, now: Instant) {
        let Some(&peer) = self.owners.get(&index) else {
            return;
        };
        let attempt = self.peers.get(&peer).and_then(|peer| peer.attempt.as_ref());
        let Some(attempt) = attempt.filter(|attempt| attempt.local_index == index) else {
            return;
        };
        self.handle_done(peer, attempt.number, now);
    }

    /// Does what is due. Packets are no event: to be called every few seconds under traffic, so
    /// that keys are replaced before they are used up.
    pub fn handle_timeout(&mut self, now: Instant) {
        let peers: Vec<PeerId> = self.peers.keys().copied().collect();
        for peer in peers {
            self.retry(peer, now);
            self.replace(peer, now);
            self.expire(peer, now);
        }
    }

    /// The next message for the mesh to carry to a peer, best-effort.
    #[must_use]
    pub fn poll_message(&mut self) -> Option<(PeerId, Vec<u8>)> {
        let (peer, message) = self.messages.pop_front()?;
        Some((peer, message.encode()))
    }

    /// The next thing for the datapath to do.
    #[must_use]
    pub fn poll_event(&mut self) -> Option<SessionEvent> {
        self.events.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let deadlines = self.peers.values().flat_map(|peer| {
            let retry = peer
                .attempt
                .as_ref()
                .map(|a| (a.retry_at, "handshake retry"));
            let rekey = match &peer.attempt {
                None => peer.rekey_at().map(|at| (at, "new keys")),
                Some(_) => None,
            };
            let expire = peer.retiring.front();
            let expire = expire.map(|old| (old.until, "old keys end"));
            [retry, rekey, expire].into_iter().flatten()
        });
        deadlines.min()
    }

    fn begin(&mut self, peer: PeerId, now: Instant) {
        let (number, local_index) = (self.rng.random(), self.new_index(peer));
        let begun = Handshake::initiate(&self.identity, peer, local_index, &mut self.rng);
        // Only keys of a wrong length could be refused here, and their type forbids it.
        let Ok((handshake, noise)) = begun else {
            self.owners.remove(&local_index);
            return;
        };
        let message = Message::Begin {
            attempt: number,
            noise,
        };
        self.messages.push_back((peer, message.clone()));
        let state = self.peers.entry(peer).or_default();
        state.attempt = Some(Attempt {
            number,
            local_index,
            stage: Stage::Began(Box::new(handshake)),
            message,
            tries: 1,
            retry_at: now + RETRY,
        });
    }

    fn handle_begin(
        &mut self,
        from: PeerId,
        number: u32,
        noise: Vec<u8>,
    ) -> Result<(), HandshakeError> {
        let own_first = self.identity.peer < from;
        let state = self.peers.entry(from).or_default();
        if let Some(answered) = &state.answered
            && answered.number == number
            && answered.first == noise
        {
            let answer = answered.answer.clone();
            state.counts.retransmitted += 1;
            self.messages.push_back((from, answer));
            return Ok(());
        }
        if let Some(Attempt {
            stage: Stage::Began(_),
            local_index,
            ..
        }) = state.attempt
        {
            // Both began at once: that of the lower name goes on.
            if own_first {
                return Ok(());
            }
            state.attempt = None;
            self.owners.remove(&local_index);
        }
        let local_index = self.new_index(from);
        let answered = Handshake::respond(&self.identity, from, local_index, &noise, &mut self.rng);
        let (handshake, second) = answered.inspect_err(|_| {
            self.owners.remove(&local_index);
        })?;
        let answer = Message::Answer {
            attempt: number,
            noise: second,
        };
        self.messages.push_back((from, answer.clone()));
        let state = self.peers.entry(from).or_default();
        let before = state.answered.replace(Answered {
            number,
            local_index,
            first: noise,
            answer,
            handshake: Box::new(handshake),
        });
        if let Some(before) = before {
            self.owners.remove(&before.local_index);
        }
        Ok(())
    }

    fn handle_answer(
        &mut self,
        from: PeerId,
        number: u32,
        second: &[u8],
        now: Instant,
    ) -> Result<(), HandshakeError> {
        let Some(state) = self.peers.get_mut(&from) else {
            return Ok(());
        };
        let Some(attempt) = state.attempt.take_if(|attempt| attempt.number == number) else {
            return Ok(());
        };
        let handshake = match attempt.stage {
            Stage::Began(handshake) => handshake,
            Stage::Finished(_) => {
                state.attempt = Some(attempt);
                return Ok(());
            }
        };
        let (third, keys) = match handshake.finish(second) {
            Ok(finished) => finished,
            Err(error) => {
                // Noise is spent; the next try begins anew.
                self.owners.remove(&attempt.local_index);
                if state.current.is_none() {
                    self.begin_later(from, now);
                }
                return Err(error);
            }
        };
        let message = Message::Finish {
            attempt: number,
            noise: third,
        };
        let keys = self.install(from, attempt.local_index, &keys);
        self.messages.push_back((from, message.clone()));
        self.peers.entry(from).or_default().attempt = Some(Attempt {
            number,
            local_index: attempt.local_index,
            stage: Stage::Finished(keys),
            message,
            tries: 1,
            retry_at: now + RETRY,
        });
        Ok(())
    }

    fn handle_finish(
        &mut self,
        from: PeerId,
        number: u32,
        third: &[u8],
        now: Instant,
    ) -> Result<(), HandshakeError> {
        let Some(state) = self.peers.get_mut(&from) else {
            return Ok(());
        };
        if state.completed == Some(number) {
            self.messages
                .push_back((from, Message::Done { attempt: number }));
            return Ok(());
        }
        let Some(answered) = state.answered.take_if(|answered| answered.number == number) else {
            return Ok(());
        };
        let local_index = answered.local_index;
        let keys = answered.handshake.complete(third).inspect_err(|_| {
            self.owners.remove(&local_index);
        })?;
        state.completed = Some(number);
        let keys = self.install(from, local_index, &keys);
        self.messages
            .push_back((from, Message::Done { attempt: number }));
        self.take_into_use(from, keys, false, now);
        Ok(())
    }

    fn handle_done(&mut self, from: PeerId, number: u32, now: Instant) {
        let Some(state) = self.peers.get_mut(&from) else {
            return;
        };
        let finished = |attempt: &mut Attempt| {
            attempt.number == number && matches!(attempt.stage, Stage::Finished(_))
        };
        let Some(attempt) = state.attempt.take_if(finished) else {
            return;
        };
        if let Stage::Finished(keys) = attempt.stage {
            self.take_into_use(from, keys, true, now);
        }
    }

    fn install(&mut self, peer: PeerId, local_index: u32, keys: &Keys) -> SessionKeys {
        let receive = ReceiveKey::new(keys.cipher, &keys.receive, peer, local_index);
        let receive = Arc::new(receive);
        self.events
            .push_back(SessionEvent::Receive(receive.clone()));
        let send = Arc::new(SendKey::new(keys.cipher, &keys.send, keys.remote_index));
        SessionKeys { send, receive }
    }

    fn take_into_use(&mut self, peer: PeerId, keys: SessionKeys, initiator: bool, now: Instant) {
        self.events
            .push_back(SessionEvent::Send(peer, keys.send.clone()));
        let state = self.peers.entry(peer).or_default();
        state.counts.established += 1;
        let before = state.current.replace(Current {
            keys,
            since: now,
            initiator,
        });
        if let Some(before) = before {
            state.start_grace(before.keys.receive, now);
        }
    }

    fn begin_later(&mut self, peer: PeerId, now: Instant) {
        self.begin(peer, now);
        self.messages.pop_back();
        if let Some(attempt) = self.peers.get_mut(&peer).and_then(|p| p.attempt.as_mut()) {
            attempt.retry_at = now + MAX_RETRY;
        }
    }

    fn retry(&mut self, peer: PeerId, now: Instant) {
        let Some(state) = self.peers.get_mut(&peer) else {
            return;
        };
        let Some(attempt) = state.attempt.as_mut().filter(|a| a.retry_at <= now) else {
            return;
        };
        state.counts.retransmitted += 1;
        if attempt.tries < TRIES {
            attempt.retry_at = now + (RETRY * 2u32.pow(attempt.tries)).min(MAX_RETRY);
            attempt.tries += 1;
            let message = attempt.message.clone();
            self.messages.push_back((peer, message));
            return;
        }
        let Some(given_up) = state.attempt.take() else {
            return;
        };
        match given_up.stage {
            Stage::Began(_) => drop(self.owners.remove(&given_up.local_index)),
            // The peer may have taken the keys into use, though its answer was lost.
            Stage::Finished(keys) => state.start_grace(keys.receive, now),
        }
        self.begin(peer, now);
        if let Some(attempt) = self.peers.get_mut(&peer).and_then(|p| p.attempt.as_mut()) {
            attempt.retry_at = now + MAX_RETRY;
        }
    }

    fn replace(&mut self, peer: PeerId, now: Instant) {
        let due = self.peers.get(&peer).is_some_and(|state| {
            let due = state.used_up() || state.rekey_at().is_some_and(|at| at <= now);
            state.wanted && state.attempt.is_none() && due
        });
        if due {
            self.begin(peer, now);
        }
    }

    fn expire(&mut self, peer: PeerId, now: Instant) {
        while let Some(state) = self.peers.get_mut(&peer)
            && let Some(old) = state.retiring.pop_front_if(|old| old.until <= now)
        {
            // Where two handshakes overlapped and an answer was lost, the peer may have settled on
            // this one: it is in use there until the next is agreed on.
            if old.key.opened() > old.opened {
                state.start_grace(old.key, now);
            } else {
                self.retire(old.key.index());
            }
        }
    }

    fn retire(&mut self, index: u32) {
        self.owners.remove(&index);
        self.events.push_back(SessionEvent::Retire(index));
    }

    fn new_index(&mut self, peer: PeerId) -> u32 {
        loop {
            let index = self.rng.random();
            if let Entry::Vacant(place) = self.owners.entry(index) {
                place.insert(peer);
                return index;
            }
        }
    }
}

impl Peer {
    fn start_grace(&mut self, key: Arc<ReceiveKey>, now: Instant) {
        self.retiring.push_back(Retiring {
            opened: key.opened(),
            key,
            until: now + GRACE,
        });
    }

    fn rekey_at(&self) -> Option<Instant> {
        let current = self.current.as_ref().filter(|_| self.wanted)?;
        let patience = if current.initiator {
            Duration::ZERO
        } else {
            REKEY_PATIENCE
        };
        Some(current.since + REKEY_AFTER + patience)
    }

    fn used_up(&self) -> bool {
        let current = self.current.as_ref();
        current.is_some_and(|current| current.keys.send.used() >= REKEY_AFTER_PACKETS)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::super::handshake::tests::identity;
    use super::super::wire::{HEADER, TAG};
    use super::*;

    const PASSWORD: Option<[u8; 32]> = Some([9; 32]);

    /// One peer and what its datapath would hold.
    struct Node {
        id: PeerId,
        sessions: Sessions,
        receive: BTreeMap<u32, Arc<ReceiveKey>>,
        send: Option<Arc<SendKey>>,
    }

    impl Node {
        fn new(seed: u8, life: u64) -> Self {
            let identity = identity(seed, PASSWORD);
            let rng = ChaCha20Rng::seed_from_u64(u64::from(seed) + 1000 * life);
            Self {
                id: identity.peer,
                sessions: Sessions::new(identity, rng),
                receive: BTreeMap::new(),
                send: None,
            }
        }

        fn drain_events(&mut self) {
            while let Some(event) = self.sessions.poll_event() {
                match event {
                    SessionEvent::Receive(key) => drop(self.receive.insert(key.index(), key)),
                    SessionEvent::Send(_, key) => self.send = Some(key),
                    SessionEvent::Retire(index) => drop(self.receive.remove(&index)),
                }
            }
        }

        fn seal(&self) -> Option<Vec<u8>> {
            let key = self.send.as_ref()?;
            let mut packet = vec![5; HEADER + 20 + TAG];
            key.seal(key.reserve(1)?, &mut packet);
            Some(packet)
        }

        fn open(&mut self, packet: &mut [u8], now: Instant) -> bool {
            let index = u32::from_be_bytes(packet[4..8].try_into().unwrap());
            let Some(key) = self.receive.get(&index) else {
                return false;
            };
            let opened = key.open(packet).is_ok();
            if opened && key.first_use() {
                self.sessions.handle_first_use(index, now);
                self.drain_events();
            }
            opened
        }
    }

    struct Pair {
        nodes: [Node; 2],
        now: Instant,
        rng: ChaCha20Rng,
        /// Of 100 messages of the mesh, so many are lost.
        loss: u32,
        lost_packets: usize,
        opened_packets: usize,
    }

    impl Pair {
        fn new(loss: u32, seed: u64) -> Self {
            Self {
                nodes: [Node::new(1, 0), Node::new(2, 0)],
                now: Instant::now(),
                rng: ChaCha20Rng::seed_from_u64(seed),
                loss,
                lost_packets: 0,
                opened_packets: 0,
            }
        }

        fn want(&mut self, at: usize) {
            let other = self.nodes[1 - at].id;
            self.nodes[at].sessions.want(other, self.now);
        }

        /// Lets 100 ms pass: messages go across, and one packet each way.
        fn step(&mut self) {
            self.now += Duration::from_millis(100);
            for _ in 0..4 {
                for at in 0..2 {
                    self.nodes[at].sessions.handle_timeout(self.now);
                    self.carry(at, |pair, _| pair.rng.random_range(0..100) < pair.loss);
                    if let Some(mut packet) = self.nodes[at].seal() {
                        match self.nodes[1 - at].open(&mut packet, self.now) {
                            true => self.opened_packets += 1,
                            false => self.lost_packets += 1,
                        }
                    }
                }
            }
        }

        /// Carries what one side has to say, but what is lost.
        fn carry(&mut self, at: usize, lost: impl Fn(&mut Self, &[u8]) -> bool) {
            let from = self.nodes[at].id;
            while let Some((_, message)) = self.nodes[at].sessions.poll_message() {
                if !lost(self, &message) {
                    let other = &mut self.nodes[1 - at].sessions;
                    let _ = other.handle_message(from, &message, self.now);
                }
            }
            self.nodes.iter_mut().for_each(Node::drain_events);
        }

        fn connected(&self) -> bool {
            self.nodes.iter().all(|node| node.send.is_some())
        }
    }

    #[test]
    fn peers_that_begin_at_once_have_one_session() {
        let mut pair = Pair::new(0, 1);
        pair.want(0);
        pair.want(1);
        pair.step();
        assert!(pair.connected());
        let other = pair.nodes[1].id;
        assert_eq!(pair.nodes[0].sessions.counts(other).established, 1);
        assert_eq!(pair.nodes[0].receive.len(), 1);
    }

    #[test]
    fn keys_are_replaced_under_traffic_and_no_packet_is_lost() {
        for seed in 0..10 {
            let mut pair = Pair::new(20, seed);
            pair.want(0);
            pair.want(1);
            for _ in 0..12_000 {
                pair.step();
            }
            let other = pair.nodes[1].id;
            let established = pair.nodes[0].sessions.counts(other).established;
            assert!(established >= 9, "{established}");
            assert_eq!(pair.lost_packets, 0);
            assert!(pair.opened_packets > 90_000);
            assert!(pair.nodes.iter().all(|node| node.receive.len() <= 3));
            assert!(
                pair.nodes
                    .iter()
                    .all(|node| node.sessions.owners.len() <= 6)
            );
        }
    }

    #[test]
    fn a_restarted_peer_is_talking_again_at_once() {
        for at in 0..2 {
            let mut pair = Pair::new(0, 3);
            pair.want(0);
            pair.want(1);
            pair.step();
            pair.nodes[at] = Node::new(at as u8 + 1, 1);
            pair.want(at);
            pair.step();
            let before = pair.lost_packets;
            pair.step();
            assert!(pair.connected());
            assert_eq!(pair.lost_packets, before);
        }
    }

    #[test]
    fn handshakes_that_overlap_cost_no_packet() {
        let mut pair = Pair::new(0, 8);
        pair.want(0);
        pair.want(1);
        pair.step();
        let done = |_: &mut Pair, message: &[u8]| {
            matches!(Message::decode(message), Ok(Message::Done { .. }))
        };
        for at in 0..2 {
            let other = pair.nodes[1 - at].id;
            pair.nodes[at].sessions.renew(other, pair.now);
            for side in [0, 1, 0, 1] {
                pair.carry(side, done);
            }
        }
        for at in 0..2 {
            let other = pair.nodes[1 - at].id;
            assert_eq!(pair.nodes[at].sessions.counts(other).refused, 0);
        }
        (0..1000).for_each(|_| pair.step());
        assert_eq!(pair.lost_packets, 0);
        let left = |node: &Node| node.receive.len();
        assert!(pair.nodes.iter().map(left).sum::<usize>() <= 4);
    }

    #[test]
    fn keys_are_replaced_before_they_are_used_up() {
        let mut pair = Pair::new(0, 7);
        pair.want(0);
        pair.want(1);
        pair.step();
        let key = pair.nodes[0].send.clone().unwrap();
        key.reserve(REKEY_AFTER_PACKETS - key.used() - 1);
        pair.step();
        pair.step();
        let other = pair.nodes[1].id;
        assert_eq!(pair.nodes[0].sessions.counts(other).established, 2);
        assert_eq!(pair.lost_packets, 0);
    }

    #[test]
    fn keys_outlive_a_mesh_that_is_stuck() {
        let mut pair = Pair::new(0, 4);
        pair.want(0);
        pair.want(1);
        pair.step();
        pair.loss = 100;
        (0..6000).for_each(|_| pair.step());
        assert_eq!(pair.lost_packets, 0);
        pair.loss = 0;
        (0..100).for_each(|_| pair.step());
        let other = pair.nodes[1].id;
        assert_eq!(pair.lost_packets, 0);
        assert!(pair.nodes[0].sessions.counts(other).established >= 2);
    }

    #[test]
    fn a_forgotten_peer_leaves_nothing() {
        let mut pair = Pair::new(0, 5);
        pair.want(0);
        pair.step();
        let other = pair.nodes[1].id;
        pair.nodes[0].sessions.forget(other);
        pair.nodes[0].drain_events();
        assert!(pair.nodes[0].receive.is_empty());
        assert_eq!(pair.nodes[0].sessions.poll_timeout(), None);
    }

    #[test]
    fn messages_that_make_no_sense_change_nothing() {
        let mut pair = Pair::new(0, 6);
        pair.want(0);
        pair.step();
        let (now, other) = (pair.now, pair.nodes[1].id);
        for junk in [vec![], vec![9; 40], vec![0; 600]] {
            assert!(
                pair.nodes[0]
                    .sessions
                    .handle_message(other, &junk, now)
                    .is_err()
            );
        }
        let done = Message::Done { attempt: 1 }.encode();
        assert!(
            pair.nodes[0]
                .sessions
                .handle_message(other, &done, now)
                .is_ok()
        );
        pair.step();
        assert_eq!(pair.lost_packets, 0);
    }
}
