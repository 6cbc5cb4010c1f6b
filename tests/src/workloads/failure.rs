//! connect() calls that fail, each with its cause.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::io::Errno;

use crate::harness::{
    probe::Place,
    sock::Sock,
    stage::{CLIENT, Expected, SERVER, Stage},
    tracer::watch::Uses,
    tuple::Tuple,
};

/// The longest that connect() and close() may take together: less than 1 s, after which a SYN without an answer is retransmitted.
const GIVES_UP_AT_ONCE: Duration = Duration::from_millis(800);

/// An error, unless `result` is the error `errno`: if it is another one, or a success.
pub fn expect_error<T>(result: rustix::io::Result<T>, errno: Errno) -> Result<()> {
    let failed = result.err();
    ensure!(failed == Some(errno), "expected {errno:?}, got {failed:?}");
    Ok(())
}

/// Ten connect() calls to a port on which nobody listens: each takes a port, which is free again as soon as the RST arrives, and
/// fails with the cause `refused`.
pub fn refused(stage: &mut Stage) -> Result<()> {
    let closed = "10.1.0.1:7999".parse()?;
    let tuple = Tuple::new(SERVER.parse()?, closed);
    stage.netns.run(|| -> Result<()> {
        for _ in 0..10 {
            expect_error(Sock::tcp(closed)?.connect(closed), Errno::CONNREFUSED)?;
        }
        Ok(())
    })?;
    stage.check(&[(tuple, Expected::ports(0, 0).opened(10).failed("refused", 10))])
}

/// The server does not answer until connect() ends with ETIMEDOUT, after the last retransmission of the SYN. The port is in use
/// until then, and free afterwards; the cause is `timed_out`. The tracer counts one call without an answer, and as many SYNs that
/// were sent again as the kernel (TCP_INFO).
pub fn timed_out(stage: &mut Stage) -> Result<()> {
    // 7 s until the timeout, or 15 s in a guest; 4 s more since Linux 6.5 (tcp_syn_linear_timeouts): enough time to check the
    // stage before.
    let syn_count = if Place::get() == Place::Vm { 3 } else { 2 };
    let (hole, _filler) = stage.black_hole("10.1.0.1:7000")?;
    let filled = (hole.tuple_from("127.0.0.1")?, Expected::ports(1, 0).opened(1));
    let sock = stage.netns.run(|| -> Result<Sock> {
        let sock = Sock::tcp(hole.address)?;
        sock.set_syn_count(syn_count)?;
        sock.set_nonblocking()?;
        expect_error(sock.connect(hole.address), Errno::INPROGRESS)?;
        Ok(sock)
    })?;
    // The port is taken from the first SYN on.
    stage.check(&[(hole.tuple(), Expected::ports(1, 0).opened(1)), filled.clone()])?;
    let limit = Place::get().limit(Duration::from_secs(20));
    expect_error(sock.wait_connected(limit), Errno::TIMEDOUT)?;
    let syns_again = sock.sent()?.again;
    ensure!(syns_again > 0, "no SYN was sent again");
    let uses = Uses { syns_again, unanswered: 1, ..Uses::default() };
    let failed = Expected::ports(0, 0).opened(1).failed("timed_out", 1).used(uses);
    stage.check(&[(hole.tuple(), failed), filled])
}

/// The application closes the socket before the SYN is retransmitted, in ten calls: the cause of each is `aborted`. If this
/// machine is too busy to do that in time, the test tries again with the next of ten server ports.
pub fn aborted_nonblocking(stage: &mut Stage) -> Result<()> {
    for port in 7000..7010 {
        let (hole, _filler) = stage.black_hole(&format!("10.1.0.1:{port}"))?;
        let slowest = stage.netns.run(|| -> Result<Duration> {
            let give_up = || -> Result<Duration> {
                let sock = Sock::tcp(hole.address)?;
                sock.set_nonblocking()?;
                let begin = Instant::now();
                expect_error(sock.connect(hole.address), Errno::INPROGRESS)?;
                drop(sock);
                Ok(begin.elapsed())
            };
            (0..10).try_fold(Duration::ZERO, |slowest, _| Ok(slowest.max(give_up()?)))
        })?;
        if slowest < GIVES_UP_AT_ONCE {
            let filled = (hole.tuple_from("127.0.0.1")?, Expected::ports(1, 0).opened(1));
            let failed = Expected::ports(0, 0).opened(10).failed("aborted", 10);
            return stage.check(&[(hole.tuple(), failed), filled]);
        }
    }
    bail!("none of ten rounds of connect() and close() took less than {GIVES_UP_AT_ONCE:?} each")
}

/// The application closes five sockets only after their SYNs were retransmitted (which happens 1 s after connect()): until then,
/// the tracer counts their ports as in use and without an answer, as the kernel has them; then the cause is `no_answer`.
pub fn gave_up_without_an_answer(stage: &mut Stage) -> Result<()> {
    let (hole, _filler) = stage.black_hole("10.1.0.1:7000")?;
    let filled = (hole.tuple_from("127.0.0.1")?, Expected::ports(1, 0).opened(1));
    let socks = stage.netns.run(|| -> Result<Vec<Sock>> {
        let mut socks = Vec::new();
        for _ in 0..5 {
            let sock = Sock::tcp(hole.address)?;
            sock.set_nonblocking()?;
            expect_error(sock.connect(hole.address), Errno::INPROGRESS)?;
            socks.push(sock);
        }
        Ok(socks)
    })?;
    // Once the kernel has retransmitted all SYNs, the tracer must count these ports as without an answer, too.
    let end = Instant::now() + Place::get().limit(Duration::from_secs(10));
    while stage.oracle()?.get(&hole.tuple()).is_none_or(|it| it.unanswered < 5) {
        ensure!(Instant::now() < end, "the SYNs are not retransmitted");
        thread::sleep(Duration::from_millis(20));
    }
    stage.check(&[(hole.tuple(), Expected::ports(5, 0).opened(5)), filled.clone()])?;
    drop(socks);
    let failed = Expected::ports(0, 0).opened(5).failed("no_answer", 5);
    stage.check(&[(hole.tuple(), failed), filled])
}

/// Non-blocking connect() calls whose end poll() reports, ten successful ones and a refused one, are counted as blocking ones
/// are: ten ports in use, which are in TIME_WAIT after close(), and one failure with the cause `refused`.
pub fn nonblocking_with_wait(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let closed = "10.1.0.1:7999".parse()?;
    let socks = stage.netns.run(|| -> Result<Vec<Sock>> {
        let mut socks = Vec::new();
        for _ in 0..10 {
            let sock = Sock::tcp(server.address)?;
            sock.set_nonblocking()?;
            expect_error(sock.connect(server.address), Errno::INPROGRESS)?;
            sock.wait_connected(Duration::from_secs(5))?;
            socks.push(sock);
        }
        let sock = Sock::tcp(closed)?;
        sock.set_nonblocking()?;
        expect_error(sock.connect(closed), Errno::INPROGRESS)?;
        expect_error(sock.wait_connected(Duration::from_secs(5)), Errno::CONNREFUSED)?;
        Ok(socks)
    })?;
    let refused =
        (Tuple::new(SERVER.parse()?, closed), Expected::ports(0, 0).opened(1).failed("refused", 1));
    stage.check(&[(server.tuple(), Expected::ports(10, 0).opened(10)), refused.clone()])?;
    drop(socks);
    stage.check(&[(server.tuple(), Expected::ports(10, 10).opened(10)), refused])
}

/// All 50 ports of the range are in use towards one server: each further connect() fails with EADDRNOTAVAIL and the cause
/// `ports_exhausted`. When a port becomes free, exactly one more connect() succeeds.
pub fn ports_exhausted(stage: &mut Stage) -> Result<()> {
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40049")?;
    let server = stage.server("10.1.0.1:7000")?;
    let (mut clients, _accepted) = stage.netns.run(|| server.pairs(50))?;
    stage.netns.run(|| -> Result<()> {
        for _ in 0..10 {
            let sock = Sock::tcp(server.address)?;
            expect_error(sock.connect(server.address), Errno::ADDRNOTAVAIL)?;
        }
        Ok(())
    })?;
    let full = Expected::ports(50, 0).opened(50).failed("ports_exhausted", 10);
    stage.check(&[(server.tuple(), full)])?;

    // One port becomes free: exactly one more connect() succeeds.
    let freed = clients.pop().context("no client")?;
    freed.set_reset_on_close()?;
    drop(freed);
    let last = stage.netns.run(|| server.pair())?;
    stage.netns.run(|| -> Result<()> {
        let sock = Sock::tcp(server.address)?;
        expect_error(sock.connect(server.address), Errno::ADDRNOTAVAIL)
    })?;
    let full = Expected::ports(50, 0).opened(51).failed("ports_exhausted", 11);
    stage.check(&[(server.tuple(), full.clone())])?;
    drop(last);
    let full = Expected { time_wait: 1, ..full };
    stage.check(&[(server.tuple(), full)])
}

/// Two sockets bind the same port and connect to the same server: connect() of the second one fails with EADDRNOTAVAIL each of
/// three times, because its 4-tuple exists already; the cause is `tuple_in_use`.
pub fn tuple_in_use(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let tuple = server.tuple_from(CLIENT)?;
    let bound = || -> Result<Sock> {
        let sock = Sock::tcp(server.address)?;
        sock.set_reuse_address()?;
        sock.bind("10.1.0.2:41000".parse()?)?;
        Ok(sock)
    };
    let socks = stage.netns.run(|| -> Result<_> {
        let (first, second) = (bound()?, bound()?);
        first.connect(server.address)?;
        for _ in 0..3 {
            expect_error(second.connect(server.address), Errno::ADDRNOTAVAIL)?;
        }
        Ok((first, second))
    })?;
    let expected = Expected::ports(1, 0).opened(1).failed("tuple_in_use", 3);
    stage.check(&[(tuple, expected)])?;
    drop(socks);
    Ok(())
}

/// Routing fails before a source address and a port are chosen: no port is taken, and the tuple's source is 0.0.0.0. Without a
/// route and with an `unreachable` one, the cause is `unreachable`; with a `prohibit` one it is `denied`, with a `blackhole` one
/// `other`.
pub fn no_route(stage: &mut Stage) -> Result<()> {
    let routes = [
        ("", "192.0.2.1:80", Errno::NETUNREACH, "unreachable"),
        ("unreachable 192.0.2.2/32", "192.0.2.2:80", Errno::HOSTUNREACH, "unreachable"),
        ("prohibit 192.0.2.3/32", "192.0.2.3:80", Errno::ACCESS, "denied"),
        ("blackhole 192.0.2.4/32", "192.0.2.4:80", Errno::INVAL, "other"),
    ];
    let mut expected = Vec::new();
    for (calls, (route, peer, errno, cause)) in (1..).zip(routes) {
        if !route.is_empty() {
            stage.netns.ip(&format!("route add {route}"))?;
        }
        let peer = peer.parse()?;
        stage.netns.run(|| -> Result<()> {
            (0..calls).try_for_each(|_| expect_error(Sock::tcp(peer)?.connect(peer), errno))
        })?;
        let failed = Expected::ports(0, 0).opened(0).failed(cause, calls);
        expected.push((Tuple::new("0.0.0.0".parse()?, peer), failed));
    }
    stage.check(&expected)
}

/// There is an IPv6 route, but no address that could be the source. The errno is the same as for exhausted ports (EADDRNOTAVAIL);
/// the cause is `no_source_address`, and the tuple's source is `::`.
pub fn no_source_address(stage: &mut Stage) -> Result<()> {
    stage.netns.ip("-6 addr del ::1/128 dev lo")?;
    stage.netns.ip("-6 route add local fd00:2::1/128 dev lo")?;
    let peer = "[fd00:2::1]:80".parse()?;
    stage.netns.run(|| -> Result<()> {
        (0..3).try_for_each(|_| expect_error(Sock::tcp(peer)?.connect(peer), Errno::ADDRNOTAVAIL))
    })?;
    let failed = Expected::ports(0, 0).opened(0).failed("no_source_address", 3);
    stage.check(&[(Tuple::new("::".parse()?, peer), failed)])
}

/// One descriptor is used for several connect() calls: one that is refused, one that finds no port, another one that is refused,
/// and one that succeeds. Each is counted in the tuple of its server: the second one takes no port, and fails with the cause
/// `ports_exhausted`.
pub fn fd_used_again(stage: &mut Stage) -> Result<()> {
    stage.netns.sysctl("ipv4/ip_local_port_range", "40000 40009")?;
    let server = stage.server("10.1.0.1:7000")?;
    let full = stage.server("10.1.0.1:7001")?;
    let closed = "10.1.0.1:7999".parse()?;
    let _filling = stage.netns.run(|| full.pairs(10))?;
    let _sock = stage.netns.run(|| -> Result<Sock> {
        let sock = Sock::tcp(closed)?;
        expect_error(sock.connect(closed), Errno::CONNREFUSED)?;
        // The kernel leaves the port of the refused connect() in the socket's inet_sport. The next connect() fails without a
        // port, and the tracer must not take the old one for its port.
        expect_error(sock.connect(full.address), Errno::ADDRNOTAVAIL)?;
        expect_error(sock.connect(closed), Errno::CONNREFUSED)?;
        sock.connect(server.address)?;
        Ok(sock)
    })?;
    stage.check(&[
        (server.tuple(), Expected::ports(1, 0).opened(1)),
        (full.tuple(), Expected::ports(10, 0).opened(10).failed("ports_exhausted", 1)),
        (Tuple::new(SERVER.parse()?, closed), Expected::ports(0, 0).opened(2).failed("refused", 2)),
    ])
}

/// connect() on a connected or connecting socket fails (EISCONN, EALREADY) before it searches for a port: the counts of ports
/// and failures stay as they are.
pub fn connect_twice(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let (hole, _filler) = stage.black_hole("10.1.0.1:7001")?;
    let _socks = stage.netns.run(|| -> Result<_> {
        let connected = Sock::connected(server.address)?;
        expect_error(connected.connect(server.address), Errno::ISCONN)?;
        expect_error(connected.connect(hole.address), Errno::ISCONN)?;
        let pending = Sock::tcp(hole.address)?;
        pending.set_nonblocking()?;
        expect_error(pending.connect(hole.address), Errno::INPROGRESS)?;
        expect_error(pending.connect(hole.address), Errno::ALREADY)?;
        Ok((connected, pending))
    })?;
    stage.check(&[
        (server.tuple(), Expected::ports(1, 0).opened(1)),
        (hole.tuple(), Expected::ports(1, 0).opened(1)),
        (hole.tuple_from("127.0.0.1")?, Expected::ports(1, 0).opened(1)),
    ])
}
