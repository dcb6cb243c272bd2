//! The Docker API proxy: where it is, and what it did.

use crate::control::Report;
use crate::docker::proxy::ListenerStatus;

pub(super) fn proxy(report: &Report) -> String {
    let Some(proxy) = &report.proxy else {
        return "Docker's API is not served: `weave launch-proxy` serves it\n".to_owned();
    };
    let mut text = String::new();
    for listener in &proxy.listeners {
        text += &match &listener.error {
            None => format!("serving {}{}\n", listener.address, with_tls(listener)),
            Some(error) => format!("not serving {}: {error}\n", listener.address),
        };
    }
    text + &format!(
        "clients: {}\ncontainers: {} placed on our networks, {} left alone, {} refused\n",
        proxy.connections, proxy.placed, proxy.left_alone, proxy.refused
    )
}

fn with_tls(listener: &ListenerStatus) -> String {
    match (&listener.stale, listener.tls) {
        (_, false) => String::new(),
        (None, true) => " with TLS".to_owned(),
        (Some(error), true) => format!(" with TLS, with former certificates: {error}"),
    }
}
