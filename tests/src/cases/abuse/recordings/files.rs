//! Makes recordings that no tracer would write. Each public function makes its files in `folder`, which must exist, and returns
//! their paths; an error if one cannot be written, or `zstd` cannot be run.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::harness::starting::start;

/// Writes the lines of a recording, each with the next `seq`.
struct Lines<W: Write> {
    out: W,
    seq: u64,
}

impl<W: Write> Lines<W> {
    /// Writes the first line, `tracer.start`.
    fn new(out: W) -> Result<Self> {
        let mut lines = Self { out, seq: 0 };
        lines.line(
            0,
            "tracer.start",
            r#","version":"0","kernel":"6","settings.stats":true,"settings.event_mask":65535"#,
        )?;
        Ok(lines)
    }

    /// Writes one line, whose time is `seconds` after the first line's (less than 27 days, not checked). `rest`: further keys,
    /// each with a comma before it.
    fn line(&mut self, seconds: u64, name: &str, rest: &str) -> Result<()> {
        let (minute, second) = (seconds / 60 % 60, seconds % 60);
        let (hour, day) = (seconds / 3600 % 24, 1 + seconds / 86_400 % 27);
        writeln!(
            self.out,
            r#"{{"v":1,"seq":{},"ts":"2026-11-{day:02}T{hour:02}:{minute:02}:{second:02}.000000000Z","mono_ns":{},"event.name":"{name}"{rest}}}"#,
            self.seq,
            (seconds + 1) * 1_000_000_000,
        )?;
        self.seq += 1;
        Ok(())
    }

    fn tuple(&mut self, seconds: u64, number: u32, in_use: u32, more: &str) -> Result<()> {
        let [a, b, c, d] = number.to_be_bytes();
        let rest = format!(
            r#","network.local.address":"10.{b}.{c}.{d}","network.peer.address":"10.{a}.0.1","network.peer.port":80,"netns":1,"ports.in_use":{in_use},"ports.time_wait":0,"ports.capacity":100,"ports.opened":{in_use},"ports.released":0{more}"#
        );
        self.line(seconds, "tuple.stats", &rest)
    }

    fn stats(&mut self, seconds: u64) -> Result<()> {
        self.line(seconds, "tracer.stats", "")
    }
}

fn plain(folder: &Path) -> Result<(Lines<BufWriter<File>>, Vec<String>)> {
    let path = folder.join("f.jsonl");
    let lines = Lines::new(BufWriter::new(File::create(&path)?))?;
    Ok((lines, vec![path.to_string_lossy().into_owned()]))
}

/// Has `write` write a recording through the program `zstd` with these options, so that this process keeps none of the data.
/// Returns the path of the file, `f.jsonl.zst` in the folder.
fn compressed(
    folder: &Path,
    options: &[&str],
    write: impl FnOnce(&mut Lines<BufWriter<std::process::ChildStdin>>) -> Result<()>,
) -> Result<Vec<String>> {
    let path = folder.join("f.jsonl.zst");
    let mut command = Command::new("zstd");
    command.args(["-q", "-c"]).args(options).stdin(Stdio::piped()).stdout(File::create(&path)?);
    let mut zstd = start(&mut command).context("cannot run zstd")?;
    let mut lines = Lines::new(BufWriter::new(zstd.stdin.take().context("no stdin")?))?;
    write(&mut lines)?;
    lines.out.flush()?;
    drop(lines);
    let status = zstd.wait()?;
    ensure!(status.success(), "zstd: {status}");
    Ok(vec![path.to_string_lossy().into_owned()])
}

/// A few lines, then a hole of 2 TiB: the file takes 4 KiB of disk.
pub(super) fn sparse(folder: &Path) -> Result<Vec<String>> {
    let (mut lines, files) = plain(folder)?;
    lines.stats(1)?;
    lines.out.flush()?;
    lines.out.get_ref().set_len(2 << 40)?;
    Ok(files)
}

/// Lines of 1, 2 and 40 MiB: of each length one that is JSON, with a long string, and one of opening brackets that is not.
pub(super) fn long_lines(folder: &Path) -> Result<Vec<String>> {
    let (mut lines, files) = plain(folder)?;
    for megabytes in [1, 2, 40] {
        let long = "x".repeat(megabytes << 20);
        lines.line(1, "tracer.stats", &format!(r#","long":"{long}""#))?;
        let deep = "[".repeat(megabytes << 20);
        lines.line(1, "tracer.stats", &format!(r#","deep":{deep}"#))?;
        lines.stats(2)?;
    }
    lines.out.flush()?;
    Ok(files)
}

const MILLION: u32 = 1_000_000;

/// A million tuples in one reading, each with a failure and no port.
pub(super) fn many_tuples(folder: &Path) -> Result<Vec<String>> {
    compressed(folder, &["-1"], |lines| {
        for number in 0..MILLION {
            lines.tuple(1, number, 0, r#","connect.failures":{"refused":1}"#)?;
        }
        lines.stats(1)
    })
}

/// 250,000 tuples with ports, searches and long names, in two readings with different numbers.
pub(super) fn many_full_tuples(folder: &Path) -> Result<Vec<String>> {
    compressed(folder, &["-1"], |lines| {
        for second in 1..=2 {
            for number in 0..MILLION / 4 {
                let more = format!(
                    r#","connect.failures":{{"refused":{second}}},"search.histogram":[{second},1],"process.linux.cgroup":"/{number}/{:0>200}""#,
                    0
                );
                lines.tuple(second, number, 40 + u32::try_from(second)? * 20, &more)?;
            }
            lines.stats(second)?;
        }
        Ok(())
    })
}

/// A million failures, each of another process and tuple, between two readings.
pub(super) fn many_failures(folder: &Path) -> Result<Vec<String>> {
    compressed(folder, &["-1"], |lines| {
        lines.stats(1)?;
        for number in 0..MILLION {
            let [a, b, c, d] = number.to_be_bytes();
            let rest = format!(
                r#","network.local.address":"10.{b}.{c}.{d}","network.peer.address":"10.{a}.0.1","network.peer.port":80,"netns":1,"cause":"refused","errno":111,"process.pid":{number},"process.executable.name":"p{number}","container.id":"{number:0>64}""#
            );
            lines.line(2, "connect.failed", &rest)?;
        }
        lines.stats(3)
    })
}

/// A million readings without tuples, a second apart: more than eleven days.
pub(super) fn many_readings(folder: &Path) -> Result<Vec<String>> {
    compressed(folder, &["-1"], |lines| {
        for number in 0..MILLION {
            lines.stats(number.into())?;
        }
        Ok(())
    })
}

/// 500,000 tuples, each with another process, cgroup, container and namespace name.
pub(super) fn many_names(folder: &Path) -> Result<Vec<String>> {
    compressed(folder, &["-1"], |lines| {
        for number in 0..MILLION / 2 {
            let more = format!(
                r#","connect.failures":{{"refused":1}},"process.executable.name":"n{number}","process.linux.cgroup":"/c/{number}","container.id":"{number:0>64}","netns.name":"n{number}""#
            );
            lines.tuple(1 + u64::from(number) / 100_000, number, 1, &more)?;
        }
        lines.stats(20)
    })
}

/// A thousand cgroup names of half a megabyte each.
pub(super) fn long_names(folder: &Path) -> Result<Vec<String>> {
    let name = "x".repeat(500_000);
    compressed(folder, &["-1"], |lines| {
        for number in 0..1000 {
            let more = format!(r#","process.linux.cgroup":"/{number}/{name}""#);
            lines.tuple(1, number, 1, &more)?;
        }
        lines.stats(1)
    })
}

/// 700,000 names of losses: one in each of 200,000 lines, then 10,000 in each of 50 lines.
pub(super) fn many_reasons(folder: &Path) -> Result<Vec<String>> {
    compressed(folder, &["-1"], |lines| {
        for number in 0..200_000 {
            let rest = format!(r#","lost.reason":"{number:0>200}","lost.count":1"#);
            lines.line(1, "lost", &rest)?;
        }
        for line in 0..50 {
            let reasons = (0..10_000).map(|number| format!(r#","lost.{line}_{number}":1"#));
            lines.line(2, "tracer.stats", &reasons.collect::<String>())?;
        }
        Ok(())
    })
}

/// 2 GiB of the letter x after the first line, compressed to a small file.
pub(super) fn bomb(folder: &Path) -> Result<Vec<String>> {
    compressed(folder, &["-1"], |lines| {
        let block = vec![b'x'; 1 << 20];
        for _ in 0..2048 {
            lines.out.write_all(&block)?;
        }
        Ok(())
    })
}

/// A recording in one zstd frame with a window of 2 GiB: to decompress any frame with such a window, that much memory is needed.
pub(super) fn huge_window(folder: &Path) -> Result<Vec<String>> {
    compressed(folder, &["-1", "--long=31"], |lines| lines.stats(1))
}

/// A rotated set of 900 files, each a recording of two lines.
pub(super) fn many_files(folder: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for number in 0..900_u64 {
        let path = folder.join(format!("f.jsonl.{number}"));
        let mut lines = Lines::new(BufWriter::new(File::create(&path)?))?;
        lines.stats(number)?;
        lines.out.flush()?;
        files.push(path.to_string_lossy().into_owned());
    }
    Ok(files)
}

/// 10,001 readings whose times jump between 1970 or 1971 and 2554, the last year that 64 bits of ns since 1970 can name.
pub(super) fn far_apart(folder: &Path) -> Result<Vec<String>> {
    let (mut lines, files) = plain(folder)?;
    for number in 0..10_001_u64 {
        let (year, mono) = match number % 4 {
            0 => (1971, 0),
            // 0 ns since 1970, which stands for "not known".
            2 => (1970, 0),
            _ => (2554, u64::MAX - number),
        };
        writeln!(
            lines.out,
            r#"{{"v":1,"seq":{number},"ts":"{year}-01-01T00:00:00.000000000Z","mono_ns":{mono},"event.name":"tracer.stats"}}"#
        )?;
    }
    lines.out.flush()?;
    Ok(files)
}

/// One recording of 999 readings, named a hundred times: fifty times by its name, fifty times by a symbolic link of its own.
pub(super) fn same_again(folder: &Path) -> Result<Vec<String>> {
    let (mut lines, files) = plain(folder)?;
    for second in 1..1000 {
        lines.tuple(second, 1, 50, "")?;
        lines.stats(second)?;
    }
    lines.out.flush()?;
    let file = files.first().context("no file")?;
    let mut all = vec![file.clone(); 50];
    for number in 0..50 {
        let link = folder.join(format!("link-{number}"));
        std::os::unix::fs::symlink(file, &link)?;
        all.push(link.to_string_lossy().into_owned());
    }
    Ok(all)
}
