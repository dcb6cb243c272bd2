//! Which transport reaches which peer, and why.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::datapath::Via;
use crate::datapath::transport::{Choice, Reason};
use crate::types::PeerId;

/// What the operator's settings allow to carry frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether a password is set: then nothing travels in the clear, except between hosts that
    /// both trust the subnet between them.
    pub encrypt: bool,
    /// Whether this host trusts a subnet.
    pub trusts: bool,
}

/// The way to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where frames go; `None` when nothing may carry them.
    #[serde(skip)]
    pub via: Option<Via>,
    /// `vxlan`, `tunnel` or `none`.
    pub transport: String,
    /// Why this transport.
    pub reason: String,
}

impl Policy {
    /// Whether segments have devices that carry frames in the clear.
    pub const fn allows_vxlan(self) -> bool {
        !self.encrypt || self.trusts
    }

    /// The way to a peer with this underlay address, for which this was chosen by what its probes
    /// found. The address is newer than the choice.
    pub fn route(self, peer: PeerId, address: Option<IpAddr>, choice: Option<Choice>) -> Route {
        let wants_vxlan = match choice {
            Some(choice) => matches!(choice.via, Via::Vxlan(_)),
            None => true,
        };
        let cleared = choice.is_some_and(|choice| choice.reason == Reason::TrustedSubnet);
        let reason = |fallback: &str| match choice {
            Some(choice) => choice.reason.to_string(),
            None => fallback.to_owned(),
        };
        if !wants_vxlan || (self.encrypt && !cleared) {
            return Route {
                via: Some(Via::Tunnel(peer)),
                transport: "tunnel".to_owned(),
                reason: reason("a password is set"),
            };
        }
        match address {
            Some(address) => Route {
                via: Some(Via::Vxlan(address)),
                transport: "vxlan".to_owned(),
                reason: reason("no password is set; the ways to the peer are not probed"),
            },
            None => Route {
                via: None,
                transport: "none".to_owned(),
                reason: "the peer's address is not known".to_owned(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId::from_bytes([1; 16]);

    #[test]
    fn with_a_password_only_the_trusted_are_reached_in_the_clear() {
        let address: IpAddr = [192, 0, 2, 7].into();
        let choice = |reason| {
            Some(Choice {
                via: Via::Vxlan(address),
                reason,
            })
        };
        for trusts in [false, true] {
            let policy = Policy {
                encrypt: true,
                trusts,
            };
            for choice in [None, choice(Reason::Works), choice(Reason::VxlanTooSmall)] {
                let route = policy.route(PEER, Some(address), choice);
                assert_eq!(route.via, Some(Via::Tunnel(PEER)));
            }
            let trusted = policy.route(PEER, Some(address), choice(Reason::TrustedSubnet));
            assert_eq!(trusted.via, Some(Via::Vxlan(address)));
        }
    }

    #[test]
    fn a_peer_that_moved_is_sent_to_where_it_is() {
        let policy = Policy {
            encrypt: false,
            trusts: false,
        };
        let choice = Choice {
            via: Via::Vxlan([192, 0, 2, 7].into()),
            reason: Reason::Works,
        };
        let now: IpAddr = [192, 0, 2, 8].into();
        let route = policy.route(PEER, Some(now), Some(choice));
        assert_eq!(route.via, Some(Via::Vxlan(now)));
    }
}
