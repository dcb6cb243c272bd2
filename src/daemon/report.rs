//! What the daemon says of itself, gathered from its parts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::last::Last;
use super::{Daemon, tunnel_status};
use crate::config::{Paths, Scope as ScopeSetting};
use crate::control::Warning;
use crate::control::report::{
    AttachmentReport, Capability, EndpointReport, NetworkReport, PluginSocket, Report, ScopeReport,
    SegmentReport, ServiceReport, TaskReport, TransportReport, TunnelReport, VxlanReport,
};
use crate::datapath::{DatapathError, MaybeDatapath};
use crate::dns::Dns;
use crate::docker::scope::Scope;
use crate::ipam::IpamStatus;
use crate::mesh::{Kind, MeshStatus};
use crate::network::services::{ServiceStatus, ServicesStatus};
use crate::network::{EndpointStatus, NetworkStatus, RouteStatus, SegmentStatus};
use crate::types::{NetworkId, PeerId};

/// The plugin sockets and what keeps them from being served.
#[derive(Debug)]
pub(super) struct Sockets {
    paths: Paths,
    states: Mutex<BTreeMap<PathBuf, Option<String>>>,
}

impl Sockets {
    /// None so far, on a host with these paths.
    pub(super) fn new(paths: Paths) -> Self {
        let states = Mutex::default();
        Self { paths, states }
    }

    /// Takes note of whether a socket is served; logs it when that is news.
    pub(super) fn note(&self, path: &Path, error: Option<String>) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if states.get(path) == Some(&error) {
            return;
        }
        match &error {
            Some(error) => tracing::error!(error, path = %path.display(), "socket not served"),
            None => tracing::info!(path = %path.display(), "socket served"),
        }
        states.insert(path.to_owned(), error);
    }

    /// A socket is no longer to be served.
    pub(super) fn forget(&self, path: &Path) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        if states.remove(path).is_some() {
            tracing::info!(path = %path.display(), "socket closed");
        }
    }

    fn report(&self) -> Vec<PluginSocket> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let report = |(path, error): (&PathBuf, &Option<String>)| PluginSocket {
            path: self.paths.on_the_host(path).display().to_string(),
            error: error.clone(),
        };
        states.iter().map(report).collect()
    }
}

/// What the parts said last.
#[derive(Debug)]
pub(super) struct Answers {
    mesh: Last<Option<MeshStatus>>,
    networks: Last<Option<NetworkStatus>>,
    services: Last<ServicesStatus>,
    ipam: Last<Option<IpamStatus>>,
    attachments: Last<Vec<AttachmentReport>>,
    datapath: Last<DatapathStatus>,
}

/// What is asked of the datapath.
#[derive(Debug, Clone)]
struct DatapathStatus {
    tunnel: Option<TunnelReport>,
    /// With the largest packets that fit.
    transports: Vec<TransportReport>,
    /// By the tags of segments.
    vxlan: BTreeMap<u32, VxlanReport>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            mesh: Last::of("the mesh"),
            networks: Last::of("the part for networks"),
            services: Last::of("the part for services"),
            ipam: Last::of("address allocation"),
            attachments: Last::of("the part for attachments"),
            datapath: Last::of("the datapath"),
        }
    }
}

impl Daemon {
    pub(super) async fn report(&self) -> Report {
        let last = &self.answers;
        let ((mesh, a), (network, b), (services, c), (ipam, d), (attachments, e)) = tokio::join!(
            last.mesh.or(self.mesh.status()),
            last.networks
                .or(async { self.networks.status().await.ok() }),
            last.services.or(self.services.status()),
            last.ipam.or(async { self.ipam.status().await.ok() }),
            last.attachments.or(self.attachments.report())
        );
        let (mesh, network) = (mesh.flatten(), network.flatten().unwrap_or_default());
        let services = services.unwrap_or_default();
        let names = Nicknames::of(mesh.as_ref());
        let routes = network.routes.iter();
        let transports: Vec<_> = routes.map(|r| transport(r, &names)).collect();
        let datapath = self.datapath_status(transports.clone(), &names);
        let (datapath, f) = last.datapath.or(datapath).await;
        let datapath = datapath.unwrap_or(DatapathStatus {
            tunnel: None,
            transports,
            vxlan: BTreeMap::new(),
        });
        let mut report = Report::of_settings(self.settings.in_force(), self.rejected.clone());
        report.uptime_seconds = self.started.elapsed().as_secs();
        report.scope = self.scope_report();
        report.warnings = [a, b, c, d, e, f].into_iter().flatten().collect();
        report
            .warnings
            .extend(self.all_warnings(&network, &services));
        report.tunnel = datapath.tunnel;
        report.transports = datapath.transports;
        let networks = network.segments.iter().flat_map(|s| &s.networks);
        let networks = networks.chain(services.services.iter().map(|s| &s.network));
        let networks = self.network_names.of(&networks.collect::<Vec<_>>()).await;
        report.segments = network
            .segments
            .iter()
            .map(|s| SegmentReport {
                vxlan: datapath.vxlan.get(&s.segment.tag()).copied(),
                ..segment(s, &names, &networks)
            })
            .collect();
        report.endpoints = endpoints(&network, self.mesh.id(), &networks);
        report.services = services
            .services
            .iter()
            .map(|s| service(s, &names, &networks))
            .collect();
        report.attachments = attachments.unwrap_or_default();
        report.capabilities = capabilities(&self.datapath);
        report.plugin_sockets = self.sockets.report();
        report.dns = self.dns.as_ref().map(Dns::status);
        if let (Some(dns), Some(mesh)) = (&mut report.dns, &mesh) {
            dns.tombstones = mesh.tombstones.get(&Kind::NAME.0).copied().unwrap_or(0);
        }
        report.proxy = self.proxy.status();
        report.mesh = mesh;
        report.ipam = ipam.flatten();
        report
    }

    async fn datapath_status(
        &self,
        mut transports: Vec<TransportReport>,
        names: &Nicknames,
    ) -> DatapathStatus {
        let tunnel = tunnel_status::tunnel(&self.datapath, names).await;
        tunnel_status::add_mtus(&mut transports, &self.datapath, tunnel.as_ref()).await;
        let vxlan = tunnel_status::vxlan(&self.datapath).await;
        DatapathStatus {
            tunnel,
            transports,
            vxlan,
        }
    }

    fn scope_report(&self) -> Option<ScopeReport> {
        let decided = (*self.scope.subscribe().borrow())?;
        let asked = self.settings.scope;
        let reason = match (asked, decided) {
            (ScopeSetting::Auto, Scope::Local) => "this engine was in no swarm at the start",
            (ScopeSetting::Auto, Scope::Global) => "this engine was in a swarm at the start",
            _ => "WEAVE_SCOPE says so",
        };
        Some(ScopeReport {
            asked,
            in_force: match decided {
                Scope::Local => ScopeSetting::Local,
                Scope::Global => ScopeSetting::Global,
            },
            reason: reason.to_owned(),
        })
    }

    fn all_warnings(&self, network: &NetworkStatus, services: &ServicesStatus) -> Vec<Warning> {
        let mut warnings = self.warnings.all();
        let plain = |text: &String| Warning::new(text, "");
        warnings.extend(self.scope.warning().iter().map(plain));
        warnings.extend(network.warnings.iter().map(plain));
        warnings.extend(services.problems.iter().map(plain));
        if let Some(reason) = &services.unsupported {
            warnings.push(Warning::new(
                format!("virtual addresses of swarm services do not work on this host: {reason}"),
                "enable it in the kernel, or create services with `--endpoint-mode dnsrr`",
            ));
        }
        if let Some(reason) = &services.no_flows {
            warnings.push(Warning::new(
                format!("datagrams to swarm services may go on to tasks that are gone: {reason}"),
                "enable it in the kernel, or have clients of UDP services take a new port when no \
                 answer comes",
            ));
        }
        warnings
    }
}

/// What the peers call themselves.
pub(super) struct Nicknames(BTreeMap<PeerId, String>);

impl Nicknames {
    fn of(mesh: Option<&MeshStatus>) -> Self {
        let peers = mesh.into_iter().flat_map(|mesh| &mesh.peers);
        Self(peers.map(|p| (p.id, p.nickname.clone())).collect())
    }

    pub(super) fn get(&self, peer: PeerId) -> String {
        let known = self.0.get(&peer).filter(|name| !name.is_empty());
        known.cloned().unwrap_or_else(|| peer.short())
    }
}

fn transport(route: &RouteStatus, names: &Nicknames) -> TransportReport {
    TransportReport {
        peer: route.peer,
        nickname: names.get(route.peer),
        transport: route.route.transport.clone(),
        address: route.address,
        mtu: None,
        reason: route.route.reason.clone(),
    }
}

fn segment(
    segment: &SegmentStatus,
    names: &Nicknames,
    networks: &BTreeMap<NetworkId, String>,
) -> SegmentReport {
    let scope = match segment.segment.is_swarm() {
        true => ScopeSetting::Global,
        false => ScopeSetting::Local,
    };
    SegmentReport {
        id: segment.segment.clone(),
        vni: Some(segment.vni),
        mtu: Some(segment.mtu),
        networks: segment
            .networks
            .iter()
            .map(|id| NetworkReport {
                id: id.clone(),
                name: networks.get(id).cloned(),
                subnets: segment.subnets.clone(),
                scope,
            })
            .collect(),
        peers: segment.peers.iter().map(|peer| names.get(*peer)).collect(),
        vxlan: None,
        problem: None,
    }
}

fn service(
    service: &ServiceStatus,
    names: &Nicknames,
    networks: &BTreeMap<NetworkId, String>,
) -> ServiceReport {
    ServiceReport {
        service: service.service.clone(),
        network: service.network.clone(),
        network_name: networks.get(&service.network).cloned(),
        vip: service.vip,
        tasks: service
            .backends
            .iter()
            .map(|task| TaskReport {
                address: task.address,
                host: names.get(task.peer),
                certainty: task.certainty,
                state: task.state,
                connections: task.connections,
            })
            .collect(),
    }
}

fn endpoints(
    network: &NetworkStatus,
    own: PeerId,
    networks: &BTreeMap<NetworkId, String>,
) -> Vec<EndpointReport> {
    let name = |id: &NetworkId| {
        let name = networks.get(id).cloned();
        name.unwrap_or_else(|| id.short().to_owned())
    };
    let report = |endpoint: &EndpointStatus| EndpointReport {
        endpoint: endpoint.endpoint.clone(),
        segment: endpoint.segment.clone(),
        network: endpoint.network.as_ref().map(name),
        container: endpoint.container.clone(),
        addresses: endpoint.addresses.clone(),
        mac: endpoint.mac,
        host: endpoint.host.clone(),
        local: endpoint.peer == own,
    };
    network.endpoints.iter().map(report).collect()
}

fn capabilities(datapath: &MaybeDatapath) -> Vec<Capability> {
    let missing = |name: &str, detail: String| Capability {
        name: name.to_owned(),
        available: false,
        detail,
    };
    match datapath {
        MaybeDatapath::Absent(reason) => vec![missing("a datapath", reason.clone())],
        MaybeDatapath::Present(datapath) => datapath
            .kernel()
            .limits()
            .iter()
            .map(|limit| match limit {
                DatapathError::Unsupported { what, reason } => missing(what, reason.clone()),
                other => missing("something", other.to_string()),
            })
            .collect(),
    }
}
