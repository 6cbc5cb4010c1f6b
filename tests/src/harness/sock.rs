//! TCP sockets, with every socket option that the workloads set.
#![expect(unsafe_code, reason = "options that rustix does not know are set by setsockopt()")]

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, Result},
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, Shutdown, SocketFlags, SocketType,
        accept_with, bind, connect, connect_unspec, getpeername, getsockname, listen, recv, send,
        sendto, shutdown, socket_with, sockopt,
    },
};

use crate::harness::{lie, probe::Place, starting::SocketFd};

/// One TCP or MPTCP socket (UDP: only from [`Maker::make`](super::maker::Maker::make)); closed on exec() and on drop, which waits
/// while a program starts ([`SocketFd`]). It blocks until [`Self::set_nonblocking`]. An error of a function is the errno of its
/// system call.
#[derive(Debug)]
pub struct Sock(SocketFd);

impl Sock {
    /// A new, unconnected TCP socket of the family of `like`.
    pub fn tcp(like: SocketAddr) -> Result<Self> {
        Self::open(like.is_ipv6(), Some(rustix::net::ipproto::TCP))
    }

    /// A new, unconnected IPv6 TCP socket, for v4-mapped destinations.
    pub fn tcp6() -> Result<Self> {
        Self::open(true, Some(rustix::net::ipproto::TCP))
    }

    /// An MPTCP socket of the family of `like`; EPROTONOSUPPORT if the kernel has no MPTCP, ENOPROTOOPT if it is switched off.
    pub fn mptcp(like: SocketAddr) -> Result<Self> {
        Self::open(like.is_ipv6(), Some(rustix::net::ipproto::MPTCP))
    }

    fn open(v6: bool, protocol: Option<Protocol>) -> Result<Self> {
        let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, protocol).map(Self::from)
    }

    /// A new TCP socket that is connected to `peer`: waits for the handshake. Errors as of [`Self::tcp`] and [`Self::connect`].
    pub fn connected(peer: SocketAddr) -> Result<Self> {
        let sock = Self::tcp(peer)?;
        sock.connect(peer)?;
        Ok(sock)
    }

    /// Calls connect(). EINPROGRESS if the socket is non-blocking and the handshake has begun. Under the lie `refused` of
    /// `TRACER_TEST_LIE`, one success is reported as EADDRNOTAVAIL: see [`lie::connected`].
    pub fn connect(&self, peer: SocketAddr) -> Result<()> {
        lie::connected(connect(&self.0, &peer))
    }

    /// connect() with `AF_UNSPEC`: back to an unconnected socket.
    pub fn disconnect(&self) -> Result<()> {
        connect_unspec(&self.0)
    }

    pub fn bind(&self, address: SocketAddr) -> Result<()> {
        bind(&self.0, &address)
    }

    pub fn listen(&self, backlog: i32) -> Result<()> {
        listen(&self.0, backlog)
    }

    /// Accepts one connection. A blocking socket waits for one; a non-blocking one fails with EAGAIN if there is none.
    pub fn accept(&self) -> Result<Self> {
        accept_with(&self.0, SocketFlags::CLOEXEC).map(Self::from)
    }

    /// The socket's own address; unspecified and port 0 where it has none yet.
    pub fn local(&self) -> Result<SocketAddr> {
        SocketAddr::try_from(getsockname(&self.0)?)
    }

    /// The peer's address; ENOTCONN if the socket is not connected.
    pub fn peer(&self) -> Result<SocketAddr> {
        let peer = getpeername(&self.0)?.ok_or(Errno::NOTCONN)?;
        SocketAddr::try_from(peer)
    }

    pub fn shutdown_write(&self) -> Result<()> {
        shutdown(&self.0, Shutdown::Write)
    }

    pub fn shutdown_both(&self) -> Result<()> {
        shutdown(&self.0, Shutdown::Both)
    }

    /// Sends, and returns how many bytes were taken, which may be fewer than all. EPIPE instead of SIGPIPE if the peer is gone.
    pub fn send(&self, data: &[u8]) -> Result<usize> {
        send(&self.0, data, SendFlags::NOSIGNAL)
    }

    /// sendto() with `MSG_FASTOPEN`: connects and sends in one call. Returns how many bytes were taken.
    pub fn send_fast_open(&self, data: &[u8], peer: SocketAddr) -> Result<usize> {
        let flags = SendFlags::NOSIGNAL | SendFlags::from_bits_retain(libc::MSG_FASTOPEN as u32);
        sendto(&self.0, data, flags, &peer)
    }

    /// Reads at most 256 bytes, forgets them, and returns how many there were; 0 at the end of the stream. Without data, a
    /// blocking socket waits, and a non-blocking one fails with EAGAIN.
    pub fn receive(&self) -> Result<usize> {
        let mut buffer = [0_u8; 256];
        recv(&self.0, &mut buffer, RecvFlags::empty()).map(|(count, _)| count)
    }

    /// Clears FD_CLOEXEC: child processes inherit the socket.
    pub fn set_inheritable(&self) -> Result<()> {
        rustix::io::fcntl_setfd(&self.0, rustix::io::FdFlags::empty())
    }

    pub fn set_nonblocking(&self) -> Result<()> {
        rustix::io::ioctl_fionbio(&self.0, true)
    }

    /// Sets SO_SNDTIMEO: a blocking connect() returns EINPROGRESS after this time, and the connection attempt continues. EINVAL
    /// for a time of 0.
    pub fn set_send_timeout(&self, limit: Duration) -> Result<()> {
        sockopt::set_socket_timeout(&self.0, sockopt::Timeout::Send, Some(limit))
    }

    /// The pending error of the socket (SO_ERROR), which this call clears; `None` if there is none, or it cannot be read.
    pub fn error(&self) -> Option<Errno> {
        sockopt::socket_error(&self.0).ok()?.err()
    }

    /// Sets TCP_USER_TIMEOUT, in whole milliseconds (rounded down): how long sent data, and a SYN, may stay without an answer. 0
    /// sets the kernel's default again; EINVAL for 2³¹ ms or more.
    pub fn set_user_timeout(&self, limit: Duration) -> Result<()> {
        sockopt::set_tcp_user_timeout(&self.0, u32::try_from(limit.as_millis()).unwrap_or(u32::MAX))
    }

    /// Sets SO_LINGER to 0: close() sends RST, not FIN.
    pub fn set_reset_on_close(&self) -> Result<()> {
        sockopt::set_socket_linger(&self.0, Some(Duration::ZERO))
    }

    pub fn set_reuse_address(&self) -> Result<()> {
        sockopt::set_socket_reuseaddr(&self.0, true)
    }

    pub fn set_reuse_port(&self) -> Result<()> {
        self.set_option(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)
    }

    /// Sets IPV6_V6ONLY: connect() to a v4-mapped address fails.
    pub fn set_ipv6_only(&self) -> Result<()> {
        self.set_option(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)
    }

    /// Binds the socket to `lo` (SO_BINDTOIFINDEX), which is interface 1 of every namespace.
    pub fn set_device_lo(&self) -> Result<()> {
        const SO_BINDTOIFINDEX: i32 = 62;
        self.set_option(libc::SOL_SOCKET, SO_BINDTOIFINDEX, 1)
    }

    /// Sets IP_TRANSPARENT: bind() accepts an address that the host does not have.
    pub fn set_transparent(&self) -> Result<()> {
        self.set_option(libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1)
    }

    /// Sets IP_BIND_ADDRESS_NO_PORT: after bind(address, 0), connect() chooses the port.
    pub fn set_bind_address_no_port(&self) -> Result<()> {
        self.set_option(libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)
    }

    /// Sets TCP_SYNCNT: the number of SYN retransmissions before ETIMEDOUT. EINVAL if it is not from 1 to 127
    /// (`tcp_sock_set_syncnt` in net/ipv4/tcp.c).
    pub fn set_syn_count(&self, count: i32) -> Result<()> {
        self.set_option(libc::IPPROTO_TCP, libc::TCP_SYNCNT, count)
    }

    /// Sets TCP_DEFER_ACCEPT: a connection of the listener stays in SYN_RECV until it has data, for about `seconds`.
    pub fn set_defer_accept(&self, seconds: i32) -> Result<()> {
        self.set_option(libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, seconds)
    }

    /// Sets TCP_FASTOPEN: the listener accepts data in SYNs, if the sysctl `net.ipv4.tcp_fastopen` has bit 1. At most `queue`
    /// such connections, and at most `net.core.somaxconn`, wait for the end of their handshake. EINVAL if `queue` is negative.
    pub fn set_fast_open(&self, queue: i32) -> Result<()> {
        self.set_option(libc::IPPROTO_TCP, libc::TCP_FASTOPEN, queue)
    }

    /// Sets TCP_FASTOPEN_CONNECT: if the kernel has a cookie of the server, connect() sends nothing before the first write.
    /// EOPNOTSUPP if the sysctl `net.ipv4.tcp_fastopen` lacks bit 0.
    pub fn set_fast_open_connect(&self) -> Result<()> {
        self.set_option(libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1)
    }

    /// What the kernel says that the socket sent (TCP_INFO), also after its connection has ended. 0 where the kernel does not
    /// know the field; an error if getsockopt() fails.
    pub fn sent(&self) -> Result<Sent> {
        // struct tcp_info: 8 bytes, then fields of 4 and 8 bytes.
        const TOTAL_RETRANS: usize = 100;
        const DATA_SEGS_OUT: usize = 156;
        let mut info = [0_u8; DATA_SEGS_OUT + 4];
        let mut size = libc::socklen_t::try_from(info.len()).map_err(|_| Errno::INVAL)?;
        // SAFETY: the pointer and the size describe `info`, which outlives the call.
        let result = unsafe {
            libc::getsockopt(
                self.0.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut size,
            )
        };
        let field = |at: usize| {
            let bytes = info.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_ne_bytes).map(u64::from).ok_or(Errno::INVAL)
        };
        match result {
            0 => Ok(Sent { data: field(DATA_SEGS_OUT)?, again: field(TOTAL_RETRANS)? }),
            _ => Err(last_error()),
        }
    }

    fn set_option(&self, level: i32, name: i32, value: i32) -> Result<()> {
        let size = libc::socklen_t::try_from(size_of::<i32>()).map_err(|_| Errno::INVAL)?;
        // SAFETY: the pointer and the size describe `value`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(self.0.as_raw_fd(), level, name, (&raw const value).cast(), size)
        };
        if result == 0 { Ok(()) } else { Err(last_error()) }
    }

    /// Waits until a non-blocking connect() has ended, and returns its result; ETIME if it has not within `limit` (see
    /// [`Place::limit`]).
    pub fn wait_connected(&self, limit: Duration) -> Result<()> {
        let limit = Timespec::try_from(Place::get().limit(limit)).map_err(|_| Errno::INVAL)?;
        let mut fds = [PollFd::new(&self.0, PollFlags::OUT)];
        if poll(&mut fds, Some(&limit))? == 0 {
            return Err(Errno::TIME);
        }
        sockopt::socket_error(&self.0)?
    }
}

/// How many segments a socket sent.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sent {
    /// With data, those sent again included.
    pub data: u64,
    /// Sent again: data, SYN or FIN.
    pub again: u64,
}

/// The error of the system call that failed last in this thread.
fn last_error() -> Errno {
    std::io::Error::last_os_error().raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

impl From<OwnedFd> for Sock {
    fn from(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

impl From<Sock> for OwnedFd {
    fn from(sock: Sock) -> Self {
        sock.0.into()
    }
}

impl AsFd for Sock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
