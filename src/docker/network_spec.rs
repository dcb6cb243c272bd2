//! From what the Engine says of a network to a [`NetworkSpec`].

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::Value;

use super::engine;
use super::wire::{self, IpamData};
use crate::network::{NetworkError, NetworkOptions, NetworkSpec, Pool, VNI_OPTION};
use crate::types::{NetworkId, ParseError};

/// Where the Engine puts the user's `--opt` values (libnetwork `netlabel.GenericData`).
const GENERIC: &str = "com.docker.network.generic";
/// `--internal` (libnetwork `netlabel.Internal`).
const INTERNAL: &str = "com.docker.network.internal";
/// libnetwork `netlabel.DriverMTU`.
const MTU_OPTION: &str = "com.docker.network.driver.mtu";
/// Names the segment of a local-scope network.
const SEGMENT_OPTION: &str = "works.weave.network";
/// Turns multicast on or off, for a network or one endpoint of it.
pub(super) const MULTICAST_OPTION: &str = "works.weave.multicast";

/// Every IPv4 host must take packets of 68 bytes (RFC 791, section 3.2).
const MIN_MTU: u16 = 68;
/// So that a segment's name fits well into the name of a record.
const MAX_SEGMENT_NAME: usize = 128;

/// What `CreateNetwork` says.
pub(super) fn of_request(request: &wire::CreateNetwork) -> Result<NetworkSpec, NetworkError> {
    let id = network_id(&request.network_id)?;
    let mut options = match request.options.get(GENERIC) {
        None | Some(Value::Null) => NetworkOptions::default(),
        Some(Value::Object(generic)) => {
            parse_options(&texts(generic.iter().map(|(k, v)| (k.as_str(), v))))?
        }
        Some(other) => return Err(wrong(GENERIC, "an object", other.to_string())),
    };
    options.internal = match request.options.get(INTERNAL) {
        None | Some(Value::Null) => false,
        Some(value) => parse_bool(INTERNAL, &text(value))?,
    };
    let pools = request
        .ipv4_data
        .iter()
        .chain(&request.ipv6_data)
        .map(pool)
        .collect::<Result<_, _>>()?;
    Ok(NetworkSpec { id, pools, options })
}

/// What the Engine's API says.
pub(super) fn of_definition(network: &engine::Network) -> Result<NetworkSpec, NetworkError> {
    let mut options = parse_options(&network.options)?;
    options.internal = network.internal;
    let mut pools = network
        .ipam
        .config
        .iter()
        .map(|config| {
            pool(&IpamData {
                pool: config.subnet.clone(),
                gateway: config.gateway.clone(),
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    pools.sort_by_key(|pool| matches!(pool.subnet, IpNet::V6(_)));
    Ok(NetworkSpec {
        id: network_id(&network.id)?,
        pools,
        options,
    })
}

/// Checks the options that are ours; others are none of our business.
pub(super) fn parse_options(
    options: &BTreeMap<String, String>,
) -> Result<NetworkOptions, NetworkError> {
    let vni = options
        .get(VNI_OPTION)
        .map(|text| text.parse().map_err(in_option(VNI_OPTION)))
        .transpose()?;
    let segment = options
        .get(SEGMENT_OPTION)
        .map(|text| parse_segment(text))
        .transpose()?;
    let mtu = options
        .get(MTU_OPTION)
        .map(|text| parse_mtu(text))
        .transpose()?;
    let multicast = options
        .get(MULTICAST_OPTION)
        .map(|text| parse_multicast(text))
        .transpose()?;
    Ok(NetworkOptions {
        vni,
        segment,
        mtu,
        multicast,
        internal: false,
    })
}

/// The option of an endpoint.
pub(super) fn multicast(option: Option<&Value>) -> Result<Option<bool>, NetworkError> {
    option
        .map(|value| parse_multicast(&text(value)))
        .transpose()
}

fn parse_multicast(text: &str) -> Result<bool, NetworkError> {
    match text {
        // `--opt works.weave.multicast` alone, as Weave Net documented it.
        "" => Ok(true),
        text => parse_bool(MULTICAST_OPTION, text),
    }
}

/// Options whose values are all text, as they are for a driver's own.
pub(super) fn texts<'a>(
    options: impl IntoIterator<Item = (&'a str, &'a Value)>,
) -> BTreeMap<String, String> {
    options
        .into_iter()
        .map(|(name, value)| (name.to_owned(), text(value)))
        .collect()
}

pub(super) fn network_id(text: &str) -> Result<NetworkId, NetworkError> {
    text.parse().map_err(in_option("NetworkID"))
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn pool(data: &IpamData) -> Result<Pool, NetworkError> {
    let subnet: IpNet = data
        .pool
        .parse()
        .map_err(|_| wrong("Pool", "a subnet like 10.32.0.0/16", &data.pool))?;
    Ok(Pool {
        subnet: subnet.trunc(),
        gateway: gateway(&data.gateway, &subnet)?,
    })
}

/// The API of some engines leaves the prefix length out; an address of zeros is no gateway.
fn gateway(text: &str, subnet: &IpNet) -> Result<Option<IpNet>, NetworkError> {
    if text.is_empty() {
        return Ok(None);
    }
    let gateway = text
        .parse()
        .or_else(|_| {
            let address = text.parse().map_err(|_| ())?;
            IpNet::new(address, subnet.prefix_len()).map_err(|_| ())
        })
        .map_err(|()| wrong("Gateway", "an address like 10.32.0.1/16", text))?;
    Ok(Some(gateway).filter(|gateway| !gateway.addr().is_unspecified()))
}

fn parse_segment(text: &str) -> Result<String, NetworkError> {
    let valid = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if text.is_empty() || text.len() > MAX_SEGMENT_NAME || !text.chars().all(valid) {
        let expected = "a name of 1 to 128 letters, digits, '_', '.' and '-'";
        return Err(wrong(SEGMENT_OPTION, expected, text));
    }
    Ok(text.to_owned())
}

fn parse_mtu(text: &str) -> Result<u16, NetworkError> {
    text.parse()
        .ok()
        .filter(|mtu| *mtu >= MIN_MTU)
        .ok_or_else(|| wrong(MTU_OPTION, "a number of bytes from 68 to 65535", text))
}

fn parse_bool(option: &str, text: &str) -> Result<bool, NetworkError> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err(wrong(option, "true or false", text)),
    }
}

fn wrong(option: &str, expected: &'static str, got: impl Into<String>) -> NetworkError {
    in_option(option)(ParseError::new(expected, got))
}

fn in_option(option: &str) -> impl FnOnce(ParseError) -> NetworkError {
    let option = option.to_owned();
    move |source| NetworkError::Option { option, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> Result<NetworkOptions, NetworkError> {
        parse_options(&texts_of(pairs))
    }

    fn texts_of(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect()
    }

    #[test]
    fn multicast_named_without_a_value_is_on() {
        let parse = |text| options(&[(MULTICAST_OPTION, text)]).map(|o| o.multicast);
        assert_eq!(parse(""), Ok(Some(true)));
        assert_eq!(parse("True"), Ok(Some(true)));
        assert_eq!(parse("off"), Ok(Some(false)));
        assert_eq!(options(&[]).unwrap().multicast, None);
    }

    #[test]
    fn a_wrong_value_is_named_with_its_option_and_what_would_be_right() {
        for (option, value) in [
            (MTU_OPTION, "jumbo"),
            (MTU_OPTION, "67"),
            (MTU_OPTION, "65536"),
            (MULTICAST_OPTION, "maybe"),
            (VNI_OPTION, "0"),
            (SEGMENT_OPTION, ""),
            (SEGMENT_OPTION, "a/b"),
        ] {
            let error = options(&[(option, value)]).unwrap_err().to_string();
            assert!(error.contains(option), "{error}");
            assert!(error.contains(&format!("{value:?}")), "{error}");
            assert!(error.contains("expected"), "{error}");
        }
    }

    #[test]
    fn options_of_others_are_ignored() {
        assert_eq!(
            options(&[("foo", "bar"), ("com.docker.network.host_ipv4", "x")]),
            Ok(NetworkOptions::default())
        );
    }

    #[test]
    fn request_and_definition_make_the_same_network() {
        let request = wire::parse(
            br#"{"NetworkID":"n1","Options":{"com.docker.network.enable_ipv6":true,
            "com.docker.network.generic":{"com.docker.network.driver.mtu":"1400",
            "works.weave.vni":"4097"},"com.docker.network.internal":true},
            "IPv4Data":[{"AddressSpace":"LocalDefault","Gateway":"10.8.0.1/16",
            "Pool":"10.8.0.0/16"}],"IPv6Data":[{"Pool":"fd00:8::/64","Gateway":"::/0"}]}"#,
        )
        .unwrap();
        let definition = serde_json::from_str(
            r#"{"Id":"n1","Internal":true,"Options":{"com.docker.network.driver.mtu":"1400",
            "works.weave.vni":"4097"},"IPAM":{"Config":[{"Subnet":"fd00:8::/64"},
            {"Subnet":"10.8.0.0/16","Gateway":"10.8.0.1"}]}}"#,
        )
        .unwrap();
        let spec = of_request(&request).unwrap();
        assert_eq!(spec.options.mtu, Some(1400));
        assert_eq!(spec.options.vni.map(|vni| vni.get()), Some(4097));
        assert!(spec.options.internal);
        assert_eq!(spec.pools[0].gateway, Some("10.8.0.1/16".parse().unwrap()));
        assert_eq!(spec.pools[1].gateway, None);
        assert_eq!(of_definition(&definition), Ok(spec));
    }
}
