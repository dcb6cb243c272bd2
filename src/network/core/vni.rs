//! Which VNI a segment has, and how peers that chose apart from one another come to agree.

use std::collections::{BTreeMap, BTreeSet};

use super::{Core, Segment};
use crate::datapath::transport::PROBE_VNI;
use crate::types::{SegmentId, Vni};

impl Core {
    /// Peers that chose VNIs apart from one another may have chosen differently for one segment,
    /// or the same for two: the smaller VNI is kept, and by the segment whose name comes first.
    pub(super) fn settle_vnis(&mut self) {
        let holders = self.vni_holders();
        let mut moved = Vec::new();
        for (name, segment) in &self.segments {
            if self.fixed_vni(segment).is_some() {
                continue;
            }
            let mine = |vni: &Vni| holders.get(vni).is_none_or(|first| first == name);
            let agreed = self
                .peers
                .values()
                .filter_map(|peer| peer.segments.get(name))
                .map(|record| record.vni)
                .chain([segment.vni])
                .filter(mine)
                .min();
            let vni = agreed.or_else(|| self.unused_vni(name));
            if let Some(vni) = vni.filter(|vni| *vni != segment.vni) {
                moved.push((name.clone(), vni));
            }
        }
        for (name, vni) in moved {
            if let Some(segment) = self.segments.get_mut(&name) {
                segment.vni = vni;
                self.vnis.insert(name.clone(), vni);
                self.refresh_segment(&name);
            }
        }
    }

    fn fixed_vni(&self, segment: &Segment) -> Option<Vni> {
        let networks = segment.networks.iter();
        networks
            .filter_map(|id| self.networks.get(id))
            .find_map(|spec| spec.options.vni)
    }

    /// The VNI of a segment that has none yet: what other peers use for it, what it had before, or
    /// one that nobody uses.
    pub(super) fn choose_vni(&self, name: &SegmentId) -> Vni {
        let holders = self.vni_holders();
        self.peers
            .values()
            .filter_map(|peer| peer.segments.get(name))
            .map(|record| record.vni)
            .filter(|vni| holders.get(vni).is_none_or(|first| first == name))
            .min()
            .or_else(|| self.unused_vni(name))
            // All 16 million are in use: sharing one is all that is left.
            .unwrap_or_else(|| first_vni(name))
    }

    pub(super) fn unused_vni(&self, name: &SegmentId) -> Option<Vni> {
        let used: BTreeSet<_> = self
            .vnis_in_use()
            .filter(|(other, _)| other != name)
            .map(|(_, vni)| vni)
            .collect();
        if let Some(before) = self.vnis.get(name).filter(|vni| !used.contains(vni)) {
            return Some(*before);
        }
        let first = first_vni(name).get();
        (first..PROBE_VNI)
            .chain(1..first)
            .filter_map(|number| Vni::try_from(number).ok())
            .find(|vni| !used.contains(vni))
    }

    /// The segment that may keep each VNI.
    fn vni_holders(&self) -> BTreeMap<Vni, SegmentId> {
        let mut holders = BTreeMap::new();
        for (name, vni) in self.vnis_in_use() {
            let holder = holders.entry(vni).or_insert_with(|| name.clone());
            if rank(&name) < rank(holder) {
                *holder = name;
            }
        }
        holders
    }

    fn vnis_in_use(&self) -> impl Iterator<Item = (SegmentId, Vni)> {
        let here = self
            .segments
            .iter()
            .map(|(name, segment)| (name.clone(), segment.vni));
        let allocated = self
            .allocated
            .iter()
            .map(|(id, vni)| (SegmentId::of_swarm_network(id), *vni));
        let elsewhere = self
            .peers
            .values()
            .flat_map(|peer| &peer.segments)
            .map(|(name, record)| (name.clone(), record.vni));
        here.chain(allocated).chain(elsewhere)
    }
}

/// Swarm's managers fix the VNIs of their networks, so these come before all others.
fn rank(name: &SegmentId) -> (bool, &SegmentId) {
    (!name.is_swarm(), name)
}

/// Where the search for a segment's VNI begins.
pub(super) fn first_vni(name: &SegmentId) -> Vni {
    let number = name.tag() % Vni::MAX + 1;
    Vni::try_from(number).expect("the remainder of a division by the largest VNI, plus one, is one")
}
