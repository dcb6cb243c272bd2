//! The Docker API proxy: in front of the Engine, it puts containers on the network `weave` that
//! name no network.
//!
//! It understands of HTTP where messages end, and nothing more: heads and bodies pass byte for byte,
//! chunks and trailers as they are, and once the Engine takes a connection over (attach, exec, build
//! sessions), everything in both directions, with each direction's own end. An HTTP library in
//! between would take messages apart and put them together again, and has no place for the Engine's
//! streams that begin without an upgrade. Only a few calls are read as a whole: `create` gets a
//! network, an address, DNS servers and a host name, what old clients say in `start` takes none of
//! them away, and `inspect` tells the address where old programs look for it. So Docker itself
//! attaches the container through our driver, when it starts and whenever it starts again, with or
//! without the proxy.
//!
//! `message` finds where messages end, `relay` carries them, `rewrite` says which are changed:
//! `create` and `start` how, and `placement` finds the networks of addresses. `listener` lets
//! clients in, `tls` those who come over TCP.

mod create;
mod hostname;
mod inspect;
mod listener;
mod message;
mod placement;
mod relay;
mod rewrite;
mod start;
mod tls;

use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::json;
use thiserror::Error;
use tokio::sync::watch;

pub use self::create::Nameserver;
pub use self::hostname::HostnameRule;
use self::listener::Listeners;
use self::rewrite::Rewriter;
use crate::config::{Paths, ProxyAddress, TlsSource};

/// How the proxy works.
#[derive(Debug)]
pub struct ProxyConfig {
    /// Where clients are let in.
    pub listen: Vec<ProxyAddress>,
    /// Whether whoever reaches a TCP listener may use it, from other hosts too.
    pub insecure: bool,
    /// How TLS is spoken on TCP.
    pub tls: TlsSource,
    /// Where things are on this host.
    pub paths: Paths,
    /// The subnet of the network `weave`.
    pub default_subnet: IpNet,
    /// Whether containers without `WEAVE_CIDR` are left alone.
    pub only_with_cidr: bool,
    /// Whether multicast of containers does not go our way, where they do not say.
    pub without_multicast: bool,
    /// Whether `inspect` tells of the address as of one on Docker's own bridge.
    pub rewrite_inspect: bool,
    /// Of what host names are made.
    pub hostname: HostnameRule,
}

/// What the proxy says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyStatus {
    /// Where it listens, or why it does not.
    pub listeners: Vec<ListenerStatus>,
    /// Clients that are connected.
    pub connections: usize,
    /// Containers that were put on networks of ours, since the start.
    pub placed: u64,
    /// Containers that were left alone, since the start.
    pub left_alone: u64,
    /// Containers that were refused, since the start.
    pub refused: u64,
}

/// Where the proxy listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerStatus {
    /// Where.
    pub address: ProxyAddress,
    /// Why nothing is served there, if so.
    pub error: Option<String>,
    /// Whether clients have to speak TLS.
    #[serde(default)]
    pub tls: bool,
    /// Why new certificates are not used, if so.
    #[serde(default)]
    pub stale: Option<String>,
}

/// The proxy; cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Proxy {
    rewriter: Arc<Rewriter>,
    listeners: Arc<Listeners>,
}

impl Proxy {
    /// One that listens nowhere yet. `nameserver` tells where containers may ask for names.
    pub fn new(
        config: ProxyConfig,
        nameserver: impl Fn() -> Option<Nameserver> + Send + Sync + 'static,
    ) -> Self {
        let listeners = Listeners::new(&config);
        Self {
            rewriter: Arc::new(Rewriter::new(config, nameserver)),
            listeners: Arc::new(listeners),
        }
    }

    /// Listens while that is wanted. Connections end with it.
    pub async fn serve(self, wanted: watch::Receiver<bool>) {
        self.listeners.serve(self.rewriter, wanted).await;
    }

    /// How it goes; `None` while it is not wanted.
    pub fn status(&self) -> Option<ProxyStatus> {
        let mut status = self.listeners.status()?;
        self.rewriter.count(&mut status);
        Some(status)
    }
}

/// Why a client does not get what it asked for, as Docker tells such things.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{message}")]
struct Refusal {
    status: u16,
    message: String,
}

impl Refusal {
    fn new(status: u16, message: impl std::fmt::Display) -> Self {
        let message = format!("weave proxy: {message}");
        Self { status, message }
    }

    /// A whole HTTP response.
    fn response(&self) -> Vec<u8> {
        let body = json!({ "message": self.message }).to_string();
        let reason = match self.status {
            400 => "Bad Request",
            408 => "Request Timeout",
            413 => "Content Too Large",
            431 => "Request Header Fields Too Large",
            502 => "Bad Gateway",
            _ => "Internal Server Error",
        };
        format!(
            "HTTP/1.1 {} {reason}\r\nContent-Type: application/json\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}\n",
            self.status,
            body.len() + 1
        )
        .into_bytes()
    }
}

#[cfg(test)]
mod tests;
