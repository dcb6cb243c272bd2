//! The report as Prometheus reads it (prometheus.io, "Exposition formats", text).
//!
//! Names that Weave Net had keep their meaning; the others are ours.

mod page;

use std::collections::BTreeMap;

use self::page::{Page, labels};
use super::Report;
use super::report::TunnelPeerReport;
use crate::mesh::PeerStatus;

/// All metrics of a report.
pub(super) fn page(report: &Report) -> String {
    let mut page = Page::default();
    let version = labels(&[("version", &report.version)]);
    page.gauge("weave_build_info", "The daemon's version.", [(version, 1)]);
    page.one(
        "weave_uptime_seconds",
        "How long the daemon has been running.",
        report.uptime_seconds,
    );
    page.one(
        "weave_problems",
        "Things that are not as they should be, as `weave status` shows them.",
        report.problems().len(),
    );
    page.one(
        "weave_rejected_settings",
        "Settings that are not obeyed.",
        report.rejected.len(),
    );
    mesh(&mut page, report);
    tunnel(&mut page, report);
    segments(&mut page, report);
    services(&mut page, report);
    ipam(&mut page, report);
    dns(&mut page, report);
    page.0
}

fn mesh(page: &mut Page, report: &Report) {
    let Some(mesh) = &report.mesh else {
        return;
    };
    let transport_of = |peer| {
        let transport = report.transports.iter().find(|t| Some(t.peer) == peer);
        transport.map_or("", |t| t.transport.as_str())
    };
    let cipher_of = |peer| {
        let mut peers = report.tunnel.iter().flat_map(|tunnel| &tunnel.peers);
        let found = peers.find(|found| Some(found.peer) == peer);
        found.and_then(|found| found.cipher.as_deref())
    };
    let mut connections: BTreeMap<String, u32> = BTreeMap::new();
    for connection in &mesh.connections {
        let kind = transport_of(connection.peer);
        let encryption = match kind {
            "tunnel" => cipher_of(connection.peer).unwrap_or("unknown"),
            _ => "",
        };
        let labels = labels(&[
            ("state", &connection.state),
            ("type", kind),
            ("encryption", &encryption.to_ascii_lowercase()),
        ]);
        *connections.entry(labels).or_default() += 1;
    }
    page.gauge(
        "weave_connections",
        "Connections to peers, and attempts.",
        connections,
    );
    let mut reachable = BTreeMap::from([("true", 0), ("false", 0)]);
    for peer in &mesh.peers {
        *reachable.entry(bool_text(peer.reachable)).or_default() += 1;
    }
    let reachable = reachable.into_iter();
    page.gauge(
        "weave_peers",
        "Known peers, this one among them.",
        reachable.map(|(text, count)| (labels(&[("reachable", text)]), count)),
    );
    let rtts = mesh.connections.iter().filter_map(|connection| {
        let name = connection.nickname.as_deref()?;
        let id = connection.peer?.short();
        let labels = labels(&[("peer", name), ("id", &id)]);
        Some((labels, connection.rtt?.as_secs_f64()))
    });
    page.gauge(
        "weave_peer_rtt_seconds",
        "The time that a peer takes to answer.",
        rtts.collect::<BTreeMap<_, _>>(),
    );
    let transports = report.transports.iter().map(|transport| {
        let id = transport.peer.short();
        let labels = labels(&[
            ("peer", &transport.nickname),
            ("id", &id),
            ("transport", &transport.transport),
        ]);
        (labels, 1)
    });
    page.gauge(
        "weave_peer_transport",
        "How frames reach each peer.",
        transports,
    );
    let of_peers = |value: fn(&PeerStatus) -> u64| {
        let sample = move |peer: &PeerStatus| {
            let id = peer.id.short();
            let labels = labels(&[("peer", &peer.nickname), ("id", &id)]);
            (labels, value(peer))
        };
        mesh.peers.iter().map(sample).collect::<Vec<_>>()
    };
    page.gauge(
        "weave_mesh_records",
        "Records that are known of each peer; alike on all peers once news has spread.",
        of_peers(|peer| peer.records as u64),
    );
    page.gauge(
        "weave_mesh_changes",
        "Changes that are known of each peer's records; alike on all peers once news has spread.",
        of_peers(|peer| peer.changes),
    );
    page.one(
        "weave_mesh_tombstones",
        "Records that are gone, of which others may still have to be told.",
        mesh.tombstones.values().sum::<usize>(),
    );
    let counters = &mesh.counters;
    page.count(
        "weave_mesh_sessions_total",
        "Sessions with peers that came about.",
        counters.sessions,
    );
    page.count(
        "weave_connection_terminations_total",
        "Sessions with peers that ended.",
        counters.terminations,
    );
    page.count(
        "weave_mesh_sent_bytes_total",
        "Bytes that the mesh's own connections sent.",
        counters.sent_bytes,
    );
    page.count(
        "weave_mesh_received_bytes_total",
        "Bytes that the mesh's own connections received.",
        counters.received_bytes,
    );
}

fn tunnel(page: &mut Page, report: &Report) {
    let Some(tunnel) = &report.tunnel else {
        return;
    };
    let of_peer = |peer: &TunnelPeerReport| {
        let id = peer.peer.short();
        labels(&[("peer", &peer.nickname), ("id", &id)])
    };
    let peers: Vec<_> = tunnel.peers.iter().map(|p| (of_peer(p), p)).collect();
    page.counters(
        &peers,
        [
            (
                "weave_tunnel_sent_bytes_total",
                "Bytes that the tunnel sent to each peer.",
                |peer| peer.sent.bytes,
            ),
            (
                "weave_tunnel_sent_packets_total",
                "Datagrams that the tunnel sent to each peer.",
                |peer| peer.sent.packets,
            ),
            (
                "weave_tunnel_received_bytes_total",
                "Bytes that the tunnel received from each peer.",
                |peer| peer.received.bytes,
            ),
            (
                "weave_tunnel_received_packets_total",
                "Datagrams that the tunnel received from each peer.",
                |peer| peer.received.packets,
            ),
            (
                "weave_tunnel_relayed_bytes_total",
                "Bytes that the tunnel passed on to each peer for others.",
                |peer| peer.relayed.bytes,
            ),
            (
                "weave_tunnel_relayed_packets_total",
                "Datagrams that the tunnel passed on to each peer for others.",
                |peer| peer.relayed.packets,
            ),
            (
                "weave_tunnel_handshakes_total",
                "How often keys were agreed on with each peer: the first time, and to replace them.",
                |peer| peer.handshakes,
            ),
            (
                "weave_tunnel_handshakes_retransmitted_total",
                "Messages of handshakes that were sent again to each peer.",
                |peer| peer.handshakes_retransmitted,
            ),
            (
                "weave_tunnel_handshakes_refused_total",
                "Messages of handshakes from each peer that were refused.",
                |peer| peer.handshakes_refused,
            ),
        ],
    );
    let drops = tunnel.peers.iter().flat_map(|peer| {
        peer.drops.iter().map(move |(cause, count)| {
            let cause = labels(&[("cause", cause)]);
            (format!("{},{cause}", of_peer(peer)), *count)
        })
    });
    let of_nobody = tunnel.drops.iter().map(|(cause, count)| {
        let labels = labels(&[("peer", ""), ("id", ""), ("cause", cause)]);
        (labels, *count)
    });
    page.counter(
        "weave_tunnel_drops_total",
        "Packets that the tunnel dropped, by peer where they belong to one, and by cause.",
        drops.chain(of_nobody),
    );
}

fn segments(page: &mut Page, report: &Report) {
    let mut endpoints: BTreeMap<String, u32> = BTreeMap::new();
    for endpoint in &report.endpoints {
        let place = if endpoint.local { "here" } else { "elsewhere" };
        let labels = labels(&[("segment", endpoint.segment.as_str()), ("place", place)]);
        *endpoints.entry(labels).or_default() += 1;
    }
    page.gauge(
        "weave_segment_endpoints",
        "Containers' endpoints on each segment, on this host and elsewhere.",
        endpoints,
    );
    page.one(
        "weave_flows",
        "Containers elsewhere to which frames go straight, without being flooded.",
        report.endpoints.iter().filter(|e| !e.local).count(),
    );
    let mtus = report.segments.iter().filter_map(|segment| {
        let labels = labels(&[("segment", segment.id.as_str())]);
        Some((labels, segment.mtu?))
    });
    page.gauge(
        "weave_segment_mtu_bytes",
        "The largest IP packet that containers of a segment may send.",
        mtus,
    );
    let of_vxlan = report.segments.iter().filter_map(|segment| {
        let labels = labels(&[("segment", segment.id.as_str())]);
        Some((labels, segment.vxlan.as_ref()?))
    });
    page.counters(
        &of_vxlan.collect::<Vec<_>>(),
        [
            (
                "weave_vxlan_sent_bytes_total",
                "Bytes of a segment's frames that VXLAN sent to other hosts.",
                |vxlan| vxlan.sent.bytes,
            ),
            (
                "weave_vxlan_sent_packets_total",
                "A segment's frames that VXLAN sent to other hosts.",
                |vxlan| vxlan.sent.packets,
            ),
            (
                "weave_vxlan_received_bytes_total",
                "Bytes of a segment's frames that came from other hosts through VXLAN.",
                |vxlan| vxlan.received.bytes,
            ),
            (
                "weave_vxlan_received_packets_total",
                "A segment's frames that came from other hosts through VXLAN.",
                |vxlan| vxlan.received.packets,
            ),
            (
                "weave_vxlan_drops_total",
                "A segment's frames that VXLAN could not send, or not use.",
                |vxlan| vxlan.dropped,
            ),
        ],
    );
    page.one(
        "weave_attachments",
        "Addresses that operators attached beside Docker.",
        report.attachments.len(),
    );
}

fn services(page: &mut Page, report: &Report) {
    let mut tasks: BTreeMap<String, usize> = BTreeMap::new();
    let mut connections: BTreeMap<String, usize> = BTreeMap::new();
    for service in &report.services {
        let (name, network) = (
            ("service", &*service.service),
            ("network", service.network.short()),
        );
        let ready = service.tasks.iter().filter(|task| task.is_ready()).count();
        for (is_ready, count) in [(true, ready), (false, service.tasks.len() - ready)] {
            tasks.insert(
                labels(&[name, network, ("ready", bool_text(is_ready))]),
                count,
            );
        }
        let open = service.tasks.iter().map(|task| task.connections).sum();
        connections.insert(labels(&[name, network]), open);
    }
    page.gauge(
        "weave_service_tasks",
        "Running tasks behind each virtual address of a swarm service.",
        tasks,
    );
    page.gauge(
        "weave_service_connections",
        "Connections of this host's containers through each virtual address.",
        connections,
    );
}

fn ipam(page: &mut Page, report: &Report) {
    let Some(ipam) = &report.ipam else {
        return;
    };
    let shares = || {
        ipam.spaces.iter().flat_map(|space| {
            let peers = space.peers.iter();
            peers.map(move |peer| (space.subnet, peer))
        })
    };
    let main = ipam
        .spaces
        .iter()
        .filter(|space| space.subnet == ipam.range);
    let unreachable: u128 = main.map(|space| space.unreachable).sum();
    let all = size(ipam.range);
    let active: u64 = shares().map(|(_, peer)| peer.active).sum();
    page.one("weave_ips", "Addresses in use on all peers.", active);
    page.one("weave_max_ips", "Addresses that there are.", all);
    page.one(
        "weave_ipam_unreachable_count",
        "Addresses that belong to peers which cannot be reached.",
        unreachable,
    );
    page.one(
        "weave_ipam_unreachable_percentage",
        "The same as a part of all addresses, in percent.",
        unreachable as f64 * 100.0 / all as f64,
    );
    let waiting = |kind: &str| ipam.pending.get(kind).copied().unwrap_or(0);
    page.one(
        "weave_ipam_pending_allocates",
        "Requests for an address that wait.",
        waiting("allocate"),
    );
    page.one(
        "weave_ipam_pending_claims",
        "Claims of an address that wait.",
        waiting("claim"),
    );
    page.gauge(
        "weave_ipam_state",
        "The state of address allocation.",
        [(labels(&[("state", &ipam.state)]), 1)],
    );
    let owned = shares().map(|(subnet, peer)| {
        let (subnet, id) = (subnet.to_string(), peer.peer.short());
        let labels = labels(&[("subnet", &subnet), ("peer", &peer.nickname), ("id", &id)]);
        (labels, peer.addresses)
    });
    page.gauge(
        "weave_ipam_addresses",
        "Addresses that each peer owns.",
        owned,
    );
}

fn dns(page: &mut Page, report: &Report) {
    let Some(dns) = &report.dns else {
        return;
    };
    page.one(
        "weave_dns_entries",
        "Addresses of names that are answered.",
        dns.entries.iter().filter(|entry| entry.reachable).count(),
    );
    page.one(
        "weave_dns_unreachable_entries",
        "Addresses of names that are not answered, as their hosts cannot be reached.",
        dns.entries.iter().filter(|entry| !entry.reachable).count(),
    );
    page.one(
        "weave_dns_tombstones",
        "Records of names that are gone, of which others may still have to be told.",
        dns.tombstones,
    );
    page.one(
        "weave_dns_serving",
        "Whether names are served.",
        u8::from(dns.listening.is_ok()),
    );
    let counters = &dns.counters;
    let queries = counters.by_type.iter().flat_map(|(asked, outcomes)| {
        outcomes.named().map(|(outcome, count)| {
            let labels = labels(&[("type", asked), ("outcome", outcome)]);
            (labels, count)
        })
    });
    page.counter(
        "weave_dns_queries_total",
        "Queries by what they asked for and what came of them.",
        queries,
    );
    page.histogram(
        "weave_dns_answer_seconds",
        "How long answers took that are this server's own.",
        &counters.answer_times,
    );
    let failures = counters.upstream_failures.iter().map(|(server, count)| {
        let labels = labels(&[("server", &server.to_string())]);
        (labels, *count)
    });
    page.counter(
        "weave_dns_upstream_failures_total",
        "How often each of the host's own servers was asked and did not answer.",
        failures,
    );
}

fn size(subnet: ipnet::IpNet) -> u128 {
    1_u128
        .checked_shl(u32::from(subnet.max_prefix_len() - subnet.prefix_len()))
        .unwrap_or(u128::MAX)
}

const fn bool_text(value: bool) -> &'static str {
    if value { "true" } else { "false" }
}

#[cfg(test)]
mod tests {
    use super::super::report::examples;
    use super::*;

    const HISTOGRAM: &str = "weave_dns_answer_seconds";

    #[test]
    fn a_report_has_weave_net_s_metrics_and_ours() {
        let page = page(&examples::report());
        for line in [
            "weave_build_info{version=\"3.0.0\"} 1",
            "weave_connections{state=\"established\",type=\"vxlan\",encryption=\"\"} 1",
            "weave_connections{state=\"retrying\",type=\"\",encryption=\"\"} 1",
            "weave_ips 3",
            "weave_flows 0",
            "weave_max_ips 1048576",
            "weave_ipam_unreachable_percentage 50",
            "weave_peers{reachable=\"true\"} 2",
            "weave_service_connections{service=\"shop\",network=\"ob5a0kd8tmw1\"} 7",
            "weave_service_tasks{service=\"shop\",network=\"ob5a0kd8tmw1\",ready=\"true\"} 1",
            "weave_service_tasks{service=\"shop\",network=\"ob5a0kd8tmw1\",ready=\"false\"} 1",
            "weave_segment_endpoints{segment=\"name:web\",place=\"here\"} 1",
            "weave_vxlan_sent_bytes_total{segment=\"name:web\"} 3000",
            "weave_vxlan_drops_total{segment=\"name:web\"} 0",
            "weave_connection_terminations_total 3",
            "weave_mesh_changes{peer=\"node2\",id=\"0202020202\"} 12",
            "weave_mesh_received_bytes_total 2000",
            "weave_tunnel_sent_bytes_total{peer=\"node2\",id=\"0202020202\"} 1500000",
            "weave_tunnel_handshakes_retransmitted_total{peer=\"node2\",id=\"0202020202\"} 4",
            "weave_tunnel_drops_total{peer=\"node2\",id=\"0202020202\",cause=\"replayed\"} 2",
            "weave_tunnel_drops_total{peer=\"\",id=\"\",cause=\"unknown_session\"} 1",
            "weave_dns_entries 1",
            "weave_dns_tombstones 5",
            "weave_dns_queries_total{type=\"A\",outcome=\"found\"} 3",
            "weave_dns_queries_total{type=\"other\",outcome=\"forwarded\"} 2",
            "weave_dns_answer_seconds_bucket{le=\"0.000005\"} 1",
            "weave_dns_answer_seconds_bucket{le=\"+Inf\"} 4",
            "weave_dns_answer_seconds_count 4",
            "weave_dns_upstream_failures_total{server=\"192.0.2.53:53\"} 1",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}: {page}");
        }
        assert!(
            page.contains("\nweave_peer_rtt_seconds{peer=\"node2\""),
            "{page}"
        );
        assert!(!page.contains("hunter2"));
        // Each metric has its type once, before its samples.
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let name = name.strip_prefix(HISTOGRAM).map_or(name, |_| HISTOGRAM);
            let declared = format!("# TYPE {name} ");
            assert_eq!(page.matches(&declared).count(), 1, "{line}");
        }
    }

    #[test]
    fn dashboard_and_alerts_ask_for_what_there_is() {
        let page = page(&examples::report());
        for document in [
            include_str!("../../docs/grafana.json"),
            include_str!("../../docs/alerts.yml"),
        ] {
            let words = document.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let metrics: Vec<_> = words.filter(|word| word.starts_with("weave_")).collect();
            assert!(metrics.len() > 5);
            for metric in metrics {
                let declared = format!("# TYPE {metric} ");
                let of_histogram = metric.starts_with(HISTOGRAM);
                assert!(of_histogram || page.contains(&declared), "{metric}");
            }
        }
    }

    #[test]
    fn labels_are_escaped() {
        let escaped = labels(&[("a", "x\"y\\z\n")]);
        assert_eq!(escaped, r#"a="x\"y\\z\n""#);
    }
}
