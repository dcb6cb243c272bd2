//! The way to the daemon: HTTP over its control socket.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyperlocal::{UnixClientExt, UnixConnector, Uri};
use serde::Serialize;
use thiserror::Error;
use tokio::time::timeout;

use crate::control::COMMAND_DEADLINE;

/// Largest answer, in bytes: far more than the report of a large mesh.
const MAX_ANSWER: usize = 64 << 20;

/// How long to wait for an answer: longer than the daemon itself lets a request take.
const PATIENCE: Duration = COMMAND_DEADLINE.saturating_add(Duration::from_secs(3));

/// Why the daemon did not do what was asked.
#[derive(Debug, Error)]
pub(super) enum ClientError {
    /// Nobody listens.
    #[error(
        "the daemon is not running: {}: {reason}\n\
         is the plugin enabled? try: docker plugin enable weaveworks/net-plugin\n\
         without the plugin, run: weave launch",
        path.display()
    )]
    NotRunning {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// The socket is for root alone.
    #[error(
        "the daemon cannot be asked: {}: {reason}\nonly root may ask it; try: sudo weave ...",
        path.display()
    )]
    NotRoot {
        /// Where it was looked for.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// It listens and does not answer.
    #[error(
        "the daemon does not answer: waited {} s at {}\n\
         its log may say why; with the plugin it is dockerd's: journalctl -u docker",
        PATIENCE.as_secs(),
        path.display()
    )]
    Late {
        /// Where it was asked.
        path: PathBuf,
    },
    /// It has a reason not to.
    #[error("{reason}")]
    Declined {
        /// The reason, with the remedy.
        reason: String,
    },
    /// It answered that it could not.
    #[error("{method} {url} was answered with {status}: {reason}")]
    Refused {
        /// What was asked.
        method: Method,
        /// Of what.
        url: String,
        /// What the daemon said in short.
        status: StatusCode,
        /// What the daemon said.
        reason: String,
    },
    /// The connection broke.
    #[error("{method} {url} failed: {reason}")]
    Broken {
        /// What was asked.
        method: Method,
        /// Of what.
        url: String,
        /// What happened.
        reason: String,
    },
    /// This process cannot go on.
    #[error("{0}")]
    Local(#[from] io::Error),
}

/// Asks the daemon at one socket.
#[derive(Debug)]
pub(super) struct Client {
    path: PathBuf,
    http: hyper_util::client::legacy::Client<UnixConnector, Full<Bytes>>,
}

impl Client {
    /// A client of the daemon that listens, or does not, at this path.
    pub(super) fn new(path: PathBuf) -> Self {
        let http = hyper_util::client::legacy::Client::unix();
        Self { path, http }
    }

    /// Reads.
    pub(super) async fn get(&self, url: &str) -> Result<String, ClientError> {
        self.ask(Method::GET, url, Bytes::new()).await
    }

    /// Changes something.
    pub(super) async fn post(
        &self,
        url: &str,
        body: &impl Serialize,
    ) -> Result<String, ClientError> {
        let body = serde_json::to_vec(body).map_err(io::Error::from)?;
        self.ask(Method::POST, url, body.into()).await
    }

    async fn ask(&self, method: Method, url: &str, body: Bytes) -> Result<String, ClientError> {
        let answer = timeout(PATIENCE, self.exchange(&method, url, body)).await;
        let Ok(answer) = answer else {
            let path = self.path.clone();
            return Err(ClientError::Late { path });
        };
        let (status, text) = answer?;
        if status.is_success() {
            return Ok(text);
        }
        let reason = text.trim_end().to_owned();
        Err(match status {
            StatusCode::CONFLICT => ClientError::Declined { reason },
            _ => ClientError::Refused {
                method,
                url: url.to_owned(),
                status,
                reason,
            },
        })
    }

    async fn exchange(
        &self,
        method: &Method,
        url: &str,
        body: Bytes,
    ) -> Result<(StatusCode, String), ClientError> {
        let broken = |reason: String| ClientError::Broken {
            method: method.clone(),
            url: url.to_owned(),
            reason,
        };
        let request = Request::builder()
            .method(method)
            .uri(Uri::new(&self.path, url))
            .body(Full::new(body))
            .map_err(|error| broken(error.to_string()))?;
        let response = self.http.request(request).await;
        let response = response.map_err(|error| match refusal(&error) {
            Some(reason) => self.unreachable(reason),
            None => broken(error.to_string()),
        })?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await;
        let body = body.map_err(|error| broken(error.to_string()))?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }

    fn unreachable(&self, reason: io::Error) -> ClientError {
        let path = self.path.clone();
        match reason.kind() {
            io::ErrorKind::PermissionDenied => ClientError::NotRoot { path, reason },
            _ => ClientError::NotRunning { path, reason },
        }
    }
}

/// What the system said when there was no connection.
fn refusal(error: &hyper_util::client::legacy::Error) -> Option<io::Error> {
    if !error.is_connect() {
        return None;
    }
    let mut cause: &dyn Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
        if let Some(io) = cause.downcast_ref::<io::Error>() {
            return Some(match io.raw_os_error() {
                Some(code) => io::Error::from_raw_os_error(code),
                None => io::Error::new(io.kind(), io.to_string()),
            });
        }
    }
    None
}
