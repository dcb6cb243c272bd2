//! How news travel between neighbours.
//!
//! An owner tells its news to all its neighbours itself. Who is not among them gets them from the
//! neighbour through which they came first: whoever gets the same news twice tells the later
//! sender to stop pushing them. Senders that do not push announce, a little later, how far they
//! know; so news whose way was cut find another.

use std::time::{Duration, Instant};

use bytes::Bytes;
use rand::RngExt;

use super::connector::Hint;
use super::core::{ConnId, Core};
use super::message::{Delta, Digest, Message, Position};
use super::records::{LinkInfo, PeerInfo};
use super::replica::Applied;
use super::{Key, Kind, MeshEvent};
use crate::types::PeerId;

/// How long announcements are collected: long enough for what is pushed to come first.
const ANNOUNCE_WAIT: Duration = Duration::from_millis(200);

/// How much longer for each known peer: large meshes have more to announce at a time.
const ANNOUNCE_WAIT_PER_PEER: Duration = Duration::from_millis(1);

/// The least time between two rounds of passing on what others said, for each known peer: in a
/// large mesh that is forming, much is said in a short time.
const PASS_ON_WAIT_PER_PEER: Duration = Duration::from_micros(100);

/// How long the answer to a question is waited for before somebody else is asked.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

impl Core {
    /// Begins the exchange of news on a session that this side dialled.
    pub(super) fn open(&mut self, conn: ConnId) {
        let Some(link) = self.links.get(&conn) else {
            return;
        };
        let digests = match link.was_reachable {
            true => self
                .replica
                .digests_of([self.config.id, link.session.peer], true),
            false => self.replica.digests(),
        };
        self.send_digests(conn, digests);
    }

    pub(super) fn send_digests(&mut self, conn: ConnId, digests: Vec<Digest>) {
        for digest in digests {
            self.send_on(conn, Message::Digest(digest));
        }
    }

    /// The neighbour did not read as fast as there were news, so that some were left out, and has
    /// now read what was sent: it is told how far they go, so that it asks for the rest.
    pub fn handle_caught_up(&mut self, conn: ConnId) {
        self.send_digests(conn, self.replica.digests());
    }

    pub(super) fn handle_digest(&mut self, conn: ConnId, digest: Digest, now: Instant) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        let peer = link.session.peer;
        let first = !std::mem::replace(&mut link.synced, true);
        let answers = first && link.dialled.is_none();
        let covers_all = digest.covers.is_some();
        let compares_all = !covers_all && !link.was_reachable;
        if !link.lazy.is_empty() {
            self.announce_soon(now);
        }
        let mut asks = Vec::new();
        for (owner, theirs) in &digest.positions {
            if self.compare(conn, *owner, *theirs, digest.asks, now) {
                asks.push(*owner);
            }
        }
        for owner in self.replica.missing_in(&digest) {
            self.push(conn, owner, Position::default());
        }
        if answers && compares_all {
            self.send_digests(conn, self.replica.digests());
            return;
        }
        if answers {
            asks.push(peer);
            asks.push(self.config.id);
        }
        asks.sort();
        asks.dedup();
        self.send_digests(conn, self.replica.digests_of(asks, true));
    }

    /// Sends what the neighbour lacks. Returns whether it is to be asked.
    fn compare(
        &mut self,
        conn: ConnId,
        owner: PeerId,
        theirs: Position,
        asks: bool,
        now: Instant,
    ) -> bool {
        let own = self.config.id;
        let mine = self.replica.position(owner);
        let Some(link) = self.links.get_mut(&conn) else {
            return false;
        };
        let peer = link.session.peer;
        let view = link.views.entry(owner).or_default();
        view.known = theirs;
        view.eager |= asks && owner != own;
        if theirs < mine {
            if asks || owner == own || !self.topology.covered(owner, peer) {
                self.push(conn, owner, theirs);
            }
            return false;
        }
        if theirs == mine {
            return false;
        }
        if owner == own {
            self.outdo(theirs, now);
            return false;
        }
        if theirs.is_forgotten() && !self.replica.contains(owner) {
            return false;
        }
        if let Some((position, asked, at)) = self.asked.get(&owner)
            && *position >= theirs
            && now < *at + ANSWER_WAIT
            && self.links.contains_key(asked)
        {
            return false;
        }
        self.asked.insert(owner, (theirs, conn, now));
        true
    }

    fn push(&mut self, conn: ConnId, owner: PeerId, theirs: Position) {
        let deltas = self.replica.deltas(owner, theirs);
        let mine = self.replica.position(owner);
        let own = self.config.id;
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        let view = link.views.entry(owner).or_default();
        view.known = mine;
        view.eager = owner != own;
        for delta in deltas {
            self.send_on(conn, Message::Delta(delta));
        }
    }

    pub(super) fn handle_delta(&mut self, conn: ConnId, delta: Delta, now: Instant) {
        let owner = delta.owner;
        let theirs = Position {
            epoch: delta.epoch,
            version: delta.to,
        };
        if let Some(link) = self.links.get_mut(&conn) {
            let view = link.views.entry(owner).or_default();
            view.known = view.known.max(theirs);
        }
        match self.replica.apply(delta, now) {
            Applied::News {
                before,
                changes,
                forgotten,
            } => {
                self.parents.insert(owner, conn);
                self.asked.remove(&owner);
                self.changed.entry(owner).or_insert(before);
                if forgotten {
                    self.note_forgotten(owner, changes, now);
                    return;
                }
                for (key, value) in changes {
                    self.interpret(owner, key, value, now);
                }
                if before == Position::default() || before.is_forgotten() {
                    self.touched.insert(owner);
                }
            }
            Applied::Known => self.prune(conn, owner, theirs),
            Applied::Gap => {
                let digests = self.replica.digests_of([owner], true);
                self.send_digests(conn, digests);
            }
            Applied::Own(theirs) => self.outdo(theirs, now),
            Applied::Refused(reason) => {
                let from = self.links.get(&conn).map(|link| link.session.remote);
                let from = from.map_or_else(String::new, |from| from.to_string());
                self.warn(format!("news from {from} were refused: {reason}"));
            }
        }
    }

    fn prune(&mut self, conn: ConnId, owner: PeerId, theirs: Position) {
        let from_owner = self
            .links
            .get(&conn)
            .is_some_and(|link| link.session.peer == owner);
        let first = self.parents.get(&owner) == Some(&conn);
        if !from_owner && !first && theirs == self.replica.position(owner) {
            self.prunes.entry(conn).or_default().insert(owner);
        }
    }

    pub(super) fn handle_prune(&mut self, conn: ConnId, owners: &[PeerId]) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        for owner in owners {
            if let Some(view) = link.views.get_mut(owner) {
                view.eager = false;
            }
        }
    }

    /// What a changed record means to the mesh itself and to the floors above.
    pub(super) fn interpret(
        &mut self,
        owner: PeerId,
        key: Key,
        value: Option<Bytes>,
        now: Instant,
    ) {
        match key.kind {
            Kind::LINK => self.interpret_link(owner, &key, value.as_ref(), now),
            Kind::PEER => {
                self.interpret_info(owner, value.as_ref(), now);
                self.event(MeshEvent::Record { owner, key, value });
            }
            _ => self.event(MeshEvent::Record { owner, key, value }),
        }
    }

    fn interpret_info(&mut self, owner: PeerId, value: Option<&Bytes>, now: Instant) {
        match value.and_then(|value| PeerInfo::decode(value)) {
            Some(info) => {
                self.connector.advertise(owner, &info.addresses, now);
                self.infos.insert(owner, info);
            }
            None => {
                self.infos.remove(&owner);
            }
        }
        self.touched.insert(owner);
    }

    fn interpret_link(&mut self, owner: PeerId, key: &Key, value: Option<&Bytes>, now: Instant) {
        let Some(neighbour) = LinkInfo::neighbour(key) else {
            return;
        };
        let Some(value) = value else {
            self.topology.withdraw(owner, neighbour);
            self.announce_to(neighbour, owner, now);
            self.announce_to(owner, neighbour, now);
            return;
        };
        self.topology.claim(owner, neighbour);
        if let Some(info) = LinkInfo::decode(value) {
            let hint = if info.dialled {
                Hint::Reached
            } else {
                Hint::Seen
            };
            self.connector.learn(neighbour, info.address, hint, now);
        }
    }

    /// Has a neighbour told how far an owner is known here, because it may not hear it from the
    /// owner itself any more.
    fn announce_to(&mut self, neighbour: PeerId, owner: PeerId, now: Instant) {
        let Some(conn) = self.active.get(&neighbour) else {
            return;
        };
        if let Some(link) = self.links.get_mut(conn)
            && neighbour != owner
            && owner != self.config.id
        {
            link.lazy.insert(owner);
            self.announce_soon(now);
        }
    }

    fn announce_soon(&mut self, now: Instant) {
        let peers = self.infos.len() as u32;
        let wait = ANNOUNCE_WAIT + ANNOUNCE_WAIT_PER_PEER * peers;
        self.lazy_at.get_or_insert(now + wait);
    }

    /// Pushes all that has changed since the last time.
    pub(super) fn push_changes(&mut self, now: Instant) {
        if self.changed.remove(&self.config.id).is_some() {
            self.push_own();
        }
        let due = self.passed + PASS_ON_WAIT_PER_PEER * self.infos.len() as u32;
        self.pass_at = None;
        if due > now && !self.changed.is_empty() {
            self.pass_at = Some(due);
        } else if !self.changed.is_empty() {
            self.passed = now;
            for (owner, before) in std::mem::take(&mut self.changed) {
                self.pass_on(owner, before, now);
            }
        }
        for (conn, owners) in std::mem::take(&mut self.prunes) {
            let owners = owners.into_iter().collect();
            self.send_on(conn, Message::Prune(owners));
        }
    }

    fn push_own(&mut self) {
        let own = self.config.id;
        let all: Vec<_> = self.active.values().copied().collect();
        for conn in all {
            let link = self.links.get(&conn).filter(|link| link.synced);
            if let Some(view) = link.and_then(|link| link.views.get(&own)) {
                self.push(conn, own, view.known);
            }
        }
    }

    fn pass_on(&mut self, owner: PeerId, before: Position, now: Instant) {
        let mine = self.replica.position(owner);
        let mut pushes = Vec::new();
        let mut later = false;
        for peer in self.topology.uncovered(owner, &self.neighbours) {
            let Some(conn) = self.active.get(&peer) else {
                continue;
            };
            let Some(link) = self.links.get_mut(conn) else {
                continue;
            };
            let view = link.views.get(&owner).copied().unwrap_or_default();
            if view.known >= mine {
                continue;
            }
            if view.eager && link.synced {
                pushes.push((*conn, view.known.max(before)));
            } else {
                link.lazy.insert(owner);
                later = true;
            }
        }
        if later {
            self.announce_soon(now);
        }
        for (conn, theirs) in pushes {
            self.push(conn, owner, theirs);
        }
    }

    /// Tells neighbours how far news are known here that they do not get pushed from here.
    pub(super) fn announce(&mut self) {
        let all: Vec<_> = self.active.values().copied().collect();
        for conn in all {
            let Some(link) = self.links.get_mut(&conn).filter(|link| link.synced) else {
                continue;
            };
            let lazy = std::mem::take(&mut link.lazy);
            let peer = link.session.peer;
            let unknown: Vec<_> = lazy
                .into_iter()
                .filter(|owner| {
                    let known = link.views.get(owner).map(|view| view.known);
                    let news = known.unwrap_or_default() < self.replica.position(*owner);
                    news && !self.topology.covered(*owner, peer)
                })
                .collect();
            let digests = self.replica.digests_of(unknown, false);
            self.send_digests(conn, digests);
        }
    }

    /// Asks others for the news that used to come over a session that is no more.
    pub(super) fn find_parents(&mut self, lost: ConnId) {
        let lost_parents = self.parents.iter().filter(|(_, conn)| **conn == lost);
        let lost_answers = self.asked.iter().filter(|(_, (_, conn, _))| *conn == lost);
        let mut orphans: Vec<_> = lost_parents.map(|(owner, _)| *owner).collect();
        orphans.extend(lost_answers.map(|(owner, _)| *owner));
        orphans.retain(|owner| !self.active.contains_key(owner));
        orphans.sort();
        orphans.dedup();
        self.parents.retain(|_, conn| *conn != lost);
        self.asked.retain(|_, (_, conn, _)| *conn != lost);
        if orphans.is_empty() || self.active.is_empty() {
            return;
        }
        let chosen = self.rng.random_range(0..self.active.len());
        if let Some(conn) = self.active.values().nth(chosen).copied() {
            let digests = self.replica.digests_of(orphans, true);
            self.send_digests(conn, digests);
        }
    }
}
