//! Lines for `ip -batch`: more source addresses, which the kernel does not choose by itself.

use std::net::IpAddr;

use super::{
    Basis, Plan,
    block::{Block, addresses},
    notes,
};

/// One block: a line for each address of the pool that the host does not have. Without lines, and with the reason, if
/// there is none, or the interface is not known.
pub(super) fn blocks(plan: &Plan) -> Vec<Block> {
    let missing: Vec<IpAddr> =
        plan.pool.iter().filter(|it| !it.is_here).map(|it| it.address).collect();
    let Some(interface) = &plan.interface else {
        return vec![Block::new(
            "No line to print: the destinations are reached by no interface, or by several. Name the destinations with --to",
        )];
    };
    if missing.is_empty() {
        return vec![none_missing(plan, interface)];
    }
    let mut block = Block::new(&format!(
        "Add {} to {interface}: ip -batch FILE",
        addresses(u32::try_from(missing.len()).unwrap_or(u32::MAX))
    ));
    block = block.gain(&notes::gain(plan, missing.iter().any(IpAddr::is_ipv4)));
    block = block.mind([
        "take addresses of the network that are free: an address that another host has breaks both. On a cloud, give them to \
         this interface as secondary addresses before, or its network drops what they send",
        "preferred_lft 0: connect() chooses such an address only for a program that names it (or with tracer spread)",
        "if answers do not come and IPReversePathFilter grows (nstat -az), rp_filter drops them: sysctl -w \
         net.ipv4.conf.all.rp_filter=2, or routes by source address",
    ]);
    if missing.iter().any(IpAddr::is_ipv6) {
        block = block.mind([
            "tracer spread refuses an IPv6 address with preferred_lft 0 (deprecated): leave it out for that",
        ]);
    }
    // That they are not on the host yet is what this is for.
    let here =
        Plan { pool: plan.pool.iter().filter(|it| it.is_here).copied().collect(), ..plan.clone() };
    block = block
        .mind(notes::of_addresses(&here))
        .mind(["they are gone after a reboot: the network's configuration keeps them"]);
    block = block.undo("the same lines with delete in place of add, and without preferred_lft 0");
    let line = |address: &IpAddr| {
        let length = if address.is_ipv4() { 32 } else { 128 };
        format!("address add {address}/{length} dev {interface} preferred_lft 0")
    };
    vec![block.lines(missing.iter().map(line))]
}

/// What to say if there is no address to add: how many would be needed.
fn none_missing(plan: &Plan, interface: &str) -> Block {
    let needed = plan.needed();
    if plan.pool.is_empty() {
        let many = if plan.basis == Basis::Nothing {
            "as many addresses as are needed".to_owned()
        } else {
            addresses(needed)
        };
        return Block::new(&format!(
            "No line to print: name {many} that are free in the network of {interface} with --pool FIRST-LAST"
        ));
    }
    Block::new("No line to print: this host has all addresses of the pool already")
        .gain(&notes::gain(plan, plan.pool.iter().any(|it| it.address.is_ipv4())))
}
