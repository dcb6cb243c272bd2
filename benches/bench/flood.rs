//! Garbage from a host that nobody knows.

use std::net::UdpSocket;
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use weave_net::datapath::tunnel;

use crate::figure::FloodTo;
use crate::lab::{Lab, inside, sh};

/// Where the garbage comes from.
const FROM: &str = "192.168.77.99";
/// The port that the receiving host's firewall drops.
const CLOSED: u16 = 9;
/// Datagrams in a second: what leaves this machine's processors time for the network.
const RATE: u32 = 50_000;
/// Datagrams sent before looking at the clock.
const BURST: u32 = 50;

/// A flood that ends when dropped.
pub(crate) struct Flood(Child);

impl Flood {
    /// From the third host to the second.
    pub(crate) fn start(lab: &Lab, to: FloodTo) -> Self {
        let this = std::env::current_exe().expect("this program has a path");
        sh(&format!(
            "ip -n {} address add {FROM}/24 dev eth0",
            lab.host(2)
        ));
        let port = match to {
            FloodTo::Tunnel => tunnel::PORT,
            FloodTo::Firewall => CLOSED,
        };
        sh(&format!(
            "ip netns exec {} nft '
             add table ip t
             add chain ip t c {{ type filter hook input priority 0; }}
             add rule ip t c udp dport {CLOSED} drop'",
            lab.host(1)
        ));
        let child = inside(&lab.host(2), &this.to_string_lossy())
            .args(["flood", &format!("{}:{port}", Lab::address(1))])
            .stdin(Stdio::null())
            .spawn();
        Self(child.expect("the flood starts"))
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends garbage to an address until killed: some of it nearly right.
pub(crate) fn run(words: &[String]) {
    let [to] = words else {
        panic!("expected an address, got {words:?}");
    };
    let socket = UdpSocket::bind((FROM, 0)).expect("a socket");
    socket.connect(to).expect("an address");
    let begun = Instant::now();
    for burst in 1u32.. {
        for at in 0..BURST {
            let mut junk: [u8; 1400] =
                std::array::from_fn(|i| (i as u32).wrapping_mul(burst).wrapping_add(at) as u8);
            // The first bytes of a sealed packet, of a relayed one, of none.
            junk[..4].copy_from_slice(&[0x11 + (at % 3) as u8, 0, 0, 0]);
            let len = [40, 64, 200, 1400][at as usize % 4];
            let _ = socket.send(&junk[..len]);
        }
        let due = Duration::from_secs_f64(f64::from(burst) * f64::from(BURST) / f64::from(RATE));
        thread::sleep(due.saturating_sub(begun.elapsed()));
    }
}
