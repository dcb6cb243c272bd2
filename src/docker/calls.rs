//! Which call of the plugin protocol goes where, how long it may take, and how it fails.

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

use super::discovered::DiscoveredNodes;
use super::driver::{Driver, DriverError};
use super::ipam_driver::{ADDRESS_SPACES, IpamDriver, IpamDriverError};
use super::scope::Scope;
use super::wire;

/// The longest that any call takes. After its own restart the Engine waits without end, holding
/// locks; a plugin enabled with the default timeout of 30 s has to answer well before that.
pub const CALL_DEADLINE: Duration = Duration::from_secs(10);
/// How much of it a call may spend waiting for the rest of the daemon to be built.
const READY_DEADLINE: Duration = Duration::from_secs(8);
/// How long `GetCapabilities` waits for the scope, which is decided within two seconds.
const SCOPE_DEADLINE: Duration = Duration::from_secs(3);

const NETWORK_INTERFACE: &str = "NetworkDriver";
const IPAM_INTERFACE: &str = "IpamDriver";

/// What answers calls once the daemon is built.
#[derive(Debug, Clone)]
pub struct Drivers {
    /// The network driver.
    pub network: Driver,
    /// The IPAM driver.
    pub ipam: IpamDriver,
}

/// The calls that come in by one socket; cloning gives another handle.
///
/// What the Engine asks when it starts the plugin is answered at once. The rest waits, within
/// bounds, until the drivers are there.
#[derive(Debug, Clone)]
pub struct Calls {
    scope: watch::Receiver<Option<Scope>>,
    nodes: DiscoveredNodes,
    drivers: watch::Receiver<Option<Drivers>>,
}

/// An answer, as it goes over HTTP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// 200, or 404 for a method that there is not.
    pub status: u16,
    /// JSON.
    pub body: Vec<u8>,
}

#[derive(Debug, Error)]
enum CallError {
    #[error("there is no such method")]
    Unknown,
    #[error("the request cannot be read: {0}")]
    Request(serde_json::Error),
    #[error("the reply cannot be written: {0}")]
    Reply(serde_json::Error),
    #[error("the daemon is still starting; try again")]
    Starting,
    #[error("the daemon is shutting down")]
    Stopped,
    #[error("no answer within {CALL_DEADLINE:?}")]
    Timeout,
    #[error("the daemon has failed internally; its log says more")]
    Panic,
    #[error(transparent)]
    Network(#[from] DriverError),
    #[error(transparent)]
    Ipam(#[from] IpamDriverError),
}

impl Calls {
    /// Calls answered with this scope, as soon as it is decided, and by these drivers, as soon as
    /// they are there.
    pub fn new(
        scope: watch::Receiver<Option<Scope>>,
        nodes: DiscoveredNodes,
        drivers: watch::Receiver<Option<Drivers>>,
    ) -> Self {
        Self {
            scope,
            nodes,
            drivers,
        }
    }

    /// Answers a call: `path` is `/Interface.Method`. A call once begun is carried on when the
    /// caller goes away.
    pub async fn answer(&self, path: &str, body: Bytes) -> Answer {
        let call = path.trim_start_matches('/').to_owned();
        let (this, name) = (self.clone(), call.clone());
        let begin = Instant::now();
        match guarded(async move { this.dispatch(&name, &body).await }).await {
            Ok(body) => {
                tracing::debug!(call, took = ?begin.elapsed(), "answered");
                Answer { status: 200, body }
            }
            Err(error) => {
                tracing::warn!(call, took = ?begin.elapsed(), %error, "refused");
                refusal(&call, &error)
            }
        }
    }

    async fn dispatch(mut self, call: &str, body: &[u8]) -> Result<Vec<u8>, CallError> {
        match call.split_once('.') {
            Some(("Plugin", "Activate")) => reply(&wire::Activated {
                implements: &[NETWORK_INTERFACE, IPAM_INTERFACE],
            }),
            Some((NETWORK_INTERFACE, method)) => self.network(method, body).await,
            Some((IPAM_INTERFACE, method)) => self.ipam(method, body).await,
            _ => Err(CallError::Unknown),
        }
    }

    async fn network(&mut self, method: &str, body: &[u8]) -> Result<Vec<u8>, CallError> {
        match method {
            "GetCapabilities" => {
                let scope = given(&mut self.scope, SCOPE_DEADLINE).await?;
                reply(&wire::NetworkCapabilities {
                    scope: scope.as_str(),
                    connectivity_scope: Scope::Global.as_str(),
                    gw_alloc_checker: true,
                })
            }
            // No default route is given, so no gateway needs an address.
            "GwAllocCheck" => reply(&wire::GatewayCheck {
                skip_ipv4: true,
                skip_ipv6: true,
            }),
            "DiscoverNew" => {
                self.nodes.handle_new(parse(body)?);
                reply(&wire::Empty {})
            }
            "DiscoverDelete" => {
                self.nodes.handle_delete(parse(body)?);
                reply(&wire::Empty {})
            }
            "AllocateNetwork" => self.ask_network(body, Driver::allocate_network).await,
            "FreeNetwork" => self.ask_network(body, Driver::free_network).await,
            "CreateNetwork" => {
                let drivers = given(&mut self.drivers, READY_DEADLINE).await?;
                drivers.ipam.network_made(&parse(body)?);
                self.ask_network(body, Driver::create_network).await
            }
            "DeleteNetwork" => self.ask_network(body, Driver::delete_network).await,
            "CreateEndpoint" => self.ask_network(body, Driver::create_endpoint).await,
            "EndpointOperInfo" => self.ask_network(body, Driver::endpoint_info).await,
            "DeleteEndpoint" => self.ask_network(body, Driver::delete_endpoint).await,
            "Join" => self.ask_network(body, Driver::join).await,
            "Leave" => self.ask_network(body, Driver::leave).await,
            // ProgramExternalConnectivity and RevokeExternalConnectivity are among these: the
            // Engine takes that for a driver that leaves published ports to docker_gwbridge.
            _ => Err(CallError::Unknown),
        }
    }

    async fn ipam(&mut self, method: &str, body: &[u8]) -> Result<Vec<u8>, CallError> {
        match method {
            "GetCapabilities" => reply(&wire::IpamCapabilities {
                requires_mac_address: false,
                requires_request_replay: false,
            }),
            "GetDefaultAddressSpaces" => reply(&ADDRESS_SPACES),
            "RequestPool" => self.ask_ipam(body, IpamDriver::request_pool).await,
            "ReleasePool" => self.ask_ipam(body, IpamDriver::release_pool).await,
            "RequestAddress" => self.ask_ipam(body, IpamDriver::request_address).await,
            "ReleaseAddress" => self.ask_ipam(body, IpamDriver::release_address).await,
            _ => Err(CallError::Unknown),
        }
    }

    async fn ask_network<Q, R>(
        &mut self,
        body: &[u8],
        method: impl AsyncFnOnce(&Driver, Q) -> Result<R, DriverError>,
    ) -> Result<Vec<u8>, CallError>
    where
        Q: DeserializeOwned + Default,
        R: Serialize,
    {
        let drivers = given(&mut self.drivers, READY_DEADLINE).await?;
        reply(&method(&drivers.network, parse(body)?).await?)
    }

    async fn ask_ipam<Q, R>(
        &mut self,
        body: &[u8],
        method: impl AsyncFnOnce(&IpamDriver, Q) -> Result<R, IpamDriverError>,
    ) -> Result<Vec<u8>, CallError>
    where
        Q: DeserializeOwned + Default,
        R: Serialize,
    {
        let drivers = given(&mut self.drivers, READY_DEADLINE).await?;
        reply(&method(&drivers.ipam, parse(body)?).await?)
    }
}

/// Bounds a call's time, carries it on when the caller goes away, and survives its panics.
async fn guarded(
    call: impl Future<Output = Result<Vec<u8>, CallError>> + Send + 'static,
) -> Result<Vec<u8>, CallError> {
    match tokio::spawn(tokio::time::timeout(CALL_DEADLINE, call)).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(CallError::Timeout),
        Err(error) if error.is_panic() => Err(CallError::Panic),
        Err(_) => Err(CallError::Stopped),
    }
}

/// Waits until there is something.
async fn given<T: Clone>(
    source: &mut watch::Receiver<Option<T>>,
    patience: Duration,
) -> Result<T, CallError> {
    let value = tokio::time::timeout(patience, source.wait_for(Option::is_some))
        .await
        .map_err(|_| CallError::Starting)?
        .map_err(|_| CallError::Stopped)?;
    value.clone().ok_or(CallError::Starting)
}

fn parse<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T, CallError> {
    wire::parse(body).map_err(CallError::Request)
}

fn reply(reply: &impl Serialize) -> Result<Vec<u8>, CallError> {
    serde_json::to_vec(reply).map_err(CallError::Reply)
}

/// The two interfaces name the error differently. With a status other than 200 it is `Err` in
/// both, but the methods that may have one are all the network driver's.
fn refusal(call: &str, error: &CallError) -> Answer {
    let (status, key) = match error {
        CallError::Unknown => (404, "Err"),
        _ if call.starts_with(IPAM_INTERFACE) => (200, "Error"),
        _ => (200, "Err"),
    };
    let body = serde_json::json!({ key: format!("weave: {call}: {error}") });
    Answer {
        status,
        body: body.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::docker::engine::Engine;
    use crate::docker::replay::twins::{IpamTwin, NetworksTwin};
    use crate::ipam::Ipam;
    use crate::network::Networks;

    const METHODS: [&str; 19] = [
        "Plugin.Activate",
        "NetworkDriver.GetCapabilities",
        "NetworkDriver.AllocateNetwork",
        "NetworkDriver.FreeNetwork",
        "NetworkDriver.GwAllocCheck",
        "NetworkDriver.CreateNetwork",
        "NetworkDriver.DeleteNetwork",
        "NetworkDriver.CreateEndpoint",
        "NetworkDriver.EndpointOperInfo",
        "NetworkDriver.DeleteEndpoint",
        "NetworkDriver.Join",
        "NetworkDriver.Leave",
        "NetworkDriver.DiscoverNew",
        "NetworkDriver.DiscoverDelete",
        "IpamDriver.GetCapabilities",
        "IpamDriver.GetDefaultAddressSpaces",
        "IpamDriver.RequestPool",
        "IpamDriver.RequestAddress",
        "IpamDriver.ReleaseAddress",
    ];

    fn calls(networks: Networks, ipam: Ipam) -> Calls {
        let drivers = Drivers {
            network: Driver::new(networks, Engine::new("/nonexistent/docker.sock")),
            ipam: IpamDriver::new(ipam),
        };
        let drivers = watch::channel(Some(drivers)).1;
        Calls::new(Scope::Local.known(), DiscoveredNodes::default(), drivers)
    }

    async fn ask(calls: &Calls, call: &str, body: &str) -> (u16, Value) {
        let answer = calls
            .answer(&format!("/{call}"), Bytes::from(body.to_owned()))
            .await;
        (answer.status, serde_json::from_slice(&answer.body).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_engine_asks_at_start_needs_no_drivers() {
        let (_later, drivers) = watch::channel(None);
        let calls = Calls::new(Scope::Global.known(), DiscoveredNodes::default(), drivers);
        let begin = Instant::now();
        for (call, key, value) in [
            ("NetworkDriver.GetCapabilities", "Scope", "global".into()),
            (
                "NetworkDriver.GetCapabilities",
                "ConnectivityScope",
                "global".into(),
            ),
            ("NetworkDriver.GwAllocCheck", "SkipIPv4", true.into()),
            (
                "IpamDriver.GetCapabilities",
                "RequiresMACAddress",
                false.into(),
            ),
            (
                "IpamDriver.GetDefaultAddressSpaces",
                "LocalDefaultAddressSpace",
                "weavelocal".into(),
            ),
            (
                "Plugin.Activate",
                "Implements",
                serde_json::json!(["NetworkDriver", "IpamDriver"]),
            ),
        ] {
            let (status, reply) = ask(&calls, call, "").await;
            assert_eq!((status, &reply[key]), (200, &value), "{call}");
        }
        assert_eq!(begin.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn calls_that_come_early_wait_for_the_drivers() {
        let (later, drivers) = watch::channel(None);
        let calls = Calls::new(Scope::Local.known(), DiscoveredNodes::default(), drivers);
        let begin = Instant::now();
        let (status, reply) = ask(&calls, "NetworkDriver.CreateNetwork", "{}").await;
        assert_eq!((status, begin.elapsed()), (200, READY_DEADLINE));
        assert!(
            reply["Err"].as_str().unwrap().contains("still starting"),
            "{reply}"
        );

        let (networks, _networks) = NetworksTwin::start();
        let (ipam, _ipam) = IpamTwin::start();
        let ready = self::calls(networks, ipam).drivers.borrow().clone();
        let call = ask(
            &calls,
            "NetworkDriver.CreateNetwork",
            r#"{"NetworkID":"n"}"#,
        );
        let (reply, ()) = tokio::join!(call, async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            later.send_replace(ready);
        });
        assert_eq!(reply, (200, serde_json::json!({})));
    }

    #[tokio::test(start_paused = true)]
    async fn a_domain_that_hangs_is_an_error_that_names_the_call() {
        let (networks, _silent) = Networks::twin();
        let (ipam, _silent_too) = Ipam::silent();
        let calls = calls(networks, ipam);
        let begin = Instant::now();
        let body = r#"{"NetworkID":"n","PoolID":"p"}"#;
        let (status, reply) = ask(&calls, "NetworkDriver.DeleteNetwork", body).await;
        assert_eq!((status, begin.elapsed()), (200, CALL_DEADLINE));
        let error = reply["Err"].as_str().unwrap();
        assert_eq!(
            error,
            "weave: NetworkDriver.DeleteNetwork: no answer within 10s"
        );
        let (_, reply) = ask(&calls, "IpamDriver.ReleasePool", body).await;
        assert!(reply["Error"].as_str().unwrap().contains("10s"), "{reply}");
    }

    #[tokio::test]
    async fn only_methods_that_there_are_not_are_not_found() {
        let (networks, _networks) = NetworksTwin::start();
        let (ipam, _ipam) = IpamTwin::start();
        let calls = calls(networks, ipam);
        for call in [
            "NetworkDriver.ProgramExternalConnectivity",
            "NetworkDriver.RevokeExternalConnectivity",
            "NetworkDriver.Nonsense",
            "IpamDriver.Nonsense",
            "VolumeDriver.Create",
            "",
        ] {
            let (status, reply) = ask(&calls, call, "{}").await;
            assert_eq!(status, 404, "{call}");
            assert!(reply["Err"].is_string());
        }
        for call in METHODS {
            assert_eq!(ask(&calls, call, "").await.0, 200, "{call}");
        }
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let error = guarded(async { panic!("as it should") }).await.unwrap_err();
        let answer = refusal("IpamDriver.RequestPool", &error);
        let reply: Value = serde_json::from_slice(&answer.body).unwrap();
        assert!(
            reply["Error"]
                .as_str()
                .unwrap()
                .contains("failed internally")
        );
    }

    #[tokio::test]
    async fn a_daemon_that_ends_says_so() {
        let (networks, commands) = Networks::twin();
        let (ipam, _ipam) = Ipam::silent();
        drop(commands);
        let calls = calls(networks, ipam);
        let body = r#"{"NetworkID":"n"}"#;
        let (status, reply) = ask(&calls, "NetworkDriver.DeleteNetwork", body).await;
        assert_eq!(status, 200);
        assert!(
            reply["Err"].as_str().unwrap().contains("shutting down"),
            "{reply}"
        );
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[0-9a-f:./]{0,20}".prop_map(Value::from),
            ".{0,20}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(key(), inner, 0..6)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn key() -> impl Strategy<Value = String> {
        prop::sample::select(vec![
            "NetworkID",
            "EndpointID",
            "Options",
            "IPv4Data",
            "IPv6Data",
            "Pool",
            "Gateway",
            "Interface",
            "Address",
            "AddressIPv6",
            "MacAddress",
            "SandboxKey",
            "DiscoveryType",
            "DiscoveryData",
            "Self",
            "AddressSpace",
            "SubPool",
            "PoolID",
            "V6",
            "com.docker.network.generic",
            "com.docker.network.driver.mtu",
            "com.docker.network.internal",
            "com.docker.network.endpoint.macaddress",
            "works.weave.multicast",
            "works.weave.vni",
            "RequestAddressType",
        ])
        .prop_map(str::to_owned)
    }

    proptest! {
        #[test]
        fn no_body_makes_a_call_panic_and_every_refusal_is_well_formed(
            body in prop_oneof![
                json().prop_map(|json| json.to_string().into_bytes()),
                prop::collection::vec(any::<u8>(), 0..64),
            ],
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let (networks, _networks) = NetworksTwin::start();
                let (ipam, _ipam) = IpamTwin::start();
                let calls = calls(networks, ipam);
                for call in METHODS {
                    let answer = calls.answer(&format!("/{call}"), Bytes::from(body.clone())).await;
                    prop_assert_eq!(answer.status, 200);
                    let reply: Value = serde_json::from_slice(&answer.body).unwrap();
                    let reply = reply.as_object().unwrap();
                    let key = if call.starts_with("Ipam") { "Error" } else { "Err" };
                    if let Some(error) = reply.get(key) {
                        prop_assert_eq!(reply.len(), 1);
                        let error = error.as_str().unwrap();
                        let start = format!("weave: {call}: ");
                        prop_assert!(error.starts_with(&start));
                        prop_assert!(!error.contains("failed internally"));
                    }
                }
                Ok(())
            })?;
        }
    }
}
