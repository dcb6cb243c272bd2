use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::dns::record::Binding;

fn peer(byte: u8) -> PeerId {
    PeerId::from_bytes([byte; 16])
}

fn table(own: PeerId, generation: u64) -> Table {
    Table::new(own, generation, &"weave.local".parse().unwrap())
}

fn key(name: &str) -> String {
    tree_key(&name.parse().unwrap())
}

fn segment(name: &str) -> SegmentId {
    SegmentId::of_name(name)
}

fn registration(on: Option<&str>, names: &[&str], addresses: &[[u8; 4]]) -> Registration {
    Registration {
        container: Some("c".to_owned()),
        bindings: vec![Binding {
            segment: on.map(segment),
            addresses: addresses.iter().map(|a| IpAddr::from(*a)).collect(),
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
        }],
    }
}

fn found(table: &Table, name: &str, asker: Asker<'_>) -> Option<BTreeSet<(IpAddr, bool)>> {
    let mut addresses = Vec::new();
    let found = table.find(&key(name), asker, &mut addresses);
    found.then(|| addresses.into_iter().collect())
}

/// Carries what one table publishes to another.
fn carry(from: &mut Table, to: &mut Table) {
    let owner = from.own;
    from.handle_complete();
    while let Some((key, value)) = from.poll_publish() {
        to.handle_mesh_event(MeshEvent::Record { owner, key, value });
    }
}

fn meet(table: &mut Table, other: PeerId) {
    table.handle_mesh_event(MeshEvent::Reachable {
        peer: other,
        address: None,
    });
}

fn pair() -> (Table, Table) {
    let (mut one, mut two) = (table(peer(1), 10), table(peer(2), 20));
    meet(&mut one, peer(2));
    meet(&mut two, peer(1));
    (one, two)
}

#[test]
fn a_name_is_told_to_the_host_and_to_askers_on_its_segment() {
    let (mut one, mut two) = pair();
    let web = registration(Some("web"), &["foo.weave.local"], &[[10, 1, 0, 1]]);
    assert!(one.handle_registrations([("c1".to_owned(), Some(web.clone()))].into()));
    assert!(!one.handle_registrations([("c1".to_owned(), Some(web))].into()));
    carry(&mut one, &mut two);
    let address = IpAddr::from([10, 1, 0, 1]);
    let (ours, other) = ([segment("web")].into(), [segment("db")].into());
    let at = |table: &Table, asker| found(table, "foo.weave.local", asker);
    assert_eq!(at(&one, Asker::Host), Some([(address, true)].into()));
    assert_eq!(at(&two, Asker::Host), Some([(address, false)].into()));
    assert_eq!(
        at(&two, Asker::Container(&ours)),
        Some([(address, false)].into())
    );
    assert_eq!(at(&two, Asker::Container(&other)), None);
    assert_eq!(
        two.names_of(address, Asker::Container(&other)),
        Some(vec![])
    );
    assert_eq!(two.names_of(address, Asker::Host).unwrap().len(), 1);
    assert_eq!(two.names_of([10, 1, 0, 9].into(), Asker::Host), None);
}

#[test]
fn names_go_and_come_with_their_peer() {
    let (mut one, mut two) = pair();
    let web = registration(None, &["foo.weave.local"], &[[10, 1, 0, 1]]);
    one.handle_registrations([("c1".to_owned(), Some(web))].into());
    carry(&mut one, &mut two);
    let there = |table: &Table| found(table, "foo.weave.local", Asker::Host).is_some();
    assert!(there(&two));
    assert!(two.handle_mesh_event(MeshEvent::Unreachable { peer: peer(1) }));
    assert!(!there(&two));
    assert_eq!(two.names_of([10, 1, 0, 1].into(), Asker::Host), None);
    meet(&mut two, peer(1));
    assert!(there(&two));
    assert!(two.handle_mesh_event(MeshEvent::Forgotten { peer: peer(1) }));
    assert!(!there(&two));
    assert_eq!(two.entries().len(), 0);
}

#[test]
fn a_name_that_only_has_names_below_it_exists_without_addresses() {
    let mut table = table(peer(1), 1);
    let deep = registration(Some("web"), &["a.sub.weave.local"], &[[10, 1, 0, 1]]);
    table.handle_registrations([("c1".to_owned(), Some(deep))].into());
    let at = |name, asker| found(&table, name, asker);
    assert_eq!(at("sub.weave.local", Asker::Host), Some([].into()));
    assert_eq!(at("su.weave.local", Asker::Host), None);
    assert_eq!(at("b.sub.weave.local", Asker::Host), None);
    let other = [segment("db")].into();
    assert_eq!(at("sub.weave.local", Asker::Container(&other)), None);
}

#[test]
fn a_restarted_peer_s_former_names_end_when_it_has_told_the_new_ones() {
    let (mut one, mut two) = pair();
    let register = |table: &mut Table, origin: &str, last: u8| {
        let name = format!("{origin}.weave.local");
        let one = registration(None, &[&name], &[[10, 1, 0, last]]);
        table.handle_registrations([(origin.to_owned(), Some(one))].into());
    };
    register(&mut one, "old", 1);
    carry(&mut one, &mut two);
    // The mesh keeps what the earlier life has said for a while.
    let mut again = table(peer(1), 11);
    register(&mut again, "new", 2);
    let there = |table: &Table, name| found(table, name, Asker::Host).is_some();
    again.handle_complete();
    let mut published = Vec::new();
    while let Some((key, value)) = again.poll_publish() {
        published.push((key, value));
    }
    let (last, before) = published.split_last().unwrap();
    let event = |(key, value): &(Key, Option<Bytes>)| MeshEvent::Record {
        owner: peer(1),
        key: key.clone(),
        value: value.clone(),
    };
    for record in before {
        two.handle_mesh_event(event(record));
        assert!(there(&two, "old.weave.local"));
    }
    two.handle_mesh_event(event(last));
    assert!(!there(&two, "old.weave.local"));
    assert!(there(&two, "new.weave.local"));
}

type Changes = BTreeMap<String, Option<Registration>>;

/// All registrations as who knows nothing is told of them.
fn whole(all: &BTreeMap<String, Registration>) -> Changes {
    let all = all.clone().into_iter();
    all.map(|(origin, one)| (origin, Some(one))).collect()
}

/// All that answers come from.
fn contents(table: &Table) -> impl PartialEq + std::fmt::Debug {
    let sorted = |entries: &Vec<Arc<Entry>>| {
        let mut shown: Vec<_> = entries.iter().map(|entry| format!("{entry:?}")).collect();
        shown.sort();
        shown
    };
    let names = table
        .names
        .iter()
        .map(|(key, entries)| (key.clone(), sorted(entries)));
    let addresses = table
        .addresses
        .iter()
        .map(|(key, entries)| (*key, sorted(entries)));
    let (names, addresses): (BTreeMap<_, _>, BTreeMap<_, _>) =
        (names.collect(), addresses.collect());
    (names, addresses, table.deep.clone())
}

/// One step in the life of three peers.
#[derive(Debug, Clone)]
enum Step {
    Register(u8, u8, Option<u8>),
    Restart(u8),
    Cut(u8),
    Heal,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0..3_u8, 0..4_u8, proptest::option::of(0..3_u8))
            .prop_map(|(who, origin, what)| Step::Register(who, origin, what)),
        1 => (0..3_u8).prop_map(Step::Restart),
        1 => (0..3_u8).prop_map(Step::Cut),
        2 => Just(Step::Heal),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    /// What is told change by change comes to the same as the whole of it, here and for who takes the
    /// records over.
    #[test]
    fn increments_end_in_the_table_of_the_whole(
        steps in proptest::collection::vec(
            proptest::collection::btree_map("o[0-5]", proptest::option::of((0..4_u8, 0..3_u8)), 0..4),
            1..20,
        ),
    ) {
        let named = |(name, last): (u8, u8)| {
            let names = [format!("n{name}.weave.local"), format!("a.n{last}.weave.local")];
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            registration((last > 0).then_some("web"), &names, &[[10, 0, 0, last], [10, 0, 1, name]])
        };
        let (mut one, mut two) = pair();
        let mut all = BTreeMap::new();
        for step in steps {
            let changes: Changes = step
                .into_iter()
                .map(|(origin, what)| (origin, what.map(named)))
                .collect();
            for (origin, registration) in &changes {
                match registration {
                    Some(one) => drop(all.insert(origin.clone(), one.clone())),
                    None => drop(all.remove(origin)),
                }
            }
            one.handle_registrations(changes);
            prop_assert!(!one.handle_registrations(whole(&all)), "nothing is new");
            carry(&mut one, &mut two);
        }
        let mut at_once = table(peer(1), 10);
        at_once.handle_registrations(whole(&all));
        prop_assert_eq!(&contents(&one), &contents(&at_once));
        prop_assert_eq!(contents(&one), contents(&two));
    }

    /// Whatever happened, peers that reach each other know the same names, in whichever order
    /// records came; one that is cut off is not answered for.
    #[test]
    fn partitions_and_restarts_end_in_the_same_names(steps in steps(), order: u64) {
        let mut origins: Vec<BTreeMap<String, Registration>> = vec![BTreeMap::new(); 3];
        let mut tables: Vec<Table> = (0..3).map(|i| table(peer(i), u64::from(i))).collect();
        // What has become of registrations since they were told.
        let mut changes: Vec<Changes> = vec![Changes::new(); 3];
        // What the mesh keeps of each peer, and which peers are cut off.
        let mut kept: Vec<BTreeMap<Key, Option<Bytes>>> = vec![BTreeMap::new(); 3];
        let mut cut = BTreeSet::new();
        let mut generation = 100;
        let mut shuffle = order;
        for step in steps.iter().chain([&Step::Heal]) {
            match step {
                Step::Register(who, origin, what) => {
                    let all = &mut origins[usize::from(*who)];
                    let origin = format!("o{origin}");
                    let one = what.map(|what| {
                        let name = format!("n{what}.weave.local");
                        registration(None, &[&name], &[[10, *who, 0, what]])
                    });
                    match one.clone() {
                        None => drop(all.remove(&origin)),
                        Some(one) => drop(all.insert(origin.clone(), one)),
                    }
                    changes[usize::from(*who)].insert(origin, one);
                }
                Step::Restart(who) => {
                    generation += 1;
                    let who = usize::from(*who);
                    tables[who] = table(peer(who as u8), generation);
                    changes[who] = whole(&origins[who]);
                }
                Step::Cut(who) => drop(cut.insert(*who)),
                Step::Heal => cut.clear(),
            }
            for who in 0..3_u8 {
                let index = usize::from(who);
                tables[index].handle_registrations(std::mem::take(&mut changes[index]));
                tables[index].handle_complete();
                while let Some((key, value)) = tables[index].poll_publish() {
                    kept[index].insert(key, value);
                }
            }
            for (to, from) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
                let table = &mut tables[to];
                if cut.contains(&(to as u8)) || cut.contains(&(from as u8)) {
                    table.handle_mesh_event(MeshEvent::Unreachable { peer: peer(from as u8) });
                    continue;
                }
                let mut records: Vec<_> = kept[from].clone().into_iter().collect();
                shuffle = shuffle.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let middle = shuffle as usize % records.len();
                records.rotate_left(middle);
                for (key, value) in records {
                    let owner = peer(from as u8);
                    table.handle_mesh_event(MeshEvent::Record { owner, key, value });
                }
                meet(table, peer(from as u8));
            }
        }
        for table in &tables {
            let known: BTreeSet<_> = table
                .entries()
                .into_iter()
                .filter(|(_, live)| *live)
                .map(|(entry, _)| (entry.owner, entry.name.clone(), entry.address))
                .collect();
            let expected: BTreeSet<_> = origins
                .iter()
                .zip(0_u8..)
                .flat_map(|(all, who)| all.values().map(move |one| (peer(who), one)))
                .map(|(owner, one)| {
                    let binding = &one.bindings[0];
                    (owner, binding.names[0].clone(), binding.addresses[0])
                })
                .collect();
            prop_assert_eq!(known, expected);
        }
    }
}
