//! Sockets that belong to a cgroup of the test.
//!
//! A socket belongs to the cgroup of the process that makes it, whoever uses it later. So a helper process in the cgroup makes
//! the sockets and passes them to the test (`SCM_RIGHTS`), which then calls connect() and so on.

use std::{
    io::{IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::SocketAddr,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
};

use anyhow::{Context, Result, bail};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags,
        SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
        sendmsg, socket_with,
    },
};

use crate::harness::{cgroup::Cgroup, process::Process, sock::Sock};

/// The kind of socket to make. The helper gets it as one byte: 0, 1 or 2, in this order.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Tcp,
    Udp,
    Mptcp,
}

/// A helper process in a cgroup. The sockets that it makes are in the network namespace in which it was spawned.
#[derive(Debug)]
pub struct Maker {
    process: Process,
    line: Mutex<UnixStream>,
}

impl Maker {
    /// Starts the helper in the caller's network namespace, and moves it to the cgroup. An error if either fails.
    pub fn spawn(cgroup: &Cgroup) -> Result<Self> {
        let (line, helper_end) = UnixStream::pair()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["helper", "make"]).stdin(Stdio::from(OwnedFd::from(helper_end)));
        let process = Process::spawn(&mut command)?;
        cgroup.add(process.id())?;
        Ok(Self { process, line: Mutex::new(line) })
    }

    /// The helper's process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// A TCP socket of the family of `like`. Errors as of [`Self::make`].
    pub fn tcp(&self, like: SocketAddr) -> Result<Sock> {
        self.make(Kind::Tcp, like.is_ipv6())
    }

    /// A socket of this kind, IPv6 or IPv4. An error if the kernel does not give it to the helper (the text has the errno), or
    /// the helper has ended.
    pub fn make(&self, kind: Kind, v6: bool) -> Result<Sock> {
        let mut line = self.line.lock().unwrap_or_else(PoisonError::into_inner);
        line.write_all(&[kind as u8, u8::from(v6)])?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut passed = RecvAncillaryBuffer::new(&mut space);
        let mut error = [0; 4];
        let flags = RecvFlags::CMSG_CLOEXEC;
        recvmsg(&*line, &mut [IoSliceMut::new(&mut error)], &mut passed, flags)?;
        let fd = passed.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        // This byte says that the helper has closed its copy: only then is the test's close() the last one.
        line.read_exact(&mut [0])?;
        let Some(fd) = fd else {
            bail!("cannot make {kind:?}: errno {}", i32::from_ne_bytes(error))
        };
        Ok(Sock::from(fd))
    }
}

/// The helper process of [`Maker`]: makes sockets until stdin, a Unix socket, is closed. A request is two bytes: the [`Kind`] as a
/// number, and 0 for IPv4 or another number for IPv6. The answer is the errno in four bytes, native byte order (0: none), with
/// the socket's descriptor if there is none; then, once the helper's own copy is closed, one byte more. An error if an answer
/// cannot be sent.
pub fn serve() -> Result<()> {
    let mut line = UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    let mut wanted = [0; 2];
    while line.read_exact(&mut wanted).is_ok() {
        let made = open(wanted);
        let errno = made.as_ref().err().map_or(0, |error| error.raw_os_error());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut passed = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = made.iter().map(AsFd::as_fd).collect();
        if !fds.is_empty() && !passed.push(SendAncillaryMessage::ScmRights(&fds)) {
            bail!("no space for one descriptor");
        }
        let bytes = errno.to_ne_bytes();
        sendmsg(&line, &[IoSlice::new(&bytes)], &mut passed, SendFlags::NOSIGNAL)
            .context("the test is gone")?;
        drop(made);
        line.write_all(b".")?;
    }
    Ok(())
}

fn open([kind, v6]: [u8; 2]) -> rustix::io::Result<OwnedFd> {
    let family = if v6 == 0 { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, protocol): (_, Option<Protocol>) = match kind {
        0 => (SocketType::STREAM, Some(rustix::net::ipproto::TCP)),
        1 => (SocketType::DGRAM, None),
        2 => (SocketType::STREAM, Some(rustix::net::ipproto::MPTCP)),
        _ => return Err(Errno::INVAL),
    };
    socket_with(family, kind, SocketFlags::CLOEXEC, protocol)
}
