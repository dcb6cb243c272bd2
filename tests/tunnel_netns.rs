//! The tunnel between hosts made of network namespaces. Needs root; skipped without.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::IoSlice;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::{Child, Command, Output as Outcome, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sched::{CloneFlags, setns};
use weave_net::datapath::tunnel::wire::OVERHEAD;
use weave_net::datapath::tunnel::{
    Output, PathState, PeerRoute, Tunnel, TunnelConfig, TunnelError,
};
use weave_net::datapath::{Forwarding, Via};
use weave_net::linux::tap::{Tap, VNET_HEADER, VnetHeader};
use weave_net::types::{PeerId, SegmentId, Vni};
use zeroize::Zeroizing;

static LABS: AtomicU32 = AtomicU32::new(0);

/// Runs a command line; panics with its output when it fails.
fn sh(line: &str) -> String {
    let outcome = try_sh(line);
    let text = String::from_utf8_lossy(&outcome.stdout).into_owned();
    let errors = String::from_utf8_lossy(&outcome.stderr);
    assert!(outcome.status.success(), "{line}: {text}{errors}");
    text
}

fn try_sh(line: &str) -> Outcome {
    Command::new("sh").args(["-c", line]).output().unwrap()
}

fn privileged() -> bool {
    let allowed = nix::unistd::geteuid().is_root() && try_sh("ip netns list").status.success();
    if !allowed {
        assert!(std::env::var_os("CI").is_none(), "the gate runs as root");
        eprintln!("skipped: needs root and network namespaces");
    }
    allowed
}

/// Carries the handshakes, as the mesh would.
#[derive(Default)]
struct Mesh {
    tunnels: Mutex<BTreeMap<PeerId, Arc<Tunnel>>>,
    stuck: AtomicBool,
    /// Slower than the underlay, as a mesh that goes over TCP and other peers is.
    slow: AtomicBool,
    /// Whoever holds it keeps the control threads waiting at what they have to say next.
    gate: Mutex<()>,
}

impl Mesh {
    fn carry(self: Arc<Self>, from: PeerId, to: PeerId, message: Bytes) {
        if self.stuck.load(Ordering::Relaxed) {
            return;
        }
        if self.slow.load(Ordering::Relaxed) {
            thread::spawn(move || {
                thread::sleep(Duration::from_millis(50));
                self.deliver(from, to, message);
            });
        } else {
            self.deliver(from, to, message);
        }
    }

    fn deliver(&self, from: PeerId, to: PeerId, message: Bytes) {
        if let Some(tunnel) = self.tunnels.lock().unwrap().get(&to) {
            tunnel.handle_mesh_message(from, message);
        }
    }
}

/// Hosts on one underlay, each with one container of one segment.
struct Lab {
    name: String,
    hosts: Vec<Host>,
    mesh: Arc<Mesh>,
}

struct Host {
    peer: PeerId,
    key: [u8; 32],
    address: SocketAddr,
}

impl Lab {
    fn new(hosts: u8, underlay_mtu: u16, inner_mtu: u16) -> Self {
        let name = format!(
            "wt{}x{}",
            std::process::id(),
            LABS.fetch_add(1, Ordering::Relaxed)
        );
        let mut lab = Self {
            name,
            hosts: Vec::new(),
            mesh: Arc::default(),
        };
        lab.make_underlay(hosts, underlay_mtu);
        for at in 0..hosts {
            lab.make_host(at, inner_mtu);
        }
        lab
    }

    /// A lab in which every host can speak to every other.
    fn full(hosts: u8, underlay_mtu: u16, inner_mtu: u16) -> Self {
        let lab = Self::new(hosts, underlay_mtu, inner_mtu);
        for at in 0..hosts {
            lab.start(at);
        }
        for at in 0..hosts {
            for other in (0..hosts).filter(|other| *other != at) {
                lab.direct(at, other);
            }
            lab.flood_all(at);
        }
        lab.wait_for_paths();
        lab
    }

    fn ns(&self, kind: &str, at: u8) -> String {
        format!("{}{kind}{at}", self.name)
    }

    /// Two hosts have a wire between them, more have a bridge.
    fn make_underlay(&self, hosts: u8, mtu: u16) {
        for at in 0..hosts {
            for kind in ["h", "w", "c"] {
                sh(&format!(
                    "ip netns add {0} && ip -n {0} link set lo up",
                    self.ns(kind, at)
                ));
            }
            // Bridges and TAPs are not to announce themselves to the containers.
            sh(&format!(
                "ip netns exec {} sysctl -qw net.ipv6.conf.default.disable_ipv6=1",
                self.ns("w", at)
            ));
        }
        if hosts == 2 {
            let (one, two) = (self.ns("h", 0), self.ns("h", 1));
            sh(&format!(
                "ip -n {one} link add eth0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {two}"
            ));
        } else {
            let underlay = self.ns("u", 0);
            sh(&format!(
                "ip netns add {underlay} && ip -n {underlay} link add br0 type bridge && ip -n {underlay} link set br0 mtu {mtu} up"
            ));
            for at in 0..hosts {
                let host = self.ns("h", at);
                sh(&format!(
                    "ip -n {host} link add eth0 mtu {mtu} type veth peer name p{at} mtu {mtu} netns {underlay} && ip -n {underlay} link set p{at} master br0 up"
                ));
            }
        }
        for at in 0..hosts {
            let host = self.ns("h", at);
            sh(&format!(
                "ip -n {host} address add 192.168.77.{}/24 dev eth0 && ip -n {host} link set eth0 up",
                at + 1
            ));
        }
    }

    fn make_host(&mut self, at: u8, mtu: u16) {
        let (wire, container) = (self.ns("w", at), self.ns("c", at));
        sh(&format!(
            "ip -n {wire} link add br0 mtu {mtu} type bridge && ip -n {wire} link set br0 up"
        ));
        sh(&format!(
            "ip -n {container} link add eth0 mtu {mtu} type veth peer name port mtu {mtu} netns {wire}"
        ));
        sh(&format!(
            "ip -n {wire} link set port master br0 up && ip -n {container} link set eth0 address 02:77:0a:00:00:0{} up",
            at + 1
        ));
        sh(&format!(
            "ip -n {container} address add 10.0.0.{0}/24 dev eth0 && ip -n {container} address add fd00::{0}/64 dev eth0 nodad",
            at + 1
        ));
        let key = [at + 1; 32];
        let secret = x25519_dalek::StaticSecret::from(key);
        let public = x25519_dalek::PublicKey::from(&secret);
        self.hosts.push(Host {
            peer: PeerId::of_public_key(public.as_bytes()),
            key,
            address: format!("192.168.77.{}:6783", at + 1).parse().unwrap(),
        });
        let tap = self.open_tap(at);
        sh(&format!(
            "ip -n {wire} link set {0} mtu {mtu} && ip -n {wire} link set {0} master br0 up",
            tap.name()
        ));
    }

    fn open_tap(&self, at: u8) -> Tap {
        let netns = File::open(format!("/run/netns/{}", self.ns("w", at))).unwrap();
        once_free(|| Tap::open("tap0", Some(netns.as_fd())))
    }

    fn segment() -> SegmentId {
        SegmentId::of_name("lab")
    }

    /// Starts a host's daemon, or starts it again.
    fn start(&self, at: u8) {
        let host = &self.hosts[usize::from(at)];
        self.stop(at);
        let start = || {
            let config = TunnelConfig {
                peer: host.peer,
                static_key: Zeroizing::new(host.key),
                password_key: Some(Zeroizing::new([9; 32])),
                address: None,
                port: 6783,
                seed: rand::random(),
            };
            let (mesh, me) = (self.mesh.clone(), host.peer);
            Tunnel::start(config, move |output| {
                drop(mesh.gate.lock());
                match output {
                    Output::Message(to, message) => mesh.clone().carry(me, to, message),
                    Output::Path(peer, state) => eprintln!("{me:?}: {peer:?} {state:?}"),
                    Output::Unrouted(peer) => eprintln!("{me:?}: no way to {peer:?}"),
                }
            })
        };
        let tunnel = self.inside("h", at, || once_free(start));
        let vni = Vni::try_from(5).unwrap();
        tunnel.add_segment(Self::segment(), vni, self.open_tap(at));
        self.mesh
            .tunnels
            .lock()
            .unwrap()
            .insert(host.peer, Arc::new(tunnel));
    }

    fn stop(&self, at: u8) {
        let peer = self.hosts[usize::from(at)].peer;
        let tunnel = self.mesh.tunnels.lock().unwrap().remove(&peer);
        if let Some(mut tunnel) = tunnel {
            // Who carries a message for it has it for a moment.
            let tunnel = loop {
                match Arc::try_unwrap(tunnel) {
                    Ok(tunnel) => break tunnel,
                    Err(shared) => tunnel = shared,
                }
                thread::yield_now();
            };
            drop(tunnel);
        }
    }

    fn inside<T: Send>(&self, kind: &str, at: u8, work: impl FnOnce() -> T + Send) -> T {
        let netns = File::open(format!("/run/netns/{}", self.ns(kind, at))).unwrap();
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&netns, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    fn tunnel(&self, at: u8) -> Arc<Tunnel> {
        let peer = self.hosts[usize::from(at)].peer;
        self.mesh.tunnels.lock().unwrap()[&peer].clone()
    }

    fn direct(&self, at: u8, other: u8) {
        let other = &self.hosts[usize::from(other)];
        let endpoint = Some(other.address);
        self.tunnel(at).set_peer(
            other.peer,
            PeerRoute {
                endpoint,
                relay: None,
            },
        );
    }

    fn by_way_of(&self, at: u8, other: u8, via: u8) {
        let relay = Some(self.hosts[usize::from(via)].peer);
        let other = self.hosts[usize::from(other)].peer;
        self.tunnel(at).set_peer(
            other,
            PeerRoute {
                endpoint: None,
                relay,
            },
        );
    }

    /// What is for nobody known goes to all others.
    fn flood_all(&self, at: u8) {
        let own = self.hosts[usize::from(at)].peer;
        let others = self
            .hosts
            .iter()
            .map(|host| host.peer)
            .filter(|peer| *peer != own);
        let forwarding = Forwarding {
            unicast: BTreeMap::new(),
            flood: others.map(Via::Tunnel).collect(),
        };
        self.tunnel(at)
            .set_forwarding(&Self::segment(), &forwarding);
    }

    fn wait_for_paths(&self) {
        for at in 0..self.hosts.len() as u8 {
            let up = || {
                let status = self.tunnel(at).status().unwrap();
                status.peers.iter().all(|peer| {
                    matches!(
                        peer.path,
                        PathState::Direct { settled: true, .. }
                            | PathState::Relayed { settled: true, .. }
                    )
                })
            };
            wait_until("all paths are probed", up);
        }
    }

    fn in_container(&self, at: u8, line: &str) -> String {
        sh(&format!("ip netns exec {} {line}", self.ns("c", at)))
    }

    fn ping(&self, from: u8, to: u8, options: &str) -> bool {
        let line = format!(
            "ip netns exec {} ping -q -i 0.01 -W 1 {options} 10.0.0.{}",
            self.ns("c", from),
            to + 1
        );
        let answers = || self.snmp(from, "Icmp", "InEchoReps");
        let before = answers();
        let outcome = try_sh(&line);
        let text = String::from_utf8_lossy(&outcome.stdout);
        let sent = text.split_once(" packets transmitted");
        let sent = sent.and_then(|(before, _)| before.lines().last()?.parse().ok());
        // `ping` waits for the last answer only twice as long as the others took, and on a busy
        // machine may end before it: the kernel knows.
        let end = Instant::now() + Duration::from_secs(1);
        while sent > Some(answers() - before) && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        let good = outcome.status.success() && sent == Some(answers() - before);
        if !good {
            eprintln!("{line}: {text}");
        }
        good
    }

    /// A counter of a container's kernel (`/proc/net/snmp`).
    fn snmp(&self, at: u8, protocol: &str, counter: &str) -> u64 {
        let counters = self.in_container(at, "cat /proc/net/snmp");
        let mut lines = counters
            .lines()
            .filter_map(|line| line.strip_prefix(protocol)?.strip_prefix(':'));
        let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
        let mut all = names.split_whitespace().zip(values.split_whitespace());
        all.find_map(|(name, value)| (name == counter).then(|| value.parse().unwrap()))
            .unwrap()
    }

    /// One iperf3 run from one container to another; Gb/s received.
    fn iperf(&self, from: u8, to: u8, options: &str) -> f64 {
        self.iperf_to(&format!("10.0.0.{}", to + 1), from, to, options)
    }

    fn iperf_to(&self, address: &str, from: u8, to: u8, options: &str) -> f64 {
        let server = Server::start(&self.ns("c", to));
        let client = format!("iperf3 -J -c {address} {options}");
        let json: serde_json::Value =
            serde_json::from_str(&self.in_container(from, &client)).unwrap();
        drop(server);
        let sum = [&json["end"]["sum_received"], &json["end"]["sum"]];
        let bits = sum.iter().find_map(|sum| sum["bits_per_second"].as_f64());
        bits.unwrap() / 1e9
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for at in 0..self.hosts.len() as u8 {
            self.stop(at);
        }
        let _ = try_sh(&format!(
            "ip netns list | cut -d' ' -f1 | grep '^{}[a-z]' | xargs -r -n1 ip netns del",
            self.name
        ));
    }
}

/// An iperf3 server that serves once.
struct Server(Child);

impl Server {
    fn start(netns: &str) -> Self {
        let child = Command::new("ip")
            .args(["netns", "exec", netns, "iperf3", "-s", "-1"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let listens = || {
            let sockets = sh(&format!("ip netns exec {netns} ss -Hltn sport = :5201"));
            sockets.contains("5201")
        };
        wait_until("iperf3 listens", listens);
        Self(child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Opens what was in use until now. A program that another test starts at this moment may hold it a
/// little longer: until it runs it has all our files.
fn once_free<T, E: std::error::Error>(mut open: impl FnMut() -> Result<T, E>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match open() {
            Ok(opened) => return opened,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn pings_and_streams_get_through() {
    if !privileged() {
        return;
    }
    let lab = Lab::full(2, 1500, 1400);
    assert!(lab.ping(0, 1, "-c 20"));
    assert!(lab.ping(1, 0, "-c 20 -s 1372 -M do"));
    assert!(lab.iperf(0, 1, "-t 1") > 0.1);
    assert!(lab.iperf(1, 0, "-t 1 -P 4") > 0.1);
    assert!(lab.iperf(0, 1, "-t 1 -u -b 50M -l 1300") > 0.045);
}

#[test]
fn every_kind_of_frame_gets_through() {
    if !privileged() {
        return;
    }
    let lab = Lab::full(2, 1500, 1400);
    let drops = || {
        let status = lab.tunnel(1).status().unwrap();
        (status.drops.clone(), status.peers[0].drops.clone())
    };
    // What the kernel of a container announced of itself before there were keys.
    let before = drops();
    lab.in_container(0, "ping -q -c 3 -i 0.01 -W 1 fd00::2");
    assert!(lab.iperf_to("fd00::2", 0, 1, "-t 1") > 0.1);
    // Fragments of a datagram of 60,000 bytes.
    assert!(lab.ping(0, 1, "-c 3 -s 60000"));
    assert_eq!(drops(), before);
}

/// A TAP stands for a container whose frames are made by hand.
#[test]
fn tagged_frames_and_frames_without_ip_arrive_as_they_were_sent() {
    if !privileged() {
        return;
    }
    let lab = Lab::full(2, 1500, 1400);
    let port = |at| {
        let wire = lab.ns("w", at);
        let netns = File::open(format!("/run/netns/{wire}")).unwrap();
        let tap = Tap::open("hand0", Some(netns.as_fd())).unwrap();
        sh(&format!(
            "ip -n {wire} link set hand0 mtu 1400 master br0 up"
        ));
        tap
    };
    let (from, to) = (port(0), port(1));
    let head = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9];
    let kinds: [&[u8]; 3] = [
        &[0x88, 0xb5],
        &[0x81, 0, 0, 7, 0x88, 0xb5],
        &[0, 46, 0xaa, 0xaa],
    ];
    for kind in kinds {
        for len in [46, 600, 1300] {
            let frame = [&head[..], kind, &vec![len as u8; len]].concat();
            let header = VnetHeader::default().encode();
            wait_until("the frame arrives", || {
                from.write(&[IoSlice::new(&header), IoSlice::new(&frame)])
                    .unwrap();
                thread::sleep(Duration::from_millis(10));
                let mut buffer = vec![0; 70_000];
                std::iter::from_fn(|| to.read(&mut buffer).ok().map(|len| buffer[..len].to_vec()))
                    .any(|read| read[VNET_HEADER..] == frame)
            });
        }
    }
}

#[test]
fn containers_without_offloads_are_served() {
    if !privileged() {
        return;
    }
    let lab = Lab::full(2, 1500, 1400);
    for at in 0..2 {
        sh(&format!(
            "ip netns exec {} ethtool -K eth0 tx off tso off gso off gro off rx off",
            lab.ns("c", at)
        ));
    }
    assert!(lab.ping(0, 1, "-c 10 -s 1000"));
    assert!(lab.iperf(0, 1, "-t 1") > 0.05);
    assert!(lab.iperf(1, 0, "-t 1 -u -b 20M -l 200") > 0.018);
}

#[test]
fn datagrams_that_the_kernel_does_not_aggregate_are_taken_one_by_one() {
    if !privileged() {
        return;
    }
    let lab = Lab::full(2, 1500, 1400);
    for at in 0..2 {
        let host = lab.ns("h", at);
        sh(&format!(
            "ip netns exec {host} ethtool -K eth0 tx-udp-segmentation off gro off"
        ));
    }
    assert!(lab.iperf(0, 1, "-t 1 -P 2") > 0.1);
    assert!(lab.ping(0, 1, "-c 20 -s 20000"));
}

#[test]
fn underlays_from_1280_to_9000_are_filled_but_not_overfilled() {
    if !privileged() {
        return;
    }
    for (underlay, expected) in [(1280, 1198), (1400, 1318), (9000, 8918)] {
        // Containers that do not know the path send what does not fit.
        let lab = Lab::full(2, underlay, 1450);
        let peer = lab.hosts[1].peer;
        let mtu = lab.tunnel(0).path_mtu(peer).unwrap().unwrap();
        assert!(
            (expected - 8..=expected).contains(&mtu),
            "{mtu} on {underlay}"
        );
        assert!(lab.iperf(0, 1, "-t 1") > 0.1);
        let sent = || lab.tunnel(0).status().unwrap().peers[0].sent;
        let before = sent();
        assert!(lab.ping(0, 1, "-c 3 -s 1400 -M dont"));
        let (packets, bytes) = (sent().packets - before.packets, sent().bytes - before.bytes);
        // Ethernet, IPv4 and ICMP headers; and every packet, fragments too, is sealed for itself.
        assert!(
            bytes >= 3 * (14 + 28 + 1400) + packets * OVERHEAD as u64,
            "{bytes} in {packets}"
        );
        let fits = format!("-c 3 -M do -s {}", mtu.min(1450) - 28);
        assert!(lab.ping(0, 1, &fits));
        if mtu < 1450 {
            let container = lab.ns("c", 0);
            let outcome = try_sh(&format!(
                "ip netns exec {container} ping -c 2 -W 1 -M do -s 1400 10.0.0.2"
            ));
            let text = String::from_utf8_lossy(&outcome.stdout);
            assert!(
                text.contains(&format!("mtu = {mtu}")) || text.contains(&format!("mtu={mtu}")),
                "{text}"
            );
        }
    }
}

/// Small ones are packed together, the largest are fragmented, others go as they are: whatever
/// becomes of them, none overtakes another, also while both sides send.
#[test]
fn frames_of_all_sizes_stay_in_order() {
    const DATAGRAMS: u32 = 5000;
    /// What the sender is ahead of the receiver at most, so that few are lost in full queues.
    const AHEAD: u32 = 100;
    if !privileged() {
        return;
    }
    let lab = Lab::full(2, 1300, 1450);
    let newest = [AtomicU32::new(0), AtomicU32::new(0)];
    // What waits for a neighbour to be found is overtaken by what is sent just then.
    assert!(lab.ping(0, 1, "-c 1") && lab.ping(1, 0, "-c 1"));
    let both_listen = Barrier::new(2);
    let exchange = |at: u8| {
        lab.in_container(at, "sysctl -qw net.ipv4.ip_no_pmtu_disc=1");
        lab.inside("c", at, || {
            let socket = UdpSocket::bind("0.0.0.0:7000").unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(1)))
                .unwrap();
            both_listen.wait();
            thread::scope(|scope| {
                scope.spawn(|| {
                    let received = &newest[usize::from(1 - at)];
                    for number in 0..DATAGRAMS {
                        let begun = Instant::now();
                        while number > received.load(Ordering::Relaxed) + AHEAD
                            && begun.elapsed() < Duration::from_millis(10)
                        {
                            thread::yield_now();
                        }
                        let size = [60, 1400, 300, 1100, 1300, 20][number as usize % 6];
                        let mut datagram = vec![0; size];
                        datagram[..4].copy_from_slice(&number.to_be_bytes());
                        let to = format!("10.0.0.{}:7000", 2 - at);
                        socket.send_to(&datagram, to).unwrap();
                    }
                });
                let mut numbers = Vec::new();
                let mut datagram = [0; 2000];
                while numbers.last() != Some(&(DATAGRAMS - 1))
                    && let Ok(len) = socket.recv(&mut datagram)
                {
                    assert!(len >= 20);
                    let number = u32::from_be_bytes(*datagram.first_chunk().unwrap());
                    newest[usize::from(at)].fetch_max(number, Ordering::Relaxed);
                    numbers.push(number);
                }
                numbers
            })
        })
    };
    thread::scope(|scope| {
        let other = scope.spawn(|| exchange(1));
        for numbers in [exchange(0), other.join().unwrap()] {
            assert!(numbers.len() > DATAGRAMS as usize / 2, "{}", numbers.len());
            let overtaken = numbers.windows(2).find(|pair| pair[0] >= pair[1]);
            assert_eq!(overtaken, None);
        }
    });
}

#[test]
fn a_path_that_shrinks_does_not_stop_a_stream() {
    if !privileged() {
        return;
    }
    let lab = Lab::full(3, 1500, 1400);
    thread::scope(|scope| {
        let stream = scope.spawn(|| lab.iperf(0, 1, "-t 8"));
        thread::sleep(Duration::from_secs(2));
        // The hosts do not notice: nobody on the way says that something is too big.
        let underlay = lab.ns("u", 0);
        sh(&format!("ip -n {underlay} link set p1 mtu 1300"));
        assert!(stream.join().unwrap() > 0.1);
    });
    let mtu = lab.tunnel(0).path_mtu(lab.hosts[1].peer).unwrap().unwrap();
    assert!(mtu <= 1218, "{mtu}");
    assert!(lab.ping(0, 1, "-c 5 -s 1000"));
}

#[test]
fn a_restarted_host_is_talking_again_within_two_seconds() {
    if !privileged() {
        return;
    }
    let lab = Lab::full(2, 1500, 1400);
    assert!(lab.ping(0, 1, "-c 3"));
    for at in [1, 0] {
        lab.start(at);
        lab.direct(at, 1 - at);
        lab.flood_all(at);
        let begun = Instant::now();
        wait_until("the containers talk", || lab.ping(0, 1, "-c 1"));
        assert!(
            begun.elapsed() < Duration::from_secs(2),
            "{:?}",
            begun.elapsed()
        );
    }
}

/// The side that has the keys first probes when the other cannot answer yet; its next probe is due a
/// second later.
#[test]
fn both_sides_know_their_path_as_soon_as_they_have_keys() {
    if !privileged() {
        return;
    }
    let lab = Lab::new(2, 1500, 1400);
    lab.mesh.slow.store(true, Ordering::Relaxed);
    (0..2).for_each(|at| lab.start(at));
    let begun = Instant::now();
    lab.direct(0, 1);
    lab.direct(1, 0);
    lab.wait_for_paths();
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(800), "{took:?}");
}

#[test]
fn a_session_ends_on_both_sides_when_the_only_one_that_wanted_it_is_done() {
    if !privileged() {
        return;
    }
    let lab = Lab::new(2, 1500, 1400);
    (0..2).for_each(|at| lab.start(at));
    lab.direct(0, 1);
    wait_until("the host that was asked knows its path", || {
        let peers = lab.tunnel(1).status().unwrap().peers;
        peers.iter().any(|peer| peer.path.mtu().is_some())
    });
    lab.tunnel(0).remove_peer(lab.hosts[1].peer);
    wait_until("the other has forgotten it too", || {
        lab.tunnel(1).status().unwrap().peers.is_empty()
    });
}

#[test]
fn an_address_that_changes_is_followed_while_the_mesh_is_stuck() {
    if !privileged() {
        return;
    }
    let lab = Lab::full(2, 1500, 1400);
    lab.mesh.stuck.store(true, Ordering::Relaxed);
    let host = lab.ns("h", 1);
    sh(&format!(
        "ip -n {host} address flush dev eth0 && ip -n {host} address add 192.168.77.22/24 dev eth0"
    ));
    wait_until("the containers talk", || lab.ping(1, 0, "-c 1"));
    assert!(lab.ping(0, 1, "-c 5"));
    let peers = lab.tunnel(0).status().unwrap().peers;
    assert_eq!(peers[0].endpoint.unwrap().ip().to_string(), "192.168.77.22");
}

#[test]
fn a_port_that_a_nat_changes_is_followed() {
    if !privileged() {
        return;
    }
    let lab = Lab::full(2, 1500, 1400);
    let host = lab.ns("h", 0);
    sh(&format!(
        "ip netns exec {host} nft 'table ip nat {{
         chain leave {{ type filter hook output priority 0; udp sport 6783 udp sport set 7000; }};
         chain come {{ type filter hook prerouting priority 0; udp dport 7000 udp dport set 6783; }}; }}'"
    ));
    let port = || {
        let status = lab.tunnel(1).status().unwrap();
        status.peers[0].endpoint.map(|endpoint| endpoint.port())
    };
    wait_until("the new port is known", || port() == Some(7000));
    assert!(lab.ping(0, 1, "-c 20"));
    assert!(lab.ping(1, 0, "-c 20"));
}

#[test]
fn traffic_goes_on_while_the_control_thread_is_stuck() {
    if !privileged() {
        return;
    }
    let lab = Lab::full(2, 1500, 1400);
    let gate = lab.mesh.gate.lock();
    let stranger = PeerId::from_bytes([3; 16]);
    lab.tunnel(0).set_peer(stranger, PeerRoute::default());
    wait_until("it gives no answer", || {
        matches!(lab.tunnel(0).status(), Err(TunnelError::Stuck))
    });
    assert!(lab.ping(0, 1, "-c 50"));
    assert!(lab.iperf(0, 1, "-t 1") > 0.1);
    drop(gate);
    assert!(lab.tunnel(0).status().is_ok());
}

#[test]
fn a_peer_that_cannot_be_reached_is_reached_by_way_of_another() {
    if !privileged() {
        return;
    }
    let lab = Lab::new(3, 1500, 1350);
    (0..3).for_each(|at| lab.start(at));
    for (at, other) in [(0, 1), (1, 0), (1, 2), (2, 1)] {
        lab.direct(at, other);
    }
    lab.by_way_of(0, 2, 1);
    lab.by_way_of(2, 0, 1);
    (0..3).for_each(|at| lab.flood_all(at));
    lab.wait_for_paths();
    assert!(lab.ping(0, 2, "-c 20"));
    assert!(lab.ping(0, 1, "-c 20"));
    assert!(lab.iperf(0, 2, "-t 1") > 0.05);
    // To everybody: one answer of each, no duplicates.
    let container = lab.ns("c", 0);
    for at in 1..3 {
        sh(&format!(
            "ip netns exec {} sysctl -qw net.ipv4.icmp_echo_ignore_broadcasts=0",
            lab.ns("c", at)
        ));
    }
    let outcome = try_sh(&format!(
        "ip netns exec {container} ping -b -c 5 -i 0.2 10.0.0.255"
    ));
    let text = String::from_utf8_lossy(&outcome.stdout);
    let answers = text
        .lines()
        .filter(|line| line.contains("bytes from"))
        .count();
    assert!((9..=10).contains(&answers), "{text}");
    let relay = lab.tunnel(1).status().unwrap();
    assert!(
        relay.peers.iter().all(|peer| peer.relayed.packets > 20),
        "{relay:?}"
    );
}

#[test]
fn a_direct_path_that_breaks_is_replaced_and_taken_again() {
    if !privileged() {
        return;
    }
    let lab = Lab::new(3, 1500, 1350);
    (0..3).for_each(|at| lab.start(at));
    for at in 0..3u8 {
        for other in (0..3).filter(|other| *other != at) {
            let endpoint = Some(lab.hosts[usize::from(other)].address);
            let relay = Some(lab.hosts[usize::from(3 - at - other)].peer);
            let other = lab.hosts[usize::from(other)].peer;
            lab.tunnel(at)
                .set_peer(other, PeerRoute { endpoint, relay });
        }
        lab.flood_all(at);
    }
    lab.wait_for_paths();
    let path = |to: u8| {
        let peer = lab.hosts[usize::from(to)].peer;
        let peers = lab.tunnel(0).status().unwrap().peers;
        peers
            .into_iter()
            .find(|status| status.peer == peer)
            .unwrap()
            .path
    };
    assert!(matches!(path(2), PathState::Direct { .. }));
    let host = lab.ns("h", 0);
    sh(&format!(
        "ip -n {host} route add unreachable 192.168.77.3/32"
    ));
    let broken = Instant::now();
    wait_until("the other way is taken", || lab.ping(0, 2, "-c 1"));
    assert!(
        broken.elapsed() < Duration::from_secs(5),
        "{:?}",
        broken.elapsed()
    );
    assert!(matches!(path(2), PathState::Relayed { .. }));
    sh(&format!(
        "ip -n {host} route del unreachable 192.168.77.3/32"
    ));
    let mended = Instant::now();
    wait_until("the direct way is taken again", || {
        matches!(path(2), PathState::Direct { .. })
    });
    assert!(mended.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_listener_sees_nothing_of_a_frame() {
    if !privileged() {
        return;
    }
    let lab = Lab::full(2, 1500, 1400);
    let capture = format!("/tmp/{}.pcap", lab.name);
    let mut listener = Command::new("ip")
        .args([
            "netns",
            "exec",
            &lab.ns("h", 1),
            "tcpdump",
            "-i",
            "eth0",
            "-U",
            "-w",
            &capture,
        ])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("tcpdump listens", || {
        std::fs::metadata(&capture).is_ok_and(|file| file.len() >= 24)
    });
    assert!(lab.ping(0, 1, "-c 20 -s 1000 -p 7765617665"));
    assert!(lab.ping(0, 1, "-c 20 -p 7765617665"));
    lab.in_container(0, "ping -q -c 3 -i 0.01 -W 1 fd00::2");
    let sent = lab.tunnel(0).status().unwrap().peers[0].sent.packets;
    let seen = || std::fs::read(&capture).unwrap();
    wait_until("the capture is complete", || {
        seen().len() as u64 > 24 + sent * 80
    });
    listener.kill().unwrap();
    listener.wait().unwrap();
    let seen = seen();
    std::fs::remove_file(&capture).unwrap();
    let secrets: [&[u8]; 6] = [
        b"weave",
        &[2, 0x77, 10, 0, 0, 1],
        &[10, 0, 0, 1],
        &[10, 0, 0, 2],
        &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        b"name:lab",
    ];
    for secret in secrets {
        let at = seen
            .windows(secret.len())
            .position(|window| window == secret);
        assert_eq!(at, None, "{secret:?}");
    }
    replay(&lab, &seen);
}

/// Sends again what was captured, as it was, changed and cut: no frame may come of it.
fn replay(lab: &Lab, capture: &[u8]) {
    // Containers say something of themselves at any time: of what comes, none is to be theirs.
    let bridge = |state| sh(&format!("ip -n {} link set br0 {state}", lab.ns("w", 0)));
    bridge("down");
    let frames = || lab.in_container(1, "cat /sys/class/net/eth0/statistics/rx_packets");
    let mut before = frames();
    wait_until("what was on its way has come", || {
        let now = frames();
        now == std::mem::replace(&mut before, now.clone())
    });
    let to = lab.hosts[1].address;
    let packets = lab.inside("h", 0, || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        let mut rest = &capture[24..];
        let mut packets = 0;
        while let Some((record, after)) = rest.split_at_checked(16) {
            let len = u32::from_ne_bytes(record[8..12].try_into().unwrap()) as usize;
            let (packet, after) = after.split_at(len);
            rest = after;
            // Ethernet, IPv4 and UDP headers before, to the tunnel's port.
            if packet.len() < 42
                || packet[12..14] != [8, 0]
                || packet[36..38] != 6783u16.to_be_bytes()
            {
                continue;
            }
            let mut datagram = packet[42..].to_vec();
            socket.send_to(&datagram, to).unwrap();
            socket.send_to(&datagram[..datagram.len() - 1], to).unwrap();
            datagram[9] ^= 1;
            socket.send_to(&datagram, to).unwrap();
            packets += 1;
        }
        packets
    });
    assert!(packets > 80, "{packets}");
    let dropped = || {
        let status = lab.tunnel(1).status().unwrap();
        let drops = status.drops.iter().chain(&status.peers[0].drops);
        drops.map(|(_, count)| count).sum::<u64>()
    };
    wait_until("all are counted", || dropped() >= 3 * packets);
    assert_eq!(frames(), before);
    bridge("up");
    assert!(lab.ping(0, 1, "-c 3"));
}

#[test]
fn garbage_is_counted_and_does_no_harm() {
    if !privileged() {
        return;
    }
    let lab = Lab::full(2, 1500, 1400);
    let to = lab.hosts[0].address;
    lab.inside("h", 1, || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        for at in 0..2000u32 {
            let mut junk: Vec<u8> = (0..at % 200).map(|i| (i * at) as u8).collect();
            if let Some(first) = junk.first_mut() {
                *first = 0x11 + (at % 3) as u8;
            }
            junk.iter_mut().skip(1).take(3).for_each(|byte| *byte = 0);
            socket.send_to(&junk, to).unwrap();
        }
    });
    assert!(lab.ping(0, 1, "-c 5"));
    let drops = lab.tunnel(0).status().unwrap().drops;
    let total: u64 = drops.iter().map(|(_, count)| count).sum();
    assert!(total >= 2000 - 10, "{drops:?}");
}

/// Figures for people, not a test: `cargo test --release --test tunnel_netns measure -- --ignored
/// --nocapture`. `SECONDS` says how long each run takes.
#[test]
#[ignore = "takes a minute and proves nothing"]
fn measure() {
    let seconds: u32 = std::env::var("SECONDS").map_or(5, |text| text.parse().unwrap());
    let lab = Lab::full(2, 1500, 1400);
    measure_underlay(&lab, "plain", seconds);
    for at in 0..2 {
        sh(&format!(
            "ip netns exec {} ethtool -K eth0 tx-udp-segmentation off",
            lab.ns("h", at)
        ));
    }
    measure_underlay(&lab, "wire", seconds);
    let memory = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = memory.lines().find(|line| line.starts_with("VmHWM"));
    println!("both tunnels, {}", peak.unwrap());
    println!("{:#?}", lab.tunnel(1).status().unwrap());
}

/// Figures with single packets lost on the way: `cargo test --release --test tunnel_netns
/// lossy -- --ignored --nocapture`.
#[test]
#[ignore = "takes a minute and proves nothing"]
fn measure_lossy_underlay() {
    let seconds: u32 = std::env::var("SECONDS").map_or(5, |text| text.parse().unwrap());
    let lab = Lab::full(3, 1500, 1400);
    let underlay = lab.ns("u", 0);
    for at in 0..3 {
        let host = lab.ns("h", at);
        sh(&format!(
            "ip netns exec {host} ethtool -K eth0 tx-udp-segmentation off gro on"
        ));
        sh(&format!(
            "ip netns exec {underlay} ethtool -K p{at} tx-udp-segmentation off gro off tso off"
        ));
    }
    sh(&format!(
        "ip netns exec {underlay} nft 'add table netdev t; add chain netdev t c {{ type filter hook ingress device p0 priority 0; }}'"
    ));
    for lost in [0, 1, 10] {
        sh(&format!(
            "ip netns exec {underlay} nft 'flush chain netdev t c; add rule netdev t c numgen random mod 1000 < {lost} counter drop'"
        ));
        for options in ["", "-P 4"] {
            let rate = lab.iperf(0, 1, &format!("-t {seconds} {options}"));
            println!("loss {lost} per mille, TCP {options:5} {rate:.2} Gb/s");
        }
        println!(
            "{}",
            sh(&format!(
                "ip netns exec {underlay} nft list chain netdev t c"
            ))
        );
    }
    println!("{:#?}", lab.tunnel(1).status().unwrap());
}

fn measure_underlay(lab: &Lab, name: &str, seconds: u32) {
    for options in ["", "-P 4", "-R"] {
        let before = busy_seconds();
        let rate = lab.iperf(0, 1, &format!("-t {seconds} {options}"));
        let gigabytes = rate * f64::from(seconds) / 8.0;
        let cost = (busy_seconds() - before) / gigabytes;
        println!("{name} TCP {options:5} {rate:6.2} Gb/s {cost:6.2} s/GB");
    }
    let before = (datagrams(lab), busy_seconds());
    let rate = lab.iperf(0, 1, &format!("-u -l 64 -b 0 -t {seconds}"));
    let reached = (datagrams(lab) - before.0) / f64::from(seconds) / 1e3;
    let cost = (busy_seconds() - before.1) / f64::from(seconds);
    println!(
        "{name} UDP 64 B: {reached:.0} kpps reached the container, the application got {:.0}, {cost:.2} CPUs",
        rate * 1e6 / 512.0
    );
    println!(
        "{name} {}",
        lab.in_container(0, "ping -q -c 200 -i 0.01 10.0.0.2")
            .lines()
            .last()
            .unwrap()
    );
}

/// Datagrams that reached UDP in the second container, whether read or not.
fn datagrams(lab: &Lab) -> f64 {
    let counted = |counter| lab.snmp(1, "Udp", counter);
    (counted("InDatagrams") + counted("RcvbufErrors")) as f64
}

/// CPU seconds of this process, in which both hosts' tunnels run.
fn busy_seconds() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike;
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
}
