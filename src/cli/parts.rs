//! Commands that switch parts of the daemon, and that lead Docker's clients to the proxy.

use std::io;
use std::path::Path;

use clap::Args;

use super::client::{Client, ClientError};
use super::terminal;
use crate::config::{DockerSocket, Paths, ProxyAddress, Settings};
use crate::control::socket::SwitchPart;
use crate::control::{Part, Report, Switch};

/// The variables that Docker's clients go by: where Docker is, and whether it has TLS.
const HOST: &str = "DOCKER_HOST";
const TLS: &str = "DOCKER_TLS_VERIFY";

/// Before the name of a variable: what it was before.
const KEPT: &str = "ORIG_";

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
        let shell = Shell::of_this_process();
        let text = match self.restore {
            true => shell.restored(),
            false => shell.led(&served(client, paths, &shell).await?),
        };
        Ok(terminal::print(&text)?)
    }
}

/// Prints the flags for `docker`.
pub(super) async fn flag(client: &Client, paths: &Paths) -> Result<(), ClientError> {
    let shell = Shell::of_this_process();
    let served = served(client, paths, &shell).await?;
    let is_set = !shell.tls.is_empty();
    if is_set && !served.tls {
        // Docker has no flag against it.
        eprintln!("weave: {TLS} is set, and the proxy has no TLS: eval $(weave env) unsets it");
    }
    let verify = if served.tls && !is_set {
        " --tlsverify"
    } else {
        ""
    };
    Ok(terminal::print(&format!(
        "-H={}{verify}\n",
        served.address
    ))?)
}

/// Where the proxy is to be over TCP, because that is how this process reaches Docker.
pub(super) fn tcp_as_docker() -> Option<ProxyAddress> {
    ProxyAddress::beside(Shell::of_this_process().docker())
}

/// Where Docker's own API is for the client in this shell, where the settings name no socket and that
/// is another than the usual one.
pub(super) async fn docker_socket(settings: &Settings, client: &Client) -> Option<DockerSocket> {
    if settings.docker_socket.is_some() {
        return None;
    }
    let shell = Shell::of_this_process();
    let path = shell.docker().strip_prefix("unix://")?;
    let socket: DockerSocket = path.parse().ok()?;
    if socket == DockerSocket::default() {
        return None;
    }
    // A shell that was led to the proxy, and named nothing before, means the usual one.
    let report = client.get("/report").await.ok();
    let report = report.and_then(|text| serde_json::from_str::<Report>(&text).ok());
    let proxy = report.and_then(|report| report.proxy).unwrap_or_default();
    let listeners = proxy.listeners.into_iter().map(|listener| listener.address);
    let mut own = listeners.chain([ProxyAddress::default()]);
    let is_own = own.any(|address| address.to_string().parse().as_ref() == Ok(&socket));
    (!is_own).then_some(socket)
}

/// Where a client finds the proxy.
#[derive(Debug, Default)]
struct Served {
    address: String,
    tls: bool,
}

/// The listener that is most like how the client reaches Docker.
async fn served(client: &Client, paths: &Paths, shell: &Shell) -> Result<Served, ClientError> {
    let report = match client.get("/report").await {
        // Users of Docker need not be root to use the proxy.
        Err(ClientError::NotRoot { .. }) if is_there(paths) => {
            let address = ProxyAddress::default().to_string();
            return Ok(Served {
                address,
                tls: false,
            });
        }
        report => report?,
    };
    let report: Report = serde_json::from_str(&report).map_err(io::Error::from)?;
    let Some(proxy) = report.proxy else {
        return Err(io::Error::other("the proxy is off: run `weave launch-proxy`").into());
    };
    let listeners = proxy.listeners.iter();
    let served: Vec<_> = listeners.filter(|at| at.error.is_none()).collect();
    let over_tcp = shell.docker().starts_with("tcp://");
    let alike = served.iter().find(|at| at.address.is_tcp() == over_tcp);
    match alike.or(served.first()) {
        Some(listener) => Ok(Served {
            address: shell.address(&listener.address),
            tls: listener.tls,
        }),
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

/// What the shell that calls says of Docker.
#[derive(Debug, Default)]
struct Shell {
    host: String,
    tls: String,
    /// What it said before it was led to the proxy, where that was something else.
    kept_host: Option<String>,
    kept_tls: Option<String>,
}

impl Shell {
    fn of_this_process() -> Self {
        let said = |variable: &str| std::env::var(variable).ok();
        let kept = |variable: &str| said(&format!("{KEPT}{variable}"));
        Self {
            host: said(HOST).unwrap_or_default(),
            tls: said(TLS).unwrap_or_default(),
            kept_host: kept(HOST).filter(|host| !host.is_empty()),
            kept_tls: kept(TLS),
        }
    }

    /// Where it reaches Docker itself.
    fn docker(&self) -> &str {
        self.kept_host.as_deref().unwrap_or(&self.host)
    }

    /// Where it finds what listens at an address: by the name under which it knows Docker's host, for
    /// which that host has a certificate.
    fn address(&self, listener: &ProxyAddress) -> String {
        let docker = self.docker().strip_prefix("tcp://");
        let host = docker.map(|docker| docker.rsplit_once(':').map_or(docker, |(host, _)| host));
        match (listener, host) {
            (ProxyAddress::Tcp(address), Some(host))
                if address.ip().is_unspecified() && !host.is_empty() =>
            {
                format!("tcp://{host}:{}", address.port())
            }
            _ => listener.clone().of_client().to_string(),
        }
    }

    /// What it is to do so that clients go to the proxy; what was kept stays.
    fn led(&self, served: &Served) -> String {
        let mut text = format!("export {HOST}={}", quoted(&served.address));
        let is_new = ![&served.address, ""].contains(&self.host.as_str());
        if self.kept_host.is_none() && is_new {
            text += &format!(" {KEPT}{HOST}={}", quoted(&self.host));
        }
        if served.tls != self.tls.is_empty() {
            return text + "\n";
        }
        if self.kept_tls.is_none() {
            text += &format!(" {KEPT}{TLS}={}", quoted(&self.tls));
        }
        match served.tls {
            true => text + &format!(" {TLS}=1\n"),
            // Docker's clients would speak TLS on a socket too.
            false => text + &format!("; unset {TLS}\n"),
        }
    }

    /// What it is to do so that they go where they went.
    fn restored(&self) -> String {
        let back = |variable: &str, kept: &str| match kept {
            "" => format!("unset {variable} {KEPT}{variable}"),
            kept => format!("export {variable}={}; unset {KEPT}{variable}", quoted(kept)),
        };
        let host = match &self.kept_host {
            None => format!("unset {HOST}"),
            Some(kept) => back(HOST, kept),
        };
        match &self.kept_tls {
            None => format!("{host}\n"),
            Some(kept) => format!("{host}; {}\n", back(TLS, kept)),
        }
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

    fn shell(host: &str, tls: &str, kept_host: Option<&str>, kept_tls: Option<&str>) -> Shell {
        Shell {
            host: host.to_owned(),
            tls: tls.to_owned(),
            kept_host: kept_host.map(str::to_owned),
            kept_tls: kept_tls.map(str::to_owned),
        }
    }

    fn served(address: &str, tls: bool) -> Served {
        let address = address.to_owned();
        Served { address, tls }
    }

    #[test]
    fn shells_are_led_to_the_proxy_and_back() {
        let socket = "unix:///var/run/weave/weave.sock";
        let led = |host, kept| shell(host, "", kept, None).led(&served(socket, false));
        let plain = format!("export DOCKER_HOST={socket}\n");
        assert_eq!(led("", None), plain);
        assert_eq!(led(socket, None), plain);
        assert_eq!(led(socket, Some("tcp://h:1")), plain);
        assert_eq!(
            led("tcp://h:1", None),
            format!("export DOCKER_HOST={socket} ORIG_DOCKER_HOST=tcp://h:1\n")
        );
        let restored = |kept| shell(socket, "1", kept, None).restored();
        assert_eq!(restored(None), "unset DOCKER_HOST\n");
        assert_eq!(
            restored(Some("unix:///a b'c")),
            "export DOCKER_HOST='unix:///a b'\\''c'; unset ORIG_DOCKER_HOST\n"
        );
    }

    #[test]
    fn clients_speak_tls_where_the_proxy_does() {
        let with = served("tcp://h:12375", true);
        assert_eq!(
            shell("tcp://h:2376", "1", None, None).led(&with),
            "export DOCKER_HOST=tcp://h:12375 ORIG_DOCKER_HOST=tcp://h:2376\n"
        );
        assert_eq!(
            shell("", "", None, None).led(&with),
            "export DOCKER_HOST=tcp://h:12375 ORIG_DOCKER_TLS_VERIFY= DOCKER_TLS_VERIFY=1\n"
        );
        assert_eq!(
            shell("tcp://h:12375", "1", None, Some("")).restored(),
            "unset DOCKER_HOST; unset DOCKER_TLS_VERIFY ORIG_DOCKER_TLS_VERIFY\n"
        );
        assert_eq!(
            shell("tcp://h:2376", "1", None, None).led(&served("unix:///s", false)),
            "export DOCKER_HOST=unix:///s ORIG_DOCKER_HOST=tcp://h:2376 \
             ORIG_DOCKER_TLS_VERIFY=1; unset DOCKER_TLS_VERIFY\n"
        );
        assert_eq!(
            shell("unix:///s", "", Some("tcp://h:2376"), Some("1")).restored(),
            "export DOCKER_HOST=tcp://h:2376; unset ORIG_DOCKER_HOST; \
             export DOCKER_TLS_VERIFY=1; unset ORIG_DOCKER_TLS_VERIFY\n"
        );
    }

    #[test]
    fn certificates_are_for_the_name_that_the_client_knows() {
        let any: ProxyAddress = "tcp://0.0.0.0:12375".parse().unwrap();
        let at = |docker, kept| shell(docker, "", kept, None).address(&any);
        assert_eq!(at("tcp://host1:2376", None), "tcp://host1:12375");
        let kept = at("x", Some("tcp://[fd00::1]:2376"));
        assert_eq!(kept, "tcp://[fd00::1]:12375");
        assert_eq!(at("unix:///run/docker.sock", None), "tcp://127.0.0.1:12375");
    }
}
