//! What carries news from one part to another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::datapath::MaybeDatapath;
use crate::docker::containers::Running;
use crate::docker::names::AttachedEndpoints;
use crate::docker::services::Known;
use crate::docker::tasks::tasks;
use crate::mesh::{Mesh, MeshEvent};
use crate::network::Networks;
use crate::network::services::Services;

/// How often the kernel is asked for the MTU of the ways to the peers: links change, and nobody
/// tells.
const MTU_INTERVAL: Duration = Duration::from_secs(10);

/// How long news of peers is collected before the kernel is asked about them.
const MTU_SETTLE: Duration = Duration::from_millis(200);

/// Tells the mesh, for ever, where a source says that peers are.
pub(super) async fn feed_targets(
    source: &'static str,
    mut addresses: watch::Receiver<BTreeSet<IpAddr>>,
    mesh: Mesh,
) {
    loop {
        let texts = addresses.borrow_and_update().iter().map(target).collect();
        mesh.set_targets(source, texts);
        if addresses.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the networks, for ever, which containers run, and what was attached beside Docker.
pub(super) async fn name_endpoints(
    mut running: watch::Receiver<Option<Running>>,
    mut attached: watch::Receiver<AttachedEndpoints>,
    networks: Networks,
) {
    loop {
        let changed = tokio::select! {
            changed = running.changed() => changed,
            changed = attached.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
        let names = running.borrow_and_update().as_ref().map(Running::names);
        let of_attached = attached.borrow_and_update().clone();
        if let Some(mut names) = names {
            names.extend(of_attached.into_iter().map(|(id, a)| (id, a.name)));
            networks.containers(names).await;
        }
    }
}

/// Tells the services, for ever, which of their tasks run here.
pub(super) async fn feed_tasks(mut running: watch::Receiver<Option<Running>>, services: Services) {
    while running.changed().await.is_ok() {
        if let Some(running) = running.borrow_and_update().as_ref() {
            services.tasks(tasks(running));
        }
    }
}

/// Tells the services, for ever, what a manager knows of them.
pub(super) async fn feed_services(mut known: watch::Receiver<Known>, services: Services) {
    while known.changed().await.is_ok() {
        services.services(known.borrow_and_update().clone());
    }
}

/// Tells the networks, for ever, how large packets to the peers may be.
pub(super) async fn watch_mtu(
    mut events: mpsc::UnboundedReceiver<MeshEvent>,
    datapath: Arc<MaybeDatapath>,
    networks: Networks,
) {
    let mut peers = BTreeMap::new();
    loop {
        let deadline = tokio::time::sleep(MTU_INTERVAL);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                () = &mut deadline => break,
                event = events.recv() => match event {
                    Some(event) => if note_address(&mut peers, event) {
                        let soon = tokio::time::Instant::now() + MTU_SETTLE;
                        deadline.as_mut().reset(soon);
                    },
                    None => return,
                }
            }
        }
        let addresses: BTreeSet<IpAddr> = peers.values().copied().collect();
        if let Some(mtu) = underlay_mtu(&datapath, addresses).await {
            networks.underlay_mtu(mtu).await;
        }
    }
}

/// Returns whether a peer is at an address where it was not before.
fn note_address(peers: &mut BTreeMap<crate::types::PeerId, IpAddr>, event: MeshEvent) -> bool {
    match event {
        MeshEvent::Reachable {
            peer,
            address: Some(address),
        } => peers.insert(peer, address) != Some(address),
        MeshEvent::Forgotten { peer } => peers.remove(&peer).is_some(),
        _ => false,
    }
}

/// The largest packet, in bytes, that fits all ways to these addresses; that of the default route
/// when there are none. `None` where the kernel does not tell.
pub(super) async fn underlay_mtu(
    datapath: &MaybeDatapath,
    peers: impl IntoIterator<Item = IpAddr>,
) -> Option<u16> {
    let kernel = datapath.present()?.kernel();
    let mut smallest: Option<u32> = None;
    for peer in peers {
        // A peer without a route to it has no say.
        if let Ok(Some(mtu)) = kernel.underlay_mtu(Some(peer)).await {
            smallest = Some(smallest.map_or(mtu, |smallest| smallest.min(mtu)));
        }
    }
    if smallest.is_none() {
        smallest = kernel.underlay_mtu(None).await.ok().flatten();
    }
    smallest.map(|mtu| u16::try_from(mtu).unwrap_or(u16::MAX))
}

fn target(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
