//! What is known of networks, segments and endpoints, here and on other hosts, and what follows
//! from it for the devices and for what the others are told.
//!
//! Pure: calls, mesh events and the time go in; answers come back at once, and what else is to be
//! done is drawn with [`Core::poll_action`].

mod segment;
mod view;
mod vni;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::record::{EndpointRecord, SegmentRecord};
use super::switch::Policy;
use super::{
    EndpointSpec, Joined, JoinedEndpoints, NetworkError, NetworkSpec, SharedPeers, VNI_OPTION,
};
use crate::datapath::transport::{Choice, Reason};
use crate::datapath::{Forwarding, Inventory, PortSpec, SegmentSpec, Via, port_name};
use crate::mesh::{Key, Kind, MeshEvent};
use crate::types::{EndpointId, Mac, NetworkId, PeerId, SegmentId, Vni};

/// For how long the remembered endpoints of a peer are kept once the peer itself is heard: its
/// records need that long at most to arrive.
const REMEMBERED_GRACE: Duration = Duration::from_secs(5);

/// How long changes of what is remembered are collected before they are written: news that come
/// together. A daemon that is killed right after a change must know of it in its next life, or frames
/// are lost until the other host is heard again.
const REMEMBER_DELAY: Duration = Duration::from_millis(20);

/// How long at least lies between two writes.
const REMEMBER_PAUSE: Duration = Duration::from_secs(1);

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
    /// Whether its frames went through the tunnel.
    #[serde(default)]
    tunnel: bool,
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
    /// Tell who takes part in segments of this host.
    Share(SharedPeers),
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
    /// The transport for it, once its probes have found one.
    choice: Option<Choice>,
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
    /// Whether others may take part in our segments who did not when that was told last.
    unshared: bool,
    shared: SharedPeers,
    remember_at: Option<Instant>,
    remembered_at: Option<Instant>,
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
            unshared: false,
            shared: SharedPeers::new(),
            remember_at: None,
            remembered_at: None,
            actions: VecDeque::new(),
        };
        for (id, peer) in remembered.peers {
            let known = Peer {
                address: peer.address,
                remembered: peer.endpoints,
                choice: peer.tunnel.then_some(Choice {
                    via: Via::Tunnel(id),
                    reason: Reason::AsBefore,
                }),
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
                self.unshared = true;
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
        let of_network = spec.options.multicast.unwrap_or(self.config.multicast);
        let endpoint = self
            .endpoints
            .get_mut(id)
            .filter(|endpoint| endpoint.spec.network == *network)
            .ok_or_else(|| NetworkError::UnknownEndpoint(id.clone()))?;
        endpoint.sandbox = Some(sandbox.unwrap_or_default());
        let mac = endpoint.assigned_mac;
        let addresses = endpoint.addresses();
        let multicast = endpoint.spec.wants_multicast.unwrap_or(of_network);
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
                self.unshared = true;
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

    /// The transport that was chosen for a peer.
    pub(super) fn handle_transport(&mut self, id: PeerId, choice: Choice, now: Instant) {
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.choice = Some(choice);
            self.peer_changed(id, now);
        }
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
            self.remembered_at = Some(now);
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
        if std::mem::take(&mut self.unshared) {
            let shared = self.shared_peers();
            if shared != self.shared {
                self.shared.clone_from(&shared);
                self.actions.push_back(Action::Share(shared));
            }
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
            let joined = Joined {
                segment: segment_of(self.networks.get(&network)?),
                network,
                sandbox,
            };
            Some((id.clone(), joined))
        };
        self.endpoints.iter().filter_map(joined).collect()
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
        self.unshared = true;
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
        let soon = now + REMEMBER_DELAY;
        let allowed = self.remembered_at.map_or(soon, |at| at + REMEMBER_PAUSE);
        self.remember_at.get_or_insert(soon.max(allowed));
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
                let choice = peer.choice.map(|choice| choice.via);
                let known = RememberedPeer {
                    address: peer.address,
                    endpoints,
                    tunnel: matches!(choice, Some(Via::Tunnel(_))),
                };
                peers.insert(*id, known);
            }
        }
        Remembered { peers }
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
mod tests;
