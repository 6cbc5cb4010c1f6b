//! Who closes first, and how.

use std::{sync::Barrier, thread};

use anyhow::Result;

use crate::harness::{
    sock::Sock,
    stage::{Expected, Outcome, Server, Stage},
};

const COUNT: u64 = 20;

fn open(stage: &Stage, server: &Server) -> Result<(Vec<Sock>, Vec<Sock>)> {
    stage.netns.run(|| server.pairs(usize::try_from(COUNT)?))
}

pub fn client_first(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let tuple = server.tuple();
    let (clients, accepted) = open(stage, &server)?;
    stage.check(&[(tuple, Expected::ports(COUNT, 0).opened(COUNT))])?;
    // FIN_WAIT2 of a closed socket is held by a time-wait socket already.
    drop(clients);
    stage.check(&[(tuple, Expected::ports(COUNT, COUNT).opened(COUNT))])?;
    drop(accepted);
    stage.check(&[(tuple, Expected::ports(COUNT, COUNT).opened(COUNT))])
}

pub fn server_first(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let tuple = server.tuple();
    let (clients, accepted) = open(stage, &server)?;
    drop(accepted);
    stage.check(&[(tuple, Expected::ports(COUNT, 0).opened(COUNT))])?;
    drop(clients);
    stage.check(&[(tuple, Expected::ports(0, 0).opened(COUNT))])
}

/// Which side ends up in TIME_WAIT is a race; the kernel says which.
pub fn both_at_once(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let (clients, accepted) = stage.netns.run(|| server.pairs(200))?;
    let barrier = Barrier::new(2);
    thread::scope(|scope| {
        for side in [clients, accepted] {
            let barrier = &barrier;
            scope.spawn(move || {
                for sock in side {
                    barrier.wait();
                    drop(sock);
                }
            });
        }
    });
    stage.settle(&Outcome::opened(200))?;
    Ok(())
}

pub fn reset_by_client(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let (clients, accepted) = open(stage, &server)?;
    for client in &clients {
        client.set_reset_on_close()?;
    }
    drop(clients);
    stage.check(&[(server.tuple(), Expected::ports(0, 0).opened(COUNT))])?;
    drop(accepted);
    stage.check(&[(server.tuple(), Expected::ports(0, 0).opened(COUNT))])
}

pub fn reset_by_server(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let (clients, accepted) = open(stage, &server)?;
    for sock in &accepted {
        sock.set_reset_on_close()?;
    }
    drop(accepted);
    // The descriptors are still open, but their ports are free.
    stage.check(&[(server.tuple(), Expected::ports(0, 0).opened(COUNT))])?;
    drop(clients);
    stage.check(&[(server.tuple(), Expected::ports(0, 0).opened(COUNT))])
}

/// shutdown() leaves a full socket in FIN_WAIT2, and then a time-wait socket beside an open fd.
pub fn half_closed(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let tuple = server.tuple();
    let (clients, accepted) = open(stage, &server)?;
    for client in &clients {
        client.shutdown_write()?;
    }
    stage.check(&[(tuple, Expected::ports(COUNT, 0).opened(COUNT))])?;
    drop(accepted);
    stage.check(&[(tuple, Expected::ports(COUNT, COUNT).opened(COUNT))])?;
    drop(clients);
    stage.check(&[(tuple, Expected::ports(COUNT, COUNT).opened(COUNT))])
}
