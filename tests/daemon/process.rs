//! A daemon with a directory for a host, in the network namespace of the test's thread.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sched::{CloneFlags, unshare};

/// Where it serves the status.
pub(crate) const STATUS: &str = "127.0.0.1:6782";

/// How long it may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The daemon; it ends with the test.
pub(crate) struct Daemon {
    process: Child,
    root: tempfile::TempDir,
}

impl Daemon {
    /// Starts one that answers, with these words and variables; `None` without the rights for it.
    pub(crate) fn start(words: &[&str], variables: &[(&str, &str)]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            return None;
        }
        // Ports and rules of its own; every thread that is started from here on is in there.
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let mut up = Command::new("ip");
        up.args(["link", "set", "lo", "up"]);
        assert!(up.status().unwrap().success());
        let root = tempfile::tempdir().unwrap();
        for directory in ["run/docker/plugins", "var/lib"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let process = weave(root.path())
            .args(["daemon", "--log-level", "error", "--nickname", "middle"])
            .args(words)
            .envs(variables.iter().copied())
            .spawn()
            .unwrap();
        let daemon = Self { process, root };
        let begin = Instant::now();
        while !daemon.command(&["status"]).status.success() {
            assert!(begin.elapsed() < PATIENCE, "the daemon does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(daemon)
    }

    /// Runs the command against it.
    pub(crate) fn command(&self, words: &[&str]) -> Output {
        weave(self.root.path()).args(words).output().unwrap()
    }

    /// A path on its host.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = umount2(&self.path("run/netns/weave"), MntFlags::MNT_DETACH);
    }
}

fn weave(root: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weave"));
    command.env_clear().env("WEAVE_HOST_ROOT", root);
    command
}

/// The answer to a request at the status address.
pub(crate) fn get(path: &str) -> String {
    let stream = TcpStream::connect(STATUS).unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    exchange(stream, &head)
}

/// The answer to a request at a unix socket.
pub(crate) fn post(socket: &Path, path: &str, body: &str) -> String {
    let stream = UnixStream::connect(socket).unwrap();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    exchange(stream, &request)
}

fn exchange(mut stream: impl Read + Write, request: &str) -> String {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}
