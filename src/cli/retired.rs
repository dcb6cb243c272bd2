//! Commands of Weave Net that are no more, and what is done instead.

use std::ffi::{OsStr, OsString};

/// What to say to a command line that begins with one of them.
pub(super) fn instead(words: &[OsString]) -> Option<String> {
    let word = words.get(1).and_then(|word| word.to_str())?;
    let instead = match word {
        "run" => "run the container on the network `weave`: docker run --net=weave ...",
        "start" | "restart" => {
            "Docker attaches containers again by itself: docker start ..., docker restart ..."
        }
        "setup-cni" | "attach-bridge" | "bridge-type" => {
            "it belongs to Kubernetes or to Open vSwitch, which this version has nothing for"
        }
        "docker-bridge-ip" => "docker network inspect bridge",
        "--local" => {
            let rest = words[2..].join(OsStr::new(" "));
            let rest = rest.to_string_lossy();
            return Some(format!(
                "every command runs on this host itself: leave `--local` out, as in: weave {rest}"
            ));
        }
        _ => return None,
    };
    Some(format!("there is no `weave {word}` any more; {instead}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_types_what_is_no_more_is_told_what_to_do() {
        let told = |line: &str| {
            let words: Vec<_> = line.split(' ').map(OsString::from).collect();
            instead(&words)
        };
        assert!(
            told("weave run 10.2.1.1/24 -ti ubuntu")
                .unwrap()
                .contains("--net=weave")
        );
        assert!(
            told("weave --local status dns")
                .unwrap()
                .ends_with("weave status dns")
        );
        assert_eq!(told("weave status"), None);
        assert_eq!(told("weave"), None);
    }
}
