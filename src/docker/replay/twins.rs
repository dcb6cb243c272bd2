//! The domain with its devices in memory, and an allocator just real enough to answer.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::datapath::memory::MemoryDatapath;
use crate::ipam::{self, AddressRequest, Ipam, IpamError, PoolId, PoolRequest};
use crate::network::{self, Networks, Policy, Stores};
use crate::store::Store;
use crate::types::PeerId;

/// Holds the state of [`Networks`] whose devices are in memory.
pub(in crate::docker) struct NetworksTwin {
    _dir: tempfile::TempDir,
}

impl NetworksTwin {
    pub(in crate::docker) fn start() -> (Networks, Self) {
        let dir = tempfile::tempdir().unwrap();
        let config = network::Config {
            id: PeerId::from_bytes([1; 16]),
            nickname: "host1".to_owned(),
            policy: Policy { encrypt: false },
            mtu: None,
            multicast: false,
        };
        let stores = Stores {
            durable: Store::at(dir.path().join("lib")),
            runtime: Store::at(dir.path().join("run")),
        };
        let (_, events) = mpsc::unbounded_channel();
        let datapath = Arc::new(MemoryDatapath::default());
        let networks = Networks::start(config, 1500, datapath, stores, events, |_, _| {});
        (networks, Self { _dir: dir })
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
