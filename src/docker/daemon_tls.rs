//! How the Docker daemon of this host speaks TLS: what its command line and its configuration file
//! say, read as it reads them (moby, `cmd/dockerd/daemon.go`).

use std::fs;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::socket::{getsockopt, sockopt};
use serde::Deserialize;

use crate::config::{Paths, TlsFiles};

/// Its configuration file, where its command line names no other.
const CONFIG_FILE: &str = "/etc/docker/daemon.json";

/// Where it looks for the files that it is not told of; it runs as root, in `/`.
const DEFAULT_DIR: &str = "/root/.docker";
const WORKING_DIR: &str = "/";

/// How the Docker daemon speaks TLS; `None` when it does not. The error says why that is not known.
///
/// Only a process of the host can find out: containers see neither its command line nor `/etc`.
pub fn detect(paths: &Paths) -> Result<Option<TlsFiles>, String> {
    let words = command_line(paths).map_err(|error| {
        format!(
            "how Docker speaks TLS is not known: {error}; --tlsverify, --tls or --no-detect-tls says \
             how the proxy is to"
        )
    })?;
    let mut said = Said::of_words(&words);
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
    Ok(said.files())
}

/// The words with which it was started. What listens may be another: systemd does before it runs.
fn command_line(paths: &Paths) -> io::Result<Vec<String>> {
    let words_of = |pid: &str| -> Option<Vec<String>> {
        let line = fs::read(Path::new("/proc").join(pid).join("cmdline")).ok()?;
        let words = line.split(|byte| *byte == 0);
        let words = words.map(|word| String::from_utf8_lossy(word).into_owned());
        let words: Vec<_> = words.collect();
        let program = Path::new(words.first()?).file_name()?.to_str()?;
        program.starts_with("dockerd").then_some(words)
    };
    let pid = fs::read_to_string(paths.run().join("docker.pid")).unwrap_or_default();
    if let Some(words) = words_of(pid.trim()) {
        return Ok(words);
    }
    let socket = UnixStream::connect(paths.docker_socket());
    let socket = socket.map_err(|error| io::Error::other(format!("it does not run: {error}")))?;
    let listener = getsockopt(&socket, sockopt::PeerCredentials)?;
    let pid = listener.pid();
    words_of(&pid.to_string()).ok_or_else(|| {
        io::Error::other(format!(
            "expected dockerd behind its socket, found process {pid}"
        ))
    })
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

    fn files(self) -> Option<TlsFiles> {
        // Whoever says anything of verifying wants TLS, even `--tlsverify=false`.
        if self.tls != Some(true) && self.tlsverify.is_none() {
            return None;
        }
        let file = |named: Option<PathBuf>, name: &str| {
            let named = named.filter(|path| !path.as_os_str().is_empty());
            let path = named.unwrap_or_else(|| Path::new(DEFAULT_DIR).join(name));
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

    fn files(line: &str, config: &str) -> Option<TlsFiles> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let said = Said::of_words(&words);
        said.or(serde_json::from_str(config).unwrap()).files()
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
