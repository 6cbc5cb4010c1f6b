use std::{
    fs,
    hint::black_box,
    net::{TcpListener, TcpStream},
    process, thread,
    time::{Duration, Instant},
};

use super::*;
use crate::host::{test_mutations, test_netns};

const TEXT: &str = "\
TcpExt: SyncookiesSent TW TWRecycled ListenOverflows ListenDrops TCPTimeWaitOverflow TCPSynRetrans IPReversePathFilter
TcpExt: 0 260 3 7 9 50 20 4
IpExt: InNoRoutes TW
IpExt: 1 2
MPTcpExt: MPCapableSYNRX
MPTcpExt: 0
";

#[test]
fn counters_are_found_by_name_and_what_is_not_there_is_missing() {
    let counters = Counters::parse(TEXT);
    let expected = Counters {
        time_waits: Some(260),
        time_waits_reused: Some(3),
        listen_overflows: Some(7),
        listen_drops: Some(9),
        time_wait_overflows: Some(50),
        syns_sent_again: Some(20),
        reverse_path_drops: Some(4),
        ..Counters::default()
    };
    assert_eq!(counters, expected);
    for text in
        ["", "TcpExt: TW", "TcpExt: TW\n", "IpExt: TW\nIpExt: 3\n", "TcpExt: TW\nTcpExt: x\n"]
    {
        assert_eq!(Counters::parse(text), Counters::default(), "{text:?}");
    }
}

#[test]
fn growth_is_right_across_a_wrap_and_a_new_beginning() {
    let last = u64::from(u32::MAX);
    assert_eq!(growth(Some(7), Some(7)), Some(0));
    assert_eq!(growth(Some(9), Some(7)), Some(2));
    assert_eq!(growth(Some(1), Some(last)), Some(2), "32 bits");
    assert_eq!(growth(Some(3), Some(1_000)), Some(3), "a new namespace with the old one's number");
    assert_eq!(growth(Some(3), Some(u64::MAX)), Some(3));
    assert_eq!((growth(None, Some(1)), growth(Some(1), None)), (None, None));
    let mut later = Counters::parse(TEXT);
    later.time_waits = Some(300);
    let growth = later.since(&Counters::parse(TEXT));
    assert_eq!(
        (growth.time_waits, growth.listen_drops, growth.memory_aborts),
        (Some(40), Some(0), None)
    );
}

/// Connections that the client closes first.
fn connections(listener: &TcpListener, count: usize) {
    for _ in 0..count {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, _) = listener.accept().unwrap();
        drop(client);
        drop(server);
    }
}

/// The first reading that is as wanted; after 5 s, any.
fn reading_with(wanted: impl Fn(&Reading) -> bool) -> Reading {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let reading = Reading::here().unwrap();
        if wanted(&reading) || end < Instant::now() {
            return reading;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn this_kernel_has_all_counters_and_each_namespace_its_own() {
    let (before, after, few) = test_netns::run(|| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let before = Reading::here().unwrap();
        connections(&listener, 10);
        let after = reading_with(|it| it.sockets == SocketCounts { in_use: 1, time_waits: 10 });
        fs::write("/proc/sys/net/ipv4/tcp_max_tw_buckets", "10").unwrap();
        connections(&listener, 4);
        let few = reading_with(|it| it.sockets.in_use == 1);
        (before, after, few)
    });
    let all = format!("{:?}", before.counters);
    assert!(!all.contains("None"), "{all}");
    assert_eq!(before.sockets, SocketCounts { in_use: 1, time_waits: 0 });
    let growth = after.counters.since(&before.counters);
    assert_eq!((growth.time_waits, growth.time_wait_overflows), (Some(10), Some(0)));
    assert_eq!(after.sockets.time_waits, 10);
    assert_eq!(few.counters.since(&after.counters).time_wait_overflows, Some(4));
}

#[test]
fn a_processs_namespace_is_read_without_entering_it() {
    let own = Reading::of_process(process::id()).unwrap();
    assert!(own.counters.time_waits.is_some());
    let error = Reading::of_process(u32::MAX).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("/net/netstat"), "{error}");
}

#[test]
fn mutations_of_texts_do_no_harm() {
    let real = fs::read("/proc/self/net/netstat").unwrap();
    let sockstat = fs::read("/proc/self/net/sockstat").unwrap();
    let corpus = [TEXT.as_bytes(), &real, &sockstat];
    test_mutations::run("counters", &corpus, |input| {
        let text = String::from_utf8_lossy(input);
        let mut sockets = SocketCounts::default();
        sockets.add(&text);
        black_box((Counters::parse(&text).since(&Counters::parse(TEXT)), sockets));
    });
}
