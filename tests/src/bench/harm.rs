//! How connect() of a program that is not spread changes while a program with a rule fills the port range.

use std::fmt::Write;

use anyhow::Result;

use super::{
    Field, Size,
    dialer::{Dialer, Life, Plan, all},
    microseconds, quantile,
    targets::Targets,
};
use crate::harness::stage::SERVER;

/// Number of connect() calls of the other program that are timed in each measurement.
const OTHERS: u64 = 10_000;

/// Times connect() of the other program with an empty and with a nearly full range, with spreading off and with `tracer spread`.
/// Returns the table, and judges the targets: with the range full by `tracer spread`, p50 is at most 110 % of that with an empty
/// range, and no timed call fails. Errors as of [`super::run`].
pub(super) fn measure(size: Size, targets: &mut Targets) -> Result<String> {
    let mut text = "connect() of a program that is not spread, to another destination, while another one \
                    fills a range:\n\n| ports in use by the other one | p50 | p99 |\n|---|--:|--:|\n"
        .to_owned();
    let mut times = [(); 4].map(|()| Times::default());
    let [empty_alone, alone, empty_spread, spread] = &mut times;
    let mut left = 0;
    for _ in 0..size.rounds {
        fill(size, false, empty_alone, alone)?;
        left = fill(size, true, empty_spread, spread)?;
    }
    let names = [
        "none, kernel alone",
        "99 %, kernel alone",
        "none, `tracer spread` runs",
        "99 %, `tracer spread`",
    ];
    let mut medians = Vec::new();
    for (name, times) in names.into_iter().zip(&mut times) {
        let p50 = quantile(&mut times.p50, 50);
        let p99 = microseconds(quantile(&mut times.p99, 50));
        writeln!(text, "| {name} | {} | {p99} |", microseconds(p50))?;
        medians.push((name, p50));
    }
    if let [none, _, idle, (_, full)] = medians[..] {
        for (name, before) in [none, idle] {
            // The p50 with the range full, in percent of the p50 with an empty range.
            let part = full * 100 / before.max(1);
            let target = format!("other program, p50 ≤ 110 % of that at: {name}");
            targets.judge(target, format!("{part} %"), part <= 110);
        }
    }
    let failed = times[3].failed;
    let calls = u64::from(size.rounds) * OTHERS;
    let target = format!("other program, {calls} calls with the range full: 0 fail");
    targets.judge(target, failed.to_string(), failed == 0);
    let all = u64::from(size.range.1 - size.range.0) + 1;
    writeln!(
        text,
        "\nWith a range that `tracer spread` has filled to 99 %, that program could hold {left} connections to its own \
         destination; with an empty range {all}."
    )?;
    Ok(text)
}

/// How long connect() of the other program took: quantiles of each round, ns.
#[derive(Default)]
struct Times {
    p50: Vec<u64>,
    p99: Vec<u64>,
    /// Number of calls of all rounds that failed, or were not made any more after one that failed.
    failed: u64,
}

/// Times connect() of the other program before and after the range is filled to 99 %. Returns how many connections that program
/// can hold then to its own destination; 0 with spreading off, where that is not measured.
fn fill(size: Size, spread: bool, before: &mut Times, full: &mut Times) -> Result<u64> {
    let (low, high) = size.range;
    let mut field = Field::new(1, low..=high)?;
    let second = field.stage.server(&format!("{SERVER}:7500"))?;
    second.listener.listen(65_535)?;
    let mut other = field.dialer(false, &Plan::new(&second, Life::Brief))?;
    let held = Plan::new(&field.server, Life::Held);
    let mut dialers = [field.dialer(true, &held)?, field.dialer(true, &held)?];
    let _agent = spread.then(|| field.spread(&field.pool)).transpose()?;
    let half = (u64::from(high - low) + 1) * 99 / 200;
    time(&mut other, before)?;
    for dialer in &mut dialers {
        all(dialer.dial(half)?, half)?;
    }
    time(&mut other, full)?;
    if !spread {
        return Ok(0);
    }
    let held = Plan::new(&second, Life::Held);
    let mut others = [field.dialer(false, &held)?, field.dialer(false, &held)?];
    let mut left = 0;
    for other in &mut others {
        left += u64::try_from(other.dial(half + half / 50)?.ends.len())?;
    }
    Ok(left)
}

fn time(other: &mut Dialer, times: &mut Times) -> Result<()> {
    all(other.dial(OTHERS / 10)?, OTHERS / 10)?;
    let mut made = other.dial(OTHERS)?;
    times.failed += OTHERS - u64::try_from(made.ends.len())?;
    times.p50.push(quantile(&mut made.durations, 50));
    times.p99.push(quantile(&mut made.durations, 99));
    Ok(())
}
