//! The translation of addresses where this host stands between a segment and the world, in a table
//! of our own.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use crate::linux::nftables::{
    Batch, ChainKind, Family, Hook, NftError, PRIORITY_SOURCE_NAT, Step, Verdict,
};

const TABLE: &str = "weave-expose";
const CHAIN: &str = "postrouting";

/// Where addresses are in the header of IPv4 (RFC 791, section 3.1).
const SOURCE: Step = Step::NetworkHeader {
    offset: 12,
    length: 4,
};
const DESTINATION: Step = Step::NetworkHeader {
    offset: 16,
    length: 4,
};

/// Gives what passes between these subnets and the world this host's address; what stays within
/// one, and multicast, is left alone.
pub(super) fn masquerade(subnets: &BTreeSet<IpNet>) -> Result<(), NftError> {
    let ipv4: Vec<Ipv4Net> = subnets
        .iter()
        .filter_map(|subnet| match subnet {
            IpNet::V4(net) => Some(*net),
            IpNet::V6(_) => None,
        })
        .collect();
    let mut batch = Batch::new();
    batch.add_table(Family::Ipv4, TABLE);
    batch.delete_table(Family::Ipv4, TABLE);
    if !ipv4.is_empty() {
        fill(&mut batch, &ipv4);
    }
    match batch.apply() {
        // Without subnets there is nothing to miss.
        Err(error) if ipv4.is_empty() && error.is_unsupported() => Ok(()),
        result => result,
    }
}

fn fill(batch: &mut Batch, subnets: &[Ipv4Net]) {
    batch.add_table(Family::Ipv4, TABLE);
    batch.add_base_chain(
        Family::Ipv4,
        TABLE,
        CHAIN,
        ChainKind::Nat,
        Hook::Postrouting,
        PRIORITY_SOURCE_NAT,
    );
    let mut rule = |steps: &[Step]| batch.add_rule(Family::Ipv4, TABLE, CHAIN, steps);
    let multicast = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);
    let is_multicast = [
        DESTINATION,
        mask(multicast),
        Step::Equals(network(multicast)),
    ];
    rule(&[&is_multicast[..], &[Step::Verdict(Verdict::Return)]].concat());
    for subnet in subnets {
        for (inside, outside) in [(SOURCE, DESTINATION), (DESTINATION, SOURCE)] {
            rule(&[
                inside,
                mask(*subnet),
                Step::Equals(network(*subnet)),
                outside,
                mask(*subnet),
                Step::Differs(network(*subnet)),
                Step::Masquerade,
            ]);
        }
    }
}

fn mask(net: Ipv4Net) -> Step {
    Step::Mask(net.netmask().octets().to_vec())
}

fn network(net: Ipv4Net) -> Vec<u8> {
    net.network().octets().to_vec()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use crate::linux::netns::NetNs;

    use super::*;

    #[test]
    fn subnets_are_masqueraded_towards_the_world_and_back() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let rules = |subnets: &[&str]| {
            masquerade(&subnets.iter().map(|s| s.parse().unwrap()).collect()).unwrap();
            let output = Command::new("nft").args(["list", "ruleset"]).output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        };
        let in_namespace = || {
            assert_eq!(rules(&[]), "");
            let shown = rules(&["10.32.0.0/12", "10.2.1.0/24"]);
            for rule in [
                "ip daddr 224.0.0.0/4 return",
                "ip saddr 10.32.0.0/12 ip daddr != 10.32.0.0/12 masquerade",
                "ip daddr 10.2.1.0/24 ip saddr != 10.2.1.0/24 masquerade",
            ] {
                assert!(shown.contains(rule), "{rule}: {shown}");
            }
            let shown = rules(&["10.2.1.0/24"]);
            assert!(!shown.contains("10.32.0.0"), "{shown}");
            assert_eq!(rules(&[]), "");
        };
        NetNs::anonymous().unwrap().run(in_namespace).unwrap();
    }
}
