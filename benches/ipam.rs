//! How fast addresses are handed out: a daemon of its own with its state on the disk, asked over its
//! plugin socket by clients at the same time, as engines ask. Then what a large ring costs.
//!
//! `cargo bench --bench ipam` as root. The bounds are those of a quiet machine; with
//! `IPAM_BENCH_BOUNDS=off` they are only printed.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

#[path = "../tests/ipam_ring/mod.rs"]
mod ipam_ring;

/// Clients that ask at the same time.
const CLIENTS: usize = 8;

/// Calls that are timed.
const CALLS: usize = 40_000;

/// How many addresses the host has when it is measured.
const FEW: usize = 100;
const MANY: usize = 100_000;

/// The bounds: calls each second, and how much slower it may be with many addresses.
const LEAST: f64 = 10_000.0;
const SLOWER: f64 = 0.9;

fn main() -> ExitCode {
    let daemon = Daemon::start();
    let pool = daemon.pool();
    daemon.request(&pool, FEW);
    let (few, granted) = daemon.measure(&pool);
    println!("{CLIENTS} clients, {FEW} addresses owned: {few:.0} RequestAddress calls each second");
    daemon.release(&pool, granted);
    daemon.request(&pool, MANY - FEW);
    let (many, _) = daemon.measure(&pool);
    println!(
        "{CLIENTS} clients, {MANY} addresses owned: {many:.0} RequestAddress calls each second"
    );
    drop(daemon);
    let ring = ipam_ring::converge(1000, 100);
    println!("{ring}");
    let bounds = [
        (
            few >= LEAST && many >= LEAST,
            format!("at least {LEAST} calls each second"),
        ),
        (
            many >= few * SLOWER,
            format!("with many addresses at least {SLOWER} of the speed"),
        ),
        (ring.within_bounds(), "a ring within its bounds".to_owned()),
    ];
    let missed: Vec<&String> = bounds
        .iter()
        .filter(|(met, _)| !met)
        .map(|(_, what)| what)
        .collect();
    if missed.is_empty() || std::env::var("IPAM_BENCH_BOUNDS").is_ok_and(|v| v == "off") {
        return ExitCode::SUCCESS;
    }
    for bound in missed {
        eprintln!("missed: {bound}");
    }
    ExitCode::FAILURE
}

/// The daemon in a network namespace of its own, with its files in a directory of its own.
struct Daemon {
    process: Child,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Daemon {
    fn start() -> Self {
        // Beside the binary, which is on a disk; where temporary files are may be memory.
        let binary = env!("CARGO_BIN_EXE_weave");
        let beside = Path::new(binary).parent().unwrap();
        let dir = tempfile::tempdir_in(beside).unwrap();
        for below in ["run/docker/plugins", "var/lib"] {
            std::fs::create_dir_all(dir.path().join(below)).unwrap();
        }
        let process = Command::new("unshare")
            .args(["-n", "-m", "--", "sh", "-c"])
            .arg("mount --bind \"$WEAVE_HOST_ROOT/run\" \"$WEAVE_HOST_ROOT/run\" && mount --make-shared \"$WEAVE_HOST_ROOT/run\" && ip link set lo up && exec \"$0\" daemon --legacy-sockets weavemesh --ipalloc-init consensus=1 --log-level error")
            .arg(binary)
            .env("WEAVE_HOST_ROOT", dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let socket = dir.path().join("run/docker/plugins/weavemesh.sock");
        let deadline = Instant::now() + Duration::from_secs(10);
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "the daemon does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self {
            process,
            socket,
            _dir: dir,
        }
    }

    fn pool(&self) -> String {
        let request =
            json!({"AddressSpace": "weavelocal", "Options": {"works.weave.network": "weave"}});
        let answer = Client::new(&self.socket).call("RequestPool", &request);
        answer["PoolID"].as_str().unwrap().to_owned()
    }

    /// Requests so many addresses and returns them.
    fn request(&self, pool: &str, count: usize) -> Vec<String> {
        let body = json!({"PoolID": pool, "Address": ""});
        self.in_parallel(count, |client, _| {
            let answer = client.call("RequestAddress", &body);
            let address = answer["Address"].as_str();
            let address = address.unwrap_or_else(|| panic!("{answer}"));
            address.split('/').next().unwrap_or_default().to_owned()
        })
    }

    fn release(&self, pool: &str, addresses: Vec<String>) {
        self.in_parallel(addresses.len(), |client, nth| {
            let body = json!({"PoolID": pool, "Address": addresses[nth]});
            client.call("ReleaseAddress", &body)
        });
    }

    fn measure(&self, pool: &str) -> (f64, Vec<String>) {
        let begin = Instant::now();
        let granted = self.request(pool, CALLS);
        let speed = CALLS as f64 / begin.elapsed().as_secs_f64();
        let mut unique = granted.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), granted.len(), "an address was given twice");
        (speed, granted)
    }

    fn in_parallel<T: Send>(
        &self,
        count: usize,
        call: impl Fn(&mut Client, usize) -> T + Sync,
    ) -> Vec<T> {
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|first| {
                    let call = &call;
                    scope.spawn(move || {
                        let mut client = Client::new(&self.socket);
                        (first..count)
                            .step_by(CLIENTS)
                            .map(|nth| call(&mut client, nth))
                            .collect::<Vec<T>>()
                    })
                })
                .collect();
            let answers = clients
                .into_iter()
                .flat_map(|client| client.join().unwrap());
            answers.collect()
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A connection to the socket, kept open as the Engine keeps its own.
struct Client(BufReader<UnixStream>);

impl Client {
    fn new(socket: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(socket).unwrap()))
    }

    fn call(&mut self, method: &str, body: &Value) -> Value {
        let body = body.to_string();
        let message = format!(
            "POST /IpamDriver.{method} HTTP/1.1\r\nHost: plugin.moby.localhost\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(message.as_bytes()).unwrap();
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            if line.trim_end().is_empty() {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        self.0.read_exact(&mut answer).unwrap();
        serde_json::from_slice(&answer).unwrap()
    }
}
