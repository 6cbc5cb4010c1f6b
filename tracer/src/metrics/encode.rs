//! Encodes a snapshot as text.

use std::{
    fmt,
    io::{self, Write as _},
    sync::Arc,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeGaugeValue, EncodeLabel as _, EncodeLabelSet, LabelSetEncoder,
        MetricEncoder, NoLabelSet, prometheus_text, text as openmetrics,
    },
    metrics::MetricType,
    registry::Registry,
};
use tracer_common::{
    Cause,
    tuple::{SEARCH_BUCKETS, search_bucket_end},
};

use super::{
    snapshot::{Shown, Snapshot},
    table::{self, Family, Type},
};
use crate::runtime::clock::seconds;

/// The labels of the sum of all tuples that are not shown.
const OTHERS: [&str; 4] = ["other"; 4];

/// A format of the metrics.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// The text format of Prometheus, 0.0.4.
    Text,
}

impl Format {
    /// The value of Content-Type.
    pub(super) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The text of a snapshot in this format.
pub(super) fn text(snapshot: &Arc<Snapshot>, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Arc::clone(snapshot)));
    let mut text = String::new();
    // Writing to a string does not fail.
    _ = match format {
        Format::OpenMetrics => openmetrics::encode(&mut text, &registry),
        Format::Text => prometheus_text::encode(&mut text, &registry),
    };
    text
}

/// The text compressed with gzip.
pub(super) fn gzip(text: &[u8]) -> Bytes {
    let write = || -> io::Result<Vec<u8>> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text)?;
        encoder.finish()
    };
    // Writing to a vector does not fail.
    write().unwrap_or_default().into()
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut to = Encoder(encoder);
        self.program(&mut to)?;
        self.all_tuples(&mut to)?;
        self.shown_tuples(&mut to)?;
        self.tracing(&mut to)?;
        self.process(&mut to)
    }
}

impl Snapshot {
    /// The text of the metrics, made at the first call and kept.
    pub fn encode(self: &Arc<Self>, format: Format) -> Bytes {
        self.text(format, false)
    }

    /// The same, compressed with gzip if `compressed`.
    pub(super) fn text(self: &Arc<Self>, format: Format, compressed: bool) -> Bytes {
        let make = || {
            if compressed { gzip(&self.text(format, false)) } else { text(self, format).into() }
        };
        match self.texts.get(format as usize * 2 + usize::from(compressed)) {
            Some(kept) => kept.get_or_init(make).clone(),
            None => make(),
        }
    }
}

impl Snapshot {
    fn program(&self, to: &mut Encoder<'_>) -> fmt::Result {
        to.gauges(&table::BUILD_INFO, [([env!("CARGO_PKG_VERSION")], 1_u64)])?;
        to.gauges(&table::BACKEND_INFO, [([&*self.backend, &*self.kernel], 1_u64)])?;
        to.gauge(&table::DEGRADED, self.degraded)?;
        to.gauge(&table::CONFIG_OK, u64::from(self.config.is_newest))?;
        to.gauge(&table::CONFIG_AT, self.config.since_s)?;
        to.gauge(&table::READING_AT, seconds(self.at_ns))?;
        to.gauge(&table::READING_TOOK, self.took_s)
    }

    fn all_tuples(&self, to: &mut Encoder<'_>) -> fmt::Result {
        to.gauge(&table::SATURATION_MAX, self.all.fullest)?;
        to.gauge(&table::TUPLES, self.all.holding)?;
        let above = self.all.above.iter().map(|(threshold, count)| (label(*threshold), *count));
        let above: Vec<_> = above.collect();
        to.gauges(&table::TUPLES_ABOVE, above.iter().map(|(label, count)| ([&**label], *count)))?;
        to.gauge(&table::IN_USE, self.all.in_use)?;
        to.gauge(&table::TIME_WAIT, self.all.time_wait)?;
        to.counter(&table::OPENED, Count::Whole(self.sums.opened))?;
        to.counter(&table::RELEASED, Count::Whole(self.sums.released))?;
        let failed = Cause::ALL.into_iter().zip(self.failed);
        let failed = failed.map(|(cause, count)| ([cause.name()], Count::Whole(count)));
        to.counters(&table::FAILURES, failed)?;
        to.histogram(&table::SEARCH, seconds(self.search_ns), &self.sums.search)
    }

    fn shown_tuples(&self, to: &mut Encoder<'_>) -> fmt::Result {
        let (in_use, time_wait) = self.others;
        let others = |count: u64| [(OTHERS, count)];
        let of =
            |value: fn(&Shown) -> u64| self.shown.iter().map(move |it| (it.labels(), value(it)));
        let known = |value: fn(&Shown) -> Option<f64>| {
            self.shown.iter().filter_map(move |it| Some((it.labels(), value(it)?)))
        };
        to.gauges(&table::TUPLE_IN_USE, of(|it| it.in_use).chain(others(in_use)))?;
        to.gauges(&table::TUPLE_TIME_WAIT, of(|it| it.time_wait).chain(others(time_wait)))?;
        let capacities = self.shown.iter().filter_map(|it| Some((it.labels(), it.capacity?)));
        to.gauges(&table::TUPLE_CAPACITY, capacities)?;
        to.gauges(&table::TUPLE_SATURATION, known(|it| it.saturation))?;
        to.gauges(&table::TUPLE_EXHAUSTION, known(|it| it.eta_s))?;
        to.gauges(&table::TUPLE_SEARCH, known(|it| it.search_p99_s))?;
        let count = |(labels, count)| (labels, Count::Whole(count));
        to.counters(&table::TUPLE_OPENED, of(|it| it.opened).map(count))?;
        to.counters(&table::TUPLE_EXHAUSTED, of(|it| it.exhausted).map(count))?;
        let namespaces = self.namespaces.iter();
        let ranges = namespaces.clone().map(|(netns, range, _)| ([&**netns], *range));
        to.gauges(&table::NETNS_RANGE, ranges)?;
        to.gauges(&table::NETNS_BOUND, namespaces.map(|(netns, _, bound)| ([&**netns], *bound)))
    }

    fn tracing(&self, to: &mut Encoder<'_>) -> fmt::Result {
        let losses = self.losses.iter().map(|(loss, count)| ([*loss], Count::Whole(*count)));
        to.counters(&table::LOSSES, losses)?;
        to.counter(&table::DRIFT, Count::Whole(self.drift))?;
        to.counter(&table::SEEN, Count::Whole(self.seen))?;
        to.counter(&table::EMITTED, Count::Whole(self.emitted))?;
        let outputs = self.outputs.iter();
        let lines = outputs.clone().map(|it| ([&*it.name], Count::Whole(it.lines)));
        to.counters(&table::OUTPUT_LINES, lines)?;
        let dropped = outputs.clone().map(|it| ([&*it.name], Count::Whole(it.dropped)));
        to.counters(&table::OUTPUT_DROPPED, dropped)?;
        let bytes = outputs.map(|it| ([&*it.name], Count::Whole(it.bytes)));
        to.counters(&table::OUTPUT_BYTES, bytes)?;
        let maps = self.maps.iter();
        let entries = maps.clone().filter_map(|map| Some(([map.name], map.entries?)));
        to.gauges(&table::MAP_ENTRIES, entries)?;
        to.gauges(&table::MAP_MAX, maps.map(|map| ([map.name], map.max_entries)))?;
        let programs = self.programs.iter();
        to.counters(
            &table::RUN_TIME,
            programs.map(|(name, run)| ([&**name], Count::Seconds(*run))),
        )?;
        to.counter(&table::HTTP_REFUSED, Count::Whole(self.http_refused))
    }

    fn process(&self, to: &mut Encoder<'_>) -> fmt::Result {
        let Some(process) = self.process else { return Ok(()) };
        to.counter(&table::CPU, Count::Seconds(seconds(process.cpu_ns)))?;
        to.gauge(&table::RESIDENT, process.resident_bytes)?;
        to.gauge(&table::OPEN_FDS, process.open_fds)?;
        match process.max_fds {
            Some(max) => to.gauge(&table::MAX_FDS, max)?,
            None => to.gauge(&table::MAX_FDS, f64::INFINITY)?,
        }
        to.gauge(&table::STARTED, process.started_s)
    }
}

impl Shown {
    fn labels(&self) -> [&str; 4] {
        self.labels.each_ref().map(String::as_str)
    }
}

/// The value of a counter.
#[derive(Clone, Copy, Debug)]
enum Count {
    Whole(u64),
    Seconds(f64),
}

/// Writes metrics by the table.
struct Encoder<'a>(DescriptorEncoder<'a>);

impl Encoder<'_> {
    fn family(&mut self, family: &'static Family) -> Result<MetricEncoder<'_>, fmt::Error> {
        let kind = match family.kind {
            Type::Counter => MetricType::Counter,
            Type::Gauge => MetricType::Gauge,
            Type::Histogram => MetricType::Histogram,
        };
        self.0.encode_descriptor(family.name, family.help, None, kind)
    }

    fn gauge(&mut self, family: &'static Family, value: impl EncodeGaugeValue) -> fmt::Result {
        self.gauges(family, [([], value)])
    }

    /// Writes a gauge with these series; without any, nothing at all.
    fn gauges<'v, const N: usize, V: EncodeGaugeValue>(
        &mut self,
        family: &'static Family,
        series: impl IntoIterator<Item = ([&'v str; N], V)>,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let mut encoder = self.family(family)?;
        for (values, value) in series {
            encoder.encode_family(&Labels::new(family, &values))?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counter(&mut self, family: &'static Family, value: Count) -> fmt::Result {
        self.counters(family, [([], value)])
    }

    /// Writes a counter with these series; without any, nothing at all.
    fn counters<'v, const N: usize>(
        &mut self,
        family: &'static Family,
        series: impl IntoIterator<Item = ([&'v str; N], Count)>,
    ) -> fmt::Result {
        let mut series = series.into_iter().peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let mut encoder = self.family(family)?;
        for (values, value) in series {
            let labels = Labels::new(family, &values);
            let mut encoder = encoder.encode_family(&labels)?;
            match value {
                Count::Whole(count) => {
                    encoder.encode_counter::<NoLabelSet, _, f64>(&count, None)?;
                }
                Count::Seconds(count) => {
                    encoder.encode_counter::<NoLabelSet, _, f64>(&count, None)?;
                }
            }
        }
        Ok(())
    }

    /// Writes a histogram of port searches. `sum`: of all durations, seconds; `counts`: by bucket.
    fn histogram(
        &mut self,
        family: &'static Family,
        sum: f64,
        counts: &[u64; SEARCH_BUCKETS],
    ) -> fmt::Result {
        let all = counts.iter().fold(0_u64, |all, count| all.saturating_add(*count));
        let end = |bucket| match search_bucket_end(bucket) {
            u64::MAX => f64::INFINITY,
            end => seconds(end),
        };
        let buckets: Vec<_> = (0..).map(end).zip(counts.iter().copied()).collect();
        self.family(family)?.encode_histogram::<NoLabelSet>(sum, all, &buckets, None)
    }
}

/// The labels of a series.
struct Labels<'a> {
    names: &'static [&'static str],
    values: &'a [&'a str],
}

impl<'a> Labels<'a> {
    fn new(family: &'static Family, values: &'a [&'a str]) -> Self {
        Self { names: family.labels, values }
    }
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for (name, value) in self.names.iter().zip(self.values) {
            (*name, *value).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// A threshold as the value of a label: with two decimals if they say it all, as people write it (`0.80`).
fn label(threshold: f64) -> String {
    let short = format!("{threshold:.2}");
    if short.parse() == Ok(threshold) { short } else { threshold.to_string() }
}

#[cfg(test)]
mod tests;
