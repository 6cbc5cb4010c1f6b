//! nginx: connections that are kept, and new ones spread over source addresses.

use std::net::IpAddr;

use super::{
    Basis, Plan, Version,
    block::{Block, count, socket},
    groups::{Group, groups},
    notes::{self, rounded},
};

/// From this version on, each `upstream` block has `keepalive 32 local`, and HTTP/1.1 without `Connection: close` is the default.
const KEEPS_BY_DEFAULT: Version = Version(1, 29, 7);
/// The size of `keepalive` that these versions have by default, and the least that is advised.
const LEAST_KEPT: u32 = 32;
/// Before this version, a connection is closed after 100 requests by default; from it on, after 1,000.
const THOUSAND_REQUESTS: Version = Version(1, 19, 10);
/// Requests of one connection, if `keepalive_requests` has that value.
const REQUESTS: u32 = 1_000;
/// From this version on, `keepalive_requests` can be in an `upstream` block.
const HAS_REQUESTS: Version = Version(1, 15, 3);

/// The blocks: for each upstream one in `http` and one in its location; for each family of which the pool has several addresses,
/// one that chooses the source. None without destinations.
pub(super) fn blocks(plan: &Plan) -> Vec<Block> {
    let groups = groups(plan, true);
    let upstreams = u32::try_from(groups.len()).unwrap_or(u32::MAX);
    let mut blocks = Vec::new();
    blocks.extend(groups.iter().map(|group| upstream(plan, group, upstreams)));
    for v4 in [true, false] {
        let sources = plan.family(v4);
        if sources.len() > 1 && groups.iter().any(|group| group.has(v4)) {
            blocks.push(split(plan, &sources, v4));
        }
    }
    blocks.extend(groups.iter().map(|group| location(plan, group)));
    blocks
}

fn keeps_by_default(plan: &Plan) -> bool {
    plan.version.is_some_and(|version| version >= KEEPS_BY_DEFAULT)
}

/// How many idle connections a worker keeps to an upstream with this peak: a power of two that its peak of open ones does not
/// exceed, at least 32; less if a worker's idle ones would take more than half of its descriptors. `upstreams`: at least 1.
fn kept(plan: &Plan, peak: f64, upstreams: u32) -> u32 {
    let of_worker = (peak / f64::from(plan.workers.unwrap_or(1).max(1))).ceil();
    // More than the largest number of ports is of no use.
    let size = (1..=16).map(|bits| 1_u32 << bits).find(|size| f64::from(*size) >= of_worker);
    let size = size.unwrap_or(1 << 16).max(LEAST_KEPT);
    let room = plan.descriptors.map_or(u32::MAX, |limit| limit / 2 / upstreams.max(1));
    size.min(room).max(1)
}

fn upstream(plan: &Plan, group: &Group<'_>, upstreams: u32) -> Block {
    let size = kept(plan, group.peak(), upstreams);
    let mut block =
        Block::new(&format!("Keep connections to upstream {} open: in http {{ }}", group.name));
    block = block.gain(&gain(plan, group)).mind(mind(plan, size)).undo(
        "restore the former upstream and location, then nginx -s reload: kept connections end with the old workers",
    );
    block.line(format!("upstream {} {{", group.name));
    for destination in &group.destinations {
        block.line(format!("    server {};", socket(destination.address, destination.port)));
    }
    if !keeps_by_default(plan) {
        block.line("    # least_conn, hash and other balancers stand here: after keepalive they would replace it");
    }
    if size != LEAST_KEPT || !keeps_by_default(plan) {
        block.line(format!("    keepalive {size};"));
    }
    if plan.version.is_some_and(|it| (HAS_REQUESTS..THOUSAND_REQUESTS).contains(&it)) {
        block.line(format!("    keepalive_requests {REQUESTS};"));
    }
    block.line("}");
    block
}

/// What kept connections gain: fewer connections for the same requests.
fn gain(plan: &Plan, group: &Group<'_>) -> String {
    let rate = group.rate();
    if plan.basis == Basis::Nothing {
        return format!(
            "up to {} requests use one connection, and so one port",
            count(REQUESTS.into())
        );
    }
    format!(
        "from {} connections/s to {} at best: with one for {} requests (keepalive_requests), if each request has a \
         connection of its own now",
        rounded(rate),
        rounded(rate / f64::from(REQUESTS)),
        count(REQUESTS.into())
    )
}

fn mind(plan: &Plan, size: u32) -> Vec<String> {
    let mut notes = Vec::new();
    match (plan.basis, plan.workers) {
        (Basis::Nothing, _) => notes.push(format!(
            "{size} is for each worker, and the least that is advised: it must reach the most connections that one worker \
             has open to this upstream"
        )),
        (_, Some(1)) => notes.push(format!(
            "{size} is for the only worker, and the next power of two above the most connections that it has open; each miss \
             leaves a TIME_WAIT here"
        )),
        (_, Some(workers)) => notes.push(format!(
            "{size} is for each of {} workers, and the next power of two above the most connections that one has open; \
             each miss leaves a TIME_WAIT here",
            count(workers.into())
        )),
        (_, None) => notes.push(format!(
            "{size} is for each worker. The number of workers is not known, so it is enough for one that does all; each \
             miss leaves a TIME_WAIT here"
        )),
    }
    notes.push(
        "keepalive_timeout (60 s by default) must be below the idle time-out of the upstream and of a NAT between (Azure \
         240 s, AWS 350 s)"
            .to_owned(),
    );
    if plan.version.is_none_or(|it| it < HAS_REQUESTS) {
        notes.push(
            "before nginx 1.19.10, keepalive_requests is 100 by default: set it to 1000".to_owned(),
        );
    }
    if !keeps_by_default(plan) {
        notes.push(
            "all three are needed: keepalive here, proxy_http_version and the empty Connection in the location. The last two \
             alone make nginx close first, and fill the ports faster"
                .to_owned(),
        );
    }
    notes
}

fn variable(plan: &Plan, v4: bool) -> String {
    let both = [true, false].iter().all(|v4| plan.family(*v4).len() > 1);
    match (both, v4) {
        (false, _) => "$tracer_source".to_owned(),
        (true, true) => "$tracer_source_v4".to_owned(),
        (true, false) => "$tracer_source_v6".to_owned(),
    }
}

fn split(plan: &Plan, sources: &[IpAddr], v4: bool) -> Block {
    let variable = variable(plan, v4);
    let mut block = Block::new(&format!(
        "Spread new connections over {} source addresses: in http {{ }}",
        sources.len()
    ));
    block = block.gain(&notes::gain(plan, v4)).mind(notes::of_addresses(plan)).mind([
        "proxy_bind is ignored where nginx takes a kept connection: it spreads connections, not requests",
        "an address that this host does not have gives 500 and bind() failed (99",
        "$request_id is of http { }; in stream { } the key is \"$remote_addr$remote_port\"",
    ]);
    block = block.undo("remove proxy_bind from the location and this block, then nginx -s reload");
    block.line(format!("split_clients \"$request_id\" {variable} {{"));
    for (source, percent) in sources.iter().zip(percentages(sources.len())) {
        block.line(format!("    {percent:<7} {source};"));
    }
    block.line("}");
    block
}

/// The shares of `split_clients` for so many addresses: each that of all but the last, in hundredths of a percent rounded down,
/// and `*`, the rest.
fn percentages(addresses: usize) -> impl Iterator<Item = String> {
    let hundredths = 10_000_usize.checked_div(addresses).unwrap_or(0);
    let share = format!("{}.{:02}%", hundredths / 100, hundredths % 100);
    std::iter::repeat_n(share, addresses.saturating_sub(1)).chain(std::iter::once("*".to_owned()))
}

fn location(plan: &Plan, group: &Group<'_>) -> Block {
    let v4 = group.has(true);
    let mut block = Block::new(&format!("Use upstream {}: in its location {{ }}", group.name));
    let mut minds = vec![
        "proxy_pass must name the upstream: with an address or a variable, nginx keeps no connection".to_owned(),
    ];
    if !keeps_by_default(plan) {
        minds.push(
            "proxy_set_header lines of outer blocks do not count in a location that has one: repeat them there".to_owned(),
        );
    }
    block = block.mind(minds);
    block.line(format!("proxy_pass http://{};", group.name));
    if !keeps_by_default(plan) {
        block.line("proxy_http_version 1.1;");
        block.line("proxy_set_header Connection \"\";");
    }
    if plan.family(v4).len() > 1 {
        block.line(format!("proxy_bind {};", variable(plan, v4)));
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advise::tests::plan;

    #[test]
    fn percentages_add_up_for_every_number_of_addresses() {
        for addresses in 1..=256 {
            let all: Vec<String> = percentages(addresses).collect();
            assert_eq!(all.len(), addresses);
            assert_eq!(all.last().map(String::as_str), Some("*"));
            let hundredths = |text: &String| -> u32 {
                let (whole, part) = text.strip_suffix('%').unwrap().split_once('.').unwrap();
                assert_eq!(part.len(), 2, "{text}");
                whole.parse::<u32>().unwrap() * 100 + part.parse::<u32>().unwrap()
            };
            let shares: Vec<u32> = all[..addresses - 1].iter().map(hundredths).collect();
            let rest = 10_000 - shares.iter().sum::<u32>();
            // No address gets nothing, and the last one gets no less than the others, and at most all that rounding leaves.
            assert!(shares.iter().all(|share| *share > 0 && *share <= rest), "{addresses}");
            assert!(rest < 10_000 / u32::try_from(addresses).unwrap() + 256, "{addresses}: {rest}");
        }
    }

    #[test]
    fn as_many_connections_are_kept_as_a_worker_has_open() {
        let mut plan = plan(1);
        for (peak, workers, expected) in [
            (0.0, None, 32),
            (32.0, None, 32),
            (33.0, None, 64),
            (1_000.0, Some(4), 256),
            (1e9, Some(1), 65_536),
        ] {
            plan.workers = workers;
            assert_eq!(kept(&plan, peak, 1), expected, "{peak} {workers:?}");
        }
    }

    #[test]
    fn idle_connections_take_at_most_half_of_the_descriptors() {
        let mut plan = plan(1);
        plan.descriptors = Some(1_024);
        assert_eq!(kept(&plan, 2_000.0, 1), 512);
        assert_eq!(kept(&plan, 2_000.0, 4), 128);
        assert_eq!(kept(&plan, 100.0, 4), 128);
        assert_eq!(kept(&plan, 10.0, 10_000), 1);
    }
}
