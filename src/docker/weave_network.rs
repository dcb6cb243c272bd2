//! The network `weave`, made through the Engine for users who do not want to make one themselves.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::watch;
use tokio::time::sleep;

use super::engine::{Engine, EngineError, Network, NewIpam, NewIpamConfig, NewNetwork};
use super::network_spec::MULTICAST_OPTION;
use crate::ipam::pools::{DEFAULT_NETWORK, NAME_OPTION};

/// The driver that serves the network outside of a managed plugin: a legacy one, as only these
/// have networks of this engine alone beside a swarm's.
pub const LEGACY_DRIVER: &str = "weavemesh";

/// The first pause after the network could not be made; it doubles up to [`LONGEST_PAUSE`]. The
/// Engine's API comes up within seconds of the plugin.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Sees to it, while `wanted`, that the network is there; tells what keeps it from being. An Engine
/// that does not answer is told of when it should have come up.
pub async fn keep(
    engine: Engine,
    driver: String,
    subnet: IpNet,
    mut wanted: watch::Receiver<bool>,
    tell: impl Fn(Option<String>),
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let is_wanted = *wanted.borrow_and_update();
        let made = match is_wanted {
            true => ensure(&engine, &driver, subnet).await,
            false => Ok(Ok(())),
        };
        match made {
            Ok(Ok(())) => {
                tell(None);
                if wanted.changed().await.is_err() {
                    return;
                }
                pause = FIRST_PAUSE;
                continue;
            }
            Ok(Err(reason)) => tell(Some(reason)),
            Err(error) if pause < LONGEST_PAUSE => {
                tracing::debug!(%error, "the network {DEFAULT_NETWORK} has to wait");
            }
            Err(error) => tell(Some(error.to_string())),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The name by which the Engine knows this plugin, found by what is mounted here: the Engine keeps
/// a plugin's files in a directory that is called by its identifier. `None` if it lists no such
/// plugin.
///
/// # Errors
///
/// The Engine does not answer.
pub async fn driver_of_this_plugin(engine: &Engine) -> Result<Option<String>, EngineError> {
    let plugins = engine.plugins().await?;
    let mounts = tokio::fs::read_to_string("/proc/self/mountinfo").await;
    let mounts = mounts.unwrap_or_default();
    let this = plugins.into_iter().find(|p| mounts.contains(&p.id));
    Ok(this.map(|plugin| plugin.name))
}

/// Makes the network unless it is there. Only a manager can make a network of a swarm: on other
/// nodes, with a driver of global scope, there is nothing to be done.
///
/// The outer error is one that passes by itself, the inner one what the Engine refuses, or has a
/// network of that name with another driver for.
async fn ensure(
    engine: &Engine,
    driver: &str,
    subnet: IpNet,
) -> Result<Result<(), String>, EngineError> {
    match engine.network_called(DEFAULT_NETWORK).await {
        Ok(there) if there.driver == driver => return Ok(Ok(())),
        Ok(there) => {
            return Ok(Err(format!(
                "there is a network {DEFAULT_NETWORK} of driver {} already",
                there.driver
            )));
        }
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    let mut network = definition(DEFAULT_NETWORK, driver, subnet);
    let name = (NAME_OPTION.to_owned(), DEFAULT_NETWORK.to_owned());
    network.ipam.options.extend([name]);
    match engine.create_network(&network).await {
        Ok(()) => {
            tracing::info!(%subnet, driver, "made the network {DEFAULT_NETWORK}");
            Ok(Ok(()))
        }
        // Somebody made one just now, or the Engine does not take calls for this driver yet: it has
        // a plugin disabled until its socket answers.
        Err(error) if error.is_conflict() => Err(error),
        Err(EngineError::Refused { message, .. }) if message.contains("not a swarm manager") => {
            Ok(Ok(()))
        }
        Err(error @ EngineError::Refused { .. }) => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

/// What the network of a subnet is called that nobody has given a name.
pub(super) fn name_of_subnet(subnet: IpNet) -> String {
    format!(
        "{DEFAULT_NETWORK}-{}-{}",
        subnet.addr(),
        subnet.prefix_len()
    )
}

/// Whether a network of our driver was made without a user's asking for it.
pub fn made_by_us(network: &Network) -> bool {
    let mut subnets = network
        .ipam
        .config
        .iter()
        .filter_map(|c| c.subnet.parse().ok());
    network.name == DEFAULT_NETWORK || subnets.any(|subnet| network.name == name_of_subnet(subnet))
}

/// A network on the segment of its subnet, where operators attach containers too.
pub(super) fn definition(name: &str, driver: &str, subnet: IpNet) -> NewNetwork {
    // Weave Net's network `weave` had multicast.
    let multicast = (MULTICAST_OPTION.to_owned(), true.to_string());
    NewNetwork {
        name: name.to_owned(),
        check_duplicate: true,
        driver: driver.to_owned(),
        attachable: true,
        options: (driver == LEGACY_DRIVER)
            .then_some(multicast)
            .into_iter()
            .collect(),
        ipam: NewIpam {
            driver: driver.to_owned(),
            options: BTreeMap::new(),
            config: vec![NewIpamConfig {
                subnet: subnet.to_string(),
            }],
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::engine::tests::FakeEngine;

    const DRIVER: &str = "x/net-plugin:latest";

    async fn outcome(answers: &[(&str, &str)]) -> Result<(), String> {
        let fake = FakeEngine::start(Some("1.41"), answers.iter().copied());
        let subnet = "10.32.0.0/12".parse().unwrap();
        ensure(&fake.engine(), DRIVER, subnet).await.unwrap()
    }

    #[tokio::test]
    async fn a_network_that_is_there_is_left_alone() {
        let there = r#"{"Driver":"x/net-plugin:latest"}"#;
        assert_eq!(outcome(&[("/networks/weave", there)]).await, Ok(()));
        let other = outcome(&[("/networks/weave", r#"{"Driver":"bridge"}"#)]).await;
        assert!(other.unwrap_err().contains("driver bridge"));
    }

    #[test]
    fn networks_that_users_made_are_told_apart() {
        let ours = |name: &str| {
            let ipam = r#"{"Config":[{"Subnet":"10.9.0.0/16"}]}"#;
            let network = format!(r#"{{"Name":"{name}","IPAM":{ipam}}}"#);
            made_by_us(&serde_json::from_str(&network).unwrap())
        };
        assert!(ours("weave") && ours("weave-10.9.0.0-16"));
        assert!(!ours("web") && !ours("weave-10.8.0.0-16"));
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_made() {
        assert_eq!(outcome(&[("/networks/create", "{}")]).await, Ok(()));
        let refused = outcome(&[]).await.unwrap_err();
        assert!(refused.contains("/networks/create"), "{refused}");
    }

    #[tokio::test]
    async fn a_plugin_that_is_not_enabled_yet_is_no_reason_to_give_up() {
        let disabled = r#"{"message":"plugin x/net-plugin:latest found but disabled"}"#;
        let fake = FakeEngine::start(Some("1.41"), [("409 /networks/create", disabled)]);
        let subnet = "10.32.0.0/12".parse().unwrap();
        let error = ensure(&fake.engine(), DRIVER, subnet).await.unwrap_err();
        assert!(error.to_string().contains("found but disabled"), "{error}");
    }

    #[tokio::test]
    async fn what_keeps_the_network_from_being_is_told_while_it_is_wanted() {
        let fake = FakeEngine::start(
            Some("1.41"),
            [("/networks/weave", r#"{"Driver":"bridge"}"#)],
        );
        let (want, wanted) = watch::channel(false);
        let (told, mut problem) = watch::channel(None);
        let subnet = "10.32.0.0/12".parse().unwrap();
        let tell = move |reason| {
            told.send_replace(reason);
        };
        let driver = LEGACY_DRIVER.to_owned();
        let keeper = tokio::spawn(keep(fake.engine(), driver, subnet, wanted, tell));
        problem.changed().await.unwrap();
        assert_eq!(*problem.borrow_and_update(), None);
        want.send_replace(true);
        let reason = problem.wait_for(Option::is_some).await.unwrap().clone();
        assert!(reason.unwrap().contains("driver bridge"));
        want.send_replace(false);
        problem.wait_for(Option::is_none).await.unwrap();
        keeper.abort();
    }
}
