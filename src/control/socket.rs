//! The control socket: HTTP/JSON over a unix socket that only root can open.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use warp::http::{Method, StatusCode};

use super::serve::{self, Answer, Request};
use super::{AttachCommand, COMMAND_DEADLINE, Control, ControlError, Warning, Warnings, http};
use crate::config::PeerAddress;
use crate::dns::NameRequest;
use crate::types::DnsName;

const TOPIC: &str = "control socket";

/// What `POST /connect` takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// Where to connect to.
    pub peers: Vec<PeerAddress>,
    /// Whether to connect to nothing else.
    #[serde(default)]
    pub replace: bool,
}

/// What `POST /forget` takes; it answers with an array of those that were no targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forget {
    /// Where not to connect to any more.
    pub peers: Vec<PeerAddress>,
}

/// What `POST /addresses` takes; it answers with an array of addresses with prefix lengths. Those
/// that are no subcommands of `weave ipam` are commands of their own.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum AddressCommand {
    /// Allocate an address; the one the container has, if it has one there
    Allocate {
        /// The container's identifier
        container: String,
        /// From this subnet in place of the default one
        subnet: Option<IpNet>,
    },
    /// Note that a container has an address, or is to have it
    Claim {
        /// The container's identifier
        container: String,
        /// The address with its subnet's prefix length, like 10.32.0.5/12
        address: IpNet,
    },
    /// Show the addresses of a container
    Lookup {
        /// The container's identifier
        container: String,
    },
    /// Release one address of a container, or all
    Release {
        /// The container's identifier
        container: String,
        /// Which one
        address: Option<IpAddr>,
    },
    /// A peer is gone for good: take its addresses over
    #[command(skip)]
    Remove {
        /// Its nickname, identifier, or the start of it as status shows it
        peer: String,
    },
    /// Wait until addresses can be handed out
    #[command(skip)]
    Prime,
    /// Hand all of this host's addresses over to another peer
    #[command(skip)]
    Reset,
}

/// A part of the daemon that can be switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The legacy drivers `weave` and `weavemesh`, and the network `weave`.
    Plugin,
    /// The Docker API proxy.
    Proxy,
}

/// Whether a part is to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// It is.
    On,
    /// It is not.
    Off,
}

/// What `POST /parts` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchPart {
    /// Which part.
    pub part: Part,
    /// What it is to be.
    pub state: Switch,
}

/// What `POST /names` takes; it answers with an array of addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum NameCommand {
    /// Give addresses a name.
    Add(NameRequest),
    /// Take that back.
    Remove(NameRequest),
    /// Say what a name stands for.
    Lookup {
        /// The name, with or without the domain.
        name: DnsName,
    },
}

/// Serves the socket for as long as it is polled; where that cannot be, warns and tries again.
pub async fn serve(path: PathBuf, control: Arc<impl Control>, warnings: Warnings) {
    let listener = loop {
        match bind(&path).await {
            Ok(listener) => break listener,
            Err(error) => {
                let path = path.display();
                let what =
                    format!("the `weave` command cannot reach this daemon at {path}: {error}");
                let remedy = "stop the other daemon, if there is one; it is tried again";
                warnings.set(TOPIC, Warning::new(what, remedy));
                tokio::time::sleep(serve::RETRY).await;
            }
        }
    };
    warnings.clear(TOPIC);
    serve::serve(listener, move |request| {
        let control = control.clone();
        async move { answer(&*control, request).await }
    })
    .await
}

async fn answer(control: &impl Control, request: Request) -> Answer {
    match (request.method.clone(), request.path.as_str()) {
        (Method::GET | Method::HEAD, _) => http::read(control, &request, COMMAND_DEADLINE).await,
        (Method::POST, "/connect") => match serde_json::from_slice(&request.body) {
            Ok(Connect { peers, replace }) if replace || !peers.is_empty() => {
                done(control.connect(peers, replace)).await
            }
            Ok(_) => Answer::text(StatusCode::BAD_REQUEST, "expected at least one peer\n"),
            Err(error) => malformed(&error),
        },
        (Method::POST, "/forget") => match serde_json::from_slice(&request.body) {
            Ok(Forget { peers }) => done(control.forget(peers)).await,
            Err(error) => malformed(&error),
        },
        (Method::POST, "/addresses") => match serde_json::from_slice(&request.body) {
            Ok(command) => done(control.addresses(command)).await,
            Err(error) => malformed(&error),
        },
        (Method::POST, "/attachments") => {
            match serde_json::from_slice::<AttachCommand>(&request.body) {
                Ok(command) => done(control.attachments(command)).await,
                Err(error) => malformed(&error),
            }
        }
        (Method::POST, "/names") => match serde_json::from_slice(&request.body) {
            Ok(command) => done(control.names(command)).await,
            Err(error) => malformed(&error),
        },
        (Method::POST, "/parts") => match serde_json::from_slice(&request.body) {
            Ok(SwitchPart { part, state }) => done(control.switch(part, state)).await,
            Err(error) => malformed(&error),
        },
        (_, path) => Answer::text(
            StatusCode::NOT_FOUND,
            format!("this daemon does not know {} {path}\n", request.method),
        ),
    }
}

async fn done<T: Serialize>(change: impl Future<Output = Result<T, ControlError>>) -> Answer {
    match timeout(COMMAND_DEADLINE, change).await {
        Ok(Ok(value)) => match serde_json::to_string(&value) {
            Ok(json) => Answer::json(json + "\n"),
            Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        Ok(Err(error)) => refusal(&error),
        Err(_) => http::late(COMMAND_DEADLINE),
    }
}

fn refusal(error: &ControlError) -> Answer {
    let status = match error {
        ControlError::Refused(_) => StatusCode::CONFLICT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Answer::text(status, format!("{error}\n"))
}

fn malformed(error: &serde_json::Error) -> Answer {
    let message = format!("the request is not what it should be: {error}\n");
    Answer::text(StatusCode::BAD_REQUEST, message)
}

/// Binds the path, for root alone, in place of what a dead daemon left there. The directory is one
/// that others pass through but cannot look into: the Docker API proxy's socket is in it too.
async fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o711).create(dir)?;
        fs::set_permissions(dir, Permissions::from_mode(0o711))?;
    }
    match UnixStream::connect(path).await.map_err(|e| e.kind()) {
        Err(io::ErrorKind::NotFound) => {}
        Err(io::ErrorKind::ConnectionRefused) => fs::remove_file(path)?,
        // Also one that is too busy to accept.
        _ => return Err(io::Error::other("another daemon serves it")),
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::future::pending;
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::Report;
    use super::super::report::examples;
    use super::*;

    /// A daemon that takes note of what it was asked.
    #[derive(Debug, Default)]
    pub(crate) struct Fake {
        pub(crate) hangs: bool,
        /// The one of the examples where this is `None`.
        pub(crate) report: Mutex<Option<Report>>,
        pub(crate) asked: Mutex<Vec<String>>,
    }

    impl Fake {
        async fn note(&self, what: String) -> Result<(), ControlError> {
            if self.hangs {
                pending::<()>().await;
            }
            self.asked.lock().unwrap().push(what);
            Ok(())
        }
    }

    impl Control for Fake {
        async fn report(&self) -> Report {
            if self.hangs {
                pending::<()>().await;
            }
            let report = self.report.lock().unwrap().clone();
            report.unwrap_or_else(examples::report)
        }

        async fn connect(
            &self,
            peers: Vec<PeerAddress>,
            replace: bool,
        ) -> Result<(), ControlError> {
            self.note(format!("connect {} {replace}", names(&peers)))
                .await
        }

        async fn addresses(&self, command: AddressCommand) -> Result<Vec<IpNet>, ControlError> {
            if let AddressCommand::Remove { peer } = &command
                && peer == "nobody"
            {
                return Err(ControlError::Refused("no peer is called nobody".to_owned()));
            }
            self.note(format!("{command:?}")).await?;
            Ok(vec!["10.32.0.5/12".parse().unwrap()])
        }

        async fn attachments(&self, command: AttachCommand) -> Result<Vec<IpNet>, ControlError> {
            self.note(format!("{command:?}")).await?;
            Ok(vec!["10.32.0.6/12".parse().unwrap()])
        }

        async fn names(&self, command: NameCommand) -> Result<Vec<IpAddr>, ControlError> {
            self.note(format!("{command:?}")).await?;
            Ok(vec![[10, 32, 0, 5].into()])
        }

        async fn switch(&self, part: Part, state: Switch) -> Result<(), ControlError> {
            self.note(format!("{part:?} {state:?}")).await
        }

        async fn forget(&self, peers: Vec<PeerAddress>) -> Result<Vec<PeerAddress>, ControlError> {
            self.note(format!("forget {}", names(&peers))).await?;
            Ok(peers)
        }
    }

    fn names(peers: &[PeerAddress]) -> String {
        peers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(",")
    }

    async fn connect(path: &Path) -> UnixStream {
        loop {
            match UnixStream::connect(path).await {
                Ok(stream) => return stream,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    async fn post(path: &Path, url: &str, body: &str) -> String {
        let length = body.len();
        let request = format!(
            "POST {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let mut stream = connect(path).await;
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn commands_arrive_and_nonsense_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weave/control.sock");
        let fake = Arc::new(Fake::default());
        tokio::spawn(serve(path.clone(), fake.clone(), Warnings::default()));
        let large = format!(
            r#"{{"peers":["{}"]}}"#,
            "x".repeat(serve::MAX_BODY as usize)
        );
        let deep = "[".repeat(serve::MAX_BODY as usize / 2);
        for (url, body, status) in [
            ("/connect", &*deep, "400"),
            ("/connect", r#"{"peers":["h1","[fd00::1]:1"]}"#, "200"),
            ("/connect", r#"{"peers":[],"replace":true}"#, "200"),
            ("/forget", r#"{"peers":["h1"]}"#, "200"),
            ("/connect", r#"{"peers":[]}"#, "400"),
            ("/connect", r#"{"peers":["h:x"]}"#, "400"),
            ("/connect", r#"{"peers":["h"],"force":true}"#, "400"),
            ("/forget", "", "400"),
            ("/forget", &large, "413"),
            ("/addresses", r#"{"remove":{"peer":"h1"}}"#, "200"),
            ("/addresses", r#"{"remove":{"peer":"nobody"}}"#, "409"),
            (
                "/addresses",
                r#"{"claim":{"container":"c","address":"x"}}"#,
                "400",
            ),
            ("/addresses", r#""reset""#, "200"),
            (
                "/attachments",
                r#"{"hide":{"addresses":["net:default"]}}"#,
                "200",
            ),
            ("/attachments", r#"{"hide":{"addresses":["net:x"]}}"#, "400"),
            ("/parts", r#"{"part":"plugin","state":"off"}"#, "200"),
            ("/parts", r#"{"part":"proxy","state":"on"}"#, "200"),
            ("/parts", r#"{"part":"engine","state":"off"}"#, "400"),
            ("/names", r#"{"lookup":{"name":"Foo."}}"#, "200"),
            ("/names", r#"{"add":{"name":"a b"}}"#, "400"),
            ("/explode", "{}", "404"),
        ] {
            let answer = post(&path, url, body).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{url} {body}: {answer}"
            );
        }
        let asked = [
            "connect h1,[fd00::1]:1 false",
            "connect  true",
            "forget h1",
            r#"Remove { peer: "h1" }"#,
            "Reset",
            "Hide { addresses: [Default] }",
            "Plugin Off",
            "Proxy On",
            r#"Lookup { name: DnsName("foo") }"#,
        ];
        assert_eq!(*fake.asked.lock().unwrap(), asked);
    }

    #[tokio::test]
    async fn only_root_can_open_it_and_a_dead_daemons_socket_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weave/control.sock");
        drop(bind(&path).await.unwrap());
        let listener = bind(&path).await.unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o711);
        let error = bind(&path).await.unwrap_err();
        assert_eq!(error.to_string(), "another daemon serves it");
        drop(listener);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_hangs_is_answered_at_the_deadline() {
        let fake = Fake {
            hangs: true,
            ..Fake::default()
        };
        let request = Request {
            method: Method::POST,
            path: "/forget".to_owned(),
            query: String::new(),
            body: r#"{"peers":["h1"]}"#.into(),
        };
        let answer = answer(&fake, request).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    }
}
