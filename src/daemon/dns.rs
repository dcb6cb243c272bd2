//! weaveDNS among the daemon's parts.

use std::time::Duration;

use tokio::task::JoinSet;

use super::{Mode, publisher};
use crate::config::{Paths, Settings};
use crate::dns::{Dns, DnsConfig};
use crate::docker::engine::Engine;
use crate::docker::names;
use crate::mesh::Mesh;
use crate::store::Store;
use crate::types::DnsName;

/// How often the Engine is asked whether containers that do not run are gone for good.
const FORGET: Duration = Duration::from_secs(30);

/// Whether names are served: where Docker's own DNS is at hand, only when asked for.
pub(super) fn wanted(settings: &Settings, mode: Mode) -> bool {
    let by_default = mode == Mode::Standalone;
    !settings.no_dns.0 && settings.dns.get().unwrap_or(by_default)
}

/// Starts serving names.
pub(super) fn start(
    settings: &Settings,
    paths: &Paths,
    store: &Store,
    mesh: &Mesh,
    tasks: &mut JoinSet<()>,
) -> Dns {
    let config = DnsConfig {
        id: mesh.id(),
        domain: settings.dns_domain.get().clone(),
        ttl: settings.dns_ttl.get(),
        listen: settings.dns_listen_address.map(|address| address.get()),
        run_dir: paths.run(),
    };
    let dns = Dns::start(&config, store.clone(), publisher(mesh));
    tasks.spawn(dns.clone().follow(mesh.subscribe()));
    tasks.spawn(dns.clone().serve(config));
    dns
}

/// Tells weaveDNS, for ever, what the containers of this host are called.
pub(super) async fn feed_names(dns: Dns, domain: DnsName, sources: names::Sources) {
    let told = |containers| dns.containers(containers);
    names::watch(sources, domain, told).await;
}

/// Ends, for ever, what was added for containers that the Engine does not know any more.
pub(super) async fn forget_containers(dns: Dns, engine: Engine) {
    loop {
        tokio::time::sleep(FORGET).await;
        for id in dns.absent() {
            let gone = engine.container(&id).await;
            if gone.is_err_and(|error| error.is_not_found())
                && let Err(error) = dns.forget_container(&id)
            {
                tracing::warn!(%error, "names of a container that is gone are kept");
            }
        }
    }
}
