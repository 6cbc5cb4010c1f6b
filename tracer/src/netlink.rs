//! Netlink (netlink(7)): messages as bytes, and lists that the kernel dumps.
//!
//! What is inside of the messages is the business of [`crate::sockdiag`] and
//! [`crate::spread::addresses`].

#[cfg(test)]
mod tests;

use std::io;

use rustix::{
    fd::OwnedFd,
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send,
        socket_with,
    },
};

pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_LEN: usize = 16;

/// The kernel sends at most 32 KiB at once unless asked for more; four times that leaves room.
const BUFFER: usize = 128 * 1024;
/// How often a dump that the kernel marks as inconsistent is made again.
const TRIES: usize = 5;

/// A question to the kernel and the form of its answers.
pub(crate) struct Query<'a, T> {
    /// Named in errors, with `things`: `sock_diag`, "TCP sockets".
    pub(crate) name: &'static str,
    pub(crate) things: &'static str,
    /// `None` is NETLINK_ROUTE.
    pub(crate) protocol: Option<Protocol>,
    pub(crate) request: &'a [u8],
    /// The type of message that is parsed; others are passed over.
    pub(crate) reply: u16,
    /// `None`: damaged.
    pub(crate) parse: fn(&[u8]) -> Option<T>,
}

impl<T> Query<'_, T> {
    /// All answers about the network namespace of the calling thread.
    ///
    /// Errors name the step that failed. A dump that was still inconsistent (`NLM_F_DUMP_INTR`)
    /// when it was last tried is an error of kind `Interrupted`.
    pub(crate) fn answers(&self) -> io::Result<Vec<T>> {
        self.answers_by(None)
    }

    /// [`Self::answers`] about the network namespace that this socket of [`open`] was opened in,
    /// whichever thread asks. Nobody else may use the socket meanwhile.
    pub(crate) fn answers_by(&self, held: Option<&OwnedFd>) -> io::Result<Vec<T>> {
        let mut buffer = vec![0; BUFFER];
        for _ in 0..TRIES {
            if let Some(answers) = self.answers_once(held, &mut buffer)? {
                return Ok(answers);
            }
        }
        let Self { name, things, .. } = self;
        Err(io::Error::new(
            io::ErrorKind::Interrupted,
            format!("{name}: the {things} changed during each of {TRIES} dumps"),
        ))
    }

    /// `None`: the kernel says that the dump is inconsistent.
    fn answers_once(
        &self,
        held: Option<&OwnedFd>,
        buffer: &mut [u8],
    ) -> io::Result<Option<Vec<T>>> {
        let opened;
        let socket = if let Some(held) = held {
            // What an earlier question left unread would pass for the answer to this one.
            while recv(held, &mut *buffer, RecvFlags::DONTWAIT).is_ok() {}
            held
        } else {
            opened = open(self.protocol, SocketFlags::CLOEXEC)
                .map_err(|errno| self.failed("opening a netlink socket", errno))?;
            &opened
        };
        retry_on_intr(|| send(socket, self.request, SendFlags::empty()))
            .map_err(|errno| self.failed(&format!("asking for the {}", self.things), errno))?;

        let mut answers = Vec::new();
        let mut consistent = true;
        loop {
            let (_, len) = retry_on_intr(|| recv(socket, &mut *buffer, RecvFlags::TRUNC))
                .map_err(|errno| self.failed(&format!("reading the {}", self.things), errno))?;
            let datagram = buffer.get(..len).ok_or_else(|| {
                io::Error::other(format!("{}: a message of {len} bytes is too long", self.name))
            })?;
            if datagram.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            for message in messages(datagram) {
                let message = message.ok_or_else(|| self.damaged())?;
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.end() {
                    Some(0) => return Ok(consistent.then_some(answers)),
                    Some(errno) => {
                        let errno = Errno::from_raw_os_error(errno);
                        return Err(self.failed(&format!("listing the {}", self.things), errno));
                    }
                    None if message.kind == self.reply => {
                        answers.push((self.parse)(message.payload).ok_or_else(|| self.damaged())?);
                    }
                    None => {}
                }
            }
        }
    }

    fn failed(&self, doing: &str, errno: Errno) -> io::Error {
        let error = io::Error::from(errno);
        io::Error::new(error.kind(), format!("{}: {doing} failed: {error}", self.name))
    }

    fn damaged(&self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: damaged message", self.name))
    }
}

pub(crate) fn open(protocol: Option<Protocol>, flags: SocketFlags) -> rustix::io::Result<OwnedFd> {
    socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)
}

/// A message to the kernel.
pub(crate) fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER_LEN + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    // Sequence and port number: nothing else is asked on this socket.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// One message of the kernel.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Message<'a> {
    pub(crate) kind: u16,
    pub(crate) payload: &'a [u8],
    flags: u16,
}

impl Message<'_> {
    /// The result (an errno, or 0) if this message ends the answers.
    fn end(&self) -> Option<i32> {
        let code = u32_at(self.payload, 0).map(|code| code.cast_signed().saturating_neg());
        match self.kind {
            // A kernel may leave the result out.
            NLMSG_DONE => Some(code.unwrap_or(0)),
            NLMSG_ERROR => code,
            _ => None,
        }
    }
}

/// The messages of one datagram; the last item is `None` if the datagram is damaged.
pub(crate) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Option<Message<'_>>> {
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let parsed = message(rest);
        rest = match &parsed {
            Some(message) => {
                let len = (HEADER_LEN + message.payload.len()).next_multiple_of(4);
                rest.get(len..).unwrap_or_default()
            }
            None => &[],
        };
        Some(parsed)
    })
}

fn message(bytes: &[u8]) -> Option<Message<'_>> {
    let len = u32_at(bytes, 0)? as usize;
    let message = Message {
        kind: u16_at(bytes, 4)?,
        payload: bytes.get(HEADER_LEN..len)?,
        flags: u16_at(bytes, 6)?,
    };
    // An error without a code would pass for something else.
    (message.kind != NLMSG_ERROR || message.payload.len() >= 4).then_some(message)
}

/// Type and value of each attribute (`struct rtattr`), up to a damaged one.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(rest, 0)?);
        let attribute = (u16_at(rest, 2)?, rest.get(4..len)?);
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute)
    })
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
