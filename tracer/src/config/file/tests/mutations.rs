//! Damaged files.

use super::*;
use crate::host::test_mutations;

const EVERYTHING: &str = "\
[kernel]\nbackend = \"kprobe\"\nmax_conns = 1000\nring_size = \"64K\"\n[[output]]\npath = \"/var/log/a.jsonl\"\n\
events = [\"all\"]\nrotate = \"1G\"\nkeep = 3\ninterval = 0.5\nnetns = [\"blue\", 4026531840]\ndst = [\"10.1.2.3\", \"::/0\"]\n\
dport = [80, \"8000-8099\"]\n[[output]]\npath = \"-\"\nipv6 = true\n[metrics]\nlisten = \"unix:/run/m\"\ntop = 7\n\
[fields]\nhost.name = \"edge\"\n\"a.b\" = 'c'\n[thresholds]\nsaturation = [0.1, 0.2]\n";

#[test]
fn damaged_files_are_refused_with_lines_that_are_safe_to_print() {
    let example = example();
    let deep = format!("x = {}", "[".repeat(300));
    let corpus = [EVERYTHING.as_bytes(), example.as_bytes(), deep.as_bytes(), b"a.a.a.a = 1\n"];
    test_mutations::run("the configuration file", &corpus, |input| {
        let Err(faults) = AgentConfig::parse(input, Path::new("t.toml")) else { return };
        assert!(!faults.is_empty());
        // 8 outputs, of which each setting may have a fault for each value.
        assert!(faults.len() <= 1000, "{} faults", faults.len());
        for fault in faults {
            let line = fault.to_string();
            assert!(line.starts_with("t.toml:") && line.chars().count() < 600, "{line}");
            assert!(!line.contains(crate::format::text::is_harmful), "{line:?}");
        }
    });
}

#[test]
fn files_made_to_take_long_do_not() {
    let many = |part: &str| part.repeat((64 << 10) / part.len());
    let texts = [
        many("["),
        many("a = "),
        many("[[output]]\n"),
        many("\"\n"),
        many("=\n"),
        many("a."),
        format!("[fields]\n{}x = 1", many("a.")),
        format!("[fields]\nx = {}", many("{ a = ")),
        format!("{} = 1", "k".repeat(60_000)),
        lines(5_000, |number| format!("key{number} = 1\n")),
        format!("[[output]]\nevents = [{}]", many("\"x\", ")),
        format!("[[output]]\n{} path = \"{}\"", many(" "), "é".repeat(30_000)),
    ];
    let mut run = test_mutations::Run::of("files made to take long");
    for text in &texts {
        run.parse(text.as_bytes(), |input| {
            let faults = AgentConfig::parse(input, Path::new("t.toml")).unwrap_err();
            assert!(faults.len() <= 60, "{}", faults.len());
        });
    }
    run.end();
}
