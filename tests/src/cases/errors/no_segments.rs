//! `errors::no_count_of_segments`: a kernel whose sockets do not count the segments with data that they send.

use anyhow::{Context, Result, ensure};

use crate::harness::{mounts, stage::Stage, tracer::record::Record};

/// Without `tcp_sock.data_segs_out` in the kernel's type information, as before Linux 4.6, tracer counts ports as it always does,
/// and nothing says how connections ended: no number is there, not even 0.
pub(super) fn ends_are_not_known() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let server = stage.server("10.1.0.1:7000")?;
    let record = mounts::with_bare_sys(|| {
        mounts::rename_in_btf("data_segs_out", "data_segs_not")?;
        Record::start("auto", &["--events", "stats,lost", "--interval", "1"])
    })?;
    drop(stage.netns.run(|| server.pairs(3))?);
    record.wait_for_reading()?;
    let recording = record.stop()?;
    recording.assert_valid()?;
    recording.assert_nothing_lost()?;
    let lines = recording.events("tuple.stats", stage.netns.inum());
    let line = lines.last().context("no line about the tuple")?;
    let line = line.as_object().context("a line is no object")?;
    ensure!(line["ports.opened"] == 3 && line["syns.sent_again"] == 0, "{line:?}");
    let about_ends = line.keys().find(|key| key.starts_with("connections."));
    ensure!(about_ends.is_none(), "{line:?}");
    Ok(())
}
