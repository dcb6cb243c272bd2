//! Which names stand for which addresses, here and on all other peers.
//!
//! Pure: what this host registers and what the mesh says goes in; records to publish and answers
//! come out.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::askers::Asker;
use super::record::{
    GENERATION, NameRecord, Registration, decode_generation, encode_generation, generation_key,
};
use crate::mesh::{Key, Kind, MeshEvent};
use crate::types::{DnsName, PeerId, SegmentId};

/// One name of one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) owner: PeerId,
    pub(super) name: DnsName,
    pub(super) address: IpAddr,
    pub(super) segment: Option<SegmentId>,
    pub(super) container: Option<Arc<str>>,
}

/// A record as it came, which takes a third of the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stored {
    generation: u64,
    value: Bytes,
}

#[derive(Debug, Default)]
struct Peer {
    reachable: bool,
    generation: Option<u64>,
    records: BTreeMap<Bytes, Stored>,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Table {
    own: PeerId,
    generation: u64,
    /// Whether the others are told which generation counts.
    complete: bool,
    peers: BTreeMap<PeerId, Peer>,
    /// How many labels the domain of all names has.
    depth: usize,
    /// By [`tree_key`]. Nothing depends on the order of this map, which is the fastest to look
    /// into.
    names: HashMap<Box<str>, Vec<Arc<Entry>>>,
    /// The keys of names that lie deeper than right below the domain, in the order of the tree: a
    /// name and those below it are neighbours.
    deep: BTreeSet<Box<str>>,
    addresses: BTreeMap<IpAddr, Vec<Arc<Entry>>>,
    outbox: VecDeque<(Key, Option<Bytes>)>,
}

impl Table {
    /// Knows nothing. The generation is another each time the daemon starts.
    pub(super) fn new(own: PeerId, generation: u64, domain: &DnsName) -> Self {
        let here = Peer {
            reachable: true,
            generation: Some(generation),
            records: BTreeMap::new(),
        };
        Self {
            own,
            generation,
            complete: false,
            peers: BTreeMap::from([(own, here)]),
            depth: domain.labels().count(),
            names: HashMap::new(),
            deep: BTreeSet::new(),
            addresses: BTreeMap::new(),
            outbox: VecDeque::new(),
        }
    }

    /// What has become of registrations of this host, by origin. Returns whether anything changed.
    pub(super) fn handle_registrations(
        &mut self,
        changes: BTreeMap<String, Option<Registration>>,
    ) -> bool {
        let generation = self.generation;
        let mut changed = false;
        for (origin, registration) in changes {
            let key = NameRecord::key(&origin);
            let record = registration.map(|registration| {
                let record = NameRecord {
                    generation,
                    registration,
                };
                Stored {
                    generation,
                    value: record.encode(),
                }
            });
            let value = record.as_ref().map(|record| record.value.clone());
            if self.store(self.own, key.id.clone(), record) {
                self.outbox.push_back((key, value));
                changed = true;
            }
        }
        changed
    }

    /// All registrations of this host are told. The others hear of it when they have all records: then
    /// those of an earlier generation end.
    pub(super) fn handle_complete(&mut self) {
        if !std::mem::replace(&mut self.complete, true) {
            let value = encode_generation(self.generation);
            self.outbox.push_back((generation_key(), Some(value)));
        }
    }

    /// News from the mesh. Returns whether answers may have changed.
    pub(super) fn handle_mesh_event(&mut self, event: MeshEvent) -> bool {
        match event {
            MeshEvent::Record { owner, key, value } if owner != self.own => match key.kind {
                Kind::NAME if key.id == GENERATION => {
                    self.handle_generation(owner, value.as_deref())
                }
                Kind::NAME => self.handle_record(owner, key.id, value),
                _ => false,
            },
            MeshEvent::Reachable { peer, .. } => self.set_reachable(peer, true),
            MeshEvent::Unreachable { peer } => self.set_reachable(peer, false),
            MeshEvent::Forgotten { peer } => {
                let forgotten = self.peers.remove(&peer).unwrap_or_default();
                for stored in forgotten.current() {
                    self.remove(peer, stored);
                }
                !forgotten.records.is_empty()
            }
            MeshEvent::Record { .. } | MeshEvent::Message { .. } => false,
        }
    }

    /// The next record to publish.
    #[must_use]
    pub(super) fn poll_publish(&mut self) -> Option<(Key, Option<Bytes>)> {
        self.outbox.pop_front()
    }

    /// Adds what the name with this [`tree_key`] stands for to `addresses`, with whether it is of
    /// this host; returns whether the asker may know of the name, or of one below it.
    pub(super) fn find(
        &self,
        key: &str,
        asker: Asker<'_>,
        addresses: &mut Vec<(IpAddr, bool)>,
    ) -> bool {
        let before = addresses.len();
        let entries = self.names.get(key).into_iter().flatten();
        for entry in entries.filter(|entry| self.shows(entry, asker)) {
            let mut known = addresses[before..].iter();
            if known.all(|(known, _)| *known != entry.address) {
                addresses.push((entry.address, entry.owner == self.own));
            }
        }
        addresses.len() > before || self.has_below(key, asker)
    }

    /// The names of an address; `None` when it has none, whoever asks.
    pub(super) fn names_of(&self, address: IpAddr, asker: Asker<'_>) -> Option<Vec<&DnsName>> {
        let entries = self.addresses.get(&address)?;
        let mut live = entries
            .iter()
            .filter(|entry| self.is_live(entry))
            .peekable();
        live.peek()?;
        let mut names: Vec<_> = live
            .filter(|entry| self.shows(entry, asker))
            .map(|entry| &entry.name)
            .collect();
        names.sort_unstable();
        names.dedup();
        Some(names)
    }

    /// All entries, those of peers that cannot be reached among them, with whether they can. In no
    /// order: whoever shows them does not keep others from the table while they are sorted.
    pub(super) fn entries(&self) -> Vec<(Arc<Entry>, bool)> {
        let entries = self.names.values().flatten();
        entries
            .map(|entry| (Arc::clone(entry), self.is_live(entry)))
            .collect()
    }

    fn handle_generation(&mut self, owner: PeerId, value: Option<&[u8]>) -> bool {
        let generation = value.and_then(|value| decode_generation(value).ok());
        let mut peer = self.peers.remove(&owner).unwrap_or_default();
        let changed = peer.generation != generation;
        if changed {
            for record in peer.current() {
                self.remove(owner, record);
            }
            peer.generation = generation;
            for record in peer.current() {
                self.insert(owner, record);
            }
        }
        self.peers.insert(owner, peer);
        changed
    }

    fn handle_record(&mut self, owner: PeerId, id: Bytes, value: Option<Bytes>) -> bool {
        // What is not understood is as good as not there.
        let record = value.and_then(|value| {
            let generation = NameRecord::decode(&value).ok()?.generation;
            Some(Stored { generation, value })
        });
        self.store(owner, id, record)
    }

    /// Takes a record to be, or not to be any more; returns whether that is new.
    fn store(&mut self, owner: PeerId, id: Bytes, new: Option<Stored>) -> bool {
        let peer = self.peers.entry(owner).or_default();
        let generation = peer.generation;
        let current = |stored: &&Stored| Some(stored.generation) == generation;
        let old = match new.clone() {
            Some(new) => peer.records.insert(id, new),
            None => peer.records.remove(&id),
        };
        if old == new {
            return false;
        }
        if let Some(old) = old.as_ref().filter(current) {
            self.remove(owner, old);
        }
        if let Some(new) = new.as_ref().filter(current) {
            self.insert(owner, new);
        }
        true
    }

    fn set_reachable(&mut self, peer: PeerId, reachable: bool) -> bool {
        let peer = self.peers.entry(peer).or_default();
        std::mem::replace(&mut peer.reachable, reachable) != reachable
    }

    fn is_live(&self, entry: &Entry) -> bool {
        let owner = self.peers.get(&entry.owner);
        owner.is_some_and(|owner| owner.reachable)
    }

    fn shows(&self, entry: &Entry, asker: Asker<'_>) -> bool {
        let allowed = match (&entry.segment, asker) {
            (None, _) | (_, Asker::Host) => true,
            (Some(segment), Asker::Container(segments)) => segments.contains(segment),
        };
        allowed && self.is_live(entry)
    }

    /// Whether the asker may know of a name below this one (RFC 8020), which is not the domain.
    fn has_below(&self, key: &str, asker: Asker<'_>) -> bool {
        if self.deep.is_empty() {
            return false;
        }
        let first = format!("{key}.");
        let below = self
            .deep
            .range::<str, _>((Bound::Included(first.as_str()), Bound::Unbounded));
        let mut below = below.take_while(|name| name.starts_with(&first));
        below.any(|name| {
            let mut entries = self.names.get(name).into_iter().flatten();
            entries.any(|entry| self.shows(entry, asker))
        })
    }

    fn is_deep(&self, name: &DnsName) -> bool {
        name.labels().count() > self.depth + 1
    }

    fn insert(&mut self, owner: PeerId, stored: &Stored) {
        for entry in stored.entries(owner) {
            let entry = Arc::new(entry);
            let key: Box<str> = tree_key(&entry.name).into();
            if self.is_deep(&entry.name) {
                self.deep.insert(key.clone());
            }
            let by_name = self.names.entry(key);
            by_name.or_default().push(Arc::clone(&entry));
            let by_address = self.addresses.entry(entry.address);
            by_address.or_default().push(entry);
        }
    }

    fn remove(&mut self, owner: PeerId, stored: &Stored) {
        for entry in stored.entries(owner) {
            let key = tree_key(&entry.name);
            if let Some(entries) = self.names.get_mut(key.as_str()) {
                remove_one(entries, &entry);
                if entries.is_empty() {
                    self.names.remove(key.as_str());
                    self.deep.remove(key.as_str());
                }
            }
            if let Some(entries) = self.addresses.get_mut(&entry.address) {
                remove_one(entries, &entry);
                if entries.is_empty() {
                    self.addresses.remove(&entry.address);
                }
            }
        }
    }
}

impl Peer {
    /// The records that count.
    fn current(&self) -> impl Iterator<Item = &Stored> {
        let records = self.records.values();
        records.filter(|stored| Some(stored.generation) == self.generation)
    }
}

impl Stored {
    fn entries(&self, owner: PeerId) -> Vec<Entry> {
        // Only what was understood is stored.
        let record = NameRecord::decode(&self.value).ok();
        let registration = record.map(|record| record.registration).unwrap_or_default();
        let container: Option<Arc<str>> = registration.container.map(Into::into);
        let mut entries = Vec::new();
        for binding in registration.bindings {
            for name in binding.names {
                entries.extend(binding.addresses.iter().map(|address| Entry {
                    owner,
                    name: name.clone(),
                    address: *address,
                    segment: binding.segment.clone(),
                    container: container.clone(),
                }));
            }
        }
        entries
    }
}

/// Two registrations may say the same; each takes back only what it has said.
fn remove_one(entries: &mut Vec<Arc<Entry>>, entry: &Entry) {
    if let Some(position) = entries.iter().position(|known| **known == *entry) {
        entries.swap_remove(position);
    }
}

/// A name with its labels in the order of the tree: `local.weave.foo`.
pub(super) fn tree_key(name: &DnsName) -> String {
    let mut key = String::with_capacity(name.as_str().len());
    for label in name.labels().rev() {
        if !key.is_empty() {
            key.push('.');
        }
        key.push_str(label);
    }
    key
}

#[cfg(test)]
mod tests;
