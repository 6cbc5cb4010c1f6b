//! Sockets whose process or namespace ends.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::harness::{
    netns::NetNs,
    process::Helper,
    sock::Sock,
    stage::{Expected, Server, Stage},
    tracer::wait_for,
};

/// The ports of five sockets are in use until the last process that shares them, a child, has ended: then they are in TIME_WAIT,
/// also when the other ends are closed.
pub fn inherited(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let (clients, accepted) = stage.netns.run(|| server.pairs(5))?;
    for client in &clients {
        fcntl_setfd(client, FdFlags::empty())?;
    }
    let mut heir = Helper::spawn(&["keep"])?;
    heir.ready()?;
    drop(clients);
    stage.check(&[(server.tuple(), Expected::ports(5, 0).opened(5))])?;
    heir.kill()?;
    stage.check(&[(server.tuple(), Expected::ports(5, 5).opened(5))])?;
    drop(accepted);
    stage.check(&[(server.tuple(), Expected::ports(5, 5).opened(5))])
}

/// The 20 ports of a process are in use until it is killed, and then in TIME_WAIT, as after close(), also when the other ends are
/// closed.
pub fn owner_killed(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let mut owner = stage.netns.run(|| Helper::spawn(&["hold", "10.1.0.1:7000", "20"]))?;
    owner.ready()?;
    let accepted = stage.netns.run(|| {
        (0..20).map(|_| server.listener.accept()).collect::<rustix::io::Result<Vec<_>>>()
    })?;
    stage.check(&[(server.tuple(), Expected::ports(20, 0).opened(20))])?;
    owner.kill()?;
    stage.check(&[(server.tuple(), Expected::ports(20, 20).opened(20))])?;
    drop(accepted);
    stage.check(&[(server.tuple(), Expected::ports(20, 20).opened(20))])
}

/// A namespace is removed of whose ten connections five are in TIME_WAIT: the kernel ends the time-wait sockets, and within 20 s
/// (longer in a guest) the ledger must have released all ports: each tuple has released as many as it took.
pub fn namespace_vanishes(stage: &mut Stage) -> Result<()> {
    let netns = NetNs::new()?;
    let inum = netns.inum();
    let server = netns.run(|| -> Result<Server> {
        let address = "127.0.0.1:7000".parse()?;
        let listener = Sock::tcp(address)?;
        listener.bind(address)?;
        listener.listen(64)?;
        Ok(Server { listener, address })
    })?;
    let (mut clients, mut accepted) = netns.run(|| server.pairs(10))?;
    drop((clients.split_off(5), accepted.split_off(5)));
    let tuple = server.tuple();
    let counted = |stage: &mut Stage, in_use: u64| -> Result<bool> {
        let right = stage.readings()?.iter().all(|(_, reading)| {
            let all = reading.of(inum);
            let sum: u64 = all.values().map(|counts| counts.in_use).sum();
            sum == in_use && (in_use == 0 || all.get(&tuple).is_some_and(|it| it.time_wait == 5))
        });
        Ok(right)
    };
    wait_for("10 ports in use", Duration::from_secs(5), || Ok(counted(stage, 10)?.then_some(())))?;
    drop((clients, accepted, server));
    drop(netns);
    wait_for("the ports of the namespace to be free", Duration::from_secs(20), || {
        Ok(counted(stage, 0)?.then_some(()))
    })?;
    for (backend, reading) in stage.readings()? {
        for (tuple, counts) in reading.of(inum) {
            let balanced = counts.opened == counts.released && counts.time_wait == 0;
            ensure!(balanced, "{backend}: {tuple}: {counts:?}");
        }
    }
    Ok(())
}
