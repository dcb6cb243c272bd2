//! Which calls are changed on their way, and what that needs of the Engine.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::create::{Nameserver, Placement};
use super::message::Request;
use super::{ProxyConfig, ProxyStatus, Refusal, create, inspect, placement, start};
use crate::docker::engine::Engine;

/// The first version of the API in which `start` has no body.
const START_WITHOUT_BODY: [u64; 2] = [1, 24];

/// What is to be done with a call.
#[derive(Debug)]
pub(super) enum Change {
    /// It passes as it is.
    Nothing,
    /// A container is to be created.
    Create,
    /// The container of this name is to be started, perhaps as another than it was made.
    Start(String),
    /// It is created on one network and is to be connected to further ones.
    Connect(Vec<Placement>),
    /// The answer tells of a container.
    Inspect,
}

/// Changes calls as the settings say.
pub(super) struct Rewriter {
    config: ProxyConfig,
    engine: Engine,
    engine_socket: PathBuf,
    nameserver: Box<dyn Fn() -> Option<Nameserver> + Send + Sync>,
    placed: AtomicU64,
    left_alone: AtomicU64,
    refused: AtomicU64,
}

impl fmt::Debug for Rewriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rewriter")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Rewriter {
    pub(super) fn new(
        config: ProxyConfig,
        nameserver: impl Fn() -> Option<Nameserver> + Send + Sync + 'static,
    ) -> Self {
        let engine_socket = config.paths.docker_socket();
        Self {
            engine: Engine::new(&engine_socket),
            engine_socket,
            config,
            nameserver: Box::new(nameserver),
            placed: AtomicU64::new(0),
            left_alone: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }

    pub(super) fn engine_socket(&self) -> &Path {
        &self.engine_socket
    }

    /// What is to be done with a request.
    pub(super) fn change_of(&self, request: &Request) -> Change {
        let (path, _) = split(&request.target);
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let first = segments.split_first();
        let (version, segments) = match first.and_then(|(v, rest)| Some((version_of(v)?, rest))) {
            Some((version, rest)) => (Some(version), rest),
            None => (None, &segments[..]),
        };
        let is_old = version.is_some_and(|version| version.as_slice() < &START_WITHOUT_BODY[..]);
        match (request.method.as_str(), segments) {
            ("POST", ["containers", "create"]) => Change::Create,
            ("POST", ["containers", name, "start"]) if is_old && !request.body.is_done() => {
                Change::Start((*name).to_owned())
            }
            ("GET", ["containers", _, "json"]) if self.config.rewrite_inspect => Change::Inspect,
            _ => Change::Nothing,
        }
    }

    /// The body of `create` as the Engine is to get it, and what is to be done with its answer.
    pub(super) async fn create(
        &self,
        target: &str,
        payload: Vec<u8>,
    ) -> Result<(Vec<u8>, Change), Refusal> {
        // What makes no sense is the Engine's to refuse, in its own words.
        let Ok(mut body) = serde_json::from_slice::<Map<String, Value>>(&payload) else {
            return Ok((payload, Change::Nothing));
        };
        let result = self.place(target, &mut body).await;
        let counter = match &result {
            Ok(Some(_)) => &self.placed,
            Ok(None) => &self.left_alone,
            Err(_) => &self.refused,
        };
        counter.fetch_add(1, Relaxed);
        let Some(further) = result? else {
            return Ok((payload, Change::Nothing));
        };
        let change = match further.is_empty() {
            true => Change::Nothing,
            false => Change::Connect(further),
        };
        Ok((Value::Object(body).to_string().into_bytes(), change))
    }

    /// Puts a container on networks; returns those that it is to be connected to afterwards, as
    /// Engines before 25 take only one. `None` when it is left alone.
    async fn place(
        &self,
        target: &str,
        body: &mut Map<String, Value>,
    ) -> Result<Option<Vec<Placement>>, Refusal> {
        let config = &self.config;
        let wanted = create::wanted(body, config.only_with_cidr);
        let wanted = wanted.map_err(|error| Refusal::new(400, format!("WEAVE_CIDR: {error}")))?;
        let Some(specs) = wanted else {
            return Ok(None);
        };
        let mut placements = placement::place(&self.engine, config.default_subnet, &specs).await?;
        for placement in &mut placements {
            placement.without_multicast = config.without_multicast;
        }
        let further = placements.split_off(1);
        let name = name_of(target);
        let nameserver = (self.nameserver)();
        create::place(
            body,
            name.as_deref(),
            &placements[0],
            nameserver.as_ref(),
            &config.hostname,
        );
        Ok(Some(further))
    }

    /// The body of `start` as the Engine is to get it.
    pub(super) async fn start(&self, name: &str, payload: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        let Ok(mut body) = serde_json::from_slice::<Map<String, Value>>(&payload) else {
            return Ok(payload);
        };
        let made = match self.engine.host_config(name).await {
            Err(error) if error.is_not_found() => return Ok(payload),
            made => made.map_err(|error| placement::failed(&error))?,
        };
        let mode = made.get("NetworkMode").and_then(Value::as_str);
        let Some(host) = start::replacement(&mut body, &made) else {
            return Ok(payload);
        };
        if !placement::is_ours(&self.engine, mode.unwrap_or_default()).await? {
            return Ok(payload);
        }
        if !start::keep(host, &made, (self.nameserver)().as_ref()) {
            let text = "expected links to be said when the container is created: its network is \
                        one with a name";
            return Err(Refusal::new(400, text));
        }
        Ok(Value::Object(body).to_string().into_bytes())
    }

    /// The body of an answer as the client is to get it.
    pub(super) async fn answer(
        &self,
        change: Change,
        status: u16,
        payload: Vec<u8>,
    ) -> Result<Vec<u8>, Refusal> {
        match change {
            Change::Connect(further) if status == 201 => {
                self.connect(&payload, &further).await?;
                Ok(payload)
            }
            Change::Inspect if status == 200 => {
                Ok(inspect::with_address(&payload).unwrap_or(payload))
            }
            _ => Ok(payload),
        }
    }

    /// Connects a container that was just created; one that cannot be is removed.
    async fn connect(&self, payload: &[u8], further: &[Placement]) -> Result<(), Refusal> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Created {
            id: String,
        }
        let created = serde_json::from_slice::<Created>(payload);
        let created = created.map_err(|error| Refusal::new(502, error))?;
        for placement in further {
            let endpoint = placement.endpoint();
            let connected = self
                .engine
                .connect_container(&placement.network, &created.id, &endpoint)
                .await;
            if let Err(error) = connected {
                let removed = self.engine.remove_container(&created.id, Duration::ZERO);
                if let Err(left) = removed.await {
                    tracing::warn!(%left, container = created.id, "half attached and not removed");
                }
                self.placed.fetch_sub(1, Relaxed);
                self.refused.fetch_add(1, Relaxed);
                return Err(placement::failed(&error));
            }
        }
        Ok(())
    }

    /// Tells what was done since the start.
    pub(super) fn count(&self, status: &mut ProxyStatus) {
        status.placed = self.placed.load(Relaxed);
        status.left_alone = self.left_alone.load(Relaxed);
        status.refused = self.refused.load(Relaxed);
    }
}

fn split(target: &str) -> (&str, &str) {
    target.split_once('?').unwrap_or((target, ""))
}

/// The numbers of a version of the API, like `v1.41` as a part of a path.
fn version_of(text: &str) -> Option<Vec<u64>> {
    let numbers = text.strip_prefix('v')?;
    let is_one = numbers.starts_with(|c: char| c.is_ascii_digit())
        && numbers.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    // As the Engine counts what is no number.
    let number = |text: &str| text.parse().unwrap_or(0);
    is_one.then(|| numbers.split('.').map(number).collect())
}

/// The name that the container is to have.
fn name_of(target: &str) -> Option<String> {
    let (_, query) = split(target);
    let name = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("name="))?;
    // Docker takes nothing that needs escaping, but for a slash in front.
    let name = name
        .strip_prefix("%2F")
        .or(name.strip_prefix("%2f"))
        .unwrap_or(name);
    let name = name.trim_start_matches('/');
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_the_query() {
        let name = |target| name_of(target);
        assert_eq!(name("/containers/create"), None);
        assert_eq!(name("/containers/create?name="), None);
        assert_eq!(
            name("/containers/create?platform=&name=db").as_deref(),
            Some("db")
        );
        assert_eq!(
            name("/containers/create?name=%2Fdb&x=1").as_deref(),
            Some("db")
        );
    }

    #[test]
    fn versions_are_told_from_other_words() {
        assert_eq!(version_of("v1.41"), Some(vec![1, 41]));
        assert_eq!(version_of("v1.5.1"), Some(vec![1, 5, 1]));
        for other in ["containers", "v.1", "1.41", "v1.x", "v", ""] {
            assert_eq!(version_of(other), None, "{other}");
        }
    }
}
