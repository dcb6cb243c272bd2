//! What we ask the Engine to do for ourselves: an image, a container, a network.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Engine, EngineError, JSON, NewNetwork, escape, malformed};
use crate::docker::wire::or_default;

/// How long an image may take to be stored.
const IMPORT_DEADLINE: Duration = Duration::from_secs(120);

/// How long a container may take to end beyond its grace.
const STOP_SLACK: Duration = Duration::from_secs(20);

/// `GET /images/NAME/json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Image {
    /// Its identifier.
    #[serde(deserialize_with = "or_default")]
    pub id: String,
    /// What it says of itself.
    #[serde(deserialize_with = "or_default")]
    pub config: ImageConfig,
}

/// What an [`Image`] says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    /// Its labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

/// A container that we made, as `GET /containers/NAME/json` tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct OwnContainer {
    /// Its identifier.
    #[serde(deserialize_with = "or_default")]
    pub id: String,
    /// The identifier of its image.
    #[serde(deserialize_with = "or_default")]
    pub image: String,
    /// Whether it runs.
    #[serde(deserialize_with = "or_default")]
    pub state: OwnState,
    /// How it was made.
    #[serde(deserialize_with = "or_default")]
    pub config: OwnConfig,
}

/// Whether an [`OwnContainer`] runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct OwnState {
    /// Whether it does.
    #[serde(deserialize_with = "or_default")]
    pub running: bool,
    /// Whether it has ended and is about to be started again.
    #[serde(deserialize_with = "or_default")]
    pub restarting: bool,
}

/// How an [`OwnContainer`] was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct OwnConfig {
    /// Its labels.
    #[serde(deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
    /// The words after the entry point.
    #[serde(deserialize_with = "or_default")]
    pub cmd: Vec<String>,
    /// Its variables, as `NAME=VALUE`.
    #[serde(deserialize_with = "or_default")]
    pub env: Vec<String>,
}

impl Engine {
    /// An image, by name.
    pub async fn image(&self, name: &str) -> Result<Image, EngineError> {
        self.get(&format!("/images/{name}/json")).await
    }

    /// Makes an image out of a file system in a tar archive; `changes` are lines of a Dockerfile.
    pub async fn import_image(
        &self,
        repository: &str,
        tag: &str,
        changes: &[String],
        archive: Bytes,
    ) -> Result<(), EngineError> {
        let changes: String = changes
            .iter()
            .map(|change| format!("&changes={}", escape(change)))
            .collect();
        let path = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}{changes}");
        let patient = self.clone().with_deadline(IMPORT_DEADLINE);
        let call = "/images/create";
        let answer = patient
            .within(call, async {
                let tar = "application/x-tar";
                let response = patient.open_with(Method::POST, &path, tar, archive).await?;
                patient.read(call, response).await
            })
            .await?;
        // Success was promised before the archive was read; the lines that follow tell.
        let lines = answer.split(|byte| *byte == b'\n');
        let lines = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        match lines
            .filter_map(|line| line["error"].as_str().map(str::to_owned))
            .next()
        {
            Some(error) => Err(malformed(call, error)),
            None => Ok(()),
        }
    }

    /// Removes an image that no container uses.
    pub async fn remove_image(&self, name: &str) -> Result<(), EngineError> {
        self.done(Method::DELETE, &format!("/images/{name}"), None)
            .await
    }

    /// A container of ours, by name; `None` when there is none.
    pub async fn own_container(&self, name: &str) -> Result<Option<OwnContainer>, EngineError> {
        match self
            .get(&format!("/containers/{}/json", escape(name)))
            .await
        {
            Err(error) if error.is_not_found() => Ok(None),
            result => result.map(Some),
        }
    }

    /// What a container was made with on its host; its name is as in a path.
    pub async fn host_config(&self, name: &str) -> Result<Map<String, Value>, EngineError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Detail {
            host_config: Map<String, Value>,
        }
        let path = format!("/containers/{name}/json");
        Ok(self.get::<Detail>(&path).await?.host_config)
    }

    /// Makes a container.
    pub async fn create_container(&self, name: &str, body: &Value) -> Result<(), EngineError> {
        let path = format!("/containers/create?name={}", escape(name));
        self.done(Method::POST, &path, Some(body)).await
    }

    /// Starts a container.
    pub async fn start_container(&self, name: &str) -> Result<(), EngineError> {
        let path = format!("/containers/{}/start", escape(name));
        self.with_deadline_of(STOP_SLACK)
            .done(Method::POST, &path, None)
            .await
    }

    /// Gives a container another name.
    pub async fn rename_container(&self, name: &str, to: &str) -> Result<(), EngineError> {
        let path = format!("/containers/{}/rename?name={}", escape(name), escape(to));
        self.done(Method::POST, &path, None).await
    }

    /// Stops a container, which has so long to end by itself, and removes it.
    pub async fn remove_container(&self, name: &str, grace: Duration) -> Result<(), EngineError> {
        let patient = self.with_deadline_of(grace + STOP_SLACK);
        let name = escape(name);
        let stop = format!("/containers/{name}/stop?t={}", grace.as_secs());
        match patient.done(Method::POST, &stop, None).await {
            // It was not running.
            Err(EngineError::Refused { status: 304, .. }) => {}
            result => result?,
        }
        let remove = format!("/containers/{name}?force=true");
        patient.done(Method::DELETE, &remove, None).await
    }

    /// The last lines that a container wrote.
    pub async fn container_log(&self, name: &str, lines: u32) -> Result<String, EngineError> {
        let name = escape(name);
        let path = format!("/containers/{name}/logs?stdout=1&stderr=1&tail={lines}");
        let stream = self
            .within(&path, async {
                self.read(&path, self.open(&path).await?).await
            })
            .await?;
        Ok(unframed(&stream))
    }

    /// Makes a network.
    pub async fn create_network(&self, network: &NewNetwork) -> Result<(), EngineError> {
        let path = "/networks/create";
        let body = serde_json::to_value(network).map_err(|error| malformed(path, error))?;
        self.with_deadline_of(STOP_SLACK)
            .done(Method::POST, path, Some(&body))
            .await
    }

    /// Gives a container an endpoint on a network; one that does not run gets it when it starts.
    pub async fn connect_container(
        &self,
        network: &str,
        container: &str,
        endpoint: &Value,
    ) -> Result<(), EngineError> {
        let path = format!("/networks/{}/connect", escape(network));
        let body = json!({"Container": container, "EndpointConfig": endpoint});
        self.with_deadline_of(STOP_SLACK)
            .done(Method::POST, &path, Some(&body))
            .await
    }

    /// Removes a network.
    pub async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
        self.done(Method::DELETE, &format!("/networks/{}", escape(name)), None)
            .await
    }

    fn with_deadline_of(&self, deadline: Duration) -> Self {
        self.clone().with_deadline(deadline)
    }

    async fn done(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(), EngineError> {
        let body = body.map(Value::to_string).unwrap_or_default().into();
        self.within(path, async {
            let response = self.open_with(method, path, JSON, body).await?;
            self.read(path, response).await.map(drop)
        })
        .await
    }
}

/// A container's output without the frames that tell its two streams apart (eight bytes before
/// each piece: the stream, three zeros, the length).
fn unframed(stream: &[u8]) -> String {
    let mut text = Vec::new();
    let mut rest = stream;
    while let Some((head, after)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (piece, next) = after.split_at(length.min(after.len()));
        text.extend_from_slice(piece);
        rest = next;
    }
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::tests::FakeEngine;
    use super::*;

    #[test]
    fn the_streams_of_a_log_become_one_text() {
        let stream = b"\x01\0\0\0\0\0\0\x03hi\n\x02\0\0\0\0\0\0\x04bad\n\x01\0\0";
        assert_eq!(unframed(stream), "hi\nbad\n");
        assert_eq!(unframed(b"\x01\0\0\0\xff\xff\xff\xffx"), "x");
    }

    #[tokio::test]
    async fn a_container_that_is_not_there_is_none() {
        let detail = r#"{"Id":"c1","State":{"Running":true},"Config":{"Cmd":null,
            "Labels":{"works.weave.version":"3.0.0"}}}"#;
        let fake = FakeEngine::start(Some("1.41"), [("/containers/weave/json", detail)]);
        let found = fake.engine().own_container("weave").await.unwrap().unwrap();
        assert!(found.state.running && found.config.cmd.is_empty());
        assert_eq!(found.config.labels["works.weave.version"], "3.0.0");
        assert_eq!(fake.engine().own_container("other").await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_import_that_fails_late_is_an_error() {
        let answer = "{\"status\":\"Importing\"}\n{\"error\":\"no space left\"}\n";
        let fake = FakeEngine::start(Some("1.41"), [("/images/create", answer)]);
        let import = fake
            .engine()
            .import_image("weave", "1", &[], Bytes::from_static(b"tar"))
            .await;
        let error = import.unwrap_err().to_string();
        assert!(error.contains("no space left"), "{error}");
    }
}
