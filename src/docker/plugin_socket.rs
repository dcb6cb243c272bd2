//! The unix socket on which the Engine calls the plugin.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixListener;
use tokio::time::{sleep, timeout};
use warp::Filter;
use warp::http::{Method, Response};
use warp::path::FullPath;

use super::calls::{Answer, Calls};
pub use super::socket_file::SocketError;
use super::socket_file::SocketFile;
use super::wire::CONTENT_TYPE;

/// The largest request read: the Engine's have some kilobytes, with many published ports more.
const MAX_REQUEST: usize = 4 << 20;
/// How long it takes until the next try after a connection could not be accepted.
const RETRY: Duration = Duration::from_millis(100);
/// How long calls that are being answered may delay the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// A socket that listens; its file goes when this is dropped.
#[derive(Debug)]
pub struct PluginSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl PluginSocket {
    /// Listens at this path, for root alone. A socket there that nobody answers on is replaced.
    ///
    /// From here on the Engine can connect; it is answered once [`serve`](Self::serve) runs.
    pub fn bind(path: impl Into<PathBuf>) -> Result<Self, SocketError> {
        let root_alone = |_: &Path| Ok(());
        let (listener, file) = SocketFile::bind(path.into(), root_alone)?;
        Ok(Self { listener, file })
    }

    /// Answers calls until `shutdown`, then lets those at hand end, within bounds.
    pub async fn serve(self, calls: Calls, shutdown: impl Future<Output = ()> + Send) {
        let Self { listener, file } = self;
        let filter = warp::method()
            .and(warp::path::full())
            .and(warp::body::stream())
            .then(move |method, path: FullPath, body| {
                let calls = calls.clone();
                async move { answer(&calls, &method, path.as_str(), body).await }
            });
        let calls_at_hand = GracefulShutdown::new();
        // warp's own server brings HTTP/2, which the Engine does not speak, and its size.
        let serving = async {
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    sleep(RETRY).await;
                    continue;
                };
                let service = TowerToHyperService::new(warp::service(filter.clone()));
                let connection =
                    http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                let connection = calls_at_hand.watch(connection);
                tokio::spawn(async move {
                    if let Err(error) = connection.await {
                        tracing::debug!("a call failed: {error}");
                    }
                });
            }
        };
        tokio::select! {
            () = serving => {}
            () = shutdown => {}
        }
        drop(listener);
        drop(file);
        let _ = timeout(FAREWELL, calls_at_hand.shutdown()).await;
    }
}

async fn answer(
    calls: &Calls,
    method: &Method,
    path: &str,
    body: impl Stream<Item = Result<impl Buf, warp::Error>>,
) -> Response<Vec<u8>> {
    let answer = if method == Method::POST {
        match read(body).await {
            Ok(body) => calls.answer(path, body).await,
            Err(error) => bad_request(413, &error),
        }
    } else {
        bad_request(405, "expected POST")
    };
    let mut response = Response::new(answer.body);
    *response.status_mut() = warp::http::StatusCode::from_u16(answer.status).unwrap_or_default();
    let content_type = warp::http::HeaderValue::from_static(CONTENT_TYPE);
    let headers = response.headers_mut();
    headers.insert(warp::http::header::CONTENT_TYPE, content_type);
    response
}

async fn read(body: impl Stream<Item = Result<impl Buf, warp::Error>>) -> Result<Bytes, String> {
    let mut body = std::pin::pin!(body);
    let mut read = BytesMut::new();
    while let Some(part) = body.next().await {
        let mut part = part.map_err(|error| format!("the request ended early: {error}"))?;
        let size = part.remaining();
        if read.len() + size > MAX_REQUEST {
            return Err(format!("expected a request of at most {MAX_REQUEST} bytes"));
        }
        read.extend_from_slice(&part.copy_to_bytes(size));
    }
    Ok(read.freeze())
}

fn bad_request(status: u16, error: &str) -> Answer {
    Answer {
        status,
        body: serde_json::json!({ "Err": error }).to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::sync::{oneshot, watch};

    use super::*;
    use crate::docker::discovered::DiscoveredNodes;
    use crate::docker::scope::Scope;

    fn calls() -> Calls {
        let drivers = watch::channel(None).1;
        Calls::new(Scope::Local.known(), DiscoveredNodes::default(), drivers)
    }

    async fn exchange(path: &Path, message: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).await.unwrap();
        stream.write_all(message).await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        reply
    }

    fn post(call: &str, body: &str) -> Vec<u8> {
        let head = format!("POST /{call} HTTP/1.1\r\nHost:\r\nConnection: close\r\n");
        format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_living_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("plugins/weave.sock");
        let first = PluginSocket::bind(&path).unwrap();
        let error = PluginSocket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
        drop(first);
        assert!(!path.exists());

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _second = PluginSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weave.sock");
        fs::write(&path, "precious").unwrap();
        let error = PluginSocket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_successors_socket_outlives_us() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weave.sock");
        let ours = PluginSocket::bind(&path).unwrap();
        fs::rename(&path, dir.path().join("old.sock")).unwrap();
        let _successor = PluginSocket::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn calls_are_answered_until_the_end_and_the_socket_goes_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weave.sock");
        let socket = PluginSocket::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(socket.serve(calls(), async {
            let _ = stopped.await;
        }));
        let _idle = UnixStream::connect(&path).await.unwrap();

        let reply = exchange(&path, &post("IpamDriver.GetCapabilities", "")).await;
        assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
        assert!(reply.contains(CONTENT_TYPE), "{reply}");
        let reply = exchange(
            &path,
            &post("NetworkDriver.ProgramExternalConnectivity", ""),
        )
        .await;
        assert!(reply.starts_with("HTTP/1.1 404"), "{reply}");
        let get = b"GET /Plugin.Activate HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let reply = exchange(&path, get).await;
        assert!(reply.starts_with("HTTP/1.1 405"), "{reply}");

        stop.send(()).unwrap();
        tokio::time::timeout(FAREWELL * 2, server)
            .await
            .unwrap()
            .unwrap();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_request_that_is_too_large_is_refused() {
        let body = futures_util::stream::iter((0..5).map(|_| Ok(Bytes::from(vec![b' '; 1 << 20]))));
        let answer = answer(&calls(), &Method::POST, "/Plugin.Activate", body).await;
        assert_eq!(answer.status(), 413);
    }
}
