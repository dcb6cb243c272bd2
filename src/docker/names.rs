//! What the containers of this host are called, and by which addresses they ask for names.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::containers::ContainerChanges;
use super::engine::{Container, ContainerDetail, Engine, EngineError, Network};
use crate::dns::{Binding, LocalChanges, LocalContainer};
use crate::network::JoinedEndpoints;
use crate::types::{DnsName, EndpointId, SegmentId};

/// The bridge that Docker adds to containers whose networks have no gateway. It tells of those
/// addresses only when it is asked for that network.
const GATEWAY_BRIDGE: &str = "docker_gwbridge";

/// The pause before the Engine is asked again after it did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// How many questions the Engine is asked at a time.
const ASKED: usize = 4;

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
    /// What becomes of the containers: at first, all that run.
    pub changes: mpsc::UnboundedReceiver<ContainerChanges>,
    /// Which of the Engine's endpoints are on which segment.
    pub joined: watch::Receiver<JoinedEndpoints>,
    /// What the Engine knows nothing of.
    pub attached: watch::Receiver<AttachedEndpoints>,
}

/// Tells for ever what this host's containers, and this host itself, are called in a domain,
/// whenever that changes: at first all of them, then those that have changed.
pub async fn watch(mut sources: Sources, domain: DnsName, told: impl Fn(LocalChanges)) {
    let mut names = Names::new(domain);
    let mut answers = JoinSet::new();
    let mut asked = BTreeSet::new();
    let mut retry: Option<Instant> = None;
    let mut known = false;
    names.handle_joined(&sources.joined.borrow_and_update());
    names.handle_attached(&sources.attached.borrow_and_update());
    loop {
        tokio::select! {
            changes = sources.changes.recv() => match changes {
                Some(changes) => {
                    names.handle_containers(changes);
                    known = true;
                }
                None => return,
            },
            changed = sources.joined.changed() => match changed {
                Ok(()) => names.handle_joined(&sources.joined.borrow_and_update()),
                Err(_) => return,
            },
            changed = sources.attached.changed() => match changed {
                Ok(()) => names.handle_attached(&sources.attached.borrow_and_update()),
                Err(_) => return,
            },
            Some(answer) = answers.join_next() => {
                let Ok((question, answer)) = answer else {
                    continue;
                };
                asked.remove(&question);
                match answer {
                    Ok(Some(answer)) => names.handle_answer(&question, answer),
                    // Gone meanwhile, of which an event tells.
                    Ok(None) => {}
                    Err(error) => {
                        tracing::debug!(%error, "names of containers are not known in full");
                        names.ask(question);
                        retry = Some(Instant::now() + RETRY);
                    }
                }
            }
            () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => retry = None,
        }
        if !known {
            continue;
        }
        // What is certain already is told without waiting for the Engine.
        told(names.poll_changes());
        while retry.is_none()
            && asked.len() < ASKED
            && let Some(question) = names.poll_question(&asked)
        {
            asked.insert(question.clone());
            let engine = sources.engine.clone();
            answers.spawn(async move {
                let answer = ask(&engine, &question).await;
                (question, answer)
            });
        }
    }
}

/// What the Engine tells only when it is asked for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Question {
    /// The container with this identifier.
    Container(String),
    /// Who is on the gateway bridge: no more than its thousand ports.
    Gateway,
}

#[derive(Debug)]
enum Answer {
    Container(ContainerDetail),
    Gateway(Network),
}

/// `None` when the Engine knows of no such thing.
async fn ask(engine: &Engine, question: &Question) -> Result<Option<Answer>, EngineError> {
    let answer = match question {
        Question::Container(id) => engine.container(id).await.map(Answer::Container),
        Question::Gateway => match GATEWAY_BRIDGE.parse() {
            Ok(bridge) => engine.network(&bridge).await.map(Answer::Gateway),
            Err(_) => return Ok(None),
        },
    };
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What containers are called, put together from all that is known of them; a change costs what has
/// changed.
#[derive(Debug)]
struct Names {
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
    fn new(domain: DnsName) -> Self {
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
    fn handle_containers(&mut self, changes: ContainerChanges) {
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
    fn handle_joined(&mut self, joined: &JoinedEndpoints) {
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
    fn handle_attached(&mut self, attached: &AttachedEndpoints) {
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

    fn handle_answer(&mut self, question: &Question, answer: Answer) {
        match (question, answer) {
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

    fn ask(&mut self, question: Question) {
        self.questions.insert(question);
    }

    /// What the Engine is to be asked next, as long as it is not being asked.
    fn poll_question(&mut self, asked: &BTreeSet<Question>) -> Option<Question> {
        let question = self.questions.iter().find(|q| !asked.contains(*q));
        let question = question.cloned()?;
        self.questions.take(&question)
    }

    /// The containers of which something has changed, as they are now.
    fn poll_changes(&mut self) -> LocalChanges {
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

impl Attached {
    /// By what it is told apart from what is attached to others.
    fn holder(&self) -> &str {
        self.container.as_ref().unwrap_or(&self.name)
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
    use crate::dns::{Dns, DnsConfig};
    use crate::docker::engine::tests::FakeEngine;
    use crate::network::Joined;
    use crate::store::Store;
    use crate::types::PeerId;

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

    fn all() -> ContainerChanges {
        let all: Vec<Arc<Container>> = serde_json::from_str(LIST).unwrap();
        all.into_iter().map(|c| (c.id.clone(), Some(c))).collect()
    }

    fn names_of(joined: &JoinedEndpoints, attached: &AttachedEndpoints) -> Names {
        let mut names = Names::new("weave.local".parse().unwrap());
        names.handle_joined(joined);
        names.handle_attached(attached);
        names.handle_containers(all());
        names
    }

    /// Asks all that there is to be asked.
    async fn learn(names: &mut Names) {
        let fake = engine();
        while let Some(question) = names.poll_question(&BTreeSet::new()) {
            if let Some(answer) = ask(&fake.engine(), &question).await.unwrap() {
                names.handle_answer(&question, answer);
            }
        }
    }

    /// What is told, each change on top of what was told before.
    fn told(names: &mut Names, known: &mut BTreeMap<String, LocalContainer>) {
        for (id, container) in names.poll_changes() {
            match container {
                Some(container) => drop(known.insert(id, container)),
                None => drop(known.remove(&id)),
            }
        }
    }

    /// Who asks from where, with the segments that they are on.
    fn askers(known: &BTreeMap<String, LocalContainer>) -> BTreeMap<IpAddr, BTreeSet<SegmentId>> {
        let all = known.values();
        let all = all.flat_map(|c| c.asks_from.iter().map(|a| (*a, c.segments.clone())));
        all.collect()
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

    fn shown(binding: &Binding) -> Vec<&str> {
        binding.names.iter().map(DnsName::as_str).collect()
    }

    #[tokio::test]
    async fn containers_are_called_by_name_hostname_and_aliases_on_our_networks() {
        let mut names = names_of(&joined(), &AttachedEndpoints::new());
        let mut known = BTreeMap::new();
        told(&mut names, &mut known);
        assert_eq!(known["c1c1c1"].bindings[0].names.len(), 1);
        learn(&mut names).await;
        told(&mut names, &mut known);
        let [binding] = &known["c1c1c1"].bindings[..] else {
            panic!("{known:?}");
        };
        let expected = ["foo", "shop", "store", "x"].map(|n| format!("{n}.weave.local"));
        assert_eq!(shown(binding), expected);
        assert_eq!(binding.addresses.len(), 2);
        assert!(known["d2d2d2"].bindings.is_empty());
        let web = [SegmentId::of_name("web")];
        let askers = askers(&known);
        for (address, segments) in [
            ("10.1.0.2", &web[..]),
            ("172.17.0.2", &web[..]),
            ("172.18.0.2", &web[..]),
            ("172.17.0.3", &[]),
        ] {
            let address: IpAddr = address.parse().unwrap();
            let expected = segments.iter().cloned().collect();
            assert_eq!(askers.get(&address), Some(&expected), "{address}");
        }
    }

    #[tokio::test]
    async fn what_was_attached_beside_docker_is_called_as_its_container_or_as_was_asked() {
        let mut names = names_of(&JoinedEndpoints::new(), &attached());
        learn(&mut names).await;
        let mut known = BTreeMap::new();
        told(&mut names, &mut known);
        let red = SegmentId::of_name("red");
        let [shop] = &known["c1c1c1"].bindings[..] else {
            panic!("{known:?}");
        };
        assert_eq!(shown(shop), ["foo.weave.local", "shop.weave.local"]);
        assert_eq!(shop.segment, Some(red.clone()));
        assert!(known["d2d2d2"].bindings.is_empty());
        let [host] = &known["weave:expose"].bindings[..] else {
            panic!("{known:?}");
        };
        assert_eq!(shown(host), ["host.weave.local"]);
        // Whoever was attached is told what is on the segment, from whichever address it asks.
        let askers = askers(&known);
        for address in ["172.17.0.3", "10.9.0.2"] {
            let segments = &askers[&address.parse().unwrap()];
            assert!(segments.contains(&red), "{address}");
        }
    }

    fn attached() -> AttachedEndpoints {
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
        all.into()
    }

    /// In whichever order news comes, one by one, the names are those of all of it at once, and only
    /// what has changed is told.
    #[tokio::test]
    async fn increments_end_in_the_names_of_the_whole() {
        let mut at_once = names_of(&joined(), &attached());
        learn(&mut at_once).await;
        let mut expected = BTreeMap::new();
        told(&mut at_once, &mut expected);
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut names = Names::new("weave.local".parse().unwrap());
            let mut known = BTreeMap::new();
            for news in order {
                match news {
                    0 => names.handle_joined(&joined()),
                    1 => names.handle_attached(&attached()),
                    _ => names.handle_containers(all()),
                }
                told(&mut names, &mut known);
                learn(&mut names).await;
                told(&mut names, &mut known);
            }
            assert_eq!(known, expected, "{order:?}");
            assert!(names.poll_changes().is_empty());
            // The same once more, with one container less, and all taken back.
            names.handle_joined(&joined());
            names.handle_attached(&attached());
            assert!(names.poll_changes().is_empty());
            let ended = ContainerChanges::from([("d2d2d2".to_owned(), None)]);
            names.handle_containers(ended);
            let changes = names.poll_changes();
            assert_eq!(changes, [("d2d2d2".to_owned(), None)].into());
            names.handle_joined(&JoinedEndpoints::new());
            names.handle_attached(&AttachedEndpoints::new());
            told(&mut names, &mut known);
            assert!(
                known
                    .values()
                    .all(|container| container.bindings.is_empty())
            );
            assert!(!known.contains_key("weave:expose"));
        }
    }

    /// What one change costs where many containers run: `cargo test --lib -- --ignored --nocapture`
    /// with this test's name.
    #[test]
    #[ignore = "measures"]
    fn one_change_among_fifty_thousand_containers() {
        const CONTAINERS: u32 = 50_000;
        let container = |number: u32| {
            let [_, a, b, c] = number.to_be_bytes();
            let text = format!(
                r#"{{"Id":"{number:064x}","Names":["/c{number}"],"NetworkSettings":{{"Networks":{{
                "web":{{"EndpointID":"{number:064x}","IPAddress":"10.{a}.{b}.{c}"}}}}}}}}"#
            );
            let container: Arc<Container> = serde_json::from_str(&text).unwrap();
            (container.id.clone(), Some(container))
        };
        let mut joined: JoinedEndpoints = (0..CONTAINERS)
            .map(|number| {
                let joined = Joined {
                    network: "n1".parse().unwrap(),
                    segment: SegmentId::of_name("web"),
                    sandbox: PathBuf::new(),
                };
                (format!("{number:064x}").parse().unwrap(), joined)
            })
            .collect();
        let dir = tempfile::tempdir().unwrap();
        let config = DnsConfig {
            id: PeerId::from_bytes([1; 16]),
            domain: "weave.local".parse().unwrap(),
            ttl: 1,
            listen: None,
            run_dir: dir.path().to_owned(),
        };
        let dns = Dns::start(&config, Store::at(dir.path()), |_, _| ());
        let mut names = Names::new(config.domain);
        let timed = |what: &str, step: &mut dyn FnMut()| {
            let begin = std::time::Instant::now();
            step();
            println!("{what}: {:?}", begin.elapsed());
        };
        timed("all", &mut || {
            names.handle_joined(&joined);
            names.handle_containers((0..CONTAINERS).map(container).collect());
            dns.containers(names.poll_changes());
        });
        let one = container(4711);
        let endpoint = one.0.parse().unwrap();
        timed("the end of one", &mut || {
            names.handle_containers([(one.0.clone(), None)].into());
            dns.containers(names.poll_changes());
        });
        let left = joined.remove(&endpoint).unwrap();
        timed("its endpoint left", &mut || names.handle_joined(&joined));
        joined.insert(endpoint, left);
        timed("its endpoint joined", &mut || names.handle_joined(&joined));
        timed("the start of one", &mut || {
            names.handle_containers([one.clone()].into());
            dns.containers(names.poll_changes());
        });
        assert_eq!(dns.lookup(&"c4711".parse().unwrap()).len(), 1);
    }
}
