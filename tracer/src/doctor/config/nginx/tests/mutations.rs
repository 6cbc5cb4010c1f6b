//! Configurations with random changes: nothing panics, nothing takes long.

use std::path::PathBuf;

use super::*;
use crate::host::test_mutations::{Random, Run};

/// Pieces with which a reader can go wrong.
const PIECES: [&str; 24] = [
    "{",
    "}",
    ";",
    "\"",
    "'",
    "\\",
    "#",
    "\n",
    "\0",
    "$",
    "${",
    "\u{fffd}",
    "_by_lua_block {",
    "[[",
    "]]",
    "--",
    "include *;",
    "include conf.d/[a-z]*.conf;",
    "proxy_pass http://$x;",
    "keepalive 99999999999;",
    "server [::1;",
    "proxy_set_header Connection $x;",
    "map $http_upgrade $x {",
    "include api.conf;",
];

/// Changes some bytes: flips, cuts, repeats, and pieces of others.
fn mutate(random: &mut Random, text: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.below(text.len() + 1);
        let end = (at + random.below(40)).min(text.len());
        match random.below(6) {
            0 if at < text.len() => text[at] = random.next().to_be_bytes()[0],
            1 => drop(text.drain(at..end)),
            2 => text.truncate(at),
            3 => {
                let copy = text[at..end].to_vec();
                text.splice(at..at, copy);
            }
            4 => {
                let (_, other) = CORPUS[random.below(CORPUS.len())];
                let from = random.below(other.len());
                let to = (from + random.below(80)).min(other.len());
                text.splice(at..end, other.as_bytes()[from..to].iter().copied());
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())];
                text.splice(at..at, piece.bytes());
            }
        }
    }
}

#[test]
fn changed_configurations_neither_panic_nor_take_long() {
    let mut random = Random(7);
    let mut run = Run::of("nginx");
    let destinations: Vec<SocketAddr> = ["10.0.1.7:8080", "127.0.0.1:9000", "[2001:db8::1]:8080"]
        .map(|it| it.parse().unwrap())
        .into();
    let mut files = Memory::of(CORPUS);
    let mut understood = 0;
    for _ in 0..Run::inputs() {
        let (path, original) = CORPUS[random.below(CORPUS.len())];
        let path = PathBuf::from(path);
        let mut text = original.as_bytes().to_vec();
        mutate(&mut random, &mut text);
        let old = files.0.insert(path.clone(), text.clone()).unwrap();
        let main =
            if path.starts_with("/n/conf.d") { Path::new("/n/included.conf") } else { &path };
        let (unread, known) = run.parse(&text, |_| {
            let facts = facts(&files, main, "");
            let all = destinations.iter().zip([OLD, NEW, None]);
            let known =
                all.filter(|(to, version)| !routes(&facts, *version, **to).routes.is_empty());
            (facts.unread.len(), known.count())
        });
        files.0.insert(path, old);
        assert!(unread <= 64);
        understood += known;
    }
    run.end();
    // Many still say something, else this would test nothing.
    let inputs = usize::try_from(Run::inputs()).unwrap();
    assert!(understood > inputs / 10, "{understood} of {inputs}");
}
