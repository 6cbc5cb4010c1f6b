//! What the comments of every program say: the load, what more addresses gain, and what to mind with these. And how they show
//! rates.

use std::net::{IpAddr, Ipv6Addr};

use super::{
    Basis, Plan, Program,
    block::{Block, addresses, count, list, short},
};

/// The first block: for which load the rest is, and what that load needs.
pub(super) fn head(program: Program, plan: &Plan) -> Block {
    let flow = plan.worst();
    let capacity = plan.settings.capacity;
    let range = &plan.settings.range;
    let block = Block::new(&format!("tracer advise {}", program.name()))
        .note("load", &load(plan))
        .note(
            "ports",
            &format!(
                "{} from one address to one destination (range {}-{}), each held for {} s: at most {} connections/s; \
                 connect() is fast up to {}/s",
                count(capacity.into()),
                range.low,
                range.high,
                decimal(flow.held_s()),
                short(flow.largest_rate(capacity)),
                short(flow.largest_fast_rate(capacity)),
            ),
        );
    let block = match plan.basis {
        Basis::Nothing => block,
        _ => block.note("needed", &needed(plan)),
    };
    plan.remarks.iter().fold(block, |block, remark| block.note("note", remark))
}

/// The load, and how it is known.
fn load(plan: &Plan) -> String {
    let flow = plan.worst();
    let closed = if flow.closes_first > 0.0 {
        "this host closes it first"
    } else {
        "it leaves no TIME_WAIT (mode http)"
    };
    let assumed =
        format!("assumed: a connection is open for {} s, and {closed}", decimal(flow.open_s));
    let seen = format!(
        "a connection is open for {} s; this host closes {} first",
        decimal(flow.open_s),
        percent(flow.closes_first)
    );
    let rate = format!("{} connections/s to one destination", rounded(flow.rate));
    match plan.basis {
        Basis::Given => format!("{rate} (--rate); {assumed}"),
        Basis::Recording { readings } => {
            format!("{rate} at the peak of {} readings; {seen}", count(readings))
        }
        Basis::Measured { seconds } => {
            format!("{rate}, measured for {} s; {seen}", decimal(seconds))
        }
        Basis::Nothing => {
            format!("not known ({}): give --rate or --from RECORDING; {assumed}", plan.no_load)
        }
    }
}

/// What the load needs so that connect() finds a port soon.
fn needed(plan: &Plan) -> String {
    let needed = plan.needed();
    if needed <= 1 {
        return "1 address is enough".to_owned();
    }
    let flow = plan.worst();
    let each = flow.requests_per_connection(flow.rate, plan.settings.capacity);
    format!(
        "{}, or 1 if each connection carries {} requests that have a connection of their own now",
        addresses(needed),
        count(each.into())
    )
}

/// A text for [`Block::gain`]: how many more connections/s the pool's addresses of this family allow; if the pool has no more
/// than are used now, it says so. `v4`: IPv4, else IPv6.
pub(super) fn gain(plan: &Plan, v4: bool) -> String {
    let flow = plan.worst();
    let capacity = plan.settings.capacity;
    let (now, then) = (plan.sources_now(v4), plan.pool_size(v4));
    if then <= now {
        return format!(
            "none: connections to one destination come from {} already, and the pool has {}",
            addresses(now),
            addresses(then)
        );
    }
    let rates = |sources: u32| {
        let all = flow.largest_rate(capacity) * f64::from(sources);
        let fast = flow.largest_fast_rate(capacity) * f64::from(sources);
        format!("{} connections/s (fast up to {}/s)", short(all), short(fast))
    };
    let ports = |sources: u32| count(u64::from(capacity) * u64::from(sources));
    let gain = format!(
        "to one destination from {} to {}: {} ports from {}, now {} from {}",
        rates(now),
        rates(then),
        ports(then),
        addresses(then),
        ports(now),
        addresses(now)
    );
    let few = plan.basis != Basis::Nothing && then < plan.needed();
    if few { format!("{gain}. {} are needed", addresses(plan.needed())) } else { gain }
}

/// What to mind with source addresses, whichever program uses them, as texts for [`Block::mind`]: those that the host lacks, a
/// NAT, allow-lists.
pub(super) fn of_addresses(plan: &Plan) -> Vec<String> {
    let mut notes = Vec::new();
    let missing: Vec<IpAddr> =
        plan.pool.iter().filter(|it| !it.is_here).map(|it| it.address).collect();
    if !missing.is_empty() {
        let them = list(&missing);
        notes.push(format!("not on this host yet: {them}. Add them before: tracer advise ip"));
    }
    let through = plan.pool.iter().any(|it| is_private(it.address))
        && plan.destinations.iter().any(|it| is_global(it.address));
    notes.push(if through {
        "a NAT is between these addresses and the destinations. It has ports of its own, and more addresses here do not \
         help if it maps them to the same one"
            .to_owned()
    } else {
        "if a NAT is behind this host and maps these addresses to one, they do not help".to_owned()
    });
    notes.push(
        "allow-lists, firewalls and rate limits of the upstream must know these addresses"
            .to_owned(),
    );
    notes
}

/// Whether the address is of a private network: RFC 1918, 100.64.0.0/10, fc00::/7.
fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            v4.is_private() || (first == 100 && (64..128).contains(&second))
        }
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// Whether the address is one of the Internet, as far as this matters for NAT.
fn is_global(address: IpAddr) -> bool {
    let special = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6 == Ipv6Addr::UNSPECIFIED,
    };
    !is_private(address) && !address.is_loopback() && !special
}

/// A number with at most two decimals, without trailing zeros: `62.15`, `0.1`, `5`.
pub(super) fn decimal(number: f64) -> String {
    let text = format!("{number:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A rate: the nearest whole number from 10 on, else at most two decimals; `less than 0.01` if it is smaller, but not 0.
pub(super) fn rounded(rate: f64) -> String {
    match rate {
        _ if rate > 0.0 && rate < 0.01 => "less than 0.01".to_owned(),
        _ if rate < 10.0 => decimal(rate),
        _ => short(rate.round()),
    }
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nat_is_certain_only_from_a_private_to_a_global_address() {
        let of = |texts: &[&str], is: fn(IpAddr) -> bool| {
            texts.iter().all(|text| is(text.parse().unwrap()))
        };
        assert!(of(
            &["10.0.0.1", "172.31.0.1", "192.168.1.1", "100.64.0.1", "fd00::1"],
            is_private
        ));
        assert!(
            !is_private("100.128.0.1".parse().unwrap())
                && !is_private("172.32.0.1".parse().unwrap())
        );
        assert!(of(&["8.8.8.8", "100.128.0.1", "2600::1"], is_global));
        for here in ["127.0.0.1", "::1", "169.254.1.1", "fe80::1", "10.0.0.1"] {
            assert!(!is_global(here.parse().unwrap()), "{here}");
        }
    }

    #[test]
    fn numbers_have_no_more_decimals_than_they_need() {
        assert_eq!([62.148, 0.1, 5.0, 100.0].map(decimal), ["62.15", "0.1", "5", "100"]);
        assert_eq!([0.0, 0.5, 612.4, 1_000.0].map(rounded), ["0", "0.5", "612", "1,000"]);
        assert_eq!([0.000_1, 0.01].map(rounded), ["less than 0.01", "0.01"]);
    }
}
