use super::*;

const ENDS: &str = r#""network.local.address":"10.0.0.1","network.peer.address":"10.0.1.7","network.peer.port":80,
    "netns":1,"ports.in_use":1,"ports.time_wait":0"#;

#[test]
fn a_line_of_an_older_version_does_not_say_how_connections_were_used() {
    let old = format!("{{{ENDS}}}");
    let old = Tuple::of(old.as_bytes()).unwrap();
    assert!(!old.has_uses && old.count.ends == Ends::NONE);
    let new = format!(
        r#"{{{ENDS},"connections.closed_here":3,"connections.segments":75,
        "connections.lifetimes":[0,3],"syns.sent_again":2}}"#
    );
    let new = Tuple::of(new.as_bytes()).unwrap();
    let mut ends = Ends { closed_here: 3, segments: 75, ..Ends::NONE };
    ends.lifetimes[1] = 3;
    assert_eq!((new.has_uses, new.count.ends, new.count.syns_again), (true, ends, 2));
}
