//! What the daemon says of the transports: what they carried, and the packets that fit through each.

use std::collections::BTreeMap;

use tokio::task::spawn_blocking;

use super::report::Nicknames;
use crate::control::report::{
    TrafficReport, TransportReport, TunnelPeerReport, TunnelReport, VxlanReport,
};
use crate::datapath::tunnel::cipher::Cipher;
use crate::datapath::tunnel::stats::{DropReason, TrafficSnapshot};
use crate::datapath::tunnel::{PathState, PeerStatus, TunnelStatus};
use crate::datapath::{HybridDatapath, MaybeDatapath, mtu};
use crate::linux::link::LinkTraffic;

/// The tunnel, asked; `None` where there is none.
pub(super) async fn tunnel(datapath: &MaybeDatapath, names: &Nicknames) -> Option<TunnelReport> {
    let datapath = datapath.present()?.clone();
    let status = spawn_blocking(move || datapath.tunnel_status()).await;
    match status.ok()?? {
        Ok(status) => Some(report(status, names)),
        Err(error) => Some(TunnelReport {
            problem: Some(error.to_string()),
            ..TunnelReport::default()
        }),
    }
}

/// What VXLAN carried of each segment, by tag; nothing where that cannot be counted.
pub(super) async fn vxlan(datapath: &MaybeDatapath) -> BTreeMap<u32, VxlanReport> {
    let Some(datapath) = datapath.present() else {
        return BTreeMap::new();
    };
    let traffic = datapath.kernel().vxlan_traffic().await.unwrap_or_default();
    let report = |traffic: LinkTraffic| VxlanReport {
        sent: TrafficReport {
            packets: traffic.sent_packets,
            bytes: traffic.sent_bytes,
        },
        received: TrafficReport {
            packets: traffic.received_packets,
            bytes: traffic.received_bytes,
        },
        dropped: traffic.dropped,
    };
    let of_segments = traffic.into_iter();
    of_segments
        .map(|(tag, traffic)| (tag, report(traffic)))
        .collect()
}

/// Completes what is known of the transports by the largest packets that fit.
pub(super) async fn add_mtus(
    transports: &mut [TransportReport],
    datapath: &MaybeDatapath,
    tunnel: Option<&TunnelReport>,
) {
    let Some(datapath) = datapath.present() else {
        return;
    };
    for transport in transports {
        transport.mtu = match transport.transport.as_str() {
            "vxlan" => through_vxlan(datapath, transport).await,
            "tunnel" => {
                let mut peers = tunnel.iter().flat_map(|tunnel| &tunnel.peers);
                let peer = peers.find(|peer| peer.peer == transport.peer);
                peer.and_then(|peer| peer.mtu)
            }
            _ => None,
        };
    }
}

async fn through_vxlan(datapath: &HybridDatapath, transport: &TransportReport) -> Option<u16> {
    let to = transport.address?;
    let underlay = datapath.kernel().underlay_mtu(Some(to)).await.ok()??;
    Some(mtu::through_vxlan(underlay, to))
}

fn report(status: TunnelStatus, names: &Nicknames) -> TunnelReport {
    let taps = status.segments.iter().map(|segment| segment.offloads);
    let taps = taps.reduce(|one, two| crate::linux::tap::TapOffloads {
        checksum: one.checksum && two.checksum,
        tcp: one.tcp && two.tcp,
        udp: one.udp && two.udp,
    });
    let offloads = [
        ("udp_segment", status.segmentation),
        ("udp_gro", status.aggregation),
        ("tap_checksum", taps.is_some_and(|taps| taps.checksum)),
        ("tap_tcp", taps.is_some_and(|taps| taps.tcp)),
        ("tap_udp", taps.is_some_and(|taps| taps.udp)),
    ];
    let in_use = offloads.into_iter().filter(|(_, in_use)| *in_use);
    let dead = status.dead.join(", ");
    TunnelReport {
        listening: status.listening,
        offloads: in_use.map(|(name, _)| name.to_owned()).collect(),
        peers: status.peers.iter().map(|p| peer(p, names)).collect(),
        drops: drops(&status.drops),
        problem: (!dead.is_empty()).then(|| format!("threads ended: {dead}")),
    }
}

fn peer(status: &PeerStatus, names: &Nicknames) -> TunnelPeerReport {
    let (path, address, via) = match status.path {
        PathState::Down => ("down", status.endpoint, None),
        PathState::Direct { to, .. } => ("direct", Some(to), None),
        PathState::Relayed { via, .. } => ("relayed", None, Some(names.get(via))),
    };
    let cipher = |cipher| match cipher {
        Cipher::Aes256Gcm => "AES-256-GCM".to_owned(),
        Cipher::ChaCha20Poly1305 => "ChaCha20-Poly1305".to_owned(),
    };
    TunnelPeerReport {
        peer: status.peer,
        nickname: names.get(status.peer),
        path: path.to_owned(),
        address,
        via,
        mtu: status.path.mtu(),
        cipher: status.cipher.map(cipher),
        key_age_seconds: status.key_age.map(|age| age.as_secs()),
        handshakes: status.sessions.established,
        handshakes_retransmitted: status.sessions.retransmitted,
        handshakes_refused: status.sessions.refused,
        sent: traffic(status.sent),
        received: traffic(status.received),
        relayed: traffic(status.relayed),
        drops: drops(&status.drops),
    }
}

fn traffic(snapshot: TrafficSnapshot) -> TrafficReport {
    TrafficReport {
        packets: snapshot.packets,
        bytes: snapshot.bytes,
    }
}

fn drops(drops: &[(DropReason, u64)]) -> BTreeMap<String, u64> {
    let named = drops
        .iter()
        .map(|(reason, count)| (reason.label().to_owned(), *count));
    named.collect()
}
