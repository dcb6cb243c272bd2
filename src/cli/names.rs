//! Commands about names.

use std::io;
use std::net::IpAddr;

use clap::{ArgAction, Args};

use super::client::{Client, ClientError};
use super::terminal;
use crate::control::{NameCommand, Report};
use crate::dns::{DNS_PORT, NameRequest, search_domains};
use crate::types::DnsName;

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Naming {
    /// Addresses and a container, by name or identifier; without addresses, those that it has
    #[arg(required = true, value_name = "ADDRESS|CONTAINER")]
    what: Vec<String>,
    /// The name, with or without the domain; by default the container's
    #[arg(short = 'h', long = "name", value_name = "NAME")]
    name: Option<DnsName>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Args)]
pub(super) struct Lookup {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
    /// The name, with or without the domain
    name: DnsName,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct RunArguments {
    /// The container's host name, which is its name in weaveDNS when it lies in the domain
    #[arg(short = 'h', long, value_name = "HOSTNAME")]
    hostname: Option<String>,
    /// The container's name, to make a host name of
    #[arg(long, value_name = "NAME", conflicts_with = "hostname")]
    name: Option<String>,
    /// Search for short names here in place of the domain
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    /// Print nothing
    #[arg(long)]
    without_dns: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

impl Naming {
    pub(super) async fn add(self, client: &Client) -> Result<(), ClientError> {
        post(client, NameCommand::Add(self.request()?))
            .await
            .map(drop)
    }

    pub(super) async fn remove(self, client: &Client) -> Result<(), ClientError> {
        post(client, NameCommand::Remove(self.request()?))
            .await
            .map(drop)
    }

    fn request(self) -> Result<NameRequest, ClientError> {
        let mut request = NameRequest {
            name: self.name,
            ..NameRequest::default()
        };
        for word in self.what {
            if let Ok(address) = word.parse::<IpAddr>() {
                request.addresses.insert(address);
            } else if let Some(first) = request.container.replace(word.clone()) {
                let text = format!("expected one container, got {first} and {word}");
                return Err(io::Error::other(text).into());
            }
        }
        Ok(request)
    }
}

impl Lookup {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let addresses = post(client, NameCommand::Lookup { name: self.name }).await?;
        if self.json {
            let text = serde_json::to_string(&addresses).map_err(io::Error::from)?;
            return Ok(terminal::print(&(text + "\n"))?);
        }
        let lines: String = addresses.iter().map(|a| format!("{a}\n")).collect();
        Ok(terminal::print(&lines)?)
    }
}

impl RunArguments {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        if self.without_dns {
            return Ok(());
        }
        let report = client.get("/report").await?;
        let report: Report = serde_json::from_str(&report).map_err(io::Error::from)?;
        let words = self.words(&report).map_err(io::Error::other)?;
        match words.is_empty() {
            true => Ok(()),
            false => Ok(terminal::print(&format!("{}\n", words.join(" ")))?),
        }
    }

    /// The words for `docker run`; none where no names are served.
    fn words(&self, report: &Report) -> Result<Vec<String>, String> {
        let Some(dns) = &report.dns else {
            return Ok(Vec::new());
        };
        let address = dns.listening.as_ref();
        let address = address.map_err(|reason| format!("names are not served: {reason}"))?;
        if address.port() != DNS_PORT {
            return Err(format!(
                "docker needs port {DNS_PORT}, and {address} is another"
            ));
        }
        let mut words = vec![format!("--dns={}", address.ip())];
        let hostname = match (&self.hostname, &self.name) {
            (Some(hostname), _) => Some(hostname.clone()),
            (None, Some(name)) => Some(format!("{name}.{}", dns.domain)),
            (None, None) => None,
        };
        if let Some(hostname) = &hostname {
            words.push(format!("--hostname={hostname}"));
        }
        let mut search = self.dns_search.clone();
        if search.is_empty() {
            search = search_domains(hostname.as_deref(), &dns.domain);
        }
        words.extend(search.iter().map(|domain| format!("--dns-search={domain}")));
        Ok(words)
    }
}

async fn post(client: &Client, command: NameCommand) -> Result<Vec<IpAddr>, ClientError> {
    let answer = client.post("/names", &command).await?;
    Ok(serde_json::from_str(&answer).map_err(io::Error::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::report::examples;

    fn words(change: impl FnOnce(&mut RunArguments)) -> String {
        let mut arguments = RunArguments {
            hostname: None,
            name: None,
            dns_search: Vec::new(),
            without_dns: false,
            help: None,
        };
        change(&mut arguments);
        arguments.words(&examples::report()).unwrap().join(" ")
    }

    #[test]
    fn docker_is_told_server_host_name_and_search_domain() {
        assert_eq!(words(|_| ()), "--dns=172.17.0.1 --dns-search=weave.local");
        assert_eq!(
            words(|a| a.name = Some("foo".to_owned())),
            "--dns=172.17.0.1 --hostname=foo.weave.local --dns-search=weave.local"
        );
        assert_eq!(
            words(|a| a.hostname = Some("foo.sub.weave.local".to_owned())),
            "--dns=172.17.0.1 --hostname=foo.sub.weave.local --dns-search=sub.weave.local \
             --dns-search=weave.local"
        );
        assert_eq!(
            words(|a| a.dns_search = vec!["x.y".to_owned()]),
            "--dns=172.17.0.1 --dns-search=x.y"
        );
        let mut report = examples::report();
        report.dns = None;
        let off = RunArguments {
            hostname: None,
            name: None,
            dns_search: vec![],
            without_dns: false,
            help: None,
        };
        assert!(off.words(&report).unwrap().is_empty());
    }

    #[test]
    fn addresses_are_told_from_the_container() {
        let naming = |what: &[&str]| Naming {
            what: what.iter().map(|word| (*word).to_owned()).collect(),
            name: None,
            help: None,
        };
        let request = naming(&["10.1.0.1", "shop", "fd00::1"]).request().unwrap();
        assert_eq!(request.container.as_deref(), Some("shop"));
        assert_eq!(request.addresses.len(), 2);
        assert!(naming(&["shop", "store"]).request().is_err());
    }
}
