//! A small sorted table: what a `BTreeMap` of two entries should cost when there are thousands.

use serde::{Deserialize, Serialize};

/// Entries in the order of their keys, in one piece of memory of just their size.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Vec<(K, V)>")]
#[serde(bound(deserialize = "K: Ord + Deserialize<'de>, V: Deserialize<'de>"))]
pub struct Table<K, V>(Box<[(K, V)]>);

impl<K: Ord, V> Table<K, V> {
    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        let found = self.0.binary_search_by(|(other, _)| other.cmp(key));
        found.ok().map(|at| &self.0[at].1)
    }

    /// The entries in order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// The keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.iter().map(|(key, _)| key)
    }

    /// The values in the order of their keys.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|(_, value)| value)
    }

    /// Puts entries in, in place of those with the same keys.
    pub fn extend(&mut self, mut new: Vec<(K, V)>) {
        // Of two with the same key the first stays.
        new.extend(std::mem::take(&mut self.0));
        *self = new.into();
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &K) {
        if self.get(key).is_some() {
            let entries = std::mem::take(&mut self.0).into_iter();
            self.0 = entries.filter(|(other, _)| other != key).collect();
        }
    }
}

impl<K: Ord, V> From<Vec<(K, V)>> for Table<K, V> {
    fn from(mut entries: Vec<(K, V)>) -> Self {
        entries.sort_by(|(one, _), (two, _)| one.cmp(two));
        entries.dedup_by(|(one, _), (two, _)| one == two);
        Self(entries.into_boxed_slice())
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<T: IntoIterator<Item = (K, V)>>(entries: T) -> Self {
        entries.into_iter().collect::<Vec<_>>().into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_table_finds_what_a_map_finds(entries: BTreeMap<u8, u8>, probe: u8) {
            let table: Table<u8, u8> = entries.clone().into_iter().collect();
            prop_assert_eq!(table.get(&probe), entries.get(&probe));
            prop_assert!(table.iter().eq(entries.iter()));
            let bytes = postcard::to_allocvec(&table).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Table<u8, u8>>(&bytes), Ok(table));
        }

        #[test]
        fn a_table_changes_as_a_map_does(mut map: BTreeMap<u8, u8>, more: BTreeMap<u8, u8>, gone: u8) {
            let mut table: Table<u8, u8> = map.clone().into_iter().collect();
            table.extend(more.clone().into_iter().collect());
            map.extend(more);
            prop_assert!(table.iter().eq(map.iter()));
            table.remove(&gone);
            map.remove(&gone);
            prop_assert!(table.iter().eq(map.iter()));
        }
    }
}
