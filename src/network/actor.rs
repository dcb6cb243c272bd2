//! The task that owns the networks: it feeds the core and carries out what the core decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use nix::net::if_::if_nametoindex;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::core::{Action, Attachments, Core, CoreConfig, Definitions, Plug, Remembered};
use super::mechanic::Mechanic;
use super::{
    Attachment, Command, JoinedEndpoints, NetworkError, NetworkStatus, Networks, SharedPeers,
};
use crate::datapath::{Datapath, DatapathError, host_name, port_name};
use crate::mesh::{Key, MeshEvent};
use crate::store::Store;
use crate::types::EndpointId;

/// How many calls may wait for the task; Docker makes a few at a time.
const QUEUE: usize = 256;

/// The document with what survives the host.
const DEFINITIONS: &str = "networks";

/// The document with this host's endpoints.
const ATTACHMENTS: &str = "endpoints";

/// The document with the endpoints of other hosts.
const REMEMBERED: &str = "remote";

/// Where the networks' state is kept.
#[derive(Debug, Clone)]
pub struct Stores {
    /// For what survives the host.
    pub durable: Store,
    /// For what lives as long as the kernel's devices: in a directory that is emptied when the
    /// host starts.
    pub runtime: Store,
}

impl Networks {
    /// Starts the task. What cannot be read or adopted is logged and left out.
    pub fn start<D: Datapath>(
        config: CoreConfig,
        underlay_mtu: u16,
        datapath: Arc<D>,
        stores: Stores,
        mesh_events: mpsc::UnboundedReceiver<MeshEvent>,
        publish: impl Fn(Key, Option<Bytes>) + Send + 'static,
    ) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE);
        let definitions = load::<Definitions>(&stores.durable, DEFINITIONS);
        let attachments = load::<Attachments>(&stores.runtime, ATTACHMENTS);
        let remembered = load::<Remembered>(&stores.runtime, REMEMBERED);
        let core = Core::new(
            config,
            underlay_mtu,
            definitions.clone(),
            attachments.clone(),
            remembered,
        );
        let (tell_joined, joined) = watch::channel(core.joined());
        let (tell_shared, shared) = watch::channel(SharedPeers::new());
        let actor = Actor {
            core,
            datapath: Arc::clone(&datapath),
            mechanic: Mechanic::start(datapath),
            stores,
            saved_definitions: definitions,
            saved_attachments: attachments,
            joined: tell_joined,
            shared: tell_shared,
            problems: BTreeMap::new(),
            publish,
        };
        tokio::spawn(actor.run(queue, mesh_events));
        Self {
            commands,
            joined,
            shared,
        }
    }
}

fn load<T: Default + serde::de::DeserializeOwned>(store: &Store, name: &str) -> T {
    match store.load(name) {
        Ok(document) => document.unwrap_or_default(),
        Err(error) => {
            warn!(%error, "starting without what was stored");
            T::default()
        }
    }
}

struct Actor<D, P> {
    core: Core,
    datapath: Arc<D>,
    mechanic: Mechanic,
    stores: Stores,
    saved_definitions: Definitions,
    saved_attachments: Attachments,
    joined: watch::Sender<JoinedEndpoints>,
    shared: watch::Sender<SharedPeers>,
    /// What went wrong with the devices, by what was done.
    problems: BTreeMap<String, String>,
    publish: P,
}

impl<D: Datapath, P: Fn(Key, Option<Bytes>) + Send + 'static> Actor<D, P> {
    async fn run(
        mut self,
        mut queue: mpsc::Receiver<Command>,
        mut mesh_events: mpsc::UnboundedReceiver<MeshEvent>,
    ) {
        match self.datapath.inventory().await {
            Ok(inventory) => {
                self.core.handle_inventory(&inventory);
                self.save_definitions_or_warn().await;
                self.save_attachments_or_warn().await;
            }
            Err(error) => warn!(%error, "starting without knowing what is in the kernel"),
        }
        self.save_attachments_or_warn().await;
        self.carry_out().await;
        loop {
            let deadline = self.core.poll_timeout();
            let sleep = async {
                match deadline {
                    Some((at, _)) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                command = queue.recv() => match command {
                    Some(command) => self.handle(command).await,
                    None => return,
                },
                Some(event) = mesh_events.recv() => {
                    let now = Instant::now();
                    self.core.handle_mesh_event(event, now);
                    // Forwarding is worked out once for all the news that has come.
                    while let Ok(event) = mesh_events.try_recv() {
                        self.core.handle_mesh_event(event, now);
                    }
                }
                () = sleep => self.core.handle_timeout(Instant::now()),
            }
            self.carry_out().await;
        }
    }

    async fn handle(&mut self, command: Command) {
        // A caller that has gone away needs no answer.
        match command {
            Command::Allocate(id, options, reply) => {
                let mut answer = self.core.handle_allocate(&id, options);
                if let Err(error) = self.save_definitions().await {
                    self.core.handle_free(&id);
                    answer = Err(error);
                }
                let _ = reply.send(answer);
            }
            Command::Free(id, reply) => {
                self.core.handle_free(&id);
                self.save_definitions_or_warn().await;
                let _ = reply.send(Ok(()));
            }
            Command::Create(spec, reply) => {
                let id = spec.id.clone();
                let changed = self.core.handle_create_network(spec);
                let answer = self.save_definitions().await;
                if answer.is_err() && changed {
                    self.core.handle_delete_network(&id);
                }
                self.carry_out().await;
                let _ = reply.send(answer);
            }
            Command::Delete(id, reply) => {
                self.core.handle_delete_network(&id);
                self.save_definitions_or_warn().await;
                self.save_attachments_or_warn().await;
                self.carry_out().await;
                let _ = reply.send(Ok(()));
            }
            Command::CreateEndpoint(spec, reply) => {
                let id = spec.endpoint.clone();
                let mut answer = self.core.handle_create_endpoint(spec, Instant::now());
                if answer.is_ok()
                    && let Err(error) = self.save_attachments().await
                {
                    self.core.handle_delete_endpoint(&id);
                    answer = Err(error);
                }
                let _ = reply.send(answer);
            }
            Command::Join(network, endpoint, sandbox, reply) => {
                let answer = match self.core.handle_join(&network, &endpoint, sandbox) {
                    Ok(plug) => self.plug(plug, &endpoint).await,
                    Err(error) => Err(error),
                };
                let _ = reply.send(answer);
            }
            Command::Leave(endpoint, reply) => {
                self.core.handle_leave(&endpoint);
                self.save_attachments_or_warn().await;
                let _ = reply.send(Ok(()));
            }
            Command::DeleteEndpoint(endpoint, reply) => {
                self.core.handle_delete_endpoint(&endpoint);
                self.save_attachments_or_warn().await;
                let _ = reply.send(Ok(()));
            }
            Command::Describe(endpoint, reply) => {
                let _ = reply.send(Ok(self.core.describe(&endpoint)));
            }
            Command::Containers(containers) => {
                let in_host = |id: &EndpointId| if_nametoindex(host_name(id).as_str()).is_ok();
                self.core
                    .handle_containers(&containers, in_host, Instant::now());
                self.save_definitions_or_warn().await;
                self.save_attachments_or_warn().await;
            }
            Command::UnderlayMtu(mtu) => self.core.handle_underlay_mtu(mtu),
            Command::Transport(peer, choice) => {
                self.core.handle_transport(peer, choice, Instant::now());
            }
            Command::Status(reply) => {
                let _ = reply.send(Ok(self.status()));
            }
        }
    }

    async fn plug(
        &mut self,
        plug: Plug,
        endpoint: &EndpointId,
    ) -> Result<Attachment, NetworkError> {
        self.mechanic.spare(&port_name(&plug.port.endpoint)).await;
        let mut plugged = self.datapath.plug(&plug.port).await;
        if plugged.is_err() {
            // The devices may be missing because making them failed, or somebody removed them.
            plugged = match self.datapath.ensure_segment(&plug.segment).await {
                Ok(()) => self.datapath.plug(&plug.port).await,
                Err(error) => Err(error),
            };
        }
        let interface = match plugged {
            Ok(interface) => interface,
            Err(error) => {
                self.core.handle_leave(endpoint);
                return Err(NetworkError::Datapath(error.to_string()));
            }
        };
        if let Err(error) = self.save_attachments().await {
            self.core.handle_leave(endpoint);
            return Err(error);
        }
        Ok(Attachment {
            interface,
            connected_routes: plug.connected_routes,
        })
    }

    async fn carry_out(&mut self) {
        while let Some(action) = self.core.poll_action() {
            match action {
                Action::Publish(key, value) => (self.publish)(key, value),
                Action::Ensure(spec) => {
                    let step = format!("the devices of segment {}", spec.id);
                    let result = self.datapath.ensure_segment(&spec).await;
                    self.note(step, result);
                }
                Action::Remove(tag) => {
                    let step = format!("the removal of the devices with tag {tag:08x}");
                    let result = self.datapath.remove_segment(tag).await;
                    self.note(step, result);
                }
                Action::Remember(remembered) => {
                    let saved = save(&self.stores.runtime, REMEMBERED, &remembered).await;
                    if let Err(error) = saved {
                        warn!(%error, "endpoints of other hosts will not be remembered");
                    }
                }
                Action::Share(peers) => {
                    self.shared.send_replace(peers);
                }
                Action::Forward(segment, forwarding) => self.mechanic.forward(segment, forwarding),
                Action::Unplug(port) => self.mechanic.unplug(port),
                Action::Announce(segment, mac, addresses) => {
                    self.mechanic.announce(segment, mac, addresses);
                }
            }
        }
    }

    fn note(&mut self, step: String, result: Result<(), DatapathError>) {
        match result {
            Ok(()) => {
                if self.problems.remove(&step).is_some() {
                    info!("{step} are in order again");
                }
            }
            Err(error) => {
                warn!(%error, "{step} are not in order");
                self.problems.insert(step, error.to_string());
            }
        }
    }

    fn status(&self) -> NetworkStatus {
        let mut status = self.core.status();
        let problems = self.problems.iter();
        status
            .warnings
            .extend(problems.map(|(step, error)| format!("{step}: {error}")));
        status.warnings.extend(self.mechanic.problems());
        status
    }

    async fn save_definitions(&mut self) -> Result<(), NetworkError> {
        let definitions = self.core.definitions();
        if definitions == self.saved_definitions {
            return Ok(());
        }
        save(&self.stores.durable, DEFINITIONS, &definitions).await?;
        self.saved_definitions = definitions;
        Ok(())
    }

    async fn save_attachments(&mut self) -> Result<(), NetworkError> {
        let attachments = self.core.attachments();
        if attachments == self.saved_attachments {
            return Ok(());
        }
        let joined = self.core.joined();
        self.joined.send_if_modified(|told| {
            let changed = *told != joined;
            *told = joined;
            changed
        });
        save(&self.stores.runtime, ATTACHMENTS, &attachments).await?;
        self.saved_attachments = attachments;
        Ok(())
    }

    /// For removals: what is gone stays gone, and is written with the next change.
    async fn save_definitions_or_warn(&mut self) {
        if let Err(error) = self.save_definitions().await {
            warn!(%error, "a removed network may come back with the next start");
        }
    }

    async fn save_attachments_or_warn(&mut self) {
        if let Err(error) = self.save_attachments().await {
            warn!(%error, "a removed endpoint may come back with the next start");
        }
    }
}

async fn save<T: serde::Serialize + Clone + Send + 'static>(
    store: &Store,
    name: &'static str,
    document: &T,
) -> Result<(), NetworkError> {
    let (store, document) = (store.clone(), document.clone());
    let saved = tokio::task::spawn_blocking(move || store.save(name, &document)).await;
    saved
        .map_err(|error| NetworkError::Store(error.to_string()))?
        .map_err(|error| NetworkError::Store(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::{EndpointSpec, NetworkOptions, NetworkSpec, Policy, Pool};
    use super::*;
    use crate::datapath::memory::MemoryDatapath;
    use crate::types::PeerId;

    #[tokio::test]
    async fn an_attachment_plugs_a_port_and_its_end_removes_it() {
        let host = Host::new();
        let networks = host.start();
        networks.create(network("n1")).await.unwrap();
        networks
            .create_endpoint(endpoint("n1", "e1"))
            .await
            .unwrap();
        let sandbox = Some("/ns/a".into());
        let attachment = networks
            .join(id("n1"), "e1".parse().unwrap(), sandbox)
            .await
            .unwrap();
        assert_eq!(attachment.interface, "vwe1");
        assert_eq!(host.datapath.devices().ports.len(), 1);
        networks.leave("e1".parse().unwrap()).await.unwrap();
        networks
            .delete_endpoint("e1".parse().unwrap())
            .await
            .unwrap();
        host.until(|devices| devices.ports.is_empty()).await;
        networks.delete(id("n1")).await.unwrap();
        assert!(host.datapath.devices().segments.is_empty());
    }

    #[tokio::test]
    async fn devices_that_somebody_removed_are_made_again_by_a_join() {
        let host = Host::new();
        let networks = host.start();
        networks.create(network("n1")).await.unwrap();
        host.datapath.devices().segments.clear();
        networks
            .create_endpoint(endpoint("n1", "e1"))
            .await
            .unwrap();
        let joined = networks.join(id("n1"), "e1".parse().unwrap(), None).await;
        assert!(joined.is_ok(), "{joined:?}");
    }

    #[tokio::test]
    async fn networks_and_endpoints_are_known_after_a_restart() {
        let host = Host::new();
        let networks = host.start();
        networks.create(network("n1")).await.unwrap();
        networks
            .create_endpoint(endpoint("n1", "e1"))
            .await
            .unwrap();
        drop(networks);
        let again = host.start();
        let sandbox = Some("/ns/a".into());
        again
            .join(id("n1"), "e1".parse().unwrap(), sandbox)
            .await
            .unwrap();
        assert_eq!(again.status().await.unwrap().endpoints.len(), 1);
    }

    #[tokio::test]
    async fn a_network_that_cannot_be_stored_is_refused_and_forgotten() {
        let host = Host::new();
        let networks = host.start();
        std::fs::remove_dir_all(host.dir.path().join("lib")).unwrap();
        std::fs::write(host.dir.path().join("lib"), "in the way").unwrap();
        let error = networks.create(network("n1")).await.unwrap_err();
        assert!(matches!(error, NetworkError::Store(_)), "{error}");
        let status = networks.status().await.unwrap();
        assert!(status.segments.is_empty());
        assert!(host.datapath.devices().segments.is_empty());
    }

    #[tokio::test]
    async fn unknown_networks_and_endpoints_are_told_apart() {
        let host = Host::new();
        let networks = host.start();
        let error = networks.create_endpoint(endpoint("n1", "e1")).await;
        assert_eq!(error, Err(NetworkError::UnknownNetwork(id("n1"))));
        networks.create(network("n1")).await.unwrap();
        let joined = networks.join(id("n1"), "e1".parse().unwrap(), None).await;
        let unknown = NetworkError::UnknownEndpoint("e1".parse().unwrap());
        assert_eq!(joined, Err(unknown));
        networks.leave("e1".parse().unwrap()).await.unwrap();
        networks
            .delete_endpoint("e1".parse().unwrap())
            .await
            .unwrap();
        networks.delete(id("n2")).await.unwrap();
    }

    struct Host {
        dir: tempfile::TempDir,
        datapath: Arc<MemoryDatapath>,
    }

    impl Host {
        fn new() -> Self {
            Self {
                dir: tempfile::tempdir().unwrap(),
                datapath: Arc::default(),
            }
        }

        fn start(&self) -> Networks {
            let config = CoreConfig {
                id: PeerId::from_bytes([1; 16]),
                nickname: "host1".to_owned(),
                policy: Policy {
                    encrypt: false,
                    trusts: false,
                },
                mtu: None,
                multicast: false,
            };
            let stores = Stores {
                durable: Store::open(self.dir.path().join("lib")).unwrap(),
                runtime: Store::open(self.dir.path().join("run")).unwrap(),
            };
            let (_, events) = mpsc::unbounded_channel();
            let datapath = Arc::clone(&self.datapath);
            Networks::start(config, 1500, datapath, stores, events, |_, _| {})
        }

        async fn until(&self, met: impl Fn(&crate::datapath::memory::Devices) -> bool) {
            let waited = async {
                while !met(&self.datapath.devices()) {
                    tokio::task::yield_now().await;
                }
            };
            let limit = std::time::Duration::from_secs(60);
            tokio::time::timeout(limit, waited).await.unwrap();
        }
    }

    fn id(text: &str) -> crate::types::NetworkId {
        text.parse().unwrap()
    }

    fn network(name: &str) -> NetworkSpec {
        NetworkSpec {
            id: id(name),
            pools: vec![Pool {
                subnet: "10.5.0.0/16".parse().unwrap(),
                gateway: None,
            }],
            options: NetworkOptions::default(),
        }
    }

    fn endpoint(network: &str, name: &str) -> EndpointSpec {
        EndpointSpec {
            network: id(network),
            endpoint: name.parse().unwrap(),
            ipv4: Some("10.5.0.2/16".parse().unwrap()),
            ipv6: None,
            mac: None,
            wants_multicast: None,
        }
    }
}
