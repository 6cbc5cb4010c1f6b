//! `bad_source`: bind() of an address that the namespace does not have, as the hooks saw it fail.

use super::{
    BoundAddress, Seen, new_address,
    text::{ip, number, seconds},
};
use crate::doctor::finding::{Advice, Finding, Id, NewAddress, Severity, Subject};

/// A finding for each address that bind() calls of the window could not bind because the namespace does not have it.
pub(super) fn bad_sources(seen: &Seen) -> Vec<Finding> {
    let failing = seen.bound.iter().filter(|it| it.not_local > 0);
    failing.map(|it| bad_source(seen, it)).collect()
}

fn bad_source(seen: &Seen, bound: &BoundAddress) -> Finding {
    let address = ip(bound.address);
    let who = bound.caller.as_ref().filter(|it| !it.name.is_empty());
    let program = who.map_or_else(|| "programs".to_owned(), |it| it.name.clone());
    let what = format!(
        "{program}: {} bind() failed in {}, because this network namespace does not have {address}",
        number(bound.not_local),
        seconds(bound.seconds)
    );
    let new = NewAddress {
        place: seen.place.clone(),
        address,
        towards: Vec::new(),
        may_be_elsewhere: false,
    };
    let add = new_address::add(new, "bind() finds it at once")
        .risk("the network must route answers for this address to this host");
    let change = Advice::new(
        "set the source address in the program's configuration to one of this host",
        "its connections are opened again",
    );
    let subject = Subject::Address {
        place: seen.place.clone(),
        address: std::net::SocketAddr::new(address, 0),
    };
    Finding::new(Id::BadSource, Severity::Critical, subject, what)
        .with("source", address.to_string())
        .with("failed", bound.not_local)
        .with("process.pid", serde_json::json!(who.map(|it| it.pid)))
        .because("bind() of an address that is not here fails with EADDRNOTAVAIL".to_owned())
        .advise([add, change])
        .verify_by(seen.look_again())
        .but_not("more ports: it is the address that is missing")
}

#[cfg(test)]
mod tests {
    use tracer_common::Addr;

    use super::{
        super::test_seen::{held, seen},
        *,
    };
    use crate::doctor::finding::Process;

    fn bound(address: Addr, not_local: u64) -> Seen {
        let caller = Some(Process { pid: 7, name: "nginx".into(), container: None });
        let mut seen = seen(held(1, 0));
        let of = BoundAddress { address, ports: None, failed: 0, not_local, seconds: 5.0, caller };
        seen.bound.push(of);
        seen
    }

    #[test]
    fn an_address_that_is_not_here_is_a_bad_source() {
        let [found] = &bad_sources(&bound(Addr::v4([10, 9, 9, 9]), 12))[..] else { panic!() };
        assert_eq!((found.id, found.severity), (Id::BadSource, Severity::Critical));
        let expected =
            "nginx: 12 bind() failed in 5 s, because this network namespace does not have 10.9.9.9";
        assert_eq!(found.what, expected);
        let add = found.advice[0].adds.as_ref().map(|it| (it.place.name.as_deref(), it.address));
        assert_eq!(add, Some((Some("proxy"), "10.9.9.9".parse().unwrap())));
        assert_eq!(super::super::ports::bound(&bound(Addr::v4([10, 9, 9, 9]), 12)), []);
    }

    #[test]
    fn an_ipv6_address_can_be_added_and_without_failures_there_is_none() {
        let v6 = Addr("2001:db8::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
        let found = bad_sources(&bound(v6, 1));
        assert!(found[0].advice[0].what.contains("ip addr add 2001:db8::9/128 dev INTERFACE"));
        assert_eq!(bad_sources(&bound(v6, 0)), []);
    }
}
