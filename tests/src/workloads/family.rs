//! IPv6, and IPv4 through IPv6 sockets.

use std::net::SocketAddr;

use anyhow::Result;
use rustix::io::Errno;

use super::failure::expect_error;
use crate::harness::{
    sock::Sock,
    stage::{Expected, SERVER, Stage},
    tuple::Tuple,
};

/// The ledger counts IPv6 as it counts IPv4: a range of 20 ports that is full, one call that finds no port, a refused connect(),
/// and 20 ports in TIME_WAIT after close().
pub fn ipv6(stage: &mut Stage) -> Result<()> {
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40019")?;
    stage.netns.ip("addr add fd00:1::1/128 dev lo nodad")?;
    let server = stage.server("[fd00:1::1]:7000")?;
    let closed = "[fd00:1::1]:7999".parse()?;
    let (clients, accepted) = stage.netns.run(|| server.pairs(20))?;
    stage.netns.run(|| -> Result<()> {
        let sock = Sock::tcp(server.address)?;
        expect_error(sock.connect(server.address), Errno::ADDRNOTAVAIL)?;
        expect_error(sock.connect(closed), Errno::CONNREFUSED)
    })?;
    let refused =
        (Tuple::new(closed.ip(), closed), Expected::ports(0, 0).opened(1).failed("refused", 1));
    let full = Expected::ports(20, 0).opened(20).failed("ports_exhausted", 1);
    stage.check(&[(server.tuple(), full.clone()), refused.clone()])?;
    drop(clients);
    drop(accepted);
    stage.check(&[(server.tuple(), Expected { time_wait: 20, ..full }), refused])
}

/// A socket with a v4-mapped address shares the ports of the IPv4 sockets, and is counted in their tuple: with ten of each, a
/// range of 20 ports is full, and the next connect() to the mapped address fails (`ports_exhausted`). A refused one to another
/// mapped address is in the IPv4 tuple, too.
pub fn v4_mapped(stage: &mut Stage) -> Result<()> {
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40019")?;
    let server = stage.server("10.1.0.1:7000")?;
    let mapped: SocketAddr = "[::ffff:10.1.0.1]:7000".parse()?;
    let closed: SocketAddr = "[::ffff:10.1.0.1]:7999".parse()?;
    let (plain, accepted) = stage.netns.run(|| server.pairs(10))?;
    let socks = stage.netns.run(|| -> Result<Vec<Sock>> {
        let mut socks = Vec::new();
        for _ in 0..10 {
            let sock = Sock::tcp6()?;
            sock.connect(mapped)?;
            socks.push(sock);
        }
        expect_error(Sock::tcp6()?.connect(mapped), Errno::ADDRNOTAVAIL)?;
        expect_error(Sock::tcp6()?.connect(closed), Errno::CONNREFUSED)?;
        Ok(socks)
    })?;
    let refused =
        (Tuple::new(SERVER.parse()?, closed), Expected::ports(0, 0).opened(1).failed("refused", 1));
    let full = Expected::ports(20, 0).opened(20).failed("ports_exhausted", 1);
    stage.check(&[(server.tuple(), full.clone()), refused.clone()])?;
    drop((plain, socks, accepted));
    stage.check(&[(server.tuple(), Expected { time_wait: 20, ..full }), refused])
}
