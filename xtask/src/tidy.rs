//! Checks rules of this repository that the compiler cannot check.

use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{circles, dependencies, links, readme, words, workspace};

const CRATES: [&str; 5] = ["tests", "tracer", "tracer-common", "tracer-ebpf", "xtask"];

/// The most lines of a source file; half of that is better.
const BUDGET: usize = 400;

/// The most lines of README.md, in which a stranger looks for a cause and a cure. Details are in `tracer/doc/`.
const README_BUDGET: usize = 200;

/// The document with the notes about earlier releases: it may have words that are refused now.
const HISTORY: &str = "CHANGELOG.md";

/// Runs every check and prints what it finds; fails if a check finds something, or cannot read or parse a file.
pub(crate) fn tidy() -> Result<()> {
    let mut findings = Vec::new();
    let mut manifests = Vec::new();
    for name in CRATES {
        let dir = workspace::root().join(name);
        let manifest = read(&dir.join("Cargo.toml"))?;
        if !manifest.contains("[lints]\nworkspace = true") {
            findings.push(format!("{name}/Cargo.toml: does not inherit the workspace's lints"));
        }
        let mut sources = Vec::new();
        rust(&dir, &mut sources)?;
        let mut code = Vec::new();
        for source in sources {
            let shown =
                source.strip_prefix(workspace::root()).unwrap_or(&source).display().to_string();
            let text = read(&source)?;
            let tests = of_tests(Path::new(&shown));
            let found = file(&text, tests).into_iter().chain(words::check(&text));
            findings.extend(found.map(|what| format!("{shown}:{what}")));
            code.push(text);
        }
        for unused in dependencies::unused(&manifest, &code) {
            findings.push(format!("{name}/Cargo.toml: no source uses {unused}; remove it"));
        }
        manifests.push(manifest);
    }
    let manifest = read(&workspace::root().join("Cargo.toml"))?;
    for unlisted in dependencies::unlisted(&manifest, &manifests) {
        findings.push(format!("Cargo.toml: no package lists {unlisted}; remove it"));
    }
    let path = workspace::root().join(readme::DOCUMENT);
    if path.exists() {
        let text = read(&path)?;
        findings.extend(table(&text));
        findings.extend(too_long(&text));
    }
    let (documents, files) = links::documents()?;
    findings.extend(links::findings(&documents, &files));
    for (shown, text) in documents.iter().filter(|(path, _)| *path != HISTORY) {
        findings.extend(words::check(text).into_iter().map(|what| format!("{shown}:{what}")));
    }
    findings.extend(circles::check()?);
    for finding in &findings {
        eprintln!("{finding}");
    }
    if findings.is_empty() {
        return Ok(());
    }
    bail!("{} findings", findings.len())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn rust(dir: &Path, sources: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            rust(&path, sources)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            sources.push(path);
        }
    }
    Ok(())
}

/// Whether a whole file is of tests, by its path from the root: `tests.rs`, `test_netns.rs`, or any file in a folder `tests`.
fn of_tests(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    stem == "tests" || stem.starts_with("test_") || path.iter().any(|part| part == "tests")
}

fn table(text: &str) -> Option<String> {
    match readme::rendered(text) {
        None => Some(readme::missing()),
        Some(rendered) if rendered == text => None,
        Some(_) => Some(
            "README.md: the table of kernels is not the matrix's; `cargo xtask readme` writes it"
                .to_owned(),
        ),
    }
}

fn too_long(text: &str) -> Option<String> {
    let lines = text.lines().count();
    (lines > README_BUDGET).then(|| {
        format!("README.md:{README_BUDGET}: {lines} lines; {README_BUDGET} is the most: move details to tracer/doc/")
    })
}

/// Findings in one file, as `line: what`. `tests`: the whole file is tests, which may panic.
fn file(text: &str, tests: bool) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut findings = Vec::new();
    if lines.len() > BUDGET {
        findings.push(format!("{BUDGET}: {} lines; {BUDGET} is the most", lines.len()));
    }
    let for_tests = for_tests(&lines);
    for (index, line) in lines.iter().enumerate() {
        let mut find = |what: &str| findings.push(format!("{}: {what}", index + 1));
        // Written in two halves, so that this file has no finding itself.
        if [concat!("TO", "DO"), concat!("FIX", "ME")].iter().any(|mark| line.contains(mark)) {
            find("a left-over mark; do it, or write an issue");
        }
        let code = line.trim_start();
        if code.starts_with("//") {
            continue;
        }
        let panics = [concat!(".unw", "rap()"), concat!(".exp", "ect(")];
        if !tests && !for_tests.contains(&index) && panics.iter().any(|call| code.contains(call)) {
            find("a panic outside tests; return the error");
        }
        let opens = [concat!("unsafe", " {"), concat!("unsafe", " impl")];
        if opens.iter().any(|open| code.contains(open)) && !explained(&lines[..index]) {
            find("unsafe without a SAFETY comment above it");
        }
    }
    findings
}

/// The lines of items that only tests have (`#[cfg(test)]`), by index from 0. An item ends with its first line, or with the next
/// brace that has the item's indentation, as rustfmt writes it.
fn for_tests(lines: &[&str]) -> HashSet<usize> {
    let mut found = HashSet::new();
    let mut index = 0;
    while index < lines.len() {
        let is_mark = lines[index].trim() == "#[cfg(test)]";
        index += 1;
        if !is_mark {
            continue;
        }
        let is_more = |line: &&&str| line.trim_start().starts_with("#[");
        index += lines[index..].iter().take_while(is_more).count();
        let Some(first) = lines.get(index) else { break };
        let indent = &first[..first.len() - first.trim_start().len()];
        let is_end = |line: &&str| {
            line.strip_prefix(indent)
                .is_some_and(|rest| rest.starts_with('}') || [");", "];"].contains(&rest))
        };
        let is_one_line = [';', '}', ','].iter().any(|end| first.ends_with(*end));
        let more = if is_one_line {
            0
        } else {
            lines[index..].iter().position(is_end).unwrap_or(lines.len() - index - 1)
        };
        found.extend(index..=index + more);
        index += more + 1;
    }
    found
}

/// Whether there is a SAFETY comment at most two lines of code above.
fn explained(above: &[&str]) -> bool {
    let comment = |line: &&&str| line.trim_start().starts_with("//");
    let code = above.iter().rev().take_while(|line| !comment(line)).count();
    code <= 2
        && above.iter().rev().skip(code).take_while(comment).any(|line| line.contains("SAFETY:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_over_the_budget_is_found() {
        assert_eq!(file(&"x;\n".repeat(BUDGET), false), Vec::<String>::new());
        assert_eq!(file(&"x;\n".repeat(BUDGET + 1), false), ["400: 401 lines; 400 is the most"]);
    }

    #[test]
    fn a_readme_over_its_budget_is_found() {
        assert_eq!(too_long(&"x\n".repeat(README_BUDGET)), None);
        let finding = too_long(&"x\n".repeat(README_BUDGET + 1)).unwrap();
        assert!(finding.starts_with("README.md:200: 201 lines;"), "{finding}");
    }

    #[test]
    fn an_unexplained_unsafe_is_found() {
        let bare = concat!("// read it\nlet x = unsafe", " { f() };\n");
        assert_eq!(file(bare, false), ["2: unsafe without a SAFETY comment above it"]);
        let explained = concat!("// SAFETY: it is\n// aligned\nlet x =\n    unsafe", " { f() };\n");
        assert_eq!(file(explained, false), Vec::<String>::new());
    }

    #[test]
    fn a_panic_is_found_outside_tests_only() {
        let text = concat!("a.unw", "rap();\n#[cfg(test)]\nmod tests { b.unw", "rap(); }\n");
        assert_eq!(file(text, false), ["1: a panic outside tests; return the error"]);
        assert_eq!(file(text, true), Vec::<String>::new());
        let elsewhere = concat!("#[cfg(test)]\nmod tests;\na.unw", "rap();\n");
        assert_eq!(file(elsewhere, false), ["3: a panic outside tests; return the error"]);
        let function = concat!(
            "impl A {\n    #[cfg(test)]\n    #[must_use]\n    fn b() -> B {\n        c.unw",
            "rap()\n    }\n\n    fn d() {\n        e.unw",
            "rap()\n    }\n}\n"
        );
        assert_eq!(file(function, false), ["9: a panic outside tests; return the error"]);
        assert!(
            of_tests(Path::new("src/btf/tests.rs")) && !of_tests(Path::new("xtask/src/test.rs"))
        );
    }

    #[test]
    fn a_left_over_mark_is_found_in_comments_too() {
        assert_eq!(
            file(concat!("// TO", "DO later\n"), true),
            ["1: a left-over mark; do it, or write an issue"]
        );
    }
}
