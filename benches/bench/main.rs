//! Measures container networks between two hosts side by side: `make bench`, as root.
//!
//! Hosts and containers are network namespaces of this machine, so that everything shares its
//! processors. Networks take turns in every round, so that a busy machine burdens them alike, and
//! what is written is the median of the rounds. `BENCH_SECONDS` (5) and `BENCH_ROUNDS` (3) make
//! it shorter or longer; `BENCH_ONLY` measures the networks that have this in their names, and
//! writes nothing. How long attaching a container takes is measured on real engines, at the end.

mod attach;
mod figure;
mod flood;
mod lab;
mod load;
mod network;
mod report;
mod worker;

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::ExitCode;

use figure::{Case, Figure, Results, cases};
use lab::Lab;
use network::Network;

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some("worker") => worker::run(&words[1..]),
        Some("flood") => flood::run(&words[1..]),
        Some("--bench") => bench(),
        _ => println!("this measures only when asked to: cargo bench --bench bench"),
    }
    ExitCode::SUCCESS
}

fn bench() {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this makes network namespaces: run it as root"
    );
    let setting = |name: &str, default: u32| {
        env::var(name).map_or(default, |text| text.parse().expect("a number"))
    };
    let seconds = setting("BENCH_SECONDS", 5);
    let rounds = setting("BENCH_ROUNDS", 3);
    let only = env::var("BENCH_ONLY").unwrap_or_default();
    let mut results = Results::default();
    for round in 1..=rounds {
        for case in cases().filter(|case| case.name().contains(&only)) {
            match case.missing() {
                Some(reason) => results.skip(case, &reason),
                None => {
                    let figures = measure(&case, seconds);
                    eprintln!("round {round}: {}: {}", case.name(), line(&figures));
                    results.add(case, figures);
                }
            }
        }
    }
    let attach = only.is_empty().then(attach::measure);
    let report = report::markdown(&results, attach.as_ref(), seconds, rounds);
    println!("{report}");
    if only.is_empty() {
        let to = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches");
        std::fs::write(to.join("RESULTS.md"), report).expect("benches/ can be written");
        std::fs::write(to.join("RESULTS.svg"), report::chart(&results))
            .expect("benches/ can be written");
    }
}

fn measure(case: &Case, seconds: u32) -> BTreeMap<Figure, f64> {
    let lab = Lab::new(case.hosts(), case.underlay);
    let network = Network::start(case.kind, &lab);
    let _flood = case.flood.map(|at| flood::Flood::start(&lab, at));
    load::measure(case, &lab, &network, seconds)
}

fn line(figures: &BTreeMap<Figure, f64>) -> String {
    let words = figures
        .iter()
        .map(|(figure, value)| format!("{} {}", figure.name(), figure::number(*value)));
    words.collect::<Vec<_>>().join(", ")
}
