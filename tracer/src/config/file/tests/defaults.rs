//! What settings are that the file does not have, and values of every form.

use std::time::Duration;

use clap::Parser as _;

use super::{
    super::settings::{SECTIONS, Value},
    *,
};
use crate::{
    cli::{Backend, Cli, NetnsRef},
    config::{Rotation, Target, Task},
    ledger::sizes::RequestedSizes,
};

fn cli(line: &str) -> Cli {
    Cli::try_parse_from(line.split(' ')).unwrap()
}

fn record(line: &str) -> RecordConfig {
    match Task::try_from(&cli(line).command).unwrap() {
        Task::Record(config) => config,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_output_without_settings_is_record_without_options() {
    let config = output("");
    assert_eq!(config.outputs, [record("tracer record")]);
    assert_eq!(config.kernel, KernelConfig::try_from(&cli("tracer record")).unwrap());
}

#[test]
fn a_setting_means_what_the_option_of_its_name_does() {
    let file = "\
[kernel]
backend = \"kprobe\"
max_conns = 1000
max_tuples = 2_000
max_binds = 0x1000
max_tombstones = 16
max_attempts = 1
ring_size = \"64K\"
[[output]]
path = \"/var/log/a.jsonl.zst\"
events = [\"all\"]
interval = 0.5
rotate = \"1G\"
keep = 3
compress = \"zstd\"
pid = [1, 2]
comm = \"nginx\"
cgroup = [\"system.slice\"]
netns = [\"blue\", 4026531840]
src = \"10.0.0.0/8\"
dst = [\"10.1.2.3\", \"192.168.0.0/16\"]
dport = [80, \"8000-8099\"]
ipv4 = true
";
    let line = "tracer record --backend kprobe --max-conns 1000 --max-tuples 2000 --max-binds 4096 \
        --max-tombstones 16 --max-attempts 1 --ring-size 64K --output /var/log/a.jsonl.zst --events all \
        --interval 500ms --rotate 1G --keep 3 --compress zstd --pid 1 --pid 2 --comm nginx --cgroup \
        system.slice --netns blue --netns 4026531840 --src 10.0.0.0/8 --dst 10.1.2.3 --dst \
        192.168.0.0/16 --dport 80 --dport 8000-8099 -4";
    let config = parse(file).unwrap();
    assert_eq!(config.outputs, [record(line)]);
    assert_eq!(config.kernel, KernelConfig::try_from(&cli(line)).unwrap());
    // Not only the same, but also what was written.
    assert_eq!(config.kernel.backend, Backend::Kprobe);
    assert_eq!(config.kernel.sizes.binds, Some(4096));
    let first = &config.outputs[0];
    assert_eq!(first.output.target, Target::File("/var/log/a.jsonl.zst".into()));
    assert_eq!(first.output.rotation, Some(Rotation { size: 1 << 30, keep: 3 }));
    assert_eq!(first.filter.netns[1], NetnsRef::Inode(4_026_531_840));
}

#[test]
fn metrics_and_thresholds_have_defaults_of_their_own() {
    let config = output("");
    let expected = MetricsConfig {
        listen: None,
        textfile: None,
        top: 20,
        interval: Duration::from_secs(5),
        bpf_stats: false,
    };
    assert_eq!(config.metrics, expected);
    assert_eq!(config.thresholds.saturation, [0.45, 0.80, 0.95]);
    assert!(config.fields.is_empty());
    assert_eq!(config.kernel.sizes, RequestedSizes::default());
}

#[test]
fn metrics_are_reason_enough_to_run() {
    for (text, listen) in [
        ("127.0.0.1:28232", Listen::Tcp(([127, 0, 0, 1], 28232).into())),
        ("[::1]:28232", Listen::Tcp("[::1]:28232".parse().unwrap())),
        ("unix:/run/tracer/metrics", Listen::Unix("/run/tracer/metrics".into())),
    ] {
        let config = parse(&format!("[metrics]\nlisten = \"{text}\"\n")).unwrap();
        assert_eq!(config.metrics.listen, Some(listen));
        assert!(config.outputs.is_empty());
    }
    let file =
        "metrics = { textfile = \"/x/tracer.prom\", top = 1000, interval = 60, bpf_stats = true }";
    let metrics = parse(file).unwrap().metrics;
    assert_eq!(metrics.textfile, Some("/x/tracer.prom".into()));
    assert_eq!(
        (metrics.top, metrics.interval, metrics.bpf_stats),
        (1000, Duration::from_mins(1), true)
    );
}

#[test]
fn keys_of_fields_have_dots_with_and_without_quotes() {
    let config = output(
        "[fields]\nhost.name = \"edge-1\"\n\"service.version\" = \"1.2.3\"\nservice.name = \"ü \\\"x\\\"\"\nteam = \"\"\n",
    );
    let fields: Vec<_> = config.fields.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let expected = [
        ("host.name", "edge-1"),
        ("service.name", "ü \"x\""),
        ("service.version", "1.2.3"),
        ("team", ""),
    ];
    assert_eq!(fields, expected);
}

#[test]
fn every_output_begins_with_the_defaults() {
    let config = parse(
        "[[output]]\npath = \"/a\"\nevents = [\"state\"]\nsrc = \"10.0.0.1\"\nrotate = 65536\n[[output]]\npath = \"/b\"\n",
    )
    .unwrap();
    assert_eq!(config.outputs[1], record("tracer record --output /b"));
    assert_ne!(config.outputs[0], record("tracer record --output /a"));
}

#[test]
fn every_value_of_the_table_is_a_right_one() {
    for section in SECTIONS {
        for setting in section.settings {
            let mut draft = draft::Draft::new();
            for text in setting.value.texts() {
                assert_eq!((setting.set)(&mut draft, text), Ok(()), "{}", setting.name);
            }
            let absent = matches!(setting.value, Value::Unset { absent, .. } if absent.is_empty());
            assert!(!absent && !setting.help.ends_with('.'), "{}", setting.name);
        }
    }
}
