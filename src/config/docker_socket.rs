//! Where the Docker Engine's API is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::sources::Problems;
use super::{Paths, Settings, catalogue};
use crate::types::ParseError;

/// Where it is unless said otherwise.
const USUAL: &str = "/run/docker.sock";

/// Its socket, by the path on the host, written as in `DOCKER_HOST` or as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerSocket(PathBuf);

impl DockerSocket {
    /// The path on the host.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Default for DockerSocket {
    fn default() -> Self {
        Self(USUAL.into())
    }
}

impl fmt::Display for DockerSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

impl FromStr for DockerSocket {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(ParseError::new("a socket, as unix:///PATH or /PATH", text));
        }
        // `/var/run` is a link to `/run` wherever Docker runs today.
        let path = Path::new(path);
        let below_run = path.strip_prefix("/var/run");
        Ok(Self(below_run.map_or_else(
            |_| path.to_owned(),
            |rest| Path::new("/run").join(rest),
        )))
    }
}

impl Settings {
    /// Keeps to the usual socket where this process would not see another one.
    pub(super) fn check_docker_socket(&mut self, paths: &Paths, problems: &mut Problems) {
        let Some(socket) = &self.docker_socket else {
            return;
        };
        // On the host, Docker may yet make the directory.
        if paths.is_of_host() || paths.of_operator_anywhere(socket.path()).is_some() {
            return;
        }
        let name = catalogue::by_key(catalogue::DOCKER_SOCKET)
            .map_or_else(String::new, catalogue::Setting::name);
        let value = socket.to_string();
        let reason = "expected a socket that is to be seen from here: the managed plugin sees those \
                      below /run and /var/lib, a launched daemon also those that were there when it \
                      was launched";
        problems.reject(Some(catalogue::DOCKER_SOCKET), &name, Some(&value), reason);
        self.docker_socket = None;
        self.sources.remove(catalogue::DOCKER_SOCKET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_written_as_for_docker() {
        let shown = |text: &str| {
            text.parse::<DockerSocket>()
                .map(|socket| socket.to_string())
        };
        for text in ["unix:///var/run/docker.sock", "/run/docker.sock"] {
            assert_eq!(text.parse(), Ok(DockerSocket::default()), "{text}");
        }
        assert_eq!(shown("/srv/d.sock").unwrap(), "unix:///srv/d.sock");
        for text in ["", "d.sock", "unix://d.sock", "/run/", "tcp://h:1"] {
            assert!(shown(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_socket_that_is_not_to_be_seen_is_not_used() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        std::fs::create_dir_all(root.path().join("var/lib/d")).unwrap();
        for (socket, is_seen) in [
            ("/var/lib/d/docker.sock", true),
            ("/srv/docker.sock", false),
        ] {
            let words = [format!("--docker-socket={socket}")];
            let named: DockerSocket = socket.parse().unwrap();
            let (settings, rejected) = Settings::load([], &words, &paths);
            assert_eq!(settings.docker_socket, is_seen.then(|| named.clone()));
            assert_eq!(rejected.is_empty(), is_seen, "{rejected:?}");
            let (settings, rejected) = Settings::load([], &words, &Paths::of_host());
            assert_eq!((settings.docker_socket, rejected), (Some(named), vec![]));
        }
    }
}
