//! The table and the chart.

use std::fmt::Write;
use std::fs;

use crate::attach::Attach;
use crate::figure::{Better, Figure, Results, number};
use crate::lab::{Underlay, sh};
use crate::network::Kind;

/// Height of a bar and of the space for it, in the chart's pixels.
const BAR: usize = 16;
const ROW: usize = 22;
/// Where bars begin, and how long the longest is.
const LEFT: usize = 330;
const LENGTH: f64 = 420.0;

/// How much of what Docker's overlay does ours is to do in the clear.
const CLEAR: f64 = 0.95;

/// A goal: what it says, the ratio or figure found, whether it is to be at least the bound.
struct Goal {
    what: String,
    found: Option<f64>,
    least: bool,
    bound: f64,
}

/// Everything, in Markdown.
pub(crate) fn markdown(
    results: &Results,
    attach: Option<&Attach>,
    seconds: u32,
    rounds: u32,
) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "# Container networks side by side\n\n\
         `make bench`: two hosts that are network namespaces of one machine ({}), {rounds} rounds, \
         {seconds} s each, medians. On \"plain\" the virtual wire passes groups of packets as one; \
         \"wire-like\" lets single packets cross, as a real wire does. \"Both ways\" is \
         the sum of two streams at once, one each way. CPU is that of the whole machine, and of both \
         daemons, per gigabyte of one TCP stream. \"Reached\" are datagrams of \
         64 bytes that came to the other container. RTT is that of `ping`, without other traffic and \
         beside one TCP stream. RSS is the larger daemon's at its peak.\n\n\
         ![TCP, one stream](RESULTS.svg)\n",
        machine()
    );
    let _ = write!(text, "| network |");
    for figure in Figure::ALL {
        let _ = write!(text, " {} |", figure.name());
    }
    let _ = writeln!(text, "\n|---|{}", "--:|".repeat(Figure::ALL.len()));
    for case in results.cases() {
        let _ = write!(text, "| {} |", case.name());
        for figure in Figure::ALL {
            let cell = results
                .median(case, figure)
                .map_or_else(String::new, number);
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    for (case, reason) in &results.skipped {
        let _ = writeln!(text, "\nNot measured: {}: {reason}.", case.name());
    }
    attach
        .into_iter()
        .for_each(|attach| write_attach(&mut text, attach));
    let _ = writeln!(text, "\n| ratio | found | goal | |\n|---|--:|--:|---|");
    for goal in goals(results) {
        let Some(found) = goal.found else {
            continue;
        };
        let met = if goal.least {
            found >= goal.bound
        } else {
            found <= goal.bound
        };
        let (sign, verdict) = (
            if goal.least { "at least" } else { "at most" },
            if met { "met" } else { "not met" },
        );
        let _ = writeln!(
            text,
            "| {} | {} | {sign} {} | {verdict} |",
            goal.what,
            number(found),
            number(goal.bound)
        );
    }
    text
}

fn write_attach(text: &mut String, attach: &Attach) {
    match attach {
        Ok(rows) => {
            let _ = writeln!(
                text,
                "\nReal engines, medians of turns:\n\n| `docker run --rm` on | ms |\n|---|--:|"
            );
            for (network, milliseconds) in rows {
                let _ = writeln!(text, "| {network} | {milliseconds:.0} |");
            }
        }
        Err(reason) => {
            let _ = writeln!(text, "\nNot measured: attaching containers: {reason}.");
        }
    }
}

fn goals(results: &Results) -> Vec<Goal> {
    let of = |kind, underlay, figure| results.plain(kind, underlay, figure);
    let ratio = |one: Kind, other: Kind, underlay, figure| {
        Some(of(one, underlay, figure)? / of(other, underlay, figure)?)
    };
    let ours = |underlay, figure| of(Kind::Encrypted, underlay, figure);
    let beside = |figure| ratio(Kind::Encrypted, Kind::WireGuardGo, Underlay::Plain, figure);
    let least = |what: &str, found, bound| Goal {
        what: what.to_owned(),
        found,
        least: true,
        bound,
    };
    let most = |what: &str, found, bound| Goal {
        what: what.to_owned(),
        found,
        least: false,
        bound,
    };
    let flooded = |flood| {
        let case = results.cases().find(|case| case.flood == Some(flood))?;
        results.median(case, Figure::Tcp)
    };
    let left = || {
        use crate::figure::FloodTo::{Firewall, Tunnel};
        Some(flooded(Tunnel)? / flooded(Firewall)?)
    };
    let crowd = results.cases().find(|case| case.crowd);
    let crowd = crowd.and_then(|case| results.median(case, Figure::Memory));
    let mut goals = vec![
        least(
            "encrypted TCP, 1 stream, Gb/s",
            ours(Underlay::Plain, Figure::Tcp),
            8.0,
        ),
        least(
            "encrypted TCP, 1 stream, wire-like, Gb/s",
            ours(Underlay::Wire, Figure::Tcp),
            6.0,
        ),
        least(
            "encrypted TCP, 1 stream, wire-like, 1 % lost, Gb/s",
            ours(Underlay::Lossy(10), Figure::Tcp),
            4.5,
        ),
        least(
            "encrypted, 64 B datagrams reached, kpps",
            ours(Underlay::Plain, Figure::Reached),
            300.0,
        ),
        least(
            "encrypted / wireguard-go, TCP, 1 stream",
            beside(Figure::Tcp),
            9.0,
        ),
        most(
            "encrypted / wireguard-go, idle RTT median",
            beside(Figure::IdleMedian),
            0.5,
        ),
        most(
            "encrypted / wireguard-go, busy RTT median",
            beside(Figure::LoadMedian),
            1.0,
        ),
        most(
            "encrypted / wireguard-go, CPU s/GB",
            beside(Figure::Cpu),
            0.2,
        ),
        least(
            "throughput left by a flood of garbage (of that beside a closed port)",
            left(),
            0.8,
        ),
        most("RSS while three hosts send at once, MB", crowd, 40.0),
    ];
    for underlay in [Underlay::Plain, Underlay::Wire] {
        for figure in Figure::ALL {
            let what = format!(
                "in the clear / Docker's overlay, {}, {}",
                figure.long_name(),
                underlay.name()
            );
            let found = ratio(Kind::Clear, Kind::Overlay, underlay, figure);
            match figure.better() {
                Some(Better::More) => goals.push(least(&what, found, CLEAR)),
                Some(Better::Less) => goals.push(most(&what, found, 1.0 / CLEAR)),
                None => {}
            }
        }
    }
    goals
}

fn machine() -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let models: Vec<&str> = cpus
        .lines()
        .filter_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .collect();
    let kernel = sh("uname -r");
    // New namespaces have what the machine has, and a stream's speed depends on it.
    let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    let congestion = congestion.unwrap_or_default();
    format!(
        "{} x {}, Linux {}, TCP's congestion control {}",
        models.len(),
        models.first().unwrap_or(&"unknown CPU"),
        kernel.trim(),
        congestion.trim()
    )
}

/// TCP with one stream, as bars.
pub(crate) fn chart(results: &Results) -> String {
    let bars: Vec<_> = results
        .cases()
        .filter_map(|case| Some((case, results.median(case, Figure::Tcp)?)))
        .collect();
    let longest = bars.iter().map(|(_, rate)| *rate).fold(1.0, f64::max);
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"820\" height=\"{}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">TCP, one stream, Gb/s</text>",
        40 + bars.len() * ROW
    );
    for (at, (case, rate)) in bars.iter().enumerate() {
        let top = 32 + at * ROW;
        let colour = match case.kind {
            Kind::Encrypted | Kind::Relayed => "#d9480f",
            Kind::Clear => "#f08c00",
            _ => "#868e96",
        };
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{top}\" width=\"{:.1}\" height=\"{BAR}\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{}</text>",
            LEFT - 8,
            top + 12,
            case.name(),
            rate / longest * LENGTH,
            LEFT as f64 + rate / longest * LENGTH + 6.0,
            top + 12,
            number(*rate)
        );
    }
    svg.push_str("</svg>\n");
    svg
}
