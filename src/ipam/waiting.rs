//! Requests that wait: for space from another peer, for the ring, for a takeover.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::allocator::Core;
use super::donation::Need;
use super::range::{Range, address};
use super::ring::Part;
use super::space::Holder;
use super::state::{Entry, Place, is_global};
use super::{AddressSpace, IpamError, Response};
use crate::types::PeerId;

/// How long a request waits for other peers' space before it says why there is none: less than
/// two seconds with the way to Docker and back.
const DONATION_WAIT: Duration = Duration::from_millis(1900);

/// How long a request for an address waits for the ring's birth, before it waits for space of the
/// ring. Docker waits with it.
const BIRTH_WAIT: Duration = Duration::from_secs(5);

/// How long an operator waits for the ring's birth, for a takeover, or for what was given away to
/// arrive.
const OPERATOR_WAIT: Duration = Duration::from_secs(8);

/// The most requests that may wait at the same time.
const MAX_PENDING: usize = 4096;

/// A request that cannot be answered yet.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) wish: Wish,
    pub(super) deadline: Instant,
}

/// What a waiting request waits for.
#[derive(Debug, Clone)]
pub(super) enum Wish {
    /// Any address of a pool.
    Any {
        universe: IpNet,
        hosts: Range,
        holder: Holder,
        prefix: u8,
    },
    /// This very address.
    Exact {
        place: Place,
        holder: Holder,
        prefix: u8,
        /// A container has it already.
        running: bool,
    },
    /// The ring.
    Ready,
    /// That a peer's space is taken over.
    Removal(PeerId),
    /// That what was given away has arrived.
    Departure,
}

impl Wish {
    pub(super) fn need(&self) -> Option<Need> {
        match self {
            Self::Any {
                universe,
                hosts,
                holder,
                ..
            } => Some((*universe, *hosts, space_of(holder))),
            Self::Exact { place, holder, .. } => {
                Some((place.0, Range::new(place.1, place.1), space_of(holder)))
            }
            Self::Ready | Self::Removal(_) | Self::Departure => None,
        }
    }
}

fn space_of(holder: &Holder) -> AddressSpace {
    match holder {
        Holder::Docker(space) => *space,
        Holder::Container(..) | Holder::Gateway => AddressSpace::Local,
    }
}

pub(super) type Answer = Result<Response, IpamError>;

impl Core {
    /// Answers at once if that is possible, else waits.
    pub(super) fn wish(&mut self, id: u64, wish: Wish) {
        if let Some(answer) = self.grant(&wish) {
            return self.reply(id, answer);
        }
        if self.pending.len() >= MAX_PENDING {
            let error = format!("{MAX_PENDING} requests are waiting already");
            return self.reply(id, Err(IpamError::Waiting(error)));
        }
        let patience = match wish {
            Wish::Ready | Wish::Removal(_) | Wish::Departure => OPERATOR_WAIT,
            _ if self.state.born.is_none() => BIRTH_WAIT,
            _ => DONATION_WAIT,
        };
        let deadline = self.now + patience;
        self.pending.insert(id, Pending { wish, deadline });
        self.dirty = true;
    }

    /// The ring is there: those who waited for it wait for its space as long as anybody does.
    pub(super) fn wait_for_space(&mut self) {
        let deadline = self.now + DONATION_WAIT;
        let waiting = self.pending.values_mut();
        for pending in waiting.filter(|pending| pending.wish.need().is_some()) {
            pending.deadline = deadline;
        }
    }

    fn grant(&mut self, wish: &Wish) -> Option<Answer> {
        match wish {
            Wish::Any {
                universe,
                hosts,
                holder,
                prefix,
            } => self.grant_any(*universe, *hosts, holder, *prefix),
            Wish::Exact {
                place,
                holder,
                prefix,
                running,
            } => self.grant_exact(*place, holder, *prefix, *running),
            Wish::Ready => self.state.born.is_some().then_some(Ok(Response::Done)),
            Wish::Removal(peer) => {
                let done = self.view.of(*peer).is_none();
                done.then_some(Ok(Response::Done))
            }
            Wish::Departure => self.state.gifts.is_empty().then_some(Ok(Response::Done)),
        }
    }

    fn grant_any(
        &mut self,
        universe: IpNet,
        hosts: Range,
        holder: &Holder,
        prefix: u8,
    ) -> Option<Answer> {
        self.state.born.as_ref()?;
        if self.is_fenced() {
            return Some(Err(IpamError::Waiting(
                "this host was cut off from most of its peers for so long that they may have \
                 taken its addresses over: connect it again"
                    .to_owned(),
            )));
        }
        if !self.state.spaces.contains_key(&universe) && !self.state.owned(&universe).is_empty() {
            self.persist(Entry::Open(universe));
            self.dirty = true;
        }
        let cursor = self.state.cursors.get(&(universe, hosts)).copied();
        let cursor = cursor.unwrap_or(hosts.first);
        let free = self.next_free(universe, hosts, cursor, space_of(holder))?;
        self.persist(Entry::Allocate((universe, free), hosts, holder.clone()));
        Some(answer(address(&universe, free), prefix))
    }

    /// The next free address that no network on another host has reserved, and no task of the swarm
    /// has: their manager may have lost what it knew.
    fn next_free(
        &self,
        universe: IpNet,
        hosts: Range,
        cursor: u128,
        space: AddressSpace,
    ) -> Option<u128> {
        let free = self.state.spaces.get(&universe)?;
        let first = free.next_free(hosts, cursor)?;
        let mut next = first;
        loop {
            let place = (universe, next);
            let reserved = self.reserved_elsewhere.contains(&place);
            if !reserved && !self.state.borrowed.contains(&place) {
                let of_task = |part: &Part| part.borrowed.binary_search(&place).is_ok();
                // Only the swarm's manager hands out addresses beside those of its tasks.
                let mut parts = self.members().map(|(_, part)| part);
                if space == AddressSpace::Local || !parts.any(of_task) {
                    return Some(next);
                }
            }
            next = free.next_free(hosts, next.saturating_add(1))?;
            if next == first {
                return None;
            }
        }
    }

    fn grant_exact(
        &mut self,
        place: Place,
        holder: &Holder,
        prefix: u8,
        running: bool,
    ) -> Option<Answer> {
        let wanted = address(&place.0, place.1);
        let holders = self.state.holders(&place);
        let (again, global) = (holders.contains(holder), is_global(holder));
        let idle = holders.is_empty();
        let by_swarm = !idle && holders.iter().any(is_global);
        let named = matches!(holder, Holder::Container(..));
        if again && (global || named || by_swarm) || self.state.borrowed.contains(&place) {
            return Some(answer(wanted, prefix));
        }
        if !(idle || by_swarm || global && self.only_gateway(place)) {
            let holder = holders.first().map(ToString::to_string);
            return Some(Err(IpamError::InUse {
                address: wanted,
                holder: format!(
                    "{} on this host",
                    holder.unwrap_or_else(|| "nobody".to_owned())
                ),
            }));
        }
        if self.state.owns(&place) || !idle {
            // A fenced peer may hand out nothing; what runs already runs.
            if self.is_fenced() && idle && !running {
                return Some(Err(IpamError::Waiting(
                    "this host was cut off from most of its peers for too long".to_owned(),
                )));
            }
            self.hold(place, holder);
            return Some(answer(wanted, prefix));
        }
        if global {
            // The swarm's managers have agreed on it; the owner hands it over when it hears.
            self.hold(place, holder);
            return Some(answer(wanted, prefix));
        }
        let need = (place.0, Range::new(place.1, place.1), space_of(holder));
        let ask = self.asks.get(&need)?;
        if ask.swarm_owned {
            self.asks.remove(&need);
            self.persist(Entry::Borrow(place));
            return Some(answer(wanted, prefix));
        }
        let holder = ask.in_use.clone()?;
        self.asks.remove(&need);
        Some(Err(IpamError::InUse {
            address: wanted,
            holder,
        }))
    }

    fn only_gateway(&self, place: Place) -> bool {
        let holders = self.state.holders(&place);
        holders.iter().all(|holder| *holder == Holder::Gateway)
    }

    fn hold(&mut self, place: Place, holder: &Holder) {
        self.persist(Entry::Hold(place, holder.clone()));
        self.dirty |= self.state.held.contains_key(&place);
    }

    /// Answers those who wait, asks on behalf of the others, and lets nobody wait for ever.
    pub(super) fn settle_pending(&mut self) {
        let mut needs: BTreeSet<Need> = BTreeSet::new();
        let waiting: Vec<(u64, Wish)> = self
            .pending
            .iter()
            .map(|(id, pending)| (*id, pending.wish.clone()))
            .collect();
        for (id, wish) in waiting {
            if let Some(answer) = self.grant(&wish) {
                self.pending.remove(&id);
                self.reply(id, answer);
                continue;
            }
            needs.extend(wish.need());
        }
        self.asks.retain(|need, _| needs.contains(need));
        for need in needs {
            self.ask_for(need);
        }
        let now = self.now;
        let late = self.pending.iter().filter(|(_, p)| p.deadline <= now);
        let late: Vec<u64> = late.map(|(id, _)| *id).collect();
        for id in late {
            if let Some(pending) = self.pending.remove(&id) {
                let answer = self.too_late(&pending.wish);
                self.reply(id, answer);
            }
        }
    }

    fn too_late(&mut self, wish: &Wish) -> Answer {
        match wish {
            Wish::Exact {
                place,
                holder,
                prefix,
                running,
            } => {
                let wanted = address(&place.0, place.1);
                if *running {
                    self.hold(*place, holder);
                    return answer(wanted, *prefix);
                }
                if self.is_of_swarm(wanted) && space_of(holder) == AddressSpace::Local {
                    self.persist(Entry::Borrow(*place));
                    return answer(wanted, *prefix);
                }
                Err(self.nothing(wish, &wanted.to_string()))
            }
            Wish::Any {
                universe, hosts, ..
            } => {
                let (first, last) = (
                    address(universe, hosts.first),
                    address(universe, hosts.last),
                );
                Err(self.nothing(wish, &format!("{first} to {last}")))
            }
            Wish::Ready => Err(IpamError::Waiting(self.why_unborn())),
            Wish::Removal(peer) => Err(IpamError::Waiting(self.why_not_removed(*peer))),
            Wish::Departure => Err(IpamError::Waiting(
                "the space of this host was given away; the receiver has not said yet that it has \
                 it"
                .to_owned(),
            )),
        }
    }

    /// Whether the address lies in the subnet of a swarm's network.
    pub(super) fn is_of_swarm(&self, address: IpAddr) -> bool {
        let theirs = self.members().flat_map(|(_, part)| &part.swarm_pools);
        let mut pools = self.state.swarm_pools.iter().chain(theirs);
        pools.any(|pool| pool.contains(&address))
    }

    fn nothing(&self, wish: &Wish, pool: &str) -> IpamError {
        if self.state.born.is_none() {
            return IpamError::Waiting(self.why_unborn());
        }
        let mut reasons = Vec::new();
        let need = wish.need();
        if let Some(ask) = need.and_then(|need| self.asks.get(&need)) {
            let asked = ask.asked.map(|(peer, _)| peer);
            let outcomes = ask
                .outcomes
                .iter()
                .filter(|(peer, _)| Some(**peer) != asked);
            reasons.extend(outcomes.map(|(peer, why)| format!("{} {why}", self.name(*peer))));
            reasons.extend(asked.map(|peer| format!("{} has not answered yet", self.name(peer))));
        }
        if let (Some((universe, range, _)), Some(lineage)) = (need, self.lineage()) {
            for (peer, _) in self.view.owners(lineage, &universe, range) {
                if !self.reachable.contains(&peer) && peer != self.config.me {
                    let name = self.name(peer);
                    reasons.push(format!(
                        "{name} cannot be reached (if it is gone for good: `weave rmpeer {peer}`)"
                    ));
                }
            }
        }
        if reasons.is_empty() {
            let reason = match need {
                Some((universe, range, _)) if !self.owners_known(&universe, range) => {
                    "this host has none left, and has not heard yet of the peers that own the rest"
                }
                _ => "this host has none left, and no other peer is known to",
            };
            reasons.push(reason.to_owned());
        }
        IpamError::Exhausted {
            pool: pool.to_owned(),
            reason: reasons.join(", "),
        }
    }

    fn owners_known(&self, universe: &IpNet, range: Range) -> bool {
        let mut owned = self.state.owned(universe);
        for (_, part) in self.members() {
            owned.extend(part.owned(universe).iter());
        }
        owned.covers(range)
    }

    pub(super) fn name(&self, peer: PeerId) -> String {
        match self.view.of(peer) {
            Some(part) => part.nickname.to_string(),
            None => peer.short(),
        }
    }

    fn why_not_removed(&self, peer: PeerId) -> String {
        let silent: Vec<String> = self
            .view
            .lives(peer)
            .flat_map(|(life, _)| self.required(*life))
            .filter(|peer| !self.reachable.contains(peer))
            .map(|peer| format!("{} ({peer})", self.name(peer)))
            .collect();
        let name = self.name(peer);
        if silent.is_empty() {
            return format!("the space of {name} is being taken over: it goes on by itself");
        }
        format!(
            "the space of {name} is taken over once {} can be reached, who may have got some of \
             it last; if they are gone as well, remove them too",
            silent.join(", ")
        )
    }

    pub(super) fn removal_requested(&self, peer: PeerId) -> bool {
        let mut pending = self.pending.values();
        pending.any(|pending| matches!(pending.wish, Wish::Removal(other) if other == peer))
    }

    pub(super) fn pending_counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        for pending in self.pending.values() {
            let kind = match pending.wish {
                Wish::Any { .. } => "allocate",
                Wish::Exact { .. } => "claim",
                Wish::Ready => "prime",
                Wish::Removal(_) => "rmpeer",
                Wish::Departure => "reset",
            };
            *counts.entry(kind).or_default() += 1;
        }
        counts
    }
}

pub(super) fn answer(address: IpAddr, prefix: u8) -> Answer {
    IpNet::new(address, prefix)
        .map(Response::Address)
        .map_err(|_| IpamError::Invalid(format!("{prefix} is no prefix length for {address}")))
}
