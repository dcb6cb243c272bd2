//! Commands that switch parts of the daemon, and that lead Docker's clients to the proxy.

use std::io;
use std::path::Path;

use clap::Args;

use super::client::{Client, ClientError};
use super::terminal;
use crate::config::{Paths, ProxyAddress};
use crate::control::socket::SwitchPart;
use crate::control::{Part, Report, Switch};

/// The variable that Docker's clients go by, and where it is kept meanwhile.
const VARIABLE: &str = "DOCKER_HOST";
const KEPT: &str = "ORIG_DOCKER_HOST";

#[derive(Debug, Args)]
pub(super) struct Env {
    /// Lead them where they went before
    #[arg(long)]
    restore: bool,
}

/// Switches the plugin part.
pub(super) async fn plugin(client: &Client, state: Switch) -> Result<(), ClientError> {
    let part = Part::Plugin;
    client.post("/parts", &SwitchPart { part, state }).await?;
    if state == Switch::On {
        terminal::print("the drivers `weave` and `weavemesh` are served\n")?;
    }
    Ok(())
}

/// Switches the proxy.
pub(super) async fn proxy(client: &Client, state: Switch) -> Result<(), ClientError> {
    let part = Part::Proxy;
    client.post("/parts", &SwitchPart { part, state }).await?;
    if state == Switch::On {
        terminal::print("Docker's API is served; next: eval $(weave env)\n")?;
    }
    Ok(())
}

impl Env {
    pub(super) async fn run(self, client: &Client, paths: &Paths) -> Result<(), ClientError> {
        let former = |variable| std::env::var(variable).unwrap_or_default();
        let text = match self.restore {
            true => restored(&former(KEPT)),
            false => {
                let address = address(client, paths).await?.to_string();
                led(&address, &former(VARIABLE), &former(KEPT))
            }
        };
        Ok(terminal::print(&text)?)
    }
}

/// Prints the flag for `docker`.
pub(super) async fn flag(client: &Client, paths: &Paths) -> Result<(), ClientError> {
    let address = address(client, paths).await?;
    Ok(terminal::print(&format!("-H={address}\n"))?)
}

/// Where a client on this host finds the proxy.
async fn address(client: &Client, paths: &Paths) -> Result<ProxyAddress, ClientError> {
    let report = match client.get("/report").await {
        // Users of Docker need not be root to use the proxy.
        Err(ClientError::NotRoot { .. }) if is_there(paths) => return Ok(ProxyAddress::default()),
        report => report?,
    };
    let report: Report = serde_json::from_str(&report).map_err(io::Error::from)?;
    let Some(proxy) = report.proxy else {
        return Err(io::Error::other("the proxy is off: run `weave launch-proxy`").into());
    };
    let mut served = proxy
        .listeners
        .iter()
        .filter(|listener| listener.error.is_none());
    match served.next() {
        Some(listener) => Ok(listener.address.clone().of_client()),
        None => Err(io::Error::other("the proxy is not served: see `weave status proxy`").into()),
    }
}

fn is_there(paths: &Paths) -> bool {
    let ProxyAddress::Unix(socket) = ProxyAddress::default() else {
        return false;
    };
    let socket = paths.of_operator(&socket);
    socket.as_deref().is_some_and(Path::exists)
}

/// What a shell is to do so that clients go to the proxy; what was kept stays.
fn led(address: &str, former: &str, kept: &str) -> String {
    let address = quoted(address);
    if former.is_empty() || !kept.is_empty() {
        return format!("export {VARIABLE}={address}\n");
    }
    format!("export {VARIABLE}={address} {KEPT}={}\n", quoted(former))
}

/// What it is to do so that they go where they went.
fn restored(kept: &str) -> String {
    match kept {
        "" => format!("unset {VARIABLE}\n"),
        kept => format!("export {VARIABLE}={}; unset {KEPT}\n", quoted(kept)),
    }
}

/// Text as one word of a POSIX shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:._-[]".contains(c);
    match text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_are_led_to_the_proxy_and_back() {
        let socket = "unix:///var/run/weave/weave.sock";
        assert_eq!(
            led(socket, "", ""),
            format!("export DOCKER_HOST={socket}\n")
        );
        assert_eq!(
            led(socket, "tcp://h:1", ""),
            format!("export DOCKER_HOST={socket} ORIG_DOCKER_HOST=tcp://h:1\n")
        );
        assert_eq!(
            led(socket, socket, "tcp://h:1"),
            format!("export DOCKER_HOST={socket}\n")
        );
        assert_eq!(restored(""), "unset DOCKER_HOST\n");
        assert_eq!(
            restored("unix:///a b'c"),
            "export DOCKER_HOST='unix:///a b'\\''c'; unset ORIG_DOCKER_HOST\n"
        );
    }
}
