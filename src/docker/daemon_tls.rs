//! How the Docker daemon of this host speaks TLS: what its command line, its environment and its
//! configuration file say, read as it reads them (moby, `cmd/dockerd/daemon.go` and `options.go`).

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};
use serde::Deserialize;

use crate::config::{Paths, TlsFiles};

/// Its configuration file, where its command line names no other.
const CONFIG_FILE: &str = "/etc/docker/daemon.json";

/// Where it is at home without a word of that, and where it runs.
const HOME: &str = "/root";
const WORKING_DIR: &str = "/";

/// Where it looks for the files that it is not told of: in the first of these that is said, else
/// below its home.
const DEFAULT_DIRS: [&str; 2] = ["DOCKER_CERT_PATH", "DOCKER_CONFIG"];
const DIR_OF_HOME: &str = ".docker";

/// What makes it take `--tls`, true or false, for `--tlsverify`; alone it turns nothing on.
const VERIFY: &str = "DOCKER_TLS_VERIFY";

/// How the Docker daemon speaks TLS; `None` when it does not. The error says why that is not known.
///
/// Only a process of the host can find out: containers see neither its command line nor `/etc`.
pub fn detect(paths: &Paths) -> Result<Option<TlsFiles>, String> {
    let daemon = Daemon::find(paths).map_err(|error| {
        format!(
            "how Docker speaks TLS is not known: {error}; --tlsverify, --tls or --no-detect-tls says \
             how the proxy is to"
        )
    })?;
    let mut said = daemon.said();
    let named = said.config_file.clone();
    let file = named.as_deref().unwrap_or_else(|| Path::new(CONFIG_FILE));
    let cannot = |error: &dyn std::fmt::Display| {
        format!(
            "Docker's configuration {} is not understood: {error}",
            file.display()
        )
    };
    match fs::read(file) {
        // A file with nothing in it is none.
        Ok(text) if text.trim_ascii().is_empty() => {}
        Ok(text) => {
            let text = serde_json::from_slice(&text).map_err(|error| cannot(&error))?;
            // It refuses to start with both.
            said = said.or(text);
        }
        Err(error) if named.is_none() && error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot(&error)),
    }
    Ok(said.files(&daemon.default_dir()))
}

/// The Docker daemon's process, as it was started.
#[derive(Debug, Default)]
struct Daemon {
    words: Vec<String>,
    /// `NAME=VALUE`, each.
    environment: Vec<String>,
}

impl Daemon {
    /// What listens may be another process: systemd does before Docker runs. The file with the
    /// process's number is that of the daemon behind the usual socket.
    fn find(paths: &Paths) -> io::Result<Self> {
        let usual = paths.has_usual_docker_socket();
        let file = usual.then(|| fs::read_to_string(paths.run().join("docker.pid")).ok());
        if let Some(pid) = file.flatten()
            && let Some(daemon) = Self::of_process(pid.trim())?
        {
            return Ok(daemon);
        }
        let socket = UnixStream::connect(paths.docker_socket());
        let socket =
            socket.map_err(|error| io::Error::other(format!("it does not run: {error}")))?;
        let pid = getsockopt(&socket, sockopt::PeerCredentials)?.pid();
        Self::of_process(&pid.to_string())?.ok_or_else(|| {
            io::Error::other(format!(
                "expected dockerd behind its socket, found process {pid}"
            ))
        })
    }

    /// `None` when that is no Docker daemon.
    fn of_process(pid: &str) -> io::Result<Option<Self>> {
        let process = Path::new("/proc").join(pid);
        let strings = |file| -> io::Result<Vec<String>> {
            let bytes = fs::read(process.join(file))?;
            let strings = bytes.split(|byte| *byte == 0);
            let strings = strings.map(|text| String::from_utf8_lossy(text).into_owned());
            Ok(strings.collect())
        };
        let Ok(words) = strings("cmdline") else {
            return Ok(None);
        };
        let program = words.first().and_then(|word| Path::new(word).file_name());
        let program = program.unwrap_or_default().to_string_lossy();
        if !program.starts_with("dockerd") {
            return Ok(None);
        }
        let environment = strings("environ").map_err(|error| {
            io::Error::other(format!(
                "cannot read the environment of process {pid}: {error}"
            ))
        })?;
        Ok(Some(Self { words, environment }))
    }

    /// What its command line says, and its environment of that.
    fn said(&self) -> Said {
        let mut said = Said::of_words(&self.words);
        if self.variable(VERIFY).is_some() && said.tls.is_some() {
            said.tls = Some(true);
        }
        said
    }

    fn default_dir(&self) -> PathBuf {
        let named = DEFAULT_DIRS.iter().find_map(|name| self.variable(name));
        named.map_or_else(
            || Path::new(self.variable("HOME").unwrap_or(HOME)).join(DIR_OF_HOME),
            PathBuf::from,
        )
    }

    /// The value of a variable, where it has one.
    fn variable(&self, name: &str) -> Option<&str> {
        let mut variables = self.environment.iter();
        let value = variables.find_map(|text| text.strip_prefix(name)?.strip_prefix('='))?;
        (!value.is_empty()).then_some(value)
    }
}

/// What one place says of TLS.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    tls: Option<bool>,
    tlsverify: Option<bool>,
    tlscacert: Option<PathBuf>,
    tlscert: Option<PathBuf>,
    tlskey: Option<PathBuf>,
    #[serde(skip)]
    config_file: Option<PathBuf>,
}

impl Said {
    fn of_words(words: &[String]) -> Self {
        let is_true = |text| matches!(text, "1" | "t" | "T" | "true" | "TRUE" | "True");
        let switch = |name| mention(words, name).map(|(joined, _)| joined.is_none_or(is_true));
        let file = |name| {
            let (joined, next) = mention(words, name)?;
            joined.or(next).map(PathBuf::from)
        };
        Self {
            tls: switch("tls"),
            tlsverify: switch("tlsverify"),
            tlscacert: file("tlscacert"),
            tlscert: file("tlscert"),
            tlskey: file("tlskey"),
            config_file: file("config-file"),
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            tls: self.tls.or(other.tls),
            tlsverify: self.tlsverify.or(other.tlsverify),
            tlscacert: self.tlscacert.or(other.tlscacert),
            tlscert: self.tlscert.or(other.tlscert),
            tlskey: self.tlskey.or(other.tlskey),
            config_file: self.config_file,
        }
    }

    /// The files; those that are not named are in a directory of their own.
    fn files(self, default_dir: &Path) -> Option<TlsFiles> {
        // Whoever says anything of verifying wants TLS, even `--tlsverify=false`.
        if self.tls != Some(true) && self.tlsverify.is_none() {
            return None;
        }
        let file = |named: Option<PathBuf>, name: &str| {
            let named = named.filter(|path| !path.as_os_str().is_empty());
            let path = named.unwrap_or_else(|| default_dir.join(name));
            Path::new(WORKING_DIR).join(path)
        };
        // It verifies clients unless it is told not to.
        let verifies = self.tlsverify.or(self.tls) == Some(true);
        Some(TlsFiles {
            authority: verifies.then(|| file(self.tlscacert, "ca.pem")),
            certificate: file(self.tlscert, "cert.pem"),
            key: file(self.tlskey, "key.pem"),
        })
    }
}

/// The last mention of a flag: what is joined to it by `=`, and the word after it.
fn mention<'a>(words: &'a [String], name: &str) -> Option<(Option<&'a str>, Option<&'a str>)> {
    let flag = format!("--{name}");
    words.iter().enumerate().rev().find_map(|(at, word)| {
        let rest = word.strip_prefix(&flag)?;
        match rest.strip_prefix('=') {
            Some(value) => Some((Some(value), None)),
            None if rest.is_empty() => Some((None, words.get(at + 1).map(String::as_str))),
            None => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn daemon(line: &str, variables: &str) -> Daemon {
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
        Daemon {
            words: words(line),
            environment: words(variables),
        }
    }

    fn files(line: &str, config: &str) -> Option<TlsFiles> {
        let daemon = daemon(line, "");
        let said = daemon.said().or(serde_json::from_str(config).unwrap());
        said.files(&daemon.default_dir())
    }

    fn show(files: Option<TlsFiles>) -> String {
        let files = files.map(|files| {
            let paths = files.named().map(|(_, path)| path.display().to_string());
            paths.collect::<Vec<_>>().join(" ")
        });
        files.unwrap_or_default()
    }

    #[test]
    fn it_is_read_as_docker_reads_it() {
        let verified =
            "dockerd -H fd:// --tlsverify --tlscacert=/t/ca --tlscert /t/c --tlskey=/t/k";
        assert_eq!(show(files(verified, "{}")), "/t/ca /t/c /t/k");
        let config = r#"{"debug": true, "tlsverify": true, "tlscacert": "/e/ca", "tlskey": "k"}"#;
        let shown = show(files("dockerd --tlscert=/t/c", config));
        assert_eq!(shown, "/e/ca /t/c /k");
        let defaults = "/root/.docker/cert.pem /root/.docker/key.pem";
        let shown = show(files("dockerd --tls --tlscacert=/t/ca", "{}"));
        assert_eq!(shown, format!("/t/ca {defaults}"));
        let unverified = files("dockerd --tls --tlsverify=false", "{}");
        assert_eq!(show(unverified), defaults);
        assert_eq!(show(files("dockerd --tlsverify=false", "{}")), defaults);
        for none in ["dockerd", "dockerd --tls=false", "dockerd --tlscert=/t/c"] {
            assert_eq!(files(none, "{}"), None, "{none}");
        }
    }

    #[test]
    fn its_environment_counts_as_it_does_for_docker() {
        let files = |line: &str, variables: &str| {
            let daemon = daemon(line, variables);
            show(daemon.said().files(&daemon.default_dir()))
        };
        let verified = |dir: &str| format!("{dir}/ca.pem {dir}/cert.pem {dir}/key.pem");
        for (variables, dir) in [
            ("DOCKER_CERT_PATH=/c DOCKER_CONFIG=/d HOME=/h", "/c"),
            ("HOME=/h DOCKER_CONFIG=/d DOCKER_CERT_PATH=", "/d"),
            ("HOME=/h", "/h/.docker"),
            ("DOCKER_CERT_PATHS=/c", "/root/.docker"),
            ("DOCKER_CERT_PATH=c", "/c"),
        ] {
            assert_eq!(
                files("dockerd --tls", variables),
                verified(dir),
                "{variables}"
            );
        }
        let verify = "DOCKER_TLS_VERIFY=0 DOCKER_CERT_PATH=/c";
        assert_eq!(files("dockerd", verify), "");
        for line in ["dockerd --tls", "dockerd --tls=false"] {
            assert_eq!(files(line, verify), verified("/c"), "{line}");
        }
        let unverified = "dockerd --tls --tlsverify=false";
        assert_eq!(files(unverified, verify), "/c/cert.pem /c/key.pem");
        let off = "DOCKER_TLS_VERIFY= DOCKER_CERT_PATH=/c";
        assert_eq!(files("dockerd --tls=false", off), "");
    }

    #[test]
    fn a_process_tells_how_it_was_started() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("dockerd-test");
        fs::copy("/bin/sleep", &program).unwrap();
        let mut child = std::process::Command::new(&program)
            .arg("60")
            .env_clear()
            .env("DOCKER_CERT_PATH", "/c")
            .spawn()
            .unwrap();
        // Its words come a moment after it has begun.
        let mut tries = (0..500).map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            Daemon::of_process(&child.id().to_string()).unwrap()
        });
        let found = tries.find_map(|found| found);
        child.kill().unwrap();
        child.wait().unwrap();
        let found = found.unwrap();
        assert_eq!(found.words[1], "60");
        assert_eq!(found.default_dir(), Path::new("/c"));
        assert!(Daemon::of_process("self").unwrap().is_none());
    }

    #[test]
    fn where_docker_does_not_run_nothing_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let error = detect(&Paths::below(dir.path())).unwrap_err();
        assert!(error.contains("does not run"), "{error}");
        // What listens is this test, which is no Docker daemon and has no file either.
        fs::create_dir(dir.path().join("run")).unwrap();
        let socket = dir.path().join("run/docker.sock");
        let _listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
        let error = detect(&Paths::below(dir.path())).unwrap_err();
        assert!(error.contains("expected dockerd"), "{error}");
    }
}
