//! The proxy between clients' bytes and an Engine that takes note of what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::message::{MAX_HEAD, Request};
use super::relay::relay;
use super::*;

const CREATE: &str = "POST /v1.41/containers/create?name=db HTTP/1.1\r\nHost: d\r\n";

/// An Engine of a kind, and a proxy to put in front of it.
struct Lab {
    dir: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Lab {
    fn without_engine() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("run")).unwrap();
        let asked = Arc::default();
        Self { dir, asked }
    }

    fn new() -> Self {
        let lab = Self::without_engine();
        let listener = UnixListener::bind(lab.dir.path().join("run/docker.sock")).unwrap();
        let asked = Arc::clone(&lab.asked);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(answer(client, Arc::clone(&asked)));
            }
        });
        lab
    }

    fn proxy(&self) -> Proxy {
        self.proxy_at(ProxyAddress::default(), TlsSource::Off)
    }

    fn proxy_at(&self, address: ProxyAddress, tls: TlsSource) -> Proxy {
        let config = ProxyConfig {
            listen: vec![address],
            insecure: false,
            tls,
            paths: Paths::below(self.dir.path()),
            default_subnet: "10.32.0.0/12".parse().unwrap(),
            only_with_cidr: false,
            without_multicast: true,
            rewrite_inspect: true,
            hostname: HostnameRule::default(),
        };
        Proxy::new(config, || None)
    }

    /// A client's connection.
    fn connect(&self) -> UnixStream {
        let (client, server) = UnixStream::pair().unwrap();
        let proxy = self.proxy();
        tokio::spawn(async move { relay(server, &proxy.rewriter, || Duration::MAX).await });
        client
    }

    /// Everything that a client gets which sends this and then nothing more.
    async fn exchange(&self, request: &[u8]) -> String {
        let (mut reader, mut writer) = self.connect().into_split();
        let request = request.to_vec();
        let writing = tokio::spawn(async move {
            let _ = writer.write_all(&request).await;
            writer
        });
        let mut answer = Vec::new();
        let reading = reader.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(20), reading).await;
        drop(writing);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn asked(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        // The proxy's own questions are of no interest, but for what they change.
        let changes = |call: &&String| !call.contains("_ping") && !call.starts_with("GET /v1.41/");
        asked.iter().filter(changes).cloned().collect()
    }
}

/// Answers requests as an Engine would, each as it is needed here.
async fn answer(mut client: UnixStream, asked: Arc<Mutex<Vec<String>>>) {
    let mut buffer = BytesMut::new();
    loop {
        let request = loop {
            if let Some(request) = Request::take(&mut buffer).unwrap() {
                break request;
            }
            if client.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let (mut body, mut payload) = (request.body, Vec::new());
        loop {
            let taken = body.advance(&buffer, |data| payload.extend_from_slice(data));
            drop(buffer.split_to(taken.unwrap()));
            if body.is_done() {
                break;
            }
            if client.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let call = format!("{} {}", request.method, request.target);
        let text = String::from_utf8_lossy(&payload).into_owned();
        asked
            .lock()
            .unwrap()
            .push(format!("{call} {text}").trim_end().to_owned());
        let path = request.target.trim_start_matches("/v1.41");
        let json = |status, body: &str| {
            let length = body.len();
            format!(
                "HTTP/1.1 {status} X\r\nApi-Version: 1.41\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        };
        let response = match path.split('?').next().unwrap() {
            "/networks" => json(200, r#"[{"Name":"weave","Driver":"weavemesh"}]"#),
            "/networks/weave" => json(200, r#"{"Name":"weave","Driver":"weavemesh"}"#),
            "/networks/weave-10.9.0.0-16/connect" => json(500, r#"{"message":"no room"}"#),
            "/containers/create" => json(201, r#"{"Id":"c1","Warnings":[]}"#),
            "/containers/c1/json" => json(
                200,
                r#"{"HostConfig":{"Binds":null,"Dns":["192.0.2.1"],"Links":null,"NetworkMode":"weave"},
                    "NetworkSettings":{"Networks":{"weave":{"IPAddress":"10.32.0.1"}}}}"#,
            ),
            "/echo" => format!(
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\nX-T: 1\r\n\r\n",
                payload.len()
            ),
            // What Docker takes over without an upgrade, and with one.
            "/attach" | "/upgrade" => {
                let head = match path {
                    "/attach" => "HTTP/1.1 200 OK\r\nContent-Type: x/raw\r\n\r\n",
                    _ => "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\n",
                };
                client.write_all(head.as_bytes()).await.unwrap();
                let mut input = buffer.to_vec();
                client.read_to_end(&mut input).await.unwrap();
                client.write_all(b"got: ").await.unwrap();
                client.write_all(&input).await.unwrap();
                return;
            }
            "/hang" => std::future::pending().await,
            _ => json(200, "{}"),
        };
        client.write_all(response.as_bytes()).await.unwrap();
    }
}

fn post(head: &str, body: &str) -> Vec<u8> {
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[tokio::test]
async fn requests_pass_one_after_the_other_and_the_engines_bytes_come_back() {
    let lab = Lab::new();
    let mut client = lab.connect();
    for text in ["one", &"x".repeat(3_000_000), "three"] {
        let request = post("POST /v1.41/echo HTTP/1.1\r\nhost: d\r\n", text);
        let expected = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{text}\r\n0\r\nX-T: 1\r\n\r\n",
            text.len()
        );
        let mut answer = vec![0; expected.len()];
        client.write_all(&request).await.unwrap();
        client.read_exact(&mut answer).await.unwrap();
        assert!(answer == expected.as_bytes());
    }
    assert_eq!(lab.asked().len(), 3);
    // Both at once: the second waits for the answer to the first.
    let both = b"GET /a HTTP/1.1\r\n\r\nGET /b HTTP/1.1\r\n\r\n";
    client.write_all(both).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
}

#[tokio::test]
async fn streams_that_the_engine_takes_over_keep_their_two_ends() {
    let lab = Lab::new();
    for path in ["/attach", "/upgrade"] {
        let mut client = lab.connect();
        // Input may come before the answer.
        let request = format!("POST {path} HTTP/1.1\r\nContent-Length: 0\r\n\r\nearly ");
        client.write_all(request.as_bytes()).await.unwrap();
        client.write_all(b"and late").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        let (_, output) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(output, "got: early and late", "{path}");
    }
}

#[tokio::test]
async fn a_container_is_placed_before_docker_hears_of_it() {
    let lab = Lab::new();
    let mut client = lab.connect();
    // In chunks, and only once it was told to go on.
    let head = format!("{CREATE}Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    client.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    client
        .write_all(b"11\r\n{\"Image\":\"busybox\r\n2\r\n\"}\r\n0\r\n\r\n")
        .await
        .unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains(r#"{"Id":"c1","#), "{answer}");
    let asked = lab.asked();
    let (call, body) = asked[0].rsplit_once(' ').unwrap();
    assert_eq!(call, "POST /v1.41/containers/create?name=db");
    assert!(body.contains(r#""NetworkMode":"weave""#), "{body}");
    let option = r#""weave":{"DriverOpts":{"works.weave.multicast":"false"}}"#;
    assert!(body.contains(option), "{body}");
}

#[tokio::test]
async fn what_old_clients_say_in_start_leaves_a_container_on_its_network() {
    let lab = Lab::new();
    let start = |version, body| {
        let head = format!("POST /{version}/containers/c1/start HTTP/1.1\r\nConnection: close\r\n");
        post(&head, body)
    };
    let binds = r#"{"Binds":["/a:/b"]}"#;
    for (version, body, expected) in [
        (
            "v1.23",
            binds,
            r#"{"Binds":["/a:/b"],"Dns":["192.0.2.1"],"NetworkMode":"weave"}"#,
        ),
        ("v1.24", binds, binds),
        ("v1.20", "{nonsense", "{nonsense"),
        ("v1.20", r#"{"Nested":{}}"#, r#"{"Nested":{}}"#),
        (
            "v1.20",
            r#"{"NetworkMode": "host"}"#,
            r#"{"NetworkMode":"host"}"#,
        ),
    ] {
        let mut client = lab.connect();
        client.write_all(&start(version, body)).await.unwrap();
        client.shutdown().await.unwrap();
        client.read_to_end(&mut Vec::new()).await.unwrap();
        let call = format!("POST /{version}/containers/c1/start {expected}");
        assert_eq!(lab.asked().last(), Some(&call));
    }
    let answer = lab.exchange(&start("v1.23", r#"{"Links":["db"]}"#)).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("links"), "{answer}");
}

#[tokio::test]
async fn one_that_cannot_have_all_its_addresses_is_removed() {
    let lab = Lab::new();
    let body = r#"{"Env":["WEAVE_CIDR=net:default 10.9.0.1/16"]}"#;
    let answer = lab.exchange(&post(CREATE, body)).await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert!(answer.contains("no room"), "{answer}");
    let calls = lab.asked().join("\n");
    assert!(calls.contains("POST /v1.41/networks/create"), "{calls}");
    assert!(calls.contains(r#""IPv4Address":"10.9.0.1""#), "{calls}");
    assert!(
        calls.ends_with("DELETE /v1.41/containers/c1?force=true"),
        "{calls}"
    );
}

#[tokio::test]
async fn inspect_tells_the_address_and_nonsense_is_left_to_the_engine() {
    let lab = Lab::new();
    let inspect = b"GET /containers/c1/json HTTP/1.1\r\nConnection: close\r\n\r\n";
    let mut client = lab.connect();
    client.write_all(inspect).await.unwrap();
    client.shutdown().await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer.matches("10.32.0.1").count(), 2, "{answer}");

    let mut client = lab.connect();
    client.write_all(&post(CREATE, "{nonsense")).await.unwrap();
    client.shutdown().await.unwrap();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(lab.asked().last().unwrap().ends_with("{nonsense"));
}

#[tokio::test]
async fn hostile_clients_get_clear_errors() {
    let lab = Lab::new();
    let endless = format!("GET / HTTP/1.1\r\nX: {}\r\n", "x".repeat(MAX_HEAD));
    let large = format!(
        "{CREATE}Content-Length: 9000000\r\n\r\n{}",
        " ".repeat(9_000_000)
    );
    for (request, status) in [
        ("hello\r\n\r\n", "400"),
        ("POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n", "400"),
        (&endless, "431"),
        (&large, "413"),
        (
            &String::from_utf8(post(CREATE, r#"{"Env":["WEAVE_CIDR=x"]}"#)).unwrap(),
            "400",
        ),
    ] {
        let answer = lab.exchange(request.as_bytes()).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{status}: {answer}"
        );
        assert!(answer.contains(r#"{"message":"weave proxy: "#), "{answer}");
    }
    assert_eq!(lab.asked(), [""; 0]);
    let answer = Lab::without_engine()
        .exchange(b"GET /info HTTP/1.1\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn who_says_nothing_or_not_enough_is_not_waited_for() {
    let lab = Lab::without_engine();
    let (mut client, server) = tokio::io::duplex(1024);
    let proxy = lab.proxy();
    let patience = || Duration::from_secs(60);
    let idle = relay(server, &proxy.rewriter, patience);
    tokio::time::timeout(Duration::from_secs(70), idle)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);

    let (mut client, server) = tokio::io::duplex(1024);
    client.write_all(b"GET / HT").await.unwrap();
    let proxy = lab.proxy();
    let slow = relay(server, &proxy.rewriter, patience);
    tokio::time::timeout(Duration::from_secs(20), slow)
        .await
        .unwrap()
        .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn clients_are_let_in_while_that_is_wanted() {
    let lab = Lab::new();
    let proxy = lab.proxy();
    let (want, wanted) = watch::channel(false);
    let serving = tokio::spawn(proxy.clone().serve(wanted));
    assert_eq!(proxy.status(), None);
    want.send(true).unwrap();
    let socket = lab.dir.path().join("run/weave/weave.sock");
    let mut client = loop {
        match UnixStream::connect(&socket).await {
            Ok(client) => break client,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    client
        .write_all(b"GET /hang HTTP/1.1\r\n\r\n")
        .await
        .unwrap();
    while lab.asked().is_empty() {
        tokio::task::yield_now().await;
    }
    let status = proxy.status().unwrap();
    assert_eq!((status.connections, &status.listeners[0].error), (1, &None));
    want.send(false).unwrap();
    assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
    while socket.exists() {
        tokio::task::yield_now().await;
    }
    assert_eq!(proxy.status(), None);
    drop(want);
    serving.await.unwrap();
}

/// Why nothing is served at an address that this host does not have.
async fn refused(lab: &Lab, tls: TlsSource) -> String {
    let proxy = lab.proxy_at("tcp://192.0.2.1:1".parse().unwrap(), tls);
    let (_want, wanted) = watch::channel(true);
    let serving = tokio::spawn(proxy.clone().serve(wanted));
    loop {
        let error = proxy
            .status()
            .and_then(|mut status| status.listeners.remove(0).error);
        match error {
            Some(error) if error != "not yet" => {
                serving.abort();
                return error;
            }
            _ => tokio::task::yield_now().await,
        }
    }
}

#[tokio::test]
async fn only_clients_with_certificates_may_come_from_elsewhere() {
    let lab = Lab::new();
    let mut files = tls::tests::files(lab.dir.path());
    // Not that anybody is let in: the address is one of documentation.
    let served = refused(&lab, TlsSource::Given(Ok(files.clone()))).await;
    assert!(
        served.contains("Cannot assign requested address"),
        "{served}"
    );
    files.authority = None;
    for tls in [
        TlsSource::Off,
        TlsSource::Docker,
        TlsSource::Given(Ok(files)),
    ] {
        let error = refused(&lab, tls).await;
        assert!(error.contains("root on this host"), "{error}");
    }
    let missing = TlsSource::Given(Err("--tlskey is missing".to_owned()));
    assert_eq!(refused(&lab, missing).await, "--tlskey is missing");
}
