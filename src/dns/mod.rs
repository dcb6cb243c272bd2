//! weaveDNS: names of containers, on every host the moment they start anywhere.
//!
//! Each peer registers the names of its own containers; the mesh replicates them. The server
//! answers containers and the host from what is known, and hands everything else on to the host's
//! own servers.

mod answer;
mod askers;
mod counters;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod host;
mod local;
mod record;
mod server;
mod status;
mod table;
mod upstream;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::sync::{mpsc, watch};

use self::answer::Zone;
use self::askers::Asker;
use self::counters::Counters;
use self::local::{Local, LocalNews};
pub use self::local::{LocalChanges, LocalContainer};
pub use self::record::Binding;
use self::server::Server;
pub use self::status::{AnswerTimes, DnsCounters, DnsEntry, DnsOutcomes, DnsStatus};
use self::table::{Table, tree_key};
pub use self::upstream::DNS_PORT;
use self::upstream::Upstreams;
use crate::mesh::{Key, MeshEvent};
use crate::store::{Store, StoreError};
use crate::types::{DnsName, PeerId};

/// How often the host's addresses and its DNS servers are looked at again: nobody tells of
/// changes.
const LOOK: Duration = Duration::from_secs(2);

/// The pause before an address that could not be served is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// How much news, of the mesh or of this host, is taken in before queries are answered again.
const BATCH: usize = 512;

/// Where a container with this host name is to look for short names: below the domain, neighbours
/// are found first.
pub fn search_domains(hostname: Option<&str>, domain: &DnsName) -> Vec<String> {
    let hostname = hostname.and_then(|name| name.parse::<DnsName>().ok());
    let parent = hostname
        .as_ref()
        .and_then(|name| name.as_str().split_once('.'));
    let parent = parent.and_then(|(_, parent)| parent.parse::<DnsName>().ok());
    let parent = parent.filter(|p| p.is_within(domain) && p != domain);
    let parent = parent.map(|parent| parent.to_string());
    parent.into_iter().chain([domain.to_string()]).collect()
}

/// What the server is told at its start.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// This peer.
    pub id: PeerId,
    /// The domain of all names here.
    pub domain: DnsName,
    /// How long answers may be remembered, in seconds.
    pub ttl: u32,
    /// Where to listen; by default at the address of Docker's bridge.
    pub listen: Option<SocketAddr>,
    /// The host's `/run`.
    pub run_dir: PathBuf,
}

#[cfg(test)]
impl DnsConfig {
    /// One for tests that have this directory to themselves.
    pub(crate) fn of_test(dir: &std::path::Path) -> Self {
        Self {
            id: PeerId::from_bytes([1; 16]),
            domain: "weave.local".parse().unwrap(),
            ttl: 1,
            listen: None,
            run_dir: dir.to_owned(),
        }
    }
}

/// Why a command about names was not carried out.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DnsError {
    /// A name outside the domain.
    #[error("expected a name in the domain {domain}, got {got}")]
    OutsideDomain {
        /// The domain.
        domain: DnsName,
        /// What came.
        got: String,
    },
    /// No such container runs here.
    #[error("no container {0} runs on this host")]
    UnknownContainer(String),
    /// The container has no address on our networks.
    #[error("container {0} is on none of our networks: name its addresses")]
    NoAddress(String),
    /// A name without anything to stand for.
    #[error("expected a container, or addresses and a name")]
    Incomplete,
    /// Nothing of the kind was added.
    #[error("nothing that `weave dns-add` has added fits")]
    NothingToRemove,
    /// The state could not be made durable; nothing was changed.
    #[error("the state cannot be stored: {0}")]
    Store(#[from] StoreError),
}

/// A name that an operator adds or removes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NameRequest {
    /// The name, with or without the domain; by default the container's.
    pub name: Option<DnsName>,
    /// The container, by name or identifier.
    pub container: Option<String>,
    /// The addresses; by default the container's.
    pub addresses: BTreeSet<IpAddr>,
}

/// The way to weaveDNS from the floors above; cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Dns {
    shared: Arc<Shared>,
}

/// What tells the other peers.
type Publish = Box<dyn Fn(Key, Option<Bytes>) + Send>;

/// What this host says. It is told in the order in which it changes.
struct Here {
    local: Local,
    publish: Publish,
}

/// What handle and sockets share.
struct Shared {
    zone: RwLock<Zone>,
    here: Mutex<Here>,
    upstreams: Upstreams,
    counters: Counters,
    listening: Mutex<Result<SocketAddr, String>>,
    changes: watch::Sender<()>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Dns {
    /// Starts with what operators have added before. Nothing is served until
    /// [`serve`](Self::serve) runs.
    pub fn start(
        config: &DnsConfig,
        store: Store,
        publish: impl Fn(Key, Option<Bytes>) + Send + 'static,
    ) -> Self {
        let table = Table::new(config.id, rand::random(), &config.domain);
        let shared = Shared {
            zone: RwLock::new(Zone::new(config.domain.clone(), config.ttl, table)),
            here: Mutex::new(Here {
                local: Local::load(store),
                publish: Box::new(publish),
            }),
            upstreams: Upstreams::default(),
            counters: Counters::default(),
            listening: Mutex::new(Err("not started".to_owned())),
            changes: watch::channel(()).0,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Takes in the mesh's news for as long as there are any.
    pub async fn follow(self, mut mesh_events: mpsc::UnboundedReceiver<MeshEvent>) {
        let mut batch = Vec::new();
        while mesh_events.recv_many(&mut batch, BATCH).await > 0 {
            let changed = self.shared.write(|zone| {
                let mut changed = false;
                for event in batch.drain(..) {
                    changed |= zone.table.handle_mesh_event(event);
                }
                changed
            });
            if changed {
                self.shared.changes.send_replace(());
            }
        }
    }

    /// Serves queries and follows the host's addresses and DNS servers, for ever.
    pub async fn serve(self, config: DnsConfig) {
        let find = || match config.listen {
            Some(address) => Ok(address),
            None => host::bridge_address().map(|address| SocketAddr::new(address, DNS_PORT)),
        };
        loop {
            self.look(&config.run_dir);
            let served = find().and_then(|address| {
                Server::bind(address).map_err(|error| format!("{address}: {error}"))
            });
            match served {
                Ok(server) => {
                    let address = server.address();
                    self.note_listening(Ok(address));
                    self.look(&config.run_dir);
                    tokio::select! {
                        () = server.serve(Arc::clone(&self.shared)) => {}
                        () = self.look_until(&config.run_dir, || find() != Ok(address)) => {}
                    }
                    self.note_listening(Err(format!("{address} is served no more")));
                }
                Err(error) => self.note_listening(Err(error)),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// Tells what has become of containers of this host: at first, which run.
    pub fn containers(&self, changes: LocalChanges) {
        let mut here = self.shared.here();
        let mut changes = changes.into_iter().peekable();
        let mut askers_changed = false;
        loop {
            let news = here
                .local
                .handle_containers(changes.by_ref().take(BATCH).collect());
            askers_changed |= !news.askers.is_empty();
            let complete = changes.peek().is_none();
            self.tell(&here, news, complete);
            if complete {
                break;
            }
        }
        drop(here);
        if askers_changed {
            self.look_at_interfaces();
        }
    }

    /// A name with the domain, whether it came with it or not.
    ///
    /// # Errors
    /// When it lies elsewhere, or is the domain itself.
    pub fn within(&self, name: &DnsName) -> Result<DnsName, DnsError> {
        self.shared.read(|zone| within(&zone.domain, name))
    }

    /// Gives addresses a name.
    pub fn add(&self, request: NameRequest) -> Result<(), DnsError> {
        self.change(request, Local::handle_add)
    }

    /// Takes back what [`add`](Self::add) did: for all addresses when none is named, for all
    /// names when none is named.
    pub fn remove(&self, request: NameRequest) -> Result<(), DnsError> {
        self.change(request, Local::handle_remove)
    }

    /// The containers that have added names and do not run.
    pub fn absent(&self) -> Vec<String> {
        self.shared.here().local.absent()
    }

    /// A container is gone for good, and its added names with it.
    pub fn forget_container(&self, id: &str) -> Result<(), DnsError> {
        let mut here = self.shared.here();
        if let Some(news) = here.local.handle_removed(id)? {
            self.tell(&here, news, true);
        }
        Ok(())
    }

    /// The addresses of a name as the host sees it, in random order, local ones first.
    pub fn lookup(&self, name: &DnsName) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        self.shared.read(|zone| {
            if let Ok(name) = within(&zone.domain, name) {
                zone.table
                    .find(&tree_key(&name), Asker::Host, &mut addresses);
            }
        });
        addresses.shuffle(&mut rand::rng());
        addresses.sort_by_key(|(_, local)| !local);
        addresses.into_iter().map(|(address, _)| address).collect()
    }

    /// Where queries are answered, or why they are not.
    pub fn listening(&self) -> Result<SocketAddr, String> {
        let listening = self.shared.listening.lock();
        listening.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is known, and how it goes. How many names are gone is the mesh's to say.
    pub fn status(&self) -> DnsStatus {
        let shared = &self.shared;
        let listening = self.listening();
        let (domain, ttl, mut entries) =
            shared.read(|zone| (zone.domain.clone(), zone.ttl, zone.table.entries()));
        entries
            .sort_by_cached_key(|(entry, _)| (tree_key(&entry.name), entry.address, entry.owner));
        let shown = entries.into_iter().map(|(entry, reachable)| DnsEntry {
            name: entry.name.clone(),
            address: entry.address,
            container: entry.container.as_deref().map(str::to_owned),
            segment: entry.segment.clone(),
            peer: entry.owner,
            reachable,
        });
        DnsStatus {
            domain,
            ttl,
            listening,
            upstreams: shared.upstreams.get(),
            counters: DnsCounters {
                upstream_failures: shared.upstreams.failures(),
                ..shared.counters.read()
            },
            tombstones: 0,
            entries: shown.collect(),
        }
    }

    fn change(
        &self,
        request: NameRequest,
        change: impl FnOnce(&mut Local, &DnsName, NameRequest) -> Result<Option<LocalNews>, DnsError>,
    ) -> Result<(), DnsError> {
        let domain = self.shared.read(|zone| zone.domain.clone());
        let mut here = self.shared.here();
        if let Some(news) = change(&mut here.local, &domain, request)? {
            self.tell(&here, news, true);
        }
        Ok(())
    }

    /// Tells everybody what has changed here; with that, all is told if it is `complete`.
    fn tell(&self, here: &Here, news: LocalNews, complete: bool) {
        let mut published = Vec::new();
        let changed = self.shared.write(|zone| {
            let mut changed = zone.askers.handle_containers(news.askers);
            changed |= zone.table.handle_registrations(news.registrations);
            if complete {
                zone.table.handle_complete();
            }
            published.extend(std::iter::from_fn(|| zone.table.poll_publish()));
            changed
        });
        for (key, value) in published {
            (here.publish)(key, value);
        }
        if changed {
            self.shared.changes.send_replace(());
        }
    }

    async fn look_until(&self, run_dir: &Path, done: impl Fn() -> bool) {
        loop {
            tokio::time::sleep(LOOK).await;
            self.look(run_dir);
            if done() {
                return;
            }
        }
    }

    /// Looks at what the host has changed without telling.
    fn look(&self, run_dir: &Path) {
        self.look_at_interfaces();
        if let Some(text) = host::resolv_conf(run_dir) {
            let servers = upstream::servers(&text, self.listening().ok());
            self.shared.upstreams.set(servers);
        }
    }

    fn look_at_interfaces(&self) {
        let interfaces = host::interfaces();
        self.shared.write(|zone| {
            zone.askers.own = interfaces.own;
            zone.askers.bridges = interfaces.bridges;
        });
    }

    fn note_listening(&self, state: Result<SocketAddr, String>) {
        let known = self.shared.listening.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        if *known != state {
            match &state {
                Ok(address) => tracing::info!(%address, "names are served"),
                Err(error) => tracing::warn!(error, "names are not served"),
            }
            *known = state;
        }
    }
}

impl Shared {
    fn read<T>(&self, look: impl FnOnce(&Zone) -> T) -> T {
        look(&self.zone.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Zone) -> T) -> T {
        change(&mut self.zone.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn here(&self) -> MutexGuard<'_, Here> {
        self.here.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A name with the domain, whether it came with it or not.
fn within(domain: &DnsName, name: &DnsName) -> Result<DnsName, DnsError> {
    let outside = || DnsError::OutsideDomain {
        domain: domain.clone(),
        got: name.to_string(),
    };
    match name.is_within(domain) {
        true if name == domain => Err(outside()),
        true => Ok(name.clone()),
        false => name.below(domain).ok_or_else(outside),
    }
}

#[cfg(test)]
mod tests;
