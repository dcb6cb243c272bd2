//! What containers are called, put together from all that is known of them.
//!
//! Pure: what the Engine tells, which endpoints are joined and what is attached goes in; what has
//! changed, and what the Engine is to be asked, comes out. A change costs what has changed.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Answer, Attached, AttachedEndpoints, Question};
use crate::dns::{Binding, LocalChanges, LocalContainer};
use crate::docker::containers::ContainerChanges;
use crate::docker::engine::{Container, ContainerDetail, EndpointSettings};
use crate::network::JoinedEndpoints;
use crate::types::{DnsName, EndpointId, SegmentId};

/// The state machine.
#[derive(Debug)]
pub(super) struct Names {
    domain: DnsName,
    containers: BTreeMap<String, Arc<Container>>,
    /// Which container has which of the Engine's endpoints.
    holders: BTreeMap<EndpointId, String>,
    joined: BTreeMap<EndpointId, SegmentId>,
    attached: AttachedEndpoints,
    details: BTreeMap<String, Detail>,
    /// The containers' addresses on the gateway bridge.
    gateway: BTreeMap<String, Vec<IpAddr>>,
    /// The containers of which something has changed since that was told.
    changed: BTreeSet<String>,
    questions: BTreeSet<Question>,
}

/// What the Engine tells of one container only when asked for it.
#[derive(Debug)]
struct Detail {
    /// For which endpoints this was asked.
    endpoints: BTreeSet<String>,
    hostname: String,
    /// Its further names, by endpoint.
    aliases: BTreeMap<String, Vec<String>>,
}

impl Names {
    pub(super) fn new(domain: DnsName) -> Self {
        Self {
            domain,
            containers: BTreeMap::new(),
            holders: BTreeMap::new(),
            joined: BTreeMap::new(),
            attached: AttachedEndpoints::new(),
            details: BTreeMap::new(),
            gateway: BTreeMap::new(),
            changed: BTreeSet::new(),
            questions: BTreeSet::new(),
        }
    }

    /// What has become of containers.
    pub(super) fn handle_containers(&mut self, changes: ContainerChanges) {
        for (id, container) in changes {
            let old = match container.clone() {
                Some(container) => self.containers.insert(id.clone(), container),
                None => self.containers.remove(&id),
            };
            for (endpoint, _) in old.iter().flat_map(|old| endpoints(old)) {
                self.holders.remove(&endpoint);
            }
            for (endpoint, _) in container.iter().flat_map(|new| endpoints(new)) {
                self.holders.insert(endpoint, id.clone());
            }
            if container.is_none() {
                self.details.remove(&id);
                self.gateway.remove(&id);
            }
            self.note_change(id);
        }
        // The bridge may have told before a container was on it.
        if !self.details.is_empty() {
            self.ask(Question::Gateway);
        }
    }

    /// The endpoints that containers use.
    pub(super) fn handle_joined(&mut self, joined: &JoinedEndpoints) {
        for endpoint in differing(&self.joined, joined, |ours, new| *ours == new.segment) {
            match joined.get(&endpoint) {
                Some(new) => self.joined.insert(endpoint.clone(), new.segment.clone()),
                None => self.joined.remove(&endpoint),
            };
            if let Some(container) = self.holders.get(&endpoint) {
                self.note_change(container.clone());
            }
        }
    }

    /// What is attached beside Docker.
    pub(super) fn handle_attached(&mut self, attached: &AttachedEndpoints) {
        for endpoint in differing(&self.attached, attached, PartialEq::eq) {
            let new = attached.get(&endpoint).cloned();
            let old = match new.clone() {
                Some(new) => self.attached.insert(endpoint, new),
                None => self.attached.remove(&endpoint),
            };
            for attached in old.iter().chain(&new) {
                self.note_change(attached.holder().to_owned());
            }
        }
    }

    pub(super) fn handle_answer(&mut self, question: &Question, answer: Answer) {
        match (question, answer) {
            // One that has ended meanwhile is answered for as well.
            (Question::Container(id), Answer::Container(_))
                if !self.containers.contains_key(id) => {}
            (Question::Container(id), Answer::Container(detail)) => {
                // What has changed since it was asked is asked for anew.
                let detail = Detail::new(&detail);
                self.details.insert(id.clone(), detail);
                self.changed.insert(id.clone());
                self.ask(Question::Gateway);
            }
            (_, Answer::Gateway(bridge)) => {
                let told = bridge.containers.into_iter();
                let told = told.map(|(id, c)| (id, addresses([&c.ipv4_address, &c.ipv6_address])));
                let told = told.collect();
                let differing = differing(&self.gateway, &told, PartialEq::eq);
                self.changed.extend(differing);
                self.gateway = told;
            }
            (Question::Gateway, Answer::Container(_)) => {}
        }
    }

    pub(super) fn ask(&mut self, question: Question) {
        self.questions.insert(question);
    }

    /// What the Engine is to be asked next, as long as it is not being asked.
    pub(super) fn poll_question(&mut self, asked: &BTreeSet<Question>) -> Option<Question> {
        let question = self.questions.iter().find(|q| !asked.contains(*q));
        let question = question.cloned()?;
        self.questions.take(&question)
    }

    /// The containers of which something has changed, as they are now.
    pub(super) fn poll_changes(&mut self) -> LocalChanges {
        let changed = std::mem::take(&mut self.changed);
        let now = |id: String| {
            let container = self.local_container(&id);
            (id, container)
        };
        changed.into_iter().map(now).collect()
    }

    fn note_change(&mut self, id: String) {
        if let Some(container) = self.containers.get(&id) {
            let ours = endpoints(container).any(|(id, _)| self.joined.contains_key(&id))
                || self.attached_to(&id).next().is_some();
            let known = self.details.get(&id);
            if ours && known.is_none_or(|known| known.endpoints != endpoint_ids(container)) {
                self.questions.insert(Question::Container(id.clone()));
            }
        }
        self.changed.insert(id);
    }

    /// What a container, or this host, is called now; `None` of what is not there.
    fn local_container(&self, id: &str) -> Option<LocalContainer> {
        let mut attached = self.attached_to(id).peekable();
        let container = self.containers.get(id);
        let name = match container {
            Some(container) => container.name(),
            None => &attached.peek().filter(|a| a.container.is_none())?.name,
        };
        let detail = self.details.get(id);
        let mut local = LocalContainer {
            name: name.to_owned(),
            ..LocalContainer::default()
        };
        let mut own_names = Vec::new();
        if let Some(container) = container {
            own_names.extend(name_below(container.name(), &self.domain));
            own_names.extend(detail.and_then(|detail| detail.hostname_in(&self.domain)));
            local.asks_from.extend(all_addresses(container));
            local
                .asks_from
                .extend(self.gateway.get(id).into_iter().flatten());
        }
        for (endpoint, attachment) in container.into_iter().flat_map(|c| endpoints(c)) {
            let Some(segment) = self.joined.get(&endpoint) else {
                continue;
            };
            local.segments.insert(segment.clone());
            let addresses = addresses([&attachment.ip_address, &attachment.global_ipv6_address]);
            let mut names = own_names.clone();
            let aliases = detail.and_then(|d| d.aliases.get(&attachment.endpoint_id));
            let aliases = aliases.into_iter().flatten();
            // Docker itself adds the beginning of the identifier.
            let aliases = aliases.filter(|alias| !id.starts_with(*alias));
            names.extend(aliases.filter_map(|alias| name_below(alias, &self.domain)));
            local.bindings.extend(binding(segment, addresses, names));
        }
        for attached in attached {
            let mut names: Vec<_> = attached.names.iter().cloned().collect();
            if container.is_some() {
                local.segments.insert(attached.segment.clone());
                local.asks_from.insert(attached.address);
                if !attached.without_dns {
                    names.extend(own_names.iter().cloned());
                }
            }
            let address = vec![attached.address];
            local
                .bindings
                .extend(binding(&attached.segment, address, names));
        }
        Some(local)
    }

    /// What was attached to this container, or to this host.
    fn attached_to(&self, id: &str) -> impl Iterator<Item = &Attached> {
        let all = self.attached.values();
        all.filter(move |attached| attached.holder() == id)
    }
}

/// The keys that only one of two maps has, and those with values that are not the same.
fn differing<K: Ord + Clone, A, B>(
    one: &BTreeMap<K, A>,
    other: &BTreeMap<K, B>,
    same: impl Fn(&A, &B) -> bool,
) -> Vec<K> {
    let mut differing = Vec::new();
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    loop {
        let order = match (one.peek(), other.peek()) {
            (Some((key, _)), Some((other, _))) => key.cmp(other),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return differing,
        };
        let ours = one.next_if(|_| order.is_le());
        let theirs = other.next_if(|_| order.is_ge());
        match (ours, theirs) {
            (Some((_, a)), Some((_, b))) if same(a, b) => {}
            (Some((key, _)), _) | (None, Some((key, _))) => differing.push(key.clone()),
            (None, None) => return differing,
        }
    }
}

impl Detail {
    fn new(detail: &ContainerDetail) -> Self {
        let hostname = match detail.config.domainname.as_str() {
            "" => detail.config.hostname.clone(),
            domain => format!("{}.{domain}", detail.config.hostname),
        };
        let attachments = detail.network_settings.networks.values();
        let aliases = attachments.map(|a| (a.endpoint_id.clone(), a.aliases.clone()));
        let aliases: BTreeMap<_, _> = aliases.collect();
        Self {
            endpoints: aliases.keys().cloned().collect(),
            hostname,
            aliases,
        }
    }

    fn hostname_in(&self, domain: &DnsName) -> Option<DnsName> {
        let hostname: DnsName = self.hostname.parse().ok()?;
        (hostname.is_within(domain) && hostname != *domain).then_some(hostname)
    }
}

fn endpoints(container: &Container) -> impl Iterator<Item = (EndpointId, &EndpointSettings)> {
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
