//! What is measured, of which networks, and what came out.

use std::collections::BTreeMap;

use crate::lab::{Underlay, has};
use crate::network::Kind;

/// One number of one network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Figure {
    /// TCP, one stream, Gb/s.
    Tcp,
    /// TCP, four streams, Gb/s.
    TcpFour,
    /// TCP, one stream the other way, Gb/s.
    Reverse,
    /// TCP, four streams the other way, Gb/s.
    ReverseFour,
    /// TCP, one stream each way at once, Gb/s of both together.
    BothWays,
    /// CPU seconds of the whole machine per gigabyte, one stream.
    Cpu,
    /// CPU seconds of both daemons per gigabyte, one stream.
    DaemonCpu,
    /// Datagrams of 64 bytes sent, thousands a second.
    Sent,
    /// Datagrams that reached the other container, thousands a second.
    Reached,
    /// Round trips without other traffic: shortest, microseconds.
    IdleMin,
    /// Median.
    IdleMedian,
    /// 99th percentile.
    IdleTail,
    /// Round trips beside one TCP stream: shortest, microseconds.
    LoadMin,
    /// Median.
    LoadMedian,
    /// 99th percentile.
    LoadTail,
    /// Resident memory of the larger daemon at its peak, MB.
    Memory,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    More,
    Less,
}

impl Figure {
    pub(crate) const ALL: [Self; 16] = [
        Self::Tcp,
        Self::TcpFour,
        Self::Reverse,
        Self::ReverseFour,
        Self::BothWays,
        Self::Cpu,
        Self::DaemonCpu,
        Self::Sent,
        Self::Reached,
        Self::IdleMin,
        Self::IdleMedian,
        Self::IdleTail,
        Self::LoadMin,
        Self::LoadMedian,
        Self::LoadTail,
        Self::Memory,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP 1, Gb/s",
            Self::TcpFour => "TCP 4",
            Self::Reverse => "back 1",
            Self::ReverseFour => "back 4",
            Self::BothWays => "both ways",
            Self::Cpu => "CPU s/GB",
            Self::DaemonCpu => "daemons s/GB",
            Self::Sent => "64 B sent, kpps",
            Self::Reached => "reached, kpps",
            Self::IdleMin => "idle RTT min, us",
            Self::IdleMedian => "median",
            Self::IdleTail => "p99",
            Self::LoadMin => "busy RTT min, us",
            Self::LoadMedian => "busy median",
            Self::LoadTail => "busy p99",
            Self::Memory => "RSS, MB",
        }
    }

    /// Its name without the columns beside it.
    pub(crate) fn long_name(self) -> &'static str {
        match self {
            Self::IdleMedian => "idle RTT median",
            _ => self.name(),
        }
    }

    /// Which way is better, of those that say how fast a network is.
    pub(crate) fn better(self) -> Option<Better> {
        match self {
            Self::Tcp
            | Self::TcpFour
            | Self::Reverse
            | Self::ReverseFour
            | Self::BothWays
            | Self::Reached => Some(Better::More),
            Self::Cpu | Self::IdleMedian | Self::LoadMedian => Some(Better::Less),
            _ => None,
        }
    }
}

/// Where a flood of garbage goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum FloodTo {
    /// To a port that the receiving host's firewall drops: what sending it costs this machine.
    Firewall,
    /// To the tunnel's port.
    Tunnel,
}

/// One network on one underlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case {
    pub(crate) underlay: Underlay,
    pub(crate) kind: Kind,
    pub(crate) flood: Option<FloodTo>,
    /// Three other hosts send to one at once, instead of one.
    pub(crate) crowd: bool,
}

impl Case {
    const fn new(kind: Kind, underlay: Underlay) -> Self {
        Self {
            underlay,
            kind,
            flood: None,
            crowd: false,
        }
    }

    pub(crate) fn name(&self) -> String {
        let flood = match self.flood {
            None => "",
            Some(FloodTo::Firewall) => ", garbage to a closed port",
            Some(FloodTo::Tunnel) => ", garbage to the tunnel",
        };
        let crowd = if self.crowd { ", from three hosts" } else { "" };
        let (kind, underlay) = (self.kind.name(), self.underlay.name());
        format!("{kind}{flood}{crowd} ({underlay})")
    }

    pub(crate) fn hosts(&self) -> u8 {
        match (self.crowd, self.kind, self.flood) {
            (true, ..) => 4,
            (_, Kind::Relayed, _) | (.., Some(_)) => 3,
            _ => 2,
        }
    }

    /// Why it cannot be measured here.
    pub(crate) fn missing(&self) -> Option<String> {
        let program = self.kind.program()?;
        (!has(program)).then(|| format!("no program {program} here"))
    }
}

/// All that is measured, in the order of a round.
pub(crate) fn cases() -> impl Iterator<Item = Case> {
    let both = |kind| [Underlay::Plain, Underlay::Wire].map(|on| Case::new(kind, on));
    let lossy = |kind| [1, 10].map(|lost| Case::new(kind, Underlay::Lossy(lost)));
    let mut cases = vec![Case::new(Kind::Veth, Underlay::Plain)];
    for kind in [
        Kind::Overlay,
        Kind::Clear,
        Kind::Encrypted,
        Kind::Relayed,
        Kind::WireGuardGo,
        Kind::GotaTun,
    ] {
        cases.extend(both(kind));
    }
    for kind in [Kind::Clear, Kind::Encrypted] {
        cases.extend(lossy(kind));
    }
    for flood in [FloodTo::Firewall, FloodTo::Tunnel] {
        cases.push(Case {
            flood: Some(flood),
            ..Case::new(Kind::Encrypted, Underlay::Plain)
        });
    }
    cases.push(Case {
        crowd: true,
        ..Case::new(Kind::Encrypted, Underlay::Plain)
    });
    cases.sort();
    cases.into_iter()
}

/// What came out, round by round.
#[derive(Debug, Default)]
pub(crate) struct Results {
    figures: BTreeMap<Case, BTreeMap<Figure, Vec<f64>>>,
    pub(crate) skipped: BTreeMap<Case, String>,
}

impl Results {
    pub(crate) fn add(&mut self, case: Case, figures: BTreeMap<Figure, f64>) {
        let all = self.figures.entry(case).or_default();
        for (figure, value) in figures {
            all.entry(figure).or_default().push(value);
        }
    }

    pub(crate) fn skip(&mut self, case: Case, reason: &str) {
        self.skipped.insert(case, reason.to_owned());
    }

    pub(crate) fn cases(&self) -> impl Iterator<Item = &Case> {
        self.figures.keys()
    }

    /// The median of the rounds.
    pub(crate) fn median(&self, case: &Case, figure: Figure) -> Option<f64> {
        quantile(self.figures.get(case)?.get(&figure)?, 0.5)
    }

    /// The median of a network that no flood disturbs.
    pub(crate) fn plain(&self, kind: Kind, underlay: Underlay, figure: Figure) -> Option<f64> {
        self.median(&Case::new(kind, underlay), figure)
    }
}

/// The value below which this part of the values lies.
pub(crate) fn quantile(values: &[f64], part: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = (last as f64 * part).round() as usize;
    sorted.get(at).copied()
}

/// Three digits that mean something.
pub(crate) fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}
