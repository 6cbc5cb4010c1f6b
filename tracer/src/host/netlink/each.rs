//! Reads lists that are too long to keep: each entry is seen once, while it is read.

use std::{io, ops::ControlFlow};

use rustix::{
    io::{Errno, retry_on_intr},
    net::{Protocol, SocketFlags},
};

use super::{BUFFER, NLM_F_DUMP_INTR, Socket, messages};
use crate::runtime::beat::beat;

/// A request for a list, of which nothing is kept.
pub(crate) struct Each<'a> {
    /// For error texts: the name of what is asked, such as `ctnetlink`.
    pub(crate) name: &'static str,
    /// For error texts: what it lists, such as "tracked connections".
    pub(crate) things: &'static str,
    pub(crate) protocol: Protocol,
    /// The bytes of the request, as [`super::request`] makes them.
    pub(crate) request: &'a [u8],
    /// The type of messages that are answers; others are skipped.
    pub(crate) reply: u16,
}

/// How a list ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Ended {
    /// All of it was read.
    Whole,
    /// All of it was read, and the kernel marks it as inconsistent, because it changed meanwhile.
    Changed,
    /// `visit` returned [`ControlFlow::Break`]: what followed was not read.
    Stopped,
}

impl Each<'_> {
    /// Sends the request, and calls `visit` with the contents of each answer about the network namespace of the calling thread,
    /// until there are no more, or `visit` returns [`ControlFlow::Break`].
    ///
    /// # Errors
    /// The step that failed, with the kind of its errno. `InvalidData`: a message is damaged, or longer than 128 KiB. `visit` was
    /// called for the answers before that.
    pub(crate) fn visit(
        &self,
        mut visit: impl FnMut(&[u8]) -> ControlFlow<()>,
    ) -> io::Result<Ended> {
        // The answers are those to the only request: the socket is new, and receives from the kernel only.
        let socket = Socket::open(Some(self.protocol), SocketFlags::CLOEXEC, 0)
            .map_err(|errno| self.failed("opening a netlink socket for", errno))?;
        retry_on_intr(|| socket.send(self.request))
            .map_err(|errno| self.failed("asking for", errno))?;
        let mut buffer = vec![0; BUFFER];
        let mut ended = Ended::Whole;
        loop {
            let len = retry_on_intr(|| socket.receive(&mut buffer))
                .map_err(|errno| self.failed("reading", errno))?;
            let Some(len) = len else { continue };
            beat();
            let datagram = buffer.get(..len).filter(|datagram| !datagram.is_empty());
            for message in messages(datagram.ok_or_else(|| self.damaged())?) {
                let message = message.ok_or_else(|| self.damaged())?;
                if message.flags & NLM_F_DUMP_INTR != 0 {
                    ended = Ended::Changed;
                }
                match message.end() {
                    Some(0) => return Ok(ended),
                    Some(errno) => {
                        return Err(self.failed("listing", Errno::from_raw_os_error(errno)));
                    }
                    None if message.kind != self.reply => {}
                    None if visit(message.payload).is_break() => return Ok(Ended::Stopped),
                    None => {}
                }
            }
        }
    }

    fn failed(&self, doing: &str, errno: Errno) -> io::Error {
        let (error, Self { name, things, .. }) = (io::Error::from(errno), self);
        io::Error::new(error.kind(), format!("{name}: {doing} the {things} failed: {error}"))
    }

    fn damaged(&self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: damaged message", self.name))
    }
}
