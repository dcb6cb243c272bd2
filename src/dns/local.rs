//! The names of this host: those of its containers, and those that operators have added.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::record::{Binding, Registration};
use super::{DnsError, NameRequest, within};
use crate::store::Store;
use crate::types::{DnsName, SegmentId};

/// The document with what operators have added.
const DOCUMENT: &str = "names";

/// How much of a container's identifier tells it apart, as in `docker ps`.
const SHORT_ID: usize = 12;

/// Longest name that can be added: it is part of the name of a record.
const MAX_ADDED: usize = 230;

/// A container that runs on this host, or this host itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalContainer {
    /// Its name, as Docker has it.
    pub name: String,
    /// What it is called on our networks.
    pub bindings: Vec<Binding>,
    /// Its addresses on all networks: those that its queries come from.
    pub asks_from: BTreeSet<IpAddr>,
    /// The segments that it is on.
    pub segments: BTreeSet<SegmentId>,
}

/// What has become of containers, by identifier: of those that have ended nothing is left.
pub type LocalChanges = BTreeMap<String, Option<LocalContainer>>;

/// What an operator has added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ManualEntry {
    name: DnsName,
    /// The identifier of the container with which it comes and goes.
    container: Option<String>,
    /// Empty for all that the container has on our networks.
    addresses: BTreeSet<IpAddr>,
}

/// What a change of local names is to the rest of weaveDNS.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct LocalNews {
    /// What has become of registrations, by origin.
    pub(super) registrations: BTreeMap<String, Option<Registration>>,
    /// What has become of the addresses of askers: the segments that they are on.
    pub(super) askers: BTreeMap<IpAddr, Option<BTreeSet<SegmentId>>>,
}

/// The names of this host.
#[derive(Debug)]
pub(super) struct Local {
    store: Store,
    /// Whether the Engine has told anything yet.
    known: bool,
    /// Boxed: a map of so many has room for half as many more.
    containers: BTreeMap<String, Box<LocalContainer>>,
    /// Which containers have which addresses.
    holders: BTreeMap<IpAddr, BTreeSet<String>>,
    manual: Vec<ManualEntry>,
}

impl Local {
    /// With what was added before. What cannot be read is logged and left out.
    pub(super) fn load(store: Store) -> Self {
        let manual = store.load(DOCUMENT).unwrap_or_else(|error| {
            tracing::warn!(%error, "starting without the names that were added");
            None
        });
        Self {
            store,
            known: false,
            containers: BTreeMap::new(),
            holders: BTreeMap::new(),
            manual: manual.unwrap_or_default(),
        }
    }

    /// What has become of containers; the first time, all that run.
    pub(super) fn handle_containers(&mut self, changes: LocalChanges) -> LocalNews {
        let mut news = LocalNews::default();
        if !std::mem::replace(&mut self.known, true) {
            let of_nobody = self.registrations_of(None);
            let of_nobody = of_nobody.map(|(origin, new)| (origin, Some(new)));
            news.registrations.extend(of_nobody);
        }
        for (id, container) in changes {
            self.note_registrations(Some(&id), &mut news, |local, news| {
                local.set_container(&id, container, news);
            });
        }
        news
    }

    /// Gives addresses a name.
    pub(super) fn handle_add(
        &mut self,
        domain: &DnsName,
        request: NameRequest,
    ) -> Result<Option<LocalNews>, DnsError> {
        let holder = self.id_of(request.container.as_deref())?;
        let manual = self.with(domain, request)?;
        self.save(holder.as_deref(), manual)
    }

    /// Takes back what [`handle_add`](Self::handle_add) did.
    pub(super) fn handle_remove(
        &mut self,
        domain: &DnsName,
        request: NameRequest,
    ) -> Result<Option<LocalNews>, DnsError> {
        let holder = self.id_of(request.container.as_deref())?;
        let manual = self.without(domain, request)?;
        self.save(holder.as_deref(), manual)
    }

    /// The containers that have added names and do not run.
    pub(super) fn absent(&self) -> Vec<String> {
        let ids = self.manual.iter();
        let ids = ids.filter_map(|entry| entry.container.as_ref());
        let absent: BTreeSet<_> = ids
            .filter(|id| self.known && !self.containers.contains_key(*id))
            .collect();
        absent.into_iter().cloned().collect()
    }

    /// A container is gone for good.
    pub(super) fn handle_removed(&mut self, id: &str) -> Result<Option<LocalNews>, DnsError> {
        let kept = self.manual.iter();
        let kept = kept.filter(|entry| entry.container.as_deref() != Some(id));
        self.save(Some(id), kept.cloned().collect())
    }

    fn with(&self, domain: &DnsName, request: NameRequest) -> Result<Vec<ManualEntry>, DnsError> {
        let container = self.find(request.container.as_deref())?;
        let name = match (&request.name, &container) {
            (Some(name), _) => within(domain, name)?,
            (None, Some((_, container))) => of_container(domain, container)?,
            (None, None) => return Err(DnsError::Incomplete),
        };
        if name.as_str().len() > MAX_ADDED {
            return Err(DnsError::OutsideDomain {
                domain: domain.clone(),
                got: name.to_string(),
            });
        }
        if request.addresses.is_empty() {
            match &container {
                None => return Err(DnsError::Incomplete),
                Some((_, container)) if container.bindings.is_empty() => {
                    return Err(DnsError::NoAddress(container.name.clone()));
                }
                Some(_) => {}
            }
        }
        let id = container.map(|(id, _)| id.to_owned());
        let mut manual = self.manual.clone();
        let known = manual
            .iter_mut()
            .find(|entry| entry.name == name && entry.container == id);
        match known {
            Some(entry) if request.addresses.is_empty() => entry.addresses.clear(),
            Some(entry) => entry.addresses.extend(request.addresses),
            None => manual.push(ManualEntry {
                name,
                container: id,
                addresses: request.addresses,
            }),
        }
        Ok(manual)
    }

    fn without(
        &self,
        domain: &DnsName,
        request: NameRequest,
    ) -> Result<Vec<ManualEntry>, DnsError> {
        let container = self.find(request.container.as_deref())?;
        let id = container.map(|(id, _)| id.to_owned());
        if id.is_none() && request.name.is_none() {
            return Err(DnsError::Incomplete);
        }
        let name = request.name.as_ref().map(|name| within(domain, name));
        let name = name.transpose()?;
        let mut kept = Vec::new();
        for entry in &self.manual {
            let named = name.as_ref().is_none_or(|name| entry.name == *name);
            if !named || entry.container != id {
                kept.push(entry.clone());
                continue;
            }
            let mut rest = entry.clone();
            rest.addresses.retain(|a| !request.addresses.contains(a));
            let emptied = rest.addresses.is_empty() && !entry.addresses.is_empty();
            if !emptied && !request.addresses.is_empty() {
                kept.push(rest);
            }
        }
        if kept == self.manual {
            return Err(DnsError::NothingToRemove);
        }
        Ok(kept)
    }

    /// `None` before the Engine has told anything: what an earlier life has said stays until then.
    fn save(
        &mut self,
        id: Option<&str>,
        manual: Vec<ManualEntry>,
    ) -> Result<Option<LocalNews>, DnsError> {
        self.store.save(DOCUMENT, &manual)?;
        let mut news = LocalNews::default();
        self.note_registrations(id, &mut news, |local, _| local.manual = manual);
        Ok(self.known.then_some(news))
    }

    /// Adds to `news` what a change of this container, or of nobody's, does to registrations.
    fn note_registrations(
        &mut self,
        id: Option<&str>,
        news: &mut LocalNews,
        change: impl FnOnce(&mut Self, &mut LocalNews),
    ) {
        let before: Vec<String> = self
            .registrations_of(id)
            .map(|(origin, _)| origin)
            .collect();
        change(self, news);
        let gone = before.into_iter().map(|origin| (origin, None));
        news.registrations.extend(gone);
        let now = self.registrations_of(id);
        let now = now.map(|(origin, registration)| (origin, Some(registration)));
        news.registrations.extend(now);
    }

    /// What is registered for a container, or for nobody, by origin.
    fn registrations_of(&self, id: Option<&str>) -> impl Iterator<Item = (String, Registration)> {
        let container = id.and_then(|id| self.containers.get(id)).map(Box::as_ref);
        let there = id.is_none() || container.is_some();
        let short = short(id.unwrap_or_default());
        let name = container.map(|container| container.name.clone());
        let named = container.filter(|container| !container.bindings.is_empty());
        let of_container = named.map(|container| container.bindings.clone());
        let of_container = of_container.map(|bindings| (short.to_owned(), bindings));
        let manual = self
            .manual
            .iter()
            .filter(move |entry| there && entry.container.as_deref() == id);
        let of_operators = manual.map(move |entry| {
            let origin = format!("{short}+{}", entry.name);
            (origin, entry.bindings(container))
        });
        of_container
            .into_iter()
            .chain(of_operators)
            .map(move |(origin, bindings)| {
                let container = name.clone();
                (
                    origin,
                    Registration {
                        container,
                        bindings,
                    },
                )
            })
    }

    fn set_container(&mut self, id: &str, new: Option<LocalContainer>, news: &mut LocalNews) {
        let old = match new {
            Some(new) => self.containers.insert(id.to_owned(), Box::new(new)),
            None => self.containers.remove(id),
        };
        let (old, new) = (old.as_deref(), self.containers.get(id).map(Box::as_ref));
        if let (Some(old), Some(new)) = (old, new)
            && (&old.asks_from, &old.segments) == (&new.asks_from, &new.segments)
        {
            return;
        }
        for address in old.into_iter().flat_map(|old| &old.asks_from) {
            if let Some(holders) = self.holders.get_mut(address) {
                holders.remove(id);
            }
            news.askers.insert(*address, None);
        }
        for address in new.into_iter().flat_map(|new| &new.asks_from) {
            let holders = self.holders.entry(*address).or_default();
            holders.insert(id.to_owned());
        }
        let touched = old.into_iter().chain(new).flat_map(|c| &c.asks_from);
        for address in touched {
            let Some(holders) = self.holders.get(address) else {
                continue;
            };
            if holders.is_empty() {
                self.holders.remove(address);
                continue;
            }
            let segments = holders.iter().filter_map(|id| self.containers.get(id));
            let segments = segments.flat_map(|container| container.segments.iter().cloned());
            news.askers.insert(*address, Some(segments.collect()));
        }
    }

    /// The identifier of a running container.
    fn id_of(&self, container: Option<&str>) -> Result<Option<String>, DnsError> {
        let found = self.find(container)?;
        Ok(found.map(|(id, _)| id.to_owned()))
    }

    /// The running container of this name, identifier or beginning of an identifier.
    fn find(&self, container: Option<&str>) -> Result<Option<(&str, &LocalContainer)>, DnsError> {
        let Some(wanted) = container else {
            return Ok(None);
        };
        let mut fitting = self.containers.iter().filter(|(id, container)| {
            container.name == wanted || (wanted.len() >= 4 && id.starts_with(wanted))
        });
        let found = fitting
            .next()
            .map(|(id, container)| (id.as_str(), container.as_ref()));
        found
            .map(Some)
            .ok_or_else(|| DnsError::UnknownContainer(wanted.to_owned()))
    }
}

impl ManualEntry {
    fn bindings(&self, container: Option<&LocalContainer>) -> Vec<Binding> {
        let names = vec![self.name.clone()];
        let known = container.into_iter().flat_map(|c| &c.bindings);
        if self.addresses.is_empty() {
            let all = known.map(|binding| Binding {
                names: names.clone(),
                ..binding.clone()
            });
            return all.collect();
        }
        let known: Vec<_> = known.collect();
        let given = self.addresses.iter().map(|address| {
            let binding = known.iter().find(|b| b.addresses.contains(address));
            Binding {
                segment: binding.and_then(|binding| binding.segment.clone()),
                addresses: vec![*address],
                names: names.clone(),
            }
        });
        given.collect()
    }
}

fn of_container(domain: &DnsName, container: &LocalContainer) -> Result<DnsName, DnsError> {
    let outside = |_| DnsError::OutsideDomain {
        domain: domain.clone(),
        got: container.name.clone(),
    };
    within(domain, &container.name.parse().map_err(outside)?)
}

fn short(id: &str) -> &str {
    id.get(..SHORT_ID).unwrap_or(id)
}

#[cfg(test)]
mod tests;
