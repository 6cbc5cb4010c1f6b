//! `bad_source`: bind() of an address that the namespace does not have, as the hooks saw it fail.

use super::{
    BoundAddress, Seen,
    text::{command_in, ip, number, seconds},
};
use crate::doctor::finding::{Advice, Finding, Id, Severity, Subject};

/// A finding for each address that a program could not bind because the namespace does not have it.
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
    let length = if address.is_ipv4() { 32 } else { 128 };
    let to = "add the address to the interface that it belongs to (put its name for INTERFACE)";
    let add = Advice::new(to, "bind() finds it at once").until_reboot();
    let command = command_in(&seen.place, &format!("ip addr add {address}/{length} dev INTERFACE"));
    let add = Advice { command, ..add }
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
        let add = Some("ip netns exec proxy ip addr add 10.9.9.9/32 dev INTERFACE");
        assert_eq!(found.advice[0].command.as_deref(), add);
        assert_eq!(super::super::ports::bound(&bound(Addr::v4([10, 9, 9, 9]), 12)), []);
    }

    #[test]
    fn an_ipv6_address_is_added_whole_and_without_failures_there_is_none() {
        let v6 = Addr("2001:db8::9".parse::<std::net::Ipv6Addr>().unwrap().octets());
        let found = bad_sources(&bound(v6, 1));
        let add = Some("ip netns exec proxy ip addr add 2001:db8::9/128 dev INTERFACE");
        assert_eq!(found[0].advice[0].command.as_deref(), add);
        assert_eq!(bad_sources(&bound(v6, 0)), []);
    }
}
