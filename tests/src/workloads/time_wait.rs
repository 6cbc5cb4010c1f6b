//! The ways into and out of TIME_WAIT.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::harness::{
    sock::Sock,
    stage::{CLIENT, Expected, Outcome, Stage},
    tracer::wait_for,
};

/// How long a socket is in TIME_WAIT: `TCP_TIMEWAIT_LEN` of include/net/tcp.h.
const TIME_WAIT: Duration = Duration::from_mins(1);

/// The ports of 20 closed sockets in FIN_WAIT2, whose peers stay open, count as in TIME_WAIT, and are free after tcp_fin_timeout
/// (2 s here).
pub fn fin_wait2_ends(stage: &mut Stage) -> Result<()> {
    stage.netns.sysctl("ipv4/tcp_fin_timeout", "2")?;
    let server = stage.server("10.1.0.1:7000")?;
    let (clients, _accepted) = stage.netns.run(|| server.pairs(20))?;
    drop(clients);
    stage.check(&[(server.tuple(), Expected::ports(20, 20).opened(20))])?;
    wait_for("the end of FIN_WAIT2", Duration::from_secs(10), || {
        Ok(stage.oracle()?.is_empty().then_some(()))
    })?;
    stage.check(&[(server.tuple(), Expected::ports(0, 0).opened(20))])
}

/// TIME_WAIT ends after 60 s: the ports of 20 closed connections are in use until then, and free afterwards.
pub fn to_its_end(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let (clients, accepted) = stage.netns.run(|| server.pairs(20))?;
    let closed = Instant::now();
    drop(clients);
    drop(accepted);
    stage.check(&[(server.tuple(), Expected::ports(20, 20).opened(20))])?;
    // The ledger is compared with the kernel 10 s before TIME_WAIT ends. On a slow machine, TIME_WAIT may end for some sockets
    // before they are read: then the ledger must have as many as the kernel.
    thread::sleep(Duration::from_secs(50).saturating_sub(closed.elapsed()));
    let table = stage.oracle()?;
    let there = table.get(&server.tuple()).map_or(0, |sockets| sockets.time_wait);
    let age = closed.elapsed();
    ensure!(there == 20 || age > TIME_WAIT, "{there} of 20 are left after {age:?}");
    stage.settle(&Outcome::opened(20))?;
    wait_for("the end of TIME_WAIT", Duration::from_secs(20), || {
        Ok(stage.oracle()?.is_empty().then_some(()))
    })?;
    stage.check(&[(server.tuple(), Expected::ports(0, 0).opened(20))])
}

/// With tcp_tw_reuse=1, connect() takes over a port that has been in TIME_WAIT for more than 1 s: while all ten ports of the
/// range are in TIME_WAIT, five more connections succeed, and the tuple has ten ports in use, five of them in TIME_WAIT.
pub fn reused(stage: &mut Stage) -> Result<()> {
    stage.netns.sysctl("ipv4/tcp_tw_reuse", "1")?;
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40009")?;
    let server = stage.server("10.1.0.1:7000")?;
    let (clients, accepted) = stage.netns.run(|| server.pairs(10))?;
    drop(clients);
    drop(accepted);
    stage.check(&[(server.tuple(), Expected::ports(10, 10).opened(10))])?;
    thread::sleep(Duration::from_millis(2100));
    let (clients, accepted) = stage.netns.run(|| server.pairs(5))?;
    stage.check(&[(server.tuple(), Expected::ports(10, 5).opened(15))])?;
    drop(clients);
    drop(accepted);
    stage.check(&[(server.tuple(), Expected::ports(10, 10).opened(15))])
}

/// A socket that binds the same port again takes over the 4-tuple from the time-wait socket of its predecessor: in each of three
/// rounds, the tuple has one port in use, which is in TIME_WAIT after close().
pub fn recycled(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let tuple = server.tuple_from(CLIENT)?;
    let again = || -> Result<(Sock, Sock)> {
        let sock = Sock::tcp(server.address)?;
        sock.set_reuse_address()?;
        sock.bind("10.1.0.2:41000".parse()?)?;
        sock.connect(server.address)?;
        Ok((sock, server.listener.accept()?))
    };
    for round in 1..=3 {
        let (client, accepted) =
            stage.netns.run(again).with_context(|| format!("round {round}"))?;
        stage.check(&[(tuple, Expected::ports(1, 0).opened(round))])?;
        drop(client);
        drop(accepted);
        stage.check(&[(tuple, Expected::ports(1, 1).opened(round))])?;
        // Where connect() chooses the port, the kernel takes over only a TIME_WAIT that is older than 1 s; for a bound port it is
        // enough that the old connection used TCP timestamps (net/ipv4/tcp_ipv4.c, tcp_twsk_unique). After this pause both
        // conditions hold.
        thread::sleep(Duration::from_millis(1100));
    }
    Ok(())
}

/// If the namespace has tcp_max_tw_buckets time-wait sockets already (5 here), the kernel makes no more: of 20 closed
/// connections, five ports are in TIME_WAIT, and the others are free immediately.
pub fn bucket_overflow(stage: &mut Stage) -> Result<()> {
    stage.netns.sysctl("ipv4/tcp_max_tw_buckets", "5")?;
    let server = stage.server("10.1.0.1:7000")?;
    let (clients, accepted) = stage.netns.run(|| server.pairs(20))?;
    drop(clients);
    drop(accepted);
    stage.check(&[(server.tuple(), Expected::ports(5, 5).opened(20))])?;
    let table = stage.oracle()?;
    ensure!(table.len() == 1, "the kernel has {table:?}");
    Ok(())
}
