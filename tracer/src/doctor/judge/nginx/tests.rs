use std::{path::Path, sync::Arc};

use super::*;
use crate::{doctor::config::nginx::facts, host::files::Memory};

const OLD: Version = Version { major: 1, minor: 22, patch: 1 };
const NEW: Version = Version { major: 1, minor: 29, patch: 7 };
const BUSY: Load = Load { rate: Some(612.0), peak: Some(40) };

/// An nginx with one location that has these directives, and these groups.
fn nginx(version: Version, groups: &str, location: &str) -> Nginx {
    let text = format!("http {{\n{groups}\nserver {{\nlocation / {{ {location} }} }} }}");
    let facts = facts(&Memory::of(&[("/api.conf", &text)]), Path::new("/api.conf"), "");
    Nginx { version: Some(version), facts, newer: Vec::new(), error_logs: Vec::new() }
}

fn explained(nginx: &Nginx, load: Load) -> Explained {
    explain(nginx, "10.0.1.7:8080".parse().unwrap(), load).unwrap()
}

const API: &str = "upstream api { server 10.0.1.7:8080; }";
const HALF: &str = "proxy_pass http://api; proxy_http_version 1.1; proxy_set_header Connection '';";

#[test]
fn http_1_1_without_keepalive_is_why_nginx_closes_first() {
    let it = explained(&nginx(OLD, API, HALF), BUSY);
    assert_eq!(it.upstream.as_deref(), Some("api"));
    assert_eq!(it.certainty, Certainty::Inferred);
    assert_eq!(
        it.closes_first.unwrap(),
        "nginx closes first: HTTP/1.1 without \"keepalive\" in upstream \"api\" (/api.conf:2)"
    );
    assert_eq!(it.advice.len(), 1);
    assert_eq!(it.advice[0].what, "add \"keepalive 64;\" to upstream \"api\" (/api.conf:2)");
    assert_eq!(it.advice[0].gain, "612/s → about 0.6/s at 1,000 requests a connection");
    assert!(it.notes.is_empty());
}

#[test]
fn the_old_defaults_explain_churn_and_all_of_the_remedy_is_advised_at_once() {
    let it = explained(&nginx(OLD, API, "proxy_pass http://api;"), Load::default());
    assert_eq!(it.closes_first, None);
    assert_eq!(
        it.churn.unwrap(),
        "nginx keeps no connection: no \"keepalive\" in upstream \"api\" (/api.conf:2); HTTP/1.0 by default; \
         \"Connection: close\" by default"
    );
    assert_eq!(
        it.advice[0].what,
        "add \"keepalive 32;\" to upstream \"api\" (/api.conf:2), and set proxy_http_version 1.1; and proxy_set_header \
         Connection \"\"; where proxy_pass is (/api.conf:4)"
    );
    assert_eq!(it.advice[0].gain, "a connection carries up to 1,000 requests");
}

#[test]
fn a_new_version_keeps_connections_by_default_and_may_keep_too_few() {
    let nginx = nginx(NEW, API, "proxy_pass http://api;");
    let few = explained(&nginx, Load { peak: Some(32), ..BUSY });
    assert_eq!((few.closes_first, few.churn, few.advice.len()), (None, None, 0));
    let many = explained(&nginx, Load { peak: Some(33), ..BUSY });
    assert_eq!(
        many.closes_first.unwrap(),
        "nginx closes first what it does not keep: a worker keeps 32 in upstream \"api\" by default, and had 33 connections at \
         the same time"
    );
    assert_eq!(many.advice[0].what, "add \"keepalive 64;\" to upstream \"api\" (/api.conf:2)");
}

#[test]
fn keepalive_must_reach_the_peak_of_a_worker() {
    let nginx = nginx(OLD, "upstream api { server 10.0.1.7:8080; keepalive 4; }", HALF);
    let it = explained(&nginx, BUSY);
    assert_eq!(
        it.closes_first.unwrap(),
        "nginx closes first what it does not keep: a worker keeps \"keepalive 4\" in upstream \"api\" (/api.conf:2), and had 40 \
         connections at the same time"
    );
    assert_eq!(it.advice[0].what, "raise \"keepalive 4;\" to 64 in upstream \"api\" (/api.conf:2)");
    assert!(explained(&nginx, Load { peak: Some(4), rate: None }).closes_first.is_none());
    assert!(explained(&nginx, Load::default()).advice.is_empty());
}

#[test]
fn keepalive_is_added_where_it_counts_and_for_all_servers() {
    let three = "upstream api { least_conn; server 10.0.1.7:8080; server 10.0.1.8:8080; server 10.0.1.9:8080; }";
    let it = explained(&nginx(OLD, three, HALF), BUSY);
    assert_eq!(
        it.advice[0].what,
        "add \"keepalive 128;\" below \"least_conn\" in upstream \"api\" (/api.conf:2)"
    );
}

#[test]
fn a_server_without_an_upstream_block_needs_one() {
    let pass =
        "proxy_pass http://10.0.1.7:8080; proxy_http_version 1.1; proxy_set_header Connection '';";
    let it = explained(&nginx(OLD, "", pass), Load::default());
    assert_eq!(
        it.closes_first.unwrap(),
        "nginx closes first: proxy_pass (/api.conf:4) names a server, not an upstream block"
    );
    assert_eq!(
        it.advice[0].what,
        "put the server in an upstream block with \"keepalive 32;\", and name it in proxy_pass (/api.conf:4)"
    );
    let new = explained(&nginx(NEW, "", "proxy_pass http://10.0.1.7:8080;"), Load::default());
    assert_eq!(
        new.advice[0].what,
        "put the server in an upstream block, and name it in proxy_pass (/api.conf:4)"
    );
}

#[test]
fn other_reasons_name_their_places() {
    let taken = "upstream api { server 10.0.1.7:8080; keepalive 64;\nleast_conn; }";
    let it = explained(&nginx(OLD, taken, HALF), BUSY);
    assert_eq!(
        it.closes_first.unwrap(),
        "nginx closes first: \"least_conn\" (/api.conf:3) takes back the \"keepalive\" above it in upstream \"api\" (/api.conf:2)"
    );
    assert_eq!(
        it.advice[0].what,
        "move \"keepalive\" below \"least_conn\" in upstream \"api\" (/api.conf:2)"
    );
    let zero =
        explained(&nginx(NEW, "upstream api { server 10.0.1.7:8080; keepalive 0; }", HALF), BUSY);
    assert_eq!(
        zero.closes_first.unwrap(),
        "nginx closes first: \"keepalive 0\" in upstream \"api\" (/api.conf:2)"
    );
    assert_eq!(
        zero.advice[0].what,
        "raise \"keepalive 0;\" to 64 in upstream \"api\" (/api.conf:2)"
    );
    let few = "upstream api { server 10.0.1.7:8080; keepalive 64; keepalive_requests 10; }";
    let few = explained(&nginx(OLD, few, HALF), BUSY);
    assert!(few.closes_first.unwrap().contains("\"keepalive_requests 10\" in upstream \"api\""));
    let lost =
        "proxy_set_header Connection ''; upstream api { server 10.0.1.7:8080; keepalive 64; }";
    let lost = explained(
        &nginx(OLD, lost, "proxy_pass http://api; proxy_http_version 1.1; proxy_set_header A b;"),
        BUSY,
    );
    assert!(lost.churn.unwrap().contains("because proxy_set_header (/api.conf:4) takes away"));
    assert_eq!(
        lost.advice[0].what,
        "set proxy_set_header Connection \"\"; next to the other proxy_set_header (/api.conf:4)"
    );
}

#[test]
fn the_advice_takes_no_header_away() {
    let kept = "upstream api { server 10.0.1.7:8080; keepalive 64; }";
    let pass = "proxy_pass http://api; proxy_http_version 1.1;";
    let inherited = format!("{kept}\nproxy_set_header Host $host;");
    assert_eq!(
        explained(&nginx(OLD, &inherited, pass), BUSY).advice[0].what,
        "set proxy_set_header Connection \"\"; next to the other proxy_set_header (/api.conf:3)"
    );
    let set = format!("{kept}\nproxy_set_header Connection close;");
    assert_eq!(
        explained(&nginx(OLD, &set, pass), BUSY).advice[0].what,
        "make it proxy_set_header Connection \"\"; (/api.conf:3)"
    );
    let map = format!("{kept} map $http_upgrade $c {{ default upgrade; '' close; }}");
    let it = explained(&nginx(OLD, &map, &format!("{pass} proxy_set_header Connection $c;")), BUSY);
    assert_eq!(
        it.churn.unwrap(),
        "nginx keeps no connection: \"Connection: close\" by $c (/api.conf:4)"
    );
    assert_eq!(
        it.advice[0].what,
        "let the map of $http_upgrade make $c '' and not 'close' for '' (/api.conf:4)"
    );
}

#[test]
fn where_lua_chooses_the_server_nothing_is_advised() {
    let lua = "upstream api { server 10.0.1.7:8080; balancer_by_lua_block { x() } }";
    let it = explained(&nginx(OLD, lua, "proxy_pass http://api;"), BUSY);
    assert!(it.advice.is_empty(), "{it:?}");
}

#[test]
fn of_several_ways_the_one_that_leaves_time_waits_counts() {
    let both = format!("proxy_pass http://api; }} location /b {{ {HALF}");
    let it = explained(&nginx(OLD, API, &both), BUSY);
    assert!(it.closes_first.is_some());
    assert_eq!(it.notes, ["1 of 2 ways to it differ"]);
}

#[test]
fn what_is_not_certain_is_said() {
    let name = explained(&nginx(OLD, "upstream api { server x:8080; }", HALF), BUSY);
    assert_eq!(name.certainty, Certainty::Possible);
    assert_eq!(
        name.notes,
        ["nginx has a name for this server, which was compared by its port only"]
    );
    let mut changed = nginx(OLD, API, HALF);
    changed.newer = vec![Arc::from("/a"), Arc::from("/b")];
    assert_eq!(
        explained(&changed, BUSY).notes,
        ["/a and 1 more files changed after nginx's last reload: this is the file, not what runs"]
    );
    let missing = nginx(OLD, API, &format!("{HALF} include none;"));
    let it = explained(&missing, BUSY);
    assert_eq!((it.closes_first, it.advice.len()), (None, 0));
    assert!(
        it.notes[0]
            .starts_with("whether nginx keeps its connections is not known: not read: /api.conf:4")
    );
    let elsewhere = "10.9.9.9:1".parse().unwrap();
    assert!(explain(&nginx(OLD, API, HALF), elsewhere, BUSY).is_none());
    assert!(explain(&missing, elsewhere, BUSY).unwrap().notes[0].contains("not read in full"));
}

#[test]
fn names_of_others_are_cut() {
    let long = "n".repeat(4000);
    let group = format!("upstream {long} {{ server 10.0.1.7:8080; }}");
    let it = explained(&nginx(OLD, &group, &HALF.replace("api", &long)), BUSY);
    assert!(it.closes_first.unwrap().len() < 300);
    assert!(it.advice[0].what.len() < 300);
}
