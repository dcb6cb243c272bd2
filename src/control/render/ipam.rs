//! Addresses: who owns how many, and how many are in use.

use comfy_table::Table;

use super::Section;
use super::table::{State, cell, finish, header, printable, state_cell};
use crate::control::Report;

pub(super) fn ipam(report: &Report, mut table: Table) -> String {
    let Some(ipam) = &report.ipam else {
        return format!("no {}\n", Section::Ipam);
    };
    let mut text = format!("{}: {}\n", ipam.state, ipam.reason);
    if !ipam.pending.is_empty() {
        let waiting: Vec<_> = ipam
            .pending
            .iter()
            .map(|(what, n)| format!("{n} {what}"))
            .collect();
        text += &format!("waiting: {}\n", waiting.join(", "));
    }
    for conflict in &ipam.conflicts {
        text += &format!("conflict: {}\n", printable(conflict));
    }
    if ipam.ring.is_none() {
        return text;
    }
    text.push('\n');
    let heads = ["SUBNET", "PEER", "ADDRESSES", "SHARE", "IN USE", "REACHED"];
    header(&mut table, &heads);
    let percent = |thousandths: u32| format!("{}.{} %", thousandths / 10, thousandths % 10);
    for space in &ipam.spaces {
        for share in &space.peers {
            let (reached, state) = match share.reachable {
                true => ("yes", State::Good),
                false => ("no", State::Bad),
            };
            table.add_row([
                cell(space.subnet),
                cell(&share.nickname),
                cell(share.addresses),
                cell(percent(share.share)),
                cell(share.active),
                state_cell(reached, state),
            ]);
        }
    }
    finish(&mut text, &table);
    for space in &ipam.spaces {
        for (number, whose) in [
            (space.unreachable, "of peers that cannot be reached"),
            (space.unaccounted, "of no peer that is known"),
        ] {
            if number > 0 {
                text += &format!("{}: {number} addresses {whose}\n", space.subnet);
            }
        }
    }
    text
}
