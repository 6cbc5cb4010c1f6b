//! Parses the lines that have totals: `tracer.stats` and `tracer.stop`.

use serde_json::{Map, Value};
use tracer_common::Cause;

use crate::{recording::losses::Losses, view::reading::SelfStats};

/// The totals so far in a line `tracer.stats` or `tracer.stop`. One that the line lacks is 0.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    /// Failed calls of the whole host so far, by [`Cause`].
    pub failed: [u64; Cause::COUNT],
    pub lost: Losses,
    pub self_stats: SelfStats,
}

impl Totals {
    /// Parses a line `tracer.stats` or `tracer.stop` (its `event.name` is not checked). A total that is missing or no u64 is 0.
    ///
    /// # Errors
    /// It is no JSON object.
    pub(in crate::recording) fn of(line: &[u8]) -> serde_json::Result<Self> {
        let line: Map<String, Value> = serde_json::from_slice(line)?;
        let number = |key: &str| line.get(key).and_then(Value::as_u64).unwrap_or(0);
        let mut lost = Losses::default();
        for (key, value) in &line {
            if let (Some(reason), Some(count)) = (key.strip_prefix("lost."), value.as_u64()) {
                lost.add(reason, count);
            }
        }
        Ok(Self {
            failed: Cause::ALL.map(|cause| number(&format!("failed.{}", cause.name()))),
            lost,
            self_stats: SelfStats {
                cpu_ns: number("process.cpu_ns"),
                rss_kib: number("process.memory.rss_kib"),
                seen: number("events.seen"),
                emitted: number("events.emitted"),
                drift: number("drift"),
                ..SelfStats::default()
            },
        })
    }
}
