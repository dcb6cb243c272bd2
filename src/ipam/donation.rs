//! Space changes hands: asking for it, giving and taking it.
//!
//! A gift is made in one durable step: from then on the giver does not own the space, and its part
//! says to whose life it went until that one's part says that it has it. The message is only the
//! fast way; when it is lost, the giver's part tells the receiver.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::AddressSpace;
use super::allocator::Core;
use super::range::Range;
use super::ring::{Gift, Life, Lineage, Part};
use super::space::Holder;
use super::state::{Entry, is_global};
use super::wire::{Message, Refusal};
use crate::types::PeerId;

/// How long one peer has to answer before the next is asked.
const ANSWER: Duration = Duration::from_millis(400);

/// How long before a peer that refused is asked once more.
const AGAIN: Duration = Duration::from_millis(700);

/// A gift is at most half of an equal share among the members, who are taken to be at least so
/// many: halving alone would leave the tenth to ask with next to nothing.
const FEW_MEMBERS: u128 = 4;

/// The most gifts on their way to one peer; more would be a peer that never answers.
const MAX_UNDERWAY: usize = 256;

/// What would help a request: space of this range, for this kind of network.
pub(super) type Need = (IpNet, Range, AddressSpace);

/// One search for space.
#[derive(Debug, Default)]
pub(super) struct Ask {
    id: u64,
    pub(super) asked: Option<(PeerId, Instant)>,
    /// What became of the last question to each peer.
    pub(super) outcomes: BTreeMap<PeerId, String>,
    /// Who need not be asked again in this round.
    tried: BTreeSet<PeerId>,
    again: Option<Instant>,
    /// The address asked for is in use: by whom.
    pub(super) in_use: Option<String>,
    /// The address asked for is a swarm service's.
    pub(super) swarm_owned: bool,
}

impl Ask {
    fn note(&mut self, peer: PeerId, outcome: String) {
        self.asked = None;
        self.tried.insert(peer);
        self.outcomes.insert(peer, outcome);
    }
}

impl Core {
    pub(super) fn next_ask_timeout(&self) -> Option<Instant> {
        let asks = self.asks.values();
        asks.filter_map(|ask| match ask.asked {
            Some((_, at)) => Some(at + ANSWER),
            None => ask.again,
        })
        .min()
    }

    /// Goes on with the search for space of this kind.
    pub(super) fn ask_for(&mut self, need: Need) {
        let Some(lineage) = self.lineage() else {
            return;
        };
        let mut ask = self.asks.remove(&need).unwrap_or_default();
        if let Some((peer, at)) = ask.asked {
            if self.now < at + ANSWER && self.reachable.contains(&peer) {
                self.asks.insert(need, ask);
                return;
            }
            ask.note(peer, "did not answer".to_owned());
        }
        if ask.again.is_some_and(|at| at <= self.now) {
            ask.again = None;
            ask.tried.clear();
        }
        let (universe, range, space) = need;
        let owners = self.view.owners(lineage, &universe, range);
        let next = owners.into_iter().map(|(peer, _)| peer).find(|peer| {
            *peer != self.config.me && self.reachable.contains(peer) && !ask.tried.contains(peer)
        });
        if let Some(peer) = next {
            self.next_ask += 1;
            ask.id = self.next_ask;
            ask.asked = Some((peer, self.now));
            let message = Message::Ask {
                id: ask.id,
                incarnation: self.state.incarnation,
                lineage,
                universe,
                range,
                space,
                taken: self.state.taken.get(&peer).copied(),
            };
            self.send(peer, &message);
        } else if ask.again.is_none() {
            ask.again = Some(self.now + AGAIN);
        }
        self.asks.insert(need, ask);
    }

    pub(super) fn handle_refusal(&mut self, from: PeerId, id: u64, reason: Refusal) {
        let ask = self.asks.values_mut().find(|ask| ask.id == id);
        let Some(ask) = ask else {
            return;
        };
        if ask.asked.is_none_or(|(peer, _)| peer != from) {
            return;
        }
        let outcome = match reason {
            Refusal::Nothing => "has nothing left".to_owned(),
            Refusal::InUse(holder) => {
                ask.in_use = Some(holder.clone());
                format!("has it in use by {holder}")
            }
            Refusal::SwarmOwned => {
                ask.swarm_owned = true;
                "has it for a swarm service".to_owned()
            }
            Refusal::OtherRing => "is in another ring".to_owned(),
            Refusal::NotNow(why) => why,
        };
        ask.note(from, outcome);
    }

    pub(super) fn handle_ask(
        &mut self,
        asker: Life,
        id: u64,
        lineage: Lineage,
        need: Need,
        taken: Option<u64>,
    ) {
        match self.give(asker, lineage, need, taken) {
            Ok(()) => self.send_gifts(asker),
            Err(reason) => self.send(asker.peer, &Message::Refusal { id, reason }),
        }
    }

    fn give(
        &mut self,
        asker: Life,
        lineage: Lineage,
        need: Need,
        taken: Option<u64>,
    ) -> Result<(), Refusal> {
        let (universe, range, space) = need;
        if self.lineage() != Some(lineage) {
            return Err(Refusal::OtherRing);
        }
        if !range.is_valid() || !Range::of_net(&universe).covers(range) {
            return Err(Refusal::Nothing);
        }
        let underway = self.state.gifts.iter().filter(|gift| gift.to == asker);
        if underway.clone().count() >= MAX_UNDERWAY {
            return Err(Refusal::NotNow("has sent much already".to_owned()));
        }
        // A repeated question is answered by what was given to the first; what the asker has taken
        // since was not enough, though its part may not say yet that it has it.
        let on_its_way = |gift: &Gift| taken.is_none_or(|taken| gift.number > taken);
        if underway.clone().any(|gift| {
            let helps = gift.universe == universe && gift.range.intersection(range).is_some();
            helps && on_its_way(gift)
        }) {
            return Ok(());
        }
        self.may_give(asker)?;
        if !self.state.spaces.contains_key(&universe) {
            if self.state.owned(&universe).is_empty() {
                return Err(Refusal::Nothing);
            }
            self.persist(Entry::Open(universe));
        }
        let members = (self.members().count() as u128 + 1).max(FEW_MEMBERS);
        let Some(known) = self.state.spaces.get(&universe) else {
            return Err(Refusal::Nothing);
        };
        let mut in_use = false;
        let given = if range.len() > 1 {
            known.spare(range, range.len() / (2 * members))
        } else {
            let holders = known.holders(range.first);
            in_use = !holders.is_empty();
            if in_use && !(space == AddressSpace::Global && holders.iter().all(is_global)) {
                return Err(self.refuse_used(holders, space));
            }
            known.owned().contains(range.first).then_some(range)
        };
        let Some(given) = given else {
            return Err(Refusal::Nothing);
        };
        self.make_gift(asker, universe, given, in_use);
        Ok(())
    }

    fn refuse_used(&self, holders: &[Holder], space: AddressSpace) -> Refusal {
        if space == AddressSpace::Local && holders.iter().any(is_global) {
            return Refusal::SwarmOwned;
        }
        let holder = holders.first().map(ToString::to_string);
        let holder = holder.unwrap_or_default();
        Refusal::InUse(format!("{holder} on host {}", self.config.nickname))
    }

    fn may_give(&self, to: Life) -> Result<(), Refusal> {
        if self.is_fenced() {
            let why = "was cut off from most peers for too long";
            return Err(Refusal::NotNow(why.to_owned()));
        }
        if self.is_frozen() {
            let why = "waits until a dead peer's space is taken over";
            return Err(Refusal::NotNow(why.to_owned()));
        }
        if self.state.removed.contains(&to) {
            let why = "the asker's space was taken over";
            return Err(Refusal::NotNow(why.to_owned()));
        }
        Ok(())
    }

    fn make_gift(&mut self, to: Life, universe: IpNet, range: Range, in_use: bool) {
        self.persist(Entry::Give(Gift {
            to,
            number: self.state.next_gift,
            universe,
            range,
            in_use,
        }));
        self.dirty = true;
    }

    /// Gives all space away that anybody has opened: this peer leaves. Its slots in the spaces that
    /// nobody has opened remain, until its name is removed.
    pub(super) fn give_everything(&mut self, to: Life) {
        if self.may_give(to).is_err() {
            return;
        }
        let mut universes: BTreeSet<IpNet> = self.view.universes();
        universes.extend(self.state.spaces.keys());
        universes.insert(self.state.range);
        for universe in universes {
            for range in self.state.owned(&universe).iter() {
                self.make_gift(to, universe, range, false);
            }
        }
        self.send_gifts(to);
    }

    pub(super) fn send_gifts(&mut self, to: Life) {
        let Some(lineage) = self.lineage() else {
            return;
        };
        let gifts = self.state.gifts.iter().filter(|gift| gift.to == to);
        let gifts = gifts.cloned().collect();
        let message = Message::Gifts {
            incarnation: self.state.incarnation,
            lineage,
            gifts,
        };
        self.send(to.peer, &message);
    }

    pub(super) fn take_gifts(&mut self, giver: Life, lineage: Lineage, gifts: &[Gift]) {
        if self.lineage() != Some(lineage)
            || self.state.removed.contains(&giver)
            || self.state.agreed.is_some_and(|agreed| agreed.life == giver)
        {
            return;
        }
        let last = self.state.taken.get(&giver.peer).copied();
        let me = self.life();
        let mut new: Vec<Gift> = gifts
            .iter()
            .filter(|gift| gift.to == me && last.is_none_or(|last| gift.number > last))
            .filter(|gift| {
                gift.range.is_valid() && Range::of_net(&gift.universe).covers(gift.range)
            })
            .cloned()
            .collect();
        if new.is_empty() {
            return;
        }
        new.sort_by_key(|gift| gift.number);
        for gift in &new {
            for ask in self.asks.values_mut() {
                if ask.asked.is_some_and(|(peer, _)| peer == giver.peer) {
                    ask.asked = None;
                }
            }
            let need = (gift.universe, gift.range);
            self.asks.retain(|ask, _| (ask.0, ask.1) != need);
        }
        self.persist(Entry::Take(giver.peer, new));
        self.dirty = true;
    }

    /// Takes what another peer's part says it gave, notes what it has taken, and gives it the
    /// addresses that its containers use already.
    pub(super) fn follow_gifts(&mut self, peer: PeerId, part: &Part) {
        let giver = part.life(peer);
        if let Some(&number) = part.taken.get(&self.config.me)
            && !self.is_frozen()
            && self
                .state
                .gifts
                .iter()
                .any(|gift| gift.to.peer == peer && gift.number <= number)
        {
            self.note_part(peer, part);
            self.persist(Entry::Received(peer, number));
            self.dirty = true;
        }
        self.take_gifts(giver, part.lineage, &part.gifts);
        self.settle_held(giver, part);
        let lost = self.state.gifts.iter().any(|gift| gift.to == giver);
        if lost && self.reachable.contains(&peer) && self.ticked() {
            self.send_gifts(giver);
        }
    }

    fn settle_held(&mut self, life: Life, part: &Part) {
        let key = |address| format!("held {} {address}", life.peer);
        let stale: BTreeSet<String> = self
            .conflicts
            .keys()
            .filter(|k| k.starts_with(&format!("held {} ", life.peer)))
            .cloned()
            .collect();
        for key in stale {
            self.conflicts.remove(&key);
        }
        for held in &part.held {
            let place = (held.universe, held.address);
            if !self.state.owns(&place) {
                continue;
            }
            let holders = self.state.holders(&place).to_vec();
            let global = held.global && holders.iter().all(is_global);
            if holders.is_empty() || global {
                if self.may_give(life).is_ok() {
                    let range = Range::new(held.address, held.address);
                    self.make_gift(life, held.universe, range, !holders.is_empty());
                    self.send_gifts(life);
                }
                continue;
            }
            let address = super::range::address(&held.universe, held.address);
            let holder = holders.first().map(ToString::to_string).unwrap_or_default();
            self.conflicts.insert(
                key(address),
                format!(
                    "{address} is used by {holder} on this host and by a container on {}: restart \
                     one of the two",
                    part.nickname
                ),
            );
        }
    }
}
