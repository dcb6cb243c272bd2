//! Swarm's services and their virtual addresses, watched through an Engine that is a manager.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::engine::{self, Engine, EngineError};
use crate::network::services::{Service, ServiceId};

/// The pause before the Engine is asked again after it did not answer.
const RETRY: Duration = Duration::from_secs(1);

/// How long news is collected before the Engine is asked what it amounts to.
const SETTLE: Duration = Duration::from_millis(5);

/// How often the Engine is asked though it told of nothing.
const RESYNC: Duration = Duration::from_secs(10);

/// When it is asked after it told of something: a service's address is chosen only after the
/// service was made, and that is not always told.
const AFTERWARDS: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
];

/// The driver whose virtual addresses Docker itself looks after.
const OVERLAY: &str = "overlay";

/// What a manager knows; `None` where the Engine is no manager.
pub type Known = Option<BTreeMap<ServiceId, Service>>;

/// Tells for ever which services there are, whenever that changes.
///
/// Nothing is told while the Engine does not answer, or has no quorum: what it said last may
/// still be so.
pub async fn watch(engine: Engine, told: watch::Sender<Known>) {
    let mut overlays = Overlays::default();
    while !told.is_closed() {
        match follow(&engine, &mut overlays, &told).await {
            Ok(()) => tracing::debug!("the engine has ended its events"),
            Err(error) => tracing::debug!(%error, "services are not known"),
        }
        sleep(RETRY).await;
    }
}

async fn follow(
    engine: &Engine,
    overlays: &mut Overlays,
    told: &watch::Sender<Known>,
) -> Result<(), EngineError> {
    // Listening before asking leaves no gap between the two.
    let mut events = engine.events(&["service"]).await?;
    let mut ask_at = BTreeSet::new();
    while !told.is_closed() {
        let manager = told.borrow().is_some();
        match find(engine, manager, overlays).await {
            Ok(found) => {
                told.send_if_modified(|known| {
                    let changed = *known != found;
                    *known = found;
                    changed
                });
            }
            Err(error) => tracing::debug!(%error, "services are not known"),
        }
        if ask_at.is_empty() {
            ask_at.insert(Instant::now() + RESYNC);
        }
        while let Some(next) = ask_at.first().copied() {
            tokio::select! {
                () = sleep_until(next) => break,
                event = events.next() => if event?.is_none() {
                    return Ok(());
                }
            }
            let now = Instant::now();
            ask_at = AFTERWARDS.into_iter().map(|after| now + after).collect();
            ask_at.insert(next.min(now + SETTLE));
        }
        let now = Instant::now();
        ask_at.retain(|at| *at > now);
    }
    Ok(())
}

/// Asks an Engine that was a manager when it was asked last, or was not.
///
/// # Errors
/// When it cannot be said for now.
async fn find(
    engine: &Engine,
    manager: bool,
    overlays: &mut Overlays,
) -> Result<Known, EngineError> {
    // An engine that is no manager writes an error into its log when it is asked for services.
    if !manager && is_no_manager(engine).await? {
        return Ok(None);
    }
    let services = match engine.services().await {
        Ok(services) => services,
        Err(EngineError::Refused { .. }) if is_no_manager(engine).await? => return Ok(None),
        Err(error) => return Err(error),
    };
    overlays.learn(engine, &services).await?;
    Ok(Some(known(&services, &overlays.overlays)))
}

/// Whether it surely is none: an Engine that is starting, or locked, may be one later.
async fn is_no_manager(engine: &Engine) -> Result<bool, EngineError> {
    let swarm = engine.info().await?.swarm;
    let settled = matches!(swarm.local_node_state.as_str(), "active" | "inactive");
    Ok(settled && !swarm.control_available)
}

fn known(
    services: &[engine::Service],
    overlays: &BTreeSet<String>,
) -> BTreeMap<ServiceId, Service> {
    let known = services.iter().map(|service| {
        let vips = service.endpoint.virtual_ips.iter();
        let ours = vips.filter(|vip| !overlays.contains(&vip.network_id));
        let vips = ours.filter_map(|vip| Some((vip.network_id.parse().ok()?, address(&vip.addr)?)));
        let value = Service {
            name: service.spec.name.clone(),
            vips: vips.collect(),
        };
        (ServiceId(service.id.clone()), value)
    });
    known
        .filter(|(_, service)| !service.vips.is_empty())
        .collect()
}

/// Which networks are overlays. A network never changes its driver.
#[derive(Debug, Default)]
struct Overlays {
    asked: BTreeSet<String>,
    overlays: BTreeSet<String>,
}

impl Overlays {
    async fn learn(
        &mut self,
        engine: &Engine,
        services: &[engine::Service],
    ) -> Result<(), EngineError> {
        let vips = services.iter().flat_map(|s| &s.endpoint.virtual_ips);
        let networks: BTreeSet<_> = vips.map(|vip| vip.network_id.clone()).collect();
        if !networks.is_subset(&self.asked) {
            let overlays = engine.networks(OVERLAY).await?;
            self.overlays = overlays.into_iter().map(|network| network.id).collect();
        }
        self.asked = networks;
        Ok(())
    }
}

/// The address in `ADDRESS/LENGTH`.
fn address(text: &str) -> Option<Ipv4Addr> {
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::engine::tests::FakeEngine;

    const SERVICES: &str = r#"[
        {"ID":"s1","Spec":{"Name":"web"},"Endpoint":{"VirtualIPs":[
            {"NetworkID":"ours","Addr":"10.0.1.2/24"},{"NetworkID":"ingress","Addr":"10.0.0.2/24"},
            {"NetworkID":"ours"}]}},
        {"ID":"s2","Spec":{"Name":"dnsrr"},"Endpoint":{}}]"#;
    const OVERLAYS: &str = r#"[{"Id":"ingress","Driver":"overlay"}]"#;

    #[tokio::test]
    async fn a_manager_tells_addresses_on_networks_that_docker_does_not_look_after() {
        let fake = FakeEngine::start(
            Some("1.41"),
            [("/services", SERVICES), ("/networks", OVERLAYS)],
        );
        let found = find(&fake.engine(), true, &mut Overlays::default()).await;
        let found = found.unwrap().unwrap();
        assert_eq!(found.len(), 1);
        let web = &found[&ServiceId("s1".to_owned())];
        assert_eq!(web.name, "web");
        assert_eq!(web.vips, [("ours".parse().unwrap(), [10, 0, 1, 2].into())]);
    }

    #[tokio::test]
    async fn only_one_that_is_surely_no_manager_says_so() {
        for (info, expected) in [
            (r#"{"LocalNodeState":"active"}"#, true),
            (r#"{"LocalNodeState":"inactive"}"#, true),
            (r#"{"LocalNodeState":"pending"}"#, false),
            (
                r#"{"LocalNodeState":"active","ControlAvailable":true}"#,
                false,
            ),
        ] {
            let info = format!(r#"{{"Swarm":{info}}}"#);
            let fake = FakeEngine::start(Some("1.41"), [("/info", info.clone())]);
            for manager in [false, true] {
                let found = find(&fake.engine(), manager, &mut Overlays::default()).await;
                assert_eq!(found.is_ok_and(|known| known.is_none()), expected, "{info}");
            }
        }
    }
}
