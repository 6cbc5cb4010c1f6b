//! A netlink socket that receives only from the kernel.
//!
//! A user with a namespace of its own can send to every netlink socket that is opened in it, and can make the
//! messages look like the kernel's.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect,
    netlink::SocketAddrNetlink, recv, recvfrom, send, socket_with,
};

/// The kernel's own port number (netlink(7)).
const KERNEL: u32 = 0;

/// A netlink socket. It belongs to the network namespace of the thread that opened it, whichever thread uses it.
#[derive(Debug)]
pub(crate) struct Socket(OwnedFd);

impl Socket {
    /// Opens a socket. `protocol`: `None` is NETLINK_ROUTE. `groups`: a bit for each multicast group of the kernel that it
    /// receives.
    ///
    /// # Errors
    /// As socket(2), bind(2) and connect(2).
    pub(crate) fn open(
        protocol: Option<Protocol>,
        flags: SocketFlags,
        groups: u32,
    ) -> rustix::io::Result<Self> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
        if groups != 0 {
            bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        }
        // From here on, the kernel rejects messages of other senders (ECONNREFUSED), so they cannot fill the socket's
        // buffer, either.
        connect(&socket, &SocketAddrNetlink::new(KERNEL, 0))?;
        Ok(Self(socket))
    }

    /// Sends a message to the kernel. Returns how many bytes were sent.
    ///
    /// # Errors
    /// As send(2).
    pub(crate) fn send(&self, message: &[u8]) -> rustix::io::Result<usize> {
        send(&self.0, message, SendFlags::empty())
    }

    /// Waits for the next datagram, and returns its length, which may be more than the buffer has room for. `None`: it was not
    /// sent by the kernel, but by another sender before the socket was connected.
    ///
    /// # Errors
    /// As recvfrom(2).
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> rustix::io::Result<Option<usize>> {
        let (_, len, sender) = recvfrom(&self.0, buffer, RecvFlags::TRUNC)?;
        let sender = sender.and_then(|sender| SocketAddrNetlink::try_from(sender).ok());
        Ok(sender.is_some_and(|sender| sender.pid() == KERNEL).then_some(len))
    }

    /// Discards all received datagrams.
    pub(crate) fn drain(&self) {
        while recv(&self.0, &mut [0; 8192][..], RecvFlags::DONTWAIT | RecvFlags::TRUNC).is_ok() {}
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::{
        io::Errno,
        net::{getsockname, netlink::SOCK_DIAG, sendto},
    };

    use super::*;

    fn raw() -> OwnedFd {
        let flags = SocketFlags::CLOEXEC;
        socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(SOCK_DIAG)).unwrap()
    }

    fn send_to(socket: &impl AsFd, message: &[u8]) -> rustix::io::Result<usize> {
        let port = SocketAddrNetlink::try_from(getsockname(socket).unwrap()).unwrap().pid();
        assert_ne!(port, KERNEL);
        sendto(raw(), message, SendFlags::DONTWAIT, &SocketAddrNetlink::new(port, 0))
    }

    #[test]
    fn only_the_kernel_can_send_to_a_socket() {
        for groups in [0, 1] {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = Socket::open(Some(SOCK_DIAG), flags, groups).unwrap();
            assert_eq!(send_to(&socket, b"forged"), Err(Errno::CONNREFUSED));
            assert_eq!(socket.receive(&mut [0; 64]), Err(Errno::AGAIN));
        }
    }

    #[test]
    fn what_others_sent_before_it_was_connected_is_skipped() {
        let socket = raw();
        bind(&socket, &SocketAddrNetlink::new(0, 0)).unwrap();
        send_to(&socket, b"forged").unwrap();
        connect(&socket, &SocketAddrNetlink::new(KERNEL, 0)).unwrap();
        assert_eq!(Socket(socket).receive(&mut [0; 64]), Ok(None));
    }
}
