use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use super::{ALL, Family, Type};

const BEGIN: &str = "<!-- metrics -->\n";
const END: &str = "<!-- /metrics -->";

/// The row of a metric in the table of the page.
fn row(family: &Family) -> String {
    let (total, kind) = match family.kind {
        Type::Counter => ("_total", "counter"),
        Type::Gauge => ("", "gauge"),
        Type::Histogram => ("", "histogram"),
    };
    let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
    format!("| `{}{total}` | {kind} | {} | {} |\n", family.name, labels.join(" "), family.help)
}

#[test]
fn the_page_has_the_table_of_the_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("doc/metrics.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let mut table = "| metric | type | labels | what it says |\n|---|---|---|---|\n".to_owned();
    for family in ALL {
        _ = write!(table, "{}", row(family));
    }
    let expected = format!("{before}{BEGIN}\n{table}\n{END}{after}");
    if std::env::var_os("INSTA_UPDATE").is_some_and(|update| update == "always") {
        std::fs::write(&path, &expected).unwrap();
    }
    let why = "the page differs from the table: run this test with INSTA_UPDATE=always";
    assert!(page == expected || std::fs::read_to_string(&path).unwrap() == expected, "{why}");
}

#[test]
fn names_are_those_that_prometheus_wants() {
    let names: BTreeSet<_> = ALL.iter().map(|family| family.name).collect();
    assert_eq!(names.len(), ALL.len());
    for Family { name, labels, help, .. } in ALL {
        let plain =
            |it: &str| it.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'_' | b'0'..=b'9'));
        assert!(plain(name) && labels.iter().all(|label| plain(label)), "{name}");
        assert!(name.starts_with("tracer_") || name.starts_with("process_"), "{name}");
        assert!(!name.ends_with("_total") && !name.ends_with("_count"), "{name}");
        // Neither format would have to escape it, and it is a cell of a table.
        assert!(!help.ends_with('.') && !help.contains(['\\', '\n', '"', '|']), "{name}: {help}");
    }
}
