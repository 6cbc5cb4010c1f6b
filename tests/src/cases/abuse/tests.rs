//! Checks that every test that SECURITY.md names exists.

use std::{fs, path::Path};

use crate::{
    cases::{self, Depth, Plan},
    harness::probe::Place,
};

/// The texts between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// Whether an `.rs` file in this folder, or in a folder below, has a function of this name.
fn has_function(folder: &Path, name: &str) -> bool {
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return has_function(&path, name);
        }
        path.extension().is_some_and(|end| end == "rs")
            && fs::read_to_string(&path).unwrap().contains(&format!("fn {name}("))
    })
}

#[test]
fn every_test_that_security_md_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let text = fs::read_to_string(root.join("SECURITY.md")).unwrap();
    let plan = Plan {
        backends: vec!["tracepoint".to_owned()],
        default_backend: None,
        place: Place::Host,
        depth: Depth::Thorough,
    };
    let cases = cases::all(&plan);
    let is_case = |name: &str| {
        cases.iter().any(|case| {
            case.name.strip_prefix(name).is_some_and(|end| end.is_empty() || end.starts_with("::"))
        })
    };
    let mut promises = 0;
    for row in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise"))
    {
        let shown_by = row.split('|').nth(2).unwrap();
        promises += 1;
        let mut tests = 0;
        for name in quoted(shown_by) {
            tests += 1;
            let exists = if name.contains("::") {
                is_case(name)
            } else {
                ["tracer", "tracer-common"]
                    .iter()
                    .any(|package| has_function(&root.join(package).join("src"), name))
            };
            assert!(exists, "there is no test {name}, which SECURITY.md names");
        }
        assert!(tests > 0, "no test is named for: {row}");
    }
    assert!(promises > 8, "only {promises} promises were found in SECURITY.md");
}
