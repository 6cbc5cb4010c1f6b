//! Asks the kernel for lists by netlink (netlink(7)), and parses the messages: their headers and attributes.
//!
//! [`crate::host::sockdiag`] and [`crate::spread::addresses`] know the contents of the messages.

mod each;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    io,
    sync::atomic::{AtomicU32, Ordering},
};

use rustix::{
    io::{Errno, retry_on_intr},
    net::{Protocol, SocketFlags},
};

use crate::runtime::beat::beat;
pub(crate) use each::{Each, Ended};
pub(crate) use socket::Socket;

pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;

pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_LEN: usize = 16;
const NUMBER_AT: usize = 8;

/// Size of the buffer for answers, in bytes. The kernel puts at most 32 KiB into a datagram, except where one message is
/// longer.
const BUFFER: usize = 128 * 1024;
/// How many times a dump is tried if the kernel marks each as inconsistent.
const TRIES: usize = 5;
/// Number of the next request; answers repeat the number of their request.
static REQUESTS: AtomicU32 = AtomicU32::new(1);

/// A request for a list, and how its answers are parsed.
pub(crate) struct Query<'a, T> {
    /// For error texts: the name of what is asked, such as `sock_diag`.
    pub(crate) name: &'static str,
    /// For error texts: what it lists, such as "TCP sockets".
    pub(crate) things: &'static str,
    /// `None`: NETLINK_ROUTE.
    pub(crate) protocol: Option<Protocol>,
    /// The bytes of the request, as [`request`] makes them.
    pub(crate) request: &'a [u8],
    /// The type of messages that are answers; others are skipped.
    pub(crate) reply: u16,
    /// Parses an answer; `None`: it is damaged.
    pub(crate) parse: fn(&[u8]) -> Option<T>,
    /// More answers than this are an error, so that memory is limited.
    pub(crate) limit: usize,
}

impl<T> Query<'_, T> {
    /// All answers about the network namespace of the calling thread. Only messages from the kernel count: any
    /// process in that namespace can send to a netlink socket there.
    ///
    /// # Errors
    /// The step that failed, with the kind of its errno. `Interrupted`: the dump was inconsistent (`NLM_F_DUMP_INTR`) each of the
    /// five times that it was tried. `QuotaExceeded`: there are more than `limit` answers. `InvalidData`: an answer is damaged.
    /// `Other` or `UnexpectedEof`: a datagram is longer than 128 KiB, or empty.
    pub(crate) fn answers(&self) -> io::Result<Vec<T>> {
        self.answers_by(None)
    }

    /// All answers, asked for by the socket `held`: about the network namespace in which that was opened, whichever thread calls.
    /// What it has received before is discarded. No other thread may use the socket meanwhile (not checked). `None`: by a new
    /// socket, about the namespace of the calling thread.
    ///
    /// # Errors
    /// Those of [`Self::answers`].
    pub(crate) fn answers_by(&self, held: Option<&Socket>) -> io::Result<Vec<T>> {
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

    /// Sends the request once; `None`: the kernel marks the dump as inconsistent.
    fn answers_once(&self, held: Option<&Socket>, buffer: &mut [u8]) -> io::Result<Option<Vec<T>>> {
        let opened;
        let socket = if let Some(held) = held {
            // Answers to an earlier request may not have been read.
            held.drain();
            held
        } else {
            opened = Socket::open(self.protocol, SocketFlags::CLOEXEC, 0)
                .map_err(|errno| self.failed("opening a netlink socket", errno))?;
            &opened
        };
        let number = REQUESTS.fetch_add(1, Ordering::Relaxed);
        retry_on_intr(|| socket.send(&numbered(self.request, number)))
            .map_err(|errno| self.failed(&format!("asking for the {}", self.things), errno))?;

        let mut answers = Vec::new();
        let mut consistent = true;
        loop {
            let len = retry_on_intr(|| socket.receive(buffer))
                .map_err(|errno| self.failed(&format!("reading the {}", self.things), errno))?;
            // The message is not from the kernel.
            let Some(len) = len else { continue };
            beat();
            let datagram = buffer.get(..len).ok_or_else(|| {
                io::Error::other(format!("{}: a message of {len} bytes is too long", self.name))
            })?;
            if datagram.is_empty() {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            }
            for message in messages(datagram) {
                let message = message.ok_or_else(|| self.damaged())?;
                if message.number != number {
                    continue;
                }
                consistent &= message.flags & NLM_F_DUMP_INTR == 0;
                match message.end() {
                    Some(0) => return Ok(consistent.then_some(answers)),
                    Some(errno) => {
                        let errno = Errno::from_raw_os_error(errno);
                        return Err(self.failed(&format!("listing the {}", self.things), errno));
                    }
                    None if message.kind == self.reply => {
                        if answers.len() >= self.limit {
                            return Err(self.too_many());
                        }
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

    fn too_many(&self) -> io::Error {
        let Self { name, things, limit, .. } = self;
        let message = format!("{name}: there are more than {limit} {things}, too many to read");
        io::Error::new(io::ErrorKind::QuotaExceeded, message)
    }

    fn damaged(&self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: damaged message", self.name))
    }
}

/// The bytes of a request to the kernel: a netlink header with `kind` as its type, then `body`. NLM_F_REQUEST is added to
/// `flags`; sequence number and port number are 0.
pub(crate) fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(HEADER_LEN + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER_LEN + body.len());
    bytes.extend(len.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
    // Sequence number, see `numbered`, and port number.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// The request with this sequence number.
fn numbered(request: &[u8], number: u32) -> Vec<u8> {
    let mut bytes = request.to_vec();
    for (to, from) in bytes.iter_mut().skip(NUMBER_AT).zip(number.to_ne_bytes()) {
        *to = from;
    }
    bytes
}

/// A message from the kernel.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Message<'a> {
    /// Its type.
    pub(crate) kind: u16,
    /// What follows the header.
    pub(crate) payload: &'a [u8],
    flags: u16,
    /// Sequence number of the request that it answers.
    number: u32,
}

impl Message<'_> {
    /// If this message ends the answers, the result: an errno, or 0. `None`: it does not end them.
    fn end(&self) -> Option<i32> {
        let code = u32_at(self.payload, 0).map(|code| code.cast_signed().saturating_neg());
        match self.kind {
            // Some kernels leave out the result.
            NLMSG_DONE => Some(code.unwrap_or(0)),
            NLMSG_ERROR => code,
            _ => None,
        }
    }
}

/// The messages of one datagram, up to the first damaged one, for which the last item is `None`; none if the datagram is empty.
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
        number: u32_at(bytes, NUMBER_AT)?,
    };
    // An error without a code would be taken for another message.
    (message.kind != NLMSG_ERROR || message.payload.len() >= 4).then_some(message)
}

/// Type and value of each attribute (`struct rtattr`), up to the first damaged one.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(rest, 0)?);
        let attribute = (u16_at(rest, 2)?, rest.get(4..len)?);
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute)
    })
}

/// The number at this offset, in host byte order; `None`: the bytes end before its end.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// The number at this offset, in host byte order; `None`: the bytes end before its end.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}
