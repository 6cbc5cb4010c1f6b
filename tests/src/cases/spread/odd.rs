//! Sockets of all kinds behave as they do without us, but for their source.

mod again;
mod connect;
mod left_alone;
mod rebind;

use anyhow::{Result, ensure};
pub(super) use rebind::cases_by_backend;

use super::{Case, Host, POOL, source};
use crate::harness::{
    sock::Sock,
    stage::Server,
    tracer::spread::{Spread, Status},
};

pub(super) fn cases() -> Vec<Case> {
    let cases = left_alone::cases().into_iter();
    cases.chain(connect::cases()).chain(again::cases()).chain(rebind::cases()).collect()
}

/// Those for guests, where time is dear.
pub(super) fn cases_of_guests() -> Vec<Case> {
    rebind::cases_of_guests()
}

fn case(name: &str, test: fn() -> Result<()>) -> Case {
    Case::new(format!("spread::odd_sockets::{name}"), test)
}

/// A host whose rule is there, and a server.
struct Scene {
    spread: Spread,
    server: Server,
    host: Host,
}

/// What a socket has that is not spread.
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

    /// So often connect() was left alone for this reason; nothing was spread. The rule ends well.
    fn left_alone(self, reason: &str, count: u64) -> Result<()> {
        let status = self.host.rule.status()?;
        ensure!(status.decided(reason)? == count, "{reason} is not {count}: {status:?}");
        ensure!(status.spread()? == 0, "spread: {status:?}");
        self.end().map(drop)
    }

    /// The rule ends well; its last status.
    fn end(self) -> Result<Status> {
        let status = self.host.rule.status()?;
        self.spread.stop()?;
        self.host.rule.check_nothing_left()?;
        Ok(status)
    }
}

/// The socket has been connected by a source of the pool, or by this one.
fn check(sock: &Sock, expected: Option<&str>) -> Result<()> {
    let from = source(sock)?.to_string();
    let right = expected.map_or(POOL.contains(&&*from), |expected| from == expected);
    ensure!(right, "the source is {from}, not {}", expected.unwrap_or("one of the pool"));
    Ok(())
}
