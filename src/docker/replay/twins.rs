//! The domain and the allocator, in memory and just real enough to answer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tokio::task::JoinHandle;

use crate::ipam::{self, AddressRequest, Ipam, IpamError, PoolId, PoolRequest};
use crate::network::{
    self, Attachment, EndpointSpec, NetworkError, NetworkSpec, Networks, VNI_OPTION,
};
use crate::types::{EndpointId, Mac, NetworkId, SegmentId};

/// Serves [`Networks`] until dropped.
pub(in crate::docker) struct NetworksTwin(JoinHandle<()>);

impl NetworksTwin {
    pub(in crate::docker) fn start() -> (Networks, Self) {
        let (networks, mut commands) = Networks::twin();
        let task = tokio::spawn(async move {
            let mut state = NetworksState::default();
            while let Some(command) = commands.recv().await {
                state.handle(command);
            }
        });
        (networks, Self(task))
    }
}

impl Drop for NetworksTwin {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Default)]
struct NetworksState {
    networks: BTreeMap<NetworkId, NetworkSpec>,
    endpoints: BTreeMap<EndpointId, EndpointSpec>,
}

impl NetworksState {
    fn handle(&mut self, command: network::Command) {
        use network::Command::*;
        match command {
            Allocate(id, mut options, reply) => {
                let tag = SegmentId::of_swarm_network(&id).tag() % 0xff_ffff + 1;
                options
                    .entry(VNI_OPTION.to_owned())
                    .or_insert(tag.to_string());
                let _ = reply.send(Ok(options));
            }
            Create(spec, reply) => {
                self.networks.insert(spec.id.clone(), spec);
                let _ = reply.send(Ok(()));
            }
            Delete(id, reply) => {
                self.networks.remove(&id);
                let _ = reply.send(Ok(()));
            }
            CreateEndpoint(spec, reply) => {
                let _ = reply.send(self.create_endpoint(spec));
            }
            Join(network, endpoint, _, reply) => {
                let _ = reply.send(self.join(network, endpoint));
            }
            Leave(endpoint, reply) => {
                let known = self.endpoints.contains_key(&endpoint);
                let unknown = NetworkError::UnknownEndpoint(endpoint);
                let _ = reply.send(known.then_some(()).ok_or(unknown));
            }
            DeleteEndpoint(endpoint, reply) => {
                self.endpoints.remove(&endpoint);
                let _ = reply.send(Ok(()));
            }
            Describe(_, reply) => {
                let _ = reply.send(Ok(BTreeMap::new()));
            }
        }
    }

    fn create_endpoint(&mut self, spec: EndpointSpec) -> Result<Mac, NetworkError> {
        if !self.networks.contains_key(&spec.network) {
            return Err(NetworkError::UnknownNetwork(spec.network));
        }
        let address = spec.ipv4.or(spec.ipv6).map(|net| net.addr());
        let made = address.map_or(Mac::new([2; 6]), Mac::of_ip);
        let mac = spec.mac.unwrap_or(made);
        self.endpoints.insert(spec.endpoint.clone(), spec);
        Ok(mac)
    }

    fn join(
        &mut self,
        network: NetworkId,
        endpoint: EndpointId,
    ) -> Result<Attachment, NetworkError> {
        if !self.networks.contains_key(&network) {
            return Err(NetworkError::UnknownNetwork(network));
        }
        if !self.endpoints.contains_key(&endpoint) {
            return Err(NetworkError::UnknownEndpoint(endpoint));
        }
        Ok(Attachment {
            interface: format!("vwe{}", endpoint.short()),
            connected_routes: Vec::new(),
        })
    }
}

/// Serves [`Ipam`] until dropped.
pub(in crate::docker) struct IpamTwin(JoinHandle<()>);

impl IpamTwin {
    pub(in crate::docker) fn start() -> (Ipam, Self) {
        let (ipam, mut commands) = Ipam::twin();
        let task = tokio::spawn(async move {
            let mut used = BTreeSet::new();
            while let Some(command) = commands.recv().await {
                handle_ipam(&mut used, command);
            }
        });
        (ipam, Self(task))
    }
}

impl Drop for IpamTwin {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn handle_ipam(used: &mut BTreeSet<(PoolId, IpAddr)>, command: ipam::Command) {
    use ipam::Command::*;
    match command {
        RequestPool(request, reply) => {
            let _ = reply.send(Ok(pool(&request)));
        }
        ReleasePool(id, reply) => {
            let _ = reply.send(ranges(&id).map(|_| ()));
        }
        RequestAddress(request, reply) => {
            let _ = reply.send(address(used, request));
        }
        ReleaseAddress(id, address, reply) => {
            used.remove(&(id.clone(), address));
            let _ = reply.send(ranges(&id).map(|_| ()));
        }
    }
}

fn pool(request: &PoolRequest) -> ipam::Pool {
    let fallback = if request.v6 {
        "fd00::/64"
    } else {
        "10.32.0.0/12"
    };
    let subnet = request.subnet.unwrap_or(fallback.parse().unwrap());
    let range = request.range.unwrap_or(subnet);
    ipam::Pool {
        id: PoolId(format!("{:?} {subnet} {range}", request.space)),
        subnet,
        gateway: Some(subnet),
    }
}

fn ranges(id: &PoolId) -> Result<(IpNet, IpNet), IpamError> {
    let mut parts = id.0.split(' ').skip(1).map(|text| text.parse().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(subnet), Some(range)) => Ok((subnet, range)),
        _ => Err(IpamError::UnknownPool(id.0.clone())),
    }
}

fn address(
    used: &mut BTreeSet<(PoolId, IpAddr)>,
    request: AddressRequest,
) -> Result<IpNet, IpamError> {
    let (subnet, range) = ranges(&request.pool)?;
    let free = || {
        let mut hosts = range.hosts();
        hosts.find(|host| !used.contains(&(request.pool.clone(), *host)))
    };
    let address = match request.address {
        Some(address) if subnet.contains(&address) => address,
        Some(address) => {
            let error = format!("expected an address of {subnet}, got {address}");
            return Err(IpamError::Invalid(error));
        }
        None => free().ok_or_else(|| IpamError::Exhausted {
            pool: range.to_string(),
            reason: "all are in use".to_owned(),
        })?,
    };
    used.insert((request.pool, address));
    Ok(IpNet::new(address, subnet.prefix_len()).unwrap())
}
