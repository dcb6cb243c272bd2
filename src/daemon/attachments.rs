//! What operators attach beside Docker: containers, and this host.
//!
//! Each address is an endpoint like Docker's own, on the segment of its subnet, and so on that of
//! any network with this subnet. The container's end of its veth pair is moved by us in place of
//! Docker. It goes with the container's namespace; then so does the endpoint. The container keeps
//! its address until it is removed, so that it can be attached again as it was.

mod keeper;
mod place;
mod plug;
mod record;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;
use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::task::spawn_blocking;

use self::place::{Place, blocking};
use self::record::{Attachment, HOST, Naming, attached_endpoints, holder};
use super::exposure;
use crate::config::Paths;
use crate::control::report::AttachmentReport;
use crate::control::{AttachCommand, ControlError, Warning, Warnings};
use crate::datapath::{MaybeDatapath, port_name};
use crate::docker::engine::{ContainerDetail, Engine};
use crate::docker::names::AttachedEndpoints;
use crate::ipam::Ipam;
use crate::linux::netns::NetNs;
use crate::network::{AddressSpec, Networks};
use crate::store::Store;

/// The name of the document.
const DOCUMENT: &str = "attachments";

const WARNING: &str = "attachments";

/// The attachments; cloning gives another handle.
#[derive(Debug, Clone)]
pub(super) struct Attachments {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    engine: Engine,
    ipam: Ipam,
    networks: Networks,
    datapath: Arc<MaybeDatapath>,
    store: Store,
    run_dir: PathBuf,
    default_subnet: IpNet,
    warnings: Warnings,
    /// Held while devices or addresses change hands.
    all: Mutex<Vec<Attachment>>,
    /// The same as it was last remembered, for who must not wait.
    saved: watch::Sender<Vec<Attachment>>,
    endpoints: watch::Sender<AttachedEndpoints>,
}

/// What the attachments work with.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) engine: Engine,
    pub(super) ipam: Ipam,
    pub(super) networks: Networks,
    pub(super) datapath: Arc<MaybeDatapath>,
    pub(super) store: Store,
    pub(super) default_subnet: IpNet,
    pub(super) warnings: Warnings,
}

impl Attachments {
    /// Takes up what was attached in an earlier life of the daemon.
    pub(super) fn load(parts: Parts, paths: &Paths) -> Self {
        let all: Vec<Attachment> = match parts.store.load(DOCUMENT) {
            Ok(all) => all.unwrap_or_default(),
            Err(error) => {
                let remedy = "remove the file and repeat `weave attach` and `weave expose`";
                parts
                    .warnings
                    .set(WARNING, Warning::new(error.to_string(), remedy));
                Vec::new()
            }
        };
        let shared = Shared {
            engine: parts.engine,
            ipam: parts.ipam,
            networks: parts.networks,
            datapath: parts.datapath,
            store: parts.store,
            run_dir: paths.run(),
            default_subnet: parts.default_subnet,
            warnings: parts.warnings,
            endpoints: watch::channel(attached_endpoints(&all)).0,
            saved: watch::channel(all.clone()).0,
            all: Mutex::new(all),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// What is attached, by endpoint, now and whenever that changes.
    pub(super) fn endpoints(&self) -> watch::Receiver<AttachedEndpoints> {
        self.shared.endpoints.subscribe()
    }

    /// The containers that keep addresses.
    pub(super) fn holders(&self) -> BTreeSet<String> {
        let saved = self.shared.saved.borrow();
        saved.iter().map(|a| a.holder.clone()).collect()
    }

    /// What is attached at this moment.
    pub(super) async fn report(&self) -> Vec<AttachmentReport> {
        let ports = self.shared.ports().await;
        let saved = self.shared.saved.borrow();
        saved
            .iter()
            .filter(|a| match &ports {
                Some(ports) => ports.contains(&port_name(&a.endpoint)),
                None => a.attached,
            })
            .map(Attachment::report)
            .collect()
    }

    /// Does what an operator asks.
    pub(super) async fn command(&self, command: AttachCommand) -> Result<Vec<IpNet>, ControlError> {
        // What was begun is finished, also when the caller gives up.
        let shared = Arc::clone(&self.shared);
        let task = tokio::spawn(async move {
            match command {
                AttachCommand::Attach {
                    container,
                    addresses,
                    multicast_route,
                    without_dns,
                } => {
                    let naming = Naming {
                        without_dns,
                        ..Naming::default()
                    };
                    shared
                        .attach(&container, addresses, multicast_route, naming)
                        .await
                }
                AttachCommand::Detach {
                    container,
                    addresses,
                } => shared.detach(&container, &addresses).await,
                AttachCommand::Expose {
                    addresses,
                    masquerade,
                    name,
                } => {
                    let naming = Naming {
                        names: name.into_iter().collect(),
                        ..Naming::default()
                    };
                    shared.expose(addresses, masquerade, naming).await
                }
                AttachCommand::Hide { addresses } => shared.remove_of(HOST, &addresses).await,
            }
        });
        task.await.map_err(|_| ControlError::Stopped)?
    }
}

impl Shared {
    async fn attach(
        &self,
        name: &str,
        specs: Vec<AddressSpec>,
        multicast: bool,
        naming: Naming,
    ) -> Result<Vec<IpNet>, ControlError> {
        let container = self.container(name).await?;
        let key = PathBuf::from(&container.network_settings.sandbox_key);
        if container.host_config.network_mode == "host" {
            return Err(refused(format!(
                "container {name} has this host's own network: use `weave expose`"
            )));
        }
        if !container.state.running || container.network_settings.sandbox_key.is_empty() {
            return Err(refused(format!(
                "container {name} does not run: only a running one can be attached"
            )));
        }
        let namespace = {
            let (run_dir, key) = (self.run_dir.clone(), key.clone());
            blocking(move || NetNs::open_sandbox(&run_dir, &key)).await
        };
        let namespace = namespace.map_err(|error| {
            let key = key.display();
            refused(format!("cannot enter the network namespace {key}: {error}"))
        })?;
        let place = Place::of_container(&container, namespace, multicast, naming);
        self.add(&place, specs).await
    }

    async fn detach(&self, name: &str, specs: &[AddressSpec]) -> Result<Vec<IpNet>, ControlError> {
        let id = match self.engine.container(name).await {
            Ok(container) => container.id,
            // One that is gone may still keep addresses.
            Err(error) if error.is_not_found() => {
                let all = self.all.lock().await;
                let known = |a: &&Attachment| a.name == name || a.container.starts_with(name);
                match all.iter().find(known) {
                    Some(attachment) => attachment.container.clone(),
                    None => return Err(refused(format!("docker knows no container {name}"))),
                }
            }
            Err(error) => return Err(refused(error.to_string())),
        };
        self.remove_of(&id, specs).await
    }

    async fn expose(
        &self,
        specs: Vec<AddressSpec>,
        masquerade: bool,
        naming: Naming,
    ) -> Result<Vec<IpNet>, ControlError> {
        let place = Place::of_host(masquerade, naming);
        let place = place.map_err(|error| refused(error.to_string()))?;
        self.add(&place, specs).await
    }

    /// Gives a place addresses; those that it has already are left as they are.
    async fn add(
        &self,
        place: &Place,
        mut specs: Vec<AddressSpec>,
    ) -> Result<Vec<IpNet>, ControlError> {
        if specs.is_empty() {
            specs.push(AddressSpec::Default);
        }
        // What may have to wait for other peers comes first, so that nobody waits for it but who
        // asked.
        let mut wanted = Vec::new();
        for spec in specs {
            let holder = self.holder(place, &spec);
            let address = self.address(&holder, &spec).await?;
            wanted.push((holder, address));
        }
        let mut all = self.all.lock().await;
        let mut granted = Vec::new();
        let mut failed = None;
        for (holder, address) in wanted {
            let other = |a: &&Attachment| {
                a.attached && a.address == address && a.container != place.container
            };
            if let Some(other) = all.iter().find(other) {
                let name = &other.name;
                failed = Some(refused(format!("address {address} is used by {name}")));
                break;
            }
            let known = all
                .iter_mut()
                .find(|a| a.container == place.container && a.address == address);
            if let Some(known) = known
                && self.is_plugged(&known.endpoint).await
            {
                known.masquerade = place.masquerade;
                known.naming.update(&place.naming);
                granted.push(address);
                continue;
            }
            match self.plug(place, &holder, address).await {
                Ok(attachment) => {
                    all.retain(|a| a.endpoint != attachment.endpoint);
                    all.push(attachment);
                    granted.push(address);
                }
                Err(error) => {
                    let _ = self.ipam.release(holder, Some(address.addr())).await;
                    failed = Some(error);
                    break;
                }
            }
        }
        // What was done before something failed is remembered as well.
        self.save(&all).await?;
        self.translate(&all).await?;
        match failed {
            None => Ok(granted),
            Some(error) => Err(error),
        }
    }

    fn holder(&self, place: &Place, spec: &AddressSpec) -> String {
        let saved = self.saved.borrow();
        let same = |a: &&Attachment| {
            a.container == place.container && *spec == AddressSpec::Exact(a.address)
        };
        match saved.iter().find(same) {
            Some(known) => known.holder.clone(),
            None => holder(&place.container, spec),
        }
    }

    async fn address(&self, holder: &str, spec: &AddressSpec) -> Result<IpNet, ControlError> {
        let holder = holder.to_owned();
        let granted = match spec {
            AddressSpec::Exact(address) => {
                let claimed = self.ipam.claim(holder, *address, false).await;
                claimed.map(|()| *address)
            }
            AddressSpec::Subnet(subnet) => self.ipam.allocate(holder, Some(*subnet)).await,
            AddressSpec::Default => self.ipam.allocate(holder, None).await,
        };
        granted.map_err(|error| refused(error.to_string()))
    }

    /// Takes the addresses that are meant from a container, or from this host.
    async fn remove_of(
        &self,
        container: &str,
        specs: &[AddressSpec],
    ) -> Result<Vec<IpNet>, ControlError> {
        let mut all = self.all.lock().await;
        let default = self.default_subnet;
        let meant = |a: &Attachment| {
            a.container == container
                && (specs.is_empty() || specs.iter().any(|spec| spec.matches(a.address, default)))
        };
        let (gone, mut left): (Vec<_>, Vec<_>) = all.drain(..).partition(meant);
        for attachment in &gone {
            self.unplug(attachment, &left).await;
            self.release(attachment).await;
        }
        all.append(&mut left);
        self.save(&all).await?;
        self.translate(&all).await?;
        Ok(gone.into_iter().map(|a| a.address).collect())
    }

    async fn release(&self, attachment: &Attachment) {
        let holder = attachment.holder.clone();
        let address = attachment.address.addr();
        if let Err(error) = self.ipam.release(holder, Some(address)).await {
            tracing::warn!(%error, %address, "an address was not given back");
        }
    }

    async fn container(&self, name: &str) -> Result<ContainerDetail, ControlError> {
        let found = self.engine.container(name).await;
        found.map_err(|error| match error.is_not_found() {
            true => refused(format!("docker knows no container {name}")),
            false => refused(error.to_string()),
        })
    }

    async fn save(&self, all: &MutexGuard<'_, Vec<Attachment>>) -> Result<(), ControlError> {
        self.endpoints.send_replace(attached_endpoints(all));
        self.saved.send_replace(Vec::clone(all));
        let (store, document) = (self.store.clone(), Vec::clone(all));
        let saved = spawn_blocking(move || store.save(DOCUMENT, &document)).await;
        saved
            .map_err(|_| ControlError::Stopped)?
            .map_err(|error| ControlError::Store(error.to_string()))
    }

    /// Brings the translation of addresses in line with what this host has.
    async fn translate(&self, all: &[Attachment]) -> Result<(), ControlError> {
        let of_host = all.iter().filter(|a| a.container == HOST && a.masquerade);
        let subnets: BTreeSet<IpNet> = of_host.map(|a| a.address.trunc()).collect();
        let applied = blocking(move || exposure::masquerade(&subnets)).await;
        applied.map_err(|error| refused(error.to_string()))
    }
}

fn refused(reason: String) -> ControlError {
    ControlError::Refused(reason)
}
