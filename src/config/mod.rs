//! The settings: from the environment, `EXTRA_ARGS` and flags to one validated [`Settings`].
//!
//! Nothing said here stops the daemon: what cannot be obeyed is [`Rejected`] with what would be
//! right, and what was in force without it stays. The exception in spirit is the password: one
//! that was wanted and is not known becomes one that nobody knows, never none.

mod catalogue;
mod dns;
mod docker_socket;
mod file;
mod password;
mod paths;
mod proxy;
mod sources;
mod tls;
mod values;
mod words;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use figment::Figment;
use serde::{Deserialize, Deserializer, Serialize, de};

pub use self::dns::{DnsAddress, DnsDomain, DnsSwitch, DnsTtl};
pub use self::docker_socket::DockerSocket;
pub use self::file::read_small;
pub use self::password::PasswordState;
pub use self::paths::{HOST_ROOT_VARIABLE, Paths};
pub use self::proxy::{Pattern, PlainText, ProxyAddress};
use self::sources::{Layer, Problems};
pub use self::sources::{Rejected, Source};
pub use self::tls::{TlsFiles, TlsSource};
pub use self::values::{
    AllocationInit, AllocationRange, ConnectionLimit, DEFAULT_PORT, Host, HostAddress,
    LegacySocket, LegacySockets, LogLevel, LooseSwitch, Mtu, Nickname, PeerAddress, Port, Range,
    Scope, StatusAddress, Subnet, Switch, TakeoverAfter,
};
use crate::types::{ParseError, Secret};

/// Everything an operator can decide, validated.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// Where other peers are.
    #[serde(deserialize_with = "texts")]
    pub peers: Vec<PeerAddress>,
    /// What protects the mesh. A password that was wanted and cannot be known is a random one.
    #[serde(deserialize_with = "secret")]
    pub password: Option<Secret>,
    /// The file that the password was read from.
    pub password_file: Option<PathBuf>,
    /// Where `password` came from.
    #[serde(skip)]
    pub password_state: PasswordState,
    /// Subnets between whose hosts nothing is encrypted.
    #[serde(deserialize_with = "texts")]
    pub trusted_subnets: Vec<Subnet>,
    /// The networks' scope.
    #[serde(deserialize_with = "text")]
    pub scope: Scope,
    /// The largest IP packet of containers, where it is not to be found out.
    #[serde(deserialize_with = "some_text")]
    pub mtu: Option<Mtu>,
    /// Whether all containers have a multicast route into our networks.
    #[serde(deserialize_with = "text")]
    pub multicast: LooseSwitch,
    /// The mesh's port.
    #[serde(deserialize_with = "text")]
    pub port: Port,
    /// The address to bind to and to tell others.
    #[serde(deserialize_with = "some_text")]
    pub host: Option<HostAddress>,
    /// What this peer calls itself, where it is not to be the host's name.
    #[serde(deserialize_with = "some_text")]
    pub nickname: Option<Nickname>,
    /// Where status is served.
    #[serde(deserialize_with = "text")]
    pub status_addr: StatusAddress,
    /// Whether to connect to no other peers than those that were given.
    #[serde(deserialize_with = "text")]
    pub no_discovery: Switch,
    /// How many connections there may be.
    #[serde(deserialize_with = "text")]
    pub conn_limit: ConnectionLimit,
    /// The addresses that peers share out among themselves.
    #[serde(deserialize_with = "text")]
    pub ipalloc_range: AllocationRange,
    /// How they are first divided.
    #[serde(deserialize_with = "text")]
    pub ipalloc_init: AllocationInit,
    /// The subnet of networks that name none; within the range.
    #[serde(deserialize_with = "some_text")]
    pub ipalloc_default_subnet: Option<Range>,
    /// After how long without contact a peer's addresses are taken over.
    #[serde(deserialize_with = "text")]
    pub ipalloc_takeover_after: TakeoverAfter,
    /// Whether the Engine is to have a network `weave` without being asked for it.
    #[serde(deserialize_with = "text")]
    pub default_network: Switch,
    /// Whether names are served, where that is said.
    #[serde(deserialize_with = "text")]
    pub dns: DnsSwitch,
    /// Whether they surely are not.
    #[serde(deserialize_with = "text")]
    pub no_dns: Switch,
    /// The domain of the names.
    #[serde(deserialize_with = "text")]
    pub dns_domain: DnsDomain,
    /// Where they are served, where it is not to be Docker's bridge.
    #[serde(deserialize_with = "some_text")]
    pub dns_listen_address: Option<DnsAddress>,
    /// How long answers may be remembered.
    #[serde(deserialize_with = "text")]
    pub dns_ttl: DnsTtl,
    /// Plugin sockets to serve beside the managed one.
    #[serde(deserialize_with = "text")]
    pub legacy_sockets: LegacySockets,
    /// Where Docker's own API is, where it is not to be its usual socket.
    #[serde(deserialize_with = "some_text")]
    pub docker_socket: Option<DockerSocket>,
    /// Where the Docker API proxy listens; at its usual socket where nothing is said.
    #[serde(deserialize_with = "texts")]
    pub proxy_listen: Vec<ProxyAddress>,
    /// Whether it may do so where other hosts reach it.
    #[serde(deserialize_with = "text")]
    pub proxy_insecure: Switch,
    /// Whether its TCP listeners speak TLS.
    #[serde(deserialize_with = "text")]
    pub tls: Switch,
    /// Whether their clients need a certificate as well.
    #[serde(deserialize_with = "text")]
    pub tlsverify: Switch,
    /// The authority that has signed the clients' certificates.
    pub tlscacert: Option<PathBuf>,
    /// The listeners' own certificate.
    pub tlscert: Option<PathBuf>,
    /// Its key.
    pub tlskey: Option<PathBuf>,
    /// Whether TLS is not to be what the Docker daemon has.
    #[serde(deserialize_with = "text")]
    pub no_detect_tls: Switch,
    /// Whether it leaves containers alone that do not say `WEAVE_CIDR`.
    #[serde(deserialize_with = "text")]
    pub no_default_ipalloc: Switch,
    /// Whether its containers have no multicast route into our networks.
    #[serde(deserialize_with = "text")]
    pub no_multicast_route: Switch,
    /// Whether `docker inspect` through it tells our address as Docker's own.
    #[serde(deserialize_with = "text")]
    pub rewrite_inspect: Switch,
    /// The label that it makes host names of, in place of containers' names.
    #[serde(deserialize_with = "some_text")]
    pub hostname_from_label: Option<PlainText>,
    /// What it replaces in them.
    #[serde(deserialize_with = "some_text")]
    pub hostname_match: Option<Pattern>,
    /// By what.
    #[serde(deserialize_with = "some_text")]
    pub hostname_replacement: Option<PlainText>,
    /// How much is logged.
    #[serde(deserialize_with = "text")]
    pub log_level: LogLevel,
    #[serde(skip)]
    sources: BTreeMap<&'static str, Source>,
}

/// One setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// Its usual name.
    pub setting: String,
    /// Its value; of the password only whether there is one.
    pub value: String,
    /// Who made it.
    pub source: Source,
    /// What it is for.
    pub help: String,
}

impl Settings {
    /// Understands the environment and the words of a command line. Flags in `EXTRA_ARGS` win
    /// over variables, those of the command line over both; lists are joined.
    pub fn load(
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        arguments: &[String],
        paths: &Paths,
    ) -> (Self, Vec<Rejected>) {
        let mut problems = Problems::default();
        let [variables, extra] = Layer::of_environment(environment, &mut problems);
        let arguments = Layer::of_flags(Source::CommandLine, arguments, &mut problems);
        let mut merged = Figment::new();
        let mut sources = BTreeMap::new();
        for mut layer in [variables, extra, arguments] {
            drop_what_is_wrong(&mut layer, &mut problems);
            sources.extend(layer.keys().map(|key| (key, layer.source())));
            merged = merged.admerge(layer);
        }
        // Each layer was accepted by itself, so their sum is.
        let mut settings = merged.extract::<Self>().unwrap_or_else(|error| {
            problems.lose_password("settings", None, &error.kind.to_string());
            Self::default()
        });
        settings.sources = sources;
        settings.peers.dedup_in_order();
        settings.check_default_subnet(&mut problems);
        settings.check_docker_socket(paths, &mut problems);
        settings.resolve_password(paths, &mut problems);
        let in_force: BTreeMap<_, _> = settings.shown().into_iter().collect();
        let rejected = problems.finish(|key| in_force.get(key).cloned());
        (settings, rejected)
    }

    /// Where the Docker API proxy listens.
    pub fn proxy_addresses(&self) -> Vec<ProxyAddress> {
        match self.proxy_listen.is_empty() {
            true => vec![ProxyAddress::default()],
            false => self.proxy_listen.clone(),
        }
    }

    /// What this peer calls itself.
    pub fn nickname(&self) -> Nickname {
        self.nickname.clone().unwrap_or_else(Nickname::of_this_host)
    }

    /// All settings with their values and who made them; no password.
    pub fn in_force(&self) -> Vec<InForce> {
        let entry = |(key, value): (&'static str, String)| {
            let setting = catalogue::by_key(key)?;
            Some(InForce {
                setting: setting.name(),
                value,
                source: self.sources.get(key).copied().unwrap_or(Source::Default),
                help: setting.help.to_owned(),
            })
        };
        self.shown().into_iter().filter_map(entry).collect()
    }

    fn check_default_subnet(&mut self, problems: &mut Problems) {
        let Some(subnet) = self.ipalloc_default_subnet else {
            return;
        };
        let inside = |range: ipnet::Ipv4Net| range.contains(&subnet.get());
        if self.ipalloc_range.get().is_some_and(inside) {
            return;
        }
        let key = "ipalloc_default_subnet";
        let reason = format!("expected a part of the range {}", self.ipalloc_range);
        let value = subnet.to_string();
        problems.reject(Some(key), "--ipalloc-default-subnet", Some(&value), reason);
        self.ipalloc_default_subnet = None;
        self.sources.remove(key);
    }

    fn shown(&self) -> Vec<(&'static str, String)> {
        fn or<T: ToString>(value: Option<&T>, otherwise: &str) -> String {
            value.map_or_else(|| otherwise.to_owned(), T::to_string)
        }
        fn list<T: ToString>(values: &[T]) -> String {
            let values: Vec<_> = values.iter().map(T::to_string).collect();
            match values.is_empty() {
                true => "none".to_owned(),
                false => values.join(" "),
            }
        }
        fn file(path: Option<&PathBuf>) -> String {
            or(path.map(|path| path.display()).as_ref(), "none")
        }
        vec![
            ("peers", list(&self.peers)),
            ("password", self.password_state.to_string()),
            ("password_file", file(self.password_file.as_ref())),
            ("trusted_subnets", list(&self.trusted_subnets)),
            ("scope", self.scope.to_string()),
            (
                "mtu",
                or(self.mtu.as_ref(), "found from the path to the peers"),
            ),
            ("multicast", self.multicast.to_string()),
            ("port", self.port.to_string()),
            ("host", or(self.host.as_ref(), "all addresses")),
            ("nickname", self.nickname().to_string()),
            ("status_addr", self.status_addr.to_string()),
            ("no_discovery", self.no_discovery.to_string()),
            ("conn_limit", self.conn_limit.to_string()),
            ("ipalloc_range", self.ipalloc_range.to_string()),
            ("ipalloc_init", self.ipalloc_init.to_string()),
            (
                "ipalloc_default_subnet",
                or(self.ipalloc_default_subnet.as_ref(), "the whole range"),
            ),
            (
                "ipalloc_takeover_after",
                self.ipalloc_takeover_after.to_string(),
            ),
            ("default_network", self.default_network.to_string()),
            ("dns", self.dns.to_string()),
            ("no_dns", self.no_dns.to_string()),
            ("dns_domain", self.dns_domain.to_string()),
            (
                "dns_listen_address",
                or(self.dns_listen_address.as_ref(), "the one of docker0"),
            ),
            ("dns_ttl", self.dns_ttl.to_string()),
            ("legacy_sockets", self.legacy_sockets.to_string()),
            (
                "docker_socket",
                self.docker_socket.clone().unwrap_or_default().to_string(),
            ),
            ("proxy_listen", list(&self.proxy_addresses())),
            ("proxy_insecure", self.proxy_insecure.to_string()),
            ("tls", self.tls.to_string()),
            ("tlsverify", self.tlsverify.to_string()),
            ("tlscacert", file(self.tlscacert.as_ref())),
            ("tlscert", file(self.tlscert.as_ref())),
            ("tlskey", file(self.tlskey.as_ref())),
            ("no_detect_tls", self.no_detect_tls.to_string()),
            ("no_default_ipalloc", self.no_default_ipalloc.to_string()),
            ("no_multicast_route", self.no_multicast_route.to_string()),
            ("rewrite_inspect", self.rewrite_inspect.to_string()),
            (
                "hostname_from_label",
                or(self.hostname_from_label.as_ref(), "none"),
            ),
            ("hostname_match", or(self.hostname_match.as_ref(), "none")),
            (
                "hostname_replacement",
                or(self.hostname_replacement.as_ref(), "none"),
            ),
            ("log_level", self.log_level.to_string()),
        ]
    }
}

/// All flags with what they are for, as help text.
pub fn flags_help() -> String {
    let line = |setting: &catalogue::Setting| {
        let flag = setting.flags.first()?;
        let variable = setting
            .variable
            .map_or_else(String::new, |v| format!(" [{v}]"));
        let flag = catalogue::dashed(flag);
        Some(format!("  {flag:<26} {}{variable}\n", setting.help))
    };
    catalogue::SETTINGS.iter().filter_map(line).collect()
}

/// Takes out of a layer, one after the other, what the settings do not accept.
fn drop_what_is_wrong(layer: &mut Layer, problems: &mut Problems) {
    // Each round takes a value out, so this ends.
    while let Err(error) = Figment::from(&*layer).extract::<Settings>() {
        let reason = format!("expected {}", error.kind);
        if !layer.reject(&error.path, &reason, problems) {
            return;
        }
    }
}

trait DedupInOrder {
    fn dedup_in_order(&mut self);
}

impl<T: Clone + Ord> DedupInOrder for Vec<T> {
    fn dedup_in_order(&mut self) {
        let mut seen = std::collections::BTreeSet::new();
        self.retain(|entry| seen.insert(entry.clone()));
    }
}

/// Text that is to be parsed; its error says what is expected, and not what came.
struct Text<T>(T);

impl<'de, T: FromStr<Err = ParseError>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map(Self)
            .map_err(|error: ParseError| de::Error::custom(error.expected))
    }
}

fn text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = ParseError>,
{
    Text::deserialize(deserializer).map(|text| text.0)
}

fn some_text<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = ParseError>,
{
    text(deserializer).map(Some)
}

fn texts<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = ParseError>,
{
    let texts = Vec::<Text<T>>::deserialize(deserializer)?;
    Ok(texts.into_iter().map(|text| text.0).collect())
}

fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Secret>, D::Error> {
    String::deserialize(deserializer).map(|text| Some(Secret::new(text)))
}

#[cfg(test)]
mod tests;
