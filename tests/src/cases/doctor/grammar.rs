//! A strict reader of what a monitoring plug-in prints, by the Monitoring Plugins Development Guidelines ("Plugin Output for
//! Nagios", "Performance data", "Threshold and ranges"). It shares no code with the program.

use anyhow::{Context, Result, bail, ensure};

/// One item of the performance data, which follow the `|`: `'LABEL'=VALUE[UNIT];[WARN];[CRIT];[MIN];[MAX]`. The last four are
/// checked, and not kept.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Number {
    /// Without its quotes; no two items of a report have the same.
    pub(super) label: String,
    /// `None`: `U`, not known.
    pub(super) value: Option<f64>,
    /// As printed, such as `%` or `s`; empty: none.
    pub(super) unit: String,
}

/// What the plug-in printed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report {
    /// `OK`, `WARNING`, `CRITICAL` or `UNKNOWN`.
    pub(super) state: String,
    /// The text of the first line, after the state.
    pub(super) text: String,
    /// The performance data, in their order; at least one.
    pub(super) numbers: Vec<Number>,
    /// The lines after the first, with their line ends; empty if there are none.
    pub(super) more: String,
}

/// Reads the whole output of the service `TRACER`: `TRACER STATE - TEXT | NUMBERS`, a line end, and further lines without
/// performance data. An error says where it breaks the guidelines.
pub(super) fn read(output: &str) -> Result<Report> {
    let (first, more) = output.split_once('\n').context("no line end")?;
    ensure!(!more.contains('|'), "a second `|` begins performance data: {more}");
    let (status, numbers) = first.split_once('|').context("no performance data")?;
    ensure!(!numbers.contains('|'), "two `|` in the first line: {first}");
    let (service, rest) = status.split_once(' ').context("no service")?;
    ensure!(service == "TRACER", "{service}");
    let (state, text) = rest.split_once(" - ").context("no ` - ` after the state")?;
    ensure!(["OK", "WARNING", "CRITICAL", "UNKNOWN"].contains(&state), "{state}");
    ensure!(!text.trim().is_empty() && !first.chars().any(char::is_control), "{first:?}");
    let numbers = split(numbers)?.iter().map(|it| number(it)).collect::<Result<Vec<_>>>()?;
    ensure!(!numbers.is_empty(), "no number: {first}");
    let labels = || numbers.iter().map(|it| &it.label);
    for label in labels() {
        ensure!(labels().filter(|it| *it == label).count() == 1, "{label} is there twice");
    }
    Ok(Report {
        state: state.to_owned(),
        text: text.trim_end().to_owned(),
        numbers,
        more: more.to_owned(),
    })
}

/// Splits at spaces that are not between quotes.
fn split(text: &str) -> Result<Vec<String>> {
    let (mut all, mut quoted) = (vec![String::new()], false);
    for letter in text.chars() {
        quoted ^= letter == '\'';
        match all.last_mut() {
            Some(last) if letter != ' ' || quoted => last.push(letter),
            _ => all.push(String::new()),
        }
    }
    ensure!(!quoted, "a quote is not closed: {text}");
    all.retain(|it| !it.is_empty());
    Ok(all)
}

/// `'label'=value[UOM];[warn];[crit];[min];[max]`.
fn number(text: &str) -> Result<Number> {
    let (label, rest) = match text.strip_prefix('\'') {
        Some(rest) => rest.split_once("'=").context("a quoted label without an end")?,
        None => text.split_once('=').context("no `=`")?,
    };
    ensure!(!label.is_empty() && !label.contains(['=', '\'']), "label {label:?}");
    ensure!(text.starts_with('\'') || !label.contains(' '), "label {label:?} without quotes");
    let fields: Vec<&str> = rest.split(';').collect();
    ensure!(fields.len() <= 5, "more than value, warn, crit, min, max: {rest}");
    let field = |at: usize| fields.get(at).copied().filter(|it| !it.is_empty());
    for range in [field(1), field(2)].into_iter().flatten() {
        check_range(range).with_context(|| text.to_owned())?;
    }
    let bound = |at: usize| field(at).map(decimal).transpose();
    let (least, most) = (bound(3)?, bound(4)?);
    let (value, unit) = value(field(0).context("no value")?)?;
    if let Some(value) = value {
        let inside = least.is_none_or(|it| it <= value) && most.is_none_or(|it| value <= it);
        ensure!(inside, "{text}: not between min and max");
    }
    Ok(Number { label: label.to_owned(), value, unit })
}

/// The value with its unit; `U`: not known.
fn value(text: &str) -> Result<(Option<f64>, String)> {
    if text == "U" {
        return Ok((None, String::new()));
    }
    let end = text.find(|letter: char| !letter.is_ascii_digit() && !"-.".contains(letter));
    let (digits, unit) = text.split_at(end.unwrap_or(text.len()));
    let units = ["", "s", "us", "ms", "%", "B", "KB", "MB", "TB", "c"];
    ensure!(units.contains(&unit), "unit {unit:?}");
    Ok((Some(decimal(digits)?), unit.to_owned()))
}

/// A number of digits, `-` and `.` only.
fn decimal(text: &str) -> Result<f64> {
    let plain = !text.is_empty() && text.chars().all(|it| it.is_ascii_digit() || "-.".contains(it));
    ensure!(plain, "{text:?} is no number");
    text.parse().with_context(|| format!("{text:?} is no number"))
}

/// `10`, `10:`, `~:10`, `10:20`, `@10:20`; the first is not above the last.
fn check_range(text: &str) -> Result<()> {
    let range = text.strip_prefix('@').unwrap_or(text);
    let (start, end) = match range.split_once(':') {
        None => (0.0, decimal(range)?),
        Some(("~", "")) => bail!("{text}: a range without ends"),
        Some(("~", end)) => (f64::NEG_INFINITY, decimal(end)?),
        Some((start, "")) => (decimal(start)?, f64::INFINITY),
        Some((start, end)) => (decimal(start)?, decimal(end)?),
    };
    ensure!(start <= end, "{text}: its start is above its end");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guidelines_allow_is_read() {
        let text = "TRACER WARNING - a b | x=0.5;0.8;~:1;0;1 'two words'=3ms;@10:20;10:;; y=U z=-1c\nmore\n";
        let report = read(text).unwrap();
        assert_eq!((report.state.as_str(), report.text.as_str()), ("WARNING", "a b"));
        let number = |it: &'_ Number| (it.label.clone(), it.value, it.unit.clone());
        let numbers: Vec<_> = report.numbers.iter().map(number).collect();
        let expected = [
            ("x", Some(0.5), ""),
            ("two words", Some(3.0), "ms"),
            ("y", None, ""),
            ("z", Some(-1.0), "c"),
        ];
        let expected =
            expected.map(|(label, value, unit)| (label.to_owned(), value, unit.to_owned()));
        assert_eq!(numbers, expected);
        assert_eq!(report.more, "more\n");
    }

    #[test]
    fn what_they_do_not_allow_is_refused() {
        for wrong in [
            "TRACER OK - a | x=1",
            "TRACER OK - a\n",
            "TRACER GOOD - a | x=1\n",
            "OTHER OK - a | x=1\n",
            "TRACER OK a | x=1\n",
            "TRACER OK -  | x=1\n",
            "TRACER OK - a | x=1 | y=2\n",
            "TRACER OK - a | x=1\n | y=2\n",
            "TRACER OK - a |\n",
            "TRACER OK - a | x\n",
            "TRACER OK - a | =1\n",
            "TRACER OK - a | x=\n",
            "TRACER OK - a | x=1e3\n",
            "TRACER OK - a | x=1h\n",
            "TRACER OK - a | x=NaN\n",
            "TRACER OK - a | x=1;2:1\n",
            "TRACER OK - a | x=1;a\n",
            "TRACER OK - a | x=1;;;2\n",
            "TRACER OK - a | x=1;;;0;0.5\n",
            "TRACER OK - a | x=1;;;;;\n",
            "TRACER OK - a | 'x=1\n",
            "TRACER OK - a | x=1 x=2\n",
            "TRACER OK - \u{1b}a | x=1\n",
        ] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
