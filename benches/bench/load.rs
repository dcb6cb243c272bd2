//! What is sent through a network, and what is read from it meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::figure::{Case, Figure, quantile};
use crate::lab::{Lab, inside, sh, wait_until};
use crate::network::Network;

/// The first port that servers listen on.
const PORT: u16 = 5201;
/// Bytes of the datagrams of the flood.
const SMALL: u32 = 64;
/// Clock ticks in a second of /proc (`USER_HZ`, the same on all of Linux' machines).
const TICKS: f64 = 100.0;

type Figures = BTreeMap<Figure, f64>;

/// All figures of one network.
pub(crate) fn measure(case: &Case, lab: &Lab, network: &Network, seconds: u32) -> Figures {
    let mut load = Load {
        lab,
        network,
        seconds,
        figures: Figures::new(),
    };
    if case.crowd {
        load.crowd();
    } else {
        let server = Server::start(&network.container(lab, 1), PORT);
        load.streams(case.flood.is_none());
        if case.flood.is_none() {
            load.datagrams();
            load.round_trips();
        }
        drop(server);
    }
    load.memory();
    load.figures
}

struct Load<'a> {
    lab: &'a Lab,
    network: &'a Network,
    seconds: u32,
    figures: Figures,
}

impl Load<'_> {
    fn streams(&mut self, all: bool) {
        let before = (busy(), self.daemons());
        let report = self.client("").run();
        let spent = (busy() - before.0, self.daemons() - before.1);
        let gigabytes = received(&report, "sum_received", "bytes") / 1e9;
        self.figures.insert(Figure::Tcp, rate(&report));
        self.figures.insert(Figure::Cpu, spent.0 / gigabytes);
        if !self.network.pids().is_empty() {
            self.figures.insert(Figure::DaemonCpu, spent.1 / gigabytes);
        }
        let more = [
            (Figure::Reverse, "-R"),
            (Figure::TcpFour, "-P 4"),
            (Figure::ReverseFour, "-P 4 -R"),
            (Figure::BothWays, "--bidir"),
        ];
        for (figure, options) in more.into_iter().take(if all { more.len() } else { 1 }) {
            self.figures
                .insert(figure, rate(&self.client(options).run()));
        }
    }

    fn datagrams(&mut self) {
        let before = self.arrived();
        let report = self.client(&format!("-u -b 0 -l {SMALL}")).run();
        let per = 1e3 * f64::from(self.seconds);
        let sent = report["end"]["sum"]["packets"].as_f64().unwrap_or(0.0);
        self.figures.insert(Figure::Sent, sent / per);
        let arrived = self.arrived() - before;
        self.figures.insert(Figure::Reached, arrived / per);
    }

    fn round_trips(&mut self) {
        let idle = self.ping(300, "0.003");
        let beside = self.client("").start(self.seconds + 2);
        // The stream needs a moment to be at its full speed.
        thread::sleep(Duration::from_millis(500));
        let loaded = self.ping(self.seconds * 100, "0.01");
        beside.stop();
        let kinds = [Figure::IdleMin, Figure::IdleMedian, Figure::IdleTail];
        self.insert_quantiles(kinds, &idle);
        let kinds = [Figure::LoadMin, Figure::LoadMedian, Figure::LoadTail];
        self.insert_quantiles(kinds, &loaded);
    }

    /// All others send to the first host.
    fn crowd(&mut self) {
        let to = self.network.container(self.lab, 0);
        let numbers = || (1..self.lab.hosts).map(|at| (at, PORT + u16::from(at)));
        let servers: Vec<_> = numbers()
            .map(|(_, port)| Server::start(&to, port))
            .collect();
        let clients: Vec<_> = numbers()
            .map(|(at, port)| {
                let client = Client {
                    from: self.network.container(self.lab, at),
                    to: self.network.address(0),
                    port,
                    options: String::new(),
                    seconds: self.seconds,
                };
                client.start(self.seconds)
            })
            .collect();
        let total = clients.into_iter().map(|run| rate(&run.report())).sum();
        drop(servers);
        self.figures.insert(Figure::Tcp, total);
    }

    fn memory(&mut self) {
        let peaks = self.network.pids().into_iter().filter_map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        });
        if let Some(peak) = peaks.reduce(f64::max) {
            self.figures.insert(Figure::Memory, peak * 1024.0 / 1e6);
        }
    }

    fn client(&self, options: &str) -> Client {
        Client {
            from: self.network.container(self.lab, 0),
            to: self.network.address(1),
            port: PORT,
            options: options.to_owned(),
            seconds: self.seconds,
        }
    }

    /// Round trips in microseconds.
    fn ping(&self, count: u32, interval: &str) -> Vec<f64> {
        let from = self.network.container(self.lab, 0);
        let to = self.network.address(1);
        let line =
            format!("ip netns exec {from} ping -n -W 1 -c {count} -i {interval} {to} || true");
        let printed = sh(&line);
        let times = printed.lines().filter_map(|line| {
            let time = line.split("time=").nth(1)?.split(' ').next()?;
            Some(time.parse::<f64>().ok()? * 1e3)
        });
        times.collect()
    }

    fn insert_quantiles(&mut self, figures: [Figure; 3], values: &[f64]) {
        for (figure, part) in figures.into_iter().zip([0.0, 0.5, 0.99]) {
            if let Some(value) = quantile(values, part) {
                self.figures.insert(figure, value);
            }
        }
    }

    /// Datagrams that reached UDP in the second container, whether anybody read them or not.
    fn arrived(&self) -> f64 {
        let to = self.network.container(self.lab, 1);
        let snmp = sh(&format!("ip netns exec {to} cat /proc/net/snmp"));
        let mut lines = snmp.lines().filter(|line| line.starts_with("Udp:"));
        let names = lines.next().unwrap_or_default().split_whitespace();
        let values = lines.next().unwrap_or_default().split_whitespace();
        let wanted = names.zip(values).filter_map(|(name, value)| {
            let counts = ["InDatagrams", "RcvbufErrors"].contains(&name);
            value.parse::<f64>().ok().filter(|_| counts)
        });
        wanted.sum()
    }

    /// CPU seconds of all daemons so far.
    fn daemons(&self) -> f64 {
        let ticks = self.network.pids().into_iter().filter_map(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // The name, in brackets, may hold spaces (proc(5)).
            let (_, rest) = stat.rsplit_once(')')?;
            let fields: Vec<&str> = rest.split_whitespace().collect();
            let field = |at: usize| fields.get(at)?.parse::<f64>().ok();
            Some(field(11)? + field(12)?)
        });
        ticks.sum::<f64>() / TICKS
    }
}

/// CPU seconds of the whole machine so far, without idling.
fn busy() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = stat.split_whitespace().skip(1).take(8);
    let fields: Vec<f64> = fields.filter_map(|field| field.parse().ok()).collect();
    // Idle and waiting for disks; what other guests of the host took is not ours either.
    let works = |at: usize| !matches!(at, 3 | 4 | 7);
    let used = fields.iter().enumerate().filter(|(at, _)| works(*at));
    used.map(|(_, field)| field).sum::<f64>() / TICKS
}

fn received(report: &Value, way: &str, what: &str) -> f64 {
    report["end"][way][what].as_f64().unwrap_or(0.0)
}

/// Gb/s that arrived, of both ways if there were two.
fn rate(report: &Value) -> f64 {
    let ways = ["sum_received", "sum_received_bidir_reverse"];
    let rates = ways.map(|way| received(report, way, "bits_per_second"));
    rates.into_iter().sum::<f64>() / 1e9
}

struct Server(Child);

impl Server {
    fn start(namespace: &str, port: u16) -> Self {
        let server = inside(namespace, "iperf3")
            .args(["-s", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let server = Self(server.expect("iperf3 is installed"));
        let listening = format!("ip netns exec {namespace} ss -Hltn sport = :{port}");
        wait_until("iperf3 listens", || !sh(&listening).is_empty());
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Client {
    from: String,
    to: String,
    port: u16,
    options: String,
    seconds: u32,
}

struct Running(Child);

impl Client {
    fn start(&self, seconds: u32) -> Running {
        let client = inside(&self.from, "iperf3")
            .args(["-J", "-c", &self.to, "-p", &self.port.to_string()])
            .args(["-t", &seconds.to_string()])
            .args(self.options.split_whitespace())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn();
        Running(client.expect("iperf3 is installed"))
    }

    fn run(&self) -> Value {
        let mut report = Value::Null;
        // The server may not have done with the one before.
        wait_until("iperf3 has measured", || {
            report = self.start(self.seconds).report();
            report["end"].is_object() && report["error"].is_null()
        });
        report
    }
}

impl Running {
    fn report(self) -> Value {
        let output = self.0.wait_with_output().expect("iperf3 ends");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    fn stop(mut self) {
        let _ = self.0.wait();
    }
}
