//! Where things are on this host.

use std::path::{Path, PathBuf};

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
        Self { host_root: None }
    }

    /// Paths below a directory where the host's `run` and `var/lib` are mounted.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self {
            host_root: Some(root.into()),
        }
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

    /// The Engine's API: `/run/docker.sock` of the host.
    pub fn docker_socket(&self) -> PathBuf {
        self.on_host("run/docker.sock")
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

    fn on_host(&self, path: &str) -> PathBuf {
        match &self.host_root {
            Some(root) => root.join(path),
            None => Path::new("/").join(path),
        }
    }
}

#[cfg(test)]
mod tests {
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
}
