//! The containers that run on this host, watched through the Engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use super::engine::{Container, Engine, EngineError};
use crate::types::EndpointId;

/// The pause before the Engine is asked again after it did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// How long news is collected before the Engine is asked what it amounts to.
const SETTLE: Duration = Duration::from_millis(100);

/// How often the Engine is asked though it told of nothing.
const RESYNC: Duration = Duration::from_secs(30);

/// Tells for ever which containers run: all of them, whenever one has started or ended.
///
/// Nothing is told while the Engine does not answer: what it said last may still be so.
pub async fn watch(engine: Engine, lists: mpsc::Sender<Vec<Container>>) {
    loop {
        match follow(&engine, &lists).await {
            Ok(()) if lists.is_closed() => return,
            Ok(()) => tracing::debug!("the engine has ended its events"),
            Err(error) => tracing::debug!(%error, "containers are not known"),
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// The containers' names by their endpoints.
pub fn names(containers: &[Container]) -> BTreeMap<EndpointId, String> {
    containers
        .iter()
        .flat_map(|container| {
            let attachments = container.network_settings.networks.values();
            let endpoints = attachments.filter_map(|a| a.endpoint_id.parse().ok());
            endpoints.map(|endpoint| (endpoint, container.name().to_owned()))
        })
        .collect()
}

/// All addresses that the containers have.
pub fn addresses(containers: &[Container]) -> BTreeSet<IpAddr> {
    let attachments = containers
        .iter()
        .flat_map(|container| container.network_settings.networks.values());
    attachments
        .flat_map(|a| [&a.ip_address, &a.global_ipv6_address])
        .filter_map(|address| address.parse().ok())
        .collect()
}

async fn follow(engine: &Engine, lists: &mpsc::Sender<Vec<Container>>) -> Result<(), EngineError> {
    // Listening before asking leaves no gap between the two.
    let mut events = engine.events(&["container", "network"]).await?;
    loop {
        if lists.send(engine.containers().await?).await.is_err() {
            return Ok(());
        }
        match tokio::time::timeout(RESYNC, events.next()).await {
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => return Ok(()),
            Ok(Err(error)) => return Err(error),
            Err(_) => continue,
        }
        let settled = tokio::time::sleep(SETTLE);
        tokio::pin!(settled);
        loop {
            tokio::select! {
                () = &mut settled => break,
                event = events.next() => if event?.is_none() {
                    return Ok(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_named_by_each_of_their_endpoints() {
        let text = r#"[{"Id":"c","Names":["/web"],"NetworkSettings":{"Networks":{
            "a":{"EndpointID":"e1"},"b":{"EndpointID":"e2"},"host":{"EndpointID":""}}}}]"#;
        let containers: Vec<Container> = serde_json::from_str(text).unwrap();
        let names = names(&containers);
        let expected = ["e1", "e2"].map(|id| (id.parse().unwrap(), "web".to_owned()));
        assert_eq!(names, expected.into());
    }
}
