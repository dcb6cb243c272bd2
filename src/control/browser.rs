//! The status page as Chromium shows it, driven through its DevTools protocol
//! (chromedevtools.github.io/devtools-protocol). Where there is no Chromium, nothing is tested.
//! Pictures go to `target/page`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use serde_json::{Value, json};

use super::report::{EndpointReport, NetworkReport, SegmentReport, TransportReport, examples};
use super::socket::tests::Fake;
use super::{Report, Warnings, http};
use crate::config::Scope;
use crate::ipam::PeerShare;
use crate::mesh::{ConnectionStatus, PeerStatus};
use crate::types::{Mac, PeerId, SegmentId, Vni};

/// A name that would do harm if it were taken for HTML.
const HOSTILE: &str = "<img src=x onerror=alert(1)>";

/// What the page has to show once it has drawn so many peers.
const LOOK: &str = r#"new Promise(done => {
  const count = what => document.querySelectorAll(what).length;
  const look = () => {
    if (count('#peers tr') !== PEERS + 1) { setTimeout(look, 50); return; }
    const graph = document.getElementById('graph'), box = graph.getBBox(), view = graph.viewBox.baseVal;
    done({
      circles: count('#graph circle'), names: count('#graph text:not(.rtt)'), times: count('#graph text.rtt'),
      vxlan: count('#graph line[style*="--vxlan"]'), tunnel: count('#graph line[style*="--tunnel"]'),
      bad: count('#graph line[style*="--bad"]'), images: count('img'),
      connections: count('#connections tr') - 1, networks: count('#networks tr') - 1,
      endpoints: count('#endpoints tr') - 1, shares: count('#ipam .share'),
      problems: count('#problems li'), hidden: document.getElementById('problems').hidden,
      inside: box.x >= 0 && box.y >= 0 && box.x + box.width <= view.width && box.y + box.height <= view.height,
      fits: document.documentElement.scrollWidth <= innerWidth,
      background: getComputedStyle(document.body).backgroundColor,
      text: document.body.textContent,
    });
  };
  look();
})"#;

struct Browser {
    process: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    sent: u64,
    session: String,
    /// What the page complained about.
    complaints: Vec<String>,
}

impl Browser {
    /// Starts one without a window; `None` where there is none.
    fn start(profile: &Path) -> Option<Self> {
        let chromium = ["chromium", "chromium-browser", "google-chrome"];
        let found = chromium.into_iter().find(|name| {
            let mut version = Command::new(name);
            version.arg("--version").stdout(Stdio::null());
            version.stderr(Stdio::null()).status().is_ok()
        })?;
        // It speaks at descriptors 3 and 4; however it goes wrong, it ends.
        let mut process = Command::new("sh")
            .args([
                "-c",
                r#"exec timeout 120 "$@" 3<&0 4>&1 </dev/null >/dev/null 2>&1"#,
            ])
            .args(["sh", found, "--headless=new", "--remote-debugging-pipe"])
            .args(["--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--hide-scrollbars", "--no-proxy-server"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .ok()?;
        let to = process.stdin.take()?;
        let from = BufReader::new(process.stdout.take()?);
        let mut browser = Self {
            process,
            to,
            from,
            sent: 0,
            session: String::new(),
            complaints: Vec::new(),
        };
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", &attach);
        browser.session = attached["sessionId"].as_str()?.to_owned();
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            browser.call(domain, &json!({}));
        }
        Some(browser)
    }

    fn call(&mut self, method: &str, parameters: &Value) -> Value {
        self.sent += 1;
        let mut message = json!({"id": self.sent, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.to
            .write_all(format!("{message}\0").as_bytes())
            .unwrap();
        loop {
            let mut answer = Vec::new();
            self.from.read_until(0, &mut answer).unwrap();
            assert_eq!(answer.pop(), Some(0), "Chromium has ended");
            let mut answer: Value = serde_json::from_slice(&answer).unwrap();
            if answer["id"] == self.sent {
                assert_eq!(answer["error"], Value::Null, "{method}");
                return answer["result"].take();
            }
            self.note(&answer);
        }
    }

    fn note(&mut self, event: &Value) {
        let what = &event["params"];
        let bad = match event["method"].as_str() {
            Some("Runtime.exceptionThrown" | "Page.javascriptDialogOpening") => true,
            Some("Runtime.consoleAPICalled") => what["type"] == "error",
            Some("Log.entryAdded") => what["entry"]["level"] == "error",
            _ => false,
        };
        if bad {
            self.complaints.push(what.to_string());
        }
    }

    /// Opens the page as it is for people who like it dark, or light.
    fn open(&mut self, address: SocketAddr, scheme: &str) {
        let feature = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        self.call("Emulation.setEmulatedMedia", &json!({"features": feature}));
        let size = json!({"width": 1360, "height": 1500, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", &size);
        self.call(
            "Page.navigate",
            &json!({"url": format!("http://{address}/")}),
        );
    }

    /// What the page shows once it shows so many peers.
    fn look(&mut self, peers: usize) -> Value {
        let expression = LOOK.replace("PEERS", &peers.to_string());
        let evaluate =
            json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        self.call("Runtime.evaluate", &evaluate)["result"]["value"].take()
    }

    fn picture(&mut self, file: &Path) {
        let shot = self.call("Page.captureScreenshot", &json!({"format": "png"}));
        let png = base64::prelude::BASE64_STANDARD.decode(shot["data"].as_str().unwrap());
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, png.unwrap()).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self
            .to
            .write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let _ = self.process.wait();
    }
}

/// One segment to which all peers are connected; the last one cannot be reached, every fourth needs
/// the tunnel.
fn report(peers: usize) -> Report {
    let mut report = examples::report();
    let id = |n: usize| PeerId::from_bytes([n as u8; 16]);
    // In a large mesh one has a name that there is no room for.
    let name = |n: usize| match n {
        30 => "node30.rack-17.datacentre.example".to_owned(),
        n => format!("node{n}"),
    };
    let reachable = |n: usize| n == 1 || n < peers;
    let rtt = |n: usize| Duration::from_micros(300 + 7919 * n as u64 % 24_000);
    let address = |n: usize| SocketAddr::from(([192, 0, 2, n as u8], 6783));
    let others = || 2..=peers;
    let mesh = report.mesh.as_mut().unwrap();
    mesh.warnings.clear();
    mesh.password = false;
    mesh.peers = (1..=peers)
        .map(|n| {
            let near = |other: &usize| n == 1 || *other == 1 || n.abs_diff(*other) < 8;
            let linked = (1..=peers).filter(|other| *other != n && near(other));
            let linked = linked.filter(|other| reachable(n) && reachable(*other));
            PeerStatus {
                id: id(n),
                nickname: name(n),
                version: "3.0.0".into(),
                reachable: reachable(n),
                via: reachable(n).then(|| id(n)),
                addresses: vec![address(n)],
                links: linked.map(id).collect(),
                records: 3,
                changes: 12,
            }
        })
        .collect();
    mesh.connections = others()
        .map(|n| ConnectionStatus {
            address: address(n),
            outbound: n % 2 == 0,
            state: if reachable(n) {
                "established"
            } else {
                "retrying"
            }
            .into(),
            reason: if reachable(n) {
                ""
            } else {
                "connection refused"
            }
            .into(),
            peer: Some(id(n)),
            nickname: Some(name(n)),
            rtt: reachable(n).then(|| rtt(n)),
            retry_in: None,
        })
        .collect();
    report.transports = others()
        .map(|n| {
            let (transport, reason) = match (reachable(n), n % 4) {
                (false, _) => ("none", "it cannot be reached"),
                (true, 0) => ("tunnel", "UDP 6784 does not get through"),
                (true, _) => ("vxlan", "no password is set and UDP 6784 gets through"),
            };
            TransportReport {
                peer: id(n),
                nickname: name(n),
                transport: transport.into(),
                address: Some(address(n).ip()),
                mtu: Some(1450),
                reason: reason.into(),
            }
        })
        .collect();
    let space = &mut report.ipam.as_mut().unwrap().spaces[0];
    space.peers = (1..=peers)
        .map(|n| PeerShare {
            peer: id(n),
            nickname: name(n),
            reachable: reachable(n),
            addresses: (1 << 20) / peers as u128,
            share: 1000 / peers as u32,
            active: 3 + n as u64 * 5 % 17,
        })
        .collect();
    let segment = SegmentId::of_name("shop");
    report.segments.push(SegmentReport {
        id: segment.clone(),
        vni: Vni::try_from(7211).ok(),
        mtu: Some(1450),
        networks: vec![NetworkReport {
            id: "fedcba9876543210".parse().unwrap(),
            name: Some("shop".into()),
            subnets: vec!["10.5.0.0/16".parse().unwrap()],
            scope: Scope::Local,
        }],
        peers: others().map(name).collect(),
        vxlan: None,
        problem: None,
    });
    report.endpoints.extend((1..=peers).map(|n| {
        let address = [10, 5, 0, n as u8].into();
        EndpointReport {
            endpoint: format!("{n:064x}").parse().unwrap(),
            segment: segment.clone(),
            network: None,
            container: Some(format!("cart{n}")),
            addresses: vec![address],
            mac: Mac::of_ip(address),
            host: name(n),
            local: n == 1,
        }
    }));
    report
}

#[test]
fn the_page_shows_everything_light_and_dark_few_peers_and_many() {
    let profile = tempfile::tempdir().unwrap();
    let Some(mut browser) = Browser::start(profile.path()) else {
        eprintln!(
            "there is no Chromium here (Debian: apt install chromium): the page is not looked at"
        );
        return;
    };
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let fake = Arc::new(Fake::default());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.spawn(http::serve(address, fake.clone(), Warnings::default()));
    let mut backgrounds = BTreeSet::new();
    for scheme in ["light", "dark"] {
        for peers in [8, 100] {
            let told = report(peers);
            let problems = told.problems().len();
            *fake.report.lock().unwrap() = Some(told);
            browser.open(address, scheme);
            let seen = browser.look(peers);
            let tunnels = (2..peers).filter(|n| n % 4 == 0).count();
            for (what, expected) in [
                ("circles", peers),
                ("names", peers),
                ("times", if peers == 8 { peers - 2 } else { 0 }),
                ("tunnel", tunnels),
                ("vxlan", peers - 2 - tunnels),
                ("bad", 1),
                ("images", 0),
                ("connections", peers - 1),
                ("networks", 2),
                ("endpoints", peers + 1),
                ("shares", peers),
                ("problems", problems),
            ] {
                assert_eq!(seen[what], expected, "{what}, {peers} peers, {scheme}");
            }
            assert!(problems > 1);
            for (what, expected) in [("hidden", false), ("inside", true), ("fits", true)] {
                assert_eq!(seen[what], expected, "{what}, {peers} peers, {scheme}");
            }
            backgrounds.insert(seen["background"].to_string());
            let file = format!(
                "{}/target/page/{scheme}-{peers}.png",
                env!("CARGO_MANIFEST_DIR")
            );
            browser.picture(Path::new(&file));
        }
    }
    assert_eq!(backgrounds.len(), 2, "light and dark are alike");

    // What changes is shown by itself, and names are text whatever they are.
    let mut told = report(9);
    told.mesh.as_mut().unwrap().peers[3].nickname = HOSTILE.into();
    told.endpoints[2].container = Some(HOSTILE.into());
    *fake.report.lock().unwrap() = Some(told);
    let seen = browser.look(9);
    assert_eq!(seen["images"], 0);
    assert!(seen["text"].as_str().unwrap().matches(HOSTILE).count() >= 3);
    assert_eq!(browser.complaints, Vec::<String>::new());
}
