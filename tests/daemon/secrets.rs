//! What can be read tells no password and no key.

use std::fs;

use crate::process::{Daemon, get};

const PASSWORD: &str = "correct horse battery staple";

#[test]
fn nothing_that_can_be_read_tells_the_password_or_the_key() {
    let Some(daemon) = Daemon::start(&[], &[("WEAVE_PASSWORD", PASSWORD)]) else {
        return;
    };
    let identity = fs::read_to_string(daemon.path("var/lib/weave/identity.json")).unwrap();
    let identity: serde_json::Value = serde_json::from_str(&identity).unwrap();
    let key = identity["secret_key"].as_str().expect("a key");
    let mut shown: Vec<_> = ["", "healthz", "metrics", "report", "status"]
        .map(|path| get(&format!("/{path}")))
        .into();
    for section in [
        "connections",
        "peers",
        "targets",
        "networks",
        "endpoints",
        "services",
        "ipam",
        "dns",
        "proxy",
        "tunnel",
        "plugin",
        "settings",
    ] {
        shown.push(get(&format!("/status/{section}")));
    }
    for words in [
        &["report"][..],
        &["report", "--json"],
        &["status", "--json"],
    ] {
        let output = daemon.command(words);
        assert!(output.status.success(), "{output:?}");
        shown.push(String::from_utf8(output.stdout).unwrap());
    }
    for text in shown {
        assert!(
            text.contains("200 OK") || !text.starts_with("HTTP"),
            "{text}"
        );
        for secret in [PASSWORD, key] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}
