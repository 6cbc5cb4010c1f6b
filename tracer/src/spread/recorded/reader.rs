//! Reads the `tuple.stats` lines of recordings, and finds the highest numbers of ports in use of all their readings (peaks).

use std::{
    collections::{BTreeMap, HashSet},
    fs::File,
    io::{self, BufRead, BufReader, Read},
    net::IpAddr,
    path::Path,
};

use serde::Deserialize;
use tracer_common::{TupleKey, spread::Destination};

use crate::{
    error::Error,
    spread::{
        pool::to_addr,
        projection::{Peaks, peaks},
    },
};

/// First bytes of a zstd frame (RFC 8878).
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Longest line, in bytes; a longer one is an error. `tracer record` writes far shorter ones.
const LONGEST: u64 = 1 << 20;
/// How many tuples of a reading, and how many destinations, are remembered at most; far more than a host has.
const LIMIT: usize = 200_000;
/// How many network namespaces are remembered at most.
const NAMESPACES: usize = 1_000;
/// Seconds between two readings where a recording does not name them: the default of `--interval`.
const DEFAULT_INTERVAL_S: f64 = 10.0;

/// The fields that are read of every line.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "event.name")]
    name: String,
    mono_ns: u64,
    #[serde(rename = "settings.stats_interval_s")]
    interval_s: Option<f64>,
}

/// The fields that are read of a `tuple.stats`.
#[derive(Deserialize)]
struct Stats {
    #[serde(rename = "network.local.address")]
    source: IpAddr,
    #[serde(rename = "network.peer.address")]
    destination: IpAddr,
    #[serde(rename = "network.peer.port")]
    port: u16,
    netns: u32,
    #[serde(rename = "ports.in_use")]
    in_use: u64,
    #[serde(rename = "ports.capacity")]
    capacity: Option<u32>,
}

/// The peaks of one namespace.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Namespace {
    pub(super) peaks: Peaks,
    /// The capacity in the newest line that has one; `None`: no line has.
    pub(super) capacity: Option<u32>,
}

/// What was read of recordings so far.
pub(super) struct Recording {
    destinations: Vec<Destination>,
    found: BTreeMap<u32, Namespace>,
    /// The reading to which the present lines belong: all tuples at about one time, each once, with its ports in use.
    reading: Vec<(TupleKey, u64)>,
    /// The tuples of that reading.
    seen: HashSet<TupleKey>,
    /// When that reading began, by the recording's `mono_ns`.
    began_ns: u64,
    interval_s: f64,
    readings: u64,
    lines: u64,
    /// Lines, and destinations of readings, that were left out because a limit was reached.
    left_out: u64,
}

impl Recording {
    /// A recording of which nothing is read yet. `destinations`: of the rule; empty: all.
    pub(super) fn new(destinations: Vec<Destination>) -> Self {
        Self {
            destinations,
            found: BTreeMap::new(),
            reading: Vec::new(),
            seen: HashSet::new(),
            began_ns: 0,
            interval_s: DEFAULT_INTERVAL_S,
            readings: 0,
            lines: 0,
            left_out: 0,
        }
    }

    /// How many lines, and destinations of readings, were left out because [`LIMIT`] (200,000 tuples of a reading, or
    /// destinations) or [`NAMESPACES`] (1,000) was reached.
    pub(super) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// How many readings have ended. The last one ends with [`Self::finish`].
    pub(super) fn readings(&self) -> u64 {
        self.readings
    }

    /// How many lines were read, of all kinds.
    pub(super) fn lines(&self) -> u64 {
        self.lines
    }

    /// Reads one file, plain or zstd, and adds it to what was read before. A file that is cut short is read as far as it goes; an
    /// empty one has no lines, which is no error.
    ///
    /// # Errors
    /// The file cannot be opened or read; a zstd file is damaged; a line has 1 MiB or more, is no JSON object, lacks `event.name`
    /// or `mono_ns`, or is a `tuple.stats` that lacks its addresses, port, `netns` or `ports.in_use`. Lines before it were read.
    pub(super) fn read(&mut self, path: &Path) -> Result<(), Error> {
        let failed = |source| Error::File {
            tried: "read the recording",
            path: path.to_owned(),
            source,
            do_this: "",
        };
        let mut file = BufReader::new(File::open(path).map_err(failed)?);
        if file.fill_buf().map_err(failed)?.starts_with(&ZSTD) {
            let decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(failed)?;
            self.read_lines(path, BufReader::new(decoder))
        } else {
            self.read_lines(path, file)
        }
    }

    fn read_lines(&mut self, path: &Path, mut input: impl BufRead) -> Result<(), Error> {
        let mut text = Vec::new();
        for number in 1_u64.. {
            text.clear();
            let wrong = |error: &dyn std::fmt::Display| {
                Error::Failure(format!("{}, line {number}: {error}", path.display()))
            };
            let length = match input.by_ref().take(LONGEST).read_until(b'\n', &mut text) {
                Ok(0) => break,
                Ok(length) => length,
                // The program that wrote the compressed recording was killed.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    tracing::warn!("{} is cut short at line {number}", path.display());
                    break;
                }
                Err(error) => return Err(wrong(&error)),
            };
            if let Err(error) = self.line(&text) {
                // The program that wrote the recording was killed while it wrote the last line.
                let cut_short = error.is_eof() && text.last() != Some(&b'\n');
                if !cut_short || length as u64 == LONGEST {
                    return Err(wrong(&format!("not a line of `tracer record`: {error}")));
                }
            }
            self.lines += 1;
        }
        Ok(())
    }

    fn line(&mut self, text: &[u8]) -> serde_json::Result<()> {
        let line: Line = serde_json::from_slice(text)?;
        match line.name.as_str() {
            "tracer.start" => {
                self.end_reading();
                self.interval_s = line.interval_s.unwrap_or(DEFAULT_INTERVAL_S);
            }
            "tuple.stats" => self.stats(line.mono_ns, &serde_json::from_slice(text)?),
            _ => {}
        }
        Ok(())
    }

    fn stats(&mut self, mono_ns: u64, line: &Stats) {
        let key = TupleKey {
            source: to_addr(line.source),
            destination: to_addr(line.destination),
            netns: line.netns,
            destination_port: line.port,
            zero: 0,
        };
        let (to, port) = (&key.destination, key.destination_port);
        if !Destination::is_spread(&self.destinations, to, port) {
            return;
        }
        let since = std::time::Duration::from_nanos(mono_ns.saturating_sub(self.began_ns));
        let later = mono_ns < self.began_ns || since.as_secs_f64() > self.interval_s / 2.0;
        if later || self.seen.contains(&key) {
            self.end_reading();
        }
        if self.reading.is_empty() {
            self.began_ns = mono_ns;
        }
        let new = !self.found.contains_key(&line.netns);
        if self.reading.len() >= LIMIT || new && self.found.len() >= NAMESPACES {
            self.left_out += 1;
            return;
        }
        self.seen.insert(key);
        self.reading.push((key, line.in_use));
        let found = self.found.entry(line.netns).or_default();
        found.capacity = line.capacity.or(found.capacity);
    }

    fn end_reading(&mut self) {
        if self.reading.is_empty() {
            return;
        }
        self.readings += 1;
        self.seen.clear();
        let mut by_netns: BTreeMap<u32, Vec<(TupleKey, u64)>> = BTreeMap::new();
        for (key, in_use) in self.reading.drain(..) {
            by_netns.entry(key.netns).or_default().push((key, in_use));
        }
        let mut known: usize = self.found.values().map(|found| found.peaks.len()).sum();
        for (netns, tuples) in by_netns {
            let all = &mut self.found.entry(netns).or_default().peaks;
            for (to, newest) in peaks(tuples) {
                let new = !all.contains_key(&to);
                if new && known >= LIMIT {
                    self.left_out += 1;
                    continue;
                }
                known += usize::from(new);
                let peak = all.entry(to).or_default();
                peak.in_use = peak.in_use.max(newest.in_use);
                peak.fullest = peak.fullest.max(newest.fullest);
            }
        }
    }

    /// Ends the last reading, and returns the peaks of each network namespace, by its inode number; empty: no `tuple.stats` about
    /// the destinations was read. The recording has no peaks after that.
    pub(super) fn finish(&mut self) -> BTreeMap<u32, Namespace> {
        self.end_reading();
        std::mem::take(&mut self.found)
    }
}

#[cfg(test)]
mod tests;
