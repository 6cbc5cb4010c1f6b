use clap::error::ErrorKind;

use super::*;
use crate::config::{KernelConfig, Task};

fn help(path: &[&str]) -> String {
    let mut root = Cli::command().term_width(100);
    root.build();
    let command = path.iter().fold(&mut root, |command, name| {
        command.find_subcommand_mut(name).expect("a command of this name")
    });
    command.render_long_help().to_string()
}

fn error(line: &str) -> String {
    Cli::try_parse_from(line.split(' ')).expect_err(line).to_string()
}

#[test]
fn the_definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_help_of_the_program_reads_well() {
    insta::assert_snapshot!(help(&[]));
}

#[test]
fn the_help_of_top_reads_well() {
    insta::assert_snapshot!(help(&["top"]));
}

#[test]
fn the_help_of_replay_reads_well() {
    insta::assert_snapshot!(help(&["replay"]));
}

#[test]
fn the_help_of_record_reads_well() {
    insta::assert_snapshot!(help(&["record"]));
}

#[test]
fn the_help_of_tuples_reads_well() {
    insta::assert_snapshot!(help(&["tuples"]));
}

#[test]
fn the_help_of_report_reads_well() {
    insta::assert_snapshot!(help(&["report"]));
}

#[test]
fn the_help_of_advise_reads_well() {
    insta::assert_snapshot!(help(&["advise"]));
}

#[test]
fn the_help_of_config_reads_well() {
    let commands = [&["config"][..], &["config", "check"], &["config", "example"]];
    insta::assert_snapshot!(commands.map(help).join("\n----\n"));
}

#[test]
fn bad_values_are_refused_with_what_is_expected() {
    let lines = [
        "tracer top -i 0.01",
        "tracer top --filter sat>much",
        "tracer replay ports.jsonl --speed 0",
        "tracer recrod",
        "tracer record --evnets all",
        "tracer record --events failed,lots",
        "tracer record --src 10.1.2.3/16",
        "tracer record --dst upstream",
        "tracer record --dport 90-80",
        "tracer record --comm systemd-resolved",
        "tracer record --pid 0",
        "tracer record --netns ..",
        "tracer record --rotate 1.5G --output f",
        "tracer record --keep 3",
        "tracer record --compress gzip",
        "tracer record --duration 0",
        "tracer record --backend ebpf",
        "tracer record --ring-size 1K",
        "tracer record -o csv",
        "tracer report -o columns ev.jsonl",
        "tracer report --backend kprobe ev.jsonl",
        "tracer record -4 -6",
        "tracer tuples --sort port",
        "tracer tuples --once --interval 1",
        "tracer tuples -o xml",
        "tracer report",
        "tracer report --limit 0 ev.jsonl",
        "tracer advise apache",
        "tracer advise nginx --rate 0",
    ];
    let errors: Vec<_> = lines.iter().map(|line| format!("$ {line}\n{}", error(line))).collect();
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn every_bad_value_ends_with_exit_code_2() {
    for line in ["tracer", "tracer nonsense", "tracer record --src x", "tracer tuples --limit 0"] {
        let error = Cli::try_parse_from(line.split(' ')).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}");
    }
    let version = Cli::try_parse_from(["tracer", "--version"]).expect_err("the version");
    assert_eq!((version.kind(), version.exit_code()), (ErrorKind::DisplayVersion, 0));
}

#[test]
fn options_of_the_kernel_side_may_stand_before_or_after_the_command() {
    for line in [
        "tracer -vv --backend kprobe --ring-size 64K tuples",
        "tracer tuples -vv --backend kprobe --ring-size 64K",
        "tracer --backend auto --ring-size 1M tuples -vv --backend kprobe --ring-size 64K",
    ] {
        let cli = Cli::try_parse_from(line.split(' ')).expect(line);
        assert_eq!(cli.global.verbose, 2);
        let kernel = KernelConfig::try_from(&cli).expect(line);
        assert_eq!(kernel.backend, Backend::Kprobe, "{line}");
        assert_eq!(kernel.ring_size, 64 << 10, "{line}");
        assert_eq!((kernel.sizes.conns, kernel.sizes.tuples), (None, None));
    }
}

#[test]
fn options_of_the_kernel_side_are_refused_where_they_do_nothing() {
    for line in [
        "tracer --backend kprobe report ev.jsonl",
        "tracer --max-conns 100 status",
        "tracer --ring-size 64K spread --pool auto --all",
    ] {
        let cli = Cli::try_parse_from(line.split(' ')).expect(line);
        let error = KernelConfig::try_from(&cli).expect_err(line);
        assert_eq!(error.exit() as u8, 2, "{error}");
        let option = line.split(' ').nth(1).expect(line);
        let text = error.to_string();
        assert!(text.starts_with(option) && text.ends_with("leave it out"), "{text}");
    }
}

#[test]
fn earlier_spellings_mean_the_same() {
    for (old, new) in [
        ("tracer tuples --watch 2", "tracer tuples -i 2"),
        ("tracer top -d 2", "tracer top --interval 2"),
        ("tracer top --delay 2", "tracer top -i 2"),
        ("tracer record --stats-interval 2", "tracer record --interval 2"),
        ("tracer record -o ev.jsonl", "tracer record --output ev.jsonl"),
        ("tracer report --json ev.jsonl", "tracer report -o json ev.jsonl"),
        ("tracer status --json", "tracer status --format json"),
    ] {
        let task = |line: &str| {
            let cli = Cli::try_parse_from(line.split(' ')).expect(line);
            Task::try_from(&cli.command).expect(line)
        };
        assert_eq!(task(old), task(new), "{old}");
    }
    let line = "tracer record -o ev.jsonl --output other.jsonl";
    let cli = Cli::try_parse_from(line.split(' ')).expect(line);
    assert!(Task::try_from(&cli.command).expect_err(line).to_string().contains("-o json"));
}

#[test]
fn completions_and_man_pages_name_every_command() {
    let script = String::from_utf8(completions(clap_complete::Shell::Bash)).expect("UTF-8");
    assert!(script.contains("record") && script.contains("tuples"));
    let pages = man_pages().expect("pages in memory");
    let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "tracer.1",
            "tracer-top.1",
            "tracer-record.1",
            "tracer-tuples.1",
            "tracer-replay.1",
            "tracer-report.1",
            "tracer-doctor.1",
            "tracer-spread.1",
            "tracer-status.1",
            "tracer-advise.1",
            "tracer-agent.1",
            "tracer-config.1",
            "tracer-config-check.1",
            "tracer-config-example.1",
            "tracer-completions.1",
            "tracer-man.1"
        ]
    );
    assert!(String::from_utf8_lossy(&pages[2].1).contains("interval"));
}
