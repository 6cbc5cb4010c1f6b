//! `tracer spread --dry-run --from FILE`: finds the peaks of a recording, and computes what they would be with the pool.

mod reader;

use std::{fmt::Write as _, path::PathBuf};

use super::{
    addresses::{self, Host},
    destinations,
    dry_run::{text, weights},
    notes::Notes,
    pool::{self, PoolAddress},
    projection, start,
};
use crate::{config::SpreadConfig, error::Error, host::capacity};
use reader::Recording;

/// The text to print: notes on the pool, then for each network namespace the peaks towards each destination, as they were
/// and as they would be with the pool.
///
/// # Errors
/// A recording cannot be opened or read, is a damaged zstd file, or has a line that is not one of `tracer record` or has 1 MiB or
/// more (a last line that is cut short is no error); none has a `tuple.stats` about the destinations; no `--pool` value gives an
/// address; this host's addresses cannot be read; with `--pool auto`, the routes cannot be read, do not say which interfaces it
/// means, or lead to too many networks for one rule.
pub fn run(config: &SpreadConfig) -> Result<String, Error> {
    let listed = pool::listed(&config.pool);
    let mut host = Host::read(listed)
        .map_err(|error| Error::Failure(format!("cannot read this host's addresses: {error}")))?;
    let reaches = addresses::reaches(&destinations::networks(&config.targets), &host)
        .map_err(|error| error.to_string());
    host.auto = start::auto_choice(config, &reaches)?;
    // This host need not have the addresses: the recording may be of another host, or they may still have to be added.
    let pool: Vec<PoolAddress> = pool::members(&config.pool, &host)
        .into_iter()
        .map(|member| PoolAddress { address: pool::to_addr(member.address), weight: member.weight })
        .collect();
    if pool.is_empty() {
        return Err(Error::BadConfig("--pool has no address on this host".to_owned()));
    }
    let notes = Notes::new(&config.pool, &host, reaches.as_deref().unwrap_or_default());
    let destinations = host.auto.destinations(&config.destinations());
    let mut recording = Recording::new(destinations);
    for path in &config.from {
        recording.read(path)?;
    }
    let namespaces = recording.finish();
    if namespaces.is_empty() {
        return Err(no_stats(&config.from, recording.lines()));
    }
    if recording.left_out() > 0 {
        tracing::warn!(
            "limit reached: {} lines about further tuples or destinations are left out",
            recording.left_out()
        );
    }
    let several = namespaces.len() > 1;
    let mut out = format!("{}peaks of {} readings\n", notes.text(), recording.readings());
    for (netns, found) in &namespaces {
        // Writing to a String cannot fail.
        if several {
            _ = writeln!(out, "network namespace {netns}:");
        }
        let capacity = found.capacity.unwrap_or_else(|| {
            out.push_str("the recording does not say how many ports there were; assumed: Linux's default range\n");
            let range = capacity::PortRange::default();
            u32::from(range.high - range.low) + 1
        });
        let projected =
            projection::of_peaks(&found.peaks, capacity, |destination| weights(&pool, destination));
        out.push_str(&text(&projected, pool.len(), capacity));
    }
    Ok(out)
}

/// The error for recordings without a usable line.
fn no_stats(files: &[PathBuf], lines: u64) -> Error {
    let files: Vec<_> = files.iter().map(|file| file.display().to_string()).collect();
    Error::Failure(format!(
        "{}: none of {lines} lines is a tuple.stats about these destinations; record with `tracer record \
         --events stats` for at least one --interval",
        files.join(", ")
    ))
}
