//! Receives the kernel's messages that addresses of a network namespace, or its routes of type local, have changed.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
};

use rustix::{io::Errno, net::SocketFlags};

use super::wire::{self, RTM_DELADDR, RTM_DELROUTE, RTM_NEWADDR, RTM_NEWROUTE};
use crate::host::netlink::{self, Message, Socket};

const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
/// How many messages one call of [`Watch::drain`] reads at most. After that many, addresses are taken to have changed.
const MESSAGES_MAX: usize = 4096;

/// A socket that becomes readable when an address is added, changed or removed, or, if it was opened with `routes`, an
/// IPv4 route. It stays in the network namespace that it was opened in, whichever thread uses it, and keeps that
/// namespace alive.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// Opens such a socket in the network namespace of the calling thread. It reports only changes after this call, so
    /// open it before the addresses are read. With `routes`, it reports changes of [`super::Host::routed`], too; then
    /// each change of any other IPv4 route costs reading its message.
    ///
    /// # Errors
    /// The kernel makes no such socket: there is no file descriptor or no memory left, or a sandbox forbids it.
    pub fn open(routes: bool) -> io::Result<Self> {
        let groups =
            RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR | if routes { RTMGRP_IPV4_ROUTE } else { 0 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let failed = |errno: Errno| {
            let error = io::Error::from(errno);
            let message = format!("rtnetlink: listening for address changes failed: {error}");
            io::Error::new(error.kind(), message)
        };
        Socket::open(None, flags, groups).map(|socket| Self { socket }).map_err(failed)
    }

    /// Reads the messages that wait, at most 4,096, without waiting for more. True if addresses or (if watched) routes of type
    /// local may have changed since the last call: read them all again. True, too, if the kernel dropped messages, a message is
    /// damaged, or more than 4,096 waited.
    ///
    /// # Errors
    /// The socket cannot be read.
    pub fn drain(&self) -> io::Result<bool> {
        // A message about an address has some 100 bytes; one that is cut off still says that something changed.
        let mut buffer = [0; 8192];
        let mut changed = false;
        for _ in 0..MESSAGES_MAX {
            match self.socket.receive(&mut buffer) {
                Ok(Some(len)) => {
                    let datagram = buffer.get(..len).unwrap_or(&buffer);
                    let is_news =
                        |message: Option<Message<'_>>| message.is_none_or(|m| is_change(&m));
                    changed |= netlink::messages(datagram).any(is_news);
                }
                Err(Errno::AGAIN) => return Ok(changed),
                // Ignored: a message that did not come from the kernel, or a signal that interrupted the call.
                Ok(None) | Err(Errno::INTR) => {}
                // The socket's buffer was full: the kernel dropped messages.
                Err(Errno::NOBUFS) => changed = true,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }
}

/// Whether a message says that an address has changed, or a route of type local. True, too, for a damaged message about
/// a route, which may be of type local.
fn is_change(message: &Message<'_>) -> bool {
    match message.kind {
        RTM_NEWADDR | RTM_DELADDR => true,
        RTM_NEWROUTE | RTM_DELROUTE => wire::is_local_route(message.payload) != Some(false),
        _ => false,
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Watch {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}
