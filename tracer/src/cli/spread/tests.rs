use clap::{CommandFactory, Parser, Subcommand};

use super::*;

#[derive(Debug, Parser)]
#[command(name = "tracer", max_term_width = 100)]
struct Line {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Debug, Subcommand)]
enum Commands {
    /// Give every outgoing connect() the least-used source address of a pool
    Spread(Box<SpreadArgs>),
    /// Show rules, their pools and how full they are
    Status(StatusArgs),
}

fn parse(line: &str) -> Result<Commands, clap::Error> {
    Line::try_parse_from(line.split(' ')).map(|line| line.command)
}

fn spread(line: &str) -> SpreadArgs {
    match parse(line).unwrap() {
        Commands::Spread(args) => *args,
        Commands::Status(args) => panic!("{args:?}"),
    }
}

fn help(name: &str) -> String {
    let mut root = Line::command().term_width(100);
    root.build();
    root.find_subcommand_mut(name).unwrap().render_long_help().to_string()
}

#[test]
fn the_help_reads_well() {
    insta::assert_snapshot!("help_spread", help("spread"));
    insta::assert_snapshot!("help_status", help("status"));
}

#[test]
fn what_is_not_said_is_the_careful_choice() {
    let args = spread("tracer spread --pool auto --cgroup /c");
    assert_eq!(args.pool, ["auto"]);
    assert_eq!((args.rule.as_str(), args.netns, args.lease), (DEFAULT_RULE, None, None));
    assert_eq!((args.ports, args.on_exit), (PortChoice::Auto, None));
    assert_eq!((args.decisions, args.stream.output), (Decisions::None, None));
    assert!(!(args.all || args.rebind || args.fail_fast || args.dry_run));
    assert!(!(args.detach || args.release));
}

#[test]
fn a_lease_is_ten_times_its_renewals_at_least() {
    let with = |lease: &str| parse(&format!("tracer spread --pool auto --all --lease {lease}"));
    assert!(with("0.5").is_ok());
    for short in ["0.499", "0.05", "0"] {
        let error = with(short).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
    assert!(with("0.1").unwrap_err().to_string().contains("0.5 seconds at least"));
}

#[test]
fn releasing_needs_no_pool_and_takes_only_a_name() {
    let args = spread("tracer spread --release --rule edge_2");
    assert_eq!((args.release, args.rule.as_str()), (true, "edge_2"));
    for other in
        ["--pool auto", "--all", "--detach", "--on-exit keep", "--output f", "--ports auto"]
    {
        assert!(parse(&format!("tracer spread --release {other}")).is_err(), "{other}");
    }
}

#[test]
fn contradictions_and_bad_names_are_wrong_usage() {
    for line in [
        "tracer spread",
        "tracer spread --all",
        "tracer spread --pool auto --all --cgroup /c",
        "tracer spread --pool auto --detach --dry-run",
        "tracer spread --pool auto --detach --lease 10",
        "tracer spread --pool auto --rule Edge",
        "tracer spread --pool auto --rule ../x",
        "tracer spread --pool auto --rule 012345678901234567890123456789012",
        "tracer spread --pool auto --netns ..",
        "tracer spread --pool auto --lease 0",
        "tracer status --rule a.b",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
    assert!(parse("tracer status -o json --rule edge").is_ok());
}
