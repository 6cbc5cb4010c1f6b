//! `spread::odd_sockets` and `spread::rebind`: sockets of all kinds behave as with spreading off, apart from their source.

mod again;
mod connect;
mod left_alone;
mod rebind;

use anyhow::{Result, ensure};
pub(super) use rebind::cases_by_backend;

use super::{Case, Host, POOL, Plan, source};
use crate::harness::{
    sock::Sock,
    stage::Server,
    tracer::{spread::Spread, status::Status},
};

pub(super) fn cases(plan: &Plan) -> Vec<Case> {
    plan.group(GROUP)
        .with(left_alone::cases(plan))
        .with(connect::cases(plan))
        .with(again::cases(plan))
        .with(rebind::cases(plan))
        .cases()
}

/// The tests that guests run: few, because guests are slow.
pub(super) fn cases_of_guests(plan: &Plan) -> Vec<Case> {
    rebind::cases_of_guests(plan)
}

/// The name of the group that most of these tests are in.
const GROUP: &str = "spread::odd_sockets";

/// A host with an active rule, and a server.
struct Scene {
    spread: Spread,
    server: Server,
    host: Host,
}

/// The source of a socket that is not spread.
const DEFAULT: &str = "10.1.0.1";
/// A port of the server's address on which nothing listens.
const CLOSED: &str = "10.1.0.1:7999";

impl Scene {
    fn new(arguments: &[&str]) -> Result<Self> {
        let mut host = Host::new()?;
        let server = host.server("10.1.0.1:7000")?;
        let spread = host.spread(&POOL, arguments)?;
        Ok(Self { spread, server, host })
    }

    fn tcp(&self) -> Result<Sock> {
        self.host.app.tcp(self.server.address)
    }

    /// Checks that `count` connect() calls were exempt for this reason (a key of the decisions in the status) and none was
    /// spread, and ends the rule.
    fn end_exempt(self, reason: &str, count: u64) -> Result<()> {
        let status = self.host.rule.status()?;
        ensure!(status.decided(reason)? == count, "{reason} is not {count}: {status:?}");
        ensure!(status.spread()? == 0, "spread: {status:?}");
        self.end().map(drop)
    }

    /// Ends the rule, of which nothing may be left. Returns its last status.
    fn end(self) -> Result<Status> {
        let status = self.host.rule.status()?;
        self.spread.stop()?;
        self.host.rule.check_nothing_left()?;
        Ok(status)
    }
}

/// Checks that the socket's source is `expected`, or for `None`, an address of the pool.
fn check(sock: &Sock, expected: Option<&str>) -> Result<()> {
    let from = source(sock)?.to_string();
    let right = expected.map_or(POOL.contains(&&*from), |expected| from == expected);
    ensure!(right, "the source is {from}, not {}", expected.unwrap_or("one of the pool"));
    Ok(())
}
