//! What is known of networks, segments and endpoints, here and on other hosts, and what follows
//! from it for the devices and for what the others are told.
//!
//! Pure: calls, mesh events and the time go in; answers come back at once, and what else is to be
//! done is drawn with [`Core::poll_action`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::record::{EndpointRecord, SegmentRecord};
use super::status::{EndpointStatus, NetworkStatus, RouteStatus, SegmentStatus};
use super::switch::Policy;
use super::{EndpointSpec, Joined, JoinedEndpoints, NetworkError, NetworkSpec, VNI_OPTION};
use crate::datapath::{Forwarding, Inventory, PortSpec, SegmentSpec, mtu, port_name};
use crate::mesh::{Key, Kind, MeshEvent};
use crate::types::{EndpointId, Mac, NetworkId, PeerId, SegmentId, Vni};

/// For how long the remembered endpoints of a peer are kept once the peer itself is heard: its
/// records need that long at most to arrive.
const REMEMBERED_GRACE: Duration = Duration::from_secs(5);

/// How long changes of what is remembered are collected before they are written.
const REMEMBER_DELAY: Duration = Duration::from_secs(1);

/// An endpoint that the engine does not list is stale only when it is older than this: the engine
/// lists a container some time after its endpoints are made.
const STALE_AFTER: Duration = Duration::from_secs(30);

/// IPv4's multicast addresses (RFC 5771).
const MULTICAST: &str = "224.0.0.0/4";

/// What the settings say, and who this peer is.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    /// This peer.
    pub id: PeerId,
    /// What this host is called.
    pub nickname: String,
    /// What may carry frames.
    pub policy: Policy,
    /// `WEAVE_MTU`, in bytes: overrides what the path allows.
    pub mtu: Option<u16>,
    /// `WEAVE_MULTICAST`: for networks that do not say themselves.
    pub multicast: bool,
}

/// What survives the host: networks, and the VNIs that were chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Definitions {
    networks: Vec<NetworkSpec>,
    allocated: BTreeMap<NetworkId, Vni>,
    vnis: BTreeMap<SegmentId, Vni>,
}

/// What lives as long as the kernel's devices: endpoints here, and where those of others are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Attachments {
    endpoints: Vec<Endpoint>,
}

/// The last that was heard of the other peers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Remembered {
    peers: BTreeMap<PeerId, RememberedPeer>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct RememberedPeer {
    address: Option<IpAddr>,
    endpoints: BTreeMap<String, EndpointRecord>,
}

/// What is to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Tell the mesh.
    Publish(Key, Option<Bytes>),
    /// Make a segment's devices as given.
    Ensure(SegmentSpec),
    /// Remove the devices with this tag.
    Remove(u32),
    /// Make a segment's forwarding as given.
    Forward(SegmentId, Forwarding),
    /// Remove the bridge port with this name.
    Unplug(String),
    /// Tell a segment to whom addresses belong.
    Announce(SegmentId, Mac, Vec<IpAddr>),
    /// Write down what was heard of the other peers.
    Remember(Remembered),
}

/// What a join needs from the devices and gives to Docker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plug {
    /// The segment, whose devices may have to be made first.
    pub segment: SegmentSpec,
    /// The port.
    pub port: PortSpec,
    /// Destinations that are directly connected.
    pub connected_routes: Vec<IpNet>,
}

#[derive(Debug)]
struct Segment {
    vni: Vni,
    networks: BTreeSet<NetworkId>,
    /// What the devices and the other peers were told last.
    ensured: Option<SegmentSpec>,
    published: Option<SegmentRecord>,
    forwarding: Option<Forwarding>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Endpoint {
    #[serde(flatten)]
    spec: EndpointSpec,
    assigned_mac: Mac,
    sandbox: Option<PathBuf>,
    container: Option<String>,
    claim: u64,
    /// Whether it has its container's multicast route.
    multicast: bool,
    /// When it was made; endpoints from an earlier life of the daemon have no such time.
    #[serde(skip)]
    made: Option<Instant>,
    /// Whether the engine failed to list it the last time.
    #[serde(skip)]
    unlisted: bool,
}

#[derive(Debug, Default)]
struct Peer {
    reachable: bool,
    address: Option<IpAddr>,
    endpoints: BTreeMap<Bytes, EndpointRecord>,
    segments: BTreeMap<SegmentId, SegmentRecord>,
    remembered: BTreeMap<String, EndpointRecord>,
    forget_remembered: Option<Instant>,
}

/// The state machine.
#[derive(Debug)]
pub(super) struct Core {
    config: CoreConfig,
    underlay_mtu: u16,
    networks: BTreeMap<NetworkId, NetworkSpec>,
    allocated: BTreeMap<NetworkId, Vni>,
    /// Which VNI each segment had last: kept for segments without networks too, so that one that
    /// comes again has the same.
    vnis: BTreeMap<SegmentId, Vni>,
    segments: BTreeMap<SegmentId, Segment>,
    endpoints: BTreeMap<EndpointId, Endpoint>,
    peers: BTreeMap<PeerId, Peer>,
    /// Segments whose forwarding may have changed.
    dirty: BTreeSet<SegmentId>,
    /// Whether VNIs that were heard of may call for a change of ours.
    unsettled: bool,
    remember_at: Option<Instant>,
    actions: VecDeque<Action>,
}

impl Core {
    /// Takes up where an earlier life of the daemon ended.
    pub(super) fn new(
        config: CoreConfig,
        underlay_mtu: u16,
        definitions: Definitions,
        attachments: Attachments,
        remembered: Remembered,
    ) -> Self {
        let mut core = Self {
            config,
            underlay_mtu,
            networks: BTreeMap::new(),
            allocated: definitions.allocated,
            vnis: definitions.vnis,
            segments: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            peers: BTreeMap::new(),
            dirty: BTreeSet::new(),
            unsettled: false,
            remember_at: None,
            actions: VecDeque::new(),
        };
        for (id, peer) in remembered.peers {
            let known = Peer {
                address: peer.address,
                remembered: peer.endpoints,
                ..Peer::default()
            };
            core.peers.insert(id, known);
        }
        for spec in definitions.networks {
            core.add_network(spec);
        }
        for endpoint in attachments.endpoints {
            if core.networks.contains_key(&endpoint.spec.network) {
                core.add_endpoint(endpoint);
            }
        }
        core
    }

    /// Compares what is known with what is in the kernel: ports without endpoints and devices
    /// without networks are removed, endpoints whose ports are gone are forgotten.
    pub(super) fn handle_inventory(&mut self, inventory: &Inventory) {
        let known: BTreeSet<_> = self.endpoints.keys().map(port_name).collect();
        for port in inventory.ports.keys().filter(|port| !known.contains(*port)) {
            self.actions.push_back(Action::Unplug(port.clone()));
        }
        let gone: Vec<_> = self
            .endpoints
            .iter()
            .filter(|(id, endpoint)| {
                endpoint.sandbox.is_some() && !inventory.ports.contains_key(&port_name(id))
            })
            .map(|(id, _)| id.clone())
            .collect();
        for id in gone {
            self.remove_endpoint(&id);
        }
        self.drop_unused_global_networks();
        let tags: BTreeSet<_> = self.segments.keys().map(SegmentId::tag).collect();
        for tag in inventory.segments.difference(&tags) {
            self.actions.push_back(Action::Remove(*tag));
        }
    }

    /// Chooses a global network's VNI. What it answered before is answered again.
    pub(super) fn handle_allocate(
        &mut self,
        id: &NetworkId,
        mut options: BTreeMap<String, String>,
    ) -> Result<BTreeMap<String, String>, NetworkError> {
        let vni = match options.get(VNI_OPTION) {
            Some(given) => given.parse().map_err(|source| NetworkError::Option {
                option: VNI_OPTION.to_owned(),
                source,
            })?,
            None => match self.allocated.get(id) {
                Some(vni) => *vni,
                None => self
                    .unused_vni(&SegmentId::of_swarm_network(id))
                    .ok_or_else(|| NetworkError::NoVni(id.clone()))?,
            },
        };
        self.allocated.insert(id.clone(), vni);
        options.insert(VNI_OPTION.to_owned(), vni.to_string());
        Ok(options)
    }

    /// A global network is gone; its VNI may be used again.
    pub(super) fn handle_free(&mut self, id: &NetworkId) {
        self.allocated.remove(id);
    }

    /// Takes note of a network. Returns whether anything changed.
    pub(super) fn handle_create_network(&mut self, spec: NetworkSpec) -> bool {
        if self.networks.get(&spec.id) == Some(&spec) {
            return false;
        }
        if let Some(old) = self.networks.get(&spec.id)
            && segment_of(old) != segment_of(&spec)
        {
            self.handle_delete_network(&spec.id);
        }
        self.add_network(spec);
        true
    }

    /// Forgets a network and whatever is left on it. Returns whether it was known.
    pub(super) fn handle_delete_network(&mut self, id: &NetworkId) -> bool {
        let Some(spec) = self.networks.remove(id) else {
            return false;
        };
        let left: Vec<_> = self
            .endpoints
            .iter()
            .filter(|(_, endpoint)| endpoint.spec.network == *id)
            .map(|(id, _)| id.clone())
            .collect();
        for endpoint in left {
            self.remove_endpoint(&endpoint);
        }
        let name = segment_of(&spec);
        if let Some(segment) = self.segments.get_mut(&name) {
            segment.networks.remove(id);
            if segment.networks.is_empty() {
                self.segments.remove(&name);
                self.dirty.remove(&name);
                self.actions.push_back(Action::Remove(name.tag()));
                self.actions
                    .push_back(Action::Publish(SegmentRecord::key(&name), None));
            } else {
                self.refresh_segment(&name);
            }
        }
        true
    }

    /// Makes an endpoint, replacing one of the same identifier; returns its MAC address.
    pub(super) fn handle_create_endpoint(
        &mut self,
        spec: EndpointSpec,
        now: Instant,
    ) -> Result<Mac, NetworkError> {
        let network = self
            .networks
            .get(&spec.network)
            .ok_or_else(|| NetworkError::UnknownNetwork(spec.network.clone()))?;
        let name = segment_of(network);
        let global = network.options.vni.is_some();
        for stale in self.superseded(&spec) {
            self.remove_endpoint(&stale);
        }
        // A swarm manager hands out the addresses of its networks, and may do so again before the
        // news of an endpoint's end is everywhere.
        if !global {
            self.check_addresses(&name, &spec)?;
        }
        let addresses = [spec.ipv4, spec.ipv6];
        let first = addresses.into_iter().flatten().next();
        let mac = spec
            .mac
            .or_else(|| first.map(|address| Mac::of_ip(address.addr())))
            .unwrap_or_else(|| mac_of_endpoint(&spec.endpoint));
        let claim = 1 + self
            .claims(&name)
            .filter(|record| {
                record.mac == mac || addresses.iter().flatten().any(|a| record.has_address(a))
            })
            .map(|record| record.claim)
            .max()
            .unwrap_or(0);
        self.add_endpoint(Endpoint {
            spec,
            assigned_mac: mac,
            sandbox: None,
            container: None,
            claim,
            multicast: false,
            made: Some(now),
            unlisted: false,
        });
        Ok(mac)
    }

    /// An endpoint is about to be used by the container whose namespace is at `sandbox`: returns
    /// what to plug in.
    pub(super) fn handle_join(
        &mut self,
        network: &NetworkId,
        id: &EndpointId,
        sandbox: Option<PathBuf>,
    ) -> Result<Plug, NetworkError> {
        let spec = self
            .networks
            .get(network)
            .ok_or_else(|| NetworkError::UnknownNetwork(network.clone()))?;
        let name = segment_of(spec);
        let mtu = self.mtu_of(spec, &name);
        let multicast = spec.options.multicast.unwrap_or(self.config.multicast);
        let endpoint = self
            .endpoints
            .get_mut(id)
            .filter(|endpoint| endpoint.spec.network == *network)
            .ok_or_else(|| NetworkError::UnknownEndpoint(id.clone()))?;
        endpoint.sandbox = Some(sandbox.unwrap_or_default());
        let mac = endpoint.assigned_mac;
        let addresses = endpoint.addresses();
        let wants_route = multicast && endpoint.spec.ipv4.is_some();
        let sandbox = endpoint.sandbox.clone();
        // A second route to the same destination would make Docker's join fail: the container's
        // first such network has it.
        let taken = self.endpoints.iter().any(|(other, endpoint)| {
            other != id
                && endpoint.multicast
                && endpoint.sandbox == sandbox
                && sandbox
                    .as_ref()
                    .is_some_and(|path| !path.as_os_str().is_empty())
        });
        let multicast = wants_route && !taken;
        if let Some(endpoint) = self.endpoints.get_mut(id) {
            endpoint.multicast = multicast;
        }
        let connected_routes = match MULTICAST.parse() {
            Ok(route) if multicast => vec![route],
            _ => Vec::new(),
        };
        let segment = self
            .segment_spec(&name)
            .ok_or_else(|| NetworkError::UnknownNetwork(network.clone()))?;
        self.actions
            .push_back(Action::Announce(name.clone(), mac, addresses));
        Ok(Plug {
            segment,
            port: PortSpec {
                endpoint: id.clone(),
                segment: name,
                mac,
                mtu,
            },
            connected_routes,
        })
    }

    /// The container no longer uses the endpoint.
    pub(super) fn handle_leave(&mut self, id: &EndpointId) {
        if let Some(endpoint) = self.endpoints.get_mut(id)
            && endpoint.sandbox.take().is_some()
        {
            endpoint.multicast = false;
            self.actions.push_back(Action::Unplug(port_name(id)));
        }
    }

    /// Removes an endpoint; one that is not known is as good as removed.
    pub(super) fn handle_delete_endpoint(&mut self, id: &EndpointId) {
        self.remove_endpoint(id);
    }

    /// What is worth knowing about an endpoint.
    pub(super) fn describe(&self, id: &EndpointId) -> BTreeMap<String, String> {
        let Some(endpoint) = self.endpoints.get(id) else {
            return BTreeMap::new();
        };
        let mut info = BTreeMap::from([(
            "works.weave.mac".to_owned(),
            endpoint.assigned_mac.to_string(),
        )]);
        if let Some(spec) = self.networks.get(&endpoint.spec.network) {
            let segment = segment_of(spec);
            if let Some(known) = self.segments.get(&segment) {
                info.insert(VNI_OPTION.to_owned(), known.vni.to_string());
            }
            info.insert("works.weave.segment".to_owned(), segment.to_string());
        }
        info
    }

    /// News from the mesh.
    pub(super) fn handle_mesh_event(&mut self, event: MeshEvent, now: Instant) {
        match event {
            MeshEvent::Record { owner, key, value } => self.handle_record(owner, &key, value, now),
            MeshEvent::Reachable { peer, address } => {
                let known = self.peers.entry(peer).or_default();
                known.reachable = true;
                known.address = address.or(known.address);
                if !known.remembered.is_empty() {
                    known.forget_remembered = Some(now + REMEMBERED_GRACE);
                }
                self.peer_changed(peer, now);
            }
            MeshEvent::Unreachable { peer } => {
                if let Some(known) = self.peers.get_mut(&peer) {
                    known.reachable = false;
                    known.forget_remembered = None;
                }
                self.peer_changed(peer, now);
            }
            MeshEvent::Forgotten { peer } => {
                self.peer_changed(peer, now);
                self.peers.remove(&peer);
            }
            MeshEvent::Message { .. } => {}
        }
    }

    /// What the engine says of the containers that run: their endpoints and names. `in_host` tells
    /// whether an endpoint's interface is in the host's namespace, where no container has it.
    pub(super) fn handle_containers(
        &mut self,
        containers: &BTreeMap<EndpointId, String>,
        in_host: impl Fn(&EndpointId) -> bool,
        now: Instant,
    ) {
        let mut renamed = Vec::new();
        let mut stale = Vec::new();
        for (id, endpoint) in &mut self.endpoints {
            let young = |made| now.saturating_duration_since(made) < STALE_AFTER;
            match containers.get(id) {
                Some(name) => {
                    endpoint.unlisted = false;
                    if endpoint.container.as_ref() != Some(name) {
                        endpoint.container = Some(name.clone());
                        renamed.push(id.clone());
                    }
                }
                None if endpoint.made.is_some_and(young) || !in_host(id) => {}
                None if endpoint.unlisted => stale.push(id.clone()),
                None => endpoint.unlisted = true,
            }
        }
        for id in renamed {
            self.publish_endpoint(&id);
        }
        if stale.is_empty() {
            return;
        }
        for id in stale {
            self.remove_endpoint(&id);
        }
        self.drop_unused_global_networks();
    }

    /// The largest packet that the way to the other peers carries.
    pub(super) fn handle_underlay_mtu(&mut self, mtu: u16) {
        if self.underlay_mtu == mtu {
            return;
        }
        self.underlay_mtu = mtu;
        let names: Vec<_> = self.segments.keys().cloned().collect();
        for name in names {
            self.refresh_segment(&name);
        }
    }

    /// The time of [`poll_timeout`](Self::poll_timeout) has come.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        let over: Vec<_> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.forget_remembered.is_some_and(|at| at <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            // The segments of what is dropped have to be looked at before it is gone.
            self.peer_changed(id, now);
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.remembered.clear();
                peer.forget_remembered = None;
            }
        }
        if self.remember_at.is_some_and(|at| at <= now) {
            self.remember_at = None;
            let remembered = self.remembered();
            self.actions.push_back(Action::Remember(remembered));
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), and why.
    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let grace = self
            .peers
            .values()
            .filter_map(|peer| peer.forget_remembered)
            .map(|at| (at, "drop what was remembered of a peer that is back"));
        let remember = self
            .remember_at
            .map(|at| (at, "write down where endpoints of other hosts are"));
        grace.chain(remember).min()
    }

    /// The next thing to be done outside. To be drawn after every call until there is none.
    #[must_use]
    pub(super) fn poll_action(&mut self) -> Option<Action> {
        if std::mem::take(&mut self.unsettled) {
            self.settle_vnis();
        }
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        while let Some(name) = self.dirty.pop_first() {
            let forwarding = self.forwarding(&name);
            let Some(segment) = self.segments.get_mut(&name) else {
                continue;
            };
            if segment.forwarding.as_ref() != Some(&forwarding) {
                segment.forwarding = Some(forwarding.clone());
                return Some(Action::Forward(name, forwarding));
            }
        }
        None
    }

    /// What must be on the disk before a change of networks is acknowledged.
    pub(super) fn definitions(&self) -> Definitions {
        Definitions {
            networks: self.networks.values().cloned().collect(),
            allocated: self.allocated.clone(),
            vnis: self.vnis.clone(),
        }
    }

    /// What must be written before a change of endpoints is acknowledged.
    pub(super) fn attachments(&self) -> Attachments {
        Attachments {
            endpoints: self.endpoints.values().cloned().collect(),
        }
    }

    /// The endpoints that containers use.
    pub(super) fn joined(&self) -> JoinedEndpoints {
        let joined = |(id, endpoint): (&EndpointId, &Endpoint)| {
            let sandbox = endpoint.sandbox.clone();
            let sandbox = sandbox.filter(|path| !path.as_os_str().is_empty())?;
            let network = endpoint.spec.network.clone();
            Some((id.clone(), Joined { network, sandbox }))
        };
        self.endpoints.iter().filter_map(joined).collect()
    }

    /// What is known.
    pub(super) fn status(&self) -> NetworkStatus {
        NetworkStatus {
            segments: self
                .segments
                .keys()
                .filter_map(|name| self.segment_status(name))
                .collect(),
            endpoints: self.endpoint_statuses(),
            routes: self
                .peers
                .iter()
                .filter(|(_, peer)| peer.reachable || peer.claims().next().is_some())
                .map(|(id, peer)| RouteStatus {
                    peer: *id,
                    address: peer.address,
                    route: self.config.policy.route(peer.address),
                })
                .collect(),
            warnings: self.conflicts(),
        }
    }

    fn add_network(&mut self, spec: NetworkSpec) {
        let name = segment_of(&spec);
        let id = spec.id.clone();
        let fixed = spec.options.vni;
        self.networks.insert(id.clone(), spec);
        let vni = fixed.unwrap_or_else(|| match self.segments.get(&name) {
            Some(segment) => segment.vni,
            None => self.choose_vni(&name),
        });
        if fixed.is_none() {
            self.vnis.insert(name.clone(), vni);
        }
        let segment = self.segments.entry(name.clone()).or_insert(Segment {
            vni,
            networks: BTreeSet::new(),
            ensured: None,
            published: None,
            forwarding: None,
        });
        segment.vni = vni;
        segment.networks.insert(id);
        self.refresh_segment(&name);
        self.dirty.insert(name);
    }

    /// Swarm takes its networks away from a node with their last endpoint there. One that is left
    /// without was taken away while nobody listened; should it be wanted after all, the engine is
    /// asked for its definition.
    fn drop_unused_global_networks(&mut self) {
        let used: BTreeSet<_> = self.endpoints.values().map(|e| &e.spec.network).collect();
        let unused: Vec<_> = self
            .networks
            .values()
            .filter(|spec| spec.options.vni.is_some() && !used.contains(&spec.id))
            .map(|spec| spec.id.clone())
            .collect();
        for id in unused {
            self.handle_delete_network(&id);
        }
    }

    fn add_endpoint(&mut self, endpoint: Endpoint) {
        let id = endpoint.spec.endpoint.clone();
        self.endpoints.insert(id.clone(), endpoint);
        self.publish_endpoint(&id);
    }

    fn remove_endpoint(&mut self, id: &EndpointId) {
        let Some(endpoint) = self.endpoints.remove(id) else {
            return;
        };
        if endpoint.sandbox.is_some() {
            self.actions.push_back(Action::Unplug(port_name(id)));
        }
        self.actions
            .push_back(Action::Publish(EndpointRecord::key(id), None));
        if let Some(name) = self.networks.get(&endpoint.spec.network).map(segment_of) {
            self.dirty.insert(name);
        }
    }

    fn publish_endpoint(&mut self, id: &EndpointId) {
        let Some(endpoint) = self.endpoints.get(id) else {
            return;
        };
        let Some(name) = self.networks.get(&endpoint.spec.network).map(segment_of) else {
            return;
        };
        let record = endpoint.record(name.clone());
        self.actions.push_back(Action::Publish(
            EndpointRecord::key(id),
            Some(record.encode()),
        ));
        self.dirty.insert(name);
    }

    fn handle_record(&mut self, owner: PeerId, key: &Key, value: Option<Bytes>, now: Instant) {
        match key.kind {
            Kind::SEGMENT => self.handle_segment_record(owner, key, value.as_deref()),
            Kind::ENDPOINT => self.handle_endpoint_record(owner, key, value.as_deref(), now),
            _ => {}
        }
    }

    fn handle_segment_record(&mut self, owner: PeerId, key: &Key, value: Option<&[u8]>) {
        let Some(name) = segment_named(&key.id) else {
            return;
        };
        let peer = self.peers.entry(owner).or_default();
        match value.map(SegmentRecord::decode) {
            Some(Ok(record)) => {
                peer.segments.insert(name.clone(), record);
            }
            Some(Err(_)) => return,
            None => {
                peer.segments.remove(&name);
            }
        }
        self.unsettled = true;
        self.refresh_segment(&name);
    }

    fn handle_endpoint_record(
        &mut self,
        owner: PeerId,
        key: &Key,
        value: Option<&[u8]>,
        now: Instant,
    ) {
        let peer = self.peers.entry(owner).or_default();
        let old = match std::str::from_utf8(&key.id) {
            Ok(id) => peer.remembered.remove(id),
            Err(_) => return,
        };
        let old = peer.endpoints.remove(&key.id).or(old);
        if let Some(Ok(record)) = value.map(EndpointRecord::decode) {
            self.dirty.insert(record.segment.clone());
            peer.endpoints.insert(key.id.clone(), record);
        }
        if let Some(record) = old {
            self.dirty.insert(record.segment);
        }
        self.remember_soon(now);
    }

    /// The way to a peer may have changed: so may the forwarding of its segments.
    fn peer_changed(&mut self, id: PeerId, now: Instant) {
        if let Some(peer) = self.peers.get(&id) {
            let segments = peer.claims().map(|record| record.segment.clone());
            self.dirty.extend(segments);
        }
        self.remember_soon(now);
    }

    fn remember_soon(&mut self, now: Instant) {
        self.remember_at.get_or_insert(now + REMEMBER_DELAY);
    }

    fn remembered(&self) -> Remembered {
        let mut peers = BTreeMap::new();
        for (id, peer) in &self.peers {
            let live = peer.endpoints.iter().filter_map(|(key, record)| {
                let key = std::str::from_utf8(key).ok()?;
                Some((key.to_owned(), record.clone()))
            });
            let mut endpoints = peer.remembered.clone();
            endpoints.extend(live);
            if !endpoints.is_empty() {
                let address = peer.address;
                peers.insert(*id, RememberedPeer { address, endpoints });
            }
        }
        Remembered { peers }
    }

    /// Brings devices and record of a segment up to date, where they differ.
    fn refresh_segment(&mut self, name: &SegmentId) {
        let Some(spec) = self.segment_spec(name) else {
            return;
        };
        let record = SegmentRecord {
            vni: spec.vni,
            underlay_mtu: self.underlay_mtu,
            host: self.config.nickname.clone(),
        };
        let Some(segment) = self.segments.get_mut(name) else {
            return;
        };
        if segment.ensured.as_ref() != Some(&spec) {
            // Devices that are made anew know no forwarding.
            segment.forwarding = None;
            segment.ensured = Some(spec.clone());
            self.actions.push_back(Action::Ensure(spec));
            self.dirty.insert(name.clone());
        }
        if segment.published.as_ref() != Some(&record) {
            segment.published = Some(record.clone());
            self.actions.push_back(Action::Publish(
                SegmentRecord::key(name),
                Some(record.encode()),
            ));
        }
    }

    fn segment_spec(&self, name: &SegmentId) -> Option<SegmentSpec> {
        let segment = self.segments.get(name)?;
        let mtu = segment
            .networks
            .iter()
            .filter_map(|id| self.networks.get(id))
            .map(|spec| self.mtu_of(spec, name))
            .max()
            .unwrap_or(mtu::SMALLEST);
        Some(SegmentSpec {
            id: name.clone(),
            vni: segment.vni,
            mtu,
            vxlan: self.config.policy.allows_vxlan(),
            tunnel: false,
        })
    }

    fn mtu_of(&self, spec: &NetworkSpec, name: &SegmentId) -> u16 {
        if let Some(mtu) = spec.options.mtu.or(self.config.mtu) {
            return mtu;
        }
        let others = self
            .peers
            .values()
            .filter(|peer| peer.reachable)
            .filter_map(|peer| peer.segments.get(name))
            .map(|record| record.underlay_mtu);
        let underlay = others.fold(self.underlay_mtu, u16::min);
        // Some peer's being reached over IPv6 decides for all: they share the segment.
        let to = self
            .peers
            .values()
            .filter_map(|peer| peer.address)
            .find(IpAddr::is_ipv6)
            .unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        mtu::through_vxlan(underlay.into(), to)
    }

    /// Peers that chose VNIs apart from one another may have chosen differently for one segment,
    /// or the same for two: the smaller VNI is kept, and by the segment whose name comes first.
    fn settle_vnis(&mut self) {
        let holders = self.vni_holders();
        let mut moved = Vec::new();
        for (name, segment) in &self.segments {
            if self.fixed_vni(segment).is_some() {
                continue;
            }
            let mine = |vni: &Vni| holders.get(vni).is_none_or(|first| first == name);
            let agreed = self
                .peers
                .values()
                .filter_map(|peer| peer.segments.get(name))
                .map(|record| record.vni)
                .chain([segment.vni])
                .filter(mine)
                .min();
            let vni = agreed.or_else(|| self.unused_vni(name));
            if let Some(vni) = vni.filter(|vni| *vni != segment.vni) {
                moved.push((name.clone(), vni));
            }
        }
        for (name, vni) in moved {
            if let Some(segment) = self.segments.get_mut(&name) {
                segment.vni = vni;
                self.vnis.insert(name.clone(), vni);
                self.refresh_segment(&name);
            }
        }
    }

    fn fixed_vni(&self, segment: &Segment) -> Option<Vni> {
        let networks = segment.networks.iter();
        networks
            .filter_map(|id| self.networks.get(id))
            .find_map(|spec| spec.options.vni)
    }

    /// The VNI of a segment that has none yet: what other peers use for it, what it had before, or
    /// one that nobody uses.
    fn choose_vni(&self, name: &SegmentId) -> Vni {
        let holders = self.vni_holders();
        self.peers
            .values()
            .filter_map(|peer| peer.segments.get(name))
            .map(|record| record.vni)
            .filter(|vni| holders.get(vni).is_none_or(|first| first == name))
            .min()
            .or_else(|| self.unused_vni(name))
            // All 16 million are in use: sharing one is all that is left.
            .unwrap_or_else(|| first_vni(name))
    }

    fn unused_vni(&self, name: &SegmentId) -> Option<Vni> {
        let used: BTreeSet<_> = self
            .vnis_in_use()
            .filter(|(other, _)| other != name)
            .map(|(_, vni)| vni)
            .collect();
        if let Some(before) = self.vnis.get(name).filter(|vni| !used.contains(vni)) {
            return Some(*before);
        }
        let first = first_vni(name).get();
        (first..=Vni::MAX)
            .chain(1..first)
            .filter_map(|number| Vni::try_from(number).ok())
            .find(|vni| !used.contains(vni))
    }

    /// The segment that may keep each VNI.
    fn vni_holders(&self) -> BTreeMap<Vni, SegmentId> {
        let mut holders = BTreeMap::new();
        for (name, vni) in self.vnis_in_use() {
            let holder = holders.entry(vni).or_insert_with(|| name.clone());
            if rank(&name) < rank(holder) {
                *holder = name;
            }
        }
        holders
    }

    fn vnis_in_use(&self) -> impl Iterator<Item = (SegmentId, Vni)> {
        let here = self
            .segments
            .iter()
            .map(|(name, segment)| (name.clone(), segment.vni));
        let allocated = self
            .allocated
            .iter()
            .map(|(id, vni)| (SegmentId::of_swarm_network(id), *vni));
        let elsewhere = self
            .peers
            .values()
            .flat_map(|peer| &peer.segments)
            .map(|(name, record)| (name.clone(), record.vni));
        here.chain(allocated).chain(elsewhere)
    }

    /// Endpoints whose end was never told: the one of the same identifier, and those that have an
    /// address which the engine now gives away again on the same network.
    fn superseded(&self, spec: &EndpointSpec) -> Vec<EndpointId> {
        let shares = |old: &EndpointSpec| {
            old.network == spec.network
                && ((old.ipv4.is_some() && old.ipv4 == spec.ipv4)
                    || (old.ipv6.is_some() && old.ipv6 == spec.ipv6))
        };
        let endpoints = self.endpoints.iter();
        endpoints
            .filter(|(id, old)| **id == spec.endpoint || shares(&old.spec))
            .map(|(id, _)| id.clone())
            .collect()
    }

    fn check_addresses(&self, name: &SegmentId, spec: &EndpointSpec) -> Result<(), NetworkError> {
        for address in [spec.ipv4, spec.ipv6].into_iter().flatten() {
            let in_use = |holder: String, host: &str| NetworkError::AddressInUse {
                address: address.addr(),
                holder,
                host: host.to_owned(),
            };
            for endpoint in self.endpoints.values() {
                let same_segment = self
                    .networks
                    .get(&endpoint.spec.network)
                    .is_some_and(|network| segment_of(network) == *name);
                if same_segment && endpoint.addresses().contains(&address.addr()) {
                    let holder = endpoint.holder();
                    return Err(in_use(holder, &self.config.nickname));
                }
            }
            for peer in self.peers.values().filter(|peer| peer.reachable) {
                let holder = peer
                    .endpoints
                    .iter()
                    .find(|(_, record)| record.segment == *name && record.has_address(&address));
                if let Some((id, record)) = holder {
                    let host = peer.segments.get(name).map_or("?", |known| &known.host);
                    return Err(in_use(holder_of(id, record), host));
                }
            }
        }
        Ok(())
    }

    /// All endpoints of a segment, on other hosts.
    fn claims(&self, name: &SegmentId) -> impl Iterator<Item = &EndpointRecord> {
        self.peers
            .values()
            .flat_map(Peer::claims)
            .filter(move |record| record.segment == *name)
    }

    fn forwarding(&self, name: &SegmentId) -> Forwarding {
        let here: BTreeSet<_> = self
            .endpoints
            .values()
            .filter(|endpoint| {
                self.networks
                    .get(&endpoint.spec.network)
                    .is_some_and(|spec| segment_of(spec) == *name)
            })
            .map(|endpoint| endpoint.assigned_mac)
            .collect();
        let mut forwarding = Forwarding::default();
        let mut best = BTreeMap::new();
        for (id, peer) in &self.peers {
            let Some(via) = self.config.policy.route(peer.address).via else {
                continue;
            };
            for record in peer.claims().filter(|record| record.segment == *name) {
                forwarding.flood.insert(via);
                let standing = (peer.reachable, record.claim, *id);
                let entry = best.entry(record.mac).or_insert((standing, via));
                if entry.0 < standing {
                    *entry = (standing, via);
                }
            }
        }
        forwarding.unicast = best
            .into_iter()
            .filter(|(mac, _)| !here.contains(mac))
            .map(|(mac, (_, via))| (mac, via))
            .collect();
        forwarding
    }

    fn segment_status(&self, name: &SegmentId) -> Option<SegmentStatus> {
        let spec = self.segment_spec(name)?;
        let networks = &self.segments.get(name)?.networks;
        let subnets: BTreeSet<_> = networks
            .iter()
            .filter_map(|id| self.networks.get(id))
            .flat_map(|spec| &spec.pools)
            .map(|pool| pool.subnet)
            .collect();
        let peers = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.claims().any(|record| record.segment == *name));
        Some(SegmentStatus {
            segment: name.clone(),
            vni: spec.vni,
            mtu: spec.mtu,
            networks: networks.iter().cloned().collect(),
            subnets: subnets.into_iter().collect(),
            peers: peers.map(|(id, _)| *id).collect(),
        })
    }

    fn endpoint_statuses(&self) -> Vec<EndpointStatus> {
        let here = self.endpoints.iter().filter_map(|(id, endpoint)| {
            let network = &endpoint.spec.network;
            Some(EndpointStatus {
                segment: segment_of(self.networks.get(network)?),
                network: Some(network.clone()),
                endpoint: id.clone(),
                container: endpoint.container.clone(),
                addresses: endpoint.addresses(),
                mac: endpoint.assigned_mac,
                peer: self.config.id,
                host: self.config.nickname.clone(),
            })
        });
        let elsewhere = self.peers.iter().flat_map(|(peer_id, peer)| {
            peer.endpoints.iter().filter_map(|(id, record)| {
                self.segments.get(&record.segment)?;
                let host = peer.segments.get(&record.segment);
                Some(EndpointStatus {
                    segment: record.segment.clone(),
                    network: None,
                    endpoint: std::str::from_utf8(id).ok()?.parse().ok()?,
                    container: record.container.clone(),
                    addresses: record.addresses(),
                    mac: record.mac,
                    peer: *peer_id,
                    host: host.map_or_else(|| peer_id.short(), |known| known.host.clone()),
                })
            })
        });
        here.chain(elsewhere).collect()
    }

    /// Addresses that endpoints of this host share with endpoints of others.
    fn conflicts(&self) -> Vec<String> {
        let mut conflicts = Vec::new();
        for endpoint in self.endpoints.values() {
            let Some(name) = self.networks.get(&endpoint.spec.network).map(segment_of) else {
                continue;
            };
            for peer in self.peers.values().filter(|peer| peer.reachable) {
                let host = peer.segments.get(&name).map_or("?", |known| &known.host);
                for (id, record) in &peer.endpoints {
                    let shared = [endpoint.spec.ipv4, endpoint.spec.ipv6]
                        .into_iter()
                        .flatten()
                        .find(|address| record.has_address(address));
                    if let Some(address) = shared.filter(|_| record.segment == name) {
                        conflicts.push(format!(
                            "address {} of {} is also used by {} on host {host}: restart one of \
                             them, and give each host its own part of the subnet (`--ip-range`)",
                            address.addr(),
                            endpoint.holder(),
                            holder_of(id, record),
                        ));
                    }
                }
            }
        }
        conflicts
    }
}

impl Endpoint {
    fn addresses(&self) -> Vec<IpAddr> {
        let both = [self.spec.ipv4, self.spec.ipv6];
        both.into_iter().flatten().map(|net| net.addr()).collect()
    }

    fn holder(&self) -> String {
        match &self.container {
            Some(name) => format!("container {name}"),
            None => format!("endpoint {}", self.spec.endpoint.short()),
        }
    }

    fn record(&self, segment: SegmentId) -> EndpointRecord {
        EndpointRecord {
            segment,
            mac: self.assigned_mac,
            ipv4: self.spec.ipv4.and_then(|net| match net.addr() {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            }),
            ipv6: self.spec.ipv6.and_then(|net| match net.addr() {
                IpAddr::V6(address) => Some(address),
                IpAddr::V4(_) => None,
            }),
            container: self.container.clone(),
            claim: self.claim,
        }
    }
}

impl Peer {
    /// Its endpoints, as heard or as remembered.
    fn claims(&self) -> impl Iterator<Item = &EndpointRecord> {
        self.endpoints.values().chain(self.remembered.values())
    }
}

/// The segment of a network.
fn segment_of(spec: &NetworkSpec) -> SegmentId {
    if spec.options.vni.is_some() {
        return SegmentId::of_swarm_network(&spec.id);
    }
    match &spec.options.segment {
        Some(name) => SegmentId::of_name(name),
        None if spec.pools.is_empty() => SegmentId::of_name(spec.id.as_str()),
        None => SegmentId::of_subnets(spec.pools.iter().map(|pool| pool.subnet)),
    }
}

fn segment_named(id: &[u8]) -> Option<SegmentId> {
    let text = std::str::from_utf8(id).ok()?;
    SegmentId::parse(text).ok()
}

/// Swarm's managers fix the VNIs of their networks, so these come before all others.
fn rank(name: &SegmentId) -> (bool, &SegmentId) {
    (!name.is_swarm(), name)
}

/// Where the search for a segment's VNI begins.
fn first_vni(name: &SegmentId) -> Vni {
    let number = name.tag() % Vni::MAX + 1;
    Vni::try_from(number).expect("the remainder of a division by the largest VNI, plus one, is one")
}

/// The address of an endpoint that has none to derive it from.
fn mac_of_endpoint(id: &EndpointId) -> Mac {
    let tag = SegmentId::of_name(id.as_str()).tag().to_be_bytes();
    Mac::new([0x02, 0x78, tag[0], tag[1], tag[2], tag[3]])
}

fn holder_of(id: &[u8], record: &EndpointRecord) -> String {
    match &record.container {
        Some(name) => format!("container {name}"),
        None => format!("endpoint {}", String::from_utf8_lossy(id)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{NetworkOptions, Pool};
    use super::*;
    use crate::datapath::Via;

    #[test]
    fn a_vni_is_allocated_once_and_options_come_back() {
        let mut host = Host::new(1);
        let options = BTreeMap::from([("foo".to_owned(), "bar".to_owned())]);
        let id = "ob5a0kd8tmw1ml0rdmzvnxt7l".parse().unwrap();
        let first = host.core.handle_allocate(&id, options.clone()).unwrap();
        assert_eq!(first["foo"], "bar");
        assert_eq!(host.core.handle_allocate(&id, options).unwrap(), first);
        // Another manager is told what the first one answered.
        let mut other = Host::new(2);
        assert_eq!(
            other.core.handle_allocate(&id, first.clone()).unwrap(),
            first
        );
    }

    #[test]
    fn a_malformed_vni_names_the_option() {
        let mut host = Host::new(1);
        let options = BTreeMap::from([(VNI_OPTION.to_owned(), "0".to_owned())]);
        let error = host.core.handle_allocate(&"n".parse().unwrap(), options);
        assert!(error.unwrap_err().to_string().contains(VNI_OPTION));
    }

    #[test]
    fn endpoints_of_other_hosts_are_forwarded_to_and_flooded_to() {
        let (mut one, mut two) = (Host::new(1), Host::new(2));
        one.network("n1", "10.5.0.0/16");
        two.network("n2", "10.5.0.0/16");
        one.endpoint("n1", "e1", "10.5.0.2/16").unwrap();
        let mac = two.endpoint("n2", "e2", "10.5.0.3/16").unwrap();
        exchange(&mut one, &mut two);
        let forwarding = one.forwarding();
        assert_eq!(forwarding.unicast, BTreeMap::from([(mac, two.via())]));
        assert_eq!(forwarding.flood, BTreeSet::from([two.via()]));
        assert_eq!(two.forwarding().unicast.len(), 1);
    }

    #[test]
    fn hosts_without_endpoints_are_not_flooded_to() {
        let (mut one, mut two) = (Host::new(1), Host::new(2));
        one.network("n1", "10.5.0.0/16");
        two.network("n2", "10.5.0.0/16");
        two.endpoint("n2", "e2", "10.5.0.3/16").unwrap();
        exchange(&mut one, &mut two);
        two.core.handle_delete_endpoint(&"e2".parse().unwrap());
        exchange(&mut one, &mut two);
        assert_eq!(one.forwarding(), Forwarding::default());
    }

    #[test]
    fn an_unreachable_host_keeps_its_forwarding() {
        let (mut one, mut two) = (Host::new(1), Host::new(2));
        one.network("n1", "10.5.0.0/16");
        two.network("n2", "10.5.0.0/16");
        two.endpoint("n2", "e2", "10.5.0.3/16").unwrap();
        exchange(&mut one, &mut two);
        let before = one.forwarding();
        let lost = MeshEvent::Unreachable { peer: two.id };
        one.core.handle_mesh_event(lost, one.now);
        assert_eq!(one.forwarding(), before);
        assert_eq!(before.unicast.len(), 1);
    }

    #[test]
    fn a_mac_that_two_hosts_claim_goes_to_the_later_claim() {
        let (mut one, mut two, mut three) = (Host::new(1), Host::new(2), Host::new(3));
        for host in [&mut one, &mut two, &mut three] {
            host.swarm_network(77);
        }
        two.endpoint("swarm0", "e2", "10.5.0.3/16").unwrap();
        exchange(&mut two, &mut three);
        three.endpoint("swarm0", "e3", "10.5.0.3/16").unwrap();
        exchange(&mut one, &mut three);
        exchange(&mut one, &mut two);
        let forwarding = one.forwarding();
        assert_eq!(
            forwarding.unicast.into_values().collect::<Vec<_>>(),
            [three.via()]
        );
    }

    #[test]
    fn an_address_in_use_elsewhere_is_refused_with_its_holder() {
        let (mut one, mut two) = (Host::new(1), Host::new(2));
        one.network("n1", "10.5.0.0/16");
        two.network("n2", "10.5.0.0/16");
        two.endpoint("n2", "e2", "10.5.0.3/16").unwrap();
        let containers = BTreeMap::from([("e2".parse().unwrap(), "db".to_owned())]);
        two.core.handle_containers(&containers, |_| false, two.now);
        exchange(&mut one, &mut two);
        let error = one.endpoint("n1", "e1", "10.5.0.3/16").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("container db on host host2"), "{text}");
        assert!(text.contains("--ip-range"), "{text}");
        one.endpoint("n1", "e1", "10.5.0.4/16").unwrap();
    }

    #[test]
    fn an_address_that_the_engine_gives_away_again_was_free() {
        let mut host = Host::new(1);
        host.network("n1", "10.5.0.0/16");
        host.endpoint("n1", "e1", "10.5.0.3/16").unwrap();
        host.join("n1", "e1", "/ns/a");
        host.actions();
        host.endpoint("n1", "e2", "10.5.0.3/16").unwrap();
        let actions = host.actions();
        assert!(actions.contains(&Action::Unplug("vpe1".to_owned())));
        assert_eq!(host.core.status().endpoints.len(), 1);
    }

    #[test]
    fn hosts_that_chose_different_vnis_agree() {
        let (mut one, mut two) = (Host::new(1), Host::new(2));
        // What the first host would choose is taken by a network of swarm's there.
        let taken = first_vni(&SegmentId::of_subnets(["10.5.0.0/16".parse().unwrap()]));
        one.swarm_network(taken.get());
        one.network("n1", "10.5.0.0/16");
        two.network("n2", "10.5.0.0/16");
        assert_ne!(one.vni("10.5.0.0/16"), two.vni("10.5.0.0/16"));
        for _ in 0..3 {
            exchange(&mut one, &mut two);
        }
        assert_eq!(one.vni("10.5.0.0/16"), two.vni("10.5.0.0/16"));
        assert_ne!(one.vni("10.5.0.0/16"), taken);
    }

    #[test]
    fn with_a_password_nothing_goes_in_the_clear() {
        let (mut one, mut two) = (Host::new(1), Host::new(2));
        one.core.config.policy = Policy { encrypt: true };
        one.network("n1", "10.5.0.0/16");
        two.network("n2", "10.5.0.0/16");
        two.endpoint("n2", "e2", "10.5.0.3/16").unwrap();
        exchange(&mut one, &mut two);
        assert_eq!(one.forwarding(), Forwarding::default());
        assert!(!one.segment_spec("10.5.0.0/16").vxlan);
        assert_eq!(one.core.status().routes[0].route.transport, "none");
    }

    #[test]
    fn the_mtu_is_the_smallest_of_the_hosts_less_the_overhead() {
        let (mut one, mut two) = (Host::new(1), Host::new(2));
        one.core.handle_underlay_mtu(9000);
        one.network("n1", "10.5.0.0/16");
        assert_eq!(one.segment_spec("10.5.0.0/16").mtu, 8950);
        two.network("n2", "10.5.0.0/16");
        exchange(&mut one, &mut two);
        assert_eq!(one.segment_spec("10.5.0.0/16").mtu, 1450);
    }

    #[test]
    fn only_the_first_multicast_network_of_a_container_has_the_route() {
        let mut host = Host::new(1);
        host.core.config.multicast = true;
        host.network("n1", "10.5.0.0/16");
        host.network("n2", "10.6.0.0/16");
        host.endpoint("n1", "e1", "10.5.0.2/16").unwrap();
        host.endpoint("n2", "e2", "10.6.0.2/16").unwrap();
        assert_eq!(host.join("n1", "e1", "/ns/a").connected_routes.len(), 1);
        assert_eq!(host.join("n2", "e2", "/ns/a").connected_routes.len(), 0);
        // The same join again answers the same.
        assert_eq!(host.join("n1", "e1", "/ns/a").connected_routes.len(), 1);
    }

    #[test]
    fn a_restart_keeps_networks_endpoints_and_what_was_heard() {
        let (mut one, mut two) = (Host::new(1), Host::new(2));
        one.network("n1", "10.5.0.0/16");
        two.network("n2", "10.5.0.0/16");
        one.endpoint("n1", "e1", "10.5.0.2/16").unwrap();
        one.join("n1", "e1", "/ns/a");
        two.endpoint("n2", "e2", "10.5.0.3/16").unwrap();
        exchange(&mut one, &mut two);
        let before = one.forwarding();
        let mut again = one.restarted();
        assert_eq!(again.forwarding(), before);
        assert_eq!(again.core.attachments(), one.core.attachments());

        // The peer is back and has nothing any more.
        let back = MeshEvent::Reachable {
            peer: two.id,
            address: None,
        };
        again.core.handle_mesh_event(back, again.now);
        let (at, _) = again.core.poll_timeout().unwrap();
        again.core.handle_timeout(at);
        again.core.handle_timeout(at + REMEMBERED_GRACE);
        assert_eq!(again.forwarding(), Forwarding::default());
    }

    #[test]
    fn what_the_kernel_has_and_nobody_owns_is_removed() {
        let mut host = Host::new(1);
        host.network("n1", "10.5.0.0/16");
        host.endpoint("n1", "e1", "10.5.0.2/16").unwrap();
        host.join("n1", "e1", "/ns/a");
        host.actions();
        let inventory = Inventory {
            segments: BTreeSet::from([1]),
            ports: BTreeMap::from([("vpold".to_owned(), None)]),
        };
        host.core.handle_inventory(&inventory);
        let actions = host.actions();
        assert!(actions.contains(&Action::Remove(1)), "{actions:?}");
        assert!(actions.contains(&Action::Unplug("vpold".to_owned())));
        assert!(host.core.status().endpoints.is_empty());
    }

    #[test]
    fn a_swarm_network_that_was_taken_away_unheard_goes_at_the_start() {
        let mut host = Host::new(1);
        host.swarm_network(77);
        host.network("n1", "10.5.0.0/16");
        let mut again = host.restarted();
        again.core.handle_inventory(&Inventory::default());
        let left = again.core.status().segments;
        assert_eq!(left.len(), 1);
        assert!(!left[0].segment.is_swarm());
    }

    #[test]
    fn an_endpoint_that_no_container_has_any_more_goes() {
        let mut host = Host::new(1);
        host.network("n1", "10.5.0.0/16");
        host.endpoint("n1", "e1", "10.5.0.2/16").unwrap();
        host.join("n1", "e1", "/ns/a");
        let none = BTreeMap::new();
        let later = host.now + STALE_AFTER;
        host.core.handle_containers(&none, |_| true, host.now);
        host.core.handle_containers(&none, |_| false, later);
        host.core.handle_containers(&none, |_| true, later);
        assert_eq!(host.core.status().endpoints.len(), 1);
        host.core.handle_containers(&none, |_| true, later);
        assert!(host.core.status().endpoints.is_empty());
    }

    #[test]
    fn deleting_a_network_leaves_nothing() {
        let mut host = Host::new(1);
        host.network("n1", "10.5.0.0/16");
        host.endpoint("n1", "e1", "10.5.0.2/16").unwrap();
        host.join("n1", "e1", "/ns/a");
        host.actions();
        assert!(host.core.handle_delete_network(&"n1".parse().unwrap()));
        let actions = host.actions();
        assert!(actions.contains(&Action::Unplug("vpe1".to_owned())));
        assert!(actions.iter().any(|a| matches!(a, Action::Remove(_))));
        assert!(!host.core.handle_delete_network(&"n1".parse().unwrap()));
        assert_eq!(host.core.attachments(), Attachments::default());
    }

    struct Host {
        id: PeerId,
        number: u8,
        now: Instant,
        core: Core,
        published: BTreeMap<Key, Bytes>,
        withdrawn: BTreeSet<Key>,
        other_actions: Vec<Action>,
    }

    impl Host {
        fn new(number: u8) -> Self {
            let id = PeerId::from_bytes([number; 16]);
            let config = CoreConfig {
                id,
                nickname: format!("host{number}"),
                policy: Policy { encrypt: false },
                mtu: None,
                multicast: false,
            };
            Self {
                id,
                number,
                now: Instant::now(),
                core: Core::new(
                    config,
                    1500,
                    Definitions::default(),
                    Attachments::default(),
                    Remembered::default(),
                ),
                published: BTreeMap::new(),
                withdrawn: BTreeSet::new(),
                other_actions: Vec::new(),
            }
        }

        fn restarted(&self) -> Self {
            let core = Core::new(
                self.core.config.clone(),
                1500,
                self.core.definitions(),
                self.core.attachments(),
                self.core.remembered(),
            );
            Self {
                core,
                ..Self::new(self.number)
            }
        }

        fn via(&self) -> Via {
            Via::Vxlan(self.address())
        }

        fn address(&self) -> IpAddr {
            [192, 168, 77, self.number].into()
        }

        fn network(&mut self, id: &str, subnet: &str) {
            self.add(id, subnet, NetworkOptions::default());
        }

        fn swarm_network(&mut self, vni: u32) {
            let options = NetworkOptions {
                vni: Some(vni.try_into().unwrap()),
                ..NetworkOptions::default()
            };
            self.add("swarm0", "10.9.0.0/16", options);
        }

        fn add(&mut self, id: &str, subnet: &str, options: NetworkOptions) {
            let pool = Pool {
                subnet: subnet.parse().unwrap(),
                gateway: None,
            };
            self.core.handle_create_network(NetworkSpec {
                id: id.parse().unwrap(),
                pools: vec![pool],
                options,
            });
        }

        fn endpoint(&mut self, network: &str, id: &str, ip: &str) -> Result<Mac, NetworkError> {
            let spec = EndpointSpec {
                network: network.parse().unwrap(),
                endpoint: id.parse().unwrap(),
                ipv4: Some(ip.parse().unwrap()),
                ipv6: None,
                mac: None,
            };
            self.core.handle_create_endpoint(spec, self.now)
        }

        fn join(&mut self, network: &str, id: &str, sandbox: &str) -> Plug {
            let (network, id) = (network.parse().unwrap(), id.parse().unwrap());
            self.core
                .handle_join(&network, &id, Some(sandbox.into()))
                .unwrap()
        }

        fn segment_spec(&self, subnet: &str) -> SegmentSpec {
            let name = SegmentId::of_subnets([subnet.parse().unwrap()]);
            self.core.segment_spec(&name).unwrap()
        }

        fn vni(&mut self, subnet: &str) -> Vni {
            self.actions();
            self.segment_spec(subnet).vni
        }

        /// Draws what is to be done, playing the mesh.
        fn actions(&mut self) -> Vec<Action> {
            let mut actions = Vec::new();
            while let Some(action) = self.core.poll_action() {
                if let Action::Publish(key, value) = &action {
                    match value {
                        Some(value) => {
                            self.withdrawn.remove(key);
                            self.published.insert(key.clone(), value.clone());
                        }
                        None => {
                            self.published.remove(key);
                            self.withdrawn.insert(key.clone());
                        }
                    }
                }
                actions.push(action);
            }
            self.other_actions.extend(actions.clone());
            actions
        }

        /// The latest forwarding of the only segment that matters to the test.
        fn forwarding(&mut self) -> Forwarding {
            self.actions();
            let last = self.other_actions.iter().rev().find_map(|a| match a {
                Action::Forward(_, forwarding) => Some(forwarding.clone()),
                _ => None,
            });
            last.unwrap_or_default()
        }

        fn hear(&mut self, other: &mut Self) {
            other.actions();
            let reachable = MeshEvent::Reachable {
                peer: other.id,
                address: Some(other.address()),
            };
            self.core.handle_mesh_event(reachable, self.now);
            let news = other.published.iter().map(|(k, v)| (k, Some(v)));
            let ends = other.withdrawn.iter().map(|k| (k, None));
            for (key, value) in news.chain(ends) {
                let event = MeshEvent::Record {
                    owner: other.id,
                    key: key.clone(),
                    value: value.cloned(),
                };
                self.core.handle_mesh_event(event, self.now);
            }
        }
    }

    fn exchange(one: &mut Host, two: &mut Host) {
        one.hear(two);
        two.hear(one);
        one.actions();
        two.actions();
    }
}
