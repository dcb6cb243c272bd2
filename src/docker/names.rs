//! What the containers of this host are called, and by which addresses they ask for names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;

use super::containers::Running;
use super::engine::{Container, ContainerDetail, Engine, EngineError};
use crate::dns::{Binding, LocalContainer, LocalContainers};
use crate::network::JoinedEndpoints;
use crate::types::{DnsName, EndpointId, NetworkId, SegmentId};

/// The bridge that Docker adds to containers whose networks have no gateway. It tells of those
/// addresses only when it is asked for that network.
const GATEWAY_BRIDGE: &str = "docker_gwbridge";

/// The pause before the Engine is asked again after it did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// What was attached beside Docker, as far as names depend on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The identifier of the container; `None` for this host.
    pub container: Option<String>,
    /// Its name, for people.
    pub name: String,
    /// The segment it is on.
    pub segment: SegmentId,
    /// Its address there.
    pub address: IpAddr,
    /// Whether the container's names do not stand for the address.
    pub without_dns: bool,
    /// What else the address is called; within the domain.
    pub names: BTreeSet<DnsName>,
}

/// The endpoints that were attached beside Docker.
pub type AttachedEndpoints = BTreeMap<EndpointId, Attached>;

/// Where names come from.
#[derive(Debug)]
pub struct Sources {
    /// What the Engine tells.
    pub engine: Engine,
    /// The containers that run.
    pub running: watch::Receiver<Option<Running>>,
    /// Which of the Engine's endpoints are on which segment.
    pub joined: watch::Receiver<JoinedEndpoints>,
    /// What the Engine knows nothing of.
    pub attached: watch::Receiver<AttachedEndpoints>,
}

/// The same at one moment.
#[derive(Debug)]
struct Facts {
    running: Running,
    joined: JoinedEndpoints,
    attached: AttachedEndpoints,
}

/// Tells for ever what this host's containers, and this host itself, are called in a domain,
/// whenever that changes.
pub async fn watch(mut sources: Sources, domain: DnsName, told: impl Fn(LocalContainers)) {
    let mut knowledge = Knowledge::default();
    loop {
        let running = sources.running.borrow_and_update().clone();
        let joined = sources.joined.borrow_and_update().clone();
        let attached = sources.attached.borrow_and_update().clone();
        let mut complete = true;
        if let Some(running) = running {
            let facts = Facts {
                running,
                joined,
                attached,
            };
            // What is certain already is told without waiting for the Engine.
            told(knowledge.containers(&facts, &domain));
            if let Err(error) = knowledge.learn(&sources.engine, &facts).await {
                tracing::debug!(%error, "names of containers are not known in full");
                complete = false;
            }
            told(knowledge.containers(&facts, &domain));
        }
        let changed = tokio::select! {
            changed = sources.running.changed() => changed,
            changed = sources.joined.changed() => changed,
            changed = sources.attached.changed() => changed,
            () = tokio::time::sleep(RETRY), if !complete => Ok(()),
        };
        if changed.is_err() {
            return;
        }
    }
}

/// What the Engine tells of one container only when asked for it.
#[derive(Debug, Default)]
struct Knowledge {
    details: BTreeMap<String, Detail>,
    /// The containers' addresses on the gateway bridge.
    gateway: BTreeMap<String, Vec<IpAddr>>,
}

#[derive(Debug)]
struct Detail {
    /// For which endpoints this was asked.
    endpoints: BTreeSet<String>,
    hostname: String,
    /// Its further names, by endpoint.
    aliases: BTreeMap<String, Vec<String>>,
}

impl Knowledge {
    /// Asks the Engine for what is not known yet.
    async fn learn(&mut self, engine: &Engine, facts: &Facts) -> Result<(), EngineError> {
        let containers = &facts.running.containers;
        self.details
            .retain(|id, _| containers.iter().any(|container| container.id == *id));
        let ours = containers.iter().filter(|container| {
            let mut endpoints = endpoints(container);
            endpoints.any(|(id, _)| facts.joined.contains_key(&id))
                || facts.attached_to(&container.id).next().is_some()
        });
        let mut any = false;
        for container in ours {
            any = true;
            let endpoints = endpoint_ids(container);
            let known = self.details.get(&container.id);
            if known.is_some_and(|detail| detail.endpoints == endpoints) {
                continue;
            }
            match engine.container(&container.id).await {
                Ok(detail) => {
                    let detail = Detail::new(endpoints, &detail);
                    self.details.insert(container.id.clone(), detail);
                }
                // Gone meanwhile, of which an event tells.
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        if !any {
            self.gateway.clear();
        }
        if any && let Ok(bridge) = GATEWAY_BRIDGE.parse::<NetworkId>() {
            self.gateway = match engine.network(&bridge).await {
                Ok(bridge) => bridge
                    .containers
                    .into_iter()
                    .map(|(id, c)| (id, addresses([&c.ipv4_address, &c.ipv6_address])))
                    .collect(),
                Err(error) if error.is_not_found() => BTreeMap::new(),
                Err(error) => return Err(error),
            };
        }
        Ok(())
    }

    fn containers(&self, facts: &Facts, domain: &DnsName) -> LocalContainers {
        let mut all = LocalContainers::default();
        for container in &facts.running.containers {
            let detail = self.details.get(&container.id);
            let mut segments = BTreeSet::new();
            let mut bindings = Vec::new();
            let mut own_names: Vec<_> = name_below(container.name(), domain).into_iter().collect();
            own_names.extend(detail.and_then(|detail| detail.hostname_in(domain)));
            for (endpoint, attachment) in endpoints(container) {
                let Some(joined) = facts.joined.get(&endpoint) else {
                    continue;
                };
                segments.insert(joined.segment.clone());
                let addresses =
                    addresses([&attachment.ip_address, &attachment.global_ipv6_address]);
                let mut names = own_names.clone();
                let aliases = detail.and_then(|d| d.aliases.get(&attachment.endpoint_id));
                let aliases = aliases.into_iter().flatten();
                // Docker itself adds the beginning of the identifier.
                let aliases = aliases.filter(|alias| !container.id.starts_with(*alias));
                names.extend(aliases.filter_map(|alias| name_below(alias, domain)));
                bindings.extend(binding(&joined.segment, addresses, names));
            }
            let mut asks_from: Vec<_> = all_addresses(container).collect();
            for attached in facts.attached_to(&container.id) {
                segments.insert(attached.segment.clone());
                asks_from.push(attached.address);
                let mut names: Vec<_> = attached.names.iter().cloned().collect();
                if !attached.without_dns {
                    names.extend(own_names.iter().cloned());
                }
                bindings.extend(binding(&attached.segment, vec![attached.address], names));
            }
            asks_from.extend(self.gateway.get(&container.id).into_iter().flatten());
            for address in asks_from {
                let known: &mut BTreeSet<SegmentId> = all.askers.entry(address).or_default();
                known.extend(segments.iter().cloned());
            }
            let named = LocalContainer {
                name: container.name().to_owned(),
                bindings,
            };
            all.containers.insert(container.id.clone(), named);
        }
        for attached in facts.of_host() {
            let names = attached.names.iter().cloned().collect();
            let host = all.containers.entry(attached.name.clone());
            let host = host.or_insert_with(|| LocalContainer {
                name: attached.name.clone(),
                bindings: Vec::new(),
            });
            let bound = binding(&attached.segment, vec![attached.address], names);
            host.bindings.extend(bound);
        }
        all
    }
}

impl Facts {
    /// What was attached to this container.
    fn attached_to(&self, id: &str) -> impl Iterator<Item = &Attached> {
        let all = self.attached.values();
        all.filter(move |attached| attached.container.as_deref() == Some(id))
    }

    /// What was attached to this host.
    fn of_host(&self) -> impl Iterator<Item = &Attached> {
        let all = self.attached.values();
        all.filter(|attached| attached.container.is_none())
    }
}

impl Detail {
    fn new(endpoints: BTreeSet<String>, detail: &ContainerDetail) -> Self {
        let hostname = match detail.config.domainname.as_str() {
            "" => detail.config.hostname.clone(),
            domain => format!("{}.{domain}", detail.config.hostname),
        };
        let attachments = detail.network_settings.networks.values();
        let aliases = attachments.map(|a| (a.endpoint_id.clone(), a.aliases.clone()));
        Self {
            endpoints,
            hostname,
            aliases: aliases.collect(),
        }
    }

    fn hostname_in(&self, domain: &DnsName) -> Option<DnsName> {
        let hostname: DnsName = self.hostname.parse().ok()?;
        (hostname.is_within(domain) && hostname != *domain).then_some(hostname)
    }
}

fn endpoints(
    container: &Container,
) -> impl Iterator<Item = (EndpointId, &super::engine::EndpointSettings)> {
    let attachments = container.network_settings.networks.values();
    attachments.filter_map(|attachment| Some((attachment.endpoint_id.parse().ok()?, attachment)))
}

fn endpoint_ids(container: &Container) -> BTreeSet<String> {
    let attachments = container.network_settings.networks.values();
    attachments.map(|a| a.endpoint_id.clone()).collect()
}

fn all_addresses(container: &Container) -> impl Iterator<Item = IpAddr> {
    let attachments = container.network_settings.networks.values();
    attachments.flat_map(|a| addresses([&a.ip_address, &a.global_ipv6_address]))
}

/// Those of the texts that are addresses, with or without a prefix length.
fn addresses(texts: [&String; 2]) -> Vec<IpAddr> {
    let address = |text: &&String| {
        let net = text.parse::<IpNet>().map(|net| net.addr());
        net.ok().or_else(|| text.parse().ok())
    };
    texts.iter().filter_map(address).collect()
}

/// These names for these addresses; nothing where there are none of either.
fn binding(
    segment: &SegmentId,
    addresses: Vec<IpAddr>,
    mut names: Vec<DnsName>,
) -> Option<Binding> {
    names.sort();
    names.dedup();
    let segment = Some(segment.clone());
    (!addresses.is_empty() && !names.is_empty()).then_some(Binding {
        segment,
        addresses,
        names,
    })
}

/// A container's name in the domain, whether it came with it or not.
fn name_below(name: &str, domain: &DnsName) -> Option<DnsName> {
    let name: DnsName = name.parse().ok()?;
    match name.is_within(domain) {
        true => (name != *domain).then_some(name),
        false => name.below(domain),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::docker::engine::tests::FakeEngine;
    use crate::network::Joined;

    const LIST: &str = r#"[
        {"Id":"c1c1c1","Names":["/shop"],"NetworkSettings":{"Networks":{
            "web":{"EndpointID":"e1","IPAddress":"10.1.0.2","GlobalIPv6Address":"fd00::2"},
            "bridge":{"EndpointID":"e9","IPAddress":"172.17.0.2"}}}},
        {"Id":"d2d2d2","Names":["/plain"],"NetworkSettings":{"Networks":{
            "bridge":{"EndpointID":"e8","IPAddress":"172.17.0.3"}}}}]"#;
    const DETAIL: &str = r#"{"Id":"c1c1c1","Config":{"Hostname":"foo.weave.local"},
        "NetworkSettings":{"Networks":{
            "web":{"EndpointID":"e1","Aliases":["c1c1","Store","x.weave.local"]},
            "bridge":{"EndpointID":"e9","Aliases":["other"]}}}}"#;
    const BRIDGE: &str = r#"{"Id":"b","Containers":{
        "c1c1c1":{"IPv4Address":"172.18.0.2/16","IPv6Address":""}}}"#;

    fn joined() -> JoinedEndpoints {
        let endpoint = Joined {
            network: "n1".parse().unwrap(),
            segment: SegmentId::of_name("web"),
            sandbox: PathBuf::new(),
        };
        [("e1".parse().unwrap(), endpoint)].into()
    }

    fn facts(joined: JoinedEndpoints, attached: AttachedEndpoints) -> Facts {
        let running = Running {
            containers: serde_json::from_str(LIST).unwrap(),
            ..Running::default()
        };
        Facts {
            running,
            joined,
            attached,
        }
    }

    fn engine() -> FakeEngine {
        FakeEngine::start(
            Some("1.41"),
            [
                ("/containers/c1c1c1/json", DETAIL),
                ("/networks/docker_gwbridge", BRIDGE),
            ],
        )
    }

    fn names(binding: &Binding) -> Vec<&str> {
        binding.names.iter().map(DnsName::as_str).collect()
    }

    #[tokio::test]
    async fn containers_are_called_by_name_hostname_and_aliases_on_our_networks() {
        let domain = "weave.local".parse().unwrap();
        let facts = facts(joined(), AttachedEndpoints::new());
        let mut knowledge = Knowledge::default();
        let early = knowledge.containers(&facts, &domain);
        assert_eq!(early.containers["c1c1c1"].bindings[0].names.len(), 1);
        knowledge.learn(&engine().engine(), &facts).await.unwrap();
        let known = knowledge.containers(&facts, &domain);
        let [binding] = &known.containers["c1c1c1"].bindings[..] else {
            panic!("{known:?}");
        };
        let expected = ["foo", "shop", "store", "x"].map(|n| format!("{n}.weave.local"));
        assert_eq!(names(binding), expected);
        assert_eq!(binding.addresses.len(), 2);
        assert!(known.containers["d2d2d2"].bindings.is_empty());
        let web = [SegmentId::of_name("web")];
        for (address, segments) in [
            ("10.1.0.2", &web[..]),
            ("172.17.0.2", &web[..]),
            ("172.18.0.2", &web[..]),
            ("172.17.0.3", &[]),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let expected = segments.iter().cloned().collect();
            assert_eq!(known.askers.get(&address), Some(&expected), "{address}");
        }
    }

    #[tokio::test]
    async fn what_was_attached_beside_docker_is_called_as_its_container_or_as_was_asked() {
        let domain = "weave.local".parse().unwrap();
        let attached = |container: Option<&str>, last, without_dns, names: &[&str]| Attached {
            segment: SegmentId::of_name("red"),
            container: container.map(str::to_owned),
            name: container.unwrap_or("weave:expose").to_owned(),
            address: [10, 9, 0, last].into(),
            without_dns,
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
        };
        let all = [
            ("a1", attached(Some("c1c1c1"), 1, false, &[])),
            ("a2", attached(Some("d2d2d2"), 2, true, &[])),
            ("a3", attached(None, 3, false, &["host.weave.local"])),
            ("a4", attached(None, 4, false, &[])),
        ];
        let all = all.map(|(endpoint, attached)| (endpoint.parse().unwrap(), attached));
        let facts = facts(JoinedEndpoints::new(), all.into());
        let mut knowledge = Knowledge::default();
        knowledge.learn(&engine().engine(), &facts).await.unwrap();
        let known = knowledge.containers(&facts, &domain);
        let red = SegmentId::of_name("red");
        let [shop] = &known.containers["c1c1c1"].bindings[..] else {
            panic!("{known:?}");
        };
        assert_eq!(names(shop), ["foo.weave.local", "shop.weave.local"]);
        assert_eq!(shop.segment, Some(red.clone()));
        assert!(known.containers["d2d2d2"].bindings.is_empty());
        let [host] = &known.containers["weave:expose"].bindings[..] else {
            panic!("{known:?}");
        };
        assert_eq!(names(host), ["host.weave.local"]);
        // Whoever was attached is told what is on the segment, from whichever address it asks.
        for address in ["172.17.0.3", "10.9.0.2"] {
            let segments = &known.askers[&address.parse().unwrap()];
            assert!(segments.contains(&red), "{address}");
        }
    }
}
