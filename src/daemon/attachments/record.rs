//! What is remembered of an address that an operator gave.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::control::report::AttachmentReport;
use crate::docker::names::{Attached, AttachedEndpoints};
use crate::network::AddressSpec;
use crate::types::{DnsName, EndpointId, Mac, NetworkId, ParseError, SegmentId};

/// Who has this host's own addresses.
pub(super) const HOST: &str = "weave:expose";

/// One address of a container, or of this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attachment {
    /// The container's identifier, or [`HOST`].
    pub(super) container: String,
    pub(super) name: String,
    /// By which name the allocator knows who has the address.
    pub(super) holder: String,
    pub(super) endpoint: EndpointId,
    pub(super) network: NetworkId,
    pub(super) interface: String,
    pub(super) address: IpNet,
    pub(super) mac: Mac,
    pub(super) masquerade: bool,
    /// Whether the interface was there when it was last looked; else only the address is kept.
    pub(super) attached: bool,
    #[serde(default)]
    pub(super) naming: Naming,
}

/// What an address is called in weaveDNS.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Naming {
    /// Whether it is left out of what the container is called.
    pub(super) without_dns: bool,
    /// What else it is called.
    pub(super) names: BTreeSet<DnsName>,
}

impl Naming {
    /// Takes over what was asked for anew.
    pub(super) fn update(&mut self, asked: &Self) {
        self.without_dns = asked.without_dns;
        self.names.extend(asked.names.iter().cloned());
    }
}

impl Attachment {
    pub(super) fn report(&self) -> AttachmentReport {
        AttachmentReport {
            container: self.container.clone(),
            name: self.name.clone(),
            endpoint: self.endpoint.clone(),
            interface: self.interface.clone(),
            address: self.address,
            mac: self.mac,
            masquerade: self.masquerade,
        }
    }

    fn naming(&self) -> Attached {
        Attached {
            container: (self.container != HOST).then(|| self.container.clone()),
            name: self.name.clone(),
            segment: SegmentId::of_subnets([self.address]),
            address: self.address.addr(),
            without_dns: self.naming.without_dns,
            names: self.naming.names.clone(),
        }
    }
}

/// What is attached now, as far as names depend on it.
pub(super) fn attached_endpoints(all: &[Attachment]) -> AttachedEndpoints {
    let attached = all.iter().filter(|a| a.attached);
    let named = attached.map(|a| (a.endpoint.clone(), a.naming()));
    named.collect::<BTreeMap<_, _>>()
}

/// A subnet that is asked for may be a part of the default one, and the allocator gives each name
/// one address there: so each subnet has a name of its own.
pub(super) fn holder(container: &str, spec: &AddressSpec) -> String {
    match spec {
        AddressSpec::Subnet(subnet) => format!("{container}@{subnet}"),
        AddressSpec::Exact(_) | AddressSpec::Default => container.to_owned(),
    }
}

/// All attachments of one subnet are on one network, which Docker knows nothing of.
pub(super) fn network_of(address: IpNet) -> Result<NetworkId, ParseError> {
    let subnet = address.trunc().to_string();
    format!("attach-{}", subnet.replace(['/', ':'], "-")).parse()
}

/// The same for the same address of the same container.
pub(super) fn endpoint_of(container: &str, address: IpNet) -> Result<EndpointId, ParseError> {
    let digest = Sha256::digest(format!("{container} {address}").as_bytes());
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_and_networks_follow_from_the_address() {
        let one: IpNet = "10.2.1.5/24".parse().unwrap();
        let two: IpNet = "10.2.1.6/24".parse().unwrap();
        assert_eq!(network_of(one).unwrap().as_str(), "attach-10.2.1.0-24");
        assert_eq!(network_of(one).unwrap(), network_of(two).unwrap());
        let v6: IpNet = "fd00:1::5/64".parse().unwrap();
        assert_eq!(network_of(v6).unwrap().as_str(), "attach-fd00-1---64");
        assert_ne!(endpoint_of("c1", one), endpoint_of("c1", two));
        assert_ne!(endpoint_of("c1", one), endpoint_of("c2", one));
        assert_eq!(endpoint_of("c1", one), endpoint_of("c1", one));
    }

    #[test]
    fn what_an_earlier_version_remembered_is_understood() {
        let text = r#"{"container":"weave:expose","name":"weave:expose","holder":"weave:expose",
            "endpoint":"e1","network":"n1","interface":"weave","address":"10.32.0.1/12",
            "mac":"02:77:0a:20:00:01","masquerade":true,"attached":true}"#;
        let attachment: Attachment = serde_json::from_str(text).unwrap();
        assert_eq!(attachment.naming, Naming::default());
        let attached = attached_endpoints(&[attachment]);
        let host = &attached[&"e1".parse().unwrap()];
        assert_eq!(
            (host.container.as_deref(), host.name.as_str()),
            (None, HOST)
        );
    }
}
