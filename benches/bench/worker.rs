//! One host's daemon, as far as frames are concerned: a process of its own, so that its memory and
//! processor time can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use weave_net::datapath::tunnel::{self, Output, PathState, PeerRoute, Tunnel, TunnelConfig};
use weave_net::datapath::{
    Datapath, Forwarding, KernelConfig, KernelDatapath, NAMESPACE, PortSpec, SegmentSpec, Via,
    tap_name,
};
use weave_net::linux::netns::NetNs;
use weave_net::linux::tap::Tap;
use weave_net::types::{Mac, PeerId, SegmentId, Vni};
use zeroize::Zeroizing;

use crate::lab::{Lab, wait_until};

/// What containers may send: through the tunnel, and by VXLAN.
const TUNNEL_MTU: u16 = 1400;
const VXLAN_MTU: u16 = 1450;
/// The largest message of a handshake.
const MESSAGE: usize = 2048;

/// How frames travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Clear,
    Encrypted,
    /// The first two hosts reach each other by way of the third.
    Relayed,
}

struct Worker {
    mode: Mode,
    at: u8,
    hosts: u8,
    messages: PathBuf,
}

/// The address of a host's container.
pub(crate) fn container_address(at: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, at + 1)
}

/// The hardware address of a host's container.
pub(crate) fn container_mac(at: u8) -> Mac {
    Mac::of_ip(container_address(at).into())
}

/// Serves until its input ends: `MODE HOST HOSTS DIRECTORY`.
pub(crate) fn run(words: &[String]) {
    let [mode, at, hosts, messages] = words else {
        panic!("expected mode, host, hosts and a directory, got {words:?}");
    };
    let worker = Worker {
        mode: match mode.as_str() {
            "clear" => Mode::Clear,
            "encrypted" => Mode::Encrypted,
            _ => Mode::Relayed,
        },
        at: at.parse().expect("a number"),
        hosts: hosts.parse().expect("a number"),
        messages: messages.into(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(worker.serve());
}

impl Worker {
    async fn serve(&self) {
        let run_dir = tempfile::tempdir().expect("room for a namespace");
        let config = KernelConfig {
            run_dir: run_dir.path().to_owned(),
            vxlan_port: 6784,
        };
        let kernel = KernelDatapath::open(&config).expect("a datapath");
        let segment = SegmentSpec {
            id: SegmentId::of_name("bench"),
            vni: Vni::try_from(5).expect("a VNI"),
            mtu: if self.mode == Mode::Clear {
                VXLAN_MTU
            } else {
                TUNNEL_MTU
            },
            vxlan: self.mode == Mode::Clear,
            tunnel: self.mode != Mode::Clear,
        };
        let tunnel = segment.tunnel.then(|| self.start_tunnel(&kernel, &segment));
        kernel.ensure_segment(&segment).await.expect("a segment");
        let port = PortSpec {
            endpoint: format!("{:016x}", self.at).parse().expect("an endpoint"),
            segment: segment.id.clone(),
            mac: container_mac(self.at),
            mtu: segment.mtu,
        };
        println!("{}", kernel.plug(&port).await.expect("a port"));
        order();
        let forwarding = self.forwarding();
        let set = kernel.set_forwarding(&segment.id, &forwarding);
        set.await.expect("forwarding");
        if let Some(tunnel) = &tunnel {
            tunnel.set_forwarding(&segment.id, &forwarding);
            self.connect(tunnel);
        }
        println!("ready");
        order();
        if let Some(tunnel) = &tunnel
            && std::env::var_os("BENCH_STATUS").is_some()
        {
            eprintln!("{:#?}", tunnel.status());
        }
        drop(tunnel);
        NetNs::forget(run_dir.path(), NAMESPACE).expect("the namespace can go");
    }

    fn start_tunnel(&self, kernel: &KernelDatapath, segment: &SegmentSpec) -> Arc<Tunnel> {
        let tap = Tap::open(
            &tap_name(segment.id.tag()),
            Some(kernel.namespace().as_fd()),
        );
        let socket = UnixDatagram::bind(self.messages.join(self.at.to_string()));
        let socket = Arc::new(socket.expect("a socket for messages"));
        let config = TunnelConfig {
            peer: peer(self.at),
            static_key: Zeroizing::new(key(self.at)),
            password_key: Some(Zeroizing::new([9; 32])),
            address: None,
            port: tunnel::PORT,
            seed: rand::random(),
        };
        let output = {
            let (socket, messages) = (Arc::clone(&socket), self.messages.clone());
            let (at, hosts) = (self.at, self.hosts);
            move |output| {
                if let Output::Message(to, message) = output {
                    send(&socket, &messages, at, hosts, to, &message);
                }
            }
        };
        let tunnel = Arc::new(Tunnel::start(config, output).expect("a tunnel"));
        tunnel.add_segment(segment.id.clone(), segment.vni, tap.expect("a TAP"));
        let reader = Arc::downgrade(&tunnel);
        thread::spawn(move || {
            let mut buffer = [0; MESSAGE];
            while let Ok(len) = socket.recv(&mut buffer) {
                let (Some(tunnel), [from, message @ ..]) = (reader.upgrade(), &buffer[..len])
                else {
                    return;
                };
                tunnel.handle_mesh_message(peer(*from), Bytes::copy_from_slice(message));
            }
        });
        tunnel
    }

    fn others(&self) -> impl Iterator<Item = u8> {
        (0..self.hosts).filter(|other| *other != self.at)
    }

    fn forwarding(&self) -> Forwarding {
        let via = |other: u8| match self.mode {
            Mode::Clear => Via::Vxlan(underlay(other)),
            _ => Via::Tunnel(peer(other)),
        };
        Forwarding {
            unicast: self
                .others()
                .map(|o| (container_mac(o), via(o)))
                .collect::<BTreeMap<_, _>>(),
            flood: self.others().map(via).collect::<BTreeSet<_>>(),
        }
    }

    fn connect(&self, tunnel: &Tunnel) {
        for other in self.others() {
            let relayed = self.mode == Mode::Relayed && self.at < 2 && other < 2;
            let route = PeerRoute {
                endpoint: (!relayed).then(|| SocketAddr::new(underlay(other), tunnel::PORT)),
                relay: relayed.then(|| peer(2)),
            };
            tunnel.set_peer(peer(other), route);
        }
        wait_until("all paths are probed", || {
            let peers = tunnel.status().expect("a tunnel that answers").peers;
            peers.iter().all(|peer| {
                matches!(
                    peer.path,
                    PathState::Direct { settled: true, .. }
                        | PathState::Relayed { settled: true, .. }
                )
            })
        });
    }
}

/// Waits for a line, or the end, of the input.
fn order() {
    let _ = io::stdin().read_line(&mut String::new());
}

/// Sends a message of a handshake, as the mesh would; one that is lost is sent again.
fn send(socket: &UnixDatagram, to_dir: &Path, at: u8, hosts: u8, to: PeerId, message: &[u8]) {
    let Some(other) = (0..hosts).find(|other| peer(*other) == to) else {
        return;
    };
    let datagram = [&[at], message].concat();
    let _ = socket.send_to(&datagram, to_dir.join(other.to_string()));
}

fn key(at: u8) -> [u8; 32] {
    [at + 1; 32]
}

fn peer(at: u8) -> PeerId {
    let secret = x25519_dalek::StaticSecret::from(key(at));
    PeerId::of_public_key(x25519_dalek::PublicKey::from(&secret).as_bytes())
}

fn underlay(at: u8) -> IpAddr {
    Lab::address(at).parse().expect("an address")
}
