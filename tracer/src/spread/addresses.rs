//! The addresses of a network namespace, and word when they change: rtnetlink(7).
//!
//! Both are of the calling thread's namespace at the time of the call.

use std::{
    ffi::CStr,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use rustix::{
    fd::{AsFd, BorrowedFd, OwnedFd},
    io::{Errno, retry_on_intr},
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind,
        netlink::SocketAddrNetlink, recv, send, socket_with,
    },
};

const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const HEADER_LEN: usize = 16;
/// `struct ifaddrmsg`
const ADDRESS_LEN: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_TEMPORARY: u32 = 0x01;
const IFA_F_DADFAILED: u32 = 0x08;
const IFA_F_DEPRECATED: u32 = 0x20;
const IFA_F_TENTATIVE: u32 = 0x40;
const RT_SCOPE_LINK: u8 = 253;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const BUFFER: usize = 64 * 1024;
/// How often a dump that the kernel marks as inconsistent is made again.
const TRIES: usize = 5;

/// One address of an interface.
#[expect(
    clippy::struct_excessive_bools,
    reason = "the kernel's flags are independent of each other"
)]
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostAddress {
    pub address: IpAddr,
    pub interface: String,
    /// Reaches one link only.
    pub link: bool,
    /// Not yet known to be nobody else's (RFC 4862), or known to be somebody else's.
    pub tentative: bool,
    /// Not to be used for new connections (RFC 4862).
    pub deprecated: bool,
    /// Replaced after a while (RFC 8981).
    pub temporary: bool,
}

impl Default for HostAddress {
    fn default() -> Self {
        Self {
            address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            interface: String::new(),
            link: false,
            tentative: false,
            deprecated: false,
            temporary: false,
        }
    }
}

impl HostAddress {
    /// Why no connection should come from this address, if there is a reason.
    pub fn unusable(&self) -> Option<&'static str> {
        if self.tentative {
            return Some(
                "tentative (duplicate address detection has not ended, or found another host)",
            );
        }
        if self.deprecated {
            return Some("deprecated (its preferred lifetime is over)");
        }
        self.link.then_some("a link-local address, which reaches one link only")
    }

    /// Whether it is of use without being named; `named`: its interface was.
    pub fn is_suitable(&self, named: bool) -> bool {
        self.unusable().is_none() && !self.temporary && (named || !self.address.is_loopback())
    }
}

/// All addresses, in the kernel's order.
pub fn list() -> io::Result<Vec<HostAddress>> {
    for _ in 0..TRIES {
        if let Some(found) = dump()? {
            return Ok(found);
        }
    }
    Err(io::Error::new(io::ErrorKind::Interrupted, "the addresses changed while they were read"))
}

/// `None`: the kernel says that the dump is inconsistent.
fn dump() -> io::Result<Option<Vec<HostAddress>>> {
    let socket = open().map_err(|errno| failed("opening a netlink socket", errno))?;
    let mut request = [0_u8; HEADER_LEN + ADDRESS_LEN];
    request[..4].copy_from_slice(&24_u32.to_ne_bytes());
    request[4..6].copy_from_slice(&RTM_GETADDR.to_ne_bytes());
    request[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_DUMP).to_ne_bytes());
    retry_on_intr(|| send(&socket, &request, SendFlags::empty()))
        .map_err(|errno| failed("asking for the addresses", errno))?;
    let mut buffer = vec![0; BUFFER];
    let mut found = Vec::new();
    let mut consistent = true;
    loop {
        let (_, len) = retry_on_intr(|| recv(&socket, &mut *buffer, RecvFlags::TRUNC))
            .map_err(|errno| failed("reading the addresses", errno))?;
        let mut rest = buffer.get(..len).ok_or_else(damaged)?;
        while !rest.is_empty() {
            let (message, next) = split(rest).ok_or_else(damaged)?;
            rest = next;
            consistent &= message.flags & NLM_F_DUMP_INTR == 0;
            match message.kind {
                RTM_NEWADDR => found.extend(address(message.payload)),
                NLMSG_DONE => return Ok(consistent.then_some(found)),
                NLMSG_ERROR => {
                    let code = u32_at(message.payload, 0).unwrap_or(0).cast_signed();
                    let errno = Errno::from_raw_os_error(code.saturating_neg());
                    return Err(failed("listing the addresses", errno));
                }
                _ => {}
            }
        }
    }
}

struct Message<'a> {
    kind: u16,
    flags: u16,
    payload: &'a [u8],
}

/// The first message of a datagram, and the rest.
fn split(bytes: &[u8]) -> Option<(Message<'_>, &[u8])> {
    let len = u32_at(bytes, 0)? as usize;
    let payload = bytes.get(HEADER_LEN..len)?;
    let message = Message { kind: u16_at(bytes, 4)?, flags: u16_at(bytes, 6)?, payload };
    Some((message, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

fn address(payload: &[u8]) -> Option<HostAddress> {
    let [family, _, flags, scope] = *payload.first_chunk()?;
    let index = u32_at(payload, 4)?;
    let mut flags = u32::from(flags);
    let (mut local, mut peer) = (None, None);
    let mut attributes = payload.get(ADDRESS_LEN..)?;
    while let (Some(len), Some(kind)) = (u16_at(attributes, 0), u16_at(attributes, 2)) {
        let value = attributes.get(4..usize::from(len))?;
        match kind {
            IFA_LOCAL => local = ip(family, value),
            IFA_ADDRESS => peer = ip(family, value),
            IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
        attributes =
            attributes.get(usize::from(len).max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    Some(HostAddress {
        // On a point-to-point link IFA_ADDRESS is the other end.
        address: local.or(peer)?,
        interface: interface(index),
        link: scope == RT_SCOPE_LINK && family == libc::AF_INET6 as u8,
        tentative: flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) != 0,
        deprecated: flags & IFA_F_DEPRECATED != 0 && family == libc::AF_INET6 as u8,
        temporary: flags & IFA_F_TEMPORARY != 0 && family == libc::AF_INET6 as u8,
    })
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into()),
        _ => None,
    }
}

/// The name of an interface; empty for one that is gone.
#[expect(unsafe_code, reason = "if_indextoname(3)")]
fn interface(index: u32) -> String {
    let mut name = [0; libc::IF_NAMESIZE];
    // SAFETY: the buffer is as long as the function asks for.
    let found = unsafe { libc::if_indextoname(index, name.as_mut_ptr()) };
    if found.is_null() {
        return String::new();
    }
    // SAFETY: on success the buffer holds a string with its NUL.
    unsafe { CStr::from_ptr(found) }.to_string_lossy().into_owned()
}

/// Says when an address comes or goes. It stays with the namespace that it was opened in.
#[derive(Debug)]
pub struct Watch(OwnedFd);

impl Watch {
    pub fn open() -> io::Result<Self> {
        let socket = open().map_err(|errno| failed("opening a netlink socket", errno))?;
        let groups = RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR;
        bind(&socket, &SocketAddrNetlink::new(0, groups))
            .map_err(|errno| failed("asking to be told of addresses", errno))?;
        Ok(Self(socket))
    }

    /// Whether anything changed since it was asked last.
    pub fn drain(&self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let mut changed = false;
        loop {
            match recv(&self.0, &mut buffer, RecvFlags::DONTWAIT) {
                // What was missed can only be found by looking at all of them.
                Ok(_) | Err(Errno::NOBUFS) => changed = true,
                Err(Errno::AGAIN) => return Ok(changed),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("being told of addresses", errno)),
            }
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)
}

fn failed(doing: &str, errno: Errno) -> io::Error {
    let error = io::Error::from(errno);
    io::Error::new(error.kind(), format!("rtnetlink: {doing} failed: {error}"))
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "rtnetlink: damaged message")
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::test_netns;

    fn ip(line: &str) {
        assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "{line}");
    }

    #[test]
    fn addresses_are_listed_and_changes_are_told() {
        test_netns::run(|| {
            ip("link add d0 type dummy");
            ip("link set d0 up");
            let watch = Watch::open().unwrap();
            assert!(!watch.drain().unwrap());
            ip("addr add 10.3.0.7/24 dev d0");
            assert!(watch.drain().unwrap());
            assert!(!watch.drain().unwrap());
            ip("addr add fd00::7/64 dev d0 nodad");
            ip("addr add fd00::8/64 dev d0 nodad preferred_lft 0");
            let found = list().unwrap();
            let find = |text: &str| {
                found.iter().find(|it| it.address == text.parse::<IpAddr>().unwrap()).unwrap()
            };
            let four = find("10.3.0.7");
            assert_eq!((four.interface.as_str(), four.unusable()), ("d0", None));
            assert!(find("fd00::7").is_suitable(false));
            assert!(find("fd00::8").unusable().unwrap().starts_with("deprecated"));
            assert!(found.iter().any(|it| it.link));
            ip("addr del 10.3.0.7/24 dev d0");
            assert!(watch.drain().unwrap());
            assert!(!list().unwrap().contains(four));
        });
    }

    #[test]
    fn damaged_messages_are_refused() {
        for bytes in [&[1_u8, 2, 3][..], &[255; 16], &[4, 0, 0, 0]] {
            assert!(split(bytes).is_none(), "{bytes:?}");
        }
        assert_eq!(address(&[]), None);
        assert_eq!(address(&[2, 0, 0, 0, 1, 0, 0, 0, 200, 0, 1, 0]), None);
    }
}
