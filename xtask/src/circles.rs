//! Finds circular imports between the modules of the program. A module here is a file of `tracer/src` or of a folder in it, with
//! everything in the folder of its name: `ledger/trace.rs` and all of `ledger/trace/` are one module.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};
use syn::{
    Attribute, Item, ItemMod, ItemUse, Meta, UseTree,
    visit::{self, Visit},
};

use crate::workspace;

/// The folder of the sources that are checked, from the root.
const SOURCES: &str = "tracer/src";
/// How many names of a path are the module's.
const DEPTH: usize = 2;

type Module = Vec<String>;
/// The modules that each module imports, each with one file that does.
type Graph = BTreeMap<Module, BTreeMap<Module, String>>;

/// Findings: one for each set of modules that import each other in a circle.
pub(crate) fn check() -> Result<Vec<String>> {
    let root = workspace::root().join(SOURCES);
    let mut files = Vec::new();
    read(&root, &root, &mut files)?;
    let graph = graph(&files)?;
    Ok(circles(&graph).iter().map(|circle| describe(&graph, circle)).collect())
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

/// Whether a file is of tests, which may import anything.
fn is_of_tests(module: &[String]) -> bool {
    module.iter().any(|name| name == "tests" || name.starts_with("test_"))
}

fn graph(files: &[(String, String)]) -> Result<Graph> {
    let modules: BTreeSet<Module> = files.iter().map(|(file, _)| module_of(file)).collect();
    let mut graph = Graph::new();
    for (file, text) in files {
        let module = module_of(file);
        if module.is_empty() || is_of_tests(&module) {
            continue;
        }
        let parsed = syn::parse_file(text).with_context(|| format!("cannot parse {file}"))?;
        let mut paths = Paths { inner: 0, found: Vec::new() };
        paths.visit_file(&parsed);
        let from = shortened(&module);
        let named = graph.entry(from.clone()).or_default();
        for (inner, path) in &paths.found {
            let to = target(&modules, &module, *inner, path);
            if !to.is_empty() && to != from {
                named.entry(to).or_insert_with(|| file.clone());
            }
        }
    }
    Ok(graph)
}

fn shortened(module: &[String]) -> Module {
    module.iter().take(DEPTH).cloned().collect()
}

/// The module that a path in `module` leads to, if the path is inside of `inner` inline modules.
fn target(modules: &BTreeSet<Module>, module: &[String], inner: usize, path: &[String]) -> Module {
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
    while !modules.contains(&whole) && !whole.is_empty() {
        whole.pop();
    }
    shortened(&whole)
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

    fn tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: String| before.iter().cloned().chain([name]).collect::<Vec<_>>();
        match tree {
            UseTree::Path(path) => self.tree(&with(path.ident.to_string()), &path.tree),
            UseTree::Name(name) => self.add(with(name.ident.to_string())),
            UseTree::Rename(name) => self.add(with(name.ident.to_string())),
            UseTree::Glob(_) => self.add(before.to_vec()),
            UseTree::Group(group) => group.items.iter().for_each(|item| self.tree(before, item)),
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
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.add(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

/// All modules that `start` imports, directly or by others.
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

/// The sets of modules in which each imports all others of the set, directly or by others.
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

fn describe(graph: &Graph, circle: &BTreeSet<Module>) -> String {
    let mut steps = Vec::new();
    for from in circle {
        let named = graph.get(from).into_iter().flatten();
        for (to, file) in named.filter(|(to, _)| circle.contains(*to)) {
            steps.push(format!("{} -> {} ({SOURCES}/{file})", from.join("::"), to.join("::")));
        }
    }
    format!("{SOURCES}: modules import each other in a circle: {}", steps.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> =
            files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        let graph = graph(&files).unwrap();
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
    fn tests_may_import_anything() {
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
