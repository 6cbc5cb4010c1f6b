use std::io;

use super::*;
use crate::host::files::{Contents, Memory};

/// All directives, as `file:line name arguments`, with those of blocks after the block's own.
fn lines(block: &Block) -> Vec<String> {
    let mut lines = Vec::new();
    for directive in &block.directives {
        lines.push(format!("{} {}", directive.at, directive.words.join(" ")));
        lines.extend(directive.block.iter().flat_map(lines_of));
    }
    lines
}

fn lines_of(block: &Block) -> Vec<String> {
    lines(block)
}

fn reading(files: &[(&str, &str)]) -> (Block, Vec<ConfigFile>) {
    read(&Memory::of(files), Path::new("/etc/nginx/nginx.conf"), "")
}

/// Why directives may be missing, in any block.
fn unread_in(block: &Block) -> Vec<String> {
    let inner = block.directives.iter().filter_map(|it| it.block.as_ref());
    let own = block.unread.iter().map(ToString::to_string);
    own.chain(inner.flat_map(unread_in)).collect()
}

#[test]
fn included_directives_are_in_the_place_of_the_include() {
    let (whole, files) = reading(&[
        ("/etc/nginx/nginx.conf", "http {\n include conf.d/*.conf;\n include /x/y; hash last;\n}"),
        ("/etc/nginx/conf.d/b.conf", "hash b;"),
        ("/etc/nginx/conf.d/a.conf", "hash a; include inner;"),
        ("/etc/nginx/conf.d/.c.conf", "hash hidden;"),
        ("/etc/nginx/inner", "\nhash inner;"),
        ("/x/y", "hash y;"),
    ]);
    assert_eq!(
        lines(&whole),
        [
            "/etc/nginx/nginx.conf:1 http",
            "/etc/nginx/conf.d/a.conf:1 hash a",
            "/etc/nginx/inner:2 hash inner",
            "/etc/nginx/conf.d/b.conf:1 hash b",
            "/x/y:1 hash y",
            "/etc/nginx/nginx.conf:3 hash last",
        ]
    );
    assert_eq!(unread_in(&whole), [""; 0]);
    assert_eq!(files.len(), 5);
}

#[test]
fn a_file_may_be_included_at_several_places_and_is_read_once() {
    let (whole, files) = reading(&[
        ("/etc/nginx/nginx.conf", "server { include p; } server { include p; include ./p; }"),
        ("/etc/nginx/p", "hash p;"),
    ]);
    assert_eq!(lines(&whole).iter().filter(|line| line.ends_with("hash p")).count(), 3);
    assert_eq!(files.len(), 2);
}

#[test]
fn patterns_of_folders_stand_for_the_files_that_there_are() {
    let (whole, _) = reading(&[
        (
            "/etc/nginx/nginx.conf",
            "include sites/*/on/app.conf; include none/*; include s?tes/b/x;",
        ),
        ("/etc/nginx/sites/a/on/app.conf", "hash a;"),
        ("/etc/nginx/sites/b/x", "hash b;"),
        ("/etc/nginx/sites/c/on/other", "hash c;"),
    ]);
    let names: Vec<_> = whole.directives.iter().map(|it| it.argument(0).to_owned()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(unread_in(&whole), [""; 0]);
}

#[test]
fn the_block_of_an_include_that_is_not_read_may_lack_directives() {
    let of = |include: &str, files: &[(&str, &str)]| {
        let text = format!("http {{ server {{\n{include} }} }}");
        let mut all = vec![("/etc/nginx/nginx.conf", text.as_str())];
        all.extend(files);
        unread_in(&reading(&all).0).join(" ")
    };
    let here = "/etc/nginx/nginx.conf:2: ";
    assert_eq!(of("include none;", &[]), format!("{here}/etc/nginx/none: entity not found"));
    let loops =
        of("include a;", &[("/etc/nginx/a", "include b;"), ("/etc/nginx/b", "\ninclude a;")]);
    assert_eq!(loops, "/etc/nginx/b:2: the file includes itself");
    assert_eq!(
        of("include a;", &[("/etc/nginx/a", "hash")]),
        "/etc/nginx/a:1: the file ends within a word"
    );
    let long = format!("include {}*;", "a".repeat(300));
    assert_eq!(of(&long, &[]), format!("{here}a pattern is too long"));
    let (whole, _) = read(&Memory::default(), Path::new("/none"), "worker_processes 4;");
    assert_eq!(unread_in(&whole), ["/none:1: entity not found"]);
    assert_eq!(lines(&whole), ["command line:1 worker_processes 4"]);
}

#[test]
fn chains_and_copies_of_includes_are_bounded() {
    let chain: Vec<_> =
        (0..40).map(|at| (format!("/c/{at}"), format!("include {};", at + 1))).collect();
    let chain: Vec<_> = chain.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let (whole, files) = read(&Memory::of(&chain), Path::new("/c/0"), "");
    assert_eq!(unread_in(&whole), ["/c/16:1: files include each other more than 16 deep"]);
    assert_eq!(files.len(), 17);
    let twice: Vec<_> = (0..15)
        .map(|at| (format!("/c/{at}"), format!("hash x; include {0}; ", at + 1).repeat(10)))
        .chain([("/c/15".to_owned(), "hash x;".to_owned())])
        .collect();
    let twice: Vec<_> = twice.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let (whole, _) = read(&Memory::of(&twice), Path::new("/c/0"), "");
    assert!(lines(&whole).len() < ROOM / 160);
    assert_eq!(&*whole.unread.unwrap().why, "the configuration is too large");
}

#[test]
fn blocks_of_files_that_include_each_other_are_not_deep() {
    let deep = |at| format!("{} include {}; {}", "server {".repeat(30), at + 1, "}".repeat(30));
    let files: Vec<_> = (0..15).map(|at| (format!("/c/{at}"), deep(at))).collect();
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let (whole, _) = read(&Memory::of(&files), Path::new("/c/0"), "");
    assert_eq!(lines(&whole).len(), 65);
    assert_eq!(unread_in(&whole), ["/c/2:1: more than 64 blocks are within each other"]);
}

/// A folder with very many files.
struct Many(usize);

impl Files for Many {
    fn head(&self, path: &Path, _: usize) -> io::Result<Contents> {
        let text = if path.ends_with("nginx.conf") { "include many/*;" } else { "hash x;" };
        let modified = SystemTime::UNIX_EPOCH;
        Ok(Contents { bytes: text.into(), whole: true, modified })
    }

    fn tail(&self, path: &Path, most: usize) -> io::Result<Contents> {
        self.head(path, most)
    }

    fn names(&self, _: &Path, most: usize) -> io::Result<(Vec<String>, bool)> {
        Ok(((0..self.0.min(most)).map(|at| at.to_string()).collect(), self.0 > most))
    }
}

#[test]
fn very_many_and_very_large_files_are_not_read() {
    let (whole, files) = read(&Many(10_000), Path::new("/nginx.conf"), "");
    assert_eq!(unread_in(&whole), ["/nginx.conf:1: /many has too many files"]);
    assert_eq!(files.len(), 1);
    let (whole, files) = read(&Many(4096), Path::new("/nginx.conf"), "");
    assert!(unread_in(&whole)[0].ends_with("the configuration has more than 4,096 files"));
    assert_eq!(files.len(), 4096);
    let large = " ".repeat(3 << 20);
    let (whole, files) = reading(&[
        ("/etc/nginx/nginx.conf", "include a; include b; hash x;"),
        ("/etc/nginx/a", &large),
        ("/etc/nginx/b", &large),
    ]);
    assert_eq!(
        unread_in(&whole),
        ["/etc/nginx/nginx.conf:1: /etc/nginx/b: the configuration has more than 4 MiB"]
    );
    assert_eq!(lines(&whole), ["/etc/nginx/nginx.conf:1 hash x"]);
    assert_eq!(files.len(), 2);
}
