//! The birth of the ring: single-decree Paxos over replicated records.
//!
//! Every elector keeps one record: the ballot it promised and the value it accepted last. Both
//! only ever grow, so whatever mixture of older records a peer sees, what it concludes from them
//! was true at some time; and Paxos needs no more. Records are durable before they are published.
//! The value is the list of founders, each of which gets one slot of every space.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::ring::Life;
use crate::types::PeerId;

/// The most founders a ring can have; the others get their space from them.
pub const MAX_FOUNDERS: usize = 32;

/// Orders proposals; the proposer's name makes it unique.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ballot {
    /// Grows with every attempt, and is never below the incarnation of whose attempt it is.
    pub round: u64,
    /// Whose attempt: the peer's bytes.
    pub proposer: [u8; 16],
}

/// What one peer says about the birth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ballots {
    /// In which life of the peer: a founder that lost its state is not that founder any more.
    pub incarnation: u64,
    /// The range it is to be about; those for another range are not counted.
    pub range: IpNet,
    /// Whether the peer votes; observers do not.
    pub elector: bool,
    /// How many electors it expects.
    pub expected: u16,
    /// Whether it needs the ring now.
    pub wanted: bool,
    /// The highest ballot it has promised.
    pub promised: Ballot,
    /// The last value it accepted, and in which ballot.
    pub accepted: Option<(Ballot, Vec<Life>)>,
}

/// The vote as a peer sees it.
#[derive(Debug)]
pub struct Birth {
    me: PeerId,
    /// What this peer says; durable.
    pub own: Ballots,
    others: BTreeMap<PeerId, Ballots>,
}

impl Birth {
    /// The vote as it stands for this peer alone.
    pub fn new(me: PeerId, own: Ballots) -> Self {
        Self {
            me,
            own,
            others: BTreeMap::new(),
        }
    }

    /// Takes note of what another peer says, or that it is gone.
    pub fn observe(&mut self, peer: PeerId, ballots: Option<Ballots>) {
        match ballots {
            // What an observer says matters only while it waits.
            Some(ballots) if peer != self.me && (ballots.elector || ballots.wanted) => {
                self.others.insert(peer, ballots)
            }
            _ => self.others.remove(&peer),
        };
    }

    /// The electors known so far.
    pub fn electors(&self) -> BTreeSet<PeerId> {
        let others = self.relevant().map(|(peer, _)| peer);
        others.chain(self.own.elector.then_some(self.me)).collect()
    }

    /// The founders of a ring for which this holds, as far as any known vote names them.
    pub fn founders_where(&self, fits: impl Fn(&[Life]) -> bool) -> Option<Vec<Life>> {
        self.voters()
            .filter_map(|(_, ballots)| ballots.accepted.as_ref())
            .find(|(_, value)| fits(value))
            .map(|(_, value)| value.clone())
    }

    /// How many votes decide: more than half of the electors expected, or known if they are more.
    pub fn quorum(&self) -> usize {
        let expected = usize::from(self.own.expected).max(self.electors().len());
        expected / 2 + 1
    }

    /// Whether somebody waits for the ring.
    pub fn wanted(&self) -> bool {
        self.own.wanted || self.others.values().any(|ballots| ballots.wanted)
    }

    /// What was decided, once it was.
    pub fn decided(&self) -> Option<Vec<Life>> {
        let mut votes: BTreeMap<&(Ballot, Vec<Life>), usize> = BTreeMap::new();
        for (_, ballots) in self.voters() {
            if let Some(accepted) = &ballots.accepted {
                *votes.entry(accepted).or_default() += 1;
            }
        }
        votes
            .into_iter()
            .find(|(_, count)| *count >= self.quorum())
            .map(|((_, value), _)| value.clone())
    }

    /// What this elector should say now that it knows the others' votes; `None` when nothing new.
    pub fn respond(&self) -> Option<Ballots> {
        if !self.own.elector {
            return None;
        }
        let mut next = self.own.clone();
        if let Some(highest) = self.relevant().map(|(_, b)| b.promised).max() {
            next.promised = next.promised.max(highest);
        }
        let ours = self.own.accepted.as_ref().map(|(ballot, _)| *ballot);
        let newest = self
            .relevant()
            .filter_map(|(_, b)| b.accepted.as_ref())
            .filter(|(ballot, _)| *ballot >= next.promised && Some(*ballot) > ours)
            .max_by_key(|(ballot, _)| *ballot);
        if let Some((ballot, value)) = newest {
            next.promised = *ballot;
            next.accepted = Some((*ballot, value.clone()));
        } else if self.is_own(&next.promised)
            && ours != Some(next.promised)
            && next.promised == self.own.promised
        {
            let promised = |ballots: &Ballots| ballots.promised == next.promised;
            let voters: Vec<_> = self.voters().filter(|(_, b)| promised(b)).collect();
            if voters.len() >= self.quorum() {
                let value = voters
                    .iter()
                    .filter_map(|(_, ballots)| ballots.accepted.as_ref())
                    .max_by_key(|(ballot, _)| *ballot)
                    .map_or_else(|| self.founders(), |(_, value)| value.clone());
                next.accepted = Some((next.promised, value));
            }
        }
        (next != self.own).then_some(next)
    }

    /// A new attempt of this peer, above all ballots it has seen.
    pub fn propose(&self) -> Option<Ballots> {
        if !self.own.elector || self.electors().len() < self.quorum() {
            return None;
        }
        let highest = self
            .voters()
            .map(|(_, ballots)| ballots.promised.round)
            .max()
            .unwrap_or_default();
        let mut next = self.own.clone();
        next.promised = Ballot {
            round: highest.checked_add(1)?.max(self.own.incarnation),
            proposer: *self.me.as_bytes(),
        };
        Some(next)
    }

    /// Whether this life made the proposal: what a former one was promised, others still say, and
    /// what came of it is forgotten.
    fn is_own(&self, ballot: &Ballot) -> bool {
        ballot.proposer == *self.me.as_bytes() && ballot.round >= self.own.incarnation
    }

    fn founders(&self) -> Vec<Life> {
        let others = self.relevant().take(MAX_FOUNDERS - 1);
        let founders: BTreeSet<Life> = others
            .chain([(self.me, &self.own)])
            .map(|(peer, ballots)| Life {
                peer,
                incarnation: ballots.incarnation,
            })
            .collect();
        founders.into_iter().collect()
    }

    fn relevant(&self) -> impl Iterator<Item = (PeerId, &Ballots)> {
        let fits = |ballots: &Ballots| ballots.elector && ballots.range == self.own.range;
        self.others
            .iter()
            .filter(move |(_, ballots)| fits(ballots))
            .map(|(&peer, ballots)| (peer, ballots))
    }

    fn voters(&self) -> impl Iterator<Item = (PeerId, &Ballots)> {
        self.relevant()
            .chain(self.own.elector.then_some((self.me, &self.own)))
    }
}
