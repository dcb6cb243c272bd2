//! What the kernel has to offer so that virtual addresses can be translated.

use std::io;

use crate::linux::conntrack;
use crate::linux::netns::NetNs;
use crate::linux::nftables::{
    Batch, ChainKind, Data, Element, Family, Hook, KeyType, NftError, PRIORITY_DESTINATION_NAT,
    Step,
};

const TABLE: &str = "probe";
const CHAIN: &str = "probe";
const MAP: &str = "probe";

/// What is missing, and what follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Support {
    /// Without this nothing is translated.
    pub(super) unsupported: Option<String>,
    /// Without this flows stay with tasks that are gone until they are idle for long enough.
    pub(super) no_flows: Option<String>,
}

/// What it is called, and what uses it.
type Feature = (&'static str, fn(&mut Batch));

/// One thing after the other, with what it takes in the kernel. Each builds on those before it.
const FEATURES: [Feature; 4] = [
    (
        "tables with maps (CONFIG_NF_TABLES, CONFIG_NF_TABLES_IPV4)",
        tables,
    ),
    (
        "chains that translate (CONFIG_NF_NAT, CONFIG_NFT_NAT)",
        chains,
    ),
    ("the choice of a task at random (CONFIG_NFT_NUMGEN)", random),
    (
        "translated destinations (CONFIG_NFT_NAT, CONFIG_NF_CONNTRACK)",
        destinations,
    ),
];

const FLOWS: &str = "the table of flows (CONFIG_NF_CT_NETLINK)";

/// Tries in a namespace apart what the kernel can do.
///
/// # Errors
/// When there is no namespace to try it in.
pub(super) fn probe() -> io::Result<Support> {
    NetNs::anonymous()?.run(|| find(Batch::apply, || conntrack::flows().map(drop)))
}

fn find(
    apply: impl Fn(&Batch) -> Result<(), NftError>,
    flows: impl FnOnce() -> io::Result<()>,
) -> Support {
    let missing = FEATURES.iter().find_map(|(name, add)| {
        let mut batch = Batch::new();
        add(&mut batch);
        let error = apply(&batch).err()?;
        Some(format!("the kernel lacks {name}: {error}"))
    });
    let no_flows = flows().err();
    Support {
        no_flows: match missing {
            // Nothing is translated then.
            Some(_) => None,
            None => no_flows.map(|error| format!("the kernel lacks {FLOWS}: {error}")),
        },
        unsupported: missing,
    }
}

fn tables(batch: &mut Batch) {
    batch.replace_table(Family::Ipv4, TABLE);
    batch.add_verdict_map(Family::Ipv4, TABLE, "verdicts", KeyType::Ipv4);
    batch.add_address_map(TABLE, MAP);
    let element = Element::number(0, Data::Address([192, 0, 2, 1].into()));
    batch.add_elements(Family::Ipv4, TABLE, MAP, &[element]);
}

fn chains(batch: &mut Batch) {
    let (kind, hook) = (ChainKind::Nat, Hook::Output);
    batch.add_base_chain(
        Family::Ipv4,
        TABLE,
        CHAIN,
        kind,
        hook,
        PRIORITY_DESTINATION_NAT,
    );
}

fn random(batch: &mut Batch) {
    let steps = [Step::Random(1), Step::Translate(MAP.to_owned())];
    batch.add_rule(Family::Ipv4, TABLE, CHAIN, &steps);
}

fn destinations(batch: &mut Batch) {
    let steps = [
        Step::Random(1),
        Step::Translate(MAP.to_owned()),
        Step::DestinationNat(Family::Ipv4),
    ];
    batch.add_rule(Family::Ipv4, TABLE, CHAIN, &steps);
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn this_kernel_has_all() {
        if nix::unistd::geteuid().is_root() {
            assert_eq!(probe().unwrap(), Support::default());
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let missing = || io::Error::from_raw_os_error(libc::ENOENT);
        for (index, option) in ["NF_TABLES", "NF_NAT", "NFT_NUMGEN", "NF_CONNTRACK"]
            .into_iter()
            .enumerate()
        {
            let tried = Cell::new(0);
            let apply = |_: &Batch| match tried.replace(tried.get() + 1) == index {
                true => Err(NftError::Socket(missing())),
                false => Ok(()),
            };
            let unsupported = find(apply, || Ok(())).unsupported.unwrap();
            assert!(
                unsupported.contains(&format!("CONFIG_{option}")),
                "{unsupported}"
            );
        }
        let support = find(|_| Ok(()), || Err(missing()));
        assert_eq!(support.unsupported, None);
        assert!(support.no_flows.unwrap().contains("CONFIG_NF_CT_NETLINK"));
    }
}
