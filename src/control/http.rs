//! Status over HTTP: read-only, for people, monitors and browsers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::timeout;
use warp::http::{Method, StatusCode};

use super::metrics;
use super::render::{self, Section, Style};
use super::serve::{self, Answer, Request};
use super::{Control, DEADLINE, Report, Warning, Warnings};

const TOPIC: &str = "status address";

/// The status page: it asks `/report` again and again.
const PAGE: &str = include_str!("page.html");

/// Serves the status page, `/status`, `/report`, `/metrics` and `/healthz` at this address for as long as it is polled; where
/// that cannot be, warns and tries again.
pub async fn serve(address: SocketAddr, control: Arc<impl Control>, warnings: Warnings) {
    let listener = loop {
        match TcpListener::bind(address).await {
            Ok(listener) => break listener,
            Err(error) => {
                let what = format!("status cannot be served at {address}: {error}");
                let remedy = "free the address or set WEAVE_STATUS_ADDR; it is tried again";
                warnings.set(TOPIC, Warning::new(what, remedy));
                tokio::time::sleep(serve::RETRY).await;
            }
        }
    };
    warnings.clear(TOPIC);
    tracing::info!("status is served at http://{address}/status");
    serve::serve(listener, move |request| {
        let control = control.clone();
        async move {
            match request.method {
                Method::GET | Method::HEAD => read(&*control, &request, DEADLINE).await,
                _ => Answer::text(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "this address is read-only; use the `weave` command as root\n",
                ),
            }
        }
    })
    .await
}

/// Answers what can be read, here and at the control socket, within this time.
pub(super) async fn read(control: &impl Control, request: &Request, within: Duration) -> Answer {
    let path = request.path.trim_end_matches('/');
    let report = || async { timeout(within, control.report()).await.ok() };
    let late = || late(within);
    match path {
        "/healthz" => Answer::text(StatusCode::OK, health(report().await.as_ref(), within)),
        "/report" => match report().await {
            Some(report) => json(&report),
            None => late(),
        },
        "" => Answer::html(PAGE),
        "/metrics" => match report().await {
            Some(report) => Answer::metrics(metrics::page(&report)),
            None => late(),
        },
        "/status" => match report().await {
            Some(report) => text(render::overview(&report, style(request))),
            None => late(),
        },
        _ => match path.strip_prefix("/status/").map(str::parse::<Section>) {
            None => Answer::text(
                StatusCode::NOT_FOUND,
                "there are /, /status, /status/SECTION, /report, /metrics and /healthz\n",
            ),
            Some(Err(error)) => Answer::text(StatusCode::NOT_FOUND, format!("{error}\n")),
            Some(Ok(section)) => match report().await {
                Some(report) => text(render::section(&report, section, style(request))),
                None => late(),
            },
        },
    }
}

/// An answer for whoever waited that long.
pub(super) fn late(waited: Duration) -> Answer {
    let seconds = waited.as_secs();
    Answer::text(
        StatusCode::SERVICE_UNAVAILABLE,
        format!("the daemon did not answer within {seconds} s; its log may say why\n"),
    )
}

fn health(report: Option<&Report>, waited: Duration) -> String {
    let Some(report) = report else {
        return format!("degraded\n{}", late(waited).body);
    };
    let problems = report.problems();
    match problems.is_empty() {
        true => "ok\n".to_owned(),
        false => {
            let lines: String = problems.iter().map(|p| format!("{p}\n")).collect();
            format!("degraded\n{lines}")
        }
    }
}

fn style(request: &Request) -> Style {
    match request.query.split('&').any(|part| part == "colour=true") {
        true => Style::Coloured,
        false => Style::Plain,
    }
}

fn text(body: String) -> Answer {
    Answer::text(StatusCode::OK, body)
}

fn json(report: &Report) -> Answer {
    match serde_json::to_string_pretty(report) {
        Ok(body) => Answer::json(body + "\n"),
        Err(error) => Answer::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::super::socket::tests::Fake;
    use super::*;

    async fn start(control: Fake) -> SocketAddr {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        tokio::spawn(serve(address, Arc::new(control), Warnings::default()));
        address
    }

    async fn ask(address: SocketAddr, request: &str) -> String {
        let mut stream = loop {
            match TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    async fn get(address: SocketAddr, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        ask(address, &request).await
    }

    #[tokio::test]
    async fn what_can_be_read_is_served_and_no_password() {
        let address = start(Fake::default()).await;
        for (path, part) in [
            ("/status", "Warnings"),
            ("/", "<!doctype html>"),
            ("/metrics", "weave_connections{state=\"established\""),
            ("/status/peers", "node2"),
            ("/status/settings", "WEAVE_MTU"),
            ("/report", "\"version\""),
            ("/healthz", "degraded\n"),
        ] {
            let answer = get(address, path).await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
            assert!(answer.contains(part), "{path}: {answer}");
            assert!(!answer.contains("hunter2"), "{path}: {answer}");
        }
        let answer = get(address, "/report").await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let report: Report = serde_json::from_str(body).unwrap();
        assert_eq!(report, super::super::report::examples::report());
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        let address = start(Fake::default()).await;
        let head = "HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
        for (request, status) in [
            (format!("GET /etc/passwd {head}\r\n"), "404"),
            (format!("GET /status/secrets {head}\r\n"), "404"),
            (
                format!("POST /connect {head}Content-Length: 2\r\n\r\n{{}}"),
                "405",
            ),
            (
                format!("DELETE /report {head}Content-Length: 0\r\n\r\n"),
                "405",
            ),
            (
                format!("POST /connect {head}Content-Length: 99999999\r\n\r\n"),
                "413",
            ),
            (
                format!("POST /connect {head}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
                "411",
            ),
            (format!("GET /{} {head}\r\n", "x".repeat(20_000)), "4"),
            ("nonsense\r\n\r\n".to_owned(), "400"),
        ] {
            let answer = ask(address, &request).await;
            assert!(
                answer.starts_with(&format!("HTTP/1.1 {status}")),
                "{request}: {answer}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_hangs_is_reported_as_degraded() {
        let fake = Fake {
            hangs: true,
            ..Fake::default()
        };
        let request = |path: &str| Request {
            method: Method::GET,
            path: path.to_owned(),
            query: String::new(),
            body: Default::default(),
        };
        let healthz = read(&fake, &request("/healthz"), DEADLINE).await;
        assert_eq!(healthz.status, StatusCode::OK);
        assert!(healthz.body.starts_with("degraded\n"), "{healthz:?}");
        let status = read(&fake, &request("/status"), DEADLINE).await;
        assert_eq!(status.status, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[tokio::test]
    async fn a_silent_client_blocks_nobody_and_a_port_in_use_is_tried_again() {
        let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = taken.local_addr().unwrap();
        let warnings = Warnings::default();
        tokio::spawn(serve(address, Arc::new(Fake::default()), warnings.clone()));
        while warnings.all().is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(
            warnings.all()[0].what.contains("in use"),
            "{:?}",
            warnings.all()
        );
        drop(taken);
        tokio::time::pause();
        tokio::time::advance(serve::RETRY + Duration::from_millis(10)).await;
        tokio::time::resume();
        while !warnings.all().is_empty() {
            tokio::task::yield_now().await;
        }
        let _silent = TcpStream::connect(address).await.unwrap();
        assert!(get(address, "/healthz").await.starts_with("HTTP/1.1 200"));
    }
}
