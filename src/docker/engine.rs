//! A client of Docker's own API.
//!
//! Nothing that Docker asks of us may need this: it is not there while the Engine starts its
//! plugins. Every call opens the socket anew, as a restart of the Engine replaces it.

mod model;
mod own;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use hyperlocal::UnixConnector;
use serde::de::DeserializeOwned;
use thiserror::Error;

pub use model::*;
pub use own::{Image, OwnContainer};

use crate::types::NetworkId;

/// The newest version of the API whose replies have been seen (Engine 28.5).
const NEWEST_KNOWN: ApiVersion = ApiVersion(1, 51);
/// How long a call may take unless said otherwise.
const DEADLINE: Duration = Duration::from_secs(5);
/// The largest reply read into memory: a list of some ten thousand containers.
const MAX_REPLY: usize = 32 << 20;
/// The longest event read: one carries the labels of its container.
const MAX_EVENT: usize = 1 << 20;
/// What bodies are, unless said otherwise.
const JSON: &str = "application/json";

/// Why the Engine did not answer as hoped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EngineError {
    /// Nobody answers on the socket.
    #[error("docker does not answer on {path}: {reason}", path = path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// The answer took too long.
    #[error("docker did not answer {call} within {deadline:?}")]
    Timeout {
        /// What was asked.
        call: String,
        /// For how long.
        deadline: Duration,
    },
    /// The Engine refused.
    #[error("docker answered {call} with status {status}: {message}")]
    Refused {
        /// What was asked.
        call: String,
        /// The HTTP status.
        status: u16,
        /// Its message.
        message: String,
    },
    /// The answer is not what this version expects.
    #[error("docker's answer to {call} cannot be read: {reason}")]
    Malformed {
        /// What was asked.
        call: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl EngineError {
    /// Whether the Engine says that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }

    /// Whether the Engine says that there is such a thing already.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Refused { status: 409, .. })
    }
}

/// A version of the API, as in the path `/v1.41/info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct ApiVersion(u16, u16);

impl ApiVersion {
    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.trim().split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

/// The way to Docker's API; cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Engine {
    socket: Arc<Path>,
    deadline: Duration,
}

impl Engine {
    /// The Engine behind this socket, which need not be there yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into().into(),
            deadline: DEADLINE,
        }
    }

    /// The same Engine, with so much time for each call.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// What the Engine is, and its place in a swarm.
    pub async fn info(&self) -> Result<Info, EngineError> {
        self.get("/info").await
    }

    /// All nodes of the swarm; only managers know.
    pub async fn nodes(&self) -> Result<Vec<Node>, EngineError> {
        self.get("/nodes").await
    }

    /// The services of the swarm; only managers know.
    pub async fn services(&self) -> Result<Vec<Service>, EngineError> {
        self.get("/services").await
    }

    /// One network's definition.
    pub async fn network(&self, id: &NetworkId) -> Result<Network, EngineError> {
        self.get(&format!("/networks/{id}")).await
    }

    /// The networks of one driver.
    pub async fn networks(&self, driver: &str) -> Result<Vec<Network>, EngineError> {
        let filter = filters("driver", &[driver]);
        self.get(&format!("/networks?filters={filter}")).await
    }

    /// The network of this name, or whose identifier begins so.
    pub async fn network_called(&self, name: &str) -> Result<Network, EngineError> {
        self.get(&format!("/networks/{}", escape(name))).await
    }

    /// All networks.
    pub async fn all_networks(&self) -> Result<Vec<Network>, EngineError> {
        self.get("/networks").await
    }

    /// The managed plugins.
    pub async fn plugins(&self) -> Result<Vec<Plugin>, EngineError> {
        self.get("/plugins").await
    }

    /// The running containers and where they are attached.
    pub async fn containers(&self) -> Result<Vec<Container>, EngineError> {
        self.get("/containers/json").await
    }

    /// Those of the running containers that have these identifiers.
    pub async fn containers_among(
        &self,
        ids: &BTreeSet<String>,
    ) -> Result<Vec<Container>, EngineError> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let filter = filters("id", &ids);
        self.get(&format!("/containers/json?filters={filter}"))
            .await
    }

    /// One container, by name or identifier.
    pub async fn container(&self, name: &str) -> Result<ContainerDetail, EngineError> {
        self.get(&format!("/containers/{}/json", escape(name)))
            .await
    }

    /// What happens from now on to objects of these types (`container`, `network`, ...).
    ///
    /// The stream ends with the Engine; reconnecting, and asking for what was missed, is up to
    /// the caller.
    pub async fn events(&self, types: &[&str]) -> Result<Events, EngineError> {
        let path = format!("/events?filters={}", filters("type", types));
        let response = self.within(&path, self.open(&path));
        let response = response.await?;
        Ok(Events {
            body: response.into_body(),
            buffer: Vec::new(),
        })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, EngineError> {
        self.within(path, async {
            let response = self.open(path).await?;
            let body = self.read(path, response).await?;
            serde_json::from_slice(&body).map_err(|error| malformed(path, error))
        })
        .await
    }

    async fn within<T>(
        &self,
        call: &str,
        future: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        tokio::time::timeout(self.deadline, future)
            .await
            .unwrap_or_else(|_| {
                Err(EngineError::Timeout {
                    call: call.to_owned(),
                    deadline: self.deadline,
                })
            })
    }

    async fn open(&self, path: &str) -> Result<Response<Incoming>, EngineError> {
        self.open_with(Method::GET, path, JSON, Bytes::new()).await
    }

    /// Asks in the newest version of the API that both sides know, found out every time: the
    /// Engine may have been upgraded since the last call.
    async fn open_with(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Response<Incoming>, EngineError> {
        let ping = self
            .request(Method::GET, "/_ping", JSON, Bytes::new())
            .await?;
        let version = ping
            .headers()
            .get("api-version")
            .and_then(|header| ApiVersion::parse(header.to_str().ok()?));
        let versioned = match version.map(|theirs| theirs.min(NEWEST_KNOWN)) {
            Some(ApiVersion(major, minor)) => format!("/v{major}.{minor}{path}"),
            None => path.to_owned(),
        };
        let response = self.request(method, &versioned, content_type, body).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status().as_u16();
        let body = self.read(path, response).await.unwrap_or_default();
        let message = serde_json::from_slice::<Message>(&body).map_or_else(
            |_| String::from_utf8_lossy(&body).trim().to_owned(),
            |message| message.message,
        );
        Err(EngineError::Refused {
            call: path.to_owned(),
            status,
            message,
        })
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &'static str,
        body: Bytes,
    ) -> Result<Response<Incoming>, EngineError> {
        let mut request = Request::builder()
            .method(method)
            .uri(hyperlocal::Uri::new(&self.socket, path))
            // The API refuses HTTP/1.1 without a host; its name is of no importance.
            .header(hyper::header::HOST, "docker");
        if !body.is_empty() {
            request = request.header(hyper::header::CONTENT_TYPE, content_type);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| malformed(path, error))?;
        Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build::<_, Full<Bytes>>(UnixConnector)
            .request(request)
            .await
            .map_err(|error| EngineError::Unreachable {
                path: self.socket.to_path_buf(),
                reason: root_cause(&error),
            })
    }

    async fn read(&self, call: &str, response: Response<Incoming>) -> Result<Bytes, EngineError> {
        Limited::new(response.into_body(), MAX_REPLY)
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes)
            .map_err(|error| malformed(call, error))
    }
}

/// A stream of events.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the Engine has ended the stream.
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Event>, EngineError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                if line.trim_ascii().is_empty() {
                    continue;
                }
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|error| malformed("/events", error));
            }
            if self.buffer.len() > MAX_EVENT {
                let error = format!("an event of more than {MAX_EVENT} bytes");
                return Err(malformed("/events", error));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| malformed("/events", error))?;
            if let Some(data) = frame.data_ref() {
                self.buffer.extend_from_slice(data);
            }
        }
    }
}

fn malformed(call: &str, reason: impl ToString) -> EngineError {
    EngineError::Malformed {
        call: call.to_owned(),
        reason: reason.to_string(),
    }
}

/// The clients' own errors say only that something went wrong; what it was lies beneath.
fn root_cause(mut error: &dyn std::error::Error) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The API's filters: a JSON object of lists, escaped for a query.
fn filters(name: &str, values: &[&str]) -> String {
    escape(&serde_json::json!({ name: values }).to_string())
}

/// Percent-encodes all but the unreserved characters (RFC 3986, section 2.3).
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use warp::Filter;

    use super::*;

    /// An Engine of fixed answers, by path without version; `409 ` before it makes a conflict of the
    /// answer. Anything else is not found.
    pub(in super::super) struct FakeEngine {
        dir: tempfile::TempDir,
        task: tokio::task::JoinHandle<()>,
        asked: Arc<std::sync::Mutex<Vec<String>>>,
    }

    impl FakeEngine {
        pub(in super::super) fn start(
            version: Option<&'static str>,
            answers: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
        ) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let answers: BTreeMap<String, String> = answers
                .into_iter()
                .map(|(path, answer)| (path.into(), answer.into()))
                .collect();
            let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
            let log = Arc::clone(&asked);
            let filter = warp::path::full().map(move |path: warp::path::FullPath| {
                let path = path.as_str();
                log.lock().unwrap().push(path.to_owned());
                let builder = warp::http::Response::builder();
                if path == "/_ping" {
                    return match version {
                        Some(version) => builder.header("Api-Version", version),
                        None => builder,
                    }
                    .body("OK".to_owned());
                }
                let prefix = version.map(|version| format!("/v{version}"));
                let bare = prefix.and_then(|prefix| path.strip_prefix(prefix.as_str()));
                let bare = bare.unwrap_or(path);
                let conflict = answers.get(&format!("409 {bare}"));
                match (answers.get(bare), conflict) {
                    (Some(answer), _) => builder.body(answer.clone()),
                    (None, Some(conflict)) => builder.status(409).body(conflict.clone()),
                    (None, None) => builder
                        .status(404)
                        .body(format!(r#"{{"message":"no {path}"}}"#)),
                }
            });
            let listener = tokio::net::UnixListener::bind(dir.path().join("d.sock")).unwrap();
            let task = tokio::spawn(warp::serve(filter).incoming(listener).run());
            Self { dir, task, asked }
        }

        pub(in super::super) fn engine(&self) -> Engine {
            Engine::new(self.socket())
        }

        pub(in super::super) fn socket(&self) -> PathBuf {
            self.dir.path().join("d.sock")
        }

        fn asked(&self) -> Vec<String> {
            self.asked.lock().unwrap().clone()
        }
    }

    impl Drop for FakeEngine {
        fn drop(&mut self) {
            self.task.abort();
        }
    }

    #[tokio::test]
    async fn the_older_of_both_versions_is_spoken() {
        let old = FakeEngine::start(Some("1.41"), [("/info", r#"{"ServerVersion":"20.10"}"#)]);
        let info = old.engine().info().await.unwrap();
        assert_eq!(info.server_version, "20.10");
        assert_eq!(old.asked(), ["/_ping", "/v1.41/info"]);

        let newer = FakeEngine::start(Some("1.99"), [("/v1.51/info", "{}")]);
        newer.engine().info().await.unwrap();
        assert_eq!(newer.asked(), ["/_ping", "/v1.51/info"]);
    }

    #[tokio::test]
    async fn an_engine_that_tells_no_version_is_asked_without() {
        let fake = FakeEngine::start(None, [("/info", "{}")]);
        fake.engine().info().await.unwrap();
        assert_eq!(fake.asked(), ["/_ping", "/info"]);
    }

    #[tokio::test]
    async fn what_is_not_there_is_told_apart_from_other_failures() {
        let fake = FakeEngine::start(Some("1.41"), [("/nodes", "[{]")]);
        let id = "n1".parse().unwrap();
        let error = fake.engine().network(&id).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        assert!(
            error.to_string().contains("no /v1.41/networks/n1"),
            "{error}"
        );
        let error = fake.engine().nodes().await.unwrap_err();
        assert!(matches!(error, EngineError::Malformed { .. }), "{error}");
        let error = Engine::new("/nonexistent/docker.sock")
            .info()
            .await
            .unwrap_err();
        assert!(error.to_string().contains("No such file"), "{error}");
    }

    #[tokio::test]
    async fn an_engine_that_says_nothing_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.sock");
        let _listener = tokio::net::UnixListener::bind(&path).unwrap();
        let engine = Engine::new(path).with_deadline(Duration::from_millis(20));
        let error = engine.info().await.unwrap_err();
        assert!(matches!(error, EngineError::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn events_come_one_by_one_until_the_stream_ends() {
        let fake = FakeEngine::start(
            Some("1.41"),
            [(
                "/events",
                concat!(
                    r#"{"Type":"container","Action":"start","Actor":{"ID":"c1","#,
                    r#""Attributes":{"name":"web"}},"timeNano":7}"#,
                    "\n\n",
                    r#"{"Type":"network","Action":"connect"}"#,
                    "\n"
                ),
            )],
        );
        let mut events = fake.engine().events(&["container"]).await.unwrap();
        let first = events.next().await.unwrap().unwrap();
        assert_eq!((first.action.as_str(), first.time_nano), ("start", 7));
        assert_eq!(first.actor.attributes["name"], "web");
        assert_eq!(events.next().await.unwrap().unwrap().kind, "network");
        assert!(events.next().await.unwrap().is_none());
    }

    #[test]
    fn filters_are_escaped() {
        assert_eq!(
            filters("driver", &["x/y:latest"]),
            "%7B%22driver%22%3A%5B%22x%2Fy%3Alatest%22%5D%7D"
        );
    }

    #[tokio::test]
    async fn a_real_engine_is_understood() {
        let path = "/var/run/docker.sock";
        if std::os::unix::net::UnixStream::connect(path).is_err() {
            return;
        }
        let engine = Engine::new(path);
        let info = engine.info().await.unwrap();
        assert!(!info.server_version.is_empty());
        let networks = engine.networks("bridge").await.unwrap();
        let bridge = networks.iter().find(|n| n.name == "bridge").unwrap();
        let id = bridge.id.parse().unwrap();
        assert_eq!(engine.network(&id).await.unwrap().driver, "bridge");
        engine.containers().await.unwrap();
        let error = engine.container("no such container").await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
        engine.events(&["container"]).await.unwrap();
    }
}
