use std::net::Ipv4Addr;

use super::*;
use crate::host::netns;

#[test]
fn an_address_is_here_if_it_can_be_bound() {
    assert!(!is_not_here(&Ipv4Addr::LOCALHOST.into()));
    assert!(!is_not_here(&Ipv4Addr::UNSPECIFIED.into()));
    // TEST-NET-1 is nowhere.
    let missing = crate::host::test_netns::run(|| is_not_here(&Ipv4Addr::new(192, 0, 2, 1).into()));
    assert!(missing);
}

#[test]
fn a_clock_that_is_set_during_the_window_leaves_no_line_of_a_log_out() {
    let of = |to_s| first_second(1_000, Duration::from_millis(5_900), to_s);
    assert_eq!((of(1_005), of(1_006)), (1_000, 1_000));
    assert_eq!(of(500), 495, "set back: lines have the times of now");
    assert_eq!(of(9_000), 1_000);
}

#[test]
fn work_that_does_not_end_leaves_its_proxy_out() {
    let until = Instant::now() + Duration::from_millis(50);
    let (block, blocked) = std::sync::mpsc::channel::<()>();
    let late = limited(until, move || blocked.recv().map_err(|error| error.to_string()));
    assert_eq!(late, Err("reading it takes too long".into()));
    let none = limited(until, || Ok(()));
    assert!(none.is_err(), "the time is over: nothing is begun");
    drop(block);
}

#[test]
fn logs_are_read_from_the_beginning_of_the_window_or_a_minute_back() {
    let worker = Worker::spawn().unwrap();
    let own = netns::own().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("error.log");
    let at =
        jiff::Timestamp::from_second(now_s() - 20).unwrap().to_zoned(jiff::tz::TimeZone::system());
    let line = at
        .strftime("%Y/%m/%d %H:%M:%S [crit] 1#1: *1 connect() to 10.0.0.1:80 failed (99: x) while");
    std::fs::write(&log, format!("{line}\n")).unwrap();
    let counted = |window| {
        let begun = Begun {
            read: Vec::new(),
            unread: Vec::new(),
            hidden: false,
            from_s: now_s(),
            began: Instant::now(),
        };
        let wanted = Wanted {
            places: &[],
            all: std::slice::from_ref(&own),
            own: own.inum,
            window,
            logs: &[log.clone(), folder.path().join("none")],
        };
        let proxies = begun.end(&worker, &wanted);
        let [(_, Ok(report)), (_, Err(_))] = &proxies.given[..] else { panic!("{proxies:?}") };
        report.count(logs::Kind::NoPort)
    };
    assert_eq!((counted(true), counted(false)), (0, 1));
}
