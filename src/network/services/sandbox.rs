//! The translation of virtual addresses inside one container's network namespace.
//!
//! What the container's own processes send to a virtual address goes to a task that is chosen at
//! random for each connection; connection tracking there undoes it on the way back. Since the
//! client itself translates, tasks see its own address. Deciding costs two lookups in maps, so it
//! does not grow with the number of services or tasks; nor does a change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use super::core::{Balance, Balances};
use crate::linux::conntrack::{self, Flow};
use crate::linux::nftables::{
    Batch, ChainKind, Data, Element, Family, Hook, KeyType, NftError, PRIORITY_DESTINATION_NAT,
    Step, Verdict,
};

const TABLE: &str = "weave";
const OUTPUT: &str = "output";
const VIRTUAL: &str = "virtual";
const TRACKING: &str = "tracking";

/// Where the destination address is in an IPv4 header (RFC 791, section 3.1).
const DESTINATION: Step = Step::NetworkHeader {
    offset: 16,
    length: 4,
};

/// What was put into the namespace of one container.
#[derive(Debug, Default)]
pub(super) struct Sandbox {
    /// `None` until the table was made: one of an earlier life of the daemon is replaced.
    applied: Option<BTreeMap<Ipv4Addr, Placed>>,
    /// Whether a table may be there that is not remembered.
    inherited: bool,
}

/// The tasks behind a virtual address, and where in its map each is that takes connections.
#[derive(Debug, Clone)]
struct Placed {
    balance: Arc<Balance>,
    slots: Vec<Ipv4Addr>,
}

/// What has to change.
#[derive(Debug, Default)]
struct Plan {
    batch: Batch,
    changed: BTreeMap<Ipv4Addr, Placed>,
    gone: BTreeSet<Ipv4Addr>,
}

impl Sandbox {
    /// The namespace of a container from before this life of the daemon.
    pub(super) fn inherited() -> Self {
        Self {
            inherited: true,
            ..Self::default()
        }
    }

    /// Whether there may be a table.
    pub(super) fn has_table(&self) -> bool {
        self.applied.is_some() || self.inherited
    }

    /// Whether nothing has to change for these balances to be in force.
    pub(super) fn is_in_force(&self, wanted: &Balances) -> bool {
        match &self.applied {
            Some(applied) => {
                let unchanged = |vip, of_vip| applied.get(vip).is_some_and(|was| was.is(of_vip));
                applied.len() == wanted.len()
                    && wanted.iter().all(|(vip, of_vip)| unchanged(vip, of_vip))
            }
            None => wanted.is_empty() && !self.inherited,
        }
    }

    /// Brings the balances into force in the namespace of the calling thread, and makes the table
    /// anew when what is there is not what was remembered.
    ///
    /// # Errors
    /// When the kernel refuses both; then the next try makes the table anew.
    pub(super) fn apply(&mut self, wanted: &Balances) -> Result<(), NftError> {
        if self.is_in_force(wanted) {
            return Ok(());
        }
        let mut plan = self.plan(wanted);
        if plan.batch.apply().is_err() {
            self.applied = None;
            self.inherited = true;
            plan = self.plan(wanted);
            plan.batch.apply()?;
        }
        self.inherited = false;
        let applied = self.applied.get_or_insert_default();
        let lost = |(vip, placed): &(&Ipv4Addr, &Placed)| {
            let before = applied.get(vip);
            before.is_none_or(|before| before.balance.loses(&placed.balance))
        };
        let lost = plan.changed.iter().filter(lost).map(|(vip, _)| vip);
        let lost = lost.chain(&plan.gone).copied().collect();
        applied.extend(plan.changed);
        applied.retain(|vip, _| !plan.gone.contains(vip));
        self.end_flows(&lost);
        Ok(())
    }

    fn plan(&self, wanted: &Balances) -> Plan {
        let mut plan = Plan::default();
        let nothing = BTreeMap::new();
        let applied = self.applied.as_ref().unwrap_or_else(|| {
            make_table(&mut plan.batch);
            &nothing
        });
        for (vip, balance) in wanted {
            let before = applied.get(vip);
            if before.is_some_and(|before| before.is(balance)) {
                continue;
            }
            let balance = Arc::clone(balance);
            let slots = place(before.map(|b| &b.slots[..]).unwrap_or_default(), &balance);
            change(&mut plan.batch, *vip, before, &slots);
            plan.changed.insert(*vip, Placed { balance, slots });
        }
        for vip in applied.keys().filter(|vip| !wanted.contains_key(vip)) {
            forget(&mut plan.batch, *vip);
            plan.gone.insert(*vip);
        }
        plan
    }

    /// Ends flows to these addresses that go on to where no task answers any more: a flow without
    /// connections would never notice, and one that has not been answered yet is given to another
    /// task when it tries again.
    fn end_flows(&self, vips: &BTreeSet<Ipv4Addr>) {
        if vips.is_empty() {
            return;
        }
        let applied = self.applied.as_ref();
        let is_dead = |flow: &&Flow| {
            let to = flow.answers_from;
            let placed = applied.and_then(|applied| applied.get(&flow.destination));
            let lives = placed.is_some_and(|placed| placed.balance.has(to));
            // One to the address itself was begun before it was translated.
            let untranslated = to == flow.destination;
            let unanswered = !flow.answered || !flow.is_connection();
            vips.contains(&flow.destination) && !lives && (untranslated || unanswered)
        };
        // Where the kernel cannot tell, flows end when they have been idle for long enough.
        let Ok(flows) = conntrack::flows() else {
            return;
        };
        if let Err(error) = conntrack::forget(flows.iter().filter(is_dead)) {
            tracing::debug!(%error, "flows to tasks that are gone stay");
        }
    }
}

impl Balance {
    fn has(&self, task: Ipv4Addr) -> bool {
        self.ready.contains(&task) || self.stopping.contains(&task)
    }

    /// Whether one of its tasks is not in the other.
    fn loses(&self, other: &Self) -> bool {
        let mut tasks = self.ready.iter().chain(&self.stopping);
        tasks.any(|task| !other.has(*task))
    }
}

impl Placed {
    fn is(&self, balance: &Arc<Balance>) -> bool {
        Arc::ptr_eq(&self.balance, balance) || self.balance == *balance
    }
}

/// The slots of those that take connections. Who has one keeps it, unless that would leave a gap.
fn place(before: &[Ipv4Addr], balance: &Balance) -> Vec<Ipv4Addr> {
    let count = balance.ready.len();
    let kept = before.iter().take(count);
    let kept: BTreeSet<_> = kept.filter(|task| balance.ready.contains(*task)).collect();
    let mut others = balance.ready.iter().filter(|task| !kept.contains(task));
    (0..count)
        .filter_map(|slot| {
            let stays = before.get(slot).filter(|task| kept.contains(task));
            stays.or_else(|| others.next()).copied()
        })
        .collect()
}

fn make_table(batch: &mut Batch) {
    batch.replace_table(Family::Ipv4, TABLE);
    batch.add_verdict_map(Family::Ipv4, TABLE, VIRTUAL, KeyType::Ipv4);
    // With its last rule that translates, a namespace loses its connection tracking, and with that
    // the way of all connections that were translated. This one, which nothing jumps to, stays.
    batch.add_chain(Family::Ipv4, TABLE, TRACKING);
    let keep = [DESTINATION, Step::DestinationNat(Family::Ipv4)];
    batch.add_rule(Family::Ipv4, TABLE, TRACKING, &keep);
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

/// Spreads what is sent to `vip` over the slots. Each address has a chain and a map of its own, so
/// that a change of one touches no other, and of the map what changed.
fn change(batch: &mut Batch, vip: Ipv4Addr, before: Option<&Placed>, slots: &[Ipv4Addr]) {
    let (chain, map) = (chain_of(vip), map_of(vip));
    if before.is_none() {
        batch.add_address_map(TABLE, &map);
        batch.add_chain(Family::Ipv4, TABLE, &chain);
        let verdict = Data::Verdict(Verdict::Goto(chain.clone()));
        let element = Element::ipv4(vip).to(verdict);
        batch.add_elements(Family::Ipv4, TABLE, VIRTUAL, &[element]);
    }
    let old = before.map(|before| &before.slots[..]).unwrap_or_default();
    let element =
        |slot: usize, task: Ipv4Addr| Element::number(slot as u32, Data::Address(task.into()));
    let missing = |from: &[Ipv4Addr], of: &[Ipv4Addr]| -> Vec<Element> {
        let of = of.iter().enumerate();
        of.filter(|(slot, task)| from.get(*slot) != Some(task))
            .map(|(slot, task)| element(slot, *task))
            .collect()
    };
    batch.delete_elements(Family::Ipv4, TABLE, &map, &missing(slots, old));
    batch.add_elements(Family::Ipv4, TABLE, &map, &missing(old, slots));
    if before.is_some() && old.len() == slots.len() {
        return;
    }
    if before.is_some() {
        batch.flush_chain(Family::Ipv4, TABLE, &chain);
    }
    if !slots.is_empty() {
        let steps = [
            Step::Random(slots.len() as u32),
            Step::Translate(map),
            Step::DestinationNat(Family::Ipv4),
        ];
        batch.add_rule(Family::Ipv4, TABLE, &chain, &steps);
    }
    // Nobody has the address itself. A flow that went there untranslated would stay so; what is
    // dropped is tried again by its sender, and reaches a task as soon as there is one.
    batch.add_rule(Family::Ipv4, TABLE, &chain, &[Step::Verdict(Verdict::Drop)]);
}

fn forget(batch: &mut Batch, vip: Ipv4Addr) {
    let (chain, map) = (chain_of(vip), map_of(vip));
    let verdict = Data::Verdict(Verdict::Goto(chain.clone()));
    let element = Element::ipv4(vip).to(verdict);
    batch.delete_elements(Family::Ipv4, TABLE, VIRTUAL, &[element]);
    batch.delete_chain(Family::Ipv4, TABLE, &chain);
    batch.delete_set(Family::Ipv4, TABLE, &map);
}

fn chain_of(vip: Ipv4Addr) -> String {
    format!("vip-{vip}")
}

fn map_of(vip: Ipv4Addr) -> String {
    format!("tasks-{vip}")
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::process::Command;
    use std::time::{Duration, Instant};

    use proptest::prelude::*;

    use super::*;
    use crate::linux::netns::tests::in_namespace;

    #[test]
    fn rules_follow_the_balances() {
        in_namespace(|| {
            let mut sandbox = Sandbox::default();
            sandbox.apply(&Balances::new()).unwrap();
            assert_eq!(nft("list ruleset"), "");

            let wanted = balances(&[(2, &[3, 4]), (5, &[])]);
            sandbox.apply(&wanted).unwrap();
            assert_eq!(tasks(2), [3, 4]);
            assert_eq!(tasks(5), [0; 0]);
            let shown = nft("list ruleset");
            assert!(shown.contains("10.0.0.5 : goto vip-10.0.0.5"), "{shown}");
            assert!(sandbox.is_in_force(&wanted));

            sandbox.apply(&balances(&[(2, &[6])])).unwrap();
            assert_eq!(tasks(2), [6]);
            assert!(!nft("list ruleset").contains("10.0.0.5"));

            // Somebody flushes the rules behind our back.
            nft("flush ruleset");
            sandbox.apply(&balances(&[(2, &[7])])).unwrap();
            assert_eq!(tasks(2), [7]);

            // Another life of the daemon knows nothing of what is there.
            let mut again = Sandbox::inherited();
            again.apply(&balances(&[(2, &[8])])).unwrap();
            assert_eq!(tasks(2), [8]);
            Sandbox::inherited().apply(&Balances::new()).unwrap();
            assert!(!nft("list ruleset").contains("10.0.0.2"));
        });
    }

    #[test]
    fn a_change_costs_what_changed() {
        let many: Vec<u8> = (100..200).collect();
        let mut sizes = Vec::new();
        for services in [1, 90] {
            let mut wanted: Balances = (2..=services)
                .map(|vip| (ip(&vip), balance(&[100, 101])))
                .collect();
            wanted.insert(ip(&1), balance(&many));
            let mut sandbox = Sandbox::default();
            sandbox.note(&wanted);
            wanted.insert(ip(&1), balance(&many[1..]));
            sizes.push(sandbox.plan(&wanted).batch.size());
        }
        println!("one of 100 tasks gone, among 1 and 90 services: {sizes:?} bytes");
        assert_eq!(sizes[0], sizes[1]);
        assert!(sizes[0] < 1024, "{sizes:?}");
    }

    #[test]
    fn connections_outlive_the_last_task() {
        in_namespace(|| {
            for command in [
                "link set lo up",
                "address add 10.0.0.2/32 dev lo",
                "address add 10.0.0.3/32 dev lo",
            ] {
                let done = Command::new("ip").args(command.split(' ')).status();
                assert!(done.unwrap().success());
            }
            let mut sandbox = Sandbox::default();
            sandbox.apply(&balances(&[(2, &[3])])).unwrap();
            let server = std::net::TcpListener::bind("10.0.0.3:80").unwrap();
            let client = std::net::TcpStream::connect("10.0.0.2:80").unwrap();
            let (accepted, _) = server.accept().unwrap();
            sandbox.apply(&balances(&[])).unwrap();
            for (mut from, mut to) in [(&client, &accepted), (&accepted, &client)] {
                let patience = Some(Duration::from_secs(5));
                to.set_read_timeout(patience).unwrap();
                std::io::Write::write_all(&mut from, b"still").unwrap();
                let mut read = [0; 5];
                std::io::Read::read_exact(&mut to, &mut read).unwrap();
                assert_eq!(&read, b"still");
            }
        });
    }

    #[test]
    fn flows_without_connections_leave_a_task_that_is_gone() {
        in_namespace(|| {
            for last in [2, 3, 4] {
                let address = format!("10.0.0.{last}/32");
                let arguments = ["address", "add", &address, "dev", "lo"];
                Command::new("ip").args(arguments).status().unwrap();
            }
            let up = ["link", "set", "lo", "up"];
            Command::new("ip").args(up).status().unwrap();
            let server = |last: u8| {
                let server = UdpSocket::bind((ip(&last), 53)).unwrap();
                server.set_nonblocking(true).unwrap();
                server
            };
            let (three, four) = (server(3), server(4));
            let received = |server: &UdpSocket| server.recv(&mut [0; 8]).is_ok();
            let client = UdpSocket::bind("10.0.0.2:0").unwrap();
            let send = || drop(client.send_to(b"hello", "10.0.0.2:53"));

            let mut sandbox = Sandbox::default();
            sandbox.apply(&balances(&[(2, &[3])])).unwrap();
            send();
            assert!(received(&three));
            // One that was told to stop keeps what it has.
            let mut stopping = Balance::default();
            stopping.stopping.insert(ip(&3));
            stopping.ready.insert(ip(&4));
            let stopping = Balances::from([(ip(&2), Arc::new(stopping))]);
            sandbox.apply(&stopping).unwrap();
            send();
            assert!(received(&three) && !received(&four));
            sandbox.apply(&balances(&[(2, &[4])])).unwrap();
            send();
            assert!(!received(&three) && received(&four));
            // What is sent while there is none is not kept from one that comes.
            sandbox.apply(&balances(&[(2, &[])])).unwrap();
            send();
            assert!(!received(&three) && !received(&four));
            sandbox.apply(&balances(&[(2, &[3])])).unwrap();
            send();
            assert!(received(&three));
        });
    }

    /// Prints what hundreds of services cost.
    #[test]
    fn hundreds_of_services_are_brought_into_force_at_once() {
        in_namespace(|| {
            let ip = |n: u32| Ipv4Addr::from(0x0a00_0000 + n);
            let balance = |n: u32| {
                let ready = (0..10).map(|task| ip(n * 16 + 1 + task)).collect();
                let stopping = BTreeSet::new();
                Arc::new(Balance { ready, stopping })
            };
            let mut wanted: Balances = (1..=500).map(|n| (ip(n * 16), balance(n))).collect();
            let mut sandbox = Sandbox::default();
            let begin = Instant::now();
            sandbox.apply(&wanted).unwrap();
            let first = begin.elapsed();
            let mut less = (*wanted[&ip(16)]).clone();
            less.ready.pop_first();
            wanted.insert(ip(16), Arc::new(less));
            let size = sandbox.plan(&wanted).batch.size();
            let begin = Instant::now();
            sandbox.apply(&wanted).unwrap();
            let change = begin.elapsed();
            println!(
                "500 services of 10 tasks: {first:?}; one task less: {change:?}, {size} bytes"
            );
            assert!(change < Duration::from_secs(5));
        });
    }

    proptest! {
        #[test]
        fn slots_have_no_gaps_and_move_no_more_than_needed(
            before: BTreeSet<Ipv4Addr>, after: BTreeSet<Ipv4Addr>,
        ) {
            let of = |ready: &BTreeSet<Ipv4Addr>| Balance { ready: ready.clone(), ..Balance::default() };
            let old = place(&[], &of(&before));
            let new = place(&old, &of(&after));
            prop_assert_eq!(&new.iter().copied().collect::<BTreeSet<_>>(), &after);
            prop_assert_eq!(new.len(), after.len());
            let moved = new.iter().zip(&old).filter(|(new, old)| new != old).count();
            let gone = before.difference(&after).count();
            prop_assert!(moved <= gone);
        }
    }

    impl Sandbox {
        fn note(&mut self, balances: &Balances) {
            let plan = self.plan(balances);
            self.applied = Some(plan.changed);
        }
    }

    fn nft(command: &str) -> String {
        let output = Command::new("nft").args(command.split(' ')).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    /// The last numbers of the addresses in a map, as the kernel has them.
    fn tasks(vip: u8) -> Vec<u8> {
        let shown = nft(&format!("list map ip weave tasks-10.0.0.{vip}"));
        let found = shown.split(" : 10.0.0.").skip(1);
        let number = |text: &str| text.split([',', ' ']).next().unwrap().trim().parse();
        let mut found: Vec<_> = found.map(|text| number(text).unwrap()).collect();
        found.sort_unstable();
        found
    }

    fn ip(last: &u8) -> Ipv4Addr {
        Ipv4Addr::from([10, 0, 0, *last])
    }

    fn balance(ready: &[u8]) -> Arc<Balance> {
        let ready = ready.iter().map(ip).collect();
        let stopping = BTreeSet::new();
        Arc::new(Balance { ready, stopping })
    }

    fn balances(of: &[(u8, &[u8])]) -> Balances {
        let of = of.iter();
        of.map(|(vip, ready)| (ip(vip), balance(ready))).collect()
    }
}
