//! Which transport carries the frames for one peer, and why.
//!
//! Pure: what probes found and what the settings allow goes in, the choice and its reason come
//! out. Both transports are probed all the time, with packets as large as containers send: the
//! tunnel inside itself, VXLAN through itself, by [`vxlan_probe`](super::vxlan_probe), whose
//! probes are UDP datagrams between the hosts' ends of a VXLAN device with a VNI that no segment
//! has ([`PROBE_VNI`]). So what is found is what frames would find: the port, the firewall, the
//! checksum offload and the MTU.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::Via;
use crate::types::{PeerId, Vni};

/// The VNI of probes through VXLAN: no segment is given it.
pub const PROBE_VNI: u32 = Vni::MAX;

/// How long VXLAN must have worked before it is taken again, so that a path which comes and goes
/// does not move the traffic each time.
pub const STEADY: Duration = Duration::from_secs(5);

/// How long after a peer was heard first VXLAN's probes may take until they count as not
/// answered: they are sent only once the peer's devices are there too.
pub const GRACE: Duration = Duration::from_secs(3);

/// What the settings of both sides say about traffic in the clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clearance {
    /// No password is set: nothing asks for encryption.
    NotAsked,
    /// A password is set, but both sides trust the subnet between them.
    Trusted,
    /// A password is set.
    Forbidden,
    /// A password is set, and only this side trusts the subnet.
    OnlyUs,
    /// A password is set, and only the other side trusts the subnet.
    OnlyThem,
}

impl Clearance {
    /// What follows from the settings of both sides.
    pub const fn of(password: bool, we_trust: bool, they_trust: bool) -> Self {
        match (password, we_trust, they_trust) {
            (false, ..) => Self::NotAsked,
            (true, true, true) => Self::Trusted,
            (true, true, false) => Self::OnlyUs,
            (true, false, true) => Self::OnlyThem,
            (true, false, false) => Self::Forbidden,
        }
    }

    /// Whether frames may travel in the clear.
    pub const fn allows(self) -> bool {
        matches!(self, Self::NotAsked | Self::Trusted)
    }
}

/// What the probes of VXLAN found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VxlanHealth {
    /// The peer's underlay address, if it has one that is reached directly.
    pub address: Option<IpAddr>,
    /// Since when probes have been answered without a break.
    pub answered_since: Option<Instant>,
    /// Whether those of full size get through.
    pub full_size: bool,
}

/// What the probes of the tunnel found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TunnelHealth {
    /// Nothing is answered.
    #[default]
    Down,
    /// The peer answers.
    Direct,
    /// The peer answers by way of another.
    Relayed(PeerId),
}

/// Everything that the choice depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// Since when the mesh has reached the peer. One that it does not reach may well carry on
    /// without its daemon, and nobody there answers probes: its transport stays.
    pub reached_since: Option<Instant>,
    /// Whether frames may travel in the clear.
    pub clearance: Clearance,
    /// What is known of VXLAN.
    pub vxlan: VxlanHealth,
    /// What is known of the tunnel.
    pub tunnel: TunnelHealth,
}

/// Why a transport was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// No encryption is asked for, and VXLAN works.
    Works,
    /// Both sides trust the subnet, and VXLAN works.
    TrustedSubnet,
    /// A password is set.
    Encrypted(Clearance),
    /// VXLAN's probes are not answered.
    VxlanBlocked,
    /// Small probes of VXLAN are answered, large ones are not.
    VxlanTooSmall,
    /// VXLAN works again, but not for long.
    VxlanUnsteady,
    /// The peer has no address that this host could send to.
    NoAddress,
    /// The peer answers by way of another only.
    Relayed(PeerId),
    /// Neither transport is answered: the last one that was is kept.
    Unreachable,
    /// What was used before this host's daemon started anew.
    AsBefore,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Works => f.write_str("no password is set and UDP 6784 gets through"),
            Self::TrustedSubnet => f.write_str("both hosts trust the subnet"),
            Self::Encrypted(Clearance::OnlyUs) => {
                f.write_str("a password is set and the other host does not trust the subnet")
            }
            Self::Encrypted(Clearance::OnlyThem) => {
                f.write_str("a password is set and only the other host trusts the subnet")
            }
            Self::Encrypted(_) => f.write_str("a password is set"),
            Self::VxlanBlocked => f.write_str("UDP 6784 does not get through"),
            Self::VxlanTooSmall => f.write_str("large packets to UDP 6784 do not get through"),
            Self::VxlanUnsteady => f.write_str("UDP 6784 gets through again, but not for long"),
            Self::NoAddress => f.write_str("no address of the peer is known"),
            Self::Relayed(via) => {
                write!(f, "the peer is reached by way of peer {} only", via.short())
            }
            Self::Unreachable => f.write_str("the peer answers on neither UDP 6783 nor UDP 6784"),
            Self::AsBefore => f.write_str("as before the restart; the peer was not heard since"),
        }
    }
}

/// A transport and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// How frames reach the peer.
    pub via: Via,
    /// Why so.
    pub reason: Reason,
}

/// The choice for one peer.
#[derive(Debug)]
pub struct Transport {
    peer: PeerId,
    choice: Option<Choice>,
}

impl Transport {
    /// Before anything is known.
    pub const fn new(peer: PeerId) -> Self {
        Self { peer, choice: None }
    }

    /// What was chosen last.
    pub fn choice(&self) -> Option<Choice> {
        self.choice
    }

    /// Chooses by what is known now; returns the choice when it or its reason changed.
    pub fn handle_evidence(&mut self, evidence: &Evidence, now: Instant) -> Option<Choice> {
        let choice = self.choose(evidence, now);
        if choice == self.choice {
            return None;
        }
        self.choice = choice;
        choice
    }

    /// When the choice may change though no new evidence comes, and why.
    pub fn poll_timeout(&self, evidence: &Evidence) -> Option<(Instant, &'static str)> {
        if self.choice.map(|choice| choice.reason) == Some(Reason::VxlanUnsteady) {
            let since = evidence.vxlan.answered_since?;
            return Some((since + STEADY, "vxlan has been steady"));
        }
        let since = evidence.reached_since?;
        Some((since + GRACE, "probes should have been answered"))
    }

    fn choose(&self, evidence: &Evidence, now: Instant) -> Option<Choice> {
        let tunnel = |reason| Choice {
            via: Via::Tunnel(self.peer),
            reason,
        };
        let early = evidence
            .reached_since
            .is_none_or(|since| now.saturating_duration_since(since) < GRACE);
        if !evidence.clearance.allows() {
            let in_clear = |choice: Choice| matches!(choice.via, Via::Vxlan(_));
            return match evidence.tunnel {
                TunnelHealth::Down if early && !self.choice.is_some_and(in_clear) => self.choice,
                TunnelHealth::Down => Some(tunnel(Reason::Unreachable)),
                TunnelHealth::Direct => Some(tunnel(Reason::Encrypted(evidence.clearance))),
                TunnelHealth::Relayed(via) => Some(tunnel(Reason::Relayed(via))),
            };
        }
        let answered = evidence.vxlan.answered_since.is_some();
        if evidence.reached_since.is_none() || (early && !answered) {
            return self.choice;
        }
        let against = match self.against_vxlan(&evidence.vxlan, now) {
            Ok(address) => {
                let reason = match evidence.clearance {
                    Clearance::Trusted => Reason::TrustedSubnet,
                    _ => Reason::Works,
                };
                return Some(Choice {
                    via: Via::Vxlan(address),
                    reason,
                });
            }
            Err(reason) => reason,
        };
        match evidence.tunnel {
            TunnelHealth::Direct => Some(tunnel(against)),
            TunnelHealth::Relayed(via) => Some(tunnel(Reason::Relayed(via))),
            TunnelHealth::Down => self.choose_without_tunnel(evidence),
        }
    }

    /// An unsteady or narrow VXLAN is better than a tunnel that is down; and when nothing is
    /// answered, nothing is better than what there was.
    fn choose_without_tunnel(&self, evidence: &Evidence) -> Option<Choice> {
        let vxlan = &evidence.vxlan;
        let (Some(address), Some(_)) = (vxlan.address, vxlan.answered_since) else {
            let reason = Reason::Unreachable;
            return self.choice.map(|choice| Choice { reason, ..choice });
        };
        let reason = match (evidence.clearance, vxlan.full_size) {
            // Leave to go in the clear depends on this reason.
            (Clearance::Trusted, _) => Reason::TrustedSubnet,
            (_, true) => Reason::Works,
            (_, false) => Reason::VxlanTooSmall,
        };
        Some(Choice {
            via: Via::Vxlan(address),
            reason,
        })
    }

    fn against_vxlan(&self, vxlan: &VxlanHealth, now: Instant) -> Result<IpAddr, Reason> {
        let address = vxlan.address.ok_or(Reason::NoAddress)?;
        let since = vxlan.answered_since.ok_or(Reason::VxlanBlocked)?;
        if !vxlan.full_size {
            return Err(Reason::VxlanTooSmall);
        }
        let in_use = self
            .choice
            .is_none_or(|choice| matches!(choice.via, Via::Vxlan(_)));
        let steady = now.saturating_duration_since(since) >= STEADY;
        if !(in_use || steady) {
            return Err(Reason::VxlanUnsteady);
        }
        Ok(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId::from_bytes([1; 16]);
    const RELAY: PeerId = PeerId::from_bytes([2; 16]);

    fn address() -> IpAddr {
        "192.0.2.7".parse().unwrap()
    }

    fn evidence(since: Option<Instant>) -> Evidence {
        Evidence {
            reached_since: Some(Instant::now() - GRACE * 2),
            clearance: Clearance::NotAsked,
            vxlan: VxlanHealth {
                address: Some(address()),
                answered_since: since,
                full_size: true,
            },
            tunnel: TunnelHealth::Direct,
        }
    }

    #[test]
    fn vxlan_is_taken_at_once_at_first_and_only_when_steady_afterwards() {
        let start = Instant::now();
        let mut transport = Transport::new(PEER);
        let works = transport.handle_evidence(&evidence(Some(start)), start);
        assert_eq!(works.unwrap().via, Via::Vxlan(address()));
        let blocked = transport.handle_evidence(&evidence(None), start).unwrap();
        assert_eq!(
            (blocked.via, blocked.reason),
            (Via::Tunnel(PEER), Reason::VxlanBlocked)
        );
        let back = evidence(Some(start));
        let unsteady = transport.handle_evidence(&back, start).unwrap();
        assert_eq!(
            (unsteady.via, unsteady.reason),
            (Via::Tunnel(PEER), Reason::VxlanUnsteady)
        );
        let (due, _) = transport.poll_timeout(&back).unwrap();
        assert_eq!(due, start + STEADY);
        let again = transport.handle_evidence(&back, due).unwrap();
        assert_eq!(
            (again.via, again.reason),
            (Via::Vxlan(address()), Reason::Works)
        );
    }

    #[test]
    fn nothing_is_sent_in_the_clear_unless_both_sides_trust_the_subnet() {
        let start = Instant::now();
        for we_trust in [false, true] {
            for they_trust in [false, true] {
                let mut evidence = evidence(Some(start));
                evidence.clearance = Clearance::of(true, we_trust, they_trust);
                for tunnel in [
                    TunnelHealth::Down,
                    TunnelHealth::Direct,
                    TunnelHealth::Relayed(RELAY),
                ] {
                    evidence.tunnel = tunnel;
                    let mut transport = Transport::new(PEER);
                    let _ = transport.handle_evidence(&evidence, start + STEADY * 2);
                    let via = transport.choice().unwrap().via;
                    let clear = matches!(via, Via::Vxlan(_));
                    assert_eq!(clear, we_trust && they_trust);
                }
            }
        }
    }

    #[test]
    fn large_packets_that_vanish_are_a_reason_for_the_tunnel() {
        let start = Instant::now();
        let mut evidence = evidence(Some(start));
        evidence.vxlan.full_size = false;
        let mut transport = Transport::new(PEER);
        let choice = transport.handle_evidence(&evidence, start).unwrap();
        assert_eq!(
            (choice.via, choice.reason),
            (Via::Tunnel(PEER), Reason::VxlanTooSmall)
        );
        evidence.tunnel = TunnelHealth::Down;
        let choice = transport.handle_evidence(&evidence, start).unwrap();
        assert_eq!(choice.via, Via::Vxlan(address()));
    }

    #[test]
    fn a_peer_whose_daemon_is_down_keeps_its_transport() {
        let start = Instant::now();
        let mut transport = Transport::new(PEER);
        let works = transport.handle_evidence(&evidence(Some(start)), start);
        let mut silent = evidence(None);
        silent.reached_since = None;
        silent.tunnel = TunnelHealth::Down;
        assert_eq!(transport.handle_evidence(&silent, start + STEADY), None);
        // It is back; the tunnel answers before VXLAN's probes do.
        let back = start + STEADY * 2;
        silent.reached_since = Some(back);
        silent.tunnel = TunnelHealth::Direct;
        assert_eq!(transport.handle_evidence(&silent, back), None);
        assert_eq!(transport.choice(), works);
        let (due, _) = transport.poll_timeout(&silent).unwrap();
        assert_eq!(due, back + GRACE);
        let choice = transport.handle_evidence(&silent, due).unwrap();
        assert_eq!(choice.via, Via::Tunnel(PEER));
    }

    #[test]
    fn when_nothing_is_answered_the_last_transport_is_kept() {
        let start = Instant::now();
        let mut transport = Transport::new(PEER);
        let _ = transport.handle_evidence(&evidence(Some(start)), start);
        let mut silent = evidence(None);
        silent.tunnel = TunnelHealth::Down;
        let choice = transport.handle_evidence(&silent, start).unwrap();
        assert_eq!(
            (choice.via, choice.reason),
            (Via::Vxlan(address()), Reason::Unreachable)
        );
    }

    #[test]
    fn a_peer_without_a_direct_path_is_reached_by_way_of_another() {
        let start = Instant::now();
        let mut evidence = evidence(None);
        evidence.tunnel = TunnelHealth::Relayed(RELAY);
        let mut transport = Transport::new(PEER);
        let choice = transport.handle_evidence(&evidence, start).unwrap();
        assert_eq!(
            (choice.via, choice.reason),
            (Via::Tunnel(PEER), Reason::Relayed(RELAY))
        );
        assert_eq!(transport.handle_evidence(&evidence, start), None);
    }
}
