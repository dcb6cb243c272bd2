//! The allocator: what happens when, without clock, disk or network.
//!
//! Events go in by `handle_*`; [`Core::poll_action`] says what to do, in order. An action after a
//! [`Action::Persist`] must not be carried out before that entry is on the disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;
use rand_chacha::ChaCha8Rng;

use super::birth::{Ballots, Birth};
use super::donation::{Ask, Need};
use super::joining::ballots;
use super::removal::Attempt;
use super::ring::{Life, Lineage, Part, View};
use super::state::{Entry, Place, Seen, State};
use super::waiting::Pending;
use super::wire::{self, Assembly, Message};
use super::{Config, IpamError, Request, Response};
use crate::types::PeerId;

/// How often there is a look at what may have become due.
const TICK: Duration = Duration::from_secs(1);

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Write the entry to the journal.
    Persist(Entry),
    /// Replace this peer's record of the ring with this name, or remove it.
    Publish {
        /// Its name.
        key: Bytes,
        /// What it says.
        value: Option<Bytes>,
    },
    /// Send a message; it may get lost.
    Send {
        /// To which peer.
        to: PeerId,
        /// The message.
        payload: Bytes,
    },
    /// Answer a request.
    Reply {
        /// Which request.
        request: u64,
        /// The answer.
        result: Result<Response, IpamError>,
    },
}

/// The state machine.
#[derive(Debug)]
pub struct Core {
    pub(super) config: Config,
    pub(super) state: State,
    pub(super) view: View,
    assemblies: BTreeMap<PeerId, Assembly>,
    pub(super) birth: Birth,
    pub(super) reachable: BTreeSet<PeerId>,
    pub(super) unreachable_since: BTreeMap<PeerId, Instant>,
    pub(super) condemned: BTreeSet<PeerId>,
    pub(super) attempt: Option<Attempt>,
    pub(super) last_attempt: Option<Life>,
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) asks: BTreeMap<Need, Ask>,
    pub(super) next_ask: u64,
    pub(super) named_at: BTreeMap<(String, bool), Instant>,
    /// Pools of networks that Docker is about to make on this host alone, since when.
    pub(super) being_made: BTreeMap<IpNet, Instant>,
    /// Gateways and auxiliary addresses of networks on other hosts.
    pub(super) reserved_elsewhere: BTreeSet<Place>,
    pub(super) before_start: BTreeSet<Place>,
    /// What Docker released while it is not known yet what is in use.
    pub(super) released: Option<BTreeSet<Place>>,
    pub(super) conflicts: BTreeMap<String, String>,
    pub(super) store_error: Option<String>,
    majority_seen: Option<Duration>,
    vouchers: BTreeSet<PeerId>,
    clock: Duration,
    pub(super) rng: ChaCha8Rng,
    pub(super) now: Instant,
    pub(super) started: Instant,
    actions: VecDeque<Action>,
    pub(super) changed: BTreeSet<PeerId>,
    /// Whether a part has changed since they were written down.
    unseen: bool,
    /// Peers whose parts are remembered, and that have not spoken since the start.
    silent: BTreeSet<PeerId>,
    pub(super) dirty: bool,
    published: Option<Part>,
    published_pieces: u16,
    published_votes: Option<Ballots>,
    pub(super) propose_at: Option<Instant>,
    tick_at: Instant,
}

impl Core {
    /// The allocator with what it had stored; `clock` is the time since 1970.
    pub fn new(
        config: Config,
        mut state: State,
        clock: Duration,
        rng: ChaCha8Rng,
        now: Instant,
    ) -> Self {
        let mut conflicts = BTreeMap::new();
        let mut fresh_start = None;
        if state.owner.is_some_and(|owner| owner != config.me) {
            state = state.of_another(config.me);
            fresh_start = Some(state.clone());
        }
        if state.range != config.range.trunc() {
            if state.active() == 0 {
                let next = State::new(config.range, state.incarnation + 1);
                fresh_start = Some(next);
            } else {
                conflicts.insert(
                    "range".to_owned(),
                    format!(
                        "IPALLOC_RANGE was changed from {} to {} while {} addresses are in use: \
                         the old range is kept; remove the containers, or run `weave reset`, \
                         and restart the daemon",
                        state.range,
                        config.range,
                        state.active()
                    ),
                );
            }
        }
        if let Some(next) = &fresh_start {
            state = next.clone();
        }
        let known = |contact: &Duration| *contact <= clock;
        let majority_seen = match &state.contact {
            None => state.born.is_none().then_some(clock),
            Some(contact) => Some(*contact).filter(known),
        };
        let votes = ballots(&config, &state);
        let before_start = state.in_use().map(|(place, _)| place).collect();
        let mut view = View::default();
        for (life, seen) in state.seen.iter() {
            if let Some(part) = seen.part() {
                view.merge(life.peer, part);
            }
        }
        let mut core = Self {
            birth: Birth::new(config.me, votes),
            changed: view.latest().map(|(peer, _)| peer).collect(),
            silent: view.latest().map(|(peer, _)| peer).collect(),
            view,
            unseen: false,
            assemblies: BTreeMap::new(),
            reachable: BTreeSet::new(),
            unreachable_since: BTreeMap::new(),
            condemned: BTreeSet::new(),
            attempt: None,
            last_attempt: None,
            pending: BTreeMap::new(),
            asks: BTreeMap::new(),
            next_ask: 0,
            named_at: BTreeMap::new(),
            being_made: BTreeMap::new(),
            reserved_elsewhere: BTreeSet::new(),
            before_start,
            released: Some(BTreeSet::new()),
            conflicts,
            store_error: None,
            majority_seen,
            vouchers: BTreeSet::new(),
            clock,
            rng,
            now,
            started: now,
            actions: VecDeque::new(),
            dirty: true,
            published: None,
            published_pieces: 0,
            published_votes: None,
            propose_at: None,
            tick_at: now + TICK,
            config,
            state,
        };
        if fresh_start.is_some() {
            let state = Box::new(core.state.clone());
            core.persist(Entry::Anew(state));
        }
        if core.state.owner.is_none() {
            core.persist(Entry::Owner(core.config.me));
        }
        core.persist(Entry::Started);
        if core.state.removed.contains(&core.life()) {
            core.begin_anew(0);
        }
        core
    }

    /// What is durable, for a snapshot.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Somebody asks for something; the answer is an [`Action::Reply`] with this number.
    pub fn handle_request(&mut self, request: u64, what: Request, now: Instant) {
        self.now = now;
        if let Some(error) = &self.store_error {
            let error = IpamError::Store(error.clone());
            if !what.only_reads() {
                return self.reply(request, Err(error));
            }
        }
        self.request(request, what);
    }

    /// A record of a peer is new, changed or gone.
    pub fn handle_record(&mut self, owner: PeerId, key: &[u8], value: Option<&[u8]>, now: Instant) {
        self.now = now;
        if key == wire::BIRTH_KEY {
            if owner != self.config.me {
                self.birth.observe(owner, value.and_then(wire::decode));
                self.dirty = true;
            }
            return;
        }
        let mut assembly = self.assemblies.remove(&owner).unwrap_or_default();
        let part = assembly.take(key, value);
        if !assembly.is_empty() {
            self.assemblies.insert(owner, assembly);
        }
        let Some(part) = part else {
            return;
        };
        self.silent.remove(&owner);
        let life = part.life(owner);
        if self.state.removed.contains(&life) || life == self.life() {
            return;
        }
        if self.view.get(&life).is_none()
            && let Some(since) = self.unreachable_since.get_mut(&owner)
        {
            // Silence counts from when the peer was a member: it may have become one just now.
            *since = now;
        }
        if self.view.merge(owner, part) {
            self.unseen = true;
            self.changed.insert(owner);
            self.dirty = true;
        }
    }

    /// A peer can be reached.
    pub fn handle_reachable(&mut self, peer: PeerId, now: Instant) {
        self.now = now;
        self.reachable.insert(peer);
        self.unreachable_since.remove(&peer);
        self.condemned.remove(&peer);
        self.dirty = true;
    }

    /// A peer cannot be reached any more.
    pub fn handle_unreachable(&mut self, peer: PeerId, now: Instant) {
        self.now = now;
        self.reachable.remove(&peer);
        self.vouchers.remove(&peer);
        self.unreachable_since.entry(peer).or_insert(now);
        self.dirty = true;
    }

    /// A peer is gone for good: its space is to be taken over.
    pub fn handle_forgotten(&mut self, peer: PeerId, now: Instant) {
        self.now = now;
        self.reachable.remove(&peer);
        self.unreachable_since.entry(peer).or_insert(now);
        self.condemned.insert(peer);
        self.birth.observe(peer, None);
        self.assemblies.remove(&peer);
        self.dirty = true;
    }

    /// A message came.
    pub fn handle_message(&mut self, from: PeerId, payload: &[u8], now: Instant) {
        self.now = now;
        let Some(message) = wire::decode::<Message>(payload) else {
            return;
        };
        if self.store_error.is_some() {
            return;
        }
        self.dirty = true;
        match message {
            Message::Ask {
                id,
                incarnation,
                lineage,
                universe,
                range,
                space,
                taken,
            } => {
                let life = Life {
                    peer: from,
                    incarnation,
                };
                self.handle_ask(life, id, lineage, (universe, range, space), taken);
            }
            Message::Gifts {
                incarnation,
                lineage,
                gifts,
            } => {
                let giver = Life {
                    peer: from,
                    incarnation,
                };
                self.take_gifts(giver, lineage, &gifts);
            }
            Message::Refusal { id, reason } => self.handle_refusal(from, id, reason),
            Message::AmIAlive(life) => self.handle_am_i_alive(from, life),
            Message::Alive(life) if life == self.life() => {
                self.vouchers.insert(from);
            }
            Message::Gone(life) if life == self.life() => self.learn_removed(life),
            Message::Alive(_) | Message::Gone(_) => {}
            Message::Remove(agreement) => self.handle_remove(from, agreement),
            Message::Agreed {
                agreement,
                incarnation,
                revision,
                known,
            } => {
                let life = Life {
                    peer: from,
                    incarnation,
                };
                self.handle_agreed(life, agreement, revision, known);
            }
            Message::Still(agreement) => self.handle_still(from, agreement),
            Message::Abort(agreement) => self.handle_abort(from, agreement),
        }
    }

    /// Something may be due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        self.dirty = true;
        if now >= self.tick_at {
            self.tick_at = now + TICK;
            // What may have waited for something else than news of that peer.
            let me = self.config.me;
            let gifts = self.state.gifts.iter().map(|gift| gift.to.peer);
            let held = self.view.latest().filter(|(_, part)| !part.held.is_empty());
            let overlaps = self.view.latest().filter(|(peer, part)| {
                *peer == me || self.state.taken.contains_key(peer) && !part.gifts.is_empty()
            });
            let again = gifts.chain(held.chain(overlaps).map(|(peer, _)| peer));
            let again: Vec<PeerId> = again.collect();
            self.changed.extend(again);
        }
    }

    /// When to call [`Core::handle_timeout`], and why.
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let ask = self
            .next_ask_timeout()
            .map(|at| (at, "ask again for space"));
        let pending = self.pending.values().map(|pending| pending.deadline).min();
        let pending = pending.map(|at| (at, "give up waiting for space"));
        let propose = self.propose_at.map(|at| (at, "propose the ring's birth"));
        [Some((self.tick_at, "look around")), ask, pending, propose]
            .into_iter()
            .flatten()
            .min()
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        if self.dirty && self.store_error.is_none() {
            self.settle();
        }
        self.actions.pop_front()
    }

    /// The disk takes nothing: go back to what it has, where that can be read, and refuse all
    /// changes until told otherwise.
    pub fn store_failed(&mut self, durable: Option<State>, error: String, now: Instant) {
        self.now = now;
        if let Some(durable) = durable {
            self.state = durable;
        }
        self.actions.clear();
        self.asks.clear();
        self.attempt = None;
        self.published = None;
        self.published_votes = None;
        self.birth.own = ballots(&self.config, &self.state);
        for request in std::mem::take(&mut self.pending).into_keys() {
            self.reply(request, Err(IpamError::Store(error.clone())));
        }
        self.store_error = Some(error);
    }

    /// The disk takes entries again, and this is what it has.
    pub fn store_recovered(&mut self, durable: State, now: Instant) {
        self.now = now;
        self.state = durable;
        self.birth.own = ballots(&self.config, &self.state);
        self.store_error = None;
        self.unseen = true;
        self.dirty = true;
        self.changed
            .extend(self.view.latest().map(|(peer, _)| peer));
    }

    /// The mesh has given this peer another identity: another machine has the former one, and all
    /// that was owned with it.
    pub(super) fn become_another(&mut self, me: PeerId) {
        if me == self.config.me {
            return;
        }
        self.config.me = me;
        let state = Box::new(self.state.of_another(me));
        self.persist(Entry::Anew(state));
        self.birth = Birth::new(me, ballots(&self.config, &self.state));
        self.view = View::default();
        self.unseen = false;
        self.assemblies.clear();
        self.asks.clear();
        self.attempt = None;
        self.vouchers.clear();
        self.majority_seen = Some(self.clock());
        self.conflicts.clear();
        self.published = None;
        self.published_pieces = 0;
        self.published_votes = None;
        self.propose_at = None;
        self.dirty = true;
    }

    /// This peer's life.
    pub fn life(&self) -> Life {
        Life {
            peer: self.config.me,
            incarnation: self.state.incarnation,
        }
    }

    pub(super) fn lineage(&self) -> Option<Lineage> {
        self.state.born.as_ref().map(|born| born.lineage)
    }

    pub(super) fn persist(&mut self, entry: Entry) {
        self.state.apply(&entry);
        self.actions.push_back(Action::Persist(entry));
    }

    pub(super) fn reply(&mut self, request: u64, result: Result<Response, IpamError>) {
        self.actions.push_back(Action::Reply { request, result });
    }

    pub(super) fn send(&mut self, to: PeerId, message: &Message) {
        let payload = wire::encode(message);
        self.actions.push_back(Action::Send { to, payload });
    }

    /// The other members of the same ring, by their latest parts.
    pub(super) fn members(&self) -> impl Iterator<Item = (PeerId, &Part)> {
        let lineage = self.lineage();
        let me = self.config.me;
        self.view
            .latest()
            .filter(move |(peer, part)| *peer != me && Some(part.lineage) == lineage)
    }

    /// Whether so much time has passed without a majority of the ring's members that they may
    /// have taken this peer's space over: then nothing new may be handed out.
    pub(super) fn is_fenced(&self) -> bool {
        let Some(after) = self.config.takeover_after else {
            return false;
        };
        // Whoever has met nobody cannot have been taken for dead.
        self.state.met
            && self
                .majority_seen
                .is_none_or(|seen| self.clock().saturating_sub(seen) >= fence(after))
    }

    /// Whether this peer and those for which it holds have most of the slots: they are the votes,
    /// because all peers know how many there are, and each has one owner.
    pub(super) fn is_majority(&self, counts: impl Fn(PeerId) -> bool) -> bool {
        let Some(born) = &self.state.born else {
            return false;
        };
        let mut slots = born.slots.clone();
        // Who is there may have begun another life since it was heard last.
        let known = |peer| !(self.reachable.contains(&peer) && self.silent.contains(&peer));
        for (_, part) in self.members().filter(|(p, _)| counts(*p) && known(*p)) {
            slots.extend(&part.slots);
        }
        slots.len() * 2 > usize::from(born.total)
    }

    /// The time since 1970, as it was at the start and has passed since.
    fn clock(&self) -> Duration {
        self.clock + self.now.duration_since(self.started)
    }

    /// Follows up on everything that came in, until nothing changes any more.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.dirty = false;
            self.settle_birth();
            self.see_majority();
            let changed = std::mem::take(&mut self.changed);
            if !changed.is_empty() {
                let parts = self.members().flat_map(|(_, part)| &part.gateways);
                self.reserved_elsewhere = parts.copied().collect();
            }
            for peer in changed {
                self.follow_part(peer);
            }
            if self.ticked() {
                self.note_members();
            }
            self.settle_removals();
            self.settle_pending();
            if !self.dirty {
                break;
            }
        }
        self.publish();
    }

    /// Whether what is done once in a while is to be done now.
    pub(super) fn ticked(&self) -> bool {
        self.tick_at == self.now + TICK
    }

    fn see_majority(&mut self) {
        if !self.state.met && self.members().next().is_some() {
            self.persist(Entry::Met);
        }
        if !self.is_majority(|peer| self.reachable.contains(&peer)) {
            return;
        }
        if !self.is_fenced() {
            return self.note_contact();
        }
        // Reachable is not enough now: that the space was taken over may be news still under way.
        if self.is_majority(|peer| self.vouchers.contains(&peer)) {
            self.vouchers.clear();
            return self.note_contact();
        }
        if self.ticked() || self.vouchers.is_empty() {
            let members: Vec<PeerId> = self.members().map(|(peer, _)| peer).collect();
            for peer in members {
                self.send(peer, &Message::AmIAlive(self.life()));
            }
        }
    }

    /// Writes down what the others' parts have become. It matters only when all who know it have
    /// stopped, so it may come a little late.
    fn note_members(&mut self) {
        if self.lineage().is_none() || !std::mem::take(&mut self.unseen) {
            return;
        }
        let new = self.view.iter().filter(|(life, part)| {
            let ours = life.peer != self.config.me && Some(part.lineage) == self.lineage();
            ours && self.is_unwritten(life, part)
        });
        let news: Vec<_> = new.map(|(life, part)| (*life, Seen::of(part))).collect();
        if !news.is_empty() {
            self.persist(Entry::Seen(news));
        }
    }

    /// Writes one of them down now, because this peer's own note of the same space is to go: the
    /// other may lose its disk, and all may be restarted before long.
    pub(super) fn note_part(&mut self, peer: PeerId, part: &Part) {
        let life = part.life(peer);
        if self.is_unwritten(&life, part) {
            self.persist(Entry::Seen(vec![(life, Seen::of(part))]));
        }
    }

    fn is_unwritten(&self, life: &Life, part: &Part) -> bool {
        let written = self.state.seen.get(life);
        written.is_none_or(|written| written.revision < part.revision)
    }

    /// Not to be fenced, for now; noted on the disk now and then, because a restart counts as well.
    pub(super) fn note_contact(&mut self) {
        let clock = self.clock();
        self.majority_seen = Some(clock);
        let (noted, after) = (self.state.contact, self.config.takeover_after);
        let often = after.unwrap_or(super::TAKEOVER_AFTER) / 16;
        if noted.is_none_or(|noted| noted > clock || noted + often <= clock) {
            self.persist(Entry::Contact(clock));
        }
    }

    fn follow_part(&mut self, peer: PeerId) {
        if peer == self.config.me {
            return self.follow_own_past();
        }
        let Some(part) = self.view.of(peer).cloned() else {
            return;
        };
        let key = format!("ring {peer}");
        if Some(part.lineage) != self.lineage() {
            if self.state.born.is_some() {
                self.conflicts.insert(key, self.other_ring(&part));
            }
            return;
        }
        self.conflicts.remove(&key);
        let removed: Vec<Life> = part
            .removed
            .difference(&self.state.removed)
            .copied()
            .collect();
        if !removed.is_empty() {
            self.note_part(peer, &part);
        }
        for life in removed {
            self.learn_removed(life);
        }
        self.follow_gifts(peer, &part);
        self.follow_overlap(peer, &part);
    }

    fn other_ring(&self, part: &Part) -> String {
        if part.range == self.state.range {
            format!(
                "{} is in another ring over {}: the two were born apart; run `weave reset` on the \
                 hosts of one of them",
                part.nickname, part.range
            )
        } else {
            format!(
                "{} allocates from {}, this host from {}: give all hosts the same IPALLOC_RANGE",
                part.nickname, part.range, self.state.range
            )
        }
    }

    /// Another life of this very peer is known: its state was lost, or replaced by an older one.
    fn follow_own_past(&mut self) {
        let last = self.view.lives(self.config.me).next_back();
        let Some((life, part)) = last else {
            return;
        };
        if life.incarnation > self.state.incarnation {
            let next_gift = part.next_gift.saturating_add(1 << 32);
            self.begin_anew(life.incarnation.max(next_gift));
        }
    }

    pub(super) fn begin_anew(&mut self, at_least: u64) {
        let incarnation = self.state.incarnation.max(at_least) + 1;
        self.attempt = None;
        self.persist(Entry::Reborn {
            incarnation,
            next_gift: incarnation,
        });
        self.birth.own.incarnation = incarnation;
        self.dirty = true;
    }

    fn follow_overlap(&mut self, peer: PeerId, part: &Part) {
        let key = format!("overlap {peer}");
        let theirs = part.spaces.iter().find_map(|(universe, ranges)| {
            let mine = self.state.owned(universe);
            let range = ranges.iter().find_map(|range| mine.within(*range).next())?;
            Some((*universe, range))
        });
        let Some((universe, range)) = theirs else {
            self.conflicts.remove(&key);
            return;
        };
        self.conflicts.insert(
            key,
            format!(
                "{} and this host both own {} to {}: run `weave reset` on one of them",
                part.nickname,
                super::range::address(&universe, range.first),
                super::range::address(&universe, range.last),
            ),
        );
    }

    fn publish(&mut self) {
        let votes = self.votes_to_publish();
        if self.published_votes.as_ref() != Some(&votes) {
            self.actions.push_back(Action::Publish {
                key: Bytes::from_static(wire::BIRTH_KEY),
                value: Some(wire::encode(&votes)),
            });
            self.published_votes = Some(votes);
        }
        let due = self.ticked();
        let revision = self.published.as_ref().map(|p| (p.incarnation, p.revision));
        if !due && revision == Some((self.state.incarnation, self.state.revision)) {
            return;
        }
        let Some(mut part) = self.state.part(&self.config.nickname) else {
            return;
        };
        part.sequence = self.published.as_ref().map_or(0, |part| part.sequence);
        if self.published.as_ref() == Some(&part) {
            return;
        }
        part.sequence += 1;
        let pieces = wire::split(&part);
        let count = pieces.len() as u16;
        for (index, piece) in pieces.into_iter().enumerate() {
            self.actions.push_back(Action::Publish {
                key: wire::part_key(index as u16),
                value: Some(piece),
            });
        }
        for index in count..self.published_pieces {
            let key = wire::part_key(index);
            self.actions.push_back(Action::Publish { key, value: None });
        }
        self.published_pieces = count;
        self.published = Some(part);
    }
}

/// A peer that was cut off hands out nothing after three quarters of the time after which the
/// others may take over: the rest is for clocks that run at different speeds and for the takeover.
fn fence(after: Duration) -> Duration {
    after / 4 * 3
}
