//! How connections are used: requests in each, and which end closes first.

use anyhow::{Result, ensure};

use crate::harness::{
    sock::Sock,
    stage::{Expected, Server, Stage},
    tracer::watch::Uses,
};

/// Opens connections to the server; each client sends this many requests, one after the answer to the one before. Returns the
/// clients, the server's sockets, and how many segments with data the kernel has for all clients: as many as there were
/// requests, or more if some were sent again.
fn requests(
    stage: &Stage,
    server: &Server,
    connections: usize,
    requests: u64,
) -> Result<(Vec<Sock>, Vec<Sock>, u64)> {
    let (clients, accepted) = stage.netns.run(|| server.pairs(connections))?;
    let mut segments = 0;
    for (client, server) in clients.iter().zip(&accepted) {
        for _ in 0..requests {
            client.send(b"GET / HTTP/1.1\r\n\r\n")?;
            server.receive()?;
            server.send(b"HTTP/1.1 204\r\n\r\n")?;
            client.receive()?;
        }
        let sent = client.sent()?;
        ensure!(
            (requests..=requests + sent.again).contains(&sent.data),
            "the client sent {sent:?}"
        );
        segments += sent.data;
    }
    Ok((clients, accepted, segments))
}

/// Connections with one request, 25 and two, closed first by this host, by the peer, or reset: each is counted once, when its
/// socket closes, as `closed_here`, `closed_by_peer` or `aborted`, and its segments with data as the kernel has them (TCP_INFO).
pub fn requests_and_closers(stage: &mut Stage) -> Result<()> {
    let one = stage.server("10.1.0.1:7000")?;
    let many = stage.server("10.1.0.1:7001")?;
    let reset = stage.server("10.1.0.1:7002")?;
    let (one_clients, one_accepted, one_segments) = requests(stage, &one, 8, 1)?;
    let (many_clients, many_accepted, many_segments) = requests(stage, &many, 4, 25)?;
    let (reset_clients, reset_accepted, reset_segments) = requests(stage, &reset, 3, 2)?;
    for client in &reset_clients {
        client.set_reset_on_close()?;
    }
    // Until they end, connections are not counted.
    let open = |count| Expected::ports(count, 0).opened(count).used(Uses::default());
    stage.check(&[(one.tuple(), open(8)), (many.tuple(), open(4)), (reset.tuple(), open(3))])?;
    // The clients of the first close first, and are in TIME_WAIT or FIN_WAIT2; the others have nothing left.
    drop((one_clients, many_accepted, reset_clients));
    for client in &many_clients {
        // The FIN of its server has arrived.
        ensure!(client.receive()? == 0, "the server sent something");
    }
    drop((many_clients, reset_accepted));
    let expected = [
        (
            one.tuple(),
            Expected::ports(8, 8).opened(8).used(Uses {
                closed_here: 8,
                segments: one_segments,
                ..Uses::default()
            }),
        ),
        (
            many.tuple(),
            Expected::ports(0, 0).opened(4).used(Uses {
                closed_by_peer: 4,
                segments: many_segments,
                ..Uses::default()
            }),
        ),
        (
            reset.tuple(),
            Expected::ports(0, 0).opened(3).used(Uses {
                aborted: 3,
                segments: reset_segments,
                ..Uses::default()
            }),
        ),
    ];
    stage.check(&expected)?;
    // The end of the TIME_WAITs' peers changes nothing.
    drop(one_accepted);
    stage.check(&expected)
}
