//! Checks the relative links in this repository's Markdown documents: the file and the heading that a link names must exist. Text
//! in code is no link; links to other hosts are not checked.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Component, Path},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use crate::{exec, workspace};

/// Every Markdown document of the repository and its text, by its path from the root.
pub(crate) type Documents = BTreeMap<String, String>;

/// A link of a document.
struct Link {
    line: usize,
    target: String,
}

/// All Markdown documents that git tracks or would add, and the paths from the root of all files of which that is true,
/// documents or not. Fails if git fails or lists no document, or a document cannot be read.
pub(crate) fn documents() -> Result<(Documents, BTreeSet<String>)> {
    let mut list = Command::new("git");
    list.current_dir(workspace::root()).args(["ls-files", "-z", "--cached", "--others"]);
    let list = exec::output(list.arg("--exclude-standard"))?;
    // git lists a removed file until the removal is committed.
    let exists = |path: &&str| !path.is_empty() && workspace::root().join(path).exists();
    let files: BTreeSet<String> = list.split('\0').filter(exists).map(str::to_owned).collect();
    let mut documents = Documents::new();
    for path in files.iter().filter(|path| is_document(path)) {
        let text = std::fs::read_to_string(workspace::root().join(path))
            .with_context(|| format!("cannot read {path}"))?;
        documents.insert(path.clone(), text);
    }
    ensure!(!documents.is_empty(), "cannot check links: git lists no Markdown document");
    Ok((documents, files))
}

fn is_document(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|end| end == "md")
}

/// Findings in `documents`, as `path:line: target: what`, with lines from 1; empty if all links are right. Their links may lead
/// to `files`, and to the folders that have one of these.
pub(crate) fn findings(documents: &Documents, files: &BTreeSet<String>) -> Vec<String> {
    let parsed: BTreeMap<&str, _> =
        documents.iter().map(|(path, text)| (path.as_str(), parse(text))).collect();
    let mut findings = Vec::new();
    for (path, (links, _)) in &parsed {
        for Link { line, target } in links {
            let mut find = |what: &str| findings.push(format!("{path}:{line}: {target}: {what}"));
            if is_elsewhere(target) {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target.as_str(), ""));
            let Some(file) = resolve(path, file).filter(|file| is_listed(file, files)) else {
                find("the repository has no such file");
                continue;
            };
            let has = |(_, anchors): &(_, BTreeSet<String>)| anchors.contains(anchor);
            if !anchor.is_empty() && !parsed.get(file.as_str()).is_some_and(has) {
                find("no heading there has this anchor");
            }
        }
    }
    findings
}

/// Whether the target of a link has a scheme (`https:`, `mailto:`).
fn is_elsewhere(target: &str) -> bool {
    target.split_once(':').is_some_and(|(scheme, _)| {
        scheme.chars().all(|c| c.is_ascii_alphanumeric()) && !scheme.is_empty()
    })
}

/// The path, from the root, to which `link` in `document` leads; `document` itself for an empty link. `None` if the link is not
/// relative, or leads out of the repository.
fn resolve(document: &str, link: &str) -> Option<String> {
    if link.is_empty() {
        return Some(document.to_owned());
    }
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in Path::new(link).components() {
        match part {
            Component::Normal(name) => parts.push(name.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => drop(parts.pop()?),
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn is_listed(path: &str, files: &BTreeSet<String>) -> bool {
    files.contains(path) || files.iter().any(|file| Path::new(file).starts_with(path))
}

/// The links of a document (those to pictures included), and the anchors of its headings.
fn parse(text: &str) -> (Vec<Link>, BTreeSet<String>) {
    let (mut links, mut anchors) = (Vec::new(), BTreeSet::new());
    let mut heading: Option<String> = None;
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (event, range) in Parser::new_ext(text, Options::ENABLE_TABLES).into_offset_iter() {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                let line = text[..range.start].matches('\n').count() + 1;
                links.push(Link { line, target: dest_url.into_string() });
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::Text(part) | Event::Code(part) => {
                if let Some(heading) = &mut heading {
                    heading.push_str(&part);
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                let anchor = anchor(&heading.take().unwrap_or_default());
                let before = seen.entry(anchor.clone()).or_default();
                anchors.insert(if *before == 0 { anchor } else { format!("{anchor}-{before}") });
                *before += 1;
            }
            _ => {}
        }
    }
    (links, anchors)
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    heading.to_lowercase().chars().filter(kept).map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Findings in `doc/a.md` with this text; the repository also has `README.md`, `doc/b.md` and `src/main.rs`.
    fn found(text: &str) -> Vec<String> {
        let b = "# Live: `b top`, 2nd\n\n## Cost\n\n## Cost\n";
        let documents = [("doc/a.md", text), ("doc/b.md", b), ("README.md", "# Readme\n")]
            .map(|(path, text)| (path.to_owned(), text.to_owned()));
        let mut files: BTreeSet<_> = documents.iter().map(|(path, _)| path.clone()).collect();
        files.insert("src/main.rs".to_owned());
        findings(&documents.into(), &files)
    }

    #[test]
    fn a_link_to_no_file_is_found_with_its_line() {
        let text = "# A\n\n[b](b.md), [c](c.md)\n\n| x | y |\n|---|---|\n| ` | ![p](p.svg) ` |\n";
        assert_eq!(
            found(text),
            [
                "doc/a.md:3: c.md: the repository has no such file",
                "doc/a.md:7: p.svg: the repository has no such file"
            ]
        );
        assert_eq!(found("[r](../README.md) [s](../src) [m](../src/main.rs)"), [""; 0]);
        for outside in ["/b.md", "/etc/hostname", "../../README.md", "README.md"] {
            assert_eq!(found(&format!("[x]({outside})")).len(), 1, "{outside}");
        }
    }

    #[test]
    fn a_link_to_no_heading_is_found() {
        let text = "## Here\n[1](#here) [2](b.md#live-b-top-2nd) [3](b.md#cost) [4](b.md#cost-1)\n";
        assert_eq!(found(text), [""; 0]);
        let text = "## Here\n[1](#there)\n[2](b.md#cost-2)\n[3](../src/main.rs#cost)\n";
        assert_eq!(
            found(text),
            [
                "doc/a.md:2: #there: no heading there has this anchor",
                "doc/a.md:3: b.md#cost-2: no heading there has this anchor",
                "doc/a.md:4: ../src/main.rs#cost: no heading there has this anchor"
            ]
        );
    }

    #[test]
    fn code_and_other_hosts_are_no_links() {
        assert_eq!(found("```md\n[c](c.md)\n```\n\n`[c](c.md)`\n\n    [c](c.md)\n"), [""; 0]);
        assert_eq!(found("[w](https://example.org/c.md#x) <mailto:a@example.org>"), [""; 0]);
    }
}
