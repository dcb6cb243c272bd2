//! Where interfaces go: into a container's network namespace, or to this host.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use ipnet::IpNet;
use tokio::task::spawn_blocking;

use super::record::{HOST, Naming};
use crate::docker::engine::ContainerDetail;
use crate::linux::netlink::{Netlink, NetlinkError};
use crate::linux::netns::NetNs;

/// What the first interface of a container is called, as with Weave Net; Docker numbers its own
/// from `ethwe0` on.
const IN_CONTAINER: &str = "ethwe";

/// What the host's first interface is called, as was Weave Net's bridge.
const IN_HOST: &str = "weave";

/// Where an interface goes.
pub(super) struct Place {
    pub(super) container: String,
    pub(super) name: String,
    pub(super) sandbox: Option<PathBuf>,
    namespace: NetNs,
    interface: &'static str,
    pub(super) multicast: bool,
    pub(super) masquerade: bool,
    pub(super) naming: Naming,
}

impl Place {
    /// Into a container that runs in this namespace.
    pub(super) fn of_container(
        container: &ContainerDetail,
        namespace: NetNs,
        multicast: bool,
        naming: Naming,
    ) -> Self {
        Self {
            container: container.id.clone(),
            name: container.name.trim_start_matches('/').to_owned(),
            sandbox: Some(PathBuf::from(&container.network_settings.sandbox_key)),
            namespace,
            interface: IN_CONTAINER,
            multicast,
            masquerade: false,
            naming,
        }
    }

    /// To this host.
    pub(super) fn of_host(masquerade: bool, naming: Naming) -> io::Result<Self> {
        Ok(Self {
            container: HOST.to_owned(),
            name: HOST.to_owned(),
            sandbox: None,
            namespace: NetNs::current()?,
            interface: IN_HOST,
            multicast: false,
            masquerade,
            naming,
        })
    }

    /// Moves an interface from this host's namespace to this place; returns its name there.
    pub(super) async fn settle(
        &self,
        device: String,
        address: IpNet,
        mut routes: Vec<IpNet>,
    ) -> io::Result<String> {
        routes.retain(|_| self.multicast);
        let (namespace, wanted) = (self.namespace.clone(), self.interface);
        blocking(move || settle(&device, &namespace, wanted, address, &routes)).await
    }
}

/// Runs what asks the kernel, away from the threads of the runtime.
pub(super) async fn blocking<T, E>(
    call: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> io::Result<T>
where
    T: Send + 'static,
    E: ToString + Send + 'static,
{
    match spawn_blocking(call).await {
        Ok(result) => result.map_err(|error| io::Error::other(error.to_string())),
        Err(error) => Err(io::Error::other(error)),
    }
}

fn settle(
    device: &str,
    namespace: &NetNs,
    wanted: &str,
    address: IpNet,
    routes: &[IpNet],
) -> Result<String, NetlinkError> {
    let mut here = Netlink::open(&NetNs::current()?)?;
    let mut there = Netlink::open(namespace)?;
    let taken: BTreeSet<String> = there.links(None)?.into_iter().map(|l| l.name).collect();
    let name = free_name(wanted, &taken);
    here.move_link(device, namespace, &name)?;
    there.bring_up(&name, address, routes)?;
    Ok(name)
}

/// `ethwe`, `ethwe-2`, `ethwe-3`, ...
fn free_name(wanted: &str, taken: &BTreeSet<String>) -> String {
    let mut name = wanted.to_owned();
    let mut number = 1;
    while taken.contains(&name) {
        number += 1;
        name = format!("{wanted}-{number}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_have_names_that_neither_docker_nor_another_has() {
        let mut taken = BTreeSet::new();
        for expected in ["ethwe", "ethwe-2", "ethwe-3"] {
            let name = free_name(IN_CONTAINER, &taken);
            assert_eq!(name, expected);
            taken.insert(name);
        }
    }
}
