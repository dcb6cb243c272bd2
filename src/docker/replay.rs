//! What real engines sent, sent again: to the real socket and drivers, over twins of the domain.
//!
//! The recordings in `tests/transcripts/ENGINE/SET.jsonl` were made with a plugin that answered
//! every call well. A line is the name of a scenario or a call: on which host, to which plugin,
//! what was asked (nothing for an empty body) and what that plugin replied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::calls::{Calls, Drivers};
use super::discovered::DiscoveredNodes;
use super::driver::Driver;
use super::engine::tests::FakeEngine;
use super::ipam_driver::IpamDriver;
use super::plugin_socket::PluginSocket;
use super::scope::Scope;

pub(super) mod twins;

/// The sets with a network whose making was not recorded: it was part of their preparation. They
/// show that a lost network is learned from the Engine.
const UNRECORDED: [&str; 2] = ["live-restore.jsonl", "local.jsonl"];

/// The pool of that network, and of all that the recorded plugin chose a pool for.
const POOL: &str = "10.77.0.0/16";

#[derive(Deserialize)]
struct Line {
    scenario: Option<String>,
    #[serde(default)]
    host: String,
    #[serde(default)]
    plugin: String,
    #[serde(default)]
    call: String,
    request: Option<Value>,
    #[serde(default)]
    reply: Map<String, Value>,
}

#[tokio::test]
async fn engine_20_is_answered_as_it_was() {
    replay("20", "").await;
}

#[tokio::test]
async fn engine_28_is_answered_as_it_was() {
    replay("28", "plugin.moby.localhost").await;
}

async fn replay(engine: &str, http_host: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/transcripts")
        .join(engine);
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 6, "{files:?}");
    for file in files {
        replay_set(&file, http_host).await;
    }
}

async fn replay_set(file: &Path, http_host: &str) {
    let text = std::fs::read_to_string(file).unwrap();
    let unrecorded = unrecorded_networks(&text);
    let expected = UNRECORDED.iter().any(|set| file.ends_with(set));
    assert_eq!(!unrecorded.is_empty(), expected, "{unrecorded:?}");
    let mut plugins = BTreeMap::new();
    let mut scenario = String::new();
    for line in text.lines() {
        let line: Line = serde_json::from_str(line).unwrap();
        if let Some(name) = line.scenario {
            scenario = format!("{} {name}", file.display());
            continue;
        }
        let key = (line.host.clone(), line.plugin.clone());
        if !plugins.contains_key(&key) {
            let scope = recorded_scope(&text, &key);
            let mut plugin = Plugin::start(http_host, scope, &unrecorded).await;
            if !unrecorded.is_empty() {
                plugin.remember_pool().await;
            }
            plugins.insert(key.clone(), plugin);
        }
        let plugin = plugins.get_mut(&key).unwrap();
        let context = format!("{scenario} {}: {} {:?}", key.0, line.call, line.request);
        plugin.repeat(&line, &context).await;
    }
    assert!(!plugins.is_empty(), "{}", file.display());
}

/// The scope that the recorded plugin claimed.
fn recorded_scope(text: &str, (host, plugin): &(String, String)) -> Scope {
    let global = text
        .lines()
        .map(|line| serde_json::from_str::<Line>(line).unwrap())
        .find(|line| {
            (&line.host, &line.plugin) == (host, plugin)
                && line.call == "NetworkDriver.GetCapabilities"
        })
        .is_some_and(|line| line.reply["Scope"] == "global");
    if global { Scope::Global } else { Scope::Local }
}

/// The networks that are used and never made.
fn unrecorded_networks(text: &str) -> BTreeSet<String> {
    let of = |method: &str| -> BTreeSet<String> {
        text.lines()
            .map(|line| serde_json::from_str::<Line>(line).unwrap())
            .filter(|line| line.call == method)
            .map(|line| {
                line.request.unwrap()["NetworkID"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    };
    &of("NetworkDriver.CreateEndpoint") - &of("NetworkDriver.CreateNetwork")
}

/// A plugin on one host, with the connection that the Engine keeps to it.
struct Plugin {
    http_host: String,
    connection: BufReader<UnixStream>,
    nodes: DiscoveredNodes,
    scope: Scope,
    /// Our handles for pools, by the recorded ones.
    pools: BTreeMap<String, String>,
    server: JoinHandle<()>,
    _twins: (twins::NetworksTwin, twins::IpamTwin),
    _engine: FakeEngine,
    _dir: tempfile::TempDir,
}

impl Plugin {
    /// A plugin on a host whose Engine's API tells the definitions of these networks.
    async fn start(http_host: &str, scope: Scope, known: &BTreeSet<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weave.sock");
        let (networks, networks_twin) = twins::NetworksTwin::start();
        let (ipam, ipam_twin) = twins::IpamTwin::start();
        let definitions = known.iter().map(|id| {
            let definition = json!({"Id": id, "IPAM": {"Config": [{"Subnet": POOL}]}});
            (format!("/networks/{id}"), definition.to_string())
        });
        let engine = FakeEngine::start(Some("1.41"), definitions);
        let drivers = Drivers {
            network: Driver::new(networks, engine.engine()),
            ipam: IpamDriver::new(ipam),
        };
        let nodes = DiscoveredNodes::default();
        let drivers = watch::channel(Some(drivers)).1;
        let calls = Calls::new(scope.known(), nodes.clone(), drivers);
        let socket = PluginSocket::bind(&path).unwrap();
        let server = tokio::spawn(socket.serve(calls, std::future::pending()));
        Self {
            http_host: http_host.to_owned(),
            connection: BufReader::new(UnixStream::connect(&path).await.unwrap()),
            nodes,
            scope,
            pools: BTreeMap::new(),
            server,
            _twins: (networks_twin, ipam_twin),
            _engine: engine,
            _dir: dir,
        }
    }

    /// The pool of a network that was made before.
    async fn remember_pool(&mut self) {
        let request = json!({"AddressSpace": "weavelocal", "Pool": POOL});
        let reply = self
            .post("IpamDriver.RequestPool", Some(&request), "")
            .await;
        let ours = reply["PoolID"].as_str().unwrap().to_owned();
        self.pools.insert("test-10.77.0.0-16".to_owned(), ours);
    }

    async fn repeat(&mut self, line: &Line, context: &str) {
        let request = line.request.clone().map(|request| self.translate(request));
        let reply = self.post(&line.call, request.as_ref(), context).await;
        for key in ["Err", "Error"] {
            assert_eq!(reply.get(key), None, "{context}");
        }
        self.check(line, &reply, context);
        if is_removal(&line.call) || line.call.ends_with(".CreateNetwork") {
            let again = self.post(&line.call, request.as_ref(), context).await;
            assert_eq!(again, Map::new(), "again: {context}");
        }
    }

    /// The recorded plugin had other names for address spaces and pools.
    fn translate(&self, mut request: Value) -> Value {
        if let Some(space) = request["AddressSpace"].as_str() {
            let kind = if space.ends_with("global") {
                "global"
            } else {
                "local"
            };
            request["AddressSpace"] = format!("weave{kind}").into();
        }
        if let Some(pool) = request["PoolID"].as_str() {
            request["PoolID"] = self.pools[pool].clone().into();
        }
        request
    }

    async fn post(
        &mut self,
        call: &str,
        request: Option<&Value>,
        context: &str,
    ) -> Map<String, Value> {
        let body = request.map_or_else(String::new, Value::to_string);
        // As Go's client writes it; the host's name is empty before Engine 26.
        let head = format!(
            "POST /{call} HTTP/1.1\r\nHost: {}\r\nUser-Agent: Go-http-client/1.1\r\n\
             Content-Length: {}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\r\n",
            self.http_host,
            body.len()
        );
        let message = head + &body;
        self.connection
            .get_mut()
            .write_all(message.as_bytes())
            .await
            .unwrap();
        let mut length = 0;
        let mut status = String::new();
        let mut content_type = String::new();
        loop {
            let mut line = String::new();
            self.connection.read_line(&mut line).await.unwrap();
            match line.trim_end().split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("content-type", value)) => content_type = value.to_owned(),
                Some(_) => {}
                None if line == "\r\n" => break,
                None => status = line,
            }
        }
        assert_eq!(status, "HTTP/1.1 200 OK\r\n", "{context}");
        assert_eq!(content_type, super::wire::CONTENT_TYPE);
        let mut body = vec![0; length];
        self.connection.read_exact(&mut body).await.unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    /// The reply has the form that the Engine wants.
    fn check(&mut self, line: &Line, reply: &Map<String, Value>, context: &str) {
        let request = line.request.as_ref().unwrap_or(&Value::Null);
        match line.call.as_str() {
            "NetworkDriver.GetCapabilities" => {
                assert_eq!(reply["Scope"], self.scope.as_str(), "{context}");
                assert_eq!(reply["ConnectivityScope"], "global");
            }
            "NetworkDriver.AllocateNetwork" => {
                for (option, value) in request["Options"].as_object().unwrap() {
                    assert_eq!(reply["Options"][option], *value, "{context}");
                }
                assert!(reply["Options"][crate::network::VNI_OPTION].is_string());
            }
            "NetworkDriver.CreateEndpoint" => {
                let given = request["Interface"]["MacAddress"] != "";
                let interface = reply.get("Interface").and_then(Value::as_object);
                assert_eq!(interface.is_none(), given, "{context}: {reply:?}");
                if let Some(interface) = interface {
                    let fields: Vec<_> = interface.keys().collect();
                    assert_eq!(fields, ["MacAddress"], "{context}");
                }
            }
            "NetworkDriver.Join" => {
                assert_eq!(reply["InterfaceName"]["DstPrefix"], "ethwe", "{context}");
                let name = reply["InterfaceName"]["SrcName"].as_str().unwrap();
                // The kernel's limit, IFNAMSIZ, counts the final zero.
                assert!((1..16).contains(&name.len()), "{context}: {name}");
                assert_eq!(reply["StaticRoutes"], json!([]), "{context}");
                for absent in ["Gateway", "GatewayIPv6", "DisableGatewayService"] {
                    assert_eq!(reply.get(absent), None, "{context}");
                }
            }
            "NetworkDriver.EndpointOperInfo" => assert!(reply["Value"].is_object(), "{context}"),
            "NetworkDriver.DiscoverNew" | "NetworkDriver.DiscoverDelete" => {
                let node = &request["DiscoveryData"];
                let address = node["Address"].as_str().unwrap().parse().unwrap();
                let known = self.nodes.subscribe().borrow().contains(&address);
                let expected = line.call.ends_with("New") && node["Self"] == false;
                assert_eq!(known, expected, "{context}");
            }
            "IpamDriver.RequestPool" => {
                let recorded = line.reply["PoolID"].as_str().unwrap().to_owned();
                let ours = reply["PoolID"].as_str().unwrap().to_owned();
                self.pools.insert(recorded, ours);
                let wanted = request["Pool"].as_str().unwrap();
                let granted = reply["Pool"].as_str().unwrap();
                assert!(granted.parse::<ipnet::IpNet>().is_ok(), "{context}");
                assert!(wanted.is_empty() || wanted == granted, "{context}");
            }
            "IpamDriver.RequestAddress" => {
                let wanted = request["Address"].as_str().unwrap();
                let granted = reply["Address"].as_str().unwrap();
                let granted: ipnet::IpNet = granted.parse().unwrap();
                let obeyed = wanted.is_empty() || granted.addr().to_string() == wanted;
                assert!(obeyed, "{context}: {granted}");
            }
            "Plugin.Activate" => {
                assert_eq!(reply["Implements"], json!(["NetworkDriver", "IpamDriver"]));
            }
            "IpamDriver.GetCapabilities" | "IpamDriver.GetDefaultAddressSpaces" => {
                assert_eq!(reply.len(), 2, "{context}");
            }
            _ => assert!(reply.is_empty(), "{context}: {reply:?}"),
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Calls that may come for what is gone already.
fn is_removal(call: &str) -> bool {
    let (_, method) = call.split_once('.').unwrap();
    ["Delete", "Leave", "Release", "Free"]
        .iter()
        .any(|start| method.starts_with(start))
}
