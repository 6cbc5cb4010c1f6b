//! `tracer advise --from`: the load of a recording.

use std::collections::BTreeMap;

use tracer_common::spread::Destination as Wanted;

use super::with_recorded;
use crate::{
    advise::{Basis, Destination, Plan, Seen},
    config::AdviseConfig,
    error::Error,
    recording::{Entry, Reader},
};

/// Names of network namespaces that are remembered at most.
const NAMES_MAX: usize = 10_000;

/// What a recording says, in addition to its load.
#[derive(Default)]
struct Found {
    seen: Seen,
    /// The newest port range, and ports that a tuple can hold; `None`: no line has them.
    range: Option<(u16, u16)>,
    capacity: Option<u32>,
    /// Whether connect() could reuse TIME_WAITs in some line.
    reuses: bool,
    /// Names of network namespaces by their inode numbers.
    names: BTreeMap<u32, String>,
    lines: u64,
}

/// Puts the load of the recordings into the plan: of the network namespace in which a destination needs most ports; and their
/// port range and capacity in place of this host's, except for [`Program::Sysctl`](crate::advise::Program::Sysctl). What is left
/// out is in the plan's remarks.
///
/// # Errors
/// A file cannot be opened, read or decompressed, or is not a recording (see [`Reader::open`]); no connection to the destinations
/// was opened between two readings.
pub(super) fn read(config: &AdviseConfig, plan: &mut Plan) -> Result<(), Error> {
    let wanted = config.destinations();
    let mut found = Found::default();
    let mut reader = Reader::open(&config.from)?;
    while reader.next(&mut |at, entry| found.add(&wanted, at.mono_ns, &entry))? {}
    if found.seen.left_out() > 0 {
        plan.remarks.push(format!(
            "limit reached: {} lines about further tuples are left out",
            found.seen.left_out()
        ));
    }
    with_recorded(&mut plan.settings, config.program, found.range, found.capacity);
    plan.basis = Basis::Recording { readings: found.seen.readings() };
    let (reuses, settings) = (found.reuses, &plan.settings);
    let time_wait_s = |_loopback: bool| settings.recorded_time_wait_s(reuses);
    let lines = found.lines;
    let mut namespaces = found.seen.finish(time_wait_s);
    let need = |all: &Vec<Destination>| all.iter().map(|it| it.flow.ports()).fold(0.0, f64::max);
    let most = namespaces.iter().max_by(|(_, one), (_, other)| need(one).total_cmp(&need(other)));
    let Some(netns) = most.map(|(netns, _)| *netns) else {
        return Err(no_load(config, lines));
    };
    if namespaces.len() > 1 {
        let name = found.names.get(&netns).cloned().unwrap_or_else(|| netns.to_string());
        plan.remarks.push(format!(
            "the recording has {} network namespaces: this is for {}, in which most ports are needed",
            namespaces.len(),
            crate::format::text::line(&name)
        ));
    }
    plan.destinations = namespaces.remove(&netns).unwrap_or_default();
    Ok(())
}

impl Found {
    fn add(&mut self, wanted: &[Wanted], mono_ns: u64, entry: &Entry<'_>) {
        self.lines += 1;
        match entry {
            Entry::Start(_) => self.seen.restart(),
            Entry::Tuple(tuple) => {
                let key = &tuple.key;
                if key.is_of_bind()
                    || !Wanted::is_spread(wanted, &key.destination, key.destination_port)
                {
                    return;
                }
                self.seen.add(mono_ns, key, &tuple.count);
                self.range = tuple.limits.map(|limits| (limits.low, limits.high)).or(self.range);
                self.capacity = tuple.capacity.or(self.capacity);
                self.reuses |= tuple.reusable.is_some_and(|reusable| reusable > 0);
                let is_new = !tuple.netns_name.is_empty() && !self.names.contains_key(&key.netns);
                if is_new && self.names.len() < NAMES_MAX {
                    self.names.insert(key.netns, tuple.netns_name.to_string());
                }
            }
            _ => {}
        }
    }
}

/// The error for recordings in which no connection was opened.
fn no_load(config: &AdviseConfig, lines: u64) -> Error {
    let files: Vec<_> = config.from.iter().map(|file| file.display().to_string()).collect();
    Error::Failure(format!(
        "{}: in {lines} lines, no connection to these destinations was opened between two readings; record with `tracer \
         record` while there is load, for at least two times --interval",
        files.join(", ")
    ))
}
