use std::{fs, path::PathBuf};

use clap::Parser;
use tracer_common::{Addr, TupleCount, TupleKey};

use super::*;
use crate::{
    advise::tests::{plan, unwrapped},
    cli::{Cli, Command},
    recording::test_recorder::{Recorder, S},
};

fn config(line: &str) -> AdviseConfig {
    let cli = Cli::try_parse_from(line.split(' ')).unwrap();
    let Command::Advise(args) = cli.command else { panic!("{line}") };
    AdviseConfig::try_from(args.as_ref()).unwrap()
}

fn given_plan(line: &str) -> Result<Plan, Error> {
    let config = config(line);
    let (mut plan, _) = gather(&config)?;
    given(&config, &mut plan)?;
    Ok(plan)
}

fn text(line: &str, plan: &Plan) -> String {
    unwrapped(&advise::text(config(line).program, plan))
}

fn printed(line: &str) -> String {
    text(line, &given_plan(line).unwrap())
}

/// The text for a load that was measured, or why there is none.
fn with_load(line: &str, load: Measured) -> Result<String, Error> {
    let config = config(line);
    let (mut plan, _) = gather(&config)?;
    load.put_into(&mut plan, &config)?;
    Ok(text(line, &plan))
}

/// Connections to so many servers of 10.0.1.0/24, each with one per second more than the one before, measured for 5 s.
fn load(servers: u8) -> Measured {
    let to = |last: u8| {
        let flow = plan(0).settings.assumed(f64::from(last), false);
        Destination::steady([10, 0, 1, last].into(), 80, flow)
    };
    Measured { seconds: 5.04, destinations: (1..=servers).map(to).collect(), lost: 0 }
}

/// A recording of 100 connections/s to 10.0.1.7:8080 in namespace 1, and of 10 to 10.0.1.8:80 in namespace 2.
fn recording(folder: &tempfile::TempDir) -> PathBuf {
    let mut recorder = Recorder::every(10);
    recorder.start(S, true);
    recorder.namespaces.insert(1, "a\ninclude /evil;\u{1b}[2J");
    for reading in 1..=3 {
        for (netns, last, port, rate) in [(1, 7, 8080, 100), (2, 8, 80, 10)] {
            let key = TupleKey {
                source: Addr::v4([10, 0, 0, 5]),
                destination: Addr::v4([10, 0, 1, last]),
                netns,
                destination_port: port,
                zero: 0,
            };
            let opened = reading * rate * 10;
            let count = TupleCount {
                opened,
                released: opened - 20,
                time_wait_begun: opened - 20,
                time_wait_ended: opened - 20,
                ..TupleCount::default()
            };
            recorder.tuple(reading * 10 * S, key, &count, None);
        }
    }
    let path = folder.path().join("ports.jsonl");
    fs::write(&path, recorder.bytes()).unwrap();
    path
}

#[test]
fn a_rate_is_that_of_each_server() {
    let text = printed("tracer advise haproxy --to 10.0.1.7:8080,10.0.1.8:8080 --rate 1000");
    assert!(text.contains("1,000 connections/s to one destination (--rate)"), "{text}");
    assert!(text.contains("    server s2 10.0.1.8:8080\n"), "{text}");
}

#[test]
fn a_pool_that_cannot_be_spread_over_is_named() {
    let line = "tracer advise nginx --to 10.0.1.7:8080 --pool";
    assert!(printed(&format!("{line} 10.0.0.5")).contains("there is nothing to spread over"));
    assert!(!printed(&format!("{line} 10.0.0.5-10.0.0.6")).contains("nothing to spread over"));
}

#[test]
fn without_a_load_none_is_pretended() {
    for program in ["nginx", "ip", "sysctl"] {
        let text = printed(&format!("tracer advise {program} --to 10.0.1.7:8080 --window 0"));
        assert!(text.contains("load   not known (none is measured with --window 0)"), "{text}");
        assert!(!text.contains("#   needed"), "{text}");
    }
}

#[test]
fn a_recording_has_destinations_and_rates() {
    let folder = tempfile::tempdir().unwrap();
    let path = recording(&folder);
    let text = printed(&format!("tracer advise nginx --from {}", path.display()));
    assert!(
        text.contains("100 connections/s to one destination at the peak of 3 readings"),
        "{text}"
    );
    assert!(text.contains("closes 100 % first") && text.contains("open for 0.2 s"), "{text}");
    assert!(text.contains("    server 10.0.1.7:8080;\n") && !text.contains("10.0.1.8"), "{text}");
    // Whoever names a namespace must not put a line into what is pasted.
    assert!(text.contains("2 network namespaces: this is for a"), "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(text.lines().all(|line| !line.contains("evil") || line.starts_with('#')), "{text}");
    let text = printed(&format!("tracer advise nginx --to 10.0.1.8 --from {}", path.display()));
    assert!(text.contains("    server 10.0.1.8:80;\n") && !text.contains("10.0.1.7"), "{text}");
    let line = format!("tracer advise nginx --to 10.0.9.9 --from {}", path.display());
    let error = given_plan(&line).unwrap_err();
    assert!(error.to_string().contains("no connection to these destinations"), "{error}");
}

#[test]
fn a_measured_load_has_the_servers_and_their_rates() {
    let line = "tracer advise nginx";
    let text = with_load(line, load(20)).unwrap();
    assert!(text.contains("20 connections/s to one destination, measured for 5.04 s"), "{text}");
    assert!(text.contains("4 destinations that need fewer ports are left out"), "{text}");
    assert_eq!(text.matches("    server 10.0.1.").count(), 16, "{text}");
    assert!(
        text.contains("server 10.0.1.5:80;") && !text.contains("server 10.0.1.4:80;"),
        "{text}"
    );
    let place = |server: &str| text.find(server).unwrap();
    assert!(place("10.0.1.20:80") < place("10.0.1.19:80"), "busiest first: {text}");
    let text = with_load(line, load(16)).unwrap();
    assert!(!text.contains("left out"), "{text}");
}

#[test]
fn servers_that_are_named_stay_however_little_they_need() {
    let line = "tracer advise haproxy --to 10.0.1.0/24,10.0.1.1:80,10.0.9.9:80";
    let text = with_load(line, load(20)).unwrap();
    assert_eq!(text.matches("    server s").count(), 16, "{text}");
    for there in ["10.0.1.1:80", "10.0.9.9:80", "10.0.1.7:80"] {
        assert!(text.contains(&format!("{there}\n")), "{there}: {text}");
    }
    assert!(text.contains("5 destinations that need fewer"), "{text}");
    assert!(!text.contains("10.0.1.6:80\n"), "{text}");
}

#[test]
fn an_idle_host_has_no_load() {
    let idle = || Measured { seconds: 5.0, ..Measured::default() };
    let text = with_load("tracer advise ip", idle()).unwrap();
    assert!(text.contains("load   not known (none was seen in 5 s): give --rate"), "{text}");
    let text = with_load("tracer advise nginx --to 10.0.1.7:80", idle()).unwrap();
    assert!(text.contains("none was seen to these destinations in 5 s"), "{text}");
    assert!(text.contains("    server 10.0.1.7:80;\n") && !text.contains("#   needed"), "{text}");
    for program in ["nginx", "haproxy", "envoy"] {
        let error = with_load(&format!("tracer advise {program}"), idle()).unwrap_err();
        assert_eq!(error.exit() as u8, 78, "{error}");
        let text = error.to_string();
        assert!(
            text.contains("none was seen in 5 s") && text.contains("--to 10.0.1.7:8080"),
            "{text}"
        );
    }
}

#[test]
fn ports_that_were_not_counted_are_named() {
    let text = with_load("tracer advise ip", Measured { lost: 7, ..load(1) }).unwrap();
    assert!(text.contains("7 ports were not counted"), "{text}");
    assert!(!with_load("tracer advise ip", load(1)).unwrap().contains("not counted"));
}

#[test]
fn a_running_nginx_has_its_workers_and_its_version() {
    let mut plan = plan(0);
    with_running(&mut plan, Ok(None));
    assert_eq!((plan.workers, plan.version, plan.descriptors), (None, None, None));
    let version = Some(advise::Version(1, 29, 7));
    let one = running::Running { workers: Some(4), version, descriptors: Some(1_024) };
    with_running(&mut plan, Ok(Some(one)));
    assert_eq!((plan.workers, plan.version, plan.descriptors), (Some(4), version, Some(1_024)));
    assert!(plan.remarks.is_empty());
    with_running(&mut plan, Err(2));
    assert!(plan.remarks[0].starts_with("2 nginx run"), "{:?}", plan.remarks);
}

#[test]
fn a_namespace_that_does_not_exist_is_wrong_configuration() {
    let error = gather(&config("tracer advise ip --netns /no/such/file")).unwrap_err();
    assert_eq!(error.exit() as u8, 78, "{error}");
}

#[test]
fn only_plain_names_of_interfaces_are_pasted() {
    assert!(is_plain("eth0.100") && is_plain("br-1a") && is_plain("veth1@if2"));
    for name in ["", "a b", "a;b", "\u{1b}[2J", "a'b", "a\"b", "a#b", "a\\"] {
        assert!(!is_plain(name), "{name}");
    }
}
