//! What helps a tuple that ran out of ports, by the judges of `tracer doctor`.

use serde::Serialize;
use serde_json::{Map, Value};
use tracer_common::TupleKey;

use crate::doctor::{recorded::Cases, show};

/// What to do first for a tuple, as in the JSON of `tracer doctor`.
#[derive(Debug, Serialize)]
pub(super) struct ToDo {
    /// Id of the finding that it is from.
    finding: &'static str,
    /// The advice, with the keys that it has in the list of a finding of `tracer doctor`.
    #[serde(flatten)]
    advice: Map<String, Value>,
}

impl ToDo {
    /// The first advice for a tuple. `None`: it did not run out of ports and was not about to, or nothing is advised.
    pub(super) fn new(cases: &Cases, key: &TupleKey) -> Option<Self> {
        let (finding, advice) = cases.advice_for(key)?;
        Some(Self { finding: finding.name(), advice: show::advice(&advice) })
    }

    /// What to do, and what it gives if that is known, as a text for people.
    pub(super) fn what(&self) -> String {
        match (self.text("do"), self.text("gain")) {
            (what, "") => what.to_owned(),
            (what, gain) => format!("{what}: {gain}"),
        }
    }

    /// The command to type; `None`: there is none.
    pub(super) fn command(&self) -> Option<&str> {
        Some(self.text("command")).filter(|it| !it.is_empty())
    }

    fn text(&self, key: &str) -> &str {
        self.advice.get(key).and_then(Value::as_str).unwrap_or_default()
    }
}
