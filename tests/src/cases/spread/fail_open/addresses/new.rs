//! An address of the pool that has never had a connection to a destination.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Result, ensure};

use super::{BACK_LIMIT, linked};
use crate::{
    cases::spread::{Host, source},
    harness::{sock::Sock, tracer::wait_for, tuple::Tuple},
};

/// Number of connections from each address.
type Made = BTreeMap<String, u32>;

/// Begins `count` connections without waiting for an answer, and adds their sockets to `held`. Returns how many are from each
/// address.
fn begin_many(host: &Host, peer: SocketAddr, count: u32, held: &mut Vec<Sock>) -> Result<Made> {
    let mut made = Made::new();
    for _ in 0..count {
        let sock = host.app.tcp(peer)?;
        sock.set_nonblocking()?;
        sock.set_syn_count(1)?;
        sock.set_reset_on_close()?;
        _ = sock.connect(peer);
        *made.entry(source(&sock)?.to_string()).or_insert(0) += 1;
        held.push(sock);
    }
    Ok(made)
}

/// Towards a destination to which another address has connections, an address that never had one gets few calls (4 of 200), until
/// one of them is established. Towards a destination to which no address has connections, all are used alike (each of two gets
/// more than 80 of 200).
pub(super) fn new_address() -> Result<()> {
    let pool = ["10.2.0.11", "10.2.0.12"];
    let (host, other, listener) = linked(&pool, "10.2.0.2")?;
    let peer = listener.local()?;
    other.ip("rule add from 10.2.0.2 to 10.2.0.12 blackhole")?;
    other.ip("addr add 10.2.0.3/24 dev t0")?;
    // This connection is older than the rule.
    let older = host.app.tcp(peer)?;
    older.bind(SocketAddr::new(pool[0].parse()?, 0))?;
    older.connect(peer)?;
    let spread = host.spread(&pool, &[])?;

    let mut held = Vec::new();
    let made = begin_many(&host, peer, 200, &mut held)?;
    ensure!(made == Made::from([(pool[0].into(), 196), (pool[1].into(), 4)]), "{made:?}");
    // This destination answers to no address of the pool.
    other.ip("rule add from 10.2.0.3 blackhole")?;
    let nowhere = "10.2.0.3:7000".parse()?;
    let made = begin_many(&host, nowhere, 200, &mut held)?;
    ensure!(made.values().all(|count| *count > 80), "where none has a connection: {made:?}");

    other.ip("rule del from 10.2.0.2 to 10.2.0.12 blackhole")?;
    wait_for("the new address to have a connection", BACK_LIMIT, || {
        drop(begin_many(&host, peer, 4, &mut held)?);
        while listener.accept().is_ok() {}
        let status = host.rule.status()?;
        let in_use = |address: &str| -> Result<u64> {
            Ok(status.counts(Tuple::new(address.parse()?, peer)).in_use)
        };
        // The new address is the emptier one, so it gets all further calls.
        Ok((in_use(pool[1])? > 20).then_some(()))
    })?;
    held.clear();
    spread.stop()?;
    host.rule.check_nothing_left()
}
