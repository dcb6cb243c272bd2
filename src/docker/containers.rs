//! The containers that run on this host, watched through the Engine.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::engine::{Container, Engine, EngineError, Event};
use crate::types::EndpointId;

/// The pause before the Engine is asked again after it did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// How long news is collected before the Engine is asked what it amounts to.
const SETTLE: Duration = Duration::from_millis(5);

/// How often the Engine is asked though it told of nothing.
const RESYNC: Duration = Duration::from_secs(30);

/// The first of the real-time signals (signal(7), of glibc), which have numbers but no names.
const FIRST_REAL_TIME: i32 = 34;

/// What runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Running {
    /// All containers that run.
    pub containers: Vec<Container>,
    /// The identifiers of those that were told to stop.
    pub stopping: BTreeSet<String>,
}

impl Running {
    /// The containers' names by their endpoints.
    pub fn names(&self) -> BTreeMap<EndpointId, String> {
        let endpoints = self.containers.iter().flat_map(|container| {
            let attachments = container.network_settings.networks.values();
            let endpoints = attachments.filter_map(|a| a.endpoint_id.parse().ok());
            endpoints.map(|endpoint| (endpoint, container.name().to_owned()))
        });
        endpoints.collect()
    }

    /// All addresses that they have.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let containers = self.containers.iter();
        let attachments = containers.flat_map(|c| c.network_settings.networks.values());
        attachments
            .flat_map(|a| [&a.ip_address, &a.global_ipv6_address])
            .filter_map(|address| address.parse().ok())
            .collect()
    }
}

/// Tells for ever what runs, whenever a container has started, was told to stop, has ended, or has
/// become healthy or unhealthy.
///
/// Nothing is told while the Engine does not answer: what it said last may still be so.
pub async fn watch(engine: Engine, told: watch::Sender<Option<Running>>) {
    let mut running = Running::default();
    loop {
        match follow(&engine, &mut running, &told).await {
            Ok(()) if told.is_closed() => return,
            Ok(()) => tracing::debug!("the engine has ended its events"),
            Err(error) => tracing::debug!(%error, "containers are not known"),
        }
        sleep(RETRY).await;
    }
}

async fn follow(
    engine: &Engine,
    running: &mut Running,
    told: &watch::Sender<Option<Running>>,
) -> Result<(), EngineError> {
    // Listening before asking leaves no gap between the two.
    let mut events = engine.events(&["container", "network"]).await?;
    while !told.is_closed() {
        let begin = Instant::now();
        running.containers = engine.containers().await?;
        let lives = |id: &String| running.containers.iter().any(|c| c.id == *id);
        running.stopping.retain(lives);
        told.send_replace(Some(running.clone()));
        // The Engine is busy with our questions half of the time at most.
        let pause = Instant::now() + begin.elapsed();
        let mut ask_at = Instant::now() + RESYNC;
        loop {
            let event = tokio::select! {
                () = sleep_until(ask_at) => break,
                event = events.next() => event?,
            };
            let Some(event) = event else {
                return Ok(());
            };
            if is_news(&event) {
                let settled = Instant::now() + SETTLE;
                ask_at = ask_at.min(settled.max(pause));
            }
            if event.action == "start" {
                running.stopping.remove(&event.actor.id);
            }
            if event.action == "kill"
                && stops(engine, &event).await
                && running.stopping.insert(event.actor.id)
            {
                told.send_replace(Some(running.clone()));
            }
        }
    }
    Ok(())
}

/// Whether the list of containers may be another after this event. Health checks make many that
/// change nothing.
fn is_news(event: &Event) -> bool {
    let action = event.action.as_str();
    match event.kind.as_str() {
        "network" => matches!(action, "connect" | "disconnect"),
        _ => {
            action.starts_with("health_status")
                || matches!(
                    action,
                    "start" | "die" | "destroy" | "rename" | "pause" | "unpause"
                )
        }
    }
}

/// Whether the signal that a container got tells it to stop.
async fn stops(engine: &Engine, kill: &Event) -> bool {
    let attributes = &kill.actor.attributes;
    let Some(signal) = attributes.get("signal").and_then(|s| s.parse().ok()) else {
        return false;
    };
    if [Signal::SIGTERM as i32, Signal::SIGKILL as i32].contains(&signal) {
        return true;
    }
    match engine.container(&kill.actor.id).await {
        Ok(container) => number(&container.config.stop_signal) == Some(signal),
        Err(_) => false,
    }
}

/// The number of a signal that is called `SIGQUIT`, `QUIT`, `3`, or `SIGRTMIN+3`.
fn number(signal: &str) -> Option<i32> {
    if let Ok(number) = signal.parse() {
        return Some(number);
    }
    let name = signal.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN+") {
        return Some(FIRST_REAL_TIME + offset.parse::<i32>().ok()?);
    }
    let signal: Signal = format!("SIG{name}").parse().ok()?;
    Some(signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::engine::tests::FakeEngine;

    #[test]
    fn containers_are_named_by_each_of_their_endpoints() {
        let text = r#"[{"Id":"c","Names":["/web"],"NetworkSettings":{"Networks":{
            "a":{"EndpointID":"e1"},"b":{"EndpointID":"e2"},"host":{"EndpointID":""}}}}]"#;
        let running = Running {
            containers: serde_json::from_str(text).unwrap(),
            ..Running::default()
        };
        let expected = ["e1", "e2"].map(|id| (id.parse().unwrap(), "web".to_owned()));
        assert_eq!(running.names(), expected.into());
    }

    #[tokio::test]
    async fn a_stop_is_told_by_the_signals_that_kill_and_by_the_container_s_own() {
        let detail = r#"{"Config":{"StopSignal":"SIGWINCH"}}"#;
        let fake = FakeEngine::start(Some("1.41"), [("/containers/c/json", detail)]);
        for (signal, expected) in [
            ("15", true),
            ("9", true),
            ("28", true),
            ("1", false),
            ("", false),
        ] {
            let event = format!(
                r#"{{"Type":"container","Action":"kill",
                "Actor":{{"ID":"c","Attributes":{{"signal":"{signal}"}}}}}}"#
            );
            let event = serde_json::from_str(&event).unwrap();
            assert_eq!(stops(&fake.engine(), &event).await, expected, "{signal}");
        }
    }

    #[test]
    fn signals_have_numbers() {
        for (name, expected) in [
            ("SIGQUIT", Some(3)),
            ("quit", Some(3)),
            ("15", Some(15)),
            ("SIGRTMIN+3", Some(37)),
            ("", None),
        ] {
            assert_eq!(number(name), expected, "{name}");
        }
    }

    #[tokio::test]
    async fn what_runs_is_told_with_who_was_told_to_stop() {
        let kill = r#"{"Type":"container","Action":"kill","Actor":{"ID":"c",
            "Attributes":{"signal":"15"}}}"#;
        let fake = FakeEngine::start(
            Some("1.41"),
            [
                ("/events", kill.replace('\n', "") + "\n"),
                ("/containers/json", r#"[{"Id":"c"}]"#.to_owned()),
            ],
        );
        let (told, mut heard) = watch::channel(None);
        let task = tokio::spawn(watch(fake.engine(), told));
        let stopping = |running: &Option<Running>| {
            let running = running.as_ref();
            running.is_some_and(|running| running.stopping.contains("c"))
        };
        heard.wait_for(stopping).await.unwrap();
        task.abort();
    }
}
