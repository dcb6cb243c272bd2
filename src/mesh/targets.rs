//! The places that the mesh is told to connect to, and the addresses behind their names.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use super::core::Target;

/// How long one name may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long what was found is taken to be true.
const REFRESH: Duration = Duration::from_secs(30);

/// How soon a name that was not found is looked up again; doubles up to [`REFRESH`].
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// What each source says, as it was given.
pub(super) type Told = BTreeMap<String, Vec<String>>;

/// What one source says, with addresses.
pub(super) type Resolved = (String, Vec<Target>);

/// Resolves what the sources say, again and again, and tells what has changed.
///
/// The resolver and `/etc/hosts` are read anew each time, for both may change under a daemon that
/// starts early. `getaddrinfo` is not asked: a static binary has no NSS.
pub(super) async fn run(
    mut told: watch::Receiver<Told>,
    default_port: u16,
    resolved: mpsc::Sender<Resolved>,
) {
    let mut before: BTreeMap<String, Vec<Target>> = BTreeMap::new();
    let mut retry = FIRST_RETRY;
    loop {
        let sources = told.borrow_and_update().clone();
        let gone: Vec<_> = before
            .keys()
            .filter(|s| !sources.contains_key(*s))
            .cloned()
            .collect();
        let gone = gone.into_iter().map(|source| (source, Vec::new()));
        // Addresses need not wait for names.
        let at_once = sources.iter().map(|(source, texts)| {
            let known = before.get(source);
            (source.clone(), without_lookup(texts, default_port, known))
        });
        let news: Vec<_> = gone.chain(at_once).collect();
        if !tell(&mut before, news, &resolved).await {
            return;
        }
        let mut unresolved = false;
        if sources
            .values()
            .flatten()
            .any(|text| needs_lookup(text, default_port))
        {
            let looked_up = tokio::select! {
                looked_up = look_up(&sources, default_port) => looked_up,
                changed = told.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            unresolved = looked_up
                .iter()
                .flat_map(|(_, t)| t)
                .any(|t| t.addresses.is_err());
            if !tell(&mut before, looked_up, &resolved).await {
                return;
            }
        }
        let pause = if unresolved { retry } else { REFRESH };
        retry = match unresolved {
            true => (retry * 2).min(REFRESH),
            false => FIRST_RETRY,
        };
        tokio::select! {
            changed = told.changed() => match changed {
                Ok(()) => retry = FIRST_RETRY,
                Err(_) => return,
            },
            () = sleep(pause) => {}
        }
    }
}

/// Passes on what differs from before; `false` when nobody listens any more.
async fn tell(
    before: &mut BTreeMap<String, Vec<Target>>,
    news: Vec<Resolved>,
    resolved: &mpsc::Sender<Resolved>,
) -> bool {
    for (source, targets) in news {
        if before.get(&source) == Some(&targets) {
            continue;
        }
        match targets.is_empty() {
            true => before.remove(&source),
            false => before.insert(source.clone(), targets.clone()),
        };
        if resolved.send((source, targets)).await.is_err() {
            return false;
        }
    }
    true
}

fn without_lookup(texts: &[String], default_port: u16, known: Option<&Vec<Target>>) -> Vec<Target> {
    let known = |text: &str| known?.iter().find(|target| target.text == text).cloned();
    let target = |text: &String| {
        let addresses = match Place::parse(text, default_port) {
            Ok(Place::Address(address)) => Ok(vec![address]),
            Ok(Place::Name(..)) => {
                return known(text).unwrap_or_else(|| Target {
                    text: text.clone(),
                    addresses: Err("being looked up".to_owned()),
                });
            }
            Err(error) => Err(error),
        };
        Target {
            text: text.clone(),
            addresses,
        }
    };
    texts.iter().map(target).collect()
}

fn needs_lookup(text: &str, default_port: u16) -> bool {
    matches!(Place::parse(text, default_port), Ok(Place::Name(..)))
}

async fn look_up(sources: &Told, default_port: u16) -> Vec<Resolved> {
    let resolver = &resolver().map_err(|error| error.to_string());
    let of_source = |(source, texts): (&String, &Vec<String>)| {
        let (source, texts) = (source.clone(), texts.clone());
        async move {
            let targets = texts.into_iter().map(|text| async move {
                let addresses = match Place::parse(&text, default_port) {
                    Ok(Place::Address(address)) => Ok(vec![address]),
                    Ok(Place::Name(name, port)) => look_up_name(resolver, &name, port).await,
                    Err(error) => Err(error),
                };
                Target { text, addresses }
            });
            (source, join_all(targets).await)
        }
    };
    join_all(sources.iter().map(of_source)).await
}

async fn look_up_name(
    resolver: &Result<TokioResolver, String>,
    name: &str,
    port: u16,
) -> Result<Vec<SocketAddr>, String> {
    let resolver = resolver.as_ref().map_err(Clone::clone)?;
    match timeout(LOOKUP_TIMEOUT, resolver.lookup_ip(name)).await {
        Ok(Ok(found)) => {
            let mut found: Vec<_> = found.iter().map(|ip| SocketAddr::new(ip, port)).collect();
            found.sort();
            found.dedup();
            Ok(found)
        }
        Ok(Err(error)) => Err(format!("{name} does not resolve: {error}")),
        Err(_) => Err(format!(
            "{name} does not resolve: no answer from the name servers"
        )),
    }
}

/// Without `/etc/resolv.conf` there is still `/etc/hosts`.
fn resolver() -> Result<TokioResolver, NetError> {
    let mut builder = TokioResolver::builder_tokio().unwrap_or_else(|_| {
        let none = ResolverConfig::from_parts(None, Vec::new(), Vec::new());
        TokioResolver::builder_with_config(none, TokioRuntimeProvider::default())
    });
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 0;
    builder.build()
}

/// What a target says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Address(SocketAddr),
    Name(String, u16),
}

impl Place {
    /// Reads `host[:port]`, where an IPv6 address with a port is in brackets.
    fn parse(text: &str, default_port: u16) -> Result<Self, String> {
        let error = || format!("expected host[:port], got {text:?}");
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(error()),
                _ => Ok(Self::Address(address)),
            };
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Self::Address(SocketAddr::new(ip, default_port)));
        }
        let (name, port) = match text.split_once(':') {
            Some((name, port)) => (name, port.parse().map_err(|_| error())?),
            None => (text, default_port),
        };
        let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.len() > 253 || !name.chars().all(valid) || port == 0 {
            return Err(error());
        }
        Ok(Self::Name(name.to_owned(), port))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Place, String> {
        Place::parse(text, 6783)
    }

    #[test]
    fn targets_are_read_as_people_write_them() {
        let address = |text: &str| Ok(Place::Address(text.parse().unwrap()));
        assert_eq!(parse("10.0.0.1"), address("10.0.0.1:6783"));
        assert_eq!(parse("10.0.0.1:1"), address("10.0.0.1:1"));
        assert_eq!(parse("fd00::1"), address("[fd00::1]:6783"));
        assert_eq!(parse("[fd00::1]"), address("[fd00::1]:6783"));
        assert_eq!(parse("[fd00::1]:1"), address("[fd00::1]:1"));
        assert_eq!(
            parse("host.example"),
            Ok(Place::Name("host.example".to_owned(), 6783))
        );
        assert_eq!(parse("host:1"), Ok(Place::Name("host".to_owned(), 1)));
        for wrong in [
            "",
            ":1",
            "host:",
            "host:0",
            "10.0.0.1:0",
            "a b",
            "host:99999",
            "http://x",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn addresses_do_not_wait_for_names() {
        let mut told = Told::new();
        told.insert(
            "settings".to_owned(),
            vec!["10.0.0.1".to_owned(), "x.invalid".to_owned()],
        );
        let (_told, receiver) = watch::channel(told);
        let (sender, mut resolved) = mpsc::channel(8);
        let task = tokio::spawn(run(receiver, 6783, sender));
        let (source, targets) = resolved.recv().await.unwrap();
        assert_eq!(source, "settings");
        assert_eq!(
            targets[0].addresses,
            Ok(vec!["10.0.0.1:6783".parse().unwrap()])
        );
        assert_eq!(targets[1].addresses, Err("being looked up".to_owned()));
        task.abort();
    }

    #[tokio::test]
    async fn names_of_the_hosts_file_are_found() {
        let told = Told::from([("settings".to_owned(), vec!["localhost:1".to_owned()])]);
        let (_told, receiver) = watch::channel(told);
        let (sender, mut resolved) = mpsc::channel(8);
        let task = tokio::spawn(run(receiver, 6783, sender));
        resolved.recv().await.unwrap();
        let (_, targets) = resolved.recv().await.unwrap();
        let addresses = targets[0].addresses.clone().unwrap();
        assert!(
            addresses.contains(&"127.0.0.1:1".parse().unwrap()),
            "{addresses:?}"
        );
        task.abort();
    }

    #[tokio::test]
    async fn a_source_that_says_nothing_more_is_taken_back() {
        let told = Told::from([("command".to_owned(), vec!["10.0.0.1".to_owned()])]);
        let (told, receiver) = watch::channel(told);
        let (sender, mut resolved) = mpsc::channel(8);
        let task = tokio::spawn(run(receiver, 6783, sender));
        assert_eq!(resolved.recv().await.unwrap().1.len(), 1);
        told.send_replace(Told::new());
        assert_eq!(
            resolved.recv().await.unwrap(),
            ("command".to_owned(), Vec::new())
        );
        task.abort();
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = parse(&text);
        }
    }
}
