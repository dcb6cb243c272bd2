//! Where things are on this host.

use std::path::{Component, Path, PathBuf};

use super::DockerSocket;

/// The variable that says where the plugin's manifest mounts the host's directories.
pub const HOST_ROOT_VARIABLE: &str = "WEAVE_HOST_ROOT";

/// Where the plugin's manifest mounts them when the variable is missing.
const DEFAULT_HOST_ROOT: &str = "/host";

/// Where the host's directories are, as this process sees them.
///
/// Inside the managed plugin the host's `/run` and `/var/lib` are mounted below a root of their
/// own; everywhere else they are where they always are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    host_root: Option<PathBuf>,
    /// By its path on the host, where that is not the usual one.
    docker_socket: Option<PathBuf>,
}

impl Paths {
    /// Finds out whether the host's directories are mounted below a root of their own: where
    /// `host_root` says, else where the manifest puts them.
    pub fn detect(host_root: Option<&str>) -> Self {
        match host_root.filter(|root| !root.is_empty()) {
            Some("/") => Self::of_host(),
            Some(root) => Self::below(root),
            None if Path::new(DEFAULT_HOST_ROOT).join("var/lib").is_dir() => {
                Self::below(DEFAULT_HOST_ROOT)
            }
            None => Self::of_host(),
        }
    }

    /// The host's own paths: for a process that runs on the host.
    pub const fn of_host() -> Self {
        Self {
            host_root: None,
            docker_socket: None,
        }
    }

    /// Paths below a directory where the host's `run` and `var/lib` are mounted.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self {
            host_root: Some(root.into()),
            docker_socket: None,
        }
    }

    /// The same, with the Engine's API where the settings have it.
    #[must_use]
    pub fn with_docker_socket(mut self, socket: Option<&DockerSocket>) -> Self {
        let elsewhere = socket.filter(|socket| **socket != DockerSocket::default());
        self.docker_socket = elsewhere.map(|socket| socket.path().to_owned());
        self
    }

    /// Whether the Engine's API is where it always is.
    pub const fn has_usual_docker_socket(&self) -> bool {
        self.docker_socket.is_none()
    }

    /// Whether this process is on the host itself, and not in a container that sees parts of it.
    pub const fn is_of_host(&self) -> bool {
        self.host_root.is_none()
    }

    /// The host's `/run`.
    pub fn run(&self) -> PathBuf {
        self.on_host("run")
    }

    /// The durable state: `/var/lib/weave` of the host.
    pub fn state(&self) -> PathBuf {
        self.on_host("var/lib/weave")
    }

    /// The socket that the `weave` command talks to: `/run/weave/control.sock` of the host.
    pub fn control_socket(&self) -> PathBuf {
        self.on_host("run/weave/control.sock")
    }

    /// Where named network namespaces are kept alive: `/run/netns` of the host.
    pub fn netns(&self) -> PathBuf {
        self.on_host("run/netns")
    }

    /// The Engine's API: `/run/docker.sock` of the host, unless the settings have it elsewhere.
    pub fn docker_socket(&self) -> PathBuf {
        let Some(named) = &self.docker_socket else {
            return self.on_host("run/docker.sock");
        };
        let seen = self.of_operator_anywhere(named);
        seen.unwrap_or_else(|| self.seen(named))
    }

    /// Where the Engine finds legacy plugins: `/run/docker/plugins` of the host.
    pub fn legacy_plugins(&self) -> PathBuf {
        self.on_host("run/docker/plugins")
    }

    /// The socket of the managed plugin, in this process's own file system, where the Engine
    /// mounts a directory for it (docs.docker.com/engine/extend/config, `interface.socket`).
    pub fn managed_socket(&self) -> PathBuf {
        PathBuf::from("/run/docker/plugins/weave.sock")
    }

    /// Where a file is that the operator named by its path on the host; `None` when this process
    /// cannot see it, because only `/run` and `/var/lib` are mounted.
    pub fn of_operator(&self, path: &Path) -> Option<PathBuf> {
        let Some(root) = &self.host_root else {
            return Some(path.to_owned());
        };
        if path.starts_with(root) {
            return Some(path.to_owned());
        }
        // `/var/run` is a link to `/run` wherever Docker runs today.
        if let Ok(rest) = path.strip_prefix("/var/run") {
            return Some(root.join("run").join(rest));
        }
        let mounted = ["/run", "/var/lib"].iter().any(|dir| path.starts_with(dir));
        let inside = path.strip_prefix("/").ok().filter(|_| mounted)?;
        Some(root.join(inside))
    }

    /// Where a file of this process is for whoever is on the host.
    pub fn on_the_host(&self, path: &Path) -> PathBuf {
        let root = self.host_root.as_deref();
        let below = root.and_then(|root| path.strip_prefix(root).ok());
        below.map_or_else(|| path.to_owned(), |below| Path::new("/").join(below))
    }

    /// Where a file is that the operator named by its path on the host, wherever this process sees
    /// the host's directories: also those that `weave launch` mounts for it. Links lead where they
    /// do on the host. `None` when its directory is not to be seen.
    pub fn of_operator_anywhere(&self, path: &Path) -> Option<PathBuf> {
        let chain = self.links(path);
        let last = chain.last()?;
        let seen = self.seen(last);
        seen.parent()?.is_dir().then_some(seen)
    }

    /// The paths on the host that lead to a file: itself, and where links lead from there.
    pub fn links(&self, path: &Path) -> Vec<PathBuf> {
        // As many as Linux follows.
        const MOST: usize = 40;
        let mut chain = vec![path.to_owned()];
        while chain.len() < MOST
            && let Some(last) = chain.last()
            && let Ok(target) = self.seen(last).read_link()
            && let Some(parent) = last.parent()
        {
            let next = plain(&parent.join(target));
            chain.push(next);
        }
        chain
    }

    fn seen(&self, path: &Path) -> PathBuf {
        self.of_operator(path)
            .unwrap_or_else(|| match &self.host_root {
                Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
                None => path.to_owned(),
            })
    }

    fn on_host(&self, path: &str) -> PathBuf {
        match &self.host_root {
            Some(root) => root.join(path),
            None => Path::new("/").join(path),
        }
    }
}

/// A path without steps back.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            part => plain.push(part),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_process_on_the_host_sees_the_hosts_paths() {
        let paths = Paths::detect(Some("/"));
        assert_eq!(paths.state(), Path::new("/var/lib/weave"));
        assert_eq!(paths.control_socket(), Path::new("/run/weave/control.sock"));
        let secret = Path::new("/etc/weave/password");
        assert_eq!(paths.of_operator(secret).as_deref(), Some(secret));
    }

    #[test]
    fn the_managed_plugin_sees_them_below_its_mounts() {
        let paths = Paths::detect(Some("/host"));
        assert_eq!(paths.state(), Path::new("/host/var/lib/weave"));
        assert_eq!(paths.netns(), Path::new("/host/run/netns"));
        assert_eq!(
            paths.managed_socket(),
            Path::new("/run/docker/plugins/weave.sock")
        );
        let of = |path: &str| paths.of_operator(Path::new(path));
        assert_eq!(
            of("/var/lib/weave/pw"),
            Some("/host/var/lib/weave/pw".into())
        );
        assert_eq!(of("/var/run/pw"), Some("/host/run/pw".into()));
        assert_eq!(of("/host/run/pw"), Some("/host/run/pw".into()));
        assert_eq!(of("/etc/pw"), None);
        for path in [
            "/host/run/docker/plugins/weave.sock",
            "/run/docker/plugins/weave.sock",
        ] {
            let seen = paths.on_the_host(Path::new(path));
            assert_eq!(seen, Path::new("/run/docker/plugins/weave.sock"));
        }
        assert_eq!(of("pw"), None);
    }

    #[test]
    fn dockers_socket_is_where_the_settings_have_it() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        fs::create_dir_all(at("srv/docker")).unwrap();
        fs::create_dir_all(at("run")).unwrap();
        let of = |named: &str| {
            let socket = named.parse().unwrap();
            Paths::below(root.path()).with_docker_socket(Some(&socket))
        };
        assert_eq!(of("/var/run/docker.sock"), Paths::below(root.path()));
        assert_eq!(
            of("/run/docker.sock").docker_socket(),
            at("run/docker.sock")
        );
        symlink("/srv/docker/d.sock", at("run/link")).unwrap();
        for named in ["/srv/docker/d.sock", "/run/link"] {
            assert_eq!(of(named).docker_socket(), at("srv/docker/d.sock"));
        }
    }

    #[test]
    fn links_lead_where_they_do_on_the_host() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        for dir in ["etc/live", "etc/archive", "srv"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        symlink("../archive/cert1.pem", at("etc/live/cert.pem")).unwrap();
        symlink("/srv/cert", at("etc/archive/cert1.pem")).unwrap();
        let paths = Paths::below(root.path());
        let file = Path::new("/etc/live/cert.pem");
        let expected = ["/etc/live/cert.pem", "/etc/archive/cert1.pem", "/srv/cert"];
        assert_eq!(paths.links(file), expected.map(PathBuf::from));
        assert_eq!(paths.of_operator_anywhere(file), Some(at("srv/cert")));
        fs::remove_dir(at("srv")).unwrap();
        assert_eq!(paths.of_operator_anywhere(file), None);
        symlink("loop", at("etc/loop")).unwrap();
        assert!(paths.of_operator_anywhere(Path::new("/etc/loop")).is_some());
    }
}
