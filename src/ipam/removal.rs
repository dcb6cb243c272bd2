//! Taking over the space of a peer that is gone.
//!
//! Only space that is surely nobody else's may be taken. What the dead peer had given away last
//! may be known to the receiver alone; so every other member is asked. By agreeing a member
//! promises to take nothing more from that life and to let no space change hands until the
//! takeover is done or given up, and it names the revision of its part that shows all it has.
//! When the taker knows the part of every member at that revision, what is left is the dead
//! peer's. Members agree to one takeover at a time; of two takers the one with the lower name goes
//! on. A member that cannot be asked stops the takeover, unless it is gone as well.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::allocator::Core;
use super::range::{Range, RangeSet};
use super::ring::{Agreement, Life, Part, slots_of};
use super::state::Entry;
use super::wire::Message;
use crate::types::PeerId;

/// How often those that have not answered are asked again.
const RESEND: Duration = Duration::from_millis(500);

/// An attempt that has not succeeded by then is given up, so that the others can go on.
const GIVE_UP: Duration = Duration::from_secs(20);

/// How long an attempt waits for news of the dead peer that others have: they may take over instead.
const CATCH_UP: Duration = Duration::from_secs(2);

/// The pause before the next attempt.
const PAUSE: Duration = Duration::from_secs(10);

/// By how much later every further peer starts, so that usually one does.
const STAGGER: Duration = Duration::from_secs(3);

/// An attempt of this peer to take over the space of a life.
#[derive(Debug)]
pub(super) struct Attempt {
    life: Life,
    since: Instant,
    sent: Option<Instant>,
    /// In which life each peer has agreed, and the revision of its part that shows all it has.
    agreed: BTreeMap<PeerId, (Life, u64)>,
    known: u64,
}

impl Core {
    /// Whether space may not change hands now.
    pub(super) fn is_frozen(&self) -> bool {
        self.state.agreed.is_some()
    }

    /// The peers that must agree: all that are not taken for dead by an operator, by the swarm,
    /// or by a majority after some time.
    pub(super) fn required(&self, life: Life) -> BTreeSet<PeerId> {
        let latest = |peer| self.view.lives(peer).next_back().map(|(life, _)| *life);
        let majority = self.has_majority();
        let gone = |peer: &PeerId| {
            let dead = self.condemned.contains(peer) || majority && self.is_overdue(*peer);
            dead && !self.reachable.contains(peer)
        };
        let members = self.members().map(|(peer, _)| peer);
        members
            .chain(self.reachable.iter().copied())
            .filter(|peer| *peer != self.config.me && !gone(peer))
            .filter(|peer| *peer != life.peer || latest(*peer) != Some(life))
            .collect()
    }

    fn is_overdue(&self, peer: PeerId) -> bool {
        let since = self.unreachable_since.get(&peer);
        self.config
            .takeover_after
            .zip(since)
            .is_some_and(|(after, since)| self.now.duration_since(*since) >= after)
    }

    pub(super) fn settle_removals(&mut self) {
        if self.lineage().is_none() {
            return;
        }
        for peer in self.members().map(|(peer, _)| peer).collect::<Vec<_>>() {
            if !self.reachable.contains(&peer) {
                let now = self.now;
                self.unreachable_since.entry(peer).or_insert(now);
            }
        }
        if self.attempt.is_none() {
            let due = self.due();
            let taker = self.state.agreed.map(|agreed| agreed.taker);
            // One after the other: one may have to wait until another is done.
            let next = due.iter().find(|life| Some(**life) == taker);
            let next = next.or_else(|| due.iter().find(|life| Some(**life) > self.last_attempt));
            if let Some(&life) = next.or(due.first()) {
                self.last_attempt = Some(life);
                self.attempt(life);
            }
        }
        if self.attempt.is_some() {
            self.pursue();
        }
        self.poke_taker();
    }

    /// The lives whose space this peer should try to take over now.
    fn due(&self) -> Vec<Life> {
        let lineage = self.lineage();
        let majority = self.has_majority();
        let lives = self.view.iter().filter(|(life, part)| {
            Some(part.lineage) == lineage && !self.state.removed.contains(life)
        });
        lives
            .map(|(life, _)| *life)
            .filter(|life| self.is_ordered(life) || self.is_overdue(life.peer) && majority)
            .collect()
    }

    fn is_ordered(&self, life: &Life) -> bool {
        let last = self.view.lives(life.peer).next_back();
        let past = life.peer == self.config.me || last.is_some_and(|(last, _)| last != life);
        let silent = !self.reachable.contains(&life.peer);
        past || silent && self.condemned.contains(&life.peer)
    }

    /// Whether those who are not gone are most of the members: the others cannot decide the same.
    fn has_majority(&self) -> bool {
        let dead = |peer| self.condemned.contains(&peer) || self.is_overdue(peer);
        !self.is_fenced() && self.is_majority(|peer| !dead(peer))
    }

    fn attempt(&mut self, life: Life) {
        let rank = self
            .reachable
            .iter()
            .filter(|peer| **peer < self.config.me)
            .count();
        let asked_for = self.removal_requested(life.peer);
        let wait = if asked_for {
            Duration::ZERO
        } else {
            STAGGER * rank.min(20) as u32
        };
        self.attempt = Some(Attempt {
            life,
            since: self.now + wait,
            sent: None,
            agreed: BTreeMap::new(),
            known: 0,
        });
    }

    fn pursue(&mut self) {
        let Some(attempt) = &self.attempt else {
            return;
        };
        let (life, since) = (attempt.life, attempt.since);
        if !self.due().contains(&life) || self.now > since + GIVE_UP + PAUSE {
            self.abort();
            self.attempt = None;
            return;
        }
        if self.now < since {
            return;
        }
        let known = self.view.get(&life).map_or(0, |part| part.revision);
        let behind = self.attempt.as_ref().is_some_and(|a| a.known > known);
        if self.now > since + GIVE_UP || behind && self.now > since + CATCH_UP {
            return self.abort();
        }
        let me = self.life();
        // Nothing is to be waited for from a taker that is dead itself.
        let busy = |agreed: &Agreement| agreed.taker != me && agreed.taker != life;
        if self.state.agreed.as_ref().is_some_and(busy) {
            return;
        }
        let required = self.required(life);
        if required.iter().any(|peer| !self.reachable.contains(peer)) {
            return self.abort();
        }
        if self.state.agreed.is_none_or(|agreed| agreed.taker == life) {
            self.persist(Entry::Agree(Agreement {
                life,
                taker: me,
                number: self.state.next_attempt,
                ordered: self.is_ordered(&life),
            }));
        }
        if self.is_agreed(&required) {
            return self.take_over(life);
        }
        self.ask_to_agree(&required);
    }

    fn ask_to_agree(&mut self, required: &BTreeSet<PeerId>) {
        let now = self.now;
        let (Some(attempt), Some(agreement)) = (&mut self.attempt, &self.state.agreed) else {
            return;
        };
        if attempt.sent.is_some_and(|sent| now < sent + RESEND) {
            return;
        }
        attempt.sent = Some(now);
        let agreement = *agreement;
        let silent: Vec<PeerId> = required
            .iter()
            .filter(|peer| !attempt.agreed.contains_key(peer))
            .copied()
            .collect();
        for peer in silent {
            self.send(peer, &Message::Remove(agreement));
        }
    }

    fn is_agreed(&self, required: &BTreeSet<PeerId>) -> bool {
        let Some(attempt) = &self.attempt else {
            return false;
        };
        let revision = |part: Option<&Part>| part.map_or(0, |part| part.revision);
        let seen = required.iter().all(|peer| {
            let agreed = attempt.agreed.get(peer);
            agreed.is_some_and(|(life, agreed)| revision(self.view.get(life)) >= *agreed)
        });
        seen && revision(self.view.get(&attempt.life)) >= attempt.known
    }

    fn take_over(&mut self, life: Life) {
        let Some(dead) = self.view.get(&life).cloned() else {
            return;
        };
        let mut universes: BTreeSet<IpNet> = self.view.universes();
        universes.extend(self.state.spaces.keys());
        let mut spaces: BTreeMap<IpNet, Vec<Range>> = BTreeMap::new();
        for universe in universes {
            let left = self.left_by(life, &dead, &universe);
            spaces.insert(universe, left.iter().collect());
        }
        self.persist(Entry::TakeOver {
            life,
            announced: dead.removed.clone(),
            slots: dead.slots,
            spaces,
        });
        self.after_removal(life);
        // Before anything is handed out: containers may have some of it already.
        let members: Vec<(PeerId, Part)> =
            self.members().map(|(p, part)| (p, part.clone())).collect();
        for (peer, part) in members {
            self.follow_gifts(peer, &part);
        }
    }

    /// What a life leaves of one space: what it had and what was on the way to and from it,
    /// without what others have.
    fn left_by(&self, life: Life, dead: &Part, universe: &IpNet) -> RangeSet {
        let mut left = dead.owned(universe);
        let gifts = |part: &Part, keep: &dyn Fn(&Life) -> bool| -> Vec<Range> {
            let gifts = part.gifts.iter();
            gifts
                .filter(|gift| gift.universe == *universe && keep(&gift.to))
                .map(|gift| gift.range)
                .collect()
        };
        left.extend(gifts(dead, &|_| true));
        for part in self.view.iter().map(|(_, part)| part) {
            left.extend(gifts(part, &|to| *to == life));
        }
        let own = self.state.gifts.iter();
        let own: Vec<_> = own.filter(|gift| gift.universe == *universe).collect();
        left.extend(own.iter().filter(|gift| gift.to == life).map(|g| g.range));
        for (other, part) in self.view.iter().filter(|(other, _)| **other != life) {
            if other.peer != self.config.me && Some(part.lineage) == self.lineage() {
                let taken = part.owned(universe);
                taken.iter().for_each(|range| left.remove(range));
                let underway = gifts(part, &|to| *to != life);
                underway.into_iter().for_each(|range| left.remove(range));
            }
        }
        let mine = self.state.owned(universe);
        mine.iter().for_each(|range| left.remove(range));
        let underway = own.iter().filter(|gift| gift.to != life);
        underway.for_each(|gift| left.remove(gift.range));
        left
    }

    pub(super) fn learn_removed(&mut self, life: Life) {
        self.persist(Entry::Removed(life));
        if life == self.life() {
            self.conflicts.insert(
                "removed".to_owned(),
                "the other peers had taken this host for dead and took its space over; it has \
                 joined again"
                    .to_owned(),
            );
            self.begin_anew(0);
        }
        self.after_removal(life);
    }

    fn after_removal(&mut self, life: Life) {
        self.view.remove(&life);
        self.attempt.take_if(|attempt| attempt.life == life);
        if self.view.of(life.peer).is_none() {
            self.condemned.remove(&life.peer);
        }
        self.dirty = true;
    }

    fn abort(&mut self) {
        let me = self.life();
        if let Some(agreement) = self.state.agreed.filter(|a| a.taker == me) {
            self.persist(Entry::Disagree);
            for peer in self.reachable.clone() {
                self.send(peer, &Message::Abort(agreement));
            }
        }
        if let Some(attempt) = &mut self.attempt {
            attempt.agreed.clear();
            attempt.sent = None;
        }
    }

    pub(super) fn handle_am_i_alive(&mut self, from: PeerId, life: Life) {
        if life.peer != from {
            return;
        }
        if self.state.removed.contains(&life) {
            return self.send(from, &Message::Gone(life));
        }
        if self.state.agreed.is_some_and(|agreed| agreed.life == life) {
            return;
        }
        // Its silence is over, whether or not the mesh has said so.
        if let Some(since) = self.unreachable_since.get_mut(&from) {
            *since = self.now;
        }
        self.send(from, &Message::Alive(life));
    }

    pub(super) fn handle_remove(&mut self, from: PeerId, asked: Agreement) {
        let (life, me) = (asked.life, self.life());
        let stale = |life: &Life| self.state.removed.contains(life);
        if stale(&life) || stale(&asked.taker) || life == me || asked.taker.peer != from {
            return;
        }
        if !asked.ordered && !self.is_overdue(life.peer) && !self.is_ordered(&life) {
            return;
        }
        match self.state.agreed {
            Some(agreed) if agreed.taker == asked.taker && agreed.number > asked.number => return,
            Some(agreed) if agreed == asked => {}
            Some(agreed) if agreed.taker == asked.taker => self.persist(Entry::Agree(asked)),
            Some(agreed) if agreed.taker == me && from < me.peer => {
                self.abort();
                self.persist(Entry::Agree(asked));
            }
            Some(agreed) if agreed.taker == life => self.persist(Entry::Agree(asked)),
            // It is asked again, and by then this one may be over.
            Some(_) => return,
            None => self.persist(Entry::Agree(asked)),
        }
        let known = self.view.get(&life).map_or(0, |part| part.revision);
        let born = self.lineage().is_some();
        let message = Message::Agreed {
            agreement: asked,
            incarnation: me.incarnation,
            revision: if born { self.state.revision } else { 0 },
            known,
        };
        self.send(from, &message);
    }

    pub(super) fn handle_agreed(
        &mut self,
        from: Life,
        agreement: Agreement,
        revision: u64,
        known: u64,
    ) {
        let active = self.state.agreed == Some(agreement);
        match &mut self.attempt {
            Some(attempt) if active && attempt.life == agreement.life => {
                attempt.agreed.insert(from.peer, (from, revision));
                attempt.known = attempt.known.max(known);
            }
            _ => self.send(from.peer, &Message::Abort(agreement)),
        }
    }

    pub(super) fn handle_still(&mut self, from: PeerId, agreement: Agreement) {
        let done = self.state.removed.contains(&agreement.life);
        if !done && self.state.agreed != Some(agreement) {
            self.send(from, &Message::Abort(agreement));
        }
    }

    pub(super) fn handle_abort(&mut self, from: PeerId, agreement: Agreement) {
        if agreement.taker.peer == from && self.state.agreed == Some(agreement) {
            self.persist(Entry::Disagree);
        }
    }

    /// Asks the taker with whom this peer has agreed whether it is still at it.
    fn poke_taker(&mut self) {
        let Some(agreement) = self.state.agreed.filter(|_| self.ticked()) else {
            return;
        };
        let taker = agreement.taker;
        if taker == self.life() {
            if self.attempt.is_none() {
                self.abort();
            }
        } else if self.state.removed.contains(&taker) {
            self.persist(Entry::Disagree);
        } else {
            self.send(taker.peer, &Message::Still(agreement));
        }
    }
}

/// What is not anybody's, of a space that is shared out by slots.
pub(super) fn unaccounted(universe: &IpNet, total: u16, owned: &RangeSet) -> u128 {
    let all = slots_of(universe, &(0..total).collect(), total);
    all.len().saturating_sub(owned.len())
}
