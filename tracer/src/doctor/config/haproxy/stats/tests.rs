use super::*;
use crate::doctor::config::test_mutations;

/// The answer of HAProxy 2.6.12 to [`COMMANDS`], on a socket of level `operator`.
const ANSWER: &[u8] = include_bytes!("operator.txt");
/// To `show servers conn`.
const CONNECTIONS: &[u8] = b"# bkname/svname bkid/svid addr port - purge_delay used_cur used_max \
    need_est unsafe_nb safe_nb idle_lim idle_cur idle_per_thr[2]\n\
    b-1/s1 4/1 127.0.0.1 18002 - 5000 3 4 1 1 1 -1 2 1 1\n\
    b-1/un 4/3 - 0 - 5000 0 0 0 0 0 -1 0 0 0\n\
    six/a 5/1 2001:db8::1 80 - 5000 0 2 2 1 1 -1 2 1 1\n\n";

fn counters(connects: u64, reuses: u64) -> Counters {
    Counters { connects: Some(connects), reuses: Some(reuses), ..Counters::default() }
}

#[test]
fn an_answer_has_the_counters_of_each_server() {
    use RowKind::{Backend, Frontend, Server};
    let stats = parse(ANSWER);
    assert_eq!(stats.info["Version"], "2.6.12-1+deb12u4");
    assert_eq!((stats.info["Uptime_sec"].as_str(), stats.info["Tainted"].as_str()), ("2", "0"));
    let kinds: Vec<_> = stats.rows.iter().map(|row| row.kind).collect();
    assert_eq!(
        kinds,
        [
            Frontend, Frontend, Server, Server, Server, Backend, Server, Backend, Frontend, Server,
            Backend
        ]
    );
    let safe = stats.server("b-1", "s1").unwrap();
    let expected = Counters {
        connects: Some(51),
        reuses: Some(49),
        errors: Some(0),
        retries: Some(0),
        used: Some(0),
        idle_unsafe: Some(1),
        idle_safe: Some(1),
        needed: Some(1),
    };
    assert_eq!(safe.counters, expected);
    assert_eq!(safe.counters.idle(), Some(2));
    assert_eq!((safe.address, safe.http), (Some("127.0.0.1:18002".parse().unwrap()), Some(true)));
    assert_eq!(stats.server("b-1", "un").unwrap().address, None);
    assert_eq!(stats.server("t", "t1").unwrap().http, Some(false));
    assert!(stats.server("b-1", "none").is_none());
}

#[test]
fn servers_are_found_by_their_address_if_the_socket_shows_it() {
    let names = |stats: &Stats, to: &str| {
        stats
            .towards(to.parse().unwrap())
            .map(|row| format!("{}/{}", row.proxy, row.server))
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&parse(ANSWER), "127.0.0.1:18002"), ["b-1/s1", "always/a1", "t/t1"]);
    let user = String::from_utf8_lossy(ANSWER).replace("127.0.0.1:18002", "");
    let user = parse(user.as_bytes());
    assert_eq!(names(&user, "127.0.0.1:18002"), [""; 0]);
    assert_eq!(user.server("b-1", "s1").unwrap().counters.connects, Some(51));
}

#[test]
fn the_hit_rate_is_the_share_of_requests_without_a_new_connection() {
    assert_eq!(counters(51, 49).hit_rate(), Some(0.49));
    assert_eq!(counters(0, 0).hit_rate(), None);
    assert_eq!(Counters { connects: Some(1), ..Counters::default() }.hit_rate(), None);
}

#[test]
fn counters_of_a_window_are_differences_and_gauges_are_those_of_now() {
    let before = Counters { used: Some(9), ..counters(100, 10) };
    let now = Counters { used: Some(4), ..counters(150, 460) };
    let during = now.since(&before);
    assert_eq!((during.connects, during.reuses, during.used), (Some(50), Some(450), Some(4)));
    assert_eq!(counters(7, 7).since(&before), Counters::default());
}

#[test]
fn columns_are_found_by_their_names_in_any_order() {
    let stats = parse(
        b"# pxname,type,reuse,svname,connect\nb,2,3,a,4\nb,7,1,c,1\nd\nb,1,,BACKEND,18446744073709551616\n\n\
          Pid: 7\n",
    );
    let seen: Vec<_> = stats.rows.iter().map(|row| (row.server.as_str(), row.counters)).collect();
    assert_eq!(seen, [("a", counters(4, 3)), ("BACKEND", Counters::default())]);
    assert_eq!(stats.info["Pid"], "7");
}

#[test]
fn an_answer_that_was_cut_is_read_as_far_as_it_goes() {
    let end = ANSWER.windows(9).position(|window| window == b"always,a1").unwrap();
    let stats = parse(&ANSWER[..end + 9]);
    assert_eq!(stats.servers().count(), 3);
    assert!(stats.info.is_empty());
    assert_eq!(parse(b"Permission denied\n"), Stats::default());
}

#[test]
fn a_hostile_answer_takes_bounded_memory() {
    let rows =
        ["# pxname,svname,type\n".to_owned(), "a,b,2\n".repeat(100_000), "\nPid: 7\n".to_owned()]
            .concat();
    let stats = parse(rows.as_bytes());
    assert_eq!((stats.rows.len(), stats.info.len()), (MOST_ROWS, 0));
    let values: Vec<String> =
        (0..10_000).map(|number| format!("{number}: {}", "x".repeat(1_000))).collect();
    let stats = parse(values.join("\n").as_bytes());
    assert_eq!(stats.info.len(), MOST_VALUES);
    assert!(stats.info.values().all(|value| value.len() <= LONGEST_VALUE));
}

#[test]
fn open_connections_are_listed_by_server() {
    let held = parse_connections(CONNECTIONS);
    let expected = [
        Held {
            proxy: "b-1".into(),
            server: "s1".into(),
            address: "127.0.0.1:18002".parse().ok(),
            used: Some(3),
            idle: Some(2),
        },
        Held {
            proxy: "b-1".into(),
            server: "un".into(),
            address: None,
            used: Some(0),
            idle: Some(0),
        },
        Held {
            proxy: "six".into(),
            server: "a".into(),
            address: "[2001:db8::1]:80".parse().ok(),
            used: Some(0),
            idle: Some(2),
        },
    ];
    assert_eq!(held, expected);
    assert_eq!(parse_connections(b"b-1/s1 4/1\n# bkname/svname\nx\na/b\n").len(), 1);
}

#[test]
fn mutations_of_answers_do_no_harm() {
    test_mutations::run("haproxy's counters", &[ANSWER], |input| parse(input).rows.len());
    test_mutations::run("haproxy's connections", &[CONNECTIONS], |input| {
        parse_connections(input).len()
    });
}
