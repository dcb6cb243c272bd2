//! A page of metrics, as it is written.

use std::fmt::{Display, Write};

use crate::dns::AnswerTimes;

/// How a metric behaves.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// The text that is being written.
#[derive(Debug, Default)]
pub(super) struct Page(pub(super) String);

/// A counter that some have: its name, what it counts and where it stands.
type Counter<T> = (&'static str, &'static str, fn(&T) -> u64);

impl Page {
    fn declare(&mut self, name: &str, kind: &str, help: &str) {
        // Writing into a text cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = match labels.is_empty() {
            true => writeln!(self.0, "{name} {value}"),
            false => writeln!(self.0, "{name}{{{labels}}} {value}"),
        };
    }

    /// Writes one metric with all its samples, each with the text of its labels.
    fn metric<V: Display>(
        &mut self,
        name: &str,
        kind: Kind,
        help: &str,
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.declare(name, kind, help);
        for (labels, value) in samples {
            self.sample(name, &labels, value);
        }
    }

    pub(super) fn gauge<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        self.metric(name, Kind::Gauge, help, samples);
    }

    pub(super) fn counter<V: Display>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (String, V)>,
    ) {
        self.metric(name, Kind::Counter, help, samples);
    }

    /// Counters that all of the same have.
    pub(super) fn counters<T, const N: usize>(
        &mut self,
        all: &[(String, &T)],
        counters: [Counter<T>; N],
    ) {
        for (name, help, value) in counters {
            let samples = all.iter().map(|(labels, of)| (labels.clone(), value(of)));
            self.counter(name, help, samples);
        }
    }

    pub(super) fn one(&mut self, name: &str, help: &str, value: impl Display) {
        self.gauge(name, help, [(String::new(), value)]);
    }

    pub(super) fn count(&mut self, name: &str, help: &str, value: impl Display) {
        self.counter(name, help, [(String::new(), value)]);
    }

    pub(super) fn histogram(&mut self, name: &str, help: &str, times: &AnswerTimes) {
        self.declare(name, "histogram", help);
        let bucket = format!("{name}_bucket");
        for (bound, count) in &times.within {
            let bound = bound.as_secs_f64().to_string();
            self.sample(&bucket, &labels(&[("le", &bound)]), count);
        }
        self.sample(&bucket, &labels(&[("le", "+Inf")]), times.count);
        self.sample(&format!("{name}_sum"), "", times.sum.as_secs_f64());
        self.sample(&format!("{name}_count"), "", times.count);
    }
}

/// Labels as text, with what must be escaped.
pub(super) fn labels(pairs: &[(&str, &str)]) -> String {
    let escaped = |text: &str| {
        text.replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    };
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
        .collect();
    pairs.join(",")
}
