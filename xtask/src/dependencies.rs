//! Finds dependencies that a manifest lists for nothing: no source of the package uses them, or, in the workspace's manifest, no
//! package lists them.

/// Sections of a manifest that list dependencies.
const SECTIONS: [&str; 3] = ["[dependencies]", "[dev-dependencies]", "[build-dependencies]"];

/// The names of all dependencies that a package's manifest lists, in its order.
fn named(manifest: &str) -> Vec<&str> {
    in_sections(manifest, &SECTIONS)
}

fn in_sections<'a>(manifest: &'a str, sections: &[&str]) -> Vec<&'a str> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = sections.contains(&line.trim());
            continue;
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        if inside && !name.is_empty() && !line.starts_with([' ', '#', ']']) {
            names.push(name);
        }
    }
    names
}

/// Whether the text has this name as a whole word.
fn has(text: &str, name: &str) -> bool {
    let is_of_a_name = |one: char| one.is_alphanumeric() || one == '_';
    text.match_indices(name).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + name.len()..].chars().next();
        !before.is_some_and(is_of_a_name) && !after.is_some_and(is_of_a_name)
    })
}

/// The dependencies of a package's manifest (its text) that none of `sources`, the texts of its sources, names as a whole word,
/// with `_` for `-`, before a `//`. In the manifest's order; empty if all are used. Dependencies for one target only
/// (`[target.….dependencies]`) are not looked at.
pub(crate) fn unused<'a>(manifest: &'a str, sources: &[String]) -> Vec<&'a str> {
    let is_used = |name: &&str| {
        let name = name.replace('-', "_");
        let code = |line: &str| line.split("//").next().is_some_and(|code| has(code, &name));
        sources.iter().any(|text| text.lines().any(code))
    };
    named(manifest).into_iter().filter(|name| !is_used(name)).collect()
}

/// The dependencies in `[workspace.dependencies]` of the workspace's manifest (its text) that none of the packages' manifests
/// (their texts) lists. Empty if each is listed.
pub(crate) fn unlisted<'a>(workspace: &'a str, manifests: &[String]) -> Vec<&'a str> {
    let listed: Vec<&str> = manifests.iter().flat_map(|manifest| named(manifest)).collect();
    let all = in_sections(workspace, &["[workspace.dependencies]"]);
    all.into_iter().filter(|name| !listed.contains(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "[package]\nname = \"it\"\n\n[dependencies]\naya-log = \"1\"\n# why\n\
        bytes = { workspace = true, features = [\n    \"std\",\n] }\nclap.workspace = true\n\n\
        [dev-dependencies]\ninsta = \"1\"\n\n[lints]\nworkspace = true\n";

    #[test]
    fn a_dependency_that_no_source_names_is_unused() {
        let sources = ["use aya_log::X;\nfn f() { bytes::Bytes::new(); }".to_owned()];
        assert_eq!(unused(MANIFEST, &sources), ["clap", "insta"]);
    }

    #[test]
    fn a_dependency_of_the_workspace_that_no_package_lists_is_found() {
        let workspace = "[workspace.dependencies]\nclap = \"4\"\nserde = { version = \"1\" }\n\n[profile.dev]\ndebug = 1\n";
        assert_eq!(unlisted(workspace, &[MANIFEST.to_owned()]), ["serde"]);
    }

    #[test]
    fn a_part_of_a_name_or_a_comment_is_no_use() {
        let sources = ["let my_bytes = 1; // clap".to_owned(), "// insta".to_owned()];
        assert_eq!(unused(MANIFEST, &sources), ["aya-log", "bytes", "clap", "insta"]);
    }
}
