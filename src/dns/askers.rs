//! Who asks: the host sees all names, a container those of its segments, others none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::types::SegmentId;

/// Who asks, as far as answers depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker<'a> {
    /// A process of this host.
    Host,
    /// A container on these segments.
    Container(&'a BTreeSet<SegmentId>),
}

/// Where a query comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin<'a> {
    /// From somebody who may ask.
    Known(Asker<'a>),
    /// From a container that the Engine has not told of yet.
    Unknown,
    /// From elsewhere.
    Foreign,
}

/// The addresses that queries come from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Askers {
    /// This host's own addresses.
    pub(super) own: BTreeSet<IpAddr>,
    /// The subnets of this host's bridges.
    pub(super) bridges: Vec<IpNet>,
    /// The containers' addresses, on bridges and on our networks, with the segments they are on.
    pub(super) containers: BTreeMap<IpAddr, BTreeSet<SegmentId>>,
}

impl Askers {
    /// What has become of the containers' addresses. Returns whether anything changed.
    pub(super) fn handle_containers(
        &mut self,
        changes: BTreeMap<IpAddr, Option<BTreeSet<SegmentId>>>,
    ) -> bool {
        let mut changed = false;
        for (address, segments) in changes {
            changed |= self.containers.get(&address) != segments.as_ref();
            match segments {
                Some(segments) => self.containers.insert(address, segments),
                None => self.containers.remove(&address),
            };
        }
        changed
    }

    /// Who has this address.
    pub(super) fn origin(&self, source: IpAddr) -> Origin<'_> {
        let source = source.to_canonical();
        if source.is_loopback() || self.own.contains(&source) {
            return Origin::Known(Asker::Host);
        }
        if let Some(segments) = self.containers.get(&source) {
            return Origin::Known(Asker::Container(segments));
        }
        match self.bridges.iter().any(|bridge| bridge.contains(&source)) {
            true => Origin::Unknown,
            false => Origin::Foreign,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn askers_are_known_by_their_addresses() {
        let segments = BTreeSet::from([SegmentId::of_name("web")]);
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let askers = Askers {
            own: [address("172.17.0.1")].into(),
            bridges: vec!["172.17.0.0/16".parse().unwrap()],
            containers: [(address("172.17.0.2"), segments.clone())].into(),
        };
        for (source, expected) in [
            ("172.17.0.1", Origin::Known(Asker::Host)),
            ("127.0.0.1", Origin::Known(Asker::Host)),
            ("172.17.0.2", Origin::Known(Asker::Container(&segments))),
            (
                "::ffff:172.17.0.2",
                Origin::Known(Asker::Container(&segments)),
            ),
            ("172.17.0.3", Origin::Unknown),
            ("192.0.2.1", Origin::Foreign),
        ] {
            assert_eq!(askers.origin(address(source)), expected, "{source}");
        }
    }
}
