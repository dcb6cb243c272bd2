//! Commands that attach containers and this host beside Docker.

use std::io;

use clap::{ArgAction, Args};
use ipnet::IpNet;

use super::client::{Client, ClientError};
use super::terminal;
use crate::control::AttachCommand;
use crate::network::AddressSpec;
use crate::types::DnsName;

#[derive(Debug, Args)]
pub(super) struct Attach {
    /// Leave multicast as it is; by default it goes by the first interface
    #[arg(long)]
    no_multicast_route: bool,
    /// Leave the addresses out of what the container is called in weaveDNS
    #[arg(long)]
    without_dns: bool,
    #[arg(long, hide = true)]
    rewrite_hosts: bool,
    #[arg(long, hide = true, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
    /// Addresses, then the container: `10.2.1.5/24`, `net:10.2.1.0/24` or `net:default`
    #[arg(value_name = "ADDRESS... CONTAINER", required = true)]
    words: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Detach {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
    /// Addresses, all that were attached if none is named, then the container
    #[arg(value_name = "ADDRESS... CONTAINER", required = true)]
    words: Vec<String>,
}

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub(super) struct Expose {
    /// What the addresses are called in weaveDNS, with or without the domain
    #[arg(short = 'h', long = "name", value_name = "NAME")]
    name: Option<DnsName>,
    /// Leave the addresses of what passes between the subnet and the world as they are
    #[arg(long)]
    without_masquerade: bool,
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
    /// `10.2.1.5/24`, `net:10.2.1.0/24` or `net:default`, which is the default
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<AddressSpec>,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Debug, Args)]
pub(super) struct Hide {
    /// Print JSON for programs
    #[arg(long)]
    json: bool,
    /// As they were exposed; all if none is named
    #[arg(value_name = "ADDRESS")]
    addresses: Vec<AddressSpec>,
}

impl Attach {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        if self.rewrite_hosts || !self.add_host.is_empty() {
            return Err(usage(
                "a running container's /etc/hosts is left alone: give `docker run --add-host`, or \
                 name addresses with `weave dns-add`"
                    .to_owned(),
            ));
        }
        let (addresses, container) = split(self.words)?;
        let command = AttachCommand::Attach {
            container,
            addresses,
            multicast_route: !self.no_multicast_route,
            without_dns: self.without_dns,
        };
        post(client, &command, self.json).await
    }
}

impl Detach {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let (addresses, container) = split(self.words)?;
        let command = AttachCommand::Detach {
            container,
            addresses,
        };
        post(client, &command, self.json).await
    }
}

impl Expose {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let command = AttachCommand::Expose {
            addresses: self.addresses,
            masquerade: !self.without_masquerade,
            name: self.name,
        };
        post(client, &command, self.json).await
    }
}

impl Hide {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let addresses = self.addresses;
        post(client, &AttachCommand::Hide { addresses }, self.json).await
    }
}

fn usage(text: String) -> ClientError {
    ClientError::Local(io::Error::new(io::ErrorKind::InvalidInput, text))
}

/// The container comes last, as it always has.
fn split(mut words: Vec<String>) -> Result<(Vec<AddressSpec>, String), ClientError> {
    let container = words
        .pop()
        .ok_or_else(|| usage("expected a container".to_owned()))?;
    let addresses = words.iter().map(|word| word.parse());
    let addresses: Result<_, _> = addresses.collect();
    match addresses {
        Ok(addresses) => Ok((addresses, container)),
        Err(error) => Err(usage(error.to_string())),
    }
}

async fn post(client: &Client, command: &AttachCommand, json: bool) -> Result<(), ClientError> {
    let answer = client.post("/attachments", command).await?;
    if json {
        return Ok(terminal::print(&answer)?);
    }
    let addresses: Vec<IpNet> = serde_json::from_str(&answer).map_err(io::Error::from)?;
    let addresses: Vec<_> = addresses.iter().map(|a| a.addr().to_string()).collect();
    if !addresses.is_empty() {
        terminal::print(&(addresses.join(" ") + "\n"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_comes_last() {
        let words = |line: &str| split(line.split(' ').map(str::to_owned).collect());
        let (addresses, container) = words("net:default 10.2.1.5/24 c1").unwrap();
        assert_eq!((addresses.len(), container.as_str()), (2, "c1"));
        assert!(words("c1").unwrap().0.is_empty());
        let error = words("c1 net:default").unwrap_err().to_string();
        assert!(error.contains("c1"), "{error}");
    }
}
