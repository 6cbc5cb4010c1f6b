//! What the routes say of a pool: for the start, for `--dry-run` and for `tracer status`. No I/O.

use serde::{Deserialize, Serialize};

use super::{
    addresses::Host,
    pool::{self, Seen, Spec},
    reach::{Elsewhere, Reach},
    ways::{self},
};

/// Addresses that were passed over are kept up to so many, and printed up to so many.
const KEPT: usize = 512;
const PRINTED: usize = 8;

/// What `--pool auto` decided, and what can be wrong with addresses that were named.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Notes {
    /// Addresses that `--pool auto` took; empty: it was not asked for.
    pub taken: Vec<Seen>,
    /// Those that it did not take, and why.
    pub passed_over: Vec<Seen>,
    /// So many more were passed over that are not in the list.
    pub passed_over_more: usize,
    /// Networks to which nothing is spread, because they are reached over other interfaces.
    pub left_alone: Vec<Elsewhere>,
    /// About addresses that were given by hand.
    pub warnings: Vec<String>,
}

impl Notes {
    /// `reaches`: how the rule's destinations are reached; empty: not known.
    pub fn new(specs: &[Spec], host: &Host, reaches: &[Reach]) -> Self {
        let seen = pool::seen(specs, host);
        let (mut taken, mut passed_over): (Vec<_>, Vec<_>) =
            seen.into_iter().partition(|it| it.reason.is_none());
        let passed_over_more = passed_over.len().saturating_sub(KEPT);
        passed_over.truncate(KEPT);
        taken.truncate(KEPT);
        Self {
            taken,
            passed_over,
            passed_over_more,
            left_alone: host.ways.elsewhere.clone(),
            warnings: ways::warnings(specs, host, reaches),
        }
    }

    /// For people: a word, and what there is to say under it.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let named = |it: &Seen| format!("{} ({})", it.address, it.interface);
        let mut lines = Vec::new();
        if !self.taken.is_empty() {
            let all: Vec<String> = self.taken.iter().take(PRINTED).map(named).collect();
            let more = and_more(self.taken.len());
            lines.push(("taken", format!("{}{more}", all.join(", "))));
        }
        for one in self.passed_over.iter().take(PRINTED) {
            let reason = one.reason.as_deref().unwrap_or_default();
            lines.push(("passed over", format!("{}: {reason}", named(one))));
        }
        let more = and_more(self.passed_over.len() + self.passed_over_more);
        if !more.is_empty() {
            lines.push(("passed over", more.trim_start().to_owned()));
        }
        if !self.left_alone.is_empty() {
            lines.push((
                "left alone",
                format!(
                    "connections to {}: they leave by another interface; to spread them, name them with \
                     --to in a rule of their own",
                    ways::network_list(&self.left_alone)
                ),
            ));
        }
        lines.extend(self.warnings.iter().map(|it| ("warning", it.clone())));
        lines
    }

    /// The same as a text: each line with its end.
    pub fn text(&self) -> String {
        self.lines().iter().fold(String::new(), |all, (word, text)| all + word + ": " + text + "\n")
    }
}

fn and_more(count: usize) -> String {
    match count.saturating_sub(PRINTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}
