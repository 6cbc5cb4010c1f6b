//! Makes the notes on a pool that follow from the routes: for the start, for `--dry-run` and for `tracer status`. No I/O.

use serde::{Deserialize, Serialize};

use super::{
    addresses::Host,
    auto,
    pool::{self, Candidate, Spec},
    reach::{Elsewhere, Reach},
};

/// How many addresses of a list are kept at most.
const LIST_MAX: usize = 512;
/// How many addresses of a list are printed at most.
const PRINTED_MAX: usize = 8;

/// What `--pool auto` took, and what may be wrong with addresses that `--pool` names.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(default)]
pub struct Notes {
    /// Addresses that `--pool auto` took, at most [`LIST_MAX`] (512); empty: it took none, or `--pool` has no `auto`.
    pub taken: Vec<Candidate>,
    /// Addresses that `--pool auto` did not take, each with the reason; at most [`LIST_MAX`] (512).
    pub passed_over: Vec<Candidate>,
    /// How many addresses `--pool auto` did not take in addition to those in `passed_over`.
    pub passed_over_more: usize,
    /// Networks to which connections are not spread, because they are reached over other interfaces.
    pub left_alone: Vec<Elsewhere>,
    /// What may be wrong with addresses that `--pool` names.
    pub warnings: Vec<String>,
}

impl Notes {
    /// The notes on this pool. `host`: the interfaces and addresses of its namespace, and what `--pool auto` chose. `reaches`:
    /// how the rule's destinations are reached; empty: not known, so without the warnings that depend on it.
    pub fn new(specs: &[Spec], host: &Host, reaches: &[Reach]) -> Self {
        let candidates = pool::candidates(specs, host);
        let (mut taken, mut passed_over): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|it| it.reason.is_none());
        let passed_over_more = passed_over.len().saturating_sub(LIST_MAX);
        passed_over.truncate(LIST_MAX);
        taken.truncate(LIST_MAX);
        Self {
            taken,
            passed_over,
            passed_over_more,
            left_alone: host.auto.elsewhere.clone(),
            warnings: auto::warnings(specs, host, reaches),
        }
    }

    /// The notes for people, each with the word for its kind (`taken`, `passed over`, `not spread` or `warning`); of
    /// each list of addresses the first eight, and how many more there are (of `taken`, how many more are kept). Empty: there are
    /// no notes.
    pub fn lines(&self) -> Vec<(&'static str, String)> {
        let named = |it: &Candidate| format!("{} ({})", it.address, it.interface);
        let mut lines = Vec::new();
        if !self.taken.is_empty() {
            let all: Vec<String> = self.taken.iter().take(PRINTED_MAX).map(named).collect();
            let more = and_more(self.taken.len());
            lines.push(("taken", format!("{}{more}", all.join(", "))));
        }
        for one in self.passed_over.iter().take(PRINTED_MAX) {
            let reason = one.reason.as_deref().unwrap_or_default();
            lines.push(("passed over", format!("{}: {reason}", named(one))));
        }
        let more = and_more(self.passed_over.len() + self.passed_over_more);
        if !more.is_empty() {
            lines.push(("passed over", more.trim_start().to_owned()));
        }
        if !self.left_alone.is_empty() {
            lines.push((
                "not spread",
                format!(
                    "connections to {}: they leave by another interface; to spread them, name the networks with \
                     --to in a rule of their own",
                    auto::network_list(&self.left_alone)
                ),
            ));
        }
        lines.extend(self.warnings.iter().map(|it| ("warning", it.clone())));
        lines
    }

    /// [`Self::lines`] as one text, each line with its end.
    pub fn text(&self) -> String {
        self.lines().iter().fold(String::new(), |all, (word, text)| all + word + ": " + text + "\n")
    }
}

fn and_more(count: usize) -> String {
    match count.saturating_sub(PRINTED_MAX) {
        0 => String::new(),
        more => format!(" and {more} more"),
    }
}
