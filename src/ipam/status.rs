//! What the allocator says of itself.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::allocator::Core;
use super::range::{Range, address};
use super::removal::unaccounted;
use super::state::is_global;
use super::{Config, Init};
use crate::types::PeerId;

/// The state of address allocation on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IpamStatus {
    /// `idle`, `awaiting consensus`, `ready`, `cut off`, `no space on the disk`.
    pub state: String,
    /// Why it is in this state, for people.
    pub reason: String,
    /// The main range.
    pub range: IpNet,
    /// The subnet of networks that name none.
    pub default_subnet: IpNet,
    /// The name of the ring, once it was born.
    pub ring: Option<String>,
    /// The main range and every other subnet from which somebody allocates.
    pub spaces: Vec<SpaceStatus>,
    /// Requests that wait, by kind.
    pub pending: BTreeMap<String, usize>,
    /// What an operator should know and do something about.
    pub conflicts: Vec<String>,
}

/// One subnet from which addresses are allocated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpaceStatus {
    /// The subnet.
    pub subnet: IpNet,
    /// Its peers, those with most space first.
    pub peers: Vec<PeerShare>,
    /// How many addresses belong to peers that cannot be reached.
    pub unreachable: u128,
    /// How many addresses belong to nobody that is known.
    pub unaccounted: u128,
}

/// What one peer has of a subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerShare {
    /// Which peer.
    pub peer: PeerId,
    /// What it calls itself.
    pub nickname: String,
    /// Whether it is reachable; this host is.
    pub reachable: bool,
    /// How many addresses it owns.
    pub addresses: u128,
    /// What part of the subnet that is, in thousandths.
    pub share: u32,
    /// How many of them are in use; of other peers, as they last said.
    pub active: u64,
}

impl Core {
    /// What the allocator says of itself.
    pub fn status(&self) -> IpamStatus {
        let (state, reason) = self.summary();
        let mut spaces: Vec<IpNet> = vec![self.state.range];
        if self.state.born.is_some() {
            let known = self.state.spaces.keys().copied();
            let others = self
                .members()
                .flat_map(|(_, part)| part.spaces.keys().copied());
            let all: std::collections::BTreeSet<IpNet> = known.chain(others).collect();
            spaces.extend(all.into_iter().filter(|net| *net != self.state.range));
        }
        let pending = self.pending_counts();
        IpamStatus {
            state: state.to_owned(),
            reason,
            range: self.state.range,
            default_subnet: self.config.default_subnet,
            ring: self.lineage().map(|lineage| lineage.to_string()),
            spaces: spaces.iter().map(|net| self.space_status(net)).collect(),
            pending: pending
                .into_iter()
                .map(|(k, n)| (k.to_owned(), n))
                .collect(),
            conflicts: self
                .conflicts
                .values()
                .cloned()
                .chain(self.held_of_others())
                .collect(),
        }
    }

    /// Addresses that containers here use and that belong to others, who may have given them to
    /// containers of their own.
    fn held_of_others(&self) -> impl Iterator<Item = String> {
        let held = self.state.held.iter();
        let by_docker = held.filter(|(_, holders)| !holders.iter().all(is_global));
        by_docker.filter_map(|((universe, n), _)| {
            let lineage = self.lineage()?;
            let range = Range::new(*n, *n);
            let owner = self.view.owners(lineage, universe, range).first().copied();
            let (owner, _) = owner?;
            Some(format!(
                "{} is used by a container on this host and belongs to {}, who has not handed it \
                 over: see its status, and restart one of the two containers if it is used there",
                address(universe, *n),
                self.name(owner)
            ))
        })
    }

    fn summary(&self) -> (&'static str, String) {
        if let Some(error) = &self.store_error {
            return (
                "no space on the disk",
                format!("nothing new is handed out: {error}"),
            );
        }
        if self.state.born.is_none() {
            let state = if self.pending.is_empty() {
                "idle"
            } else {
                "awaiting consensus"
            };
            return (state, self.why_unborn());
        }
        if self.is_fenced() {
            let reason = "most peers could not be reached for so long that they may have taken \
                          this host's addresses over";
            return ("cut off", reason.to_owned());
        }
        let owned = self.state.owned(&self.state.range).len();
        (
            "ready",
            format!("{owned} addresses of {} are this host's", self.state.range),
        )
    }

    pub(super) fn why_unborn(&self) -> String {
        match &self.config.init {
            Init::Seed(names) => format!(
                "listening for a former life of this host before it takes its slot of seed {}",
                names.join(",")
            ),
            Init::Observer => {
                "waiting for the peers that are not observers to agree on the ring".to_owned()
            }
            Init::Consensus { expected: 1 } if self.birth.electors().len() == 1 => {
                "no address was needed yet".to_owned()
            }
            Init::Consensus { expected } => {
                let electors = self.birth.electors();
                let names: Vec<String> = electors
                    .iter()
                    .map(|peer| {
                        if *peer == self.config.me {
                            self.config.nickname.clone()
                        } else {
                            self.name(*peer)
                        }
                    })
                    .collect();
                format!(
                    "waiting for {} of {expected} expected peers: {} known ({})",
                    self.birth.quorum(),
                    electors.len(),
                    names.join(", ")
                )
            }
        }
    }

    fn space_status(&self, net: &IpNet) -> SpaceStatus {
        let all = Range::of_net(net).len();
        let share = |addresses: u128| {
            // Thousandths of a part fit.
            (addresses / (all / 1000).max(1)).min(1000) as u32
        };
        let own = self.state.owned(net);
        let mut total = own.clone();
        let mut peers = vec![PeerShare {
            peer: self.config.me,
            nickname: self.config.nickname.clone(),
            reachable: true,
            addresses: own.len(),
            share: share(own.len()),
            active: self
                .state
                .spaces
                .get(net)
                .map_or(0, |space| space.used().len() as u64),
        }];
        for (peer, part) in self.members() {
            let owned = part.owned(net);
            total.extend(owned.iter());
            peers.push(PeerShare {
                peer,
                nickname: part.nickname.to_string(),
                reachable: self.reachable.contains(&peer),
                addresses: owned.len(),
                share: share(owned.len()),
                active: part.used.get(net).copied().unwrap_or_default(),
            });
        }
        peers.sort_by_key(|peer| std::cmp::Reverse(peer.addresses));
        let unreachable = peers.iter().filter(|peer| !peer.reachable);
        SpaceStatus {
            subnet: *net,
            unreachable: unreachable.map(|peer| peer.addresses).sum(),
            unaccounted: self
                .state
                .born
                .as_ref()
                .map_or(0, |born| unaccounted(net, born.total, &total)),
            peers,
        }
    }
}

impl Config {
    /// Settings for a peer with this name, with the defaults of everything else.
    pub fn new(me: PeerId, nickname: impl Into<String>, range: IpNet) -> Self {
        Self {
            me,
            nickname: nickname.into(),
            range: range.trunc(),
            default_subnet: range.trunc(),
            init: Init::Consensus { expected: 1 },
            takeover_after: Some(super::TAKEOVER_AFTER),
        }
    }
}
