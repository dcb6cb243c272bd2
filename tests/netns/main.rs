//! The kernel's datapath between hosts that are namespaces. Needs root and iproute2, not Docker.

mod lab;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lab::{A_WHILE, Container, Lab, SOON, VXLAN_PORT, count, forbid_fragments, ip, links, soon};
use weave_net::datapath::{
    Datapath, DatapathError, Forwarding, HybridDatapath, PortSpec, SegmentSpec, Via, mtu,
    port_name, tap_name,
};
use weave_net::linux::netns::NetNs;
use weave_net::linux::sysctl;
use weave_net::types::{Mac, PeerId, SegmentId, Vni};

const BROADCAST: Mac = Mac::new([0xff; 6]);

fn segment(name: &str, vni: u32) -> SegmentSpec {
    SegmentSpec {
        id: SegmentId::of_name(name),
        vni: Vni::try_from(vni).unwrap(),
        mtu: 1450,
        vxlan: true,
        tunnel: false,
    }
}

#[tokio::test]
async fn containers_of_a_segment_talk_here_and_there() {
    let (lab, web) = (Lab::new(2), segment("web", 100));
    lab.ensure(&web).await;
    let one = lab.run(0, &web, [10, 9, 0, 1]).await;
    let two = lab.run(0, &web, [10, 9, 0, 2]).await;
    let three = lab.run(1, &web, [10, 9, 0, 3]).await;
    lab.connect(&web.id, &[&one, &two, &three]).await;
    // Addresses are asked for by ARP: broadcasts go across as well.
    assert!(one.reaches(&two));
    assert!(one.reaches(&three));
    assert!(three.reaches(&two));
    let carried = lab.hosts[0].datapath.vxlan_traffic().await.unwrap();
    let carried = carried[&web.id.tag()];
    // The question for the address, and at least one ping of 64 bytes, either way.
    assert!(carried.sent_packets >= 2 && carried.received_packets >= 2);
    assert!(carried.sent_bytes >= 98 && carried.received_bytes >= 98);
    assert_eq!(carried.dropped, 0);

    let (here, there) = (one.udp(), three.udp());
    here.set_broadcast(true).unwrap();
    here.send_to(b"all", (Ipv4Addr::new(10, 9, 0, 255), 7))
        .unwrap();
    let mut buffer = [0; 16];
    assert_eq!(there.recv_from(&mut buffer).unwrap().0, 3);

    let group = Ipv4Addr::new(239, 1, 2, 3);
    there.join_multicast_v4(&group, &three.ip).unwrap();
    let sender = socket2::SockRef::from(&here);
    sender.set_multicast_if_v4(&one.ip).unwrap();
    here.send_to(b"group", (group, 7)).unwrap();
    assert_eq!(there.recv_from(&mut buffer).unwrap().0, 5);

    let tap = three.tap();
    one.send_frame(one.mac, three.mac, "not IP at all");
    assert_eq!(count(&tap, "not IP at all", 1, SOON), 1);
}

#[tokio::test]
async fn the_underlay_may_be_ipv6() {
    let (lab, web) = (Lab::with_underlay(2, 1500, true), segment("web", 101));
    lab.ensure(&web).await;
    let one = lab.run(0, &web, [10, 9, 0, 1]).await;
    let two = lab.run(1, &web, [10, 9, 0, 2]).await;
    lab.connect(&web.id, &[&one, &two]).await;
    assert!(one.reaches(&two));
}

#[tokio::test]
async fn what_came_from_one_host_never_goes_to_a_third() {
    let (lab, web) = (Lab::new(3), segment("web", 115));
    for (number, host) in (1..).zip(&lab.hosts) {
        let address = format!("addr add 2001:db8::{number}/64 nodad dev eth0");
        ip(&host.namespace, &address);
    }
    lab.ensure(&web).await;
    let one = lab.run(0, &web, [10, 9, 0, 1]).await;
    let two = lab.run(1, &web, [10, 9, 0, 2]).await;
    let three = lab.run(2, &web, [10, 9, 0, 3]).await;
    // The first host reaches the second by IPv4 and the third by IPv6; those two are strangers.
    let v4 = |number: usize| Via::Vxlan(lab.hosts[number].address);
    let v6 = |number: u16| Via::Vxlan(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number).into());
    let ways = [
        (0, vec![(two.mac, v4(1)), (three.mac, v6(3))]),
        (1, vec![(one.mac, v4(0))]),
        (2, vec![(one.mac, v6(1))]),
    ];
    for (host, ways) in ways {
        let forwarding = Forwarding {
            flood: ways.iter().map(|(_, via)| *via).collect(),
            unicast: ways.into_iter().collect(),
        };
        let datapath = &lab.hosts[host].datapath;
        datapath.set_forwarding(&web.id, &forwarding).await.unwrap();
    }
    assert!(one.reaches(&two));
    assert!(one.reaches(&three));
    let (near, far) = (one.tap(), three.tap());
    two.send_frame(two.mac, BROADCAST, "to all");
    two.send_frame(two.mac, three.mac, "to all");
    assert_eq!(count(&near, "to all", 1, SOON), 1);
    assert_eq!(count(&far, "to all", 1, A_WHILE), 0);
}

#[tokio::test]
async fn segments_with_one_subnet_are_apart_even_for_forged_frames() {
    let lab = Lab::new(2);
    let (red, blue) = (segment("red", 102), segment("blue", 103));
    lab.ensure(&red).await;
    lab.ensure(&blue).await;
    let red_here = lab.run(0, &red, [10, 9, 0, 1]).await;
    let red_there = lab.run(1, &red, [10, 9, 0, 2]).await;
    let blue_here = lab.run(0, &blue, [10, 9, 0, 1]).await;
    let blue_there = lab.run(1, &blue, [10, 9, 0, 2]).await;
    let blue_else = lab.run(1, &blue, [10, 9, 0, 3]).await;
    let all = [&red_here, &red_there, &blue_here, &blue_there, &blue_else];
    lab.connect(&red.id, &all).await;
    lab.connect(&blue.id, &all).await;
    assert!(red_here.reaches(&red_there));
    assert!(blue_here.reaches(&blue_there));

    let taps = [blue_here.tap(), blue_there.tap(), blue_else.tap()];
    let proof = red_there.tap();
    for to in [BROADCAST, red_there.mac, blue_else.mac] {
        red_here.send_frame(red_here.mac, to, "forged");
        red_here.send_frame(blue_else.mac, to, "forged");
    }
    assert!(count(&proof, "forged", 2, SOON) >= 2);
    for tap in &taps {
        assert_eq!(count(tap, "forged", 1, A_WHILE), 0);
    }
}

#[tokio::test]
async fn the_largest_packet_fits_whatever_the_underlay() {
    for underlay in [1400, 1500, 9000] {
        let lab = Lab::with_underlay(2, underlay, false);
        let peer = lab.hosts[1].address;
        let found = lab.hosts[0].datapath.underlay_mtu(Some(peer)).await;
        assert_eq!(found.unwrap(), Some(underlay.into()));
        let web = SegmentSpec {
            mtu: mtu::through_vxlan(underlay.into(), peer),
            ..segment("web", 104)
        };
        lab.ensure(&web).await;
        let one = lab.run(0, &web, [10, 9, 0, 1]).await;
        let two = lab.run(1, &web, [10, 9, 0, 2]).await;
        lab.connect(&web.id, &[&one, &two]).await;
        let (here, there) = (one.udp(), two.udp());
        forbid_fragments(&here);
        // 28 bytes are IP's and UDP's headers.
        let payload = vec![1; usize::from(web.mtu) - 28];
        here.send_to(&payload, (two.ip, 7)).unwrap();
        let mut buffer = vec![0; 65_536];
        let (length, _) = there.recv_from(&mut buffer).unwrap();
        assert_eq!(length, payload.len());
        assert!(
            here.send_to(&[payload, vec![1]].concat(), (two.ip, 7))
                .is_err()
        );
    }
}

#[tokio::test]
async fn senders_are_told_when_the_path_is_narrower_than_they_think() {
    let (lab, web) = (Lab::new(2), segment("web", 105));
    lab.ensure(&web).await;
    let one = lab.run(0, &web, [10, 9, 0, 1]).await;
    let two = lab.run(1, &web, [10, 9, 0, 2]).await;
    lab.connect(&web.id, &[&one, &two]).await;
    assert!(one.reaches(&two));
    ip(
        &lab.hosts[0].namespace,
        &format!("route add {} dev eth0 mtu 1300", lab.hosts[1].address),
    );
    let (here, there) = (one.udp(), two.udp());
    forbid_fragments(&here);
    let too_large = [1; 1450 - 28];
    here.connect((two.ip, 7)).unwrap();
    here.send(&too_large).unwrap();
    // The complaint arrives as the socket's error.
    soon("somebody complains", || here.send(&too_large).err());
    // The first refusal may have come from the route, the complaint still being there.
    here.take_error().unwrap();
    here.send(&[1; 1300 - 50 - 28]).unwrap();
    let mut buffer = [0; 2048];
    assert_eq!(there.recv_from(&mut buffer).unwrap().0, 1300 - 50 - 28);
}

#[tokio::test]
async fn a_moved_container_is_reached_at_once() {
    let (lab, web) = (Lab::new(3), segment("web", 106));
    lab.ensure(&web).await;
    let client = lab.run(0, &web, [10, 9, 0, 1]).await;
    let server = lab.run(1, &web, [10, 9, 0, 2]).await;
    lab.connect(&web.id, &[&client, &server]).await;
    assert!(client.reaches(&server));

    // To another host with its MAC, and then to the client's own, and back.
    let mut server = server;
    for host in [2, 0, 1] {
        lab.stop(server).await;
        server = lab.run(host, &web, [10, 9, 0, 2]).await;
        lab.connect(&web.id, &[&client, &server]).await;
        assert!(client.reaches(&server), "on host {host}");
    }

    // The same address with another MAC: the client's ARP cache is wrong until it is told.
    lab.stop(server).await;
    let mac = Mac::new([2, 9, 9, 9, 9, 9]);
    let server = lab.run_with_mac(2, &web, [10, 9, 0, 2], mac).await;
    lab.connect(&web.id, &[&client, &server]).await;
    assert!(!client.reaches(&server), "the cache was not warm");
    let datapath = &lab.hosts[2].datapath;
    let address = [IpAddr::from(server.ip)];
    datapath.announce(&web.id, mac, &address).await.unwrap();
    wait_for_neighbour(&client, "10.9.0.2", mac);
    assert!(client.reaches(&server));

    // The same for IPv6.
    let neighbour = "neigh add fd00::2 lladdr 02:08:08:08:08:08 nud stale dev eth0";
    ip(&client.namespace, neighbour);
    let address = ["fd00::2".parse().unwrap()];
    datapath.announce(&web.id, mac, &address).await.unwrap();
    wait_for_neighbour(&client, "fd00::2", mac);
}

/// Frames are on their way for some microseconds after they were sent.
fn wait_for_neighbour(container: &Container, address: &str, mac: Mac) {
    soon(&format!("{address} is at {mac}"), || {
        let known = ip(&container.namespace, &format!("neigh show {address}"));
        known.contains(&mac.to_string()).then_some(())
    });
}

#[tokio::test]
async fn what_is_known_is_never_flooded() {
    let (lab, web) = (Lab::new(3), segment("web", 107));
    lab.ensure(&web).await;
    let one = lab.run(0, &web, [10, 9, 0, 1]).await;
    let two = lab.run(1, &web, [10, 9, 0, 2]).await;
    let three = lab.run(2, &web, [10, 9, 0, 3]).await;
    lab.connect(&web.id, &[&one, &two, &three]).await;
    // Nobody has told of this one yet.
    let beside = lab.run(0, &web, [10, 9, 0, 4]).await;

    // None of them has said a word yet.
    let (underlay, bystander, receiver) = (lab.hosts[2].tap(), beside.tap(), two.tap());
    for _ in 0..20 {
        one.send_frame(one.mac, two.mac, "for two");
    }
    assert_eq!(count(&receiver, "for two", 20, SOON), 20);
    assert_eq!(count(&underlay, "for two", 1, A_WHILE), 0);
    assert_eq!(count(&bystander, "for two", 1, A_WHILE), 0);

    let local = beside.tap();
    one.send_frame(one.mac, beside.mac, "for the one beside");
    assert_eq!(count(&local, "for the one beside", 1, SOON), 1);
    assert_eq!(count(&underlay, "for the one beside", 1, A_WHILE), 0);

    one.send_frame(one.mac, Mac::new([2, 1, 1, 1, 1, 1]), "for nobody");
    assert_eq!(count(&underlay, "for nobody", 1, SOON), 1);
    // What came from one host is not sent on to another.
    assert_eq!(count(&underlay, "for nobody", 1, A_WHILE), 0);
}

#[tokio::test]
async fn a_restart_loses_no_packet_and_corrects_what_changed() {
    let (mut lab, web) = (Lab::new(2), segment("web", 108));
    lab.ensure(&web).await;
    let one = lab.run(0, &web, [10, 9, 0, 1]).await;
    let two = lab.run(1, &web, [10, 9, 0, 2]).await;
    lab.connect(&web.id, &[&one, &two]).await;
    assert!(one.reaches(&two));

    let stop = AtomicBool::new(false);
    let (here, there) = (one.udp(), two.udp());
    here.connect(SocketAddr::from((two.ip, 7))).unwrap();
    let lost = thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let mut buffer = [0; 16];
            while let Ok((length, from)) = there.recv_from(&mut buffer) {
                if length == 0 {
                    return;
                }
                there.send_to(&buffer[..length], from).unwrap();
            }
        });
        let pinger = scope.spawn(|| {
            here.set_read_timeout(Some(Duration::from_millis(200)))
                .unwrap();
            let (mut sent, mut lost) = (0_u32, 0);
            let mut buffer = [0; 16];
            while !stop.load(Ordering::Relaxed) {
                here.send(&sent.to_be_bytes()).unwrap();
                lost += u32::from(here.recv(&mut buffer).is_err());
                sent += 1;
                thread::sleep(Duration::from_millis(1));
            }
            here.send(&[]).unwrap();
            (sent, lost)
        });
        // Not on this test's own runtime, which is blocked here.
        let restarted = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                for _ in 0..3 {
                    for host in &mut lab.hosts {
                        host.restart();
                        let found = host.datapath.inventory().await.unwrap();
                        assert_eq!(found.segments, [web.id.tag()].into());
                        assert_eq!(found.ports.len(), 1);
                        host.datapath.ensure_segment(&web).await.unwrap();
                    }
                    lab.connect(&web.id, &[&one, &two]).await;
                }
            });
        });
        restarted.join().unwrap();
        stop.store(true, Ordering::Relaxed);
        let result = pinger.join().unwrap();
        echo.join().unwrap();
        result
    });
    assert!(lost.0 > 5, "only {} packets were sent", lost.0);
    assert_eq!(lost.1, 0);

    // Two is gone while the daemon was away: what pointed to it goes.
    lab.hosts[0].restart();
    lab.hosts[0].datapath.ensure_segment(&web).await.unwrap();
    lab.connect(&web.id, &[&one]).await;
    let tap = two.tap();
    one.send_frame(one.mac, two.mac, "for the departed");
    assert_eq!(count(&tap, "for the departed", 1, A_WHILE), 0);
}

#[tokio::test]
async fn another_vni_takes_effect_without_touching_the_containers() {
    let (lab, web) = (Lab::new(2), segment("web", 109));
    lab.ensure(&web).await;
    let one = lab.run(0, &web, [10, 9, 0, 1]).await;
    let two = lab.run(1, &web, [10, 9, 0, 2]).await;
    lab.connect(&web.id, &[&one, &two]).await;
    let renumbered = segment("web", 110);
    let first = &lab.hosts[0].datapath;
    first.ensure_segment(&renumbered).await.unwrap();
    assert!(!one.reaches(&two));
    lab.ensure(&renumbered).await;
    assert!(one.reaches(&two));
}

#[tokio::test]
async fn without_vxlan_nothing_is_sent_or_accepted() {
    let (lab, web) = (Lab::new(2), segment("web", 111));
    lab.ensure(&web).await;
    let one = lab.run(0, &web, [10, 9, 0, 1]).await;
    let two = lab.run(1, &web, [10, 9, 0, 2]).await;
    lab.connect(&web.id, &[&one, &two]).await;
    assert!(one.reaches(&two));
    let closed = SegmentSpec {
        vxlan: false,
        ..web.clone()
    };
    let second = &lab.hosts[1].datapath;
    second.ensure_segment(&closed).await.unwrap();
    let (inside, underlay) = (two.tap(), lab.hosts[0].tap());
    one.send_frame(one.mac, two.mac, "in the clear");
    two.send_frame(two.mac, one.mac, "out in the clear");
    assert_eq!(count(&inside, "\u{0}in the clear", 1, A_WHILE), 0);
    assert_eq!(count(&underlay, "out in the clear", 1, A_WHILE), 0);
    lab.ensure(&web).await;
    assert!(one.reaches(&two));
}

#[tokio::test]
async fn a_taken_port_leaves_containers_of_one_host_connected() {
    let (lab, web) = (Lab::new(2), segment("web", 116));
    let host = &lab.hosts[0];
    let squatter = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, VXLAN_PORT)).unwrap();
    let squatter = host.namespace.run(squatter).unwrap();
    let refused = host.datapath.ensure_segment(&web).await.unwrap_err();
    assert!(refused.to_string().contains("in use"), "{refused}");
    let one = lab.run(0, &web, [10, 9, 0, 1]).await;
    let two = lab.run(0, &web, [10, 9, 0, 2]).await;
    assert!(one.reaches(&two));

    drop(squatter);
    soon_ok(|| host.datapath.ensure_segment(&web)).await;
    lab.ensure(&web).await;
    let three = lab.run(1, &web, [10, 9, 0, 3]).await;
    lab.connect(&web.id, &[&one, &two, &three]).await;
    assert!(one.reaches(&three));
}

/// A process that another test is just starting may hold a closed socket a little longer.
async fn soon_ok<F: Future<Output = Result<(), DatapathError>>>(attempt: impl Fn() -> F) {
    let deadline = Instant::now() + SOON;
    while let Err(error) = attempt().await {
        assert!(Instant::now() < deadline, "{error}");
    }
}

#[tokio::test]
async fn a_tap_that_somebody_deleted_is_made_again() {
    let (lab, mut web) = (Lab::new(1), segment("web", 119));
    web.tunnel = true;
    let datapath = HybridDatapath::new(lab.hosts[0].datapath.clone());
    datapath.ensure_segment(&web).await.unwrap();
    let forwarding = Forwarding {
        flood: [Via::Tunnel(PeerId::from_bytes([7; 16]))].into(),
        ..Forwarding::default()
    };
    datapath.set_forwarding(&web.id, &forwarding).await.unwrap();
    let tap = tap_name(web.id.tag());
    let there = || links(datapath.kernel().namespace()).contains(&tap);
    assert!(there());

    let delete = || ip(datapath.kernel().namespace(), &format!("link delete {tap}"));
    delete();
    datapath.ensure_segment(&web).await.unwrap();
    assert!(there());
    delete();
    datapath.set_forwarding(&web.id, &forwarding).await.unwrap();
    assert!(there());
}

#[tokio::test]
async fn nothing_is_left_behind() {
    let (lab, web) = (Lab::new(1), segment("web", 112));
    let host = &lab.hosts[0];
    assert!(host.datapath.limits().iter().all(|limit| {
        // The lab's directories are on no shared mount.
        limit.to_string().contains("shared mount")
    }));
    let before = host.links();
    lab.ensure(&web).await;
    let one = lab.run(0, &web, [10, 9, 0, 1]).await;
    let port = port_name(&one.endpoint);
    let found = host.datapath.inventory().await.unwrap();
    assert_eq!(found.ports, [(port.clone(), Some(web.id.tag()))].into());
    // Addresses of the devices' own would be announced to the containers.
    let addresses = ip(host.datapath.namespace(), "address show");
    assert!(!addresses.contains("inet"), "{addresses}");
    lab.stop(one).await;
    host.datapath.unplug(&port).await.unwrap();
    for _ in 0..2 {
        let removed = host.datapath.remove_segment(web.id.tag());
        removed.await.unwrap();
    }
    assert_eq!(host.links(), before);
    assert_eq!(links(host.datapath.namespace()), ["lo"]);
    let found = host.datapath.inventory().await.unwrap();
    assert!(found.segments.is_empty() && found.ports.is_empty());
}

#[test]
fn the_namespace_outlives_its_handles_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let namespace = || NetNs::persistent(dir.path(), "weave").unwrap().0;
    ip(&namespace(), "link add trace type bridge");
    assert_eq!(links(&namespace()), ["lo", "trace"]);
    NetNs::forget(dir.path(), "weave").unwrap();
    NetNs::forget(dir.path(), "weave").unwrap();
    assert_eq!(links(&namespace()), ["lo"]);
    NetNs::forget(dir.path(), "weave").unwrap();
}

#[test]
fn settings_are_written_where_docker_forbids_it() {
    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    let namespace = NetNs::anonymous().unwrap();
    let setting = "net/ipv4/ip_default_ttl";
    let plugin = thread::spawn(move || {
        let none: Option<&str> = None;
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("/proc/sys"), "/proc/sys", none, MsFlags::MS_BIND, none).unwrap();
        mount(none, "/proc/sys", none, read_only, none).unwrap();
        let path = format!("/proc/sys/{setting}");
        assert!(std::fs::write(&path, "99").is_err());
        sysctl::set(&namespace, setting, "99").unwrap();
        assert!(std::fs::write(&path, "99").is_err());
        namespace.run(|| std::fs::read_to_string(path)).unwrap()
    });
    assert_eq!(plugin.join().unwrap().unwrap().trim(), "99");
}

#[tokio::test]
async fn a_stale_pair_of_the_same_endpoint_is_replaced() {
    let (lab, web) = (Lab::new(1), segment("web", 113));
    let datapath = &lab.hosts[0].datapath;
    let port = PortSpec {
        endpoint: "0123456789abcdef".parse().unwrap(),
        segment: web.id.clone(),
        mac: Mac::new([2, 0, 0, 0, 0, 9]),
        mtu: 1450,
    };
    let refused = datapath.plug(&port).await.unwrap_err();
    assert!(matches!(refused, DatapathError::UnknownSegment(_)));
    lab.ensure(&web).await;
    let name = datapath.plug(&port).await.unwrap();
    assert_eq!(datapath.plug(&port).await.unwrap(), name);
    assert!(lab.hosts[0].links().contains(&name));
    assert!(datapath.unplug("br-00000000").await.is_err());
}

/// Prints what an attach and a detach cost.
#[tokio::test]
async fn plugging_in_is_quick() {
    let (lab, web) = (Lab::new(1), segment("web", 114));
    lab.ensure(&web).await;
    let datapath = &lab.hosts[0].datapath;
    let mut times = Vec::new();
    for number in 0..20_u8 {
        let port = PortSpec {
            endpoint: format!("{number:02x}23456789abcdef").parse().unwrap(),
            segment: web.id.clone(),
            mac: Mac::new([2, 0, 0, 0, 0, number]),
            mtu: 1450,
        };
        let start = Instant::now();
        datapath.plug(&port).await.unwrap();
        let plugged = start.elapsed();
        let name = port_name(&port.endpoint);
        datapath.unplug(&name).await.unwrap();
        times.push((plugged, start.elapsed() - plugged));
    }
    times.sort();
    let mut busy = Vec::new();
    for number in 20..30_u8 {
        let endpoint = |kind: u8| {
            format!("{number:02x}{kind:02x}456789abcdef")
                .parse()
                .unwrap()
        };
        let port = |kind: u8| PortSpec {
            endpoint: endpoint(kind),
            segment: web.id.clone(),
            mac: Mac::new([2, 0, 0, 0, kind, number]),
            mtu: 1450,
        };
        datapath.plug(&port(1)).await.unwrap();
        let (old, background) = (port_name(&endpoint(1)), datapath.clone());
        let removal = tokio::spawn(async move { background.unplug(&old).await });
        tokio::time::sleep(Duration::from_millis(1)).await;
        let start = Instant::now();
        datapath.plug(&port(2)).await.unwrap();
        busy.push(start.elapsed());
        removal.await.unwrap().unwrap();
    }
    busy.sort();
    println!("plug while another is removed (median): {:?}", busy[5]);
    println!("plug, unplug (median by plug): {:?}", times[10]);

    let mac = |number: u16| Mac::new([2, 0, 0, 1, (number >> 8) as u8, number as u8]);
    let via = |number: u16| Via::Vxlan([198, 51, 100, (number % 200) as u8 + 2].into());
    let forwarding = Forwarding {
        unicast: (0..1000).map(|number| (mac(number), via(number))).collect(),
        flood: (0..200).map(via).collect(),
    };
    for what in ["new", "unchanged"] {
        let start = Instant::now();
        datapath.set_forwarding(&web.id, &forwarding).await.unwrap();
        println!(
            "forwarding to 1000 containers, {what}: {:?}",
            start.elapsed()
        );
    }
}
