//! The ways to close a connection.

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

/// The client closes its 20 connections first: their ports are in TIME_WAIT, before and after the server closes, too.
pub fn client_first(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let tuple = server.tuple();
    let (clients, accepted) = open(stage, &server)?;
    stage.check(&[(tuple, Expected::ports(COUNT, 0).opened(COUNT))])?;
    // A closed socket in FIN_WAIT2 is a time-wait socket already.
    drop(clients);
    stage.check(&[(tuple, Expected::ports(COUNT, COUNT).opened(COUNT))])?;
    drop(accepted);
    stage.check(&[(tuple, Expected::ports(COUNT, COUNT).opened(COUNT))])
}

/// The server closes 20 connections first: the client's ports are in use, not in TIME_WAIT, until the client has closed, too;
/// then they are free.
pub fn server_first(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let tuple = server.tuple();
    let (clients, accepted) = open(stage, &server)?;
    drop(accepted);
    stage.check(&[(tuple, Expected::ports(COUNT, 0).opened(COUNT))])?;
    drop(clients);
    stage.check(&[(tuple, Expected::ports(0, 0).opened(COUNT))])
}

/// Both sides close each of 200 connections at the same time. It depends on timing which side ends up in TIME_WAIT, so the test
/// expects no certain number of ports: the tracer must have as many as the kernel.
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

/// The client closes its 20 connections with an RST: its ports are free immediately, without TIME_WAIT, and remain so when the
/// server closes, too.
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

/// The server closes 20 connections with an RST: the client's ports are free immediately, without TIME_WAIT, although the
/// client's sockets are still open.
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

/// After shutdown() by the client, its socket is in FIN_WAIT2, which is not TIME_WAIT; once the server has closed, a time-wait
/// socket holds the port, while the client's descriptor is still open, and after that is closed.
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
