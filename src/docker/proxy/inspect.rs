//! What `inspect` tells of a container, with the address where old programs look for it.

use serde_json::Value;

use crate::ipam::pools::DEFAULT_NETWORK;

/// Tells of the address on the network `weave` as of one on Docker's own bridge, where the
/// container has none there. `None` where nothing is to be changed.
pub(super) fn with_address(payload: &[u8]) -> Option<Vec<u8>> {
    const FIELDS: [&str; 3] = ["IPAddress", "IPPrefixLen", "MacAddress"];
    let mut detail: Value = serde_json::from_slice(payload).ok()?;
    let settings = detail.get_mut("NetworkSettings")?.as_object_mut()?;
    let ours = settings.get("Networks")?.get(DEFAULT_NETWORK)?.clone();
    let is_set =
        |value: Option<&Value>| value.and_then(Value::as_str).is_some_and(|s| !s.is_empty());
    if is_set(settings.get("IPAddress")) || !is_set(ours.get("IPAddress")) {
        return None;
    }
    for field in FIELDS {
        settings.insert(field.to_owned(), ours[field].clone());
    }
    Some(detail.to_string().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_told_where_docker_tells_its_own() {
        let detail = r#"{"Id":"c1","NetworkSettings":{"IPAddress":"","MacAddress":"","Networks":
            {"weave":{"IPAddress":"10.32.0.1","IPPrefixLen":12,"MacAddress":"02:00"}}}}"#;
        let told: Value =
            serde_json::from_slice(&with_address(detail.as_bytes()).unwrap()).unwrap();
        assert_eq!(told["NetworkSettings"]["IPAddress"], "10.32.0.1");
        assert_eq!(told["NetworkSettings"]["IPPrefixLen"], 12);
        assert_eq!(told["Id"], "c1");
        let bridged = detail.replace(r#""IPAddress":"","#, r#""IPAddress":"172.17.0.2","#);
        for unchanged in [
            bridged.as_str(),
            r#"{"message":"no such container"}"#,
            r#"{"NetworkSettings":{"Networks":{"weave":{"IPAddress":""}}}}"#,
            "no JSON",
        ] {
            assert_eq!(with_address(unchanged.as_bytes()), None, "{unchanged}");
        }
    }
}
