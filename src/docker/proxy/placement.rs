//! From addresses to Docker's networks: each subnet is a network, the default one `weave`.

use std::net::Ipv4Addr;

use ipnet::IpNet;

use super::Refusal;
use super::create::Placement;
use crate::docker::engine::{Engine, EngineError, IpamConfig, Network};
use crate::docker::weave_network::{LEGACY_DRIVER, definition, name_of_subnet};
use crate::ipam::pools::{DEFAULT_NETWORK, NAME_OPTION};
use crate::network::AddressSpec;

/// What the drivers are called that are ours in every case.
const LEGACY_DRIVERS: [&str; 2] = [LEGACY_DRIVER, "weave"];

/// Where these addresses are to be had, on networks that are there afterwards: the first one as
/// the container's own network, the others beside it.
pub(super) async fn place(
    engine: &Engine,
    default_subnet: IpNet,
    specs: &[AddressSpec],
) -> Result<Vec<Placement>, Refusal> {
    let networks = match specs {
        [AddressSpec::Default] => match engine.network_called(DEFAULT_NETWORK).await {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            network => network.map(|network| vec![network]),
        },
        _ => engine.all_networks().await,
    };
    let networks = networks.map_err(|error| failed(&error))?;
    let weave = networks
        .iter()
        .find(|network| network.name == DEFAULT_NETWORK);
    let weave = weave.ok_or_else(|| {
        Refusal::new(
            500,
            "there is no network `weave`, on which the container is to be: see `weave status`, \
             or run `weave launch-plugin`",
        )
    })?;
    let mut placements: Vec<Placement> = Vec::new();
    for spec in specs {
        let placement = placement(spec, default_subnet)?;
        let network = match placement.subnet == default_subnet.trunc() {
            true => weave.name.clone(),
            false => ensure(engine, weave, &networks, placement.subnet).await?,
        };
        if placements.iter().any(|other| other.network == network) {
            let text = format!("expected one address in each subnet, got another with {spec}");
            return Err(Refusal::new(400, text));
        }
        placements.push(Placement {
            network,
            address: placement.address,
            without_multicast: false,
        });
    }
    Ok(placements)
}

/// Whether a container of this network mode is on a network of ours.
pub(super) async fn is_ours(engine: &Engine, mode: &str) -> Result<bool, Refusal> {
    // `container:NAME` is no network.
    if mode.is_empty() || mode.contains(':') {
        return Ok(false);
    }
    let network = match engine.network_called(mode).await {
        Err(error) if error.is_not_found() => return Ok(false),
        network => network.map_err(|error| failed(&error))?,
    };
    if LEGACY_DRIVERS.contains(&&*network.driver) {
        return Ok(true);
    }
    let weave = engine.network_called(DEFAULT_NETWORK).await;
    Ok(weave.is_ok_and(|weave| weave.driver == network.driver))
}

/// An address of some subnet.
struct Wanted {
    subnet: IpNet,
    address: Option<Ipv4Addr>,
}

fn placement(spec: &AddressSpec, default_subnet: IpNet) -> Result<Wanted, Refusal> {
    let (subnet, address) = match spec {
        AddressSpec::Default => (default_subnet, None),
        AddressSpec::Subnet(subnet) => (*subnet, None),
        AddressSpec::Exact(IpNet::V4(address)) => (IpNet::V4(*address), Some(address.addr())),
        AddressSpec::Exact(IpNet::V6(_)) => {
            let text = format!("expected an IPv4 address in WEAVE_CIDR, got {spec}");
            return Err(Refusal::new(400, text));
        }
    };
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        let text = format!("expected a subnet with room for hosts, /30 or larger, got {spec}");
        return Err(Refusal::new(400, text));
    }
    Ok(Wanted {
        subnet: subnet.trunc(),
        address,
    })
}

/// The network of a subnet, made if it is not there.
async fn ensure(
    engine: &Engine,
    weave: &Network,
    networks: &[Network],
    subnet: IpNet,
) -> Result<String, Refusal> {
    let there = networks.iter().find(|network| {
        let ours = network.driver == weave.driver || LEGACY_DRIVERS.contains(&&*network.driver);
        // One with a name of its own has a segment of its own.
        let is_plain = !network.options.contains_key(NAME_OPTION);
        let of_subnet = |config: &IpamConfig| {
            config
                .subnet
                .parse::<IpNet>()
                .is_ok_and(|s| s.trunc() == subnet)
        };
        ours && is_plain && network.ipam.config.iter().any(of_subnet)
    });
    if let Some(network) = there {
        return Ok(network.name.clone());
    }
    let name = name_of_subnet(subnet);
    let network = definition(&name, &weave.driver, subnet);
    match engine.create_network(&network).await {
        // Another client's container was first.
        Err(error) if !error.is_conflict() => Err(failed(&error)),
        _ => Ok(name),
    }
}

pub(super) fn failed(error: &EngineError) -> Refusal {
    let status = match error {
        EngineError::Refused { status, .. } => *status,
        _ => 502,
    };
    Refusal::new(status.max(400), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::engine::tests::FakeEngine;

    const WEAVE: &str =
        r#"{"Name":"weave","Driver":"weavemesh","IPAM":{"Config":[{"Subnet":"10.32.0.0/12"}]}}"#;

    async fn placed(specs: &[&str], more: &str) -> Result<String, String> {
        let all = format!("[{WEAVE}{more}]");
        let answers = [
            ("/networks", all.as_str()),
            ("/networks/weave", WEAVE),
            ("/networks/create", "{}"),
        ];
        let fake = FakeEngine::start(Some("1.41"), answers);
        let specs: Vec<AddressSpec> = specs.iter().map(|spec| spec.parse().unwrap()).collect();
        let subnet = "10.32.0.0/12".parse().unwrap();
        let placements = place(&fake.engine(), subnet, &specs).await;
        let placements = placements.map_err(|refusal| refusal.to_string())?;
        let show = |p: &Placement| match p.address {
            Some(address) => format!("{}:{address}", p.network),
            None => p.network.clone(),
        };
        Ok(placements.iter().map(show).collect::<Vec<_>>().join(" "))
    }

    #[tokio::test]
    async fn each_subnet_is_a_network() {
        assert_eq!(placed(&["net:default"], "").await.unwrap(), "weave");
        assert_eq!(
            placed(&["10.32.0.7/12"], "").await.unwrap(),
            "weave:10.32.0.7"
        );
        let several = placed(&["net:10.5.0.0/16", "10.2.1.5/24", "net:default"], "").await;
        let expected = "weave-10.5.0.0-16 weave-10.2.1.0-24:10.2.1.5 weave";
        assert_eq!(several.unwrap(), expected);
        let web =
            r#",{"Name":"web","Driver":"weave","IPAM":{"Config":[{"Subnet":"10.5.0.0/16"}]}}"#;
        assert_eq!(placed(&["net:10.5.0.0/16"], web).await.unwrap(), "web");
        let named = web.replace(
            r#""Driver""#,
            r#""Options":{"works.weave.network":"x"},"Driver""#,
        );
        let made = placed(&["net:10.5.0.0/16"], &named).await.unwrap();
        assert_eq!(made, "weave-10.5.0.0-16");
    }

    #[tokio::test]
    async fn what_cannot_be_had_is_refused() {
        for (specs, reason) in [
            (vec!["fd00::5/64"], "IPv4"),
            (vec!["10.2.1.5/32"], "/30 or larger"),
            (
                vec!["10.2.1.5/24", "10.2.1.6/24"],
                "one address in each subnet",
            ),
        ] {
            let error = placed(&specs, "").await.unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let none = FakeEngine::start(Some("1.41"), [("/networks", "[]")]);
        let subnet = "10.32.0.0/12".parse().unwrap();
        let refused = place(&none.engine(), subnet, &[AddressSpec::Default]).await;
        assert!(refused.unwrap_err().message.contains("no network `weave`"));
    }
}
