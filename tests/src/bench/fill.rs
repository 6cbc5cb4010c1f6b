//! How full a pool is when the first connect() finds no port: with `tracer spread`, and with policies that a proxy can be
//! configured for.

use std::fmt::Write;

use anyhow::{Context, Result, ensure};

use super::{
    Field, Size,
    dialer::{Choice, Life, Made, Plan, all},
    targets::Targets,
};

/// Number of ports of each address.
const PORTS: u64 = 1000;
/// The most connections of one process, which has one or two descriptors for each.
const DESCRIPTORS: u64 = 9_000;
/// In the scenario with others: the number of ports that another program uses at the first address of the pool.
const OTHERS: u64 = PORTS * 30 / 100;

/// Target: the least number of ports in use at the first failure, in 1/10,000 of all ports.
const ENOUGH: u64 = 9_990;

/// What chooses the source address: its name in the table, and how the client program chooses. `None`: the client program does
/// not choose, `tracer spread` does.
const POLICIES: [(&str, Option<Choice>); 4] = [
    ("`tracer spread`", None),
    ("round-robin", Some(Choice::RoundRobin)),
    ("random", Some(Choice::Random)),
    ("hash of skewed clients", Some(Choice::SplitClients)),
];

struct Scenario {
    name: &'static str,
    life: Life,
    processes: usize,
    others: u64,
}

const STEADY: Scenario = Scenario { name: "steady", life: Life::Held, processes: 1, others: 0 };
const SCENARIOS: [Scenario; 5] = [
    STEADY,
    Scenario { name: "half of them in TIME_WAIT", life: Life::Churn, ..STEADY },
    Scenario { name: "first address 30 % used by others", others: OTHERS, ..STEADY },
    Scenario { name: "long and short in turn", life: Life::Alternate, ..STEADY },
    Scenario { name: "8 processes at once", processes: 8, ..STEADY },
];

/// Fills pools of each of [`Size::pools`] in each scenario, by each policy. Returns the table, and judges the targets: with
/// `tracer spread`, 99.9 % of all ports or more are in use at the first EADDRNOTAVAIL. Errors as of [`super::run`], or if no
/// connect() of a pool ever fails.
pub(super) fn measure(size: Size, targets: &mut Targets) -> Result<String> {
    let mut text = format!(
        "Ports in use at the first EADDRNOTAVAIL, of all of a pool of 1 address and more ({PORTS} ports each):\n\n| |"
    );
    for addresses in size.pools {
        write!(text, " {addresses} |")?;
    }
    write!(text, "\n|---|{}\n", "--:|".repeat(size.pools.len()))?;
    for scenario in &SCENARIOS {
        for (policy, choice) in POLICIES {
            write!(text, "| {}: {policy} |", scenario.name)?;
            for addresses in size.pools {
                let parts = fill(scenario, choice, *addresses)
                    .with_context(|| format!("{}, {policy}, {addresses}", scenario.name))?;
                let measured = format!("{}.{:02} %", parts / 100, parts % 100);
                write!(text, " {measured} |")?;
                if choice.is_none() {
                    let target = format!(
                        "{}, {addresses} addresses: first EADDRNOTAVAIL at ≥ {}.{:02} % of all ports",
                        scenario.name,
                        ENOUGH / 100,
                        ENOUGH % 100
                    );
                    targets.judge(target, measured, parts >= ENOUGH);
                }
            }
            text.push('\n');
        }
    }
    Ok(text)
}

/// Fills the ports of a pool of this many addresses until a connect() fails with EADDRNOTAVAIL. Returns how many ports are in use
/// at the first such failure, in 1/10,000 of all ports. `choice` is as in [`POLICIES`].
fn fill(scenario: &Scenario, choice: Option<Choice>, addresses: u32) -> Result<u64> {
    let low = 40_000;
    let field = Field::new(addresses, low..=low + u16::try_from(PORTS)? - 1)?;
    let room = PORTS * u64::from(addresses);
    let plan = |life, choice, sources: &[String]| Plan {
        choice,
        sources: sources.to_vec(),
        ..Plan::new(&field.server, life)
    };
    let mut others = field.dialer(false, &plan(Life::Held, Choice::Random, &field.pool[..1]))?;
    let _agent = choice.is_none().then(|| field.spread(&field.pool)).transpose()?;
    all(others.dial(scenario.others)?, scenario.others)?;
    let plan = plan(scenario.life, choice.unwrap_or(Choice::Nothing), &field.pool);
    let mut dialers = Vec::new();
    let mut made: Vec<Made> = Vec::new();
    while made.iter().all(|one| one.failed == 0) {
        ensure!(made.len() < 100, "no connect() ever fails");
        let spawn = |_| field.dialer(true, &plan);
        let mut next = (0..scenario.processes).map(spawn).collect::<Result<Vec<_>>>()?;
        for dialer in &mut next {
            dialer.begin(DESCRIPTORS)?;
        }
        for dialer in &mut next {
            made.push(dialer.end()?);
        }
        // The connections stay open until their processes end.
        dialers.extend(next);
    }
    let failures = made.iter().map(|one| one.failed).filter(|failed| *failed > 0);
    let first = failures.min().context("no connect() ever failed")?;
    // A connect() that succeeds counts if it began before the first failure, even if it returned later: it had a port by then, or
    // got one that was still free.
    let until = |one: &Made| {
        let began = one.ends.iter().zip(&one.durations).map(|(end, took)| end - took);
        began.filter(|begin| *begin < first).count()
    };
    let connected: usize = made.iter().map(until).sum();
    let released: u64 = made.iter().map(|one| one.released).sum();
    let in_use = scenario.others + u64::try_from(connected)? - released;
    ensure!(in_use <= room, "{in_use} ports of {room}");
    Ok(in_use * 10_000 / room)
}
