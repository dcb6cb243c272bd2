//! What becomes of the body of `create`: rules without a side effect.
//!
//! Docker reads names of fields without regard to case, and so does this. What is not spoken of here
//! stays as it is.

use std::net::{IpAddr, Ipv4Addr};

use serde_json::{Map, Value, json};

use super::hostname::HostnameRule;
use crate::dns::search_domains;
use crate::docker::network_spec::MULTICAST_OPTION;
use crate::network::AddressSpec;
use crate::types::{DnsName, ParseError};

/// The variable in which users say which addresses a container is to have.
const CIDR_VARIABLE: &str = "WEAVE_CIDR=";

/// What leaves a container alone there.
const NO_CIDR: &str = "none";

/// What clients call the network of containers that name none.
pub(super) const NO_NETWORK: [&str; 3] = ["", "default", "bridge"];

/// Where containers may ask for names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nameserver {
    /// Its address.
    pub address: IpAddr,
    /// The domain of its names.
    pub domain: DnsName,
}

/// An endpoint that a container is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Placement {
    /// The name of the network.
    pub(super) network: String,
    /// The address, where it is not any.
    pub(super) address: Option<Ipv4Addr>,
    /// Whether multicast is not to go there, unless the container says so.
    pub(super) without_multicast: bool,
}

impl Placement {
    /// As the Engine's API has it.
    pub(super) fn endpoint(&self) -> Value {
        let mut endpoint = Map::new();
        self.describe(&mut endpoint);
        Value::Object(endpoint)
    }

    fn describe(&self, endpoint: &mut Map<String, Value>) {
        if let Some(address) = self.address {
            let ipam = object(endpoint, "IPAMConfig");
            *value(ipam, "IPv4Address") = json!(address);
        }
        if self.without_multicast {
            let options = object(endpoint, "DriverOpts");
            let option = options.entry(MULTICAST_OPTION);
            option.or_insert_with(|| json!(false.to_string()));
        }
    }
}

/// Which addresses a container is to have; `None` when it is to be left alone.
pub(super) fn wanted(
    body: &Map<String, Value>,
    only_with_cidr: bool,
) -> Result<Option<Vec<AddressSpec>>, ParseError> {
    let host = field(body, "HostConfig").and_then(Value::as_object);
    let mode = host.and_then(|host| field(host, "NetworkMode"));
    let mode = mode.and_then(Value::as_str).unwrap_or_default();
    let disabled = field(body, "NetworkDisabled").and_then(Value::as_bool);
    let own = field(body, "NetworkingConfig").and_then(Value::as_object);
    let own = own.and_then(|config| field(config, "EndpointsConfig"));
    let mut own = own
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::keys);
    if disabled == Some(true)
        || !NO_NETWORK.contains(&mode)
        || own.any(|network| !NO_NETWORK.contains(&network.as_str()))
    {
        return Ok(None);
    }
    let variables = field(body, "Env").and_then(Value::as_array);
    let variables = variables.into_iter().flatten().filter_map(Value::as_str);
    // The last one counts, as in Docker.
    let cidr = variables
        .filter_map(|variable| variable.strip_prefix(CIDR_VARIABLE))
        .next_back();
    match cidr.map(str::trim) {
        Some(NO_CIDR) => Ok(None),
        None if only_with_cidr => Ok(None),
        None | Some("") => Ok(Some(vec![AddressSpec::Default])),
        Some(cidr) => {
            let specs = cidr.split_whitespace().map(str::parse);
            specs.collect::<Result<Vec<_>, _>>().map(Some)
        }
    }
}

/// Puts the container on a network, with what belongs to it there.
pub(super) fn place(
    body: &mut Map<String, Value>,
    name: Option<&str>,
    placement: &Placement,
    nameserver: Option<&Nameserver>,
    rule: &HostnameRule,
) {
    if let Some(nameserver) = nameserver {
        set_hostname(body, name, &nameserver.domain, rule);
    }
    let hostname = full_hostname(body);
    let host = object(body, "HostConfig");
    *value(host, "NetworkMode") = json!(placement.network);
    // On a network with a name, links belong to the endpoint.
    let links = match key(host, "Links") {
        Some(_) => value(host, "Links").take(),
        None => Value::Null,
    };
    if let Some(nameserver) = nameserver {
        append(host, "Dns", nameserver.address.to_string());
        let search = value(host, "DnsSearch");
        if search.as_array().is_none_or(Vec::is_empty) {
            *search = json!(search_domains(hostname.as_deref(), &nameserver.domain));
        }
    }
    let config = object(body, "NetworkingConfig");
    let endpoints = object(config, "EndpointsConfig");
    let given = NO_NETWORK.iter().filter_map(|name| endpoints.remove(*name));
    let given: Vec<Value> = given.filter(Value::is_object).collect();
    let mut endpoint = given.into_iter().next().unwrap_or_else(|| json!({}));
    if let Some(endpoint) = endpoint.as_object_mut() {
        placement.describe(endpoint);
        for link in links
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
        {
            append(endpoint, "Links", link.to_owned());
        }
    }
    endpoints.insert(placement.network.clone(), endpoint);
}

fn set_hostname(
    body: &mut Map<String, Value>,
    name: Option<&str>,
    domain: &DnsName,
    rule: &HostnameRule,
) {
    let labels = field(body, "Labels").and_then(Value::as_object);
    let label = |wanted: &str| Some(labels?.get(wanted)?.as_str()?.to_owned());
    let made = rule.hostname(name, label, domain.as_str());
    let given = field(body, "Hostname").and_then(Value::as_str);
    if let Some(made) = made
        && given.is_none_or(str::is_empty)
    {
        *value(body, "Hostname") = json!(made);
        *value(body, "Domainname") = json!(domain.as_str());
    }
}

fn full_hostname(body: &Map<String, Value>) -> Option<String> {
    let text = |name| field(body, name).and_then(Value::as_str);
    let hostname = text("Hostname").filter(|name| !name.is_empty())?;
    match text("Domainname").filter(|name| !name.is_empty()) {
        Some(domain) => Some(format!("{hostname}.{domain}")),
        None => Some(hostname.to_owned()),
    }
}

/// The name by which a field goes in this object.
pub(super) fn key(object: &Map<String, Value>, name: &str) -> Option<String> {
    if object.contains_key(name) {
        return Some(name.to_owned());
    }
    let mut keys = object.keys();
    keys.find(|key| key.eq_ignore_ascii_case(name)).cloned()
}

pub(super) fn field<'a>(object: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    object.get(&key(object, name)?)
}

/// The value of a field, which is there then.
pub(super) fn value<'a>(object: &'a mut Map<String, Value>, name: &str) -> &'a mut Value {
    let key = key(object, name).unwrap_or_else(|| name.to_owned());
    object.entry(key).or_insert(Value::Null)
}

/// The object that a field holds, which it does then.
fn object<'a>(parent: &'a mut Map<String, Value>, name: &str) -> &'a mut Map<String, Value> {
    let value = value(parent, name);
    if !value.is_object() {
        *value = json!({});
    }
    match value {
        Value::Object(object) => object,
        _ => unreachable!("it was made an object"),
    }
}

fn append(object: &mut Map<String, Value>, name: &str, text: String) {
    let list = value(object, name);
    match list {
        Value::Array(list) => list.push(json!(text)),
        other => *other = json!([text]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(body: &Value) -> Map<String, Value> {
        body.as_object().unwrap().clone()
    }

    fn specs(body: &Value, only_with_cidr: bool) -> Option<String> {
        let specs = wanted(&map(body), only_with_cidr).unwrap();
        let text = |spec: &AddressSpec| spec.to_string();
        specs.map(|specs| specs.iter().map(text).collect::<Vec<_>>().join(" "))
    }

    fn placed(body: &Value, name: Option<&str>, address: Option<Ipv4Addr>, dns: bool) -> Value {
        let nameserver = Nameserver {
            address: [172, 17, 0, 1].into(),
            domain: "weave.local".parse().unwrap(),
        };
        let nameserver = dns.then_some(nameserver);
        let placement = Placement {
            network: "weave".to_owned(),
            address,
            without_multicast: dns,
        };
        let mut body = map(body);
        let rule = HostnameRule::default();
        place(&mut body, name, &placement, nameserver.as_ref(), &rule);
        Value::Object(body)
    }

    #[test]
    fn containers_without_a_network_get_one_and_others_are_left_alone() {
        for joins in [
            json!({}),
            json!({"HostConfig": null}),
            json!({"HostConfig": {"NetworkMode": "default"}}),
            json!({"hostconfig": {"networkmode": "bridge"}}),
            json!({"NetworkingConfig": {"EndpointsConfig": {"default": {}}}}),
            json!({"NetworkingConfig": {"EndpointsConfig": null}}),
            json!({"Env": ["WEAVE_CIDR="]}),
            json!({"Env": ["WEAVE_CIDR=none", "WEAVE_CIDR=net:default"]}),
        ] {
            assert_eq!(
                specs(&joins, false).as_deref(),
                Some("net:default"),
                "{joins}"
            );
        }
        for left in [
            json!({"HostConfig": {"NetworkMode": "host"}}),
            json!({"HostConfig": {"NetworkMode": "none"}}),
            json!({"HostConfig": {"NetworkMode": "container:c1"}}),
            json!({"HostConfig": {"networkMode": "web"}}),
            json!({"NetworkDisabled": true}),
            json!({"NetworkingConfig": {"EndpointsConfig": {"web": {}}}}),
            json!({"Env": ["A=b", "WEAVE_CIDR=none"]}),
        ] {
            assert_eq!(specs(&left, false), None, "{left}");
        }
    }

    #[test]
    fn addresses_are_read_as_elsewhere() {
        let body = |cidr: &str| json!({"Env": [format!("WEAVE_CIDR={cidr}")]});
        let several = specs(&body("10.2.1.5/24 net:10.3.0.0/16  net:default"), true);
        assert_eq!(
            several.as_deref(),
            Some("ip:10.2.1.5/24 net:10.3.0.0/16 net:default")
        );
        let error = wanted(&map(&body("10.2.1.5")), false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("prefix length"), "{error}");
        assert_eq!(specs(&json!({"Env": ["X=1"]}), true), None);
        assert_eq!(specs(&body(" "), true).as_deref(), Some("net:default"));
    }

    #[test]
    fn docker_is_told_network_address_names_and_links() {
        let body = json!({
            "Image": "busybox",
            "Labels": {"a": "b"},
            "HostConfig": {"NetworkMode": "default", "Links": ["db:sql"], "Memory": 7},
            "NetworkingConfig": {"EndpointsConfig": {"default": {"Aliases": ["www"]}}},
        });
        let address = Some([10, 32, 0, 9].into());
        assert_eq!(
            placed(&body, Some("web"), address, true),
            json!({
                "Image": "busybox",
                "Labels": {"a": "b"},
                "Hostname": "web",
                "Domainname": "weave.local",
                "HostConfig": {
                    "NetworkMode": "weave",
                    "Links": null,
                    "Memory": 7,
                    "Dns": ["172.17.0.1"],
                    "DnsSearch": ["weave.local"],
                },
                "NetworkingConfig": {"EndpointsConfig": {"weave": {
                    "Aliases": ["www"],
                    "IPAMConfig": {"IPv4Address": "10.32.0.9"},
                    "DriverOpts": {"works.weave.multicast": "false"},
                    "Links": ["db:sql"],
                }}},
            })
        );
    }

    #[test]
    fn what_users_say_of_names_stays() {
        let body = json!({
            "Hostname": "www.shop.weave.local",
            "HostConfig": {"Dns": ["192.0.2.1"]},
        });
        let told = placed(&body, Some("web"), None, true);
        assert_eq!(told["Hostname"], "www.shop.weave.local");
        assert_eq!(told.get("Domainname"), None);
        let host = &told["HostConfig"];
        assert_eq!(host["Dns"], json!(["192.0.2.1", "172.17.0.1"]));
        assert_eq!(
            host["DnsSearch"],
            json!(["shop.weave.local", "weave.local"])
        );
        let body = json!({"HostConfig": {"DnsSearch": ["x.y"]}});
        let told = placed(&body, None, None, true);
        assert_eq!(told["HostConfig"]["DnsSearch"], json!(["x.y"]));
        assert_eq!(told.get("Hostname"), None);
        let without = placed(&json!({}), Some("web"), None, false);
        assert_eq!(without.get("Hostname"), None);
        assert_eq!(without["HostConfig"].get("Dns"), None);
    }

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z0-9:/.= ]{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let names = prop_oneof![
                Just("HostConfig".to_owned()),
                Just("NetworkingConfig".to_owned()),
                Just("EndpointsConfig".to_owned()),
                Just("Env".to_owned()),
                Just("Links".to_owned()),
                Just("Dns".to_owned()),
                "[A-Z][a-z]{0,5}",
            ];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(names, inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_what_is_not_ours_survives(body in json_value()) {
            let Some(before) = body.as_object() else { return Ok(()) };
            let _ = wanted(before, false);
            let after = placed(&body, Some("web"), None, true);
            let ours = ["hostname", "domainname", "hostconfig", "networkingconfig"];
            for (name, value) in before {
                if !ours.contains(&name.to_ascii_lowercase().as_str()) {
                    prop_assert_eq!(&after[name], value);
                }
            }
            prop_assert_eq!(&after["HostConfig"]["NetworkMode"], "weave");
        }
    }
}
