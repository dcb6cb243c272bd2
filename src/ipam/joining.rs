//! How this peer comes by a ring: by voting on its birth, by being named as a founder, or by hearing
//! of one.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::RngExt;

use super::allocator::Core;
use super::birth::Ballots;
use super::ring::{Life, Lineage, Part};
use super::state::{Born, Entry, State};
use super::{Config, Init};

/// How long a peer named as a founder listens for a former life of its own before it takes its
/// slot: the others may know what was given away of it.
const SEED_GRACE: Duration = Duration::from_secs(2);

/// The pause before a peer proposes how the ring is to be born, so that the others can turn up;
/// and the longest further delay, chosen at random, that keeps proposers apart.
const PROPOSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(1500));

impl Core {
    pub(super) fn settle_birth(&mut self) {
        if let Some(born) = &self.state.born {
            self.propose_at = None;
            if !born.settled {
                self.find_slot();
            }
            return;
        }
        self.birth.own.wanted = !self.pending.is_empty();
        if let Some((lineage, total)) = self.heard_of() {
            return self.join(lineage, total);
        }
        match self.config.init.clone() {
            Init::Seed(names) => self.settle_seed(&names),
            // It does not know how many votes decide, and hears of the ring from its members.
            Init::Observer => {}
            Init::Consensus { .. } => self.settle_votes(),
        }
    }

    fn settle_votes(&mut self) {
        if let Some(next) = self.birth.respond() {
            self.vote(next);
            self.propose_at = None;
        }
        if let Some(founders) = self.birth.decided() {
            let lineage = Lineage::of(&self.state.range, &names_of(&founders));
            return self.join(lineage, founders.len() as u16);
        }
        match self.propose_at {
            Some(at) if at <= self.now => {
                self.propose_at = None;
                if let Some(next) = self.birth.propose() {
                    self.vote(next);
                    while let Some(next) = self.birth.respond() {
                        self.vote(next);
                    }
                }
                self.plan_proposal();
            }
            Some(_) => {}
            None => {
                self.plan_proposal();
                self.dirty |= self.propose_at.is_some_and(|at| at <= self.now);
            }
        }
    }

    fn plan_proposal(&mut self) {
        let alone = self.birth.own.expected == 1 && self.birth.electors().len() == 1;
        if alone {
            // Nobody else is expected, but somebody may turn up before anything is asked for.
            self.propose_at = self.birth.wanted().then_some(self.now);
        } else if self.birth.electors().len() >= self.birth.quorum() {
            let extra = self.rng.random_range(Duration::ZERO..PROPOSE.1);
            self.propose_at = Some(self.now + PROPOSE.0 + extra);
        }
    }

    fn vote(&mut self, next: Ballots) {
        self.persist(Entry::Vote(next.promised, next.accepted.clone()));
        self.birth.own = next;
        self.dirty = true;
    }

    fn settle_seed(&mut self, names: &[String]) {
        if self.now < self.started + SEED_GRACE {
            return;
        }
        let lineage = Lineage::of(&self.state.range, names);
        let mine =
            |name: &String| *name == self.config.nickname || *name == self.config.me.to_string();
        let slot = names.iter().position(mine).map(|slot| slot as u16);
        let taken = self
            .view
            .iter()
            .any(|(_, part)| slot.is_some_and(|slot| part.slots.contains(&slot)));
        self.begin(Born {
            lineage,
            total: names.len() as u16,
            slots: slot.filter(|_| !taken).into_iter().collect(),
            settled: true,
        });
    }

    /// The ring that others are in already.
    fn heard_of(&self) -> Option<(Lineage, u16)> {
        let fits = |part: &&Part| part.range == self.state.range && part.slots_total > 0;
        let part = self.view.latest().map(|(_, part)| part).find(fits)?;
        match &self.config.init {
            // Its own ring was named; what others have is another one.
            Init::Seed(names) if part.lineage != Lineage::of(&self.state.range, names) => None,
            Init::Seed(_) if self.now < self.started + SEED_GRACE => None,
            Init::Seed(names)
                if names.iter().any(|name| {
                    *name == self.config.nickname || *name == self.config.me.to_string()
                }) =>
            {
                None
            }
            _ => Some((part.lineage, part.slots_total)),
        }
    }

    fn join(&mut self, lineage: Lineage, total: u16) {
        self.begin(Born {
            lineage,
            total,
            slots: BTreeSet::new(),
            settled: matches!(self.config.init, Init::Seed(_) | Init::Observer),
        });
        self.find_slot();
        self.changed
            .extend(self.view.latest().map(|(peer, _)| peer));
    }

    fn begin(&mut self, born: Born) {
        self.note_contact();
        self.persist(Entry::Born(born));
        self.wait_for_space();
        self.dirty = true;
    }

    /// Looks for this peer among the ring's founders, who may become known after the ring.
    fn find_slot(&mut self) {
        let Some(born) = self.state.born.clone() else {
            return;
        };
        let (range, life) = (self.state.range, self.life());
        let founders = self
            .birth
            .founders_where(|founders| Lineage::of(&range, &names_of(founders)) == born.lineage);
        let Some(founders) = founders else {
            return;
        };
        let slot = founders.iter().position(|founder| *founder == life);
        let slots = born
            .slots
            .iter()
            .copied()
            .chain(slot.map(|slot| slot as u16));
        self.persist(Entry::Born(Born {
            slots: slots.collect(),
            settled: true,
            ..born
        }));
        self.dirty = true;
    }

    /// The founders' names are needed until every one of them has taken its slot.
    pub(super) fn votes_to_publish(&self) -> Ballots {
        let mut votes = self.birth.own.clone();
        let Some(born) = &self.state.born else {
            return votes;
        };
        votes.wanted = false;
        let mut slots = born.slots.clone();
        for (_, part) in self.members() {
            slots.extend(&part.slots);
        }
        if slots.len() == usize::from(born.total) {
            votes.accepted = None;
        }
        votes
    }
}

fn names_of(founders: &[Life]) -> Vec<String> {
    let name = |life: &Life| format!("{}/{}", life.peer, life.incarnation);
    founders.iter().map(name).collect()
}

pub(super) fn ballots(config: &Config, state: &State) -> Ballots {
    let expected = match config.init {
        Init::Consensus { expected } => Some(expected),
        Init::Seed(_) | Init::Observer => None,
    };
    Ballots {
        incarnation: state.incarnation,
        range: state.range,
        elector: expected.is_some(),
        expected: expected.unwrap_or(1).max(1),
        wanted: false,
        promised: state.promised,
        accepted: state.accepted.clone(),
    }
}
