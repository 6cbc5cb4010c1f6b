//! What a program that is not spread notices of one that fills its range through us.

use std::fmt::Write;

use anyhow::Result;

use super::{
    Field, Size,
    dialer::{Dialer, Life, Plan, all},
    microseconds, quantile,
};
use crate::stage::SERVER;

/// connect() calls of the other program that are timed.
const OTHERS: u64 = 10_000;

pub(super) fn measure(size: Size) -> Result<String> {
    let mut text = "connect() of a program that is not spread, to another destination, while another one \
                    fills a range:\n\n| ports in use by the other one | p50 | p99 |\n|---|--:|--:|\n"
        .to_owned();
    let mut times = [(); 4].map(|()| Times::default());
    let [empty_alone, alone, empty_spread, spread] = &mut times;
    for _ in 0..size.rounds {
        beside(size, false, empty_alone, alone)?;
        beside(size, true, empty_spread, spread)?;
    }
    let names = [
        "none, kernel alone",
        "99 %, kernel alone",
        "none, `tracer spread` runs",
        "99 %, `tracer spread`",
    ];
    for (name, times) in names.into_iter().zip(&mut times) {
        let p50 = microseconds(quantile(&mut times.p50, 50));
        let p99 = microseconds(quantile(&mut times.p99, 50));
        writeln!(text, "| {name} | {p50} | {p99} |")?;
    }
    Ok(text)
}

/// ns of each round.
#[derive(Default)]
struct Times {
    p50: Vec<u64>,
    p99: Vec<u64>,
}

fn beside(size: Size, spread: bool, before: &mut Times, full: &mut Times) -> Result<()> {
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
    time(&mut other, full)
}

fn time(other: &mut Dialer, times: &mut Times) -> Result<()> {
    all(other.dial(OTHERS / 10)?, OTHERS / 10)?;
    let mut made = all(other.dial(OTHERS)?, OTHERS)?;
    times.p50.push(quantile(&mut made.durations, 50));
    times.p99.push(quantile(&mut made.durations, 99));
    Ok(())
}
