//! Word from the kernel that the addresses of a network namespace have changed.

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
/// More than this is not read at once: that something has changed is known by then.
const MOST: usize = 4096;

/// A socket that becomes readable when an address comes, changes or goes. It stays in the network
/// namespace that it was opened in, whichever thread uses it, and keeps that namespace alive.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// In the network namespace of the calling thread. Changes before this call are not told, so
    /// open it before reading the addresses. With `routes`, changes of [`super::Host::routed`] are told
    /// too; a router's many other routes cost a look each.
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

    /// Reads what there is without waiting. True if addresses may have changed since the last
    /// call: read them all anew.
    pub fn drain(&self) -> io::Result<bool> {
        // Messages about an address have some 100 bytes, and one is enough to know.
        let mut buffer = [0; 8192];
        let mut changed = false;
        for _ in 0..MOST {
            match self.socket.receive(&mut buffer) {
                Ok(Some(len)) => {
                    let datagram = buffer.get(..len).unwrap_or(&buffer);
                    let told = |message: Option<Message<'_>>| message.is_none_or(|m| tells(&m));
                    changed |= netlink::messages(datagram).any(told);
                }
                Err(Errno::AGAIN) => return Ok(changed),
                // Somebody else's.
                Ok(None) | Err(Errno::INTR) => {}
                // More changes than the socket can hold.
                Err(Errno::NOBUFS) => changed = true,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(true)
    }
}

/// Whether a message says that an address has changed.
fn tells(message: &Message<'_>) -> bool {
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
