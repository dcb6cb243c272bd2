//! Hosts and containers made of namespaces: hosts on one underlay, containers plugged into their
//! datapaths. Everything is gone when the lab is dropped.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use weave_net::datapath::{
    Datapath, Forwarding, KernelConfig, KernelDatapath, NAMESPACE, PortSpec, SegmentSpec, Via,
    host_name, port_name,
};
use weave_net::linux::link::VethSpec;
use weave_net::linux::netlink::Netlink;
use weave_net::linux::netns::NetNs;
use weave_net::linux::packet::PacketSocket;
use weave_net::types::{EndpointId, Mac, SegmentId};

pub const VXLAN_PORT: u16 = 6784;
/// How long to wait for what must come.
pub const SOON: Duration = Duration::from_secs(60);
/// How long to wait for what must not come.
pub const A_WHILE: Duration = Duration::from_millis(150);
/// An EtherType for experiments (IEEE 802, local experimental 1).
const EXPERIMENT: [u8; 2] = [0x88, 0xb5];

pub struct Lab {
    pub hosts: Vec<Host>,
    _switch: NetNs,
}

pub struct Host {
    pub namespace: NetNs,
    pub address: IpAddr,
    pub datapath: KernelDatapath,
    run_dir: tempfile::TempDir,
}

pub struct Container {
    pub host: usize,
    pub namespace: NetNs,
    pub ip: Ipv4Addr,
    pub mac: Mac,
    pub endpoint: EndpointId,
    pub segment: SegmentId,
}

impl Lab {
    pub fn new(hosts: u8) -> Self {
        Self::with_underlay(hosts, 1500, false)
    }

    pub fn with_underlay(hosts: u8, mtu: u16, ipv6: bool) -> Self {
        assert!(nix::unistd::geteuid().is_root(), "these tests need root");
        let switch = NetNs::anonymous().unwrap();
        let mut netlink = Netlink::open(&switch).unwrap();
        netlink.add_bridge("br0").unwrap();
        let bridge = netlink.link("br0").unwrap().unwrap().index;
        netlink.set_mtu(&[bridge], mtu).unwrap();
        netlink.switch_on("br0", "").unwrap();
        let hosts = (1..=hosts).map(|number| {
            let namespace = NetNs::anonymous().unwrap();
            let port = VethSpec {
                port: &format!("host{number}"),
                port_mtu: mtu,
                alias: "",
                bridge,
                peer_namespace: &namespace,
                peer: "eth0",
                peer_mac: Mac::new([2, 0, 0, 0, 0, number]),
                peer_mtu: mtu,
            };
            netlink.add_veth(&port).unwrap();
            let address: IpAddr = match ipv6 {
                false => [198, 51, 100, number].into(),
                true => format!("2001:db8::{number}").parse().unwrap(),
            };
            let prefix = if ipv6 { "64 nodad" } else { "24" };
            ip(
                &namespace,
                &format!("link set lo up\nlink set eth0 up\naddr add {address}/{prefix} dev eth0"),
            );
            wait_for_port(&switch, &format!("host{number}"));
            Host::new(namespace, address)
        });
        Self {
            hosts: hosts.collect(),
            _switch: switch,
        }
    }

    /// Sets the segment up on all hosts.
    pub async fn ensure(&self, spec: &SegmentSpec) {
        for host in &self.hosts {
            host.datapath.ensure_segment(spec).await.unwrap();
        }
    }

    /// Tells all hosts where the containers of a segment are.
    pub async fn connect(&self, segment: &SegmentId, containers: &[&Container]) {
        for (number, host) in self.hosts.iter().enumerate() {
            let away = || {
                let members = containers.iter().filter(|c| c.segment == *segment);
                members.filter(|c| c.host != number)
            };
            let via = |c: &&&Container| Via::Vxlan(self.hosts[c.host].address);
            let forwarding = Forwarding {
                unicast: away().map(|c| (c.mac, via(&c))).collect(),
                flood: away().map(|c| via(&c)).collect::<BTreeSet<_>>(),
            };
            let set = host.datapath.set_forwarding(segment, &forwarding);
            set.await.unwrap();
        }
    }

    /// Starts a container as Docker does.
    pub async fn run(&self, host: usize, spec: &SegmentSpec, ip: [u8; 4]) -> Container {
        let mac = Mac::of_ip(ip.into());
        self.run_with_mac(host, spec, ip, mac).await
    }

    pub async fn run_with_mac(
        &self,
        host: usize,
        spec: &SegmentSpec,
        address: [u8; 4],
        mac: Mac,
    ) -> Container {
        let endpoint: EndpointId = format!("{:016x}", rand::random::<u64>()).parse().unwrap();
        let port = PortSpec {
            endpoint: endpoint.clone(),
            segment: spec.id.clone(),
            mac,
            mtu: spec.mtu,
        };
        let interface = self.hosts[host].datapath.plug(&port).await.unwrap();
        assert_eq!(interface, host_name(&endpoint));
        let namespace = NetNs::anonymous().unwrap();
        let there = format!(
            "/proc/{}/fd/{}",
            std::process::id(),
            namespace.as_fd().as_raw_fd()
        );
        ip(
            &self.hosts[host].namespace,
            &format!("link set {interface} netns {there} name eth0"),
        );
        let address = Ipv4Addr::from(address);
        ip(
            &namespace,
            &format!(
                "link set lo up\nlink set eth0 addrgenmode none\nlink set eth0 up\n\
                 addr add {address}/24 broadcast + dev eth0"
            ),
        );
        let bridges = self.hosts[host].datapath.namespace();
        wait_for_port(bridges, &port_name(&endpoint));
        Container {
            host,
            namespace,
            ip: address,
            mac,
            endpoint,
            segment: spec.id.clone(),
        }
    }

    /// Stops a container as Docker does.
    pub async fn stop(&self, container: Container) {
        let datapath = &self.hosts[container.host].datapath;
        let port = port_name(&container.endpoint);
        datapath.unplug(&port).await.unwrap();
    }
}

impl Host {
    fn new(namespace: NetNs, address: IpAddr) -> Self {
        let run_dir = tempfile::tempdir().unwrap();
        let datapath = open(&namespace, &run_dir);
        Self {
            namespace,
            address,
            datapath,
            run_dir,
        }
    }

    /// Lets the daemon die and start anew.
    pub fn restart(&mut self) {
        self.datapath = open(&self.namespace, &self.run_dir);
    }

    /// The names of the devices in the host's namespace.
    pub fn links(&self) -> Vec<String> {
        links(&self.namespace)
    }

    /// Listens on the underlay.
    pub fn tap(&self) -> PacketSocket {
        listen(&self.namespace, "eth0")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = NetNs::forget(self.run_dir.path(), NAMESPACE);
    }
}

impl Container {
    pub fn udp(&self) -> UdpSocket {
        let address = (Ipv4Addr::UNSPECIFIED, 7);
        // A process that another test is just starting may still hold the last one.
        let bind = || self.namespace.run(|| UdpSocket::bind(address).ok());
        let socket = soon("the port is free", || bind().unwrap());
        socket.set_read_timeout(Some(SOON)).unwrap();
        socket
    }

    pub fn tap(&self) -> PacketSocket {
        listen(&self.namespace, "eth0")
    }

    /// Sends a frame that is not IP, from and to any address.
    pub fn send_frame(&self, from: Mac, to: Mac, text: &str) {
        let frame = [
            &to.octets()[..],
            &from.octets(),
            &EXPERIMENT,
            text.as_bytes(),
        ]
        .concat();
        let interface = index(&self.namespace, "eth0");
        let socket = PacketSocket::open(&self.namespace).unwrap();
        socket.send(interface, &frame).unwrap();
    }

    /// Whether a datagram reaches another container and is answered from there.
    pub fn reaches(&self, other: &Container) -> bool {
        let (here, there) = (self.udp(), other.udp());
        let target = SocketAddr::from((other.ip, 7));
        for socket in [&here, &there] {
            let patience = Some(Duration::from_millis(700));
            socket.set_read_timeout(patience).unwrap();
        }
        let mut buffer = [0; 16];
        here.send_to(b"ping", target).is_ok()
            && there
                .recv_from(&mut buffer)
                .and_then(|(_, from)| there.send_to(b"pong", from))
                .and_then(|_| here.recv_from(&mut buffer))
                .is_ok()
    }
}

fn open(namespace: &NetNs, run_dir: &tempfile::TempDir) -> KernelDatapath {
    let config = KernelConfig {
        run_dir: run_dir.path().to_owned(),
        vxlan_port: VXLAN_PORT,
    };
    let opened = namespace.run(|| KernelDatapath::open(&config));
    opened.unwrap().unwrap()
}

fn listen(namespace: &NetNs, interface: &str) -> PacketSocket {
    let socket = PacketSocket::open(namespace).unwrap();
    socket.listen(index(namespace, interface)).unwrap();
    socket
}

fn index(namespace: &NetNs, interface: &str) -> u32 {
    let mut netlink = Netlink::open(namespace).unwrap();
    netlink.link(interface).unwrap().unwrap().index
}

pub fn links(namespace: &NetNs) -> Vec<String> {
    let links = Netlink::open(namespace).unwrap().links(None).unwrap();
    links.into_iter().map(|link| link.name).collect()
}

/// Runs commands of `ip`, one a line, in a namespace; returns what the last one printed.
pub fn ip(namespace: &NetNs, commands: &str) -> String {
    let mut printed = String::new();
    for command in commands.lines() {
        let output = namespace.run(|| {
            let words = command.split_whitespace();
            Command::new("ip").args(words).output()
        });
        let output = output.unwrap().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ip {command}: {error}");
        printed = String::from_utf8_lossy(&output.stdout).into_owned();
    }
    printed
}

/// Waits until a condition holds.
pub fn soon<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + SOON;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Some milliseconds after both ends of a pair are up the kernel lets its bridge use it.
fn wait_for_port(namespace: &NetNs, port: &str) {
    soon(&format!("{port} forwards"), || {
        let state = ip(namespace, &format!("-d link show {port}"));
        state.contains("state forwarding").then_some(())
    });
}

/// The next frame within this time.
pub fn next_frame(socket: &PacketSocket, patience: Duration) -> Option<Vec<u8>> {
    let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let patience = PollTimeout::try_from(patience).unwrap();
    if poll(&mut ready, patience).unwrap() == 0 {
        return None;
    }
    let mut frame = vec![0; 65_536];
    let length = nix::unistd::read(socket, &mut frame).unwrap();
    frame.truncate(length);
    Some(frame)
}

/// How many frames that contain this text come within this time; returns early with the first
/// `enough`.
pub fn count(socket: &PacketSocket, text: &str, enough: usize, patience: Duration) -> usize {
    let deadline = Instant::now() + patience;
    let mut found = 0;
    while found < enough
        && let Some(frame) = next_frame(socket, deadline.saturating_duration_since(Instant::now()))
    {
        let hit = frame.windows(text.len()).any(|w| w == text.as_bytes());
        found += usize::from(hit);
    }
    found
}

/// Forbids a socket's packets to be fragmented, as `ping -M do` does.
pub fn forbid_fragments(socket: &UdpSocket) {
    let value = libc::IP_PMTUDISC_DO;
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0);
}
