//! The time of connect() towards one destination, while the port range of one source address fills up.

use std::fmt::Write;

use anyhow::Result;

use super::{
    Field, Size,
    dialer::{Dialer, Life, Made, Plan, all},
    microseconds, quantile,
    targets::Targets,
};

/// How full the range is, in percent, in the middle of each measurement, which fills one percent of the range. The measurement
/// at 0 begins with the empty range.
const POINTS: [u64; 8] = [0, 10, 50, 60, 80, 90, 95, 99];
/// Above this percentage of the range a second process makes the connections, because all of them together can exceed the
/// number of descriptors that one process may have.
const HALF: u64 = 55;

/// Target: the highest p50 at each point, in percent of the p50 in the empty range.
const ALLOWED: u64 = 150;

/// What was measured at one point, in each round, ns: quantiles of connect(), and the CPU time for each connection.
#[derive(Clone, Debug, Default)]
struct Point {
    p50: Vec<u64>,
    p99: Vec<u64>,
    cpu: Vec<u64>,
}

impl Point {
    /// The medians over the rounds: p50, p99 and CPU time, ns.
    fn medians(&mut self) -> [u64; 3] {
        [&mut self.p50, &mut self.p99, &mut self.cpu].map(|rounds| quantile(rounds, 50))
    }
}

/// Times connect() at each of [`POINTS`], with spreading off and with `tracer spread`. Returns the table, and judges the targets:
/// with `tracer spread`, p50 at each point is at most 1.5 times that in the empty range. Errors as of [`super::run`].
pub(super) fn measure(size: Size, targets: &mut Targets) -> Result<String> {
    let mut alone: [Point; POINTS.len()] = Default::default();
    let mut spread = alone.clone();
    for _ in 0..size.rounds {
        fill(size, false, &mut alone)?;
        fill(size, true, &mut spread)?;
    }
    let (low, high) = size.range;
    let mut text = format!(
        "connect() to one destination from one source address, range {low}-{high}; p50 against the empty table:\n\n\
         | ports in use | kernel alone: p50 | p99 | CPU | `tracer spread`: p50 | p99 | CPU |\n\
         |--:|--:|--:|--:|--:|--:|--:|\n"
    );
    let empty = [alone[0].medians()[0], spread[0].medians()[0]];
    for (percent, (alone, spread)) in POINTS.iter().zip(alone.iter_mut().zip(&mut spread)) {
        write!(text, "| {percent} %")?;
        let mut times = [0; 2];
        for ((point, empty), times) in [alone, spread].into_iter().zip(empty).zip(&mut times) {
            let [p50, p99, cpu] = point.medians();
            *times = p50 * 100 / empty.max(1);
            let [p50, p99, cpu] = [p50, p99, cpu].map(microseconds);
            write!(text, " | {p50} ({}) | {p99} | {cpu}", ratio(*times))?;
        }
        text.push_str(" |\n");
        let [_, times] = times;
        if *percent > 0 {
            let target = format!(
                "connect() p50 at {percent} % of the range ≤ {} the empty table",
                ratio(ALLOWED)
            );
            targets.judge(target, ratio(times), times <= ALLOWED);
        }
    }
    Ok(text)
}

fn fill(size: Size, spread: bool, points: &mut [Point; POINTS.len()]) -> Result<()> {
    let (low, high) = size.range;
    let field = Field::new(1, low..=high)?;
    let _agent = spread.then(|| field.spread(&field.pool)).transpose()?;
    let plan = Plan::new(&field.server, Life::Held);
    let mut dialers = [field.dialer(true, &plan)?, field.dialer(true, &plan)?];
    let room = u64::from(high - low) + 1;
    let window = room / 100;
    let mut made = 0;
    for (percent, point) in POINTS.into_iter().zip(points) {
        let begin = (room * percent / 100).saturating_sub(window / 2);
        let half = room * HALF / 100;
        if percent > HALF && made < half {
            dial(&mut dialers[0], &mut made, half)?;
        }
        let dialer = &mut dialers[usize::from(percent > HALF)];
        dial(dialer, &mut made, begin)?;
        let mut timed = dial(dialer, &mut made, begin + window)?;
        point.p50.push(quantile(&mut timed.durations, 50));
        point.p99.push(quantile(&mut timed.durations, 99));
        point.cpu.push(timed.cpu / window);
    }
    Ok(())
}

/// Makes as many connections as are missing to `until`, where `made` is the number so far; sets `made` to `until`. Returns the
/// results of these connections; an error if one fails.
fn dial(dialer: &mut Dialer, made: &mut u64, until: u64) -> Result<Made> {
    let count = until - std::mem::replace(made, until);
    all(dialer.dial(count)?, count)
}

fn ratio(percent: u64) -> String {
    format!("{}.{:02} ×", percent / 100, percent % 100)
}
