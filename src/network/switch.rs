//! Which transport reaches which peer, and why.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::datapath::Via;

/// What the operator's settings allow to carry frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether a password is set: then nothing travels in the clear.
    pub encrypt: bool,
}

/// The way to one peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where frames go; `None` when nothing may carry them.
    #[serde(skip)]
    pub via: Option<Via>,
    /// `vxlan`, or `none`.
    pub transport: String,
    /// Why this transport.
    pub reason: String,
}

impl Policy {
    /// Whether segments have devices that carry frames in the clear.
    pub const fn allows_vxlan(self) -> bool {
        !self.encrypt
    }

    /// The way to the peer that has this underlay address.
    pub fn route(self, address: Option<IpAddr>) -> Route {
        if self.encrypt {
            return Route {
                via: None,
                transport: "none".to_owned(),
                reason: "a password is set, and nothing may travel in the clear".to_owned(),
            };
        }
        match address {
            Some(address) => Route {
                via: Some(Via::Vxlan(address)),
                transport: "vxlan".to_owned(),
                reason: "no encryption is asked for".to_owned(),
            },
            None => Route {
                via: None,
                transport: "none".to_owned(),
                reason: "the peer's address is not known".to_owned(),
            },
        }
    }
}
