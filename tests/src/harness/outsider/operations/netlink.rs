//! Operations that send netlink messages to other processes.

use anyhow::Result;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, Protocol, RawProtocol, SendFlags, SocketFlags, SocketType,
        netlink::SocketAddrNetlink, sendto, socket_with,
    },
};

use super::{Belongings, Table, argument};

/// The operations of this file, by name.
pub(super) const OPERATIONS: Table = &[("netlink", netlink)];

/// `netlink PROTOCOL PORT COUNT HEX`: sends COUNT times the bytes that HEX encodes, over netlink PROTOCOL (4 is sock_diag, 0 is
/// route), to the socket with port id PORT in this network namespace. Returns how many messages were accepted, and how many
/// were refused: there is no such socket, it is connected to another sender (the kernel), or its buffer is full. Any other
/// errno is an error.
fn netlink(_: &mut Belongings, words: &[&str]) -> Result<Vec<u64>> {
    let protocol = RawProtocol::new(argument(words, 0)?);
    let (family, kind) = (AddressFamily::NETLINK, SocketType::RAW);
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, protocol.map(Protocol::from_raw))?;
    let to = SocketAddrNetlink::new(argument(words, 1)?, 0);
    let bytes = bytes(&argument::<String>(words, 3)?)?;
    let mut counts = [0; 2];
    for _ in 0..argument::<u64>(words, 2)? {
        match sendto(&socket, &bytes, SendFlags::DONTWAIT, &to) {
            Ok(_) => counts[0] += 1,
            Err(Errno::CONNREFUSED | Errno::AGAIN | Errno::NOBUFS) => counts[1] += 1,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(counts.to_vec())
}

fn bytes(hex: &str) -> Result<Vec<u8>> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}
