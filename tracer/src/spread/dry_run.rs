//! `tracer spread --dry-run`: the connections as they are, and as they would be.

use std::fmt::Write as _;

use super::{
    projection::{self, Projection},
    start,
};
use crate::{
    capacity::capacity,
    config::{KernelConfig, SpreadConfig},
    error::Error,
    netns::Worker,
    trace,
};

/// The text to print.
///
/// # Errors
/// As `tracer spread`, and as `tracer tuples`.
pub fn run(kernel: &KernelConfig, config: &SpreadConfig) -> Result<String, Error> {
    let netns = start::namespace(config.netns.as_ref())?;
    let worker = Worker::spawn()
        .map_err(|error| Error::Failure(format!("cannot start a thread: {error}")))?;
    let inside = start::look(&worker, &netns, &config.pool).map_err(start::cannot_look)?;
    let pool = start::pool(config, &inside)?;
    start::places(&config.cgroups)?;
    let mut tracer = trace::start(kernel, 0, tracer_common::Filter::default())?;
    let mut blocked = Vec::new();
    tracer.session.maps.binds(|key, bound| {
        if bound.place.netns == netns.inum {
            blocked.push(key.port);
        }
    })?;
    let capacity = capacity(&inside.range, blocked.into_iter());
    tracer.read_tuples()?;
    let destinations = config.destinations();
    let tuples = tracer.tuples().iter().filter(|(key, _)| {
        let wanted = destinations.is_empty()
            || destinations.iter().any(|to| to.contains(&key.destination, key.destination_port));
        key.netns == netns.inum && wanted
    });
    let found = projection::project(
        tuples.map(|(key, count)| (*key, count.in_use())),
        capacity,
        |destination| {
            let v4 = destination.to_v4().is_some();
            pool.iter().filter(|member| member.address.to_v4().is_some() == v4).count()
        },
    );
    Ok(text(&found, pool.len(), capacity))
}

fn text(found: &[Projection], addresses: usize, capacity: u32) -> String {
    let mut out = format!(
        "pool of {addresses} addresses, {capacity} ports each; peak saturation {:.0} % -> {:.0} %\n",
        peak(found, |one| one.now),
        peak(found, |one| one.then),
    );
    if found.is_empty() {
        out.push_str("nothing is connected to these destinations now\n");
        return out;
    }
    out.push_str("DST:PORT                       PORTS  FULLEST    NOW   THEN\n");
    for one in found {
        let to = std::net::SocketAddr::new(start::address(one.destination), one.port).to_string();
        // Writing to a String cannot fail.
        _ = writeln!(
            out,
            "{to:<28} {:>7}  {:>7}  {:>3.0} %  {:>3.0} %",
            one.in_use,
            one.fullest,
            one.now * 100.0,
            one.then * 100.0
        );
    }
    out
}

fn peak(found: &[Projection], of: impl Fn(&Projection) -> f64) -> f64 {
    found.iter().map(of).fold(0.0, f64::max) * 100.0
}
