//! Other ways to open a TCP connection: MPTCP, TCP Fast Open, io_uring.
#![expect(unsafe_code, reason = "io_uring takes raw pointers")]

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use io_uring::{IoUring, opcode, types};

use crate::harness::{
    sock::Sock,
    stage::{Expected, Outcome, Server, Stage},
};

/// The subflows of an MPTCP connection are TCP sockets, and counted; the MPTCP socket above them is not counted: five connections
/// to an MPTCP server and five to a TCP server take five ports each.
pub fn mptcp(stage: &mut Stage) -> Result<()> {
    stage.add_server(7000);
    let plain = stage.server("10.1.0.1:7001")?;
    let server = stage.netns.run(|| -> Result<Server> {
        let address = "10.1.0.1:7000".parse()?;
        let listener = Sock::mptcp(address)?;
        listener.bind(address)?;
        listener.listen(64)?;
        Ok(Server { listener, address })
    })?;
    let connect = |server: &Server| -> Result<(Sock, Sock)> {
        let sock = Sock::mptcp(server.address)?;
        sock.connect(server.address)?;
        // The first data makes the MPTCP connection fully established.
        sock.send(b"x")?;
        let accepted = server.listener.accept()?;
        ensure!(accepted.receive()? == 1, "no data came");
        Ok((sock, accepted))
    };
    let socks = stage.netns.run(|| -> Result<Vec<_>> {
        let both = [&server, &plain];
        both.iter().cycle().take(10).map(|server| connect(server)).collect()
    })?;
    stage.check(&[
        (server.tuple(), Expected::ports(5, 0).opened(5)),
        (plain.tuple(), Expected::ports(5, 0).opened(5)),
    ])?;
    // A kernel worker closes the subflows a little later, so the tracer is compared with whatever the kernel has.
    drop(socks);
    stage.settle(&Outcome::opened(10))?;
    Ok(())
}

fn fast_open_server(stage: &mut Stage) -> Result<Server> {
    stage.netns.sysctl("ipv4/tcp_fastopen", "3")?;
    let server = stage.server("10.1.0.1:7000")?;
    server.listener.set_fast_open(64)?;
    Ok(server)
}

fn send_fast(server: &Server) -> Result<(Sock, Sock)> {
    let sock = Sock::tcp(server.address)?;
    sock.send_fast_open(b"hello", server.address)?;
    let accepted = server.listener.accept()?;
    ensure!(accepted.receive()? == 5, "not all data came");
    Ok((sock, accepted))
}

/// sendto() with MSG_FASTOPEN, five times: the first call requests a cookie, the others send data in their SYN. Each takes a
/// port, which is in TIME_WAIT after close().
pub fn fast_open_sendto(stage: &mut Stage) -> Result<()> {
    let server = fast_open_server(stage)?;
    let socks =
        stage.netns.run(|| (0..5).map(|_| send_fast(&server)).collect::<Result<Vec<_>>>())?;
    stage.check(&[(server.tuple(), Expected::ports(5, 0).opened(5))])?;
    let (clients, accepted): (Vec<_>, Vec<_>) = socks.into_iter().unzip();
    drop(clients);
    drop(accepted);
    stage.check(&[(server.tuple(), Expected::ports(5, 5).opened(5))])
}

/// Makes a server, a connection by which the kernel got the server's cookie, and a socket that has called connect() and sends
/// nothing before its first write.
fn connect_without_a_write(stage: &mut Stage) -> Result<(Server, (Sock, Sock), Sock)> {
    let server = fast_open_server(stage)?;
    let cookie = stage.netns.run(|| send_fast(&server))?;
    let sock = stage.netns.run(|| -> Result<Sock> {
        let sock = Sock::tcp(server.address)?;
        sock.set_fast_open_connect()?;
        sock.connect(server.address)?;
        Ok(sock)
    })?;
    stage.check(&[(server.tuple(), Expected::ports(2, 0).opened(2))])?;
    Ok((server, cookie, sock))
}

/// A socket with TCP_FASTOPEN_CONNECT that is closed without a write has sent no SYN: the cause of the failure is `aborted`, not
/// `no_answer`, however long the socket was open.
pub fn fast_open_connect_without_a_write(stage: &mut Stage) -> Result<()> {
    let (server, cookie, sock) = connect_without_a_write(stage)?;
    // This is longer than 1 s, after which a SYN that was sent would have been retransmitted.
    thread::sleep(Duration::from_millis(1200));
    drop(sock);
    stage.check(&[(server.tuple(), Expected::ports(1, 0).opened(2).failed("aborted", 1))])?;
    drop(cookie);
    Ok(())
}

/// With TCP_FASTOPEN_CONNECT, if the kernel has the server's cookie, connect() takes a port, but nothing is sent before the first
/// write: the port is in use before and after that, and in TIME_WAIT after close().
pub fn fast_open_connect(stage: &mut Stage) -> Result<()> {
    let (server, cookie, sock) = connect_without_a_write(stage)?;
    let accepted = stage.netns.run(|| -> Result<Sock> {
        sock.send(b"hello")?;
        let accepted = server.listener.accept()?;
        // With unread data, close() would send an RST.
        ensure!(accepted.receive()? == 5, "not all data came");
        Ok(accepted)
    })?;
    stage.check(&[(server.tuple(), Expected::ports(2, 0).opened(2))])?;
    drop((cookie, sock));
    drop(accepted);
    stage.check(&[(server.tuple(), Expected::ports(2, 2).opened(2))])
}

/// connect() through io_uring is counted as the system call is: ten successful ones, whose ports are in TIME_WAIT after close(),
/// and one with the cause `refused`.
pub fn io_uring(stage: &mut Stage) -> Result<()> {
    let server = stage.server("10.1.0.1:7000")?;
    let closed = "10.1.0.1:7999".parse()?;
    let socks = stage.netns.run(|| -> Result<Vec<Sock>> {
        let mut socks = Vec::new();
        for _ in 0..10 {
            let sock = Sock::tcp(server.address)?;
            ensure!(submit_connect(&sock, server.address)? == 0, "connect failed");
            socks.push(sock);
        }
        let sock = Sock::tcp(closed)?;
        let result = submit_connect(&sock, closed)?;
        ensure!(result == -libc::ECONNREFUSED, "not refused, but {result}");
        Ok(socks)
    })?;
    let refused = crate::harness::tuple::Tuple::new(closed.ip(), closed);
    let refused = (refused, Expected::ports(0, 0).opened(1).failed("refused", 1));
    stage.check(&[(server.tuple(), Expected::ports(10, 0).opened(10)), refused.clone()])?;
    drop(socks);
    stage.check(&[(server.tuple(), Expected::ports(10, 10).opened(10)), refused])
}

/// Calls connect() through a new io_uring, and waits for its end. Returns 0 or the negative errno; an error if `peer` is IPv6, or
/// io_uring fails.
pub(crate) fn submit_connect(sock: &Sock, peer: SocketAddr) -> Result<i32> {
    let SocketAddr::V4(peer) = peer else { bail!("only IPv4 here") };
    let address = libc::sockaddr_in {
        sin_family: u16::try_from(libc::AF_INET)?,
        sin_port: peer.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(peer.ip().octets()) },
        sin_zero: [0; 8],
    };
    let length = u32::try_from(size_of::<libc::sockaddr_in>())?;
    let fd = types::Fd(sock.as_fd().as_raw_fd());
    let entry = opcode::Connect::new(fd, (&raw const address).cast(), length).build();
    let mut ring = IoUring::new(2)?;
    // SAFETY: `address` and the socket live until the completion has been waited for below.
    unsafe { ring.submission().push(&entry) }.context("the ring is full")?;
    ring.submit_and_wait(1)?;
    let completion = ring.completion().next().context("no completion")?;
    Ok(completion.result())
}
