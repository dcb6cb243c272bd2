//! HTTP/1 over any listener, within bounds: connections, time, sizes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use warp::http::{Method, Response, StatusCode, header};
use warp::{Filter, Reply};

/// How many connections are served at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 64;

/// How long a client may take over a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection may last, so that silent clients leave room for others.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Largest request head in bytes; the smallest that hyper accepts.
const MAX_HEAD: usize = 8192;

/// Largest request body in bytes.
pub(super) const MAX_BODY: u64 = 64 * 1024;

/// How long to wait before a port or path that is in use is tried again.
pub(super) const RETRY: Duration = Duration::from_secs(5);

/// A listening socket of either kind.
pub(super) trait Listener: Send + 'static {
    /// The next connection.
    fn accept(
        &self,
    ) -> impl Future<Output = io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static>> + Send;
}

impl Listener for TcpListener {
    async fn accept(&self) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

impl Listener for UnixListener {
    async fn accept(&self) -> io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// A request as far as it matters here.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) body: Bytes,
}

/// An answer and how it is to be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) body: String,
}

impl Answer {
    /// Text for people.
    pub(super) fn text(status: StatusCode, body: impl Into<String>) -> Self {
        Self {
            status,
            content_type: "text/plain; charset=utf-8",
            body: body.into(),
        }
    }

    /// A page for browsers.
    pub(super) fn html(body: &str) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/html; charset=utf-8",
            body: body.to_owned(),
        }
    }

    /// Metrics for Prometheus, in the version of its text format.
    pub(super) fn metrics(body: String) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body,
        }
    }

    /// JSON for programs.
    pub(super) fn json(body: String) -> Self {
        Self {
            status: StatusCode::OK,
            content_type: "application/json",
            body,
        }
    }
}

/// Serves connections for as long as it is polled.
pub(super) async fn serve<L, A, F>(listener: L, answer: A) -> !
where
    L: Listener,
    A: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send,
{
    let filter = filter(answer);
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed, so there is always a permit in the end.
        let slot = slots.clone().acquire_owned().await.ok();
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => {
                // Out of file descriptors, or the client is gone already.
                tracing::debug!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(warp::service(filter.clone()));
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(error)) = timeout(CONNECTION_TIMEOUT, connection).await {
                tracing::debug!("a request failed: {error}");
            }
            drop(slot);
        });
    }
}

fn filter<A, F>(
    answer: A,
) -> impl Filter<Extract = (impl Reply,), Error = warp::Rejection> + Clone + Send + Sync + 'static
where
    A: Fn(Request) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Answer> + Send,
{
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let no_body = warp::get().or(warp::head()).unify().map(Bytes::new);
    let body = warp::body::content_length_limit(MAX_BODY).and(warp::body::bytes());
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(no_body.or(body).unify())
        .then(
            move |method, path: warp::path::FullPath, query, body: Bytes| {
                answer(Request {
                    method,
                    path: path.as_str().to_owned(),
                    query,
                    body,
                })
            },
        )
        .map(|answer: Answer| {
            let mut response = Response::new(answer.body);
            *response.status_mut() = answer.status;
            let content_type = header::HeaderValue::from_static(answer.content_type);
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, content_type);
            response
        })
}
