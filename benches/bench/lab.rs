//! Hosts and containers made of network namespaces; everything is gone when the lab is dropped.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

static LABS: AtomicU32 = AtomicU32::new(0);

/// How long anything may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What connects the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Underlay {
    /// A virtual wire as the kernel makes it: whole groups of packets cross as one.
    Plain,
    /// One packet at a time crosses, as on a real wire; the receiving kernel aggregates.
    Wire,
    /// As `Wire`, and of a thousand packets to the second host so many are lost.
    Lossy(u16),
}

impl Underlay {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Plain => "plain".to_owned(),
            Self::Wire => "wire-like".to_owned(),
            Self::Lossy(lost) => format!("wire-like, {} % lost", f64::from(lost) / 10.0),
        }
    }
}

/// The namespaces of one measurement.
pub(crate) struct Lab {
    name: String,
    pub(crate) hosts: u8,
}

impl Lab {
    pub(crate) fn new(hosts: u8, underlay: Underlay) -> Self {
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let name = format!("wb{}x{number}", std::process::id());
        let lab = Self { name, hosts };
        for at in 0..hosts {
            for namespace in [lab.host(at), lab.sandbox(at), lab.container(at)] {
                sh(&format!(
                    "ip netns add {namespace} && ip -n {namespace} link set lo up"
                ));
            }
        }
        sh(&format!("ip netns add {}", lab.middle()));
        if hosts == 2 && !matches!(underlay, Underlay::Lossy(_)) {
            sh(&format!(
                "ip -n {} link add eth0 type veth peer name eth0 netns {}",
                lab.host(0),
                lab.host(1)
            ));
        } else {
            lab.connect_through_middle();
        }
        for at in 0..hosts {
            let host = lab.host(at);
            let address = Self::address(at);
            sh(&format!(
                "ip -n {host} address add {address}/24 dev eth0 && ip -n {host} link set eth0 up"
            ));
        }
        match underlay {
            Underlay::Plain => lab.switch(hosts),
            Underlay::Wire => {
                lab.cut_groups();
                lab.switch(hosts);
            }
            Underlay::Lossy(lost) => {
                lab.cut_groups();
                lab.lose(lost);
            }
        }
        lab
    }

    /// The namespace of a host.
    pub(crate) fn host(&self, at: u8) -> String {
        format!("{}h{at}", self.name)
    }

    /// The namespace in which Docker keeps the bridge of an overlay network.
    pub(crate) fn sandbox(&self, at: u8) -> String {
        format!("{}s{at}", self.name)
    }

    /// The namespace of a host's container.
    pub(crate) fn container(&self, at: u8) -> String {
        format!("{}c{at}", self.name)
    }

    /// A host's address on the underlay.
    pub(crate) fn address(at: u8) -> String {
        format!("192.168.77.{}", at + 1)
    }

    fn middle(&self) -> String {
        format!("{}u", self.name)
    }

    fn connect_through_middle(&self) {
        let middle = self.middle();
        for at in 0..self.hosts {
            sh(&format!(
                "ip -n {} link add eth0 type veth peer name p{at} netns {middle} && ip -n {middle} link set p{at} up",
                self.host(at)
            ));
        }
    }

    fn switch(&self, hosts: u8) {
        if hosts == 2 {
            return;
        }
        let middle = self.middle();
        sh(&format!(
            "ip -n {middle} link add br0 type bridge && ip -n {middle} link set br0 up"
        ));
        for at in 0..hosts {
            sh(&format!("ip -n {middle} link set p{at} master br0"));
        }
    }

    /// Lets only single packets cross, which the receiving end aggregates where it can: veth does
    /// so only while its peer does no segmentation (`veth_skb_is_eligible_for_gro`).
    fn cut_groups(&self) {
        let off = "tso off tx-udp-segmentation off tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off";
        for at in 0..self.hosts {
            sh(&format!(
                "ip netns exec {} ethtool -K eth0 {off} gro on",
                self.host(at)
            ));
            let middle = self.middle();
            if try_sh(&format!("ip -n {middle} link show p{at}")).is_ok() {
                sh(&format!(
                    "ip netns exec {middle} ethtool -K p{at} {off} gro off"
                ));
            }
        }
    }

    /// Passes packets on between two hosts, but for some of those to the second.
    fn lose(&self, lost: u16) {
        sh(&format!(
            "ip netns exec {} nft '
             add table netdev t
             add chain netdev t there {{ type filter hook ingress device p0 priority 0; }}
             add chain netdev t back {{ type filter hook ingress device p1 priority 0; }}
             add rule netdev t there numgen random mod 1000 < {lost} drop
             add rule netdev t there fwd to p1
             add rule netdev t back fwd to p0'",
            self.middle()
        ));
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for at in 0..self.hosts {
            for namespace in [self.container(at), self.sandbox(at), self.host(at)] {
                let _ = try_sh(&format!("ip netns del {namespace}"));
            }
        }
        let _ = try_sh(&format!("ip netns del {}", self.middle()));
    }
}

/// A program in a namespace.
pub(crate) fn inside(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}

/// Whether there is a program of this name.
pub(crate) fn has(program: &str) -> bool {
    try_sh(&format!("command -v {program}")).is_ok()
}

/// Runs a command line, which must succeed; returns what it printed.
pub(crate) fn sh(line: &str) -> String {
    try_sh(line).unwrap_or_else(|output| panic!("{line}: {output}"))
}

/// Runs a command line; returns what it printed, as an error if it fails.
pub(crate) fn try_sh(line: &str) -> Result<String, String> {
    let outcome = Command::new("sh")
        .args(["-ec", line])
        .stdin(Stdio::null())
        .output()
        .expect("there is a shell");
    let printed = String::from_utf8_lossy(&outcome.stdout).into_owned();
    if outcome.status.success() {
        return Ok(printed);
    }
    Err(printed + &String::from_utf8_lossy(&outcome.stderr))
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(
            begun.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}
