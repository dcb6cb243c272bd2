//! Which settings there are, by which names they go, and what became of those of Weave Net.

/// How a setting's text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// One value.
    Value,
    /// Several, separated by blanks or commas.
    List,
    /// On by being named; `=false` switches it off.
    Switch,
}

/// One setting.
#[derive(Debug)]
pub(super) struct Setting {
    /// Its field in `Settings`.
    pub(super) key: &'static str,
    /// Its name in the environment, if it has one.
    pub(super) variable: Option<&'static str>,
    /// Its names as a flag, without dashes, the usual one first.
    pub(super) flags: &'static [&'static str],
    /// How its text is read.
    pub(super) shape: Shape,
    /// Whether nothing is a value of its own in the environment, where it otherwise means that
    /// the setting is not made.
    pub(super) empty_is_a_value: bool,
    /// What it is for.
    pub(super) help: &'static str,
}

impl Setting {
    const fn new(
        key: &'static str,
        variable: Option<&'static str>,
        flags: &'static [&'static str],
        shape: Shape,
        help: &'static str,
    ) -> Self {
        Self {
            key,
            variable,
            flags,
            shape,
            empty_is_a_value: false,
            help,
        }
    }

    /// Its usual name: the variable, else the flag.
    pub(super) fn name(&self) -> String {
        match (self.variable, self.flags.first()) {
            (Some(variable), _) => variable.to_owned(),
            (None, Some(flag)) => dashed(flag),
            (None, None) => self.key.to_owned(),
        }
    }
}

/// A flag as it is written.
pub(super) fn dashed(flag: &str) -> String {
    match flag.len() {
        1 => format!("-{flag}"),
        _ => format!("--{flag}"),
    }
}

/// The variable that holds flags.
pub(super) const EXTRA_ARGS: &str = "EXTRA_ARGS";

/// The key of the peers, which are also what is given without a flag.
pub(super) const PEERS: &str = "peers";

/// The keys of what protects the mesh.
pub(super) const PASSWORD: &str = "password";
pub(super) const PASSWORD_FILE: &str = "password_file";

/// The key of where Docker's own API is.
pub(super) const DOCKER_SOCKET: &str = "docker_socket";

/// All settings, in the order in which they are shown.
pub(super) const SETTINGS: &[Setting] = &[
    Setting::new(
        PEERS,
        Some("WEAVE_PEERS"),
        &["peers"],
        Shape::List,
        "other hosts, as host[:port], separated by blanks or commas",
    ),
    Setting::new(
        PASSWORD,
        Some("WEAVE_PASSWORD"),
        &["password"],
        Shape::Value,
        "encrypts everything; only peers with the same password connect",
    ),
    Setting::new(
        PASSWORD_FILE,
        Some("WEAVE_PASSWORD_FILE"),
        &["password-file"],
        Shape::Value,
        "a file that holds the password; wins over the password itself",
    ),
    Setting::new(
        "trusted_subnets",
        Some("WEAVE_TRUSTED_SUBNETS"),
        &["trusted-subnets"],
        Shape::List,
        "subnets between whose hosts nothing is encrypted although there is a password",
    ),
    Setting::new(
        "scope",
        Some("WEAVE_SCOPE"),
        &["scope"],
        Shape::Value,
        "auto (global on a swarm node, else local), global or local",
    ),
    Setting::new(
        "mtu",
        Some("WEAVE_MTU"),
        &["mtu"],
        Shape::Value,
        "the largest IP packet of containers in bytes; by default found from the path to the peers",
    ),
    Setting::new(
        "multicast",
        Some("WEAVE_MULTICAST"),
        &["multicast", "plugin-v2-multicast"],
        Shape::Switch,
        "routes multicast of all containers into our networks",
    ),
    Setting::new(
        "port",
        Some("WEAVE_PORT"),
        &["port"],
        Shape::Value,
        "the mesh's TCP and UDP port; VXLAN uses the next one",
    ),
    Setting::new(
        "host",
        Some("WEAVE_HOST"),
        &["host"],
        Shape::Value,
        "the address of this host to bind to and to tell others; by default all of them",
    ),
    Setting::new(
        "nickname",
        Some("WEAVE_NICKNAME"),
        &["nickname"],
        Shape::Value,
        "what this peer is called in status; by default the host's name",
    ),
    Setting {
        empty_is_a_value: true,
        ..Setting::new(
            "status_addr",
            Some("WEAVE_STATUS_ADDR"),
            &["status-addr"],
            Shape::Value,
            "where status is served over HTTP, as address:port; empty for nowhere",
        )
    },
    Setting::new(
        "no_discovery",
        Some("WEAVE_NO_DISCOVERY"),
        &["no-discovery"],
        Shape::Switch,
        "connects to the peers that were given and to no others",
    ),
    Setting::new(
        "conn_limit",
        Some("WEAVE_CONN_LIMIT"),
        &["conn-limit", "connlimit"],
        Shape::Value,
        "the number of connections to peers at most; 0 for no limit",
    ),
    Setting::new(
        "ipalloc_range",
        Some("IPALLOC_RANGE"),
        &["ipalloc-range", "iprange"],
        Shape::Value,
        "the addresses that peers share out among themselves; none with --ipalloc-range=",
    ),
    Setting::new(
        "ipalloc_init",
        None,
        &["ipalloc-init"],
        Shape::Value,
        "how they are first divided: consensus[=NUMBER], seed=PEER,... or observer",
    ),
    Setting::new(
        "ipalloc_default_subnet",
        None,
        &["ipalloc-default-subnet", "ipsubnet"],
        Shape::Value,
        "the subnet of networks that name none; by default the whole range",
    ),
    Setting::new(
        "ipalloc_takeover_after",
        Some("IPALLOC_TAKEOVER_AFTER"),
        &["ipalloc-takeover-after"],
        Shape::Value,
        "after how long without contact the others take a peer's addresses over, as 24h; or never",
    ),
    Setting::new(
        "default_network",
        Some("WEAVE_DEFAULT_NETWORK"),
        &["default-network"],
        Shape::Switch,
        "makes the network `weave`, with the default subnet",
    ),
    Setting::new(
        "dns",
        Some("WEAVE_DNS"),
        &["dns"],
        Shape::Switch,
        "serves names of containers on all hosts (weaveDNS), with or without swarm",
    ),
    Setting::new(
        "no_dns",
        None,
        &["no-dns", "without-dns"],
        Shape::Switch,
        "serves no names",
    ),
    Setting::new(
        "dns_domain",
        Some("WEAVE_DNS_DOMAIN"),
        &["dns-domain"],
        Shape::Value,
        "the domain of the names; weave.local by default",
    ),
    Setting::new(
        "dns_listen_address",
        Some("WEAVE_DNS_LISTEN_ADDRESS"),
        &["dns-listen-address"],
        Shape::Value,
        "where names are served, as address[:port]; by default at docker0's address",
    ),
    Setting::new(
        "dns_ttl",
        Some("WEAVE_DNS_TTL"),
        &["dns-ttl"],
        Shape::Value,
        "how long answers may be remembered, in seconds; 1 by default",
    ),
    Setting::new(
        "legacy_sockets",
        Some("WEAVE_LEGACY_SOCKETS"),
        &["legacy-sockets"],
        Shape::Value,
        "legacy drivers to serve as well: weave, weavemesh, or true for both",
    ),
    Setting::new(
        DOCKER_SOCKET,
        Some("WEAVE_DOCKER_SOCKET"),
        &["docker-socket", "docker-api"],
        Shape::Value,
        "where Docker's own API is, as unix:///PATH; by default unix:///run/docker.sock",
    ),
    Setting::new(
        "proxy_listen",
        None,
        &["H"],
        Shape::List,
        "where the Docker API proxy listens, as unix:///PATH or tcp://ADDRESS[:PORT]",
    ),
    Setting::new(
        "proxy_insecure",
        None,
        &["proxy-insecure"],
        Shape::Switch,
        "lets it listen where other hosts reach it: who does is root here",
    ),
    Setting::new(
        "tls",
        None,
        &["tls"],
        Shape::Switch,
        "the proxy speaks TLS on TCP; by default as the Docker daemon does",
    ),
    Setting::new(
        "tlsverify",
        None,
        &["tlsverify"],
        Shape::Switch,
        "the same, and lets only clients with a certificate in",
    ),
    Setting::new(
        "tlscacert",
        None,
        &["tlscacert"],
        Shape::Value,
        "the file of the authority that has signed the clients' certificates",
    ),
    Setting::new(
        "tlscert",
        None,
        &["tlscert"],
        Shape::Value,
        "the file of the proxy's certificate",
    ),
    Setting::new(
        "tlskey",
        None,
        &["tlskey"],
        Shape::Value,
        "the file of its key",
    ),
    Setting::new(
        "no_detect_tls",
        None,
        &["no-detect-tls"],
        Shape::Switch,
        "the proxy does not look how the Docker daemon speaks TLS",
    ),
    Setting::new(
        "no_default_ipalloc",
        None,
        &["no-default-ipalloc"],
        Shape::Switch,
        "the proxy leaves containers alone that do not say WEAVE_CIDR",
    ),
    Setting::new(
        "no_multicast_route",
        None,
        &["no-multicast-route"],
        Shape::Switch,
        "multicast of the proxy's containers does not go our way",
    ),
    Setting::new(
        "rewrite_inspect",
        None,
        &["rewrite-inspect"],
        Shape::Switch,
        "docker inspect through the proxy tells our address as Docker's own",
    ),
    Setting::new(
        "hostname_from_label",
        None,
        &["hostname-from-label"],
        Shape::Value,
        "the label that the proxy makes host names of, in place of names",
    ),
    Setting::new(
        "hostname_match",
        None,
        &["hostname-match"],
        Shape::Value,
        "what is replaced in them, as a regular expression",
    ),
    Setting::new(
        "hostname_replacement",
        None,
        &["hostname-replacement"],
        Shape::Value,
        "by what, with $1 for what the first parentheses match",
    ),
    Setting::new(
        "log_level",
        Some("LOG_LEVEL"),
        &["log-level"],
        Shape::Value,
        "error, warning, info, debug or trace",
    ),
];

/// A name of Weave Net's that has no meaning here.
#[derive(Debug)]
pub(super) struct Retired {
    /// The flag, without dashes, or the variable.
    pub(super) name: &'static str,
    /// Whether a flag's value is the next word when it is not joined by `=`.
    pub(super) takes_value: bool,
    /// What replaced it.
    pub(super) instead: &'static str,
}

const fn flag(name: &'static str, instead: &'static str) -> Retired {
    Retired {
        name,
        takes_value: false,
        instead,
    }
}

const fn value(name: &'static str, instead: &'static str) -> Retired {
    Retired {
        name,
        takes_value: true,
        instead,
    }
}

const IDENTITY: &str = "a peer's identity is a key that it makes itself; --nickname labels it";
const DNS: &str = "the host's own resolver configuration and fixed deadlines are used";
const PROXY: &str = "it comes with `weave launch`; `weave stop-proxy` ends it";
const TRANSPORT: &str = "the transport to each peer is chosen by itself, see `weave status peers`";
const CLOUD: &str = "the service it spoke to is gone; name peers with WEAVE_PEERS";
const PLUGIN: &str = "the plugin finds out by itself";
const INTERNAL: &str = "it wired up parts of Weave Net that are one process here";
const SOCKET: &str = "commands go through /run/weave/control.sock, which only root can open";
const DIAGNOSTICS: &str = "--log-level trace shows the same and more";

/// The flags of `weave launch` that have no meaning here.
pub(super) const RETIRED_FLAGS: &[Retired] = &[
    value("name", IDENTITY),
    flag("print-peer-name", IDENTITY),
    flag(
        "no-restart",
        "Docker restarts the plugin, or the container as its policy says",
    ),
    flag("resume", "peers are always remembered"),
    value(
        "dns-effective-listen-address",
        "--dns-listen-address is where names are served",
    ),
    value("dns-fallback-timeout", DNS),
    value("resolv-conf", DNS),
    flag("no-fastdp", TRANSPORT),
    flag("no-bridged-fastdp", TRANSPORT),
    value("datapath", TRANSPORT),
    value("bufsz", TRANSPORT),
    value("iface", TRANSPORT),
    flag("plugin", PLUGIN),
    flag("plugin-v2", PLUGIN),
    value(
        "plugin-socket",
        "WEAVE_LEGACY_SOCKETS names the sockets to serve",
    ),
    value(
        "plugin-mesh-socket",
        "WEAVE_LEGACY_SOCKETS names the sockets to serve",
    ),
    flag("proxy", PROXY),
    flag(
        "no-rewrite-hosts",
        "Docker itself writes a container's addresses into its /etc/hosts",
    ),
    flag("pkt-debug", DIAGNOSTICS),
    value("profile", DIAGNOSTICS),
    value("token", CLOUD),
    value("peer-discovery-url", CLOUD),
    value(
        "advertise-address",
        "--host is the address to bind to and to tell others",
    ),
    flag("awsvpc", "packets are always encapsulated"),
    flag(
        "no-masq-local",
        "the engine's own bridge carries what leaves our networks",
    ),
    value("http-addr", SOCKET),
    value(
        "metrics-addr",
        "--status-addr is the one address of what can be read",
    ),
    value("weave-bridge", INTERNAL),
    value("docker-bridge", INTERNAL),
    value("db-prefix", INTERNAL),
    value("proc-path", INTERNAL),
    value("host-root", INTERNAL),
    flag("expect-npc", INTERNAL),
    value(
        "min-protocol-version",
        "peers agree on a version by themselves",
    ),
    value("init-peer-count", "it is --ipalloc-init consensus=NUMBER"),
    flag("version", "`weave version` tells it"),
];

/// The variables of Weave Net that have no meaning here.
pub(super) const RETIRED_VARIABLES: &[Retired] = &[
    value("WEAVE_HTTP_ADDR", SOCKET),
    value("WEAVE_NO_FASTDP", TRANSPORT),
    value("WEAVE_NO_BRIDGED_FASTDP", TRANSPORT),
    value(
        "WEAVE_METRICS_ADDR",
        "WEAVE_STATUS_ADDR is the one address of what can be read",
    ),
    value("WEAVE_DEBUG", "LOG_LEVEL=debug shows the same and more"),
    value(
        "WEAVE_KUBERNETES_VERSION",
        "this version has nothing for Kubernetes",
    ),
    value("WEAVE_EXPOSE_IP", "this version has nothing for Kubernetes"),
    value(
        "WEAVE_CNI_PLUGIN_DIR",
        "this version has nothing for Kubernetes",
    ),
    value(
        "WEAVE_VERSION",
        "`weave launch` starts the version that it is itself",
    ),
    value("WEAVE_CONTAINER_NAME", "the container is called weave"),
    value(
        "WEAVE_DOCKER_ARGS",
        "`weave launch` decides how the container runs; settings are its flags, and `weave daemon` \
         runs in none",
    ),
];

/// Variables with our prefix that are for the process itself, or for clients beside it.
pub(super) const NOT_SETTINGS: &[&str] = &[super::paths::HOST_ROOT_VARIABLE, "WEAVE_CIDR"];

/// The setting with this variable.
pub(super) fn by_variable(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.variable == Some(name))
}

/// The setting with this flag.
pub(super) fn by_flag(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.flags.contains(&name))
}

/// The setting with this key.
pub(super) fn by_key(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|s| s.key == key)
}

/// The variable that was probably meant.
pub(super) fn near_variable(name: &str) -> Option<&'static Setting> {
    // Nearly all begin alike; the rest is what tells them apart.
    let name = name.trim_start_matches("WEAVE_");
    nearest(name, |s| {
        s.variable
            .map(|v| v.trim_start_matches("WEAVE_"))
            .into_iter()
    })
}

/// The flag that was probably meant.
pub(super) fn near_flag(name: &str) -> Option<&'static Setting> {
    nearest(name, |s| s.flags.iter().copied())
}

fn nearest<N: Iterator<Item = &'static str>>(
    name: &str,
    names: impl Fn(&'static Setting) -> N,
) -> Option<&'static Setting> {
    // As alike as clap asks of its own suggestions.
    const ALIKE: f64 = 0.8;
    SETTINGS
        .iter()
        .flat_map(|setting| names(setting).map(move |other| (setting, other)))
        .map(|(setting, other)| (setting, strsim::jaro(name, other)))
        .filter(|(_, likeness)| *likeness > ALIKE)
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .map(|(setting, _)| setting)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_means_one_thing() {
        let flags: Vec<_> = SETTINGS
            .iter()
            .flat_map(|s| s.flags)
            .chain(RETIRED_FLAGS.iter().map(|r| &r.name))
            .collect();
        assert_eq!(flags.iter().collect::<BTreeSet<_>>().len(), flags.len());
        let variables: Vec<_> = SETTINGS
            .iter()
            .filter_map(|s| s.variable)
            .chain(RETIRED_VARIABLES.iter().map(|r| r.name))
            .chain(NOT_SETTINGS.iter().copied())
            .collect();
        assert_eq!(
            variables.iter().collect::<BTreeSet<_>>().len(),
            variables.len()
        );
    }

    #[test]
    fn slips_of_the_pen_find_what_was_meant() {
        assert_eq!(near_flag("pasword").unwrap().key, PASSWORD);
        assert_eq!(near_variable("WEAVE_PEER").unwrap().key, PEERS);
        assert!(near_flag("zzz").is_none());
    }
}
