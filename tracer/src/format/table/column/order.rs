//! Orders rows by a column.

use std::cmp::Ordering;

use super::{
    Column,
    cell::{error, known, known_first, most, requests, stuck},
};
use crate::{format::text, ledger::stats::Row};

impl Column {
    /// The order of a table that is sorted by this column; `Less`: `one` comes first. The row that needs attention most is first,
    /// so counts and rates fall; texts, addresses, process ids, requests in each connection and the time left rise. Values that
    /// are not known come last, except names of processes, which come first.
    pub fn order(self, one: &Row, other: &Row) -> Ordering {
        let key = |row: &Row| (row.key.destination, row.key.destination_port);
        match self {
            Self::Source => one.key.source.cmp(&other.key.source),
            Self::Destination => key(one).cmp(&key(other)),
            Self::Netns => {
                let name = |row: &Row| row.netns_name.clone();
                known_first(name(one), name(other)).then(one.key.netns.cmp(&other.key.netns))
            }
            Self::Ports => other.in_use.cmp(&one.in_use),
            Self::TimeWait => other.time_wait.cmp(&one.time_wait),
            Self::Reusable => other.reusable.cmp(&one.reusable),
            // Rows whose ports wait for nobody come last, then those whose states are not known.
            Self::State => most(stuck(one), stuck(other)),
            Self::Connecting
            | Self::Unanswered
            | Self::Established
            | Self::CloseWait
            | Self::Closing => self.ports(other).cmp(&self.ports(one)),
            Self::Saturation => most(one.saturation, other.saturation),
            Self::Opened => {
                most(one.rates.map(|rates| rates.opened), other.rates.map(|rates| rates.opened))
            }
            Self::Failed => {
                most(one.rates.map(|rates| rates.failed), other.rates.map(|rates| rates.failed))
                    .then_with(|| other.failures().cmp(&one.failures()))
            }
            Self::Error => known_first(error(one), error(other)),
            Self::Search => other.search_p99.cmp(&one.search_p99),
            Self::Eta => match (one.eta_s, other.eta_s) {
                (Some(one), Some(other)) => one.total_cmp(&other),
                (one, other) => other.is_some().cmp(&one.is_some()),
            },
            Self::Comm => {
                let name = |row: &Row| text::kernel(&row.called.shown());
                name(one).cmp(&name(other))
            }
            Self::Container => known_first(one.container.as_ref(), other.container.as_ref()),
            Self::Pid => known_first(known(one.pid), known(other.pid)),
            Self::Tuples => other.tuples.cmp(&one.tuples),
            // Few requests in each connection need attention.
            Self::Requests => most(requests(one).map(|it| -it), requests(other).map(|it| -it)),
            Self::SynsAgain => {
                let again = |row: &Row| row.uses.map(|uses| uses.syns_again);
                again(other).cmp(&again(one))
            }
            Self::Pool => known_first(one.note.as_ref(), other.note.as_ref()),
        }
    }
}
