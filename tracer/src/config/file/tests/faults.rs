//! What is said of a wrong file, and where.

use super::*;

/// Files with faults, each followed by its lines.
fn said(texts: &[&str]) -> String {
    let said = texts.iter().map(|text| {
        let faults = parse(text).expect_err(text);
        format!("{text}\n--\n{}\n", faults.join("\n"))
    });
    said.collect::<Vec<_>>().join("\n====\n")
}

const STDOUT: &str = "[[output]]\npath = \"-\"\n";

#[test]
fn names_that_are_none() {
    insta::assert_snapshot!(said(&[
        "[[output]]\npath = \"-\"\nintervall = 5\n  evnets = [\"all\"]\nzzz = 1\nlisten = \"x\"\n",
        "[[output]]\npath = \"-\"\n[metrcs]\n[something]\n",
        "listen = \"127.0.0.1:28232\"\n[[outptu]]\npath = \"-\"\n",
        "[metrics]\nlisten = \"127.0.0.1:28232\"\nrotate = 1\n\"\" = 1\n",
    ]));
}

#[test]
fn after_20_unknown_names_there_is_one_more_line() {
    let names: String = lines(100, |number| format!("unknown{number} = 1\n"));
    let faults = parse(&format!("{STDOUT}{names}")).unwrap_err();
    assert_eq!(faults.len(), 21);
    assert!(faults.iter().any(|fault| fault.contains("more than 20 names are unknown")));
}

#[test]
fn values_of_the_wrong_type() {
    insta::assert_snapshot!(said(&[
        "kernel = 5\noutput = 1\nfields = []\n[metrics]\nlisten = 5\ntop = \"20\"\ninterval = [1]\nbpf_stats = \"yes\"\n",
        "[output]\npath = \"-\"\n[[metrics]]\n[[fields]]\n",
        "output = [1, { path = \"-\" }]\n",
        "[[output]]\npath = [\"-\"]\nevents = [1, \"all\"]\npid = [\"1\", 1.5, 2]\nrotate = 1.5\nipv4 = 1\nkeep = 1979-05-27\ndst.x = 1\n",
        "[[output]]\npath = \"-\"\n[thresholds]\nsaturation = [\"0.5\", 1, true]\n",
    ]));
}

#[test]
fn values_that_the_command_line_would_refuse_too() {
    insta::assert_snapshot!(said(&[
        "[kernel]\nbackend = \"ebpf\"\nmax_conns = 3\nmax_attempts = 99999999999999999999999999999999999999999999\nring_size = \"3K\"\n[[output]]\npath = \"/a\"\nevents = [\"failed\", \"lots\"]\ninterval = 0\nrotate = \"1K\"\nkeep = 1001\ncompress = \"gzip\"\npid = 0\ncomm = \"systemd-resolved\"\ncgroup = \"\"\nnetns = \"..\"\nsrc = [\"10.0.0.1\", \"10.1.2.3/16\"]\ndst = \"upstream\"\ndport = [80, \"90-80\", 0]\n",
    ]));
}

#[test]
fn values_that_only_the_file_has() {
    insta::assert_snapshot!(said(&[
        "[[output]]\npath = \"events.jsonl\"\n[metrics]\nlisten = \"localhost:28232\"\ntextfile = \"/x/tracer.txt\"\ntop = 0\ninterval = \"61s\"\n[thresholds]\nsaturation = [0.8, 0.45, 1.5, 0]\n",
        "[[output]]\npath = \"/x/\"\n[metrics]\nlisten = \"127.0.0.1:0\"\ntextfile = \"tracer.prom\"\ninterval = \"500ms\"\n[thresholds]\nsaturation = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]\n",
        "[[output]]\npath = \"/a\\u0000b\"\nevents = []\nsrc = []\n[metrics]\nlisten = \"unix:metrics\"\n[thresholds]\nsaturation = [nan, inf, -inf]\n",
    ]));
    let long = format!("[metrics]\nlisten = \"unix:/{}\"", "x".repeat(107));
    assert!(
        parse(&long).unwrap_err()[0]
            .starts_with("t.toml:2:10: metrics.listen cannot be `unix:/xxx")
    );
}

#[test]
fn settings_that_do_not_fit_together() {
    let many: String = lines(9, |number| format!("[[output]]\npath = \"/{number}\"\n"));
    insta::assert_snapshot!(said(&[
        "[[output]]\nevents = [\"all\"]\n",
        "[[output]]\npath = \"-\"\nrotate = \"1M\"\n",
        "[[output]]\npath = \"/a\"\nkeep = 3\nipv4 = true\nipv6 = true\n",
        "[[output]]\npath = \"/a\"\nsrc = [\"::/0\", \"10.0.0.1\"]\nipv6 = true\ndst = \"10.0.0.0/8\"\n",
        "[[output]]\npath = \"/a\"\nsrc = [\"::/0\", \"10.0.0.1\"]\n",
        "[[output]]\npath = \"/a\"\ndport = [1, 2, 3, 4, 5]\n",
        "[[output]]\npath = \"/a/b\"\n[[output]]\npath = \"/a//./b\"\n",
        "[[output]]\npath = \"-\"\n[[output]]\npath = \"-\"\n",
        "[[output]]\npath = \"/a/e.jsonl.2\"\n[[output]]\npath = \"/a/e.jsonl\"\nrotate = \"1M\"\n",
        "[[output]]\npath = \"/a/tracer.prom\"\n[metrics]\ntextfile = \"/a/tracer.prom\"\nlisten = \"unix:/a/tracer.prom\"\n",
        &many,
        "",
        "[metrics]\ntop = 3\n",
    ]));
    let beyond = "[[output]]\npath = \"/a/e.6\"\n[[output]]\npath = \"/a/e\"\nrotate = \"1M\"\n";
    assert!(parse(beyond).is_ok(), "the sixth older file is not kept");
}

#[test]
fn fields_that_cannot_be_used() {
    let many: String = lines(30, |number| format!("k{number} = \"v\"\n"));
    insta::assert_snapshot!(said(&[
        "[[output]]\npath = \"-\"\n[fields]\nHost = \"x\"\nseq = \"1\"\nnetwork.local.address = \"1\"\n\"a..b\" = \"x\"\n\"\" = \"x\"\nteam = 5\nx.y = {}\nz = [\"a\"]\n",
        "[[output]]\npath = \"-\"\n[fields]\nhost.name = \"a\"\n\"host.name\" = \"b\"\nnewline = \"a\\nb\"\n",
        &format!("[[output]]\npath = \"-\"\n[fields]\n{many}"),
        &format!(
            "[[output]]\npath = \"-\"\n[fields]\n{} = \"x\"\na.{} = \"x\"\nb = \"{}\"\n",
            "k".repeat(65),
            "b.".repeat(40) + "c",
            "v".repeat(257)
        ),
    ]));
}

#[test]
fn wrong_toml_and_what_is_wrong_elsewhere() {
    insta::assert_snapshot!(said(&[
        "[[output]]\npath = /var/log/x\nevents = [\"all\"\n[metrics]\nlisen = \"127.0.0.1:28232\"\n",
        "[[output]]\npath = \"-\nkeep = 0\n[metrics]\ntop = 0\n",
        "[[output]\npath = \"-\"\nkep = 1\n",
        "[metrics]\ntop = 1\ntop = 2\nlisten =\n[metrics]\nlisten = \"127.0.0.1:1\"\n",
        "[[output]]\npath = \"\"\"-\nkeep = 0\n",
        "just words\n[metrics]\ntop = 0\n",
        "[[output]]\npath = /var/log/x\ninterval = 10s\nkeep = 0\n[metrics]\ntop = 0\n",
    ]));
}

#[test]
fn files_that_cannot_be_read_as_text_are_one_clear_line() {
    let one = |bytes: &[u8]| {
        let faults = AgentConfig::parse(bytes, Path::new("a\u{1b}[2J.toml")).unwrap_err();
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults[0].to_string()
    };
    let large = vec![b'#'; (1 << 20) + 1];
    let utf16: Vec<u8> = "\u{feff}[metrics]\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let deep = format!("x = {}", "[".repeat(70_000));
    let dotted = format!("[metrics]\nlisten = \"127.0.0.1:1\"\n{}x = 1", "a.".repeat(100));
    let lines = [&large, &utf16, b"[metrics]\nx = \"\xff\"".as_slice(), deep.as_bytes()].map(one);
    insta::assert_snapshot!(lines.join("\n"));
    let faults = parse(&dotted).unwrap_err();
    assert!(faults.iter().any(|fault| fault.contains("nested too deeply")), "{faults:?}");
}

#[test]
fn columns_are_characters_and_a_mark_at_the_begin_is_none() {
    let faults = parse("\u{feff}kernle = 1\n[[output]]\npath = \"-\"\n\"é\" = 1\n").unwrap_err();
    assert!(
        faults[0].starts_with("t.toml:1:1: there is no section kernle; write [kernel]"),
        "{faults:?}"
    );
    let faults = parse("metrics = { listen = \"127.0.0.1:1\", \"éé\" = 1, tpo = 2 }").unwrap_err();
    assert!(faults[1].starts_with("t.toml:1:47: "), "{faults:?}");
}

#[test]
fn what_the_file_says_is_shown_safely_and_cut() {
    let text = format!(
        "{STDOUT}\"\\u001b[2J{}\" = 1\nsrc = \"{}\\u202e\"\n",
        "x".repeat(300),
        "y".repeat(300)
    );
    let faults = parse(&text).unwrap_err();
    for fault in &faults {
        assert!(!fault.contains(crate::format::text::is_harmful), "{fault:?}");
        assert!(fault.contains('…') && fault.chars().count() < 400, "{fault}");
    }
}
