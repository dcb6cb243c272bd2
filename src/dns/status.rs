//! What weaveDNS says of itself.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::types::{DnsName, PeerId, SegmentId};

/// Names, and how it goes with serving them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsStatus {
    /// The domain of all names.
    pub domain: DnsName,
    /// How long answers may be remembered, in seconds.
    pub ttl: u32,
    /// Where queries are answered, or why they are not.
    pub listening: Result<SocketAddr, String>,
    /// Who is asked for other names.
    pub upstreams: Vec<SocketAddr>,
    /// Queries since the start.
    pub counters: DnsCounters,
    /// Records of names that are gone, of which others may still have to be told.
    #[serde(default)]
    pub tombstones: usize,
    /// All known names.
    pub entries: Vec<DnsEntry>,
}

/// Queries since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsCounters {
    /// What came of them, by what they asked for: `A`, `AAAA`, `PTR` or `other`.
    pub by_type: BTreeMap<String, DnsOutcomes>,
    /// How long this server's own answers took.
    pub answer_times: AnswerTimes,
    /// How often each of the host's servers was asked and did not answer.
    pub upstream_failures: BTreeMap<SocketAddr, u64>,
    /// Why the host's servers did not answer, the last time that none did.
    pub last_failure: Option<String>,
}

/// Queries by what came of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsOutcomes {
    /// Answered with addresses or names.
    pub found: u64,
    /// Answered that the name has nothing of the kind.
    pub empty: u64,
    /// Answered that there is no such name.
    pub unknown: u64,
    /// Refused, as not understood or not allowed.
    pub refused: u64,
    /// Not answered: from elsewhere, or no queries at all.
    pub ignored: u64,
    /// Answered by the host's own servers.
    pub forwarded: u64,
    /// Not answered by them.
    pub failed: u64,
}

/// How long answers took.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerTimes {
    /// How many took no longer than each of these times.
    pub within: Vec<(Duration, u64)>,
    /// How many there were.
    pub count: u64,
    /// What all took together.
    pub sum: Duration,
}

impl DnsCounters {
    /// What came of all queries.
    pub fn total(&self) -> DnsOutcomes {
        let mut total = DnsOutcomes::default();
        for outcomes in self.by_type.values() {
            total.found += outcomes.found;
            total.empty += outcomes.empty;
            total.unknown += outcomes.unknown;
            total.refused += outcomes.refused;
            total.ignored += outcomes.ignored;
            total.forwarded += outcomes.forwarded;
            total.failed += outcomes.failed;
        }
        total
    }
}

impl DnsOutcomes {
    /// Each outcome by its name.
    pub const fn named(&self) -> [(&'static str, u64); 7] {
        [
            ("found", self.found),
            ("empty", self.empty),
            ("unknown", self.unknown),
            ("refused", self.refused),
            ("ignored", self.ignored),
            ("forwarded", self.forwarded),
            ("failed", self.failed),
        ]
    }
}

/// One address of one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsEntry {
    /// The name.
    pub name: DnsName,
    /// The address.
    pub address: IpAddr,
    /// Whose it is, where it is a container's.
    pub container: Option<String>,
    /// The segment whose containers are told of it; `None` when all are.
    pub segment: Option<SegmentId>,
    /// Where it was registered.
    pub peer: PeerId,
    /// Whether that peer can be reached; the name is not answered while it cannot.
    pub reachable: bool,
}
