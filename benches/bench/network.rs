//! The networks that are compared: each connects the containers of all hosts of a lab.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use tempfile::TempDir;

use crate::lab::{Lab, inside, sh, try_sh, wait_until};
use crate::worker;

/// What carries the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Nothing: from host to host.
    Veth,
    /// What Docker's overlay driver makes of the kernel's VXLAN.
    Overlay,
    /// Our devices, in the clear.
    Clear,
    /// Our tunnel.
    Encrypted,
    /// Our tunnel by way of a third host.
    Relayed,
    /// WireGuard in Go, routed.
    WireGuardGo,
    /// WireGuard in Rust, routed.
    GotaTun,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Veth => "raw veth",
            Self::Overlay => "Docker's overlay",
            Self::Clear => "ours, in the clear",
            Self::Encrypted => "ours, encrypted",
            Self::Relayed => "ours, relayed",
            Self::WireGuardGo => "wireguard-go",
            Self::GotaTun => "gotatun",
        }
    }

    /// The program it needs that may not be installed.
    pub(crate) fn program(self) -> Option<&'static str> {
        match self {
            Self::WireGuardGo => Some("wireguard-go"),
            Self::GotaTun => Some("gotatun"),
            _ => None,
        }
    }
}

/// A network that is up.
pub(crate) struct Network {
    kind: Kind,
    daemons: Vec<Daemon>,
    /// Where the daemons' messages to each other go.
    _messages: TempDir,
}

/// One host's program.
struct Daemon {
    child: Child,
    lines: Option<BufReader<ChildStdout>>,
    orders: Option<ChildStdin>,
}

impl Network {
    pub(crate) fn start(kind: Kind, lab: &Lab) -> Self {
        let messages = tempfile::tempdir().expect("there is room for sockets");
        let daemons = match kind {
            Kind::Veth => Vec::new(),
            Kind::Overlay => {
                (0..lab.hosts).for_each(|at| make_overlay(lab, at));
                Vec::new()
            }
            Kind::Clear | Kind::Encrypted | Kind::Relayed => start_ours(kind, lab, messages.path()),
            Kind::WireGuardGo | Kind::GotaTun => start_wireguard(kind, lab),
        };
        let network = Self {
            kind,
            daemons,
            _messages: messages,
        };
        for at in 1..lab
            .hosts
            .min(if kind == Kind::Relayed { 2 } else { u8::MAX })
        {
            let ping = format!(
                "ip netns exec {} ping -c 1 -W 1 {}",
                network.container(lab, 0),
                network.address(at)
            );
            wait_until("the containers talk", || try_sh(&ping).is_ok());
        }
        network
    }

    /// The namespace from which the network is used.
    pub(crate) fn container(&self, lab: &Lab, at: u8) -> String {
        match self.kind {
            Kind::Veth => lab.host(at),
            _ => lab.container(at),
        }
    }

    /// The address of a host's container.
    pub(crate) fn address(&self, at: u8) -> String {
        match self.kind {
            Kind::Veth => Lab::address(at),
            Kind::WireGuardGo | Kind::GotaTun => format!("10.{}.0.2", at + 1),
            _ => worker::container_address(at).to_string(),
        }
    }

    /// The programs that carry frames, one for each host.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.daemons.iter().map(|d| d.child.id()).collect()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for daemon in &mut self.daemons {
            // A worker ends with its input, and takes its devices with it.
            if daemon.orders.take().is_none() {
                let _ = daemon.child.kill();
            }
            let _ = daemon.child.wait();
        }
    }
}

/// As Docker's overlay driver: a bridge and a VXLAN device in a namespace of their own, all
/// addresses known beforehand.
fn make_overlay(lab: &Lab, at: u8) {
    let (host, sandbox, container) = (lab.host(at), lab.sandbox(at), lab.container(at));
    sh(&format!(
        "ip -n {sandbox} link add br0 type bridge && ip -n {sandbox} link set br0 mtu 1450 up
         ip -n {host} link add vxlan0 type vxlan id 4097 dstport 4789 learning proxy l2miss l3miss
         ip -n {host} link set vxlan0 netns {sandbox}
         ip -n {sandbox} link set vxlan0 mtu 1450 master br0 up
         ip -n {container} link add eth0 mtu 1450 type veth peer name veth0 mtu 1450 netns {sandbox}
         ip -n {sandbox} link set veth0 master br0 up
         ip -n {container} link set eth0 address {} up
         ip -n {container} address add {}/24 dev eth0",
        worker::container_mac(at),
        worker::container_address(at),
    ));
    for other in (0..lab.hosts).filter(|other| *other != at) {
        let mac = worker::container_mac(other);
        sh(&format!(
            "ip netns exec {sandbox} bridge fdb add {mac} dev vxlan0 dst {} self permanent
             ip -n {sandbox} neigh add {} lladdr {mac} dev vxlan0 nud permanent",
            Lab::address(other),
            worker::container_address(other),
        ));
    }
}

fn start_ours(kind: Kind, lab: &Lab, messages: &Path) -> Vec<Daemon> {
    let this = std::env::current_exe().expect("this program has a path");
    let mode = match kind {
        Kind::Clear => "clear",
        Kind::Relayed => "relayed",
        _ => "encrypted",
    };
    let start = |at: u8| {
        let mut child = inside(&lab.host(at), &this.to_string_lossy())
            .args(["worker", mode, &at.to_string(), &lab.hosts.to_string()])
            .arg(messages)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a worker starts");
        let mut daemon = Daemon {
            lines: child.stdout.take().map(BufReader::new),
            orders: child.stdin.take(),
            child,
        };
        let port = daemon.next_line();
        let (host, container) = (lab.host(at), lab.container(at));
        sh(&format!(
            "ip -n {host} link set {port} netns {container} name eth0
             ip -n {container} link set eth0 up
             ip -n {container} address add {}/24 dev eth0",
            worker::container_address(at)
        ));
        daemon
    };
    let mut daemons: Vec<_> = (0..lab.hosts).map(start).collect();
    for daemon in &mut daemons {
        daemon.order("connect");
    }
    for daemon in &mut daemons {
        assert_eq!(daemon.next_line(), "ready");
    }
    daemons
}

fn start_wireguard(kind: Kind, lab: &Lab) -> Vec<Daemon> {
    let key = || sh("wg genkey").trim().to_owned();
    let keys: Vec<String> = (0..lab.hosts).map(|_| key()).collect();
    let public = |key: &str| sh(&format!("echo {key} | wg pubkey")).trim().to_owned();
    // The interfaces of all hosts have one name space where the programs listen for orders.
    let device = |at: u8| lab.host(at);
    let start = |at: u8| {
        let program = kind.program().unwrap_or_default();
        let (host, container, device) = (lab.host(at), lab.container(at), device(at));
        let child = inside(&host, program)
            .args(["--foreground", &device])
            .args((kind == Kind::GotaTun).then_some("--disable-drop-privileges"))
            .env("LOG_LEVEL", "error")
            .env("WG_LOG_LEVEL", "error")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        wait_until("the device is there", || {
            try_sh(&format!("ip -n {host} link show {device}")).is_ok()
                && try_sh(&format!("ip netns exec {host} wg show {device}")).is_ok()
        });
        sh(&format!(
            "ip -n {host} link add port mtu 1420 type veth peer name eth0 mtu 1420 netns {container}
             ip -n {host} address add 10.{0}.0.1/24 dev port && ip -n {host} link set port up
             ip -n {container} address add 10.{0}.0.2/24 dev eth0 && ip -n {container} link set eth0 up
             ip -n {container} route add default via 10.{0}.0.1
             ip netns exec {host} sysctl -qw net.ipv4.ip_forward=1
             echo {1} | ip netns exec {host} wg set {device} listen-port 51820 private-key /dev/stdin
             ip -n {host} link set {device} mtu 1420 up",
            at + 1,
            keys[usize::from(at)],
        ));
        for other in (0..lab.hosts).filter(|other| *other != at) {
            sh(&format!(
                "ip netns exec {host} wg set {device} peer {} endpoint {}:51820 allowed-ips 10.{2}.0.0/24
                 ip -n {host} route add 10.{2}.0.0/24 dev {device}",
                public(&keys[usize::from(other)]),
                Lab::address(other),
                other + 1,
            ));
        }
        Daemon {
            child,
            lines: None,
            orders: None,
        }
    };
    (0..lab.hosts).map(start).collect()
}

impl Daemon {
    fn next_line(&mut self) -> String {
        let mut line = String::new();
        let lines = self.lines.as_mut().expect("a worker prints");
        lines.read_line(&mut line).expect("a worker prints");
        line.trim().to_owned()
    }

    fn order(&mut self, order: &str) {
        let orders = self.orders.as_mut().expect("a worker listens");
        writeln!(orders, "{order}").expect("a worker listens");
    }
}
