//! The Docker API proxy among the daemon's parts.

use super::addresses::default_subnet;
use crate::config::{Paths, PlainText, Settings};
use crate::dns::{DNS_PORT, Dns};
use crate::docker::proxy::{HostnameRule, Nameserver, Proxy, ProxyConfig};

/// The proxy as the settings say.
pub(super) fn new(settings: &Settings, paths: &Paths, dns: Option<Dns>) -> Proxy {
    let text = |text: &PlainText| text.get().to_owned();
    let replacement = settings.hostname_match.as_ref().map(|pattern| {
        let replacement = settings.hostname_replacement.as_ref().map(text);
        (pattern.get().clone(), replacement.unwrap_or_default())
    });
    let config = ProxyConfig {
        listen: settings.proxy_addresses(),
        insecure: settings.proxy_insecure.0,
        tls: settings.proxy_tls(),
        paths: paths.clone(),
        default_subnet: default_subnet(settings),
        only_with_cidr: settings.no_default_ipalloc.0,
        without_multicast: settings.no_multicast_route.0,
        rewrite_inspect: settings.rewrite_inspect.0,
        hostname: HostnameRule {
            label: settings.hostname_from_label.as_ref().map(text),
            replacement,
        },
    };
    let domain = settings.dns_domain.get().clone();
    Proxy::new(config, move || {
        // Docker asks at the usual port alone.
        let address = dns.as_ref()?.listening().ok();
        let address = address.filter(|address| address.port() == DNS_PORT)?;
        Some(Nameserver {
            address: address.ip(),
            domain: domain.clone(),
        })
    })
}
