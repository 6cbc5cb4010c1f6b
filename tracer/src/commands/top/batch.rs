//! [`Batch`]: prints readings as text, one after the other: for scripts, files and pipes.

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use tracer_common::Cause;

use crate::{
    cli::TableFormat,
    config::ShowConfig,
    doctor::{
        finding::Severity,
        show::{self, Commands},
    },
    error::Error,
    format::{
        table::{self, Top},
        text,
    },
    runtime::{shutdown::StopSignals, stdout},
    view::{
        model::Model,
        reading::Snapshot,
        source::Source,
        time_input,
        tuple_history::Window,
        update::{Message, update},
    },
};

/// How often a wait checks for signals.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// The most findings below a table.
const MOST_FINDINGS: usize = 3;
/// The most columns of their lines, except commands.
const WIDTH: usize = 100;

/// Prints readings as tables, with the format, order and number of rows that the options say.
pub struct Batch<'a> {
    show: &'a ShowConfig,
    signals: &'a StopSignals,
    printed: u64,
}

impl<'a> Batch<'a> {
    /// A printer that has printed nothing. `show`: the format, the order, the number of rows and of readings. `signals`: those
    /// that end it.
    pub fn new(show: &'a ShowConfig, signals: &'a StopSignals) -> Self {
        Self { show, signals, printed: 0 }
    }

    /// Prints a reading of a running tracer every `delay`, until a signal asks to stop, the wanted number is printed or the
    /// reader of stdout is gone (which is no error). The first reading is not printed: the second is compared with it.
    ///
    /// # Errors
    /// The source fails ([`Source::next`]); the table cannot be formatted; stdout cannot be written.
    pub fn live(
        mut self,
        source: &mut dyn Source,
        mut model: Model,
        delay: Duration,
    ) -> Result<(), Error> {
        source.next(&mut model)?;
        let mut next = Instant::now() + delay;
        while self.wait(source, next) {
            if let Some(reading) = source.next(&mut model)?
                && !self.print(&mut model, reading)?
            {
                break;
            }
            // Readings whose time passed while the process was stopped are left out.
            next = (next + delay).max(Instant::now());
        }
        Ok(())
    }

    /// Prints every reading of a recording, until a signal asks to stop, the wanted number is printed or the reader of stdout is
    /// gone (which is no error).
    ///
    /// # Errors
    /// The source fails ([`Source::next`]); the table cannot be formatted; stdout cannot be written.
    pub fn recorded(mut self, source: &mut dyn Source, mut model: Model) -> Result<(), Error> {
        while !self.signals.stop() {
            let Some(reading) = source.next(&mut model)? else { break };
            if !self.print(&mut model, reading)? {
                break;
            }
        }
        Ok(())
    }

    /// Waits until this time, and lets the source do its work meanwhile. Returns false as soon as a signal asks to stop.
    fn wait(&self, source: &mut dyn Source, until: Instant) -> bool {
        while !self.signals.stop() {
            source.idle();
            match until.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => std::thread::sleep(left.min(POLL_INTERVAL)),
                _ => return true,
            }
        }
        false
    }

    /// Prints a reading. Returns false if it was the last one: the wanted number is printed, or the reader of stdout is gone.
    fn print(&mut self, model: &mut Model, reading: Snapshot) -> Result<bool, Error> {
        update(model, Message::Read(Box::new(reading)));
        let mut top = Top::new(self.show.table.sort, self.show.table.limit);
        for row in model.history.rows(Window::Second).filter(|row| model.filter.matches(row)) {
            top.add(row);
        }
        let first = self.printed == 0;
        let of = &model.reading;
        let lost = of.lost.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
        let of = table::Reading { ns: of.wall_ns, drift: of.self_stats.drift, lost };
        let table = table::render(&top.sorted(), self.show.table.format, &of, first)
            .map_err(|error| Error::Failure(format!("cannot format the table: {error}")))?;
        let mut out = Vec::with_capacity(table.len() + 200);
        if self.show.table.format == TableFormat::Columns {
            if !first {
                out.push(b'\n');
            }
            out.extend_from_slice(summary(model).as_bytes());
        }
        out.extend_from_slice(&table);
        if self.show.table.format == TableFormat::Columns {
            out.extend_from_slice(advice(model).as_bytes());
        }
        self.signals.writing(true);
        let open = stdout::print(&out)?;
        self.signals.writing(false);
        self.printed += 1;
        Ok(open && self.show.count.is_none_or(|count| self.printed < count))
    }
}

/// What is wrong and what to do, below the columns of a reading; empty: nothing is wrong.
fn advice(model: &Model) -> String {
    let answers = &model.answers;
    let wrong = answers.findings.iter().filter(|it| it.severity > Severity::Info);
    let mut text = String::new();
    for finding in wrong.clone().take(MOST_FINDINGS) {
        text.push('\n');
        for (_, line) in show::finding(finding, WIDTH, Commands::Whole) {
            text.push_str(&line);
            text.push('\n');
        }
    }
    let more = wrong.count().saturating_sub(MOST_FINDINGS) + answers.left_out;
    if more > 0 {
        // Writing to a String cannot fail.
        _ = writeln!(text, "\nfindings that are not shown: {more}");
    }
    text
}

/// The line above the columns of a reading; with a filter, a second line.
fn summary(model: &Model) -> String {
    let time = time_input::zoned(model.reading.wall_ns, &model.zone);
    let time = time.map_or_else(|_| "-".to_owned(), |time| time.strftime("%F %T").to_string());
    let rates = model.history.host().rates(Window::Second).unwrap_or_default();
    let about = &model.about;
    let mut line = format!(
        "{time} {}  {:.1} connects/s  {:.1} {}failures/s",
        text::line(&about.host),
        rates.opened,
        rates.failures(),
        // The hooks count failures for the whole host, whatever the filter.
        if about.filter.is_empty() { "" } else { "host " },
    );
    // Writing to a String cannot fail.
    for (cause, rate) in Cause::ALL.into_iter().zip(rates.failed).filter(|(_, rate)| *rate > 0.0) {
        _ = write!(line, "  {} {rate:.1}", cause.name());
    }
    let lost = model.reading.lost.iter().fold(0_u64, |sum, (_, count)| sum.saturating_add(*count));
    _ = writeln!(line, "  lost {lost}  {}", text::line(&about.backend));
    if !about.filter.is_empty() {
        let rows = model.history.count();
        let all = rows + model.reading.outside;
        _ = writeln!(line, "{rows} of {all} rows: {}", text::line(&about.filter));
    }
    line
}
