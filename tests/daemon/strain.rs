//! Docker is answered however many ask for the status, or keep connections and say nothing.

use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::{Daemon, STATUS, get, post};

/// What a call of Docker's may take here; Docker itself waits for many times as long.
const SOON: Duration = Duration::from_secs(2);

/// More than are served at a time.
const SILENT: usize = 100;

#[test]
fn docker_is_answered_whoever_asks_for_the_status() {
    let sockets = [("WEAVE_LEGACY_SOCKETS", "weavemesh")];
    let Some(daemon) = Daemon::start(&[], &sockets) else {
        return;
    };
    let control = daemon.path("run/weave/control.sock");
    let docker = daemon.path("run/docker/plugins/weavemesh.sock");
    let ended = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    assert!(get("/report").starts_with("HTTP/1.1 200"));
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // Also when a call fails.
        let _end = End(&ended);
        while answered.load(Ordering::Relaxed) < 4 {
            thread::yield_now();
        }
        calls(&docker);
    });
    // Connections that say nothing take all the places that there are.
    let _silent: Vec<_> = (0..SILENT)
        .map(|_| TcpStream::connect(STATUS).unwrap())
        .collect();
    let _quiet: Vec<_> = (0..SILENT)
        .map(|_| UnixStream::connect(&control).unwrap())
        .collect();
    calls(&docker);
}

/// Sets a flag when it goes.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// All calls that attach a container, and detach it.
fn calls(docker: &std::path::Path) {
    let network = r#""NetworkID":"6e6574776f726b""#;
    let endpoint = format!(r#"{network},"EndpointID":"656e64706f696e74""#);
    let pool = r#"[{"AddressSpace":"","Pool":"10.77.0.0/24","Gateway":"10.77.0.1/24"}]"#;
    for (call, body) in [
        ("GetCapabilities", String::new()),
        (
            "CreateNetwork",
            format!(r#"{{{network},"Options":{{}},"IPv4Data":{pool},"IPv6Data":[]}}"#),
        ),
        (
            "CreateEndpoint",
            format!(r#"{{{endpoint},"Interface":{{"Address":"10.77.0.2/24"}},"Options":{{}}}}"#),
        ),
        (
            "Join",
            format!(r#"{{{endpoint},"SandboxKey":"/run/docker/netns/c","Options":{{}}}}"#),
        ),
        ("Leave", format!("{{{endpoint}}}")),
        ("DeleteEndpoint", format!("{{{endpoint}}}")),
        ("DeleteNetwork", format!("{{{network}}}")),
    ] {
        let begin = Instant::now();
        let answer = post(docker, &format!("/NetworkDriver.{call}"), &body);
        let took = begin.elapsed();
        println!("{call}: {took:?}");
        assert!(answer.starts_with("HTTP/1.1 200"), "{call}: {answer}");
        assert!(took < SOON, "{call}: {took:?}");
    }
}
