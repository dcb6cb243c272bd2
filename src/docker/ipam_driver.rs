//! The remote IPAM driver: the Engine's calls, translated for [`Ipam`].

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::Value;
use thiserror::Error;

use super::network_spec::texts;
use super::wire;
use crate::ipam::{AddressRequest, AddressSpace, Ipam, IpamError, PoolId, PoolRequest};
use crate::types::{Mac, ParseError};

/// The name of [`AddressSpace::Local`].
const LOCAL_SPACE: &str = "weavelocal";
/// The name of [`AddressSpace::Global`].
const GLOBAL_SPACE: &str = "weaveglobal";
/// A pool's gateway, and the type of a request for one (libnetwork `netlabel.Gateway`).
const GATEWAY: &str = "com.docker.network.gateway";
/// What an address is for (libnetwork `ipamapi.RequestAddressType`).
const REQUEST_TYPE: &str = "RequestAddressType";
/// Set by swarm (libnetwork `ipamapi.AllocSerialPrefix`).
const SERIAL: &str = "com.docker.network.ipam.serial";
/// The endpoint's MAC address (libnetwork `netlabel.MacAddress`).
const MAC: &str = "com.docker.network.endpoint.macaddress";

/// What is answered to `GetDefaultAddressSpaces`.
pub const ADDRESS_SPACES: wire::AddressSpaces = wire::AddressSpaces {
    local_default_address_space: LOCAL_SPACE,
    global_default_address_space: GLOBAL_SPACE,
};

/// Why a call to the IPAM driver failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum IpamDriverError {
    /// The allocator refused.
    #[error(transparent)]
    Ipam(#[from] IpamError),
    /// A field of the request is not what it should be.
    #[error("{field}: {source}")]
    Field {
        /// Its name in the request.
        field: &'static str,
        /// What was expected and what came.
        source: ParseError,
    },
}

/// The IPAM driver; cloning gives another handle.
#[derive(Debug, Clone)]
pub struct IpamDriver {
    ipam: Ipam,
}

impl IpamDriver {
    /// The driver of this allocator.
    pub fn new(ipam: Ipam) -> Self {
        Self { ipam }
    }

    /// `RequestPool`.
    pub async fn request_pool(
        &self,
        request: wire::RequestPool,
    ) -> Result<wire::RequestedPool, IpamDriverError> {
        let space = match request.address_space.as_str() {
            LOCAL_SPACE => AddressSpace::Local,
            GLOBAL_SPACE => AddressSpace::Global,
            other => return Err(wrong("AddressSpace", "weavelocal or weaveglobal", other)),
        };
        let subnet = subnet("Pool", &request.pool)?;
        let range = self::subnet("SubPool", &request.sub_pool)?;
        if let (None, Some(range)) = (subnet, range) {
            let expected = "a subnet that holds the range (--subnet beside --ip-range)";
            return Err(wrong("Pool", expected, range.to_string()));
        }
        let pool = self
            .ipam
            .request_pool(PoolRequest {
                space,
                subnet,
                range,
                options: texts(request.options.iter().map(|(k, v)| (k.as_str(), v))),
                v6: request.v6,
            })
            .await?;
        let gateway = pool.gateway.map(|gateway| (GATEWAY, gateway.to_string()));
        Ok(wire::RequestedPool {
            pool_id: pool.id.0,
            pool: pool.subnet.to_string(),
            data: BTreeMap::from_iter(gateway),
        })
    }

    /// The network driver's `CreateNetwork`: the addresses of the network itself have all been
    /// asked for.
    pub fn network_made(&self, request: &wire::CreateNetwork) {
        let pools = request.ipv4_data.iter().chain(&request.ipv6_data);
        let subnets = pools.filter_map(|data| data.pool.parse().ok());
        self.ipam.network_made(subnets.collect());
    }

    /// `ReleasePool`.
    pub async fn release_pool(
        &self,
        request: wire::ReleasePool,
    ) -> Result<wire::Empty, IpamDriverError> {
        gone_is_fine(self.ipam.release_pool(PoolId(request.pool_id)).await)
    }

    /// `RequestAddress`.
    pub async fn request_address(
        &self,
        request: wire::RequestAddress,
    ) -> Result<wire::RequestedAddress, IpamDriverError> {
        let option = |name| request.options.get(name).and_then(Value::as_str);
        let gateway = option(REQUEST_TYPE) == Some(GATEWAY);
        let address = address(&request.address)?;
        if let Some(none) = address.filter(|address| gateway && address.is_unspecified()) {
            // A node repeats the gateway that a manager has: none.
            let address = format!("{none}/0");
            return Ok(wire::RequestedAddress { address });
        }
        let mac = option(MAC)
            .filter(|text| !text.is_empty())
            .map(|text| text.parse::<Mac>())
            .transpose()
            .map_err(in_field("Options"))?;
        let granted = self
            .ipam
            .request_address(AddressRequest {
                pool: PoolId(request.pool_id),
                address: address.filter(|address| !address.is_unspecified()),
                gateway,
                serial: option(SERIAL) == Some("true"),
                mac,
            })
            .await?;
        Ok(wire::RequestedAddress {
            address: granted.to_string(),
        })
    }

    /// `ReleaseAddress`.
    pub async fn release_address(
        &self,
        request: wire::ReleaseAddress,
    ) -> Result<wire::Empty, IpamDriverError> {
        let Some(address) = address(&request.address)?.filter(|a| !a.is_unspecified()) else {
            return Ok(wire::Empty {});
        };
        let pool = PoolId(request.pool_id);
        gone_is_fine(self.ipam.release_address(pool, address).await)
    }
}

fn subnet(field: &'static str, text: &str) -> Result<Option<IpNet>, IpamDriverError> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse::<IpNet>()
        .map(|subnet| Some(subnet.trunc()))
        .map_err(|_| wrong(field, "a subnet like 10.32.0.0/16", text))
}

/// An address, with or without prefix length; empty is none.
fn address(text: &str) -> Result<Option<IpAddr>, IpamDriverError> {
    if text.is_empty() {
        return Ok(None);
    }
    let (address, _) = text.split_once('/').unwrap_or((text, ""));
    address
        .parse()
        .map(Some)
        .map_err(|_| wrong("Address", "an address like 10.32.0.5", text))
}

fn gone_is_fine(result: Result<(), IpamError>) -> Result<wire::Empty, IpamDriverError> {
    match result {
        Ok(()) | Err(IpamError::UnknownPool(_)) => Ok(wire::Empty {}),
        Err(error) => Err(error.into()),
    }
}

fn wrong(field: &'static str, expected: &'static str, got: impl Into<String>) -> IpamDriverError {
    in_field(field)(ParseError::new(expected, got))
}

fn in_field(field: &'static str) -> impl FnOnce(ParseError) -> IpamDriverError {
    move |source| IpamDriverError::Field { field, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::replay::twins::IpamTwin;

    fn pool(space: &str, pool: &str, sub_pool: &str) -> wire::RequestPool {
        wire::RequestPool {
            address_space: space.to_owned(),
            pool: pool.to_owned(),
            sub_pool: sub_pool.to_owned(),
            ..Default::default()
        }
    }

    fn want(pool_id: &str, address: &str, options: Value) -> wire::RequestAddress {
        let json = serde_json::json!(
            {"PoolID": pool_id, "Address": address, "Options": options});
        wire::parse(json.to_string().as_bytes()).unwrap()
    }

    #[tokio::test]
    async fn pools_and_addresses_come_with_their_prefix() {
        let (ipam, _twin) = IpamTwin::start();
        let driver = IpamDriver::new(ipam);
        let pool = driver
            .request_pool(pool("weavelocal", "10.6.1.0/16", "10.6.2.0/24"))
            .await
            .unwrap();
        assert_eq!(pool.pool, "10.6.0.0/16");
        assert_eq!(pool.data[GATEWAY], "10.6.0.0/16");
        let any = want(&pool.pool_id, "", Value::Null);
        let granted = driver.request_address(any).await.unwrap();
        let granted: ipnet::Ipv4Net = granted.address.parse().unwrap();
        assert_eq!(granted.prefix_len(), 16);
        let range: ipnet::Ipv4Net = "10.6.2.0/24".parse().unwrap();
        assert!(range.contains(&granted.addr()), "{granted}");
        for _ in 0..2 {
            driver
                .release_address(wire::ReleaseAddress {
                    pool_id: pool.pool_id.clone(),
                    address: granted.addr().to_string(),
                })
                .await
                .unwrap();
        }
    }

    #[tokio::test]
    async fn a_gateway_of_zeros_is_no_gateway() {
        let (ipam, _twin) = IpamTwin::start();
        let driver = IpamDriver::new(ipam);
        let request = want(
            "unknown",
            "0.0.0.0",
            serde_json::json!({REQUEST_TYPE: GATEWAY}),
        );
        let granted = driver.request_address(request).await.unwrap();
        assert_eq!(granted.address, "0.0.0.0/0");
        driver
            .release_address(wire::ReleaseAddress {
                pool_id: "unknown".to_owned(),
                address: "0.0.0.0".to_owned(),
            })
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn wrong_requests_name_the_field() {
        let (ipam, _twin) = IpamTwin::start();
        let driver = IpamDriver::new(ipam);
        for (request, field) in [
            (pool("LocalDefault", "", ""), "AddressSpace"),
            (pool("weavelocal", "10.0.0.0", ""), "Pool"),
            (pool("weavelocal", "", "10.0.0.0/24"), "Pool"),
            (pool("weaveglobal", "10.0.0.0/8", "x"), "SubPool"),
        ] {
            let error = driver.request_pool(request).await.unwrap_err().to_string();
            assert!(error.starts_with(&format!("{field}: expected")), "{error}");
        }
        let request = want("p", "ten", Value::Null);
        assert!(driver.request_address(request).await.is_err());
    }
}
