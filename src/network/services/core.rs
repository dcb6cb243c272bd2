//! Which virtual address stands for which tasks.
//!
//! Pure: what the engine, the managers and the mesh say goes in; records to publish and the
//! addresses to balance come out. News of one service costs what that service has, however many
//! others there are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;

use super::record::{
    Backend, LIFE, Life, MANAGER, Service, ServiceId, TaskState, Told, manager_key,
};
use super::status::{BackendStatus, Certainty, ServiceStatus};
use crate::mesh::{Key, Kind, MeshEvent};
use crate::types::{EndpointId, NetworkId, PeerId};

/// The addresses of the tasks behind a virtual address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Balance {
    /// Those that take connections.
    pub(super) ready: BTreeSet<Ipv4Addr>,
    /// Those that were told to stop, and finish what they have begun.
    pub(super) stopping: BTreeSet<Ipv4Addr>,
}

/// The addresses that stand for others on one network, each with those behind it.
pub(super) type Balances = BTreeMap<Ipv4Addr, Arc<Balance>>;

#[derive(Debug, Default)]
struct Peer {
    reachable: bool,
    manager: bool,
    services: BTreeMap<ServiceId, Service>,
    /// What it has taken back since it said something of services last. It counts while no manager
    /// can be reached: one that restarts takes everything back.
    retired: BTreeMap<ServiceId, Service>,
    /// Which life its daemon is in, as soon as it says so.
    life: Option<Life>,
    backends: BTreeMap<Bytes, Told>,
}

/// Which services have to be worked out anew.
#[derive(Debug, Default)]
struct Dirty {
    all: bool,
    services: BTreeSet<ServiceId>,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Core {
    id: PeerId,
    life: Life,
    peers: BTreeMap<PeerId, Peer>,
    /// Where each service's tasks are to be found.
    placed: BTreeMap<ServiceId, BTreeSet<(PeerId, Bytes)>>,
    balances: BTreeMap<NetworkId, Balances>,
    /// Whose the addresses in `balances` are.
    owners: BTreeMap<(NetworkId, Ipv4Addr), ServiceId>,
    /// The addresses in `balances` of each service.
    assigned: BTreeMap<ServiceId, Vec<(NetworkId, Ipv4Addr)>>,
    dirty: Dirty,
    outbox: VecDeque<(Key, Option<Bytes>)>,
}

impl Core {
    /// Of the peer `id`; `life` differs from that of its earlier starts.
    pub(super) fn new(id: PeerId, life: Life) -> Self {
        let here = Peer {
            reachable: true,
            life: Some(life),
            ..Peer::default()
        };
        Self {
            id,
            life,
            peers: BTreeMap::from([(id, here)]),
            placed: BTreeMap::new(),
            balances: BTreeMap::new(),
            owners: BTreeMap::new(),
            assigned: BTreeMap::new(),
            dirty: Dirty::default(),
            outbox: VecDeque::from([(Life::key(), Some(life.encode()))]),
        }
    }

    /// The tasks that run here: all of them, by endpoint.
    pub(super) fn handle_tasks(&mut self, tasks: BTreeMap<EndpointId, Backend>) {
        let life = self.life;
        let tasks: BTreeMap<Bytes, Told> = tasks
            .into_iter()
            .map(|(endpoint, backend)| (Backend::key(&endpoint).id, Told { life, backend }))
            .collect();
        let here = self.peers.entry(self.id).or_default();
        let gone = here.backends.keys().filter(|id| !tasks.contains_key(*id));
        let gone: Vec<_> = gone.cloned().collect();
        let new = tasks.into_iter();
        let new: Vec<_> = new
            .filter(|(id, told)| here.backends.get(id) != Some(told))
            .collect();
        for id in gone {
            self.outbox
                .push_back((Key::new(Kind::BACKEND, id.clone()), None));
            self.set_backend(self.id, id, None);
        }
        for (id, told) in new {
            let key = Key::new(Kind::BACKEND, id.clone());
            self.outbox.push_back((key, Some(told.encode())));
            self.set_backend(self.id, id, Some(told));
        }
    }

    /// The services that this engine, being a manager, knows: all of them. `None` when it is no
    /// manager.
    pub(super) fn handle_services(&mut self, services: Option<BTreeMap<ServiceId, Service>>) {
        let here = self.peers.entry(self.id).or_default();
        let manager = services.is_some();
        let was_manager = here.manager;
        let services = services.unwrap_or_default();
        let known = here.services.keys();
        let gone: Vec<_> = known
            .filter(|id| !services.contains_key(*id))
            .cloned()
            .collect();
        let new: Vec<_> = services
            .into_iter()
            .filter(|(id, service)| here.services.get(id) != Some(service))
            .collect();
        if was_manager != manager {
            let value = manager.then(Bytes::new);
            self.outbox.push_back((manager_key(), value));
            self.set_manager(self.id, manager);
        }
        for id in gone {
            self.outbox.push_back((Service::key(&id), None));
            self.set_service(self.id, id, None);
        }
        for (id, service) in new {
            self.outbox
                .push_back((Service::key(&id), Some(service.encode())));
            self.set_service(self.id, id, Some(service));
        }
    }

    /// News from the mesh.
    pub(super) fn handle_mesh_event(&mut self, event: MeshEvent) {
        match event {
            MeshEvent::Record { owner, key, value } if owner != self.id => match key.kind {
                Kind::SERVICE => self.handle_service_record(owner, &key.id, value.as_deref()),
                Kind::BACKEND => self.handle_backend_record(owner, key.id, value.as_deref()),
                _ => {}
            },
            MeshEvent::Reachable { peer, .. } => self.set_reachable(peer, true),
            MeshEvent::Unreachable { peer } => self.set_reachable(peer, false),
            MeshEvent::Forgotten { peer } => self.forget(peer),
            MeshEvent::Record { .. } | MeshEvent::Message { .. } => {}
        }
    }

    /// The next record to publish.
    #[must_use]
    pub(super) fn poll_publish(&mut self) -> Option<(Key, Option<Bytes>)> {
        self.outbox.pop_front()
    }

    /// Works out what the news amounts to, and tells on which networks something has changed.
    #[must_use]
    pub(super) fn poll_changed(&mut self) -> BTreeSet<NetworkId> {
        let dirty = std::mem::take(&mut self.dirty);
        let dirty = match dirty.all {
            true => {
                let peers = self.peers.values();
                let known = peers.flat_map(|peer| peer.services.keys().chain(peer.retired.keys()));
                known.chain(self.assigned.keys()).cloned().collect()
            }
            false => dirty.services,
        };
        let current = self.current();
        let mut changed = BTreeSet::new();
        let mut before = BTreeMap::new();
        for id in &dirty {
            for place in self.assigned.remove(id).unwrap_or_default() {
                // Another service may have it by now.
                if self.owners.get(&place) != Some(id) {
                    continue;
                }
                self.owners.remove(&place);
                let on_network = self.balances.entry(place.0.clone()).or_default();
                if let Some(balance) = on_network.remove(&place.1) {
                    before.insert(place, balance);
                }
            }
        }
        for id in dirty {
            let Some(vips) = self.service(&id, current).map(|s| s.vips.clone()) else {
                continue;
            };
            for place in &vips {
                let (network, vip) = place;
                let balance = self.balance(network, &id);
                let balance = match before.remove(place) {
                    // What has stayed the same is told by being the same.
                    Some(before) if *before == balance => before,
                    _ => {
                        changed.insert(network.clone());
                        Arc::new(balance)
                    }
                };
                let on_network = self.balances.entry(network.clone()).or_default();
                on_network.insert(*vip, balance);
                self.owners.insert(place.clone(), id.clone());
            }
            self.assigned.insert(id, vips);
        }
        changed.extend(before.into_keys().map(|(network, _)| network));
        self.balances.retain(|_, of_network| !of_network.is_empty());
        changed
    }

    /// What is to be balanced on each network, as of the last [`Core::poll_changed`].
    pub(super) fn balances(&self) -> &BTreeMap<NetworkId, Balances> {
        &self.balances
    }

    /// Whether anybody has told of services yet.
    pub(super) fn knows_services(&self) -> bool {
        let mut peers = self.peers.values();
        peers.any(|peer| peer.manager || !peer.services.is_empty())
    }

    pub(super) fn status(&self) -> Vec<ServiceStatus> {
        let current = self.current();
        let mut statuses = Vec::new();
        for id in self.assigned.keys() {
            let Some(service) = self.service(id, current) else {
                continue;
            };
            for (network, vip) in &service.vips {
                let on_network = self.tasks(id).filter(|(_, _, b)| b.network == *network);
                let backends = on_network.map(|(peer, certainty, backend)| BackendStatus {
                    address: backend.address,
                    peer,
                    certainty,
                    state: backend.state,
                    connections: 0,
                });
                statuses.push(ServiceStatus {
                    service: service.name.clone(),
                    network: network.clone(),
                    vip: *vip,
                    backends: backends.collect(),
                });
            }
        }
        statuses
    }

    fn handle_service_record(&mut self, owner: PeerId, id: &[u8], value: Option<&[u8]>) {
        let Ok(id) = std::str::from_utf8(id) else {
            return;
        };
        if id == MANAGER {
            return self.set_manager(owner, value.is_some());
        }
        // One that cannot be read is a later version's.
        if let Ok(service) = value.map(Service::decode).transpose() {
            self.set_service(owner, ServiceId(id.to_owned()), service);
        }
    }

    fn handle_backend_record(&mut self, owner: PeerId, id: Bytes, value: Option<&[u8]>) {
        // One that cannot be read is a later version's.
        if id == LIFE {
            if let Ok(life) = value.map(Life::decode).transpose() {
                self.set_life(owner, life);
            }
        } else if let Ok(told) = value.map(Told::decode).transpose() {
            self.set_backend(owner, id, told);
        }
    }

    fn set_manager(&mut self, peer: PeerId, manager: bool) {
        let known = self.peers.entry(peer).or_default();
        if manager {
            known.retired.clear();
        }
        known.manager = manager;
        self.dirty.all = true;
    }

    fn set_service(&mut self, peer: PeerId, id: ServiceId, service: Option<Service>) {
        let known = self.peers.entry(peer).or_default();
        match service {
            Some(service) => {
                if known.manager {
                    // It speaks again: what it leaves out is gone.
                    known.retired.clear();
                }
                known.services.insert(id.clone(), service);
            }
            None => {
                if let Some(service) = known.services.remove(&id) {
                    known.retired.insert(id.clone(), service);
                }
            }
        }
        self.dirty.services.insert(id);
    }

    fn set_backend(&mut self, peer: PeerId, id: Bytes, told: Option<Told>) {
        let known = self.peers.entry(peer).or_default();
        let place = (peer, id.clone());
        let service = told.as_ref().map(|told| told.backend.service.clone());
        if let Some(service) = &service {
            let tasks = self.placed.entry(service.clone()).or_default();
            tasks.insert(place.clone());
            self.dirty.services.insert(service.clone());
        }
        let before = match told {
            Some(told) => known.backends.insert(id, told),
            None => known.backends.remove(&id),
        };
        let Some(before) = before.map(|before| before.backend.service) else {
            return;
        };
        if Some(&before) != service.as_ref()
            && let Some(tasks) = self.placed.get_mut(&before)
        {
            tasks.remove(&place);
            if tasks.is_empty() {
                self.placed.remove(&before);
            }
        }
        self.dirty.services.insert(before);
    }

    fn set_life(&mut self, peer: PeerId, life: Option<Life>) {
        let known = self.peers.entry(peer).or_default();
        known.life = life;
        self.dirty.services.extend(known.backed());
    }

    fn set_reachable(&mut self, peer: PeerId, reachable: bool) {
        let known = self.peers.entry(peer).or_default();
        if known.reachable == reachable {
            return;
        }
        known.reachable = reachable;
        self.dirty.services.extend(known.backed());
        self.dirty.all |= known.manager || !known.services.is_empty();
    }

    fn forget(&mut self, peer: PeerId) {
        let Some(known) = self.peers.get(&peer) else {
            return;
        };
        let tasks: Vec<_> = known.backends.keys().cloned().collect();
        for id in tasks {
            self.set_backend(peer, id, None);
        }
        self.peers.remove(&peer);
        self.dirty.all = true;
    }

    /// Whether a manager can be reached.
    fn current(&self) -> bool {
        let mut peers = self.peers.values();
        peers.any(|peer| peer.manager && peer.reachable)
    }

    /// What is known of a service. As long as one manager can be reached, only those that are
    /// count: the others may not have heard of the end of a service whose address is another's by
    /// now.
    fn service(&self, id: &ServiceId, current: bool) -> Option<&Service> {
        let peers = || self.peers.values().rev();
        if current {
            let mut reachable = peers().filter(|peer| peer.reachable);
            return reachable.find_map(|peer| peer.services.get(id));
        }
        let known = peers().find_map(|peer| peer.services.get(id));
        known.or_else(|| peers().find_map(|peer| peer.retired.get(id)))
    }

    /// The addresses of a service's tasks on one network: those that are surest to run. A host that
    /// cannot be reached, or has not told of its tasks again, may only be restarting its daemon; but
    /// as long as there are others, nothing is risked.
    fn balance(&self, network: &NetworkId, service: &ServiceId) -> Balance {
        let mut ready: BTreeMap<Certainty, BTreeSet<Ipv4Addr>> = BTreeMap::new();
        let mut stopping = BTreeSet::new();
        for (_, certainty, backend) in self.tasks(service) {
            if backend.network != *network {
                continue;
            }
            match (backend.state, certainty) {
                (TaskState::Ready, _) => {
                    ready.entry(certainty).or_default().insert(backend.address)
                }
                (TaskState::Stopping, Certainty::Confirmed) => stopping.insert(backend.address),
                _ => false,
            };
        }
        Balance {
            ready: ready
                .pop_first()
                .map(|(_, surest)| surest)
                .unwrap_or_default(),
            stopping,
        }
    }

    fn tasks(&self, service: &ServiceId) -> impl Iterator<Item = (PeerId, Certainty, &Backend)> {
        let places = self.placed.get(service).into_iter().flatten();
        places.filter_map(|(id, task)| {
            let peer = self.peers.get(id)?;
            let told = peer.backends.get(task)?;
            Some((*id, peer.certainty(told), &told.backend))
        })
    }
}

impl Peer {
    fn certainty(&self, told: &Told) -> Certainty {
        match self.life == Some(told.life) {
            _ if !self.reachable => Certainty::Unreachable,
            true => Certainty::Confirmed,
            false => Certainty::Remembered,
        }
    }

    /// The services that its tasks back.
    fn backed(&self) -> impl Iterator<Item = ServiceId> {
        let tasks = self.backends.values();
        tasks.map(|told| told.backend.service.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_balanced_over_the_tasks_of_all_hosts() {
        let (mut manager, mut worker) = (core(1), core(2));
        manager.handle_services(Some(web()));
        manager.handle_tasks(tasks(&[("e1", 3)]));
        worker.handle_tasks(tasks(&[("e2", 4)]));
        exchange(&mut manager, &mut worker);
        assert_eq!(addresses(&mut manager), [3, 4]);
        assert_eq!(addresses(&mut worker), [3, 4]);
    }

    #[test]
    fn tasks_that_end_and_hosts_that_die_get_nothing_any_more() {
        let (mut manager, mut worker) = (core(1), core(2));
        manager.handle_services(Some(web()));
        manager.handle_tasks(tasks(&[("e1", 3), ("e3", 5)]));
        worker.handle_tasks(tasks(&[("e2", 4)]));
        exchange(&mut manager, &mut worker);
        manager.handle_tasks(tasks(&[("e3", 5)]));
        assert_eq!(addresses(&mut manager), [4, 5]);
        manager.handle_mesh_event(MeshEvent::Unreachable { peer: worker.id });
        assert_eq!(addresses(&mut manager), [5]);
        manager.handle_tasks(BTreeMap::new());
        // The host may only be restarting its daemon, and nobody else is there.
        assert_eq!(addresses(&mut manager), [4]);
    }

    #[test]
    fn tasks_that_a_host_has_not_told_of_since_its_start_are_the_last_resort() {
        let (mut manager, mut worker) = (core(1), core(2));
        manager.handle_services(Some(web()));
        manager.handle_tasks(tasks(&[("e1", 3)]));
        worker.handle_tasks(tasks(&[("e2", 4), ("e3", 5)]));
        exchange(&mut manager, &mut worker);
        assert_eq!(addresses(&mut manager), [3, 4, 5]);
        // The mesh still has what it said in its last life.
        let mut again = Core::new(worker.id, Life(99));
        exchange(&mut manager, &mut again);
        assert_eq!(addresses(&mut manager), [3]);
        manager.handle_tasks(BTreeMap::new());
        assert_eq!(addresses(&mut manager), [4, 5]);
        assert_eq!(addresses(&mut worker), [3, 4, 5]);
        again.handle_tasks(tasks(&[("e3", 5)]));
        exchange(&mut manager, &mut again);
        assert_eq!(addresses(&mut manager), [5]);
        // One that only remembers is surer than one that cannot be reached.
        let mut third = core(3);
        third.handle_tasks(tasks(&[("e4", 6)]));
        exchange(&mut manager, &mut third);
        manager.handle_mesh_event(MeshEvent::Unreachable { peer: third.id });
        exchange(&mut manager, &mut Core::new(worker.id, Life(100)));
        assert_eq!(addresses(&mut manager), [4, 5]);
    }

    #[test]
    fn tasks_that_are_not_ready_are_shown_and_left_alone() {
        let mut core = core(1);
        core.handle_services(Some(web()));
        let mut tasks = tasks(&[("e1", 3), ("e2", 4), ("e3", 5), ("e4", 6)]);
        let states = [
            TaskState::Ready,
            TaskState::Starting,
            TaskState::Unhealthy,
            TaskState::Stopping,
        ];
        for (task, state) in tasks.values_mut().zip(states) {
            task.state = state;
        }
        core.handle_tasks(tasks);
        assert_eq!(addresses(&mut core), [3]);
        let balance = &core.balances()[&network()][&ip(2)];
        assert_eq!(balance.stopping, [ip(6)].into());
        assert_eq!(core.status()[0].backends.len(), 4);
    }

    #[test]
    fn what_is_known_goes_on_without_managers() {
        let (mut manager, mut worker) = (core(1), core(2));
        manager.handle_services(Some(web()));
        worker.handle_tasks(tasks(&[("e2", 4)]));
        exchange(&mut manager, &mut worker);
        worker.handle_mesh_event(MeshEvent::Unreachable { peer: manager.id });
        assert_eq!(addresses(&mut worker), [4]);
    }

    #[test]
    fn a_manager_that_is_there_counts_before_one_that_is_not() {
        let (mut old, mut new, mut worker) = (core(1), core(2), core(3));
        old.handle_services(Some(web()));
        exchange(&mut old, &mut worker);
        new.handle_services(Some(BTreeMap::new()));
        exchange(&mut new, &mut worker);
        worker.handle_mesh_event(MeshEvent::Unreachable { peer: old.id });
        let _ = worker.poll_changed();
        assert!(worker.balances().is_empty());
    }

    #[test]
    fn a_manager_that_restarts_takes_nothing_away() {
        let (mut manager, mut worker) = (core(1), core(2));
        manager.handle_services(Some(web()));
        worker.handle_tasks(tasks(&[("e2", 4)]));
        exchange(&mut manager, &mut worker);
        // Its new life knows nothing yet, and what it said before times out.
        manager.handle_services(None);
        exchange(&mut manager, &mut worker);
        assert_eq!(addresses(&mut worker), [4]);
        // One that speaks again and leaves the service out means it.
        manager.handle_services(Some(BTreeMap::new()));
        exchange(&mut manager, &mut worker);
        let _ = worker.poll_changed();
        assert!(worker.balances().is_empty());
        worker.handle_mesh_event(MeshEvent::Unreachable { peer: manager.id });
        let _ = worker.poll_changed();
        assert!(worker.balances().is_empty());
    }

    #[test]
    fn only_what_changed_is_worked_out_anew() {
        let mut core = core(1);
        let service = |n: u8| Service {
            name: n.to_string(),
            vips: vec![(network(), ip(n))],
        };
        let id = |n: u8| ServiceId(format!("s{n}"));
        core.handle_services(Some((1..200).map(|n| (id(n), service(n))).collect()));
        assert_eq!(core.poll_changed(), [network()].into());
        let before = core.balances()[&network()].clone();
        core.handle_tasks(tasks(&[("e1", 220)]));
        assert_eq!(core.dirty.services, [id(1)].into());
        assert_eq!(core.poll_changed(), [network()].into());
        let after = &core.balances()[&network()];
        let same = |vip: &u8| Arc::ptr_eq(&before[&ip(*vip)], &after[&ip(*vip)]);
        assert_eq!((1..200).filter(|n| !same(n)).collect::<Vec<_>>(), [1]);
        assert!(core.poll_changed().is_empty());
    }

    #[test]
    fn an_address_that_another_service_has_got_stays_its_own() {
        let mut core = core(1);
        let named = |id: &str| {
            let mut services = web();
            let service = services.pop_first().unwrap().1;
            BTreeMap::from([(ServiceId(id.to_owned()), service)])
        };
        core.handle_services(Some(web()));
        let _ = core.poll_changed();
        core.handle_tasks(tasks(&[("e1", 3)]));
        core.handle_services(Some(named("s2")));
        assert_eq!(addresses(&mut core), [0; 0]);
        core.handle_services(Some(web()));
        assert_eq!(addresses(&mut core), [3]);
    }

    #[test]
    fn nothing_is_published_twice() {
        let mut manager = core(1);
        manager.handle_services(Some(web()));
        manager.handle_tasks(tasks(&[("e1", 3)]));
        assert_eq!(published(&mut manager).len(), 4);
        manager.handle_services(Some(web()));
        manager.handle_tasks(tasks(&[("e1", 3)]));
        assert_eq!(published(&mut manager), []);
        manager.handle_services(None);
        manager.handle_tasks(BTreeMap::new());
        let gone = published(&mut manager);
        assert!(gone.iter().all(|(_, value)| value.is_none()) && gone.len() == 3);
    }

    fn core(number: u8) -> Core {
        Core::new(PeerId::from_bytes([number; 16]), Life(number.into()))
    }

    fn network() -> NetworkId {
        "net".parse().unwrap()
    }

    fn ip(last: u8) -> Ipv4Addr {
        [10, 0, 1, last].into()
    }

    fn web() -> BTreeMap<ServiceId, Service> {
        let service = Service {
            name: "web".to_owned(),
            vips: vec![(network(), ip(2))],
        };
        BTreeMap::from([(ServiceId("s1".to_owned()), service)])
    }

    fn tasks(of: &[(&str, u8)]) -> BTreeMap<EndpointId, Backend> {
        let backend = |last| Backend {
            service: ServiceId("s1".to_owned()),
            network: network(),
            address: ip(last),
            state: TaskState::Ready,
        };
        of.iter()
            .map(|(id, last)| (id.parse().unwrap(), backend(*last)))
            .collect()
    }

    fn addresses(core: &mut Core) -> Vec<u8> {
        let _ = core.poll_changed();
        let balance = &core.balances()[&network()][&ip(2)];
        let ready = balance.ready.iter();
        ready.map(|address| address.octets()[3]).collect()
    }

    fn published(core: &mut Core) -> Vec<(Key, Option<Bytes>)> {
        std::iter::from_fn(|| core.poll_publish()).collect()
    }

    fn exchange(one: &mut Core, two: &mut Core) {
        for (from, to) in [(one.id, two.id), (two.id, one.id)] {
            let (sender, receiver) = match from == one.id {
                true => (&mut *one, &mut *two),
                false => (&mut *two, &mut *one),
            };
            assert_eq!(receiver.id, to);
            let address = None;
            receiver.handle_mesh_event(MeshEvent::Reachable {
                peer: from,
                address,
            });
            for (key, value) in published(sender) {
                let owner = from;
                receiver.handle_mesh_event(MeshEvent::Record { owner, key, value });
            }
        }
    }
}
