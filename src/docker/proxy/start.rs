//! What becomes of the body of `start`: rules without a side effect.
//!
//! Clients from before API 1.24 say there what others say in `create`. The Engine then forgets what
//! the container was made with in `HostConfig`, and takes it off its networks if the network mode
//! is not the same word as before (moby 20.10, `daemon/start.go`).

use serde_json::{Map, Value, json};

use super::create::{NO_NETWORK, Nameserver, field, key, value};

/// What the Engine does not show of a `HostConfig` where there is nothing in it.
const SHOWN_IF_THERE: [&str; 9] = [
    "Annotations",
    "Init",
    "KernelMemory",
    "KernelMemoryTCP",
    "Mounts",
    "Runtime",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
];

/// What `create` puts into a `HostConfig` beside the network mode.
const NAMES: [&str; 2] = ["Dns", "DnsSearch"];

/// The part of the body that the Engine takes in place of `made`, the container's `HostConfig` as it
/// shows it; `None` where the container stays as it is.
pub(super) fn replacement<'a>(
    body: &'a mut Map<String, Value>,
    made: &Map<String, Value>,
) -> Option<&'a mut Map<String, Value>> {
    let inner = key(body, "HostConfig").filter(|key| !body[key].is_null());
    if let Some(inner) = inner {
        return body.get_mut(&inner)?.as_object_mut();
    }
    let known = made.keys().map(String::as_str).chain(SHOWN_IF_THERE);
    let says = known.into_iter().any(|name| key(body, name).is_some());
    says.then_some(body)
}

/// Lets the container keep what `create` gave it, unless another network is named. False when
/// there are links: they belong to the endpoint, which `start` does not change. What makes no sense
/// is the Engine's to refuse, in its own words.
pub(super) fn keep(
    host: &mut Map<String, Value>,
    made: &Map<String, Value>,
    nameserver: Option<&Nameserver>,
) -> bool {
    let before = field(made, "NetworkMode").cloned().unwrap_or_default();
    let stays = match field(host, "NetworkMode") {
        None | Some(Value::Null) => true,
        Some(Value::String(mode)) => NO_NETWORK.contains(&mode.as_str()) || *mode == before,
        Some(_) => false,
    };
    if !stays {
        return true;
    }
    if field(host, "Links").is_some_and(|links| !is_empty(links)) {
        return false;
    }
    *value(host, "NetworkMode") = before;
    let nameserver = nameserver.map(|nameserver| json!(nameserver.address));
    for name in NAMES {
        let Some(Value::Array(given)) = field(made, name) else {
            continue;
        };
        match value(host, name) {
            own if is_empty(own) => *own = json!(given),
            Value::Array(own) => own.extend(
                nameserver
                    .clone()
                    .filter(|address| given.contains(address) && !own.contains(address)),
            ),
            _ => {}
        }
    }
    true
}

fn is_empty(list: &Value) -> bool {
    list.is_null() || list.as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(body: &Value) -> (Value, bool) {
        let made = json!({
            "Binds": null, "Dns": ["192.0.2.9", "172.17.0.1"], "DnsSearch": ["weave.local"],
            "Links": null, "NetworkMode": "weave",
        });
        let made = made.as_object().unwrap();
        let nameserver = Nameserver {
            address: [172, 17, 0, 1].into(),
            domain: "weave.local".parse().unwrap(),
        };
        let mut body = body.as_object().unwrap().clone();
        let done =
            replacement(&mut body, made).is_none_or(|host| keep(host, made, Some(&nameserver)));
        (Value::Object(body), done)
    }

    #[test]
    fn what_create_gave_is_put_back_where_nothing_is_said_of_it() {
        let kept = json!({
            "Dns": ["192.0.2.9", "172.17.0.1"], "DnsSearch": ["weave.local"], "NetworkMode": "weave",
        });
        for nothing in [
            json!({}),
            json!({"NetworkMode": ""}),
            json!({"NetworkMode": "default", "DnsSearch": []}),
            json!({"NetworkMode": "bridge", "Dns": null}),
            json!({"NetworkMode": "weave"}),
        ] {
            let (body, done) = started(&json!({"HostConfig": nothing}));
            assert_eq!((&body["HostConfig"], done), (&kept, true), "{nothing}");
        }
        // As the oldest clients have it: not within anything.
        for name in ["Binds", "Mounts"] {
            let (body, _) = started(&json!({"HostConfig": null, name: []}));
            assert_eq!(body["NetworkMode"], "weave", "{name}");
        }
        let (body, _) = started(&json!({"networkmode": "bridge", "dns": ["192.0.2.1"]}));
        let expected = json!({
            "networkmode": "weave", "dns": ["192.0.2.1", "172.17.0.1"], "DnsSearch": ["weave.local"],
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn what_names_a_network_or_changes_nothing_stays_as_it_is() {
        for body in [
            json!({}),
            json!({"HostConfig": null}),
            json!({"HostConfig": "nonsense"}),
            json!({"HostConfig": {"NetworkMode": 7}}),
            json!({"Nested": {"HostConfig": {"NetworkMode": "bridge"}}}),
            json!({"HostConfig": {"NetworkMode": "host"}}),
            json!({"NetworkMode": "container:c1", "Links": ["a:b"]}),
        ] {
            assert_eq!(started(&body), (body.clone(), true));
        }
    }

    #[test]
    fn links_are_not_lost_in_silence() {
        assert!(!started(&json!({"Links": ["db:db"], "Binds": []})).1);
        assert!(started(&json!({"Links": []})).1);
    }
}
