//! How fast names are answered, what they cost, and how soon other hosts know them: peers of a mesh
//! on the loopback, asked by dnsperf's eight clients and by one that waits for each answer.
//!
//! `cargo bench --bench dns`, with dnsperf installed. The bounds are those of a quiet machine; with
//! `DNS_BENCH_BOUNDS=off` they are only printed.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant};

use weave_net::dns::{Binding, LocalContainer};

#[path = "../tests/dns_peer/mod.rs"]
mod dns_peer;

use dns_peer::{Peer, answers, asker, query, request};

/// Containers of the host that is asked, each of which has two names.
const CONTAINERS: u32 = 50_000;

/// How many of them are taken in at once.
const PIECE: usize = 500;

/// Every so manieth of them changes in turn.
const CHANGES: usize = 50;

/// Names that dnsperf asks for in turn.
const ASKED: u32 = 10_000;

/// Rounds of dnsperf, of which the median counts, and seconds of each.
const ROUNDS: usize = 3;
const SECONDS: &str = "5";

/// Queries of the client that waits for each answer.
const WAITING: usize = 50_000;

/// Registrations until another peer answers.
const REGISTRATIONS: u64 = 200;

/// The bounds.
const LEAST_FOUND: f64 = 80_000.0;
const MEDIAN: Duration = Duration::from_micros(50);
/// Where waking a program takes the machine longer than that: how much more than a bare exchange.
const BEYOND: Duration = Duration::from_micros(10);
const MOST_KILOBYTES: u64 = 100_000;
const KNOWN_WITHIN: Duration = Duration::from_millis(5);

fn main() -> ExitCode {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let mut bounds = Vec::new();
    let before = resident_kilobytes();
    let one = runtime.block_on(Peer::start(None));
    // Taken in piecemeal, so that what is measured is what stays.
    for first in (0..CONTAINERS).step_by(PIECE) {
        let piece = first..CONTAINERS.min(first + PIECE as u32);
        one.dns.containers(piece.map(container).collect());
    }
    wait_for("publication", || known(&one, "alias-49999"));
    let kilobytes = resident_kilobytes() - before;
    println!("100,000 names of this host: {kilobytes} kB with their mesh");
    let change = one_change(&one);
    println!("one change among {CONTAINERS} containers of this host: p50 {change:?}");
    let before = resident_kilobytes();
    let begin = Instant::now();
    let two = runtime.block_on(async { Peer::start(Some(one.listens_at().await)).await });
    wait_for("all names", || known(&two, "alias-49999"));
    let known_after = begin.elapsed();
    let there = resident_kilobytes() - before;
    println!("on another peer: {there} kB, known after {known_after:?}");
    let kilobytes = kilobytes.max(there);
    bounds.push((
        kilobytes <= MOST_KILOBYTES,
        format!("100,000 names in at most {MOST_KILOBYTES} kB"),
    ));

    let bare = bare_exchange();
    let median = one_client(one.server);
    bounds.push((
        median <= MEDIAN.max(bare + BEYOND),
        format!("an answer in {MEDIAN:?}, or {BEYOND:?} after a bare one"),
    ));
    let found = eight_clients(one.server, "container");
    println!("8 clients: {found:.0} queries each second found");
    let unknown = eight_clients(one.server, "nobody");
    println!("8 clients: {unknown:.0} queries each second unknown");
    bounds.push((
        found >= LEAST_FOUND,
        format!("{LEAST_FOUND} queries each second found"),
    ));
    let spread = spread(&one, &two);
    bounds.push((
        spread <= KNOWN_WITHIN,
        format!("known to the other host within {KNOWN_WITHIN:?}"),
    ));
    let missed: Vec<_> = bounds.iter().filter(|(met, _)| !met).collect();
    for (_, bound) in &missed {
        println!("missed: {bound}");
    }
    match missed.is_empty() || std::env::var("DNS_BENCH_BOUNDS").is_ok_and(|v| v == "off") {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// The median time of taking in that one of many containers has ended or started.
fn one_change(peer: &Peer) -> Duration {
    let mut times = Vec::new();
    for number in (0..CONTAINERS).step_by(CHANGES) {
        let (id, container) = container(number);
        for container in [None, container] {
            let begin = Instant::now();
            peer.dns.containers([(id.clone(), container)].into());
            times.push(begin.elapsed());
        }
    }
    times.sort_unstable();
    times[times.len() / 2]
}

/// The median time of an exchange with a thread that sends back what it gets.
fn bare_exchange() -> Duration {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let address = socket.local_addr().expect("an address");
    let echo = thread::spawn(move || {
        let mut buffer = [0; 512];
        for _ in 0..WAITING {
            let (length, from) = socket.recv_from(&mut buffer).expect("a datagram");
            socket.send_to(&buffer[..length], from).expect("an echo");
        }
    });
    let (client, asked) = (asker(address), query("container-4711"));
    let median = exchanges("a bare exchange of datagrams", || {
        client.send(&asked).expect("a datagram");
        client.recv(&mut [0; 512]).expect("an echo");
    });
    echo.join().expect("an end");
    median
}

fn one_client(server: SocketAddr) -> Duration {
    let (socket, asked) = (asker(server), query("container-4711"));
    exchanges("one client that waits for each answer", || {
        assert_eq!(answers(&socket, &asked), Some(1));
    })
}

/// The median time of one of many.
fn exchanges(what: &str, mut exchange: impl FnMut()) -> Duration {
    let mut times: Vec<_> = (0..WAITING)
        .map(|_| {
            let begin = Instant::now();
            exchange();
            begin.elapsed()
        })
        .collect();
    times.sort_unstable();
    let (median, slow) = (times[WAITING / 2], times[WAITING * 99 / 100]);
    println!("{what}: p50 {median:?}, p99 {slow:?}");
    median
}

/// Queries each second.
fn eight_clients(server: SocketAddr, prefix: &str) -> f64 {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    for number in 0..ASKED {
        writeln!(file, "{prefix}-{number}.weave.local. A").expect("a line");
    }
    let port = server.port().to_string();
    let round = || {
        let mut dnsperf = Command::new("dnsperf");
        dnsperf.args([
            "-s",
            "127.0.0.1",
            "-p",
            &port,
            "-c",
            "8",
            "-l",
            SECONDS,
            "-d",
        ]);
        let output = dnsperf.arg(file.path()).output();
        let output = output.expect("dnsperf, of the package of the same name");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let line = text
            .lines()
            .find(|line| line.contains("Queries per second"));
        let number = line.and_then(|line| line.split_whitespace().last());
        let number: Option<f64> = number.and_then(|number| number.parse().ok());
        number.unwrap_or_else(|| panic!("no figure: {text}"))
    };
    let mut figures: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    println!("  rounds: {figures:.0?}");
    figures.sort_unstable_by(f64::total_cmp);
    figures[ROUNDS / 2]
}

/// The median time from a registration until the other peer answers it.
fn spread(here: &Peer, there: &Peer) -> Duration {
    let socket: UdpSocket = asker(there.server);
    let mut times = Vec::new();
    for number in 0..REGISTRATIONS {
        let name = format!("new-{number}");
        let asked = query(&name);
        let begin = Instant::now();
        here.dns
            .add(request(&name, [192, 0, 2, 1]))
            .expect("a name");
        while answers(&socket, &asked) != Some(1) {}
        times.push(begin.elapsed());
        // Not in step with anything.
        std::thread::sleep(Duration::from_millis(number % 7));
    }
    times.sort_unstable();
    let median = times[times.len() / 2];
    let longest = times[times.len() - 1];
    println!("registered here, answered by the other peer: p50 {median:?}, longest {longest:?}");
    median
}

fn container(number: u32) -> (String, Option<LocalContainer>) {
    let [_, a, b, c] = number.to_be_bytes();
    let names = ["container", "alias"].map(|kind| {
        let name = format!("{kind}-{number}.weave.local");
        name.parse().expect("a name")
    });
    let container = LocalContainer {
        name: format!("container-{number}"),
        bindings: vec![Binding {
            segment: None,
            addresses: vec![[10, a, b, c].into()],
            names: names.into(),
        }],
        ..LocalContainer::default()
    };
    (format!("{number:012x}{:052}", 0), Some(container))
}

fn known(peer: &Peer, name: &str) -> bool {
    let name = name.parse().expect("a name");
    let addresses: BTreeSet<IpAddr> = peer.dns.lookup(&name).into_iter().collect();
    !addresses.is_empty()
}

fn wait_for(what: &str, holds: impl Fn() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < dns_peer::PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn resident_kilobytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    let number = number.and_then(|number| number.parse().ok());
    number.expect("a number of kilobytes")
}
