//! Waits until a new IPv6 address can be used. The kernel adds its local route later, in a work item (`addrconf_dad_work` in
//! net/ipv6/addrconf.c), even with `nodad`. Until then, a packet to the address may be sent by the route of its network and is
//! not delivered locally: a SYN has no answer, and a second later connect() fails with ENETUNREACH.

use std::{
    net::{Ipv6Addr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

const LIMIT: Duration = Duration::from_secs(20);
/// How long [`wait`] waits for a datagram before it sends another one.
const PATIENCE: Duration = Duration::from_millis(10);

/// The IPv6 address that these arguments of `ip` add with `nodad`; `None` for all other arguments.
pub(super) fn added(arguments: &str) -> Option<Ipv6Addr> {
    let rest = arguments.strip_prefix("addr add ")?;
    let words: Vec<_> = rest.split(' ').collect();
    let address = words.first()?.split('/').next()?;
    words.contains(&"nodad").then(|| address.parse().ok()).flatten()
}

/// Waits until a datagram that the calling thread sends to `address`, an address of its own network namespace, arrives. An error
/// if none has within [`LIMIT`].
pub(super) fn wait(address: Ipv6Addr) -> Result<()> {
    let end = Instant::now() + LIMIT;
    let asker = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    asker.set_read_timeout(Some(PATIENCE))?;
    let own = (address, asker.local_addr()?.port());
    while asker.send_to(b"?", own).and_then(|_| asker.recv(&mut [0])).is_err() {
        ensure!(Instant::now() < end, "no datagram to the new {address} arrived within {LIMIT:?}");
        // While there is no route at all, sending fails immediately, without the wait of the read timeout.
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ipv6_with_nodad_is_waited_for() {
        assert_eq!(added("addr add fd00::1/128 dev lo nodad"), Some("fd00::1".parse().unwrap()));
        assert_eq!(added("addr add fd00::1/64 dev t0"), None);
        assert_eq!(added("addr add 10.1.0.1/24 dev t0 nodad"), None);
        assert_eq!(added("route add fd00::/64 dev lo nodad"), None);
    }
}
