//! The records of all peers as this one knows them.
//!
//! An owner numbers its changes; a replica at version `v` has the last change of every record up
//! to `v`. Taking in news is therefore a matter of comparing positions: it does not matter in
//! which order, how often or by which way they come.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::message::{Delta, Digest, Entry, MAX_KEY_ID, MAX_MESSAGE, MAX_VALUE, Position};
use super::{Key, Kind};
use crate::types::PeerId;

/// How long the records of an owner's earlier life stay visible while it publishes those of its
/// new one: a daemon that restarts takes nothing back that it is about to say again.
const LEFTOVERS_STAY: Duration = Duration::from_secs(20);

/// How long the owner keeps a tombstone. Who was away for longer gets all records anew.
const TOMBSTONES_STAY: Duration = Duration::from_secs(600);

/// Most tombstones an owner keeps.
const MAX_TOMBSTONES: usize = 1024;

/// Most owners, so that a broken member cannot fill the memory.
const MAX_OWNERS: usize = 8192;

/// Most records of one owner: more than a host can have containers, with room for their names.
const MAX_RECORDS: usize = 65_536;

/// Most bytes in the records of one owner.
const MAX_OWNER_BYTES: usize = 32 << 20;

/// What an entry takes in a message beside its name and value: kind, lengths, version, option.
const ENTRY_OVERHEAD: usize = 1 + 2 + 10 + 1 + 3;

/// What a delta takes beside its entries: kind of message, owner, four numbers, a length.
const DELTA_OVERHEAD: usize = 1 + 33 + 4 * 10 + 5;

/// Most positions in one digest: an owner takes 33 bytes, its position at most 20.
const DIGEST_POSITIONS: usize = (MAX_MESSAGE - 100) / 53;

/// What became of a delta.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// All of it was known.
    Known,
    /// It was news.
    News {
        /// The position before.
        before: Position,
        /// Records that look different than before.
        changes: Vec<(Key, Option<Bytes>)>,
        /// Whether the owner is gone for good.
        forgotten: bool,
    },
    /// What comes before it is missing.
    Gap,
    /// It speaks of this peer and knows more than this peer has said.
    Own(Position),
    /// It cannot be right, or is more than there is room for.
    Refused(String),
}

#[derive(Debug)]
struct Record {
    version: u64,
    value: Option<Bytes>,
}

#[derive(Debug, Default)]
struct Owner {
    position: Position,
    collected: u64,
    records: BTreeMap<Key, Record>,
    /// The same in the order in which they came, so that news are found without looking at all else;
    /// and those of them that are gone.
    order: BTreeSet<(u64, Key)>,
    gone: BTreeSet<(u64, Key)>,
    live: usize,
    bytes: usize,
    leftovers: BTreeMap<Key, Bytes>,
    leftovers_until: Option<Instant>,
}

/// The records of all peers as this one knows them.
#[derive(Debug)]
pub(super) struct Replica {
    own: PeerId,
    owners: BTreeMap<PeerId, Owner>,
    tombstones: VecDeque<(Instant, u64)>,
}

impl Replica {
    /// Knows of nobody but this peer, which has said nothing yet.
    pub(super) fn new(own: PeerId, epoch: u64) -> Self {
        let owner = Owner {
            position: Position { epoch, version: 1 },
            ..Owner::default()
        };
        Self {
            own,
            owners: BTreeMap::from([(own, owner)]),
            tombstones: VecDeque::new(),
        }
    }

    /// How far the news of this owner is known.
    pub(super) fn position(&self, owner: PeerId) -> Position {
        self.owners
            .get(&owner)
            .map(|owner| owner.position)
            .unwrap_or_default()
    }

    /// All owners, those that are gone for good among them.
    pub(super) fn positions(&self) -> impl Iterator<Item = (PeerId, Position)> {
        self.owners.iter().map(|(id, owner)| (*id, owner.position))
    }

    /// Whether there is anything of this owner: not unknown, not gone for good.
    pub(super) fn contains(&self, owner: PeerId) -> bool {
        self.owners
            .get(&owner)
            .is_some_and(|owner| !owner.position.is_forgotten())
    }

    /// All records that are there, of all owners.
    pub(super) fn records(&self) -> impl Iterator<Item = (PeerId, &Key, &Bytes)> {
        self.owners
            .iter()
            .flat_map(|(id, owner)| owner.visible().map(move |(key, value)| (*id, key, value)))
    }

    /// How many records of an owner are there.
    pub(super) fn count(&self, owner: PeerId) -> usize {
        self.owners
            .get(&owner)
            .map_or(0, |owner| owner.live + owner.leftovers.len())
    }

    /// By kind, how many records of all owners are gone and kept as such.
    pub(super) fn tombstones(&self) -> BTreeMap<u8, usize> {
        let records = self.owners.values().flat_map(|owner| &owner.records);
        let mut tombstones = BTreeMap::new();
        for (key, _) in records.filter(|(_, record)| record.value.is_none()) {
            *tombstones.entry(key.kind.0).or_default() += 1;
        }
        tombstones
    }

    /// Sets or removes a record of this peer. Returns whether that changed anything.
    pub(super) fn publish(&mut self, key: Key, value: Option<Bytes>, now: Instant) -> bool {
        let owner = self.owners.entry(self.own).or_default();
        let before = owner.records.get(&key).and_then(|r| r.value.as_ref());
        if before == value.as_ref() {
            return false;
        }
        owner.position.version += 1;
        let version = owner.position.version;
        if value.is_none() {
            self.tombstones.push_back((now, version));
        }
        owner.insert(key, version, value);
        self.collect_tombstones(now);
        true
    }

    fn collect_tombstones(&mut self, now: Instant) {
        let owner = self.owners.entry(self.own).or_default();
        let mut collected = owner.collected;
        while let Some((since, version)) = self.tombstones.front() {
            let old = now.duration_since(*since) > TOMBSTONES_STAY;
            if !old && self.tombstones.len() <= MAX_TOMBSTONES {
                break;
            }
            collected = *version;
            self.tombstones.pop_front();
        }
        owner.collect(collected);
    }

    /// Begins a new life of this peer, in which it says all that it said in this one.
    pub(super) fn begin_epoch(&mut self, epoch: u64) {
        let owner = self.owners.entry(self.own).or_default();
        let before = std::mem::take(owner);
        owner.position = Position { epoch, version: 1 };
        self.tombstones.clear();
        for (key, record) in before.records {
            if record.value.is_some() {
                owner.position.version += 1;
                let version = owner.position.version;
                owner.insert(key, version, record.value);
            }
        }
    }

    /// Takes in news.
    pub(super) fn apply(&mut self, delta: Delta, now: Instant) -> Applied {
        let theirs = Position {
            epoch: delta.epoch,
            version: delta.to,
        };
        if delta.owner == self.own {
            return match theirs > self.position(self.own) {
                true => Applied::Own(theirs),
                false => Applied::Known,
            };
        }
        let before = self.position(delta.owner);
        let collected = self.owners.get(&delta.owner).map_or(0, |o| o.collected);
        let same_life = before.epoch == delta.epoch && !before.is_forgotten();
        let missed_tombstones = collected < delta.collected && before.version < delta.collected;
        let afresh = !same_life || (delta.from == 0 && missed_tombstones);
        if theirs <= before && !(same_life && afresh) {
            return Applied::Known;
        }
        if let Err(reason) = validate(&delta) {
            return Applied::Refused(reason);
        }
        if theirs.is_forgotten() {
            return self.apply_forgotten(delta.owner, theirs);
        }
        if !self.owners.contains_key(&delta.owner) && self.owners.len() >= MAX_OWNERS {
            return Applied::Refused(format!(
                "expected at most {MAX_OWNERS} peers, got one more: {}",
                delta.owner
            ));
        }
        let skips_tombstones = collected < delta.collected && delta.from < delta.collected;
        if delta.from > 0 && (!same_life || delta.from > before.version || skips_tombstones) {
            return Applied::Gap;
        }
        let owner = self.owners.entry(delta.owner).or_default();
        if let Err(reason) = owner.room_for(&delta, afresh) {
            return Applied::Refused(reason);
        }
        if afresh {
            owner.begin(delta.epoch, now);
        }
        let changes = owner.merge(delta.entries);
        owner.collect(delta.collected);
        owner.position = theirs;
        Applied::News {
            before,
            changes,
            forgotten: false,
        }
    }

    fn apply_forgotten(&mut self, id: PeerId, position: Position) -> Applied {
        let Some(owner) = self.owners.get_mut(&id) else {
            return Applied::Known;
        };
        let before = owner.position;
        let changes = owner
            .visible()
            .map(|(key, _)| (key.clone(), None))
            .collect();
        *owner = Owner {
            position,
            ..Owner::default()
        };
        Applied::News {
            before,
            changes,
            forgotten: true,
        }
    }

    /// Ends the life of another peer. Returns its records, which are no more.
    pub(super) fn forget(&mut self, id: PeerId) -> Option<Vec<Key>> {
        if id == self.own || !self.contains(id) {
            return None;
        }
        let position = Position {
            epoch: self.position(id).epoch,
            version: Position::FORGOTTEN,
        };
        match self.apply_forgotten(id, position) {
            Applied::News { changes, .. } => {
                Some(changes.into_iter().map(|(key, _)| key).collect())
            }
            _ => None,
        }
    }

    /// Drops the memory that this peer is gone for good.
    pub(super) fn drop_forgotten(&mut self, id: PeerId) {
        if self.position(id).is_forgotten() {
            self.owners.remove(&id);
        }
    }

    /// What somebody at this position lacks, in pieces that fit into messages.
    pub(super) fn deltas(&self, id: PeerId, theirs: Position) -> Vec<Delta> {
        let Some(owner) = self.owners.get(&id) else {
            return Vec::new();
        };
        if theirs >= owner.position {
            return Vec::new();
        }
        let known = theirs.epoch == owner.position.epoch && theirs.version >= owner.collected;
        let from = if known { theirs.version } else { 0 };
        owner.cut(id, from)
    }

    /// How far all owners are known, in pieces that fit into messages.
    pub(super) fn digests(&self) -> Vec<Digest> {
        let positions: Vec<_> = self.positions().collect();
        let mut first = PeerId::from_bytes([0; 16]);
        let mut digests = Vec::new();
        let count = positions.len().div_ceil(DIGEST_POSITIONS);
        for (index, chunk) in positions.chunks(DIGEST_POSITIONS).enumerate() {
            let last = match chunk.last() {
                Some((last, _)) if index + 1 < count => *last,
                _ => PeerId::from_bytes([0xff; 16]),
            };
            digests.push(Digest {
                asks: true,
                covers: Some((first, last)),
                positions: chunk.to_vec(),
            });
            first = last;
        }
        digests
    }

    /// How far these owners are known, in pieces that fit into messages.
    pub(super) fn digests_of(
        &self,
        owners: impl IntoIterator<Item = PeerId>,
        asks: bool,
    ) -> Vec<Digest> {
        let positions: Vec<_> = owners
            .into_iter()
            .map(|id| (id, self.position(id)))
            .collect();
        positions
            .chunks(DIGEST_POSITIONS)
            .map(|chunk| Digest {
                asks,
                covers: None,
                positions: chunk.to_vec(),
            })
            .collect()
    }

    /// Owners about which a digest should have said something, if its sender knew them.
    pub(super) fn missing_in(&self, digest: &Digest) -> Vec<PeerId> {
        let Some((first, last)) = digest.covers else {
            return Vec::new();
        };
        if first > last {
            return Vec::new();
        }
        let said: BTreeMap<_, _> = digest.positions.iter().copied().collect();
        self.owners
            .range(first..=last)
            .filter(|(id, owner)| !owner.position.is_forgotten() && !said.contains_key(id))
            .map(|(id, _)| *id)
            .collect()
    }

    /// Gives up the records of earlier lives whose owners have had time enough to say them again.
    pub(super) fn drop_leftovers(&mut self, now: Instant) -> Vec<(PeerId, Key)> {
        let mut gone = Vec::new();
        for (id, owner) in &mut self.owners {
            if owner.leftovers_until.is_none_or(|until| until > now) {
                continue;
            }
            owner.leftovers_until = None;
            let leftovers = std::mem::take(&mut owner.leftovers);
            gone.extend(leftovers.into_keys().map(|key| (*id, key)));
        }
        gone
    }
}

impl Owner {
    fn visible(&self) -> impl Iterator<Item = (&Key, &Bytes)> {
        let records = self
            .records
            .iter()
            .filter_map(|(key, record)| Some((key, record.value.as_ref()?)));
        records.chain(self.leftovers.iter())
    }

    fn get(&self, key: &Key) -> Option<&Bytes> {
        match self.records.get(key) {
            Some(record) => record.value.as_ref(),
            None => self.leftovers.get(key),
        }
    }

    fn begin(&mut self, epoch: u64, now: Instant) {
        let before = std::mem::take(self);
        self.position = Position { epoch, version: 0 };
        self.leftovers = before.leftovers;
        for (key, record) in before.records {
            if let Some(value) = record.value {
                self.leftovers.insert(key, value);
            }
        }
        if !self.leftovers.is_empty() {
            self.leftovers_until = Some(now + LEFTOVERS_STAY);
        }
    }

    fn room_for(&self, delta: &Delta, afresh: bool) -> Result<(), String> {
        let (records, bytes) = if afresh {
            (0, 0)
        } else {
            (self.records.len(), self.bytes)
        };
        let more: usize = delta.entries.iter().map(size).sum();
        if records + delta.entries.len() > MAX_RECORDS {
            return Err(format!("expected at most {MAX_RECORDS} records, got more"));
        }
        if bytes + more > MAX_OWNER_BYTES {
            return Err(format!(
                "expected at most {MAX_OWNER_BYTES} bytes in the records of a peer, got more"
            ));
        }
        Ok(())
    }

    fn merge(&mut self, entries: Vec<Entry>) -> Vec<(Key, Option<Bytes>)> {
        let mut changes = Vec::new();
        for entry in entries {
            let known = self.records.get(&entry.key).map(|record| record.version);
            if known.is_some_and(|version| version >= entry.version) {
                continue;
            }
            let changed = self.get(&entry.key) != entry.value.as_ref();
            if changed {
                changes.push((entry.key.clone(), entry.value.clone()));
            }
            self.leftovers.remove(&entry.key);
            self.insert(entry.key, entry.version, entry.value);
        }
        changes
    }

    fn insert(&mut self, key: Key, version: u64, value: Option<Bytes>) {
        self.bytes += key.id.len() + value.as_ref().map_or(0, Bytes::len);
        self.live += usize::from(value.is_some());
        self.order.insert((version, key.clone()));
        if value.is_none() {
            self.gone.insert((version, key.clone()));
        }
        let record = Record { version, value };
        if let Some(before) = self.records.insert(key.clone(), record) {
            self.bytes -= key.id.len() + before.value.as_ref().map_or(0, Bytes::len);
            self.live -= usize::from(before.value.is_some());
            let before = (before.version, key);
            self.order.remove(&before);
            self.gone.remove(&before);
        }
    }

    fn collect(&mut self, collected: u64) {
        if collected <= self.collected {
            return;
        }
        self.collected = collected;
        while let Some((version, _)) = self.gone.first()
            && *version <= collected
            && let Some(record) = self.gone.pop_first()
        {
            self.bytes -= record.1.id.len();
            self.records.remove(&record.1);
            self.order.remove(&record);
        }
    }

    fn cut(&self, id: PeerId, from: u64) -> Vec<Delta> {
        let delta = |from| Delta {
            owner: id,
            epoch: self.position.epoch,
            from,
            to: self.position.version,
            collected: self.collected,
            entries: Vec::new(),
        };
        let first = (from + 1, Key::new(Kind(0), Bytes::new()));
        let newer = self.order.range(first..);
        let newer = newer.filter_map(|(_, key)| Some((key, self.records.get(key)?)));
        let mut deltas = Vec::new();
        let mut current = delta(from);
        let mut length = DELTA_OVERHEAD;
        for (key, record) in newer {
            let entry = Entry {
                key: key.clone(),
                version: record.version,
                value: record.value.clone(),
            };
            if length + size(&entry) > MAX_MESSAGE
                && let Some(last) = current.entries.last()
            {
                current.to = last.version;
                let next = delta(last.version);
                deltas.push(std::mem::replace(&mut current, next));
                length = DELTA_OVERHEAD;
            }
            length += size(&entry);
            current.entries.push(entry);
        }
        deltas.push(current);
        deltas
    }
}

fn size(entry: &Entry) -> usize {
    ENTRY_OVERHEAD + entry.key.id.len() + entry.value.as_ref().map_or(0, Bytes::len)
}

fn validate(delta: &Delta) -> Result<(), String> {
    if delta.from >= delta.to {
        return Err(format!(
            "expected changes up to a version after {}, got up to {}",
            delta.from, delta.to
        ));
    }
    let mut last = delta.from;
    for entry in &delta.entries {
        if entry.version <= last || entry.version > delta.to {
            return Err(format!(
                "expected ascending versions up to {}, got {} after {last}",
                delta.to, entry.version
            ));
        }
        last = entry.version;
        check_size(&entry.key, entry.value.as_ref())?;
    }
    if delta.to == Position::FORGOTTEN && !delta.entries.is_empty() {
        return Err("expected no records of a forgotten peer, got some".to_owned());
    }
    Ok(())
}

fn check_size(key: &Key, value: Option<&Bytes>) -> Result<(), String> {
    if key.id.len() > MAX_KEY_ID {
        return Err(format!(
            "expected a record name of at most {MAX_KEY_ID} bytes, got {}",
            key.id.len()
        ));
    }
    match value.map_or(0, Bytes::len) {
        length if length > MAX_VALUE => Err(format!(
            "expected a record value of at most {MAX_VALUE} bytes, got {length}"
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OWNER: PeerId = PeerId::from_bytes([1; 16]);
    const OTHER: PeerId = PeerId::from_bytes([2; 16]);

    fn key(name: u8) -> Key {
        Key::new(Kind::NAME, vec![name])
    }

    fn value(byte: u8) -> Option<Bytes> {
        Some(Bytes::from(vec![byte]))
    }

    fn view(replica: &Replica) -> Vec<(Key, Bytes)> {
        let of_owner = replica.records().filter(|(id, _, _)| *id == OWNER);
        of_owner.map(|(_, k, v)| (k.clone(), v.clone())).collect()
    }

    /// Both orders hold what the records are.
    fn is_in_order(replica: &Replica) -> bool {
        replica.owners.values().all(|owner| {
            let all = owner.records.iter();
            let all: BTreeSet<_> = all.map(|(key, r)| (r.version, key.clone())).collect();
            let gone = owner.records.iter().filter(|(_, r)| r.value.is_none());
            let gone: BTreeSet<_> = gone.map(|(key, r)| (r.version, key.clone())).collect();
            owner.order == all && owner.gone == gone
        })
    }

    fn catch_up(from: &Replica, to: &mut Replica, now: Instant) {
        for delta in from.deltas(OWNER, to.position(OWNER)) {
            assert!(matches!(to.apply(delta, now), Applied::News { .. }));
        }
    }

    #[test]
    fn a_restart_takes_nothing_back_that_is_said_again() {
        let now = Instant::now();
        let mut owner = Replica::new(OWNER, 1);
        owner.publish(key(1), value(1), now);
        owner.publish(key(2), value(2), now);
        let mut replica = Replica::new(OTHER, 1);
        catch_up(&owner, &mut replica, now);

        let mut owner = Replica::new(OWNER, 2);
        owner.publish(key(1), value(1), now);
        let deltas = owner.deltas(OWNER, replica.position(OWNER));
        let Applied::News { changes, .. } = replica.apply(deltas[0].clone(), now) else {
            panic!("the second life is news");
        };
        assert_eq!(changes, []);
        assert_eq!(view(&replica).len(), 2);

        assert_eq!(replica.drop_leftovers(now), []);
        let gone = replica.drop_leftovers(now + LEFTOVERS_STAY);
        assert_eq!(gone, [(OWNER, key(2))]);
        assert_eq!(view(&replica), view(&owner));
    }

    #[test]
    fn who_missed_collected_tombstones_gets_all_records_anew() {
        let now = Instant::now();
        let mut owner = Replica::new(OWNER, 1);
        owner.publish(key(1), value(1), now);
        owner.publish(key(2), value(2), now);
        let mut replica = Replica::new(OTHER, 1);
        catch_up(&owner, &mut replica, now);

        owner.publish(key(1), None, now);
        let later = now + 2 * TOMBSTONES_STAY;
        owner.publish(key(3), value(3), later);
        catch_up(&owner, &mut replica, later);
        replica.drop_leftovers(later + LEFTOVERS_STAY);
        assert_eq!(view(&replica), view(&owner));
        assert_eq!(view(&replica).len(), 2);
    }

    #[test]
    fn records_that_come_anew_in_pieces_replace_what_was_there() {
        let now = Instant::now();
        let large = |byte| Some(Bytes::from(vec![byte; MAX_VALUE]));
        let mut owner = Replica::new(OWNER, 1);
        for name in 0..6 {
            owner.publish(key(name), large(name), now);
        }
        let mut replica = Replica::new(OTHER, 1);
        catch_up(&owner, &mut replica, now);

        owner.publish(key(5), None, now);
        let later = now + 2 * TOMBSTONES_STAY;
        owner.publish(key(7), value(7), later);
        let deltas = owner.deltas(OWNER, replica.position(OWNER));
        assert!(deltas.len() > 1);
        let last = deltas[deltas.len() - 1].clone();
        assert_eq!(replica.apply(last, later), Applied::Gap);
        for delta in deltas {
            replica.apply(delta, later);
        }
        replica.drop_leftovers(later + LEFTOVERS_STAY);
        assert_eq!(view(&replica), view(&owner));
    }

    #[test]
    fn an_owner_keeps_a_bounded_number_of_tombstones() {
        let now = Instant::now();
        let mut owner = Replica::new(OWNER, 1);
        for _ in 0..MAX_TOMBSTONES {
            for name in 0..4 {
                owner.publish(key(name), value(1), now);
                owner.publish(key(name), None, now);
            }
        }
        let mut names = 0_u32;
        for _ in 0..2 * MAX_TOMBSTONES {
            names += 1;
            let key = Key::new(Kind::NAME, names.to_be_bytes().to_vec());
            owner.publish(key.clone(), value(1), now);
            owner.publish(key, None, now);
        }
        assert!(owner.owners[&OWNER].records.len() <= MAX_TOMBSTONES + 4);
        assert_eq!(view(&owner), []);
    }

    #[test]
    fn a_forgotten_peer_comes_back_only_in_a_new_life() {
        let now = Instant::now();
        let mut owner = Replica::new(OWNER, 1);
        owner.publish(key(1), value(1), now);
        let mut replica = Replica::new(OTHER, 1);
        catch_up(&owner, &mut replica, now);
        let old = owner.deltas(OWNER, Position::default());

        assert_eq!(replica.forget(OWNER), Some(vec![key(1)]));
        assert_eq!(replica.apply(old[0].clone(), now), Applied::Known);
        let marker = replica.deltas(OWNER, old_position(&old[0])).remove(0);
        assert!(matches!(owner.apply(marker, now), Applied::Own(_)));

        owner.begin_epoch(2);
        catch_up(&owner, &mut replica, now);
        assert_eq!(view(&replica), view(&owner));
    }

    fn old_position(delta: &Delta) -> Position {
        Position {
            epoch: delta.epoch,
            version: delta.to,
        }
    }

    #[test]
    fn large_states_travel_in_pieces_that_fit() {
        let now = Instant::now();
        let mut owner = Replica::new(OWNER, 1);
        for name in 0..20 {
            owner.publish(key(name), Some(Bytes::from(vec![name; MAX_VALUE])), now);
        }
        for name in 20..=255 {
            owner.publish(key(name), value(name), now);
        }
        let deltas = owner.deltas(OWNER, Position::default());
        assert!(deltas.len() > 1);
        let mut replica = Replica::new(OTHER, 1);
        for delta in deltas {
            let message = crate::mesh::message::Message::Delta(delta.clone());
            assert!(message.encode().len() <= MAX_MESSAGE);
            assert!(matches!(replica.apply(delta, now), Applied::News { .. }));
        }
        assert_eq!(view(&replica), view(&owner));
    }

    proptest! {
        #[test]
        fn any_order_and_number_of_deliveries_gives_the_same_records(
            steps in prop::collection::vec((0_u8..6, prop::option::of(0_u8..4), 0_u8..20), 1..40),
            picks in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 0..60),
        ) {
            let mut now = Instant::now();
            let mut owner = Replica::new(OWNER, 1);
            let mut heard = vec![Position::default()];
            let mut sent = Vec::new();
            for (name, content, special) in steps {
                match special {
                    0 => owner.begin_epoch(owner.position(OWNER).epoch + 1),
                    1 => now += TOMBSTONES_STAY,
                    _ => {}
                }
                owner.publish(key(name), content.and_then(value), now);
                for from in &heard {
                    sent.extend(owner.deltas(OWNER, *from));
                }
                heard.push(owner.position(OWNER));
            }
            let mut one = Replica::new(OTHER, 1);
            let mut two = Replica::new(OTHER, 1);
            for (a, b) in picks {
                if !sent.is_empty() {
                    one.apply(a.get(&sent).clone(), now);
                    two.apply(b.get(&sent).clone(), now);
                }
            }
            for replica in [&mut one, &mut two] {
                for delta in owner.deltas(OWNER, replica.position(OWNER)) {
                    replica.apply(delta, now);
                }
                prop_assert_eq!(replica.position(OWNER), owner.position(OWNER));
                replica.drop_leftovers(now + LEFTOVERS_STAY);
                prop_assert_eq!(view(replica), view(&owner));
                prop_assert!(is_in_order(replica));
            }
            prop_assert!(is_in_order(&owner));
        }

        #[test]
        fn a_delta_applied_twice_changes_nothing_more(contents in prop::collection::vec(0_u8..4, 1..20)) {
            let now = Instant::now();
            let mut owner = Replica::new(OWNER, 1);
            for (name, content) in contents.into_iter().enumerate() {
                owner.publish(key(name as u8), value(content), now);
            }
            let mut replica = Replica::new(OTHER, 1);
            for delta in owner.deltas(OWNER, Position::default()) {
                let first = replica.apply(delta.clone(), now);
                let was_news = matches!(first, Applied::News { .. });
                prop_assert!(was_news);
                prop_assert_eq!(replica.apply(delta, now), Applied::Known);
            }
        }
    }
}
