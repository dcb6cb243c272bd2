//! The containers that run on this host, watched through the Engine.

mod signal;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use self::view::{Signalled, View, Wanted};
use super::engine::{Container, Engine, EngineError, IpamConfig, Network, Service};
use crate::ipam::{AddressSpace, InUse};
use crate::types::EndpointId;

/// The pause before the Engine is asked again after it did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// What runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Running {
    /// All containers that run.
    pub containers: Vec<Arc<Container>>,
    /// The identifiers of those that were told to stop.
    pub stopping: BTreeSet<String>,
}

/// What has become of containers, by identifier; of those that have ended nothing is left.
pub type ContainerChanges = BTreeMap<String, Option<Arc<Container>>>;

impl Running {
    /// The containers' names by their endpoints.
    pub fn names(&self) -> BTreeMap<EndpointId, String> {
        let endpoints = self.containers.iter().flat_map(|container| {
            let attachments = container.network_settings.networks.values();
            let endpoints = attachments.filter_map(|a| a.endpoint_id.parse().ok());
            endpoints.map(|endpoint| (endpoint, container.name().to_owned()))
        });
        endpoints.collect()
    }

    /// The addresses in use on these networks, and those that are kept from use, as far as they
    /// come from an IPAM driver for which `ours` holds. `services` are those of the swarm, where
    /// this host's engine leads it.
    pub fn in_use(
        &self,
        networks: &[Network],
        services: Option<&[Service]>,
        ours: impl Fn(&str) -> bool,
    ) -> InUse {
        let mut in_use = InUse {
            containers: self.containers.iter().map(|c| c.id.clone()).collect(),
            ..InUse::default()
        };
        for network in networks.iter().filter(|n| ours(&n.ipam.driver)) {
            let subnets: Vec<IpNet> = network
                .ipam
                .config
                .iter()
                .filter_map(|config| config.subnet.parse().ok())
                .collect();
            let within = |text: &String| {
                let address: IpAddr = bare(text).parse().ok()?;
                let subnet = subnets.iter().find(|subnet| subnet.contains(&address))?;
                Some((subnet.trunc(), address))
            };
            let containers = self.containers.iter();
            let attached = containers
                .flat_map(|c| c.network_settings.networks.values())
                .filter(|attachment| attachment.network_id == network.id)
                .flat_map(|a| [&a.ip_address, &a.global_ipv6_address])
                .filter_map(within);
            let space = match network.scope.as_str() {
                "swarm" => AddressSpace::Global,
                _ => AddressSpace::Local,
            };
            match space {
                AddressSpace::Global => in_use.global.extend(attached),
                AddressSpace::Local => in_use.local.extend(attached),
            }
            in_use.pools.extend(subnets.iter().map(IpNet::trunc));
            if space == AddressSpace::Local || services.is_some() {
                let kept = network.ipam.config.iter().flat_map(kept_from_use);
                let kept = kept.filter_map(within);
                in_use.reserved.extend(kept.map(|(net, a)| (net, a, space)));
            }
            let vips = services.unwrap_or_default().iter();
            let vips = vips
                .flat_map(|service| &service.endpoint.virtual_ips)
                .filter(|vip| vip.network_id == network.id);
            in_use
                .services
                .extend(vips.filter_map(|vip| within(&vip.addr)));
        }
        in_use
    }
}

/// Gateways and auxiliary addresses. A gateway that is the subnet's own address uses none up.
fn kept_from_use(config: &IpamConfig) -> impl Iterator<Item = &String> {
    let gateway = Some(&config.gateway).filter(|gateway| bare(gateway) != bare(&config.subnet));
    gateway
        .into_iter()
        .chain(config.auxiliary_addresses.values())
}

/// Without its prefix length.
fn bare(address: &str) -> &str {
    address.split('/').next().unwrap_or_default()
}

/// Tells for ever what runs, whenever a container has started, was told to stop, has ended, or has
/// become healthy or unhealthy; and what has changed by that: at first, all that runs.
///
/// Nothing is told while the Engine does not answer: what it said last may still be so.
pub async fn watch(
    engine: Engine,
    told: watch::Sender<Option<Running>>,
    changes: mpsc::UnboundedSender<ContainerChanges>,
) {
    let mut view = View::new(Instant::now());
    loop {
        match follow(&engine, &mut view, &told, &changes).await {
            Ok(()) if told.is_closed() => return,
            Ok(()) => tracing::debug!("the engine has ended its events"),
            Err(error) => tracing::debug!(%error, "containers are not known"),
        }
        sleep(RETRY).await;
    }
}

/// What the Engine answered.
enum Answer {
    List(Result<Vec<Container>, EngineError>),
    Stops(Signalled, bool),
}

async fn follow(
    engine: &Engine,
    view: &mut View,
    told: &watch::Sender<Option<Running>>,
    changes: &mpsc::UnboundedSender<ContainerChanges>,
) -> Result<(), EngineError> {
    // Listening before asking leaves no gap between the two.
    let mut events = engine.events(&["container", "network"]).await?;
    view.handle_begin(Instant::now());
    // Events are read while the Engine works on its answers.
    let mut answers = JoinSet::new();
    loop {
        let due = view.poll_timeout();
        let sleep = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = told.closed() => return Ok(()),
            () = sleep => {
                let wanted = view.handle_asked(Instant::now());
                let engine = engine.clone();
                answers.spawn(async move {
                    Answer::List(match wanted {
                        Wanted::All => engine.containers().await,
                        Wanted::Named(ids) => engine.containers_among(&ids).await,
                    })
                });
            }
            event = events.next() => {
                let Some(event) = event? else {
                    return Ok(());
                };
                if let Some(signalled) = view.handle_event(&event, Instant::now()) {
                    let engine = engine.clone();
                    answers.spawn(async move {
                        let stops = stops(&engine, &signalled).await;
                        Answer::Stops(signalled, stops)
                    });
                }
            }
            Some(answer) = answers.join_next() => match answer {
                Ok(Answer::List(list)) => view.handle_list(list?, Instant::now()),
                Ok(Answer::Stops(signalled, stops)) => view.handle_stops(&signalled, stops),
                // No answer will come; everything is asked anew.
                Err(_) => return Ok(()),
            },
        }
        if let Some(changed) = view.poll_changes() {
            // Without weaveDNS nobody asks for them.
            let _ = changes.send(changed);
            told.send_replace(Some(view.running()));
        }
    }
}

/// Whether it is the signal by which the container is told to stop.
async fn stops(engine: &Engine, signalled: &Signalled) -> bool {
    match engine.container(&signalled.container).await {
        Ok(container) => signal::number(&container.config.stop_signal) == Some(signalled.signal),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;
    use crate::docker::engine::tests::FakeEngine;

    #[test]
    fn containers_are_named_by_each_of_their_endpoints() {
        let text = r#"[{"Id":"c","Names":["/web"],"NetworkSettings":{"Networks":{
            "a":{"EndpointID":"e1"},"b":{"EndpointID":"e2"},"host":{"EndpointID":""}}}}]"#;
        let running = Running {
            containers: serde_json::from_str(text).unwrap(),
            ..Running::default()
        };
        let expected = ["e1", "e2"].map(|id| (id.parse().unwrap(), "web".to_owned()));
        assert_eq!(running.names(), expected.into());
    }

    #[test]
    fn addresses_in_use_are_those_of_our_networks() {
        let containers = r#"[{"Id":"c","NetworkSettings":{"Networks":{
            "a":{"NetworkID":"n1","IPAddress":"10.5.0.2","GlobalIPv6Address":"fd00::2"},
            "b":{"NetworkID":"n2","IPAddress":"10.6.0.2"},
            "s":{"NetworkID":"n3","IPAddress":"10.7.0.2"}}}}]"#;
        let networks = r#"[
            {"Id":"n1","Scope":"local","IPAM":{"Driver":"x","Config":[{"Subnet":"fd00::/64","Gateway":"fd00::"},
                {"Subnet":"10.5.0.0/16","Gateway":"10.5.0.1","AuxiliaryAddresses":{"printer":"10.5.0.9"}}]}},
            {"Id":"n2","Scope":"local","IPAM":{"Driver":"default","Config":[{"Subnet":"10.6.0.0/16"}]}},
            {"Id":"n3","Scope":"swarm","IPAM":{"Driver":"x","Config":[
                {"Subnet":"10.7.0.0/16","Gateway":"10.7.0.1"}]}}]"#;
        let services = r#"[{"ID":"s","Endpoint":{"VirtualIPs":[
            {"NetworkID":"n3","Addr":"10.7.0.9/16"},{"NetworkID":"n2","Addr":"10.6.0.9/16"}]}}]"#;
        let running = Running {
            containers: serde_json::from_str(containers).unwrap(),
            ..Running::default()
        };
        let networks: Vec<Network> = serde_json::from_str(networks).unwrap();
        let services: Vec<Service> = serde_json::from_str(services).unwrap();
        let ours = |driver: &str| driver == "x";
        let in_use = running.in_use(&networks, None, ours);
        let text = |pairs: &BTreeSet<(IpNet, IpAddr)>| -> Vec<String> {
            pairs
                .iter()
                .map(|(net, a)| format!("{a} of {net}"))
                .collect()
        };
        assert_eq!(
            text(&in_use.local),
            ["10.5.0.2 of 10.5.0.0/16", "fd00::2 of fd00::/64"]
        );
        let net = "10.5.0.0/16".parse().unwrap();
        let local = |text: &str| (net, text.parse().unwrap(), AddressSpace::Local);
        let reserved = BTreeSet::from(["10.5.0.1", "10.5.0.9"].map(local));
        assert_eq!(in_use.reserved, reserved);
        assert_eq!(text(&in_use.global), ["10.7.0.2 of 10.7.0.0/16"]);
        assert_eq!(in_use.containers, ["c".to_owned()].into());
        assert!(in_use.services.is_empty());

        let leading = running.in_use(&networks, Some(&services), ours);
        assert_eq!(text(&leading.services), ["10.7.0.9 of 10.7.0.0/16"]);
        let net = "10.7.0.0/16".parse().unwrap();
        let gateway = (net, "10.7.0.1".parse().unwrap(), AddressSpace::Global);
        assert_eq!(&leading.reserved - &reserved, [gateway].into());
    }

    #[tokio::test]
    async fn a_container_is_stopped_by_its_own_signal() {
        let detail = r#"{"Config":{"StopSignal":"SIGWINCH"}}"#;
        let fake = FakeEngine::start(Some("1.41"), [("/containers/c/json", detail)]);
        for (container, signal, expected) in [("c", 28, true), ("c", 1, false), ("d", 28, false)] {
            let container = container.to_owned();
            let signalled = Signalled { container, signal };
            let stops = stops(&fake.engine(), &signalled).await;
            assert_eq!(stops, expected, "{signalled:?}");
        }
    }

    /// An Engine that answers one question after the other: each is handed out with its path.
    fn asked_engine() -> (
        Engine,
        tempfile::TempDir,
        mpsc::Receiver<(String, UnixStream)>,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (asked, questions) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let asked = asked.clone();
                tokio::spawn(async move {
                    let mut request = [0; 4096];
                    let length = stream.read(&mut request).await.unwrap();
                    let request = String::from_utf8_lossy(&request[..length]).into_owned();
                    let path = request.split(' ').nth(1).unwrap().to_owned();
                    if path == "/_ping" {
                        return answer(&mut stream, "OK").await;
                    }
                    asked.send((path, stream)).await.unwrap();
                });
            }
        });
        (Engine::new(path), dir, questions)
    }

    async fn answer(stream: &mut UnixStream, body: &str) {
        let text = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}");
        stream.write_all(text.as_bytes()).await.unwrap();
    }

    #[tokio::test]
    async fn events_are_heard_while_the_engine_makes_its_list() {
        let (engine, _dir, mut questions) = asked_engine();
        let (told, mut heard) = watch::channel(None);
        let task = tokio::spawn(watch(engine, told, mpsc::unbounded_channel().0));
        let (path, mut events) = questions.recv().await.unwrap();
        assert!(path.starts_with("/events"), "{path}");
        answer(&mut events, "").await;
        let (path, mut list) = questions.recv().await.unwrap();
        assert!(path.starts_with("/containers/json"), "{path}");
        answer(&mut list, r#"[{"Id":"a"},{"Id":"b"}]"#).await;
        drop(list);
        let start = r#"{"Type":"container","Action":"start","Actor":{"ID":"c"}}"#;
        let line = format!("{start}\n");
        events.write_all(line.as_bytes()).await.unwrap();
        let (path, mut list) = questions.recv().await.unwrap();
        assert!(path.contains("filters=%7B%22id%22%3A%5B%22c%22"), "{path}");
        let kill = r#"{"Type":"container","Action":"kill","Actor":{"ID":"a","Attributes":{"signal":"15"}}}"#;
        let line = format!("{kill}\n");
        events.write_all(line.as_bytes()).await.unwrap();
        let stopping = |running: &Option<Running>, id: &str| {
            let running = running.as_ref();
            running.is_some_and(|running| running.stopping.contains(id))
        };
        heard
            .wait_for(|running| stopping(running, "a"))
            .await
            .unwrap();
        // The list that comes late takes nothing back.
        answer(&mut list, r#"[{"Id":"c"}]"#).await;
        drop(list);
        let lists = |running: &Option<Running>, id: &str| {
            let running = running.as_ref();
            running.is_some_and(|running| running.containers.iter().any(|c| c.id == id))
        };
        let running = heard.wait_for(|running| lists(running, "c")).await.unwrap();
        assert!(stopping(&running, "a"));
        task.abort();
    }
}
