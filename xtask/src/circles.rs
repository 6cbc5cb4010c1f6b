//! Finds circular imports between the modules of a crate. A module here is a file, together with everything in the folder of its
//! name. At the first level, these are files directly in the crate's sources: `ledger.rs` and all of `ledger/` are one module. At
//! the second level, they are one folder deeper (`ledger/trace.rs` and all of `ledger/trace/`), which finds circles within a
//! folder. Only the first level finds a circle through a file and its own folder: what `ledger.rs` takes from `ledger/`
//! (`use trace::Trace`) is no import at the second.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};
use syn::{
    Attribute, Ident, Item, ItemMod, ItemUse, Meta, UseTree,
    visit::{self, Visit},
};

use crate::workspace;

/// The folders of the sources that are checked, from the root, each with the levels; a level is the number of names in the path
/// of a module. `tracer/src` is not checked at the first: its folders are layers, and some of these import each other.
const SOURCES: [(&str, &[usize]); 5] = [
    ("tracer/src", &[2]),
    ("tracer-ebpf/src", &[1, 2]),
    ("tracer-common/src", &[1, 2]),
    ("tests/src", &[1, 2]),
    ("xtask/src", &[1, 2]),
];

/// The path of a module, from the crate's root: `["ledger", "trace"]`.
type Module = Vec<String>;
/// The modules that each module imports, each with one file that does.
type Graph = BTreeMap<Module, BTreeMap<Module, String>>;

/// Findings: one text for each set of modules that import each other in a circle; empty if there is none. Tests are not looked
/// at. Fails if a source cannot be read or parsed.
pub(crate) fn check() -> Result<Vec<String>> {
    let mut findings = Vec::new();
    for (sources, levels) in SOURCES {
        let root = workspace::root().join(sources);
        let mut files = Vec::new();
        read(&root, &root, &mut files)?;
        for level in levels {
            let graph = graph(&files, *level)?;
            let found = circles(&graph);
            findings.extend(found.iter().map(|circle| describe(sources, &graph, circle)));
        }
    }
    Ok(findings)
}

/// Adds every source below `folder` to `files`: its path from `root`, and its text.
fn read(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) -> Result<()> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            read(root, &path, files)?;
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            files.push((name, text));
        }
    }
    Ok(())
}

/// The module of a file, from the crate's root; empty for the root itself.
fn module_of(file: &str) -> Module {
    let name = file.strip_suffix(".rs").unwrap_or(file);
    match name {
        "lib" | "main" => Module::new(),
        _ => name.split('/').map(str::to_owned).collect(),
    }
}

/// Whether a file has only tests, which may import anything.
fn is_of_tests(module: &[String]) -> bool {
    module.iter().any(|name| name == "tests" || name.starts_with("test_"))
}

fn graph(files: &[(String, String)], level: usize) -> Result<Graph> {
    let of_crate = Names::of(files)?;
    let mut graph = Graph::new();
    for (file, text) in files {
        let module = module_of(file);
        if module.is_empty() || is_of_tests(&module) {
            continue;
        }
        let parsed = parse(file, text)?;
        let mut paths = Paths { inner: 0, found: Vec::new() };
        paths.visit_file(&parsed);
        let from = shortened(&module, level);
        let named = graph.entry(from.clone()).or_default();
        for (inner, path) in &paths.found {
            let to = shortened(&of_crate.target(&module, *inner, path), level);
            if !to.is_empty() && to != from {
                named.entry(to).or_insert_with(|| file.clone());
            }
        }
    }
    Ok(graph)
}

fn shortened(module: &[String], level: usize) -> Module {
    module.iter().take(level).cloned().collect()
}

fn parse(file: &str, text: &str) -> Result<syn::File> {
    syn::parse_file(text).with_context(|| format!("cannot parse {file}"))
}

/// What a path of a crate can name.
struct Names {
    modules: BTreeSet<Module>,
    /// What the crate's root imports or exports, by its name there: `crate::Addr` is `addr::Addr`.
    of_root: BTreeMap<String, Vec<String>>,
}

impl Names {
    fn of(files: &[(String, String)]) -> Result<Self> {
        let mut of_root = Vec::new();
        for (file, text) in files.iter().filter(|(file, _)| module_of(file).is_empty()) {
            for item in parse(file, text)?.items {
                if let Item::Use(item) = item {
                    leaves(&[], &item.tree, &mut of_root);
                }
            }
        }
        let modules = files.iter().map(|(file, _)| module_of(file)).collect();
        Ok(Self { modules, of_root: of_root.into_iter().collect() })
    }

    /// The module that `path` names, in a source file of `module`. `inner`: how many inline modules enclose the path. Empty: the
    /// path names the crate's root, or nothing in this crate.
    fn target(&self, module: &[String], inner: usize, path: &[String]) -> Module {
        let mut names = path.iter();
        let mut up = 0;
        let mut whole = Module::new();
        for name in names.by_ref() {
            match name.as_str() {
                "crate" => {}
                "self" => whole = module.to_vec(),
                "super" => {
                    up += 1;
                    let left = module.len().saturating_sub(up.max(inner) - inner);
                    whole = module.iter().take(left).cloned().collect();
                }
                _ => {
                    whole.push(name.clone());
                    break;
                }
            }
        }
        whole.extend(names.cloned());
        if let Some(path) = whole.first().and_then(|name| self.of_root.get(name)) {
            whole.splice(
                ..1,
                path.iter().filter(|name| *name != "crate" && *name != "self").cloned(),
            );
        }
        while !self.modules.contains(&whole) && !whole.is_empty() {
            whole.pop();
        }
        whole
    }
}

/// Adds everything that a `use` imports: the name by which it is known afterwards (`*` for a glob), and its path.
fn leaves(before: &[String], tree: &UseTree, found: &mut Vec<(String, Vec<String>)>) {
    let with = |name: &Ident| before.iter().cloned().chain([name.to_string()]).collect::<Vec<_>>();
    match tree {
        UseTree::Path(path) => leaves(&with(&path.ident), &path.tree, found),
        UseTree::Name(name) => found.push((name.ident.to_string(), with(&name.ident))),
        UseTree::Rename(name) => found.push((name.rename.to_string(), with(&name.ident))),
        UseTree::Glob(_) => found.push(("*".to_owned(), before.to_vec())),
        UseTree::Group(group) => group.items.iter().for_each(|tree| leaves(before, tree, found)),
    }
}

/// The paths that begin with `crate`, `self` or `super`, each with the number of inline modules that it is inside of.
struct Paths {
    inner: usize,
    found: Vec<(usize, Vec<String>)>,
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        _ => false,
    })
}

impl Paths {
    fn add(&mut self, path: Vec<String>) {
        if path.first().is_some_and(|name| ["crate", "self", "super"].contains(&name.as_str())) {
            self.found.push((self.inner, path));
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(it) => &it.attrs,
            Item::Use(it) => &it.attrs,
            Item::Fn(it) => &it.attrs,
            Item::Impl(it) => &it.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        self.inner += 1;
        visit::visit_item_mod(self, module);
        self.inner -= 1;
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let mut found = Vec::new();
        leaves(&[], &item.tree, &mut found);
        for (_, path) in found {
            self.add(path);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

/// All modules that `start` imports, directly or through other modules.
fn reached<'a>(graph: &'a Graph, start: &Module) -> BTreeSet<&'a Module> {
    let mut found = BTreeSet::new();
    let mut left = vec![start];
    while let Some(module) = left.pop() {
        for next in graph.get(module).into_iter().flat_map(BTreeMap::keys) {
            if found.insert(next) {
                left.push(next);
            }
        }
    }
    found
}

/// The largest sets of modules in which each imports all others of the set, directly or through other modules.
fn circles(graph: &Graph) -> Vec<BTreeSet<Module>> {
    let mut all = BTreeSet::new();
    for module in graph.keys() {
        let after = reached(graph, module);
        if after.contains(module) {
            let back = |other: &&&Module| reached(graph, other).contains(module);
            all.insert(after.iter().filter(back).map(|other| (*other).clone()).collect());
        }
    }
    all.into_iter().collect()
}

fn describe(sources: &str, graph: &Graph, circle: &BTreeSet<Module>) -> String {
    let mut steps = Vec::new();
    for from in circle {
        let named = graph.get(from).into_iter().flatten();
        for (to, file) in named.filter(|(to, _)| circle.contains(*to)) {
            steps.push(format!("{} -> {} ({sources}/{file})", from.join("::"), to.join("::")));
        }
    }
    format!("{sources}: modules lead to each other: {}", steps.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        found_at(2, files)
    }

    fn found_at(level: usize, files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> =
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let graph = graph(&files, level).unwrap();
        let joined = |circle: &BTreeSet<Module>| {
            circle.iter().map(|module| module.join("::")).collect::<Vec<_>>().join(" ")
        };
        circles(&graph).iter().map(joined).collect()
    }

    #[test]
    fn modules_that_import_each_other_are_a_circle() {
        let one = ("a/one.rs", "use crate::b::two::{self, Two};");
        assert_eq!(found(&[one, ("b/two.rs", "struct Two;")]), [""; 0]);
        assert_eq!(
            found(&[one, ("b/two.rs", "fn f() { crate::a::one::f(); }")]),
            ["a::one b::two"]
        );
    }

    #[test]
    fn three_modules_of_which_each_imports_the_next_are_a_circle() {
        let files = [
            ("a/one.rs", "use super::two::Two;"),
            ("a/two.rs", "use super::three;"),
            ("a/three.rs", "impl super::one::One {}"),
            ("a/four.rs", "use super::one;"),
        ];
        assert_eq!(found(&files), ["a::one a::three a::two"]);
    }

    #[test]
    fn files_below_a_module_belong_to_it() {
        let files = [
            ("a/one.rs", "mod inner;"),
            ("a/one/inner.rs", "use super::super::two;"),
            ("a/two.rs", "use crate::a::one::inner::Thing;"),
        ];
        assert_eq!(found(&files), ["a::one a::two"]);
    }

    #[test]
    fn at_the_first_level_a_folder_is_one_with_its_file() {
        let files = [
            ("a.rs", "mod inner; use inner::Thing;"),
            ("a/inner.rs", "use crate::b;"),
            ("b.rs", "use crate::a::Thing;"),
        ];
        assert_eq!(found_at(1, &files), ["a b"]);
        assert_eq!(found_at(2, &files), [""; 0]);
    }

    #[test]
    fn what_the_root_exports_is_of_its_module() {
        let files = [
            ("lib.rs", "pub use one::{One, Other as Two};"),
            ("one.rs", "use crate::three::Three;"),
            ("two.rs", "use crate::{One, three::Three};"),
            ("three.rs", "fn f() { crate::Two::f(); }"),
        ];
        assert_eq!(found(&files), ["one three"]);
    }

    #[test]
    fn tests_may_name_anything() {
        let files = [
            (
                "a/one.rs",
                "#[cfg(test)] mod tests { use crate::a::two; }\n#[cfg(test)] use crate::a::two;",
            ),
            ("a/one/tests.rs", "use crate::a::two;"),
            ("a/two.rs", "use crate::a::one;"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }

    #[test]
    fn within_an_inline_module_super_is_the_file() {
        let files = [
            ("a/one.rs", "mod flag { use super::super::two; use super::Thing; }"),
            ("a/two.rs", "use super::one;"),
        ];
        assert_eq!(found(&files), ["a::one a::two"]);
    }
}
