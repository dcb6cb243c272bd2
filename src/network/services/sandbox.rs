//! The translation of virtual addresses inside one container's network namespace.
//!
//! What the container's own processes send to a virtual address goes to a backend that is chosen
//! at random for each connection; connection tracking there undoes it on the way back. Since the
//! client itself translates, backends see its own address. Deciding costs a lookup in a map, so
//! it does not grow with the number of services.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::core::Balances;
use crate::linux::nftables::{
    Batch, ChainKind, Data, Element, Family, Hook, KeyType, NftError, PRIORITY_DESTINATION_NAT,
    Step, Verdict,
};

const TABLE: &str = "weave";
const OUTPUT: &str = "output";
const VIRTUAL: &str = "virtual";

/// Where the destination address is in an IPv4 header (RFC 791, section 3.1).
const DESTINATION: Step = Step::NetworkHeader {
    offset: 16,
    length: 4,
};

/// What was put into the namespace of one container.
#[derive(Debug, Default)]
pub(super) struct Sandbox {
    /// `None` until the table was made: one of an earlier life of the daemon is replaced.
    applied: Option<Balances>,
    /// Whether an earlier life of the daemon may have left a table.
    inherited: bool,
}

impl Sandbox {
    /// The namespace of a container from before this life of the daemon.
    pub(super) fn inherited() -> Self {
        Self {
            inherited: true,
            ..Self::default()
        }
    }

    /// What has to change for these balances to be in force; empty when they are.
    fn plan(&self, wanted: &Balances) -> Batch {
        let mut batch = Batch::new();
        let applied = match &self.applied {
            Some(applied) => applied.clone(),
            // A container that calls no service needs no table.
            None if wanted.is_empty() && !self.inherited => return batch,
            None => {
                make_table(&mut batch);
                Balances::new()
            }
        };
        for (vip, backends) in wanted {
            if applied
                .get(vip)
                .is_none_or(|before| !same(before, backends))
            {
                balance(&mut batch, *vip, applied.get(vip), backends);
            }
        }
        for vip in applied.keys().filter(|vip| !wanted.contains_key(vip)) {
            forget(&mut batch, *vip);
        }
        batch
    }

    fn note(&mut self, balances: Balances) {
        if self.applied.is_some() || self.inherited || !balances.is_empty() {
            self.applied = Some(balances);
            self.inherited = false;
        }
    }

    /// Whether nothing has to change for these balances to be in force.
    pub(super) fn is_in_force(&self, wanted: &Balances) -> bool {
        match &self.applied {
            Some(applied) => {
                let unchanged = |vip, of_vip| applied.get(vip).is_some_and(|was| same(was, of_vip));
                applied.len() == wanted.len()
                    && wanted.iter().all(|(vip, of_vip)| unchanged(vip, of_vip))
            }
            None => wanted.is_empty() && !self.inherited,
        }
    }

    /// Applies the plan in the namespace of the calling thread, and makes the table anew when what
    /// is there is not what was remembered.
    ///
    /// # Errors
    /// When the kernel refuses both; then the next try makes the table anew.
    pub(super) fn apply(&mut self, wanted: &Balances) -> Result<(), NftError> {
        let plan = self.plan(wanted);
        if !plan.is_empty() && plan.apply().is_err() {
            self.applied = None;
            self.plan(wanted).apply()?;
        }
        self.note(wanted.clone());
        Ok(())
    }
}

fn same(one: &Arc<BTreeSet<Ipv4Addr>>, two: &Arc<BTreeSet<Ipv4Addr>>) -> bool {
    Arc::ptr_eq(one, two) || one == two
}

fn make_table(batch: &mut Batch) {
    batch.replace_table(Family::Ipv4, TABLE);
    batch.add_verdict_map(Family::Ipv4, TABLE, VIRTUAL, KeyType::Ipv4);
    batch.add_base_chain(
        Family::Ipv4,
        TABLE,
        OUTPUT,
        ChainKind::Nat,
        Hook::Output,
        PRIORITY_DESTINATION_NAT,
    );
    let dispatch = [DESTINATION, Step::VerdictOf(VIRTUAL.to_owned())];
    batch.add_rule(Family::Ipv4, TABLE, OUTPUT, &dispatch);
}

/// Spreads what is sent to `vip` over the backends. Each address has a chain of its own, so that a
/// change of one service touches no other.
fn balance(
    batch: &mut Batch,
    vip: Ipv4Addr,
    before: Option<&Arc<BTreeSet<Ipv4Addr>>>,
    backends: &BTreeSet<Ipv4Addr>,
) {
    let chain = chain_of(vip);
    match before {
        Some(_) => batch.flush_chain(Family::Ipv4, TABLE, &chain),
        None => batch.add_chain(Family::Ipv4, TABLE, &chain),
    }
    if !backends.is_empty() {
        let backends: Vec<_> = backends.iter().copied().collect();
        let steps = [
            Step::Random(backends.len() as u32),
            Step::Translate(batch.add_backends(TABLE, &backends)),
            Step::DestinationNat(Family::Ipv4),
        ];
        batch.add_rule(Family::Ipv4, TABLE, &chain, &steps);
    }
    if before.is_none() {
        let verdict = Data::Verdict(Verdict::Goto(chain));
        let element = Element::ipv4(vip).to(verdict);
        batch.add_elements(Family::Ipv4, TABLE, VIRTUAL, &[element]);
    }
}

fn forget(batch: &mut Batch, vip: Ipv4Addr) {
    let chain = chain_of(vip);
    let verdict = Data::Verdict(Verdict::Goto(chain.clone()));
    let element = Element::ipv4(vip).to(verdict);
    batch.delete_elements(Family::Ipv4, TABLE, VIRTUAL, &[element]);
    batch.delete_chain(Family::Ipv4, TABLE, &chain);
}

fn chain_of(vip: Ipv4Addr) -> String {
    format!("vip-{vip}")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::sched::{CloneFlags, unshare};

    use super::*;

    #[test]
    fn rules_follow_the_balances() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            let mut sandbox = Sandbox::default();
            sandbox.apply(&Balances::new()).unwrap();
            assert_eq!(rules(), "");

            let wanted = balances(&[(2, &[3, 4]), (5, &[])]);
            sandbox.apply(&wanted).unwrap();
            let shown = rules();
            assert!(shown.contains("{ 0 : 10.0.0.3, 1 : 10.0.0.4 }"), "{shown}");
            assert!(shown.contains("10.0.0.5 : goto vip-10.0.0.5"), "{shown}");
            assert!(sandbox.plan(&wanted).is_empty());

            sandbox.apply(&balances(&[(2, &[6])])).unwrap();
            let shown = rules();
            assert!(shown.contains("{ 0 : 10.0.0.6 }"), "{shown}");
            assert!(!shown.contains("10.0.0.3") && !shown.contains("10.0.0.5"));

            // Somebody flushes the rules behind our back.
            Command::new("nft")
                .args(["flush", "ruleset"])
                .status()
                .unwrap();
            sandbox.apply(&balances(&[(2, &[7])])).unwrap();
            assert!(rules().contains("{ 0 : 10.0.0.7 }"));

            // Another life of the daemon knows nothing of what is there.
            let mut again = Sandbox::inherited();
            again.apply(&balances(&[(2, &[8])])).unwrap();
            assert!(rules().contains("{ 0 : 10.0.0.8 }"));
            Sandbox::inherited().apply(&Balances::new()).unwrap();
            assert!(!rules().contains("10.0.0.2"));
        });
        thread.join().unwrap();
    }

    fn rules() -> String {
        let output = Command::new("nft").args(["list", "ruleset"]).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    fn balances(of: &[(u8, &[u8])]) -> Balances {
        let ip = |last: &u8| Ipv4Addr::from([10, 0, 0, *last]);
        of.iter()
            .map(|(vip, backends)| (ip(vip), Arc::new(backends.iter().map(ip).collect())))
            .collect()
    }
}
