//! Configurations that nginx would take, and that are made to take long.

use super::*;
use crate::host::test_mutations::cpu_time;

/// The ways to a server, and the CPU time that reading and three destinations take, in ms.
fn timed(text: &str) -> (usize, u128) {
    let mut ways = 0;
    let took = cpu_time(|| {
        let facts = facts(&Memory::of(&[("/c", text)]), Path::new("/c"), "");
        for destination in ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"] {
            ways = routes(&facts, None, destination.parse().unwrap()).routes.len();
        }
    });
    (ways, took.as_millis())
}

/// What each of very many passes needs may not depend on the number of all headers, groups or files.
#[test]
fn very_many_passes_with_very_many_settings_take_no_more_time_than_either() {
    let passes = "location / { proxy_pass http://10.0.0.3; }".repeat(2_000);
    let text = |header: &str| {
        let headers = header.repeat(20_000);
        format!(
            "http {{ upstream u {{ server a; keepalive 9; }} server {{ {headers} {passes} }} }}"
        )
    };
    let (ways, took) = timed(&text("proxy_set_header Connection $x;"));
    assert!(ways >= 1_024 && took < 5_000, "{ways} {took} ms");
    let value = "x".repeat(100);
    let (ways, took) = timed(&text(&format!("proxy_set_header Connection {value};")));
    assert!(ways >= 1_024 && took < 5_000, "{ways} {took} ms");
    let mut groups = String::new();
    for at in 0..20_000 {
        write!(groups, "upstream u{at} {{ server 10.1.0.1; }}").unwrap();
    }
    let variable = "location / { proxy_pass http://$x; }".repeat(2_000);
    let (ways, took) = timed(&format!("http {{ {groups} server {{ {variable} }} }}"));
    assert!(ways >= 1_024 && took < 5_000, "{ways} {took} ms");
}

#[test]
fn of_very_many_headers_the_block_is_not_read() {
    let of = |count| {
        let headers = "proxy_set_header Connection x;".repeat(count);
        let text = format!("http {{ server {{ {headers} proxy_pass http://10.0.0.1; }} }}");
        ways(&facts(&Memory::of(&[("/c", &text)]), Path::new("/c"), ""), OLD, "10.0.0.1:80")
            .join("")
    };
    assert_eq!(of(64), "- /c:1: block, 1.0 default; Server");
    assert_eq!(of(65), "- /c:1: not read: /c:1: there are very many headers Connection; Either");
}
