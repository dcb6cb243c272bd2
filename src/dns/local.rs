//! The names of this host: those of its containers, and those that operators have added.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::record::{Binding, Registration};
use super::{AskerAddresses, DnsError, NameRequest, within};
use crate::store::{Store, StoreError};
use crate::types::DnsName;

/// The document with what operators have added.
const DOCUMENT: &str = "names";

/// How much of a container's identifier tells it apart, as in `docker ps`.
const SHORT_ID: usize = 12;

/// Longest name that can be added: it is part of the name of a record.
const MAX_ADDED: usize = 230;

/// A container that runs on this host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalContainer {
    /// Its name, as Docker has it.
    pub name: String,
    /// What it is called on our networks.
    pub bindings: Vec<Binding>,
}

/// All containers that run on this host, by identifier.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LocalContainers {
    /// The containers.
    pub containers: BTreeMap<String, LocalContainer>,
    /// Their addresses on all networks, with the segments that they are on.
    pub askers: AskerAddresses,
}

/// What an operator has added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ManualEntry {
    name: DnsName,
    /// The identifier of the container with which it comes and goes.
    container: Option<String>,
    /// Empty for all that the container has on our networks.
    addresses: BTreeSet<IpAddr>,
}

/// The names of this host.
#[derive(Debug)]
pub(super) struct Local {
    store: Store,
    containers: Option<LocalContainers>,
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
            containers: None,
            manual: manual.unwrap_or_default(),
        }
    }

    pub(super) fn set_containers(&mut self, containers: LocalContainers) {
        self.containers = Some(containers);
    }

    /// All that is to be registered, by origin; `None` until the containers are known.
    pub(super) fn registrations(&self) -> Option<BTreeMap<String, Registration>> {
        let known = self.containers.as_ref()?;
        let named = known
            .containers
            .iter()
            .filter(|(_, c)| !c.bindings.is_empty());
        let of_containers = named.map(|(id, container)| {
            let registration = Registration {
                container: Some(container.name.clone()),
                bindings: container.bindings.clone(),
            };
            (short(id).to_owned(), registration)
        });
        let of_operators = self.manual.iter().filter_map(|entry| {
            let container = match &entry.container {
                Some(id) => Some(known.containers.get(id)?),
                None => None,
            };
            let id = entry.container.as_deref().unwrap_or_default();
            let origin = format!("{}+{}", short(id), entry.name);
            let registration = Registration {
                container: container.map(|container| container.name.clone()),
                bindings: entry.bindings(container),
            };
            Some((origin, registration))
        });
        Some(of_containers.chain(of_operators).collect())
    }

    pub(super) fn add(&mut self, domain: &DnsName, request: NameRequest) -> Result<(), DnsError> {
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
        self.save(manual)
    }

    pub(super) fn remove(
        &mut self,
        domain: &DnsName,
        request: NameRequest,
    ) -> Result<(), DnsError> {
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
        self.save(kept)
    }

    /// The containers that have added names and do not run.
    pub(super) fn absent(&self) -> Vec<String> {
        let Some(known) = &self.containers else {
            return Vec::new();
        };
        let ids = self
            .manual
            .iter()
            .filter_map(|entry| entry.container.as_ref());
        let absent: BTreeSet<_> = ids
            .filter(|id| !known.containers.contains_key(*id))
            .collect();
        absent.into_iter().cloned().collect()
    }

    /// A container is gone for good.
    pub(super) fn forget(&mut self, id: &str) -> Result<(), StoreError> {
        let kept = self.manual.iter();
        let kept: Vec<_> = kept
            .filter(|entry| entry.container.as_deref() != Some(id))
            .cloned()
            .collect();
        self.store.save(DOCUMENT, &kept)?;
        self.manual = kept;
        Ok(())
    }

    fn save(&mut self, manual: Vec<ManualEntry>) -> Result<(), DnsError> {
        self.store.save(DOCUMENT, &manual)?;
        self.manual = manual;
        Ok(())
    }

    /// The running container of this name, identifier or beginning of an identifier.
    fn find(&self, container: Option<&str>) -> Result<Option<(&str, &LocalContainer)>, DnsError> {
        let Some(wanted) = container else {
            return Ok(None);
        };
        let known = self.containers.iter().flat_map(|known| &known.containers);
        let mut fitting = known.filter(|(id, container)| {
            container.name == wanted || (wanted.len() >= 4 && id.starts_with(wanted))
        });
        let found = fitting
            .next()
            .map(|(id, container)| (id.as_str(), container));
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
mod tests {
    use super::*;
    use crate::types::SegmentId;

    fn local(dir: &tempfile::TempDir) -> Local {
        let mut local = Local::load(Store::at(dir.path()));
        let binding = Binding {
            segment: Some(SegmentId::of_name("web")),
            addresses: vec![[10, 1, 0, 1].into()],
            names: vec!["shop.weave.local".parse().unwrap()],
        };
        let shop = LocalContainer {
            name: "shop".to_owned(),
            bindings: vec![binding],
        };
        let plain = LocalContainer {
            name: "plain".to_owned(),
            bindings: vec![],
        };
        local.set_containers(LocalContainers {
            containers: [("c0ffee".repeat(4), shop), ("dead".repeat(4), plain)].into(),
            askers: AskerAddresses::new(),
        });
        local
    }

    fn request(name: &str, container: &str, addresses: &[[u8; 4]]) -> NameRequest {
        NameRequest {
            name: (!name.is_empty()).then(|| name.parse().unwrap()),
            container: (!container.is_empty()).then(|| container.to_owned()),
            addresses: addresses.iter().map(|a| IpAddr::from(*a)).collect(),
        }
    }

    fn shown(local: &Local) -> Vec<String> {
        let all = local.registrations().unwrap().into_values();
        let bindings = all.flat_map(|registration| registration.bindings);
        let lines = bindings.map(|b| {
            let segment = b
                .segment
                .map_or_else(|| "all".to_owned(), |s| s.to_string());
            format!("{} {:?} {segment}", b.names[0], b.addresses)
        });
        let mut lines: Vec<_> = lines.collect();
        lines.sort();
        lines
    }

    #[test]
    fn names_are_added_and_removed_for_containers_and_for_addresses() {
        let dir = tempfile::tempdir().unwrap();
        let domain = "weave.local".parse().unwrap();
        let mut local = local(&dir);
        let own = "shop.weave.local [10.1.0.1] name:web";
        assert_eq!(shown(&local), [own]);
        for added in [
            request("www", "shop", &[]),
            request("out.weave.local", "", &[[192, 0, 2, 1]]),
            request("out", "", &[[192, 0, 2, 2]]),
            request("a", "c0ffeec0ffee", &[[10, 1, 0, 1], [10, 9, 0, 1]]),
        ] {
            local.add(&domain, added).unwrap();
        }
        let all = [
            "a.weave.local [10.1.0.1] name:web",
            "a.weave.local [10.9.0.1] all",
            "out.weave.local [192.0.2.1] all",
            "out.weave.local [192.0.2.2] all",
            own,
            "www.weave.local [10.1.0.1] name:web",
        ];
        assert_eq!(shown(&local), all);
        // They are there after a restart, once the containers are known again.
        let again = Local {
            containers: local.containers.clone(),
            ..Local::load(Store::at(dir.path()))
        };
        assert_eq!(shown(&again), all);
        for removed in [
            request("", "shop", &[]),
            request("out", "", &[[192, 0, 2, 1]]),
        ] {
            local.remove(&domain, removed).unwrap();
        }
        assert_eq!(shown(&local), ["out.weave.local [192.0.2.2] all", own]);
        local.remove(&domain, request("out", "", &[])).unwrap();
        assert_eq!(shown(&local), [own]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let domain: DnsName = "weave.local".parse().unwrap();
        let mut local = local(&dir);
        for wrong in [
            request("", "", &[]),
            request("", "", &[[192, 0, 2, 1]]),
            request("x", "", &[]),
            request("x", "nobody", &[]),
            request("", "plain", &[]),
            request("weave.local", "shop", &[]),
        ] {
            assert!(local.add(&domain, wrong.clone()).is_err(), "{wrong:?}");
        }
        assert!(local.remove(&domain, request("x", "", &[])).is_err());
        assert!(local.remove(&domain, request("", "shop", &[])).is_err());
    }

    #[test]
    fn added_names_go_with_their_container() {
        let dir = tempfile::tempdir().unwrap();
        let domain = "weave.local".parse().unwrap();
        let mut local = local(&dir);
        local.add(&domain, request("www", "shop", &[])).unwrap();
        assert!(local.absent().is_empty());
        local.set_containers(LocalContainers::default());
        assert_eq!(shown(&local), [""; 0]);
        let absent = local.absent();
        assert_eq!(absent, ["c0ffee".repeat(4)]);
        local.forget(&absent[0]).unwrap();
        assert!(local.absent().is_empty());
    }
}
