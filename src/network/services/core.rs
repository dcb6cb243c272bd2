//! Which virtual address stands for which tasks.
//!
//! Pure: what the engine, the managers and the mesh say goes in; records to publish and the
//! addresses to balance come out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::Bytes;

use super::record::{Backend, MANAGER, Service, ServiceId, TaskState, manager_key};
use super::status::{BackendStatus, ServiceStatus};
use crate::mesh::{Key, Kind, MeshEvent};
use crate::types::{EndpointId, NetworkId, PeerId};

/// The addresses that stand for others on one network, each with those that take its connections.
pub(super) type Balances = BTreeMap<Ipv4Addr, Arc<BTreeSet<Ipv4Addr>>>;

#[derive(Debug, Default)]
struct Peer {
    reachable: bool,
    manager: bool,
    services: BTreeMap<ServiceId, Service>,
    backends: BTreeMap<Bytes, Backend>,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Core {
    id: PeerId,
    peers: BTreeMap<PeerId, Peer>,
    outbox: Vec<(Key, Option<Bytes>)>,
}

impl Core {
    pub(super) fn new(id: PeerId) -> Self {
        let here = Peer {
            reachable: true,
            ..Peer::default()
        };
        Self {
            id,
            peers: BTreeMap::from([(id, here)]),
            outbox: Vec::new(),
        }
    }

    /// The tasks that run here: all of them, by endpoint.
    pub(super) fn handle_tasks(&mut self, tasks: BTreeMap<EndpointId, Backend>) {
        let tasks: BTreeMap<Bytes, Backend> = tasks
            .into_iter()
            .map(|(endpoint, backend)| (Backend::key(&endpoint).id, backend))
            .collect();
        let here = self.peers.entry(self.id).or_default();
        for gone in here.backends.keys().filter(|id| !tasks.contains_key(*id)) {
            let key = Key::new(Kind::BACKEND, gone.clone());
            self.outbox.push((key, None));
        }
        for (id, backend) in &tasks {
            if here.backends.get(id) != Some(backend) {
                let key = Key::new(Kind::BACKEND, id.clone());
                self.outbox.push((key, Some(backend.encode())));
            }
        }
        here.backends = tasks;
    }

    /// The services that this engine, being a manager, knows: all of them. `None` when it is no
    /// manager.
    pub(super) fn handle_services(&mut self, services: Option<BTreeMap<ServiceId, Service>>) {
        let here = self.peers.entry(self.id).or_default();
        let manager = services.is_some();
        if here.manager != manager {
            here.manager = manager;
            let value = manager.then(Bytes::new);
            self.outbox.push((manager_key(), value));
        }
        let services = services.unwrap_or_default();
        for gone in here
            .services
            .keys()
            .filter(|id| !services.contains_key(*id))
        {
            self.outbox.push((Service::key(gone), None));
        }
        for (id, service) in &services {
            if here.services.get(id) != Some(service) {
                self.outbox.push((Service::key(id), Some(service.encode())));
            }
        }
        here.services = services;
    }

    /// News from the mesh. Returns whether balances may have changed.
    pub(super) fn handle_mesh_event(&mut self, event: MeshEvent) -> bool {
        match event {
            MeshEvent::Record { owner, key, value } if owner != self.id => match key.kind {
                Kind::SERVICE => self.handle_service_record(owner, &key.id, value.as_deref()),
                Kind::BACKEND => self.handle_backend_record(owner, key.id, value.as_deref()),
                _ => false,
            },
            MeshEvent::Reachable { peer, .. } => self.set_reachable(peer, true),
            MeshEvent::Unreachable { peer } => self.set_reachable(peer, false),
            MeshEvent::Forgotten { peer } => self.peers.remove(&peer).is_some(),
            MeshEvent::Record { .. } | MeshEvent::Message { .. } => false,
        }
    }

    /// The next record to publish.
    #[must_use]
    pub(super) fn poll_publish(&mut self) -> Option<(Key, Option<Bytes>)> {
        (!self.outbox.is_empty()).then(|| self.outbox.remove(0))
    }

    /// What is to be balanced on each network.
    pub(super) fn balances(&self) -> BTreeMap<NetworkId, Balances> {
        let mut balances: BTreeMap<NetworkId, Balances> = BTreeMap::new();
        let backends = self.backends();
        for (id, service) in self.services() {
            for (network, vip) in &service.vips {
                let backends = backends.get(&(network, id)).cloned().unwrap_or_default();
                let entry = balances.entry(network.clone()).or_default();
                entry.insert(*vip, Arc::new(backends));
            }
        }
        balances
    }

    pub(super) fn status(&self) -> Vec<ServiceStatus> {
        let mut statuses = Vec::new();
        for (id, service) in self.services() {
            for (network, vip) in &service.vips {
                let backends = self.peers.iter().flat_map(|(peer, known)| {
                    let backends = known.backends.values();
                    let mine = backends.filter(|b| b.service == *id && b.network == *network);
                    mine.map(|backend| BackendStatus {
                        address: backend.address,
                        peer: *peer,
                        reachable: known.reachable,
                        state: backend.state,
                    })
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

    fn handle_service_record(&mut self, owner: PeerId, id: &[u8], value: Option<&[u8]>) -> bool {
        let Ok(id) = std::str::from_utf8(id) else {
            return false;
        };
        let peer = self.peers.entry(owner).or_default();
        if id == MANAGER {
            peer.manager = value.is_some();
            return true;
        }
        let id = ServiceId(id.to_owned());
        match value.map(Service::decode) {
            Some(Ok(service)) => {
                peer.services.insert(id, service);
                true
            }
            Some(Err(_)) => false,
            None => peer.services.remove(&id).is_some(),
        }
    }

    fn handle_backend_record(&mut self, owner: PeerId, id: Bytes, value: Option<&[u8]>) -> bool {
        let peer = self.peers.entry(owner).or_default();
        match value.map(Backend::decode) {
            Some(Ok(backend)) => {
                peer.backends.insert(id, backend);
                true
            }
            Some(Err(_)) => false,
            None => peer.backends.remove(&id).is_some(),
        }
    }

    fn set_reachable(&mut self, peer: PeerId, reachable: bool) -> bool {
        let known = self.peers.entry(peer).or_default();
        let changed = known.reachable != reachable;
        known.reachable = reachable;
        changed
    }

    /// All services. As long as one manager can be reached, only those that are count: the others
    /// may not have heard of the end of a service whose address is another's by now.
    fn services(&self) -> BTreeMap<&ServiceId, &Service> {
        let current = self
            .peers
            .values()
            .any(|peer| peer.manager && peer.reachable);
        self.peers
            .values()
            .filter(|peer| peer.reachable || !current)
            .flat_map(|peer| &peer.services)
            .collect()
    }

    /// The addresses of each service's ready tasks on each network. Tasks on hosts that cannot be
    /// reached are left out, unless that leaves none: their host may only be restarting its daemon.
    fn backends(&self) -> BTreeMap<(&NetworkId, &ServiceId), BTreeSet<Ipv4Addr>> {
        let mut reachable: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        let mut unreachable: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for peer in self.peers.values() {
            let side = match peer.reachable {
                true => &mut reachable,
                false => &mut unreachable,
            };
            let ready = |backend: &&Backend| backend.state == TaskState::Ready;
            for backend in peer.backends.values().filter(ready) {
                side.entry((&backend.network, &backend.service))
                    .or_default()
                    .insert(backend.address);
            }
        }
        for (key, addresses) in unreachable {
            reachable.entry(key).or_insert(addresses);
        }
        reachable
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
        assert_eq!(addresses(&manager), [3, 4]);
        assert_eq!(addresses(&worker), [3, 4]);
    }

    #[test]
    fn tasks_that_end_and_hosts_that_die_get_nothing_any_more() {
        let (mut manager, mut worker) = (core(1), core(2));
        manager.handle_services(Some(web()));
        manager.handle_tasks(tasks(&[("e1", 3), ("e3", 5)]));
        worker.handle_tasks(tasks(&[("e2", 4)]));
        exchange(&mut manager, &mut worker);
        manager.handle_tasks(tasks(&[("e3", 5)]));
        assert_eq!(addresses(&manager), [4, 5]);
        manager.handle_mesh_event(MeshEvent::Unreachable { peer: worker.id });
        assert_eq!(addresses(&manager), [5]);
        manager.handle_tasks(BTreeMap::new());
        // The host may only be restarting its daemon, and nobody else is there.
        assert_eq!(addresses(&manager), [4]);
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
        assert_eq!(addresses(&core), [3]);
        assert_eq!(core.status()[0].backends.len(), 4);
    }

    #[test]
    fn what_is_known_goes_on_without_managers() {
        let (mut manager, mut worker) = (core(1), core(2));
        manager.handle_services(Some(web()));
        worker.handle_tasks(tasks(&[("e2", 4)]));
        exchange(&mut manager, &mut worker);
        worker.handle_mesh_event(MeshEvent::Unreachable { peer: manager.id });
        assert_eq!(addresses(&worker), [4]);
    }

    #[test]
    fn a_manager_that_is_there_counts_before_one_that_is_not() {
        let (mut old, mut new, mut worker) = (core(1), core(2), core(3));
        old.handle_services(Some(web()));
        exchange(&mut old, &mut worker);
        new.handle_services(Some(BTreeMap::new()));
        exchange(&mut new, &mut worker);
        worker.handle_mesh_event(MeshEvent::Unreachable { peer: old.id });
        assert!(worker.balances().is_empty());
    }

    #[test]
    fn nothing_is_published_twice() {
        let mut manager = core(1);
        manager.handle_services(Some(web()));
        manager.handle_tasks(tasks(&[("e1", 3)]));
        assert_eq!(published(&mut manager).len(), 3);
        manager.handle_services(Some(web()));
        manager.handle_tasks(tasks(&[("e1", 3)]));
        assert_eq!(published(&mut manager), []);
        manager.handle_services(None);
        manager.handle_tasks(BTreeMap::new());
        let gone = published(&mut manager);
        assert!(gone.iter().all(|(_, value)| value.is_none()) && gone.len() == 3);
    }

    fn core(number: u8) -> Core {
        Core::new(PeerId::from_bytes([number; 16]))
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

    fn addresses(core: &Core) -> Vec<u8> {
        let balances = core.balances();
        let backends = &balances[&network()][&ip(2)];
        backends.iter().map(|address| address.octets()[3]).collect()
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
