//! From the bytes of the file to the checked configuration, or to everything that is wrong with it.

use std::{ops::Range, path::Path};

use toml::{
    Spanned,
    de::{DeTable, Error},
};

use super::{
    AgentConfig, Fault,
    fault::Faults,
    paths,
    read::LARGEST,
    settings::OUTPUT,
    walk::{Given, Walk},
};
use crate::{
    cli::RecordArgs,
    config::{KernelConfig, RecordConfig, Target, unfit::SETTING},
};

/// The largest text in bytes of which all faults in its TOML are looked for; of a larger one, the first: a parser that goes on
/// after faults keeps all of them in memory.
const ALL_FAULTS: usize = 16 << 10;
/// How the parser's message about a value without quotes begins.
const NO_VALUE: &str = "string values must be quoted";
/// The parser's message about a key that a table has already.
const TWICE: &str = "duplicate key";
/// The most faults in TOML that are shown.
const SYNTAX: usize = 20;

impl AgentConfig {
    /// Checks the contents of a file. `name`: the file's, for messages. Nothing is looked up on the host.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the file; at least one. Where the TOML itself is wrong, what could follow from
    /// that is left out: the rest of the section, and whether sections and settings fit together.
    pub fn parse(text: &[u8], name: &Path) -> Result<Self, Vec<Fault>> {
        let text = decoded(text, name)?;
        let (root, errors) = document(text);
        let mut walk = Walk::through(root.get_ref(), Faults::new(name, text), errors.is_empty());
        let config = if errors.is_empty() { checked(&mut walk) } else { None };
        let mut faults = walk.faults;
        let errors = one_a_line(&errors, &faults);
        for error in errors.iter().take(SYNTAX) {
            faults.leave_out(&spoilt(text, error));
        }
        if let Some(next) = errors.get(SYNTAX) {
            faults.leave_out(&(start(next)..text.len()));
        }
        for error in errors.iter().take(SYNTAX) {
            let at = start(error);
            faults.add(&(at..at), syntax(error));
        }
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(faults.sorted()),
        }
    }
}

/// The first error of each line, in the order of the text: what comes after it in its line, comes from it.
fn one_a_line<'e>(errors: &'e [Error], faults: &Faults<'_>) -> Vec<&'e Error> {
    let mut errors: Vec<&Error> = errors.iter().collect();
    errors.sort_by_key(|error| start(error));
    errors.dedup_by_key(|error| faults.line(start(error)));
    errors
}

/// The part of the text that cannot be judged because of an error: its line, and if values or headers may not end where they
/// should, everything to the next section.
fn spoilt(text: &str, error: &Error) -> Range<usize> {
    let (before, after) = text.split_at_checked(start(error)).unwrap_or((text, ""));
    let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
    let is_one_value = error.message().starts_with(NO_VALUE) || error.message() == TWICE;
    let end = after.find(if is_one_value { "\n" } else { "\n[" });
    begin..end.map_or(text.len(), |newline| before.len() + newline + 1)
}

/// The text of the file.
///
/// # Errors
/// One fault: it is too large, or is not UTF-8.
fn decoded<'t>(bytes: &'t [u8], name: &Path) -> Result<&'t str, Vec<Fault>> {
    let one = |text: &str, at: usize, why: &str| {
        let mut faults = Faults::new(name, text);
        faults.add(&(at..at), why);
        faults.sorted()
    };
    if bytes.len() > LARGEST {
        return Err(one("", 0, "the file is larger than 1 MiB; no configuration needs that"));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(one("", 0, "the file is UTF-16; save it as UTF-8"));
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let end = error.valid_up_to();
        let before = bytes.get(..end).unwrap_or_default();
        let before = std::str::from_utf8(before).unwrap_or_default();
        one(before, end, "there are bytes that are not UTF-8; save the file as UTF-8")
    })
}

/// The document as far as it could be read, and what is wrong with its TOML.
fn document(text: &str) -> (Spanned<DeTable<'_>>, Vec<Error>) {
    if text.len() <= ALL_FAULTS {
        return DeTable::parse_recoverable(text);
    }
    match DeTable::parse(text) {
        Ok(root) => (root, Vec::new()),
        Err(error) => (Spanned::new(0..0, DeTable::new()), vec![error]),
    }
}

fn start(error: &Error) -> usize {
    error.span().unwrap_or_default().start
}

fn syntax(error: &Error) -> String {
    let message = error.message();
    // "cannot recurse further; max recursion depth met", "recursion limit"
    if message.contains("recursion") {
        return "the file is nested too deeply; no setting needs that".to_owned();
    }
    if message.starts_with(NO_VALUE) {
        return "this is no value; write a string in quotes, a number, true or false, or a list in brackets"
            .to_owned();
    }
    if message == TWICE {
        return "this is in the file already; leave one of the two out".to_owned();
    }
    format!("this is no TOML: {}", message.replacen(", expected ", "; expected ", 1))
}

/// Checks the sections together. `None`: there is a fault.
fn checked(walk: &mut Walk<'_>) -> Option<AgentConfig> {
    let read = std::mem::take(&mut walk.outputs);
    let outputs: Vec<_> =
        read.iter().filter_map(|(args, given)| output(walk, args, given)).collect();
    let has_metrics = walk.metrics.has("listen") || walk.metrics.has("textfile");
    if read.is_empty() && !has_metrics && walk.is_whole {
        let nothing = format!(
            "there is nothing to do; write a section [[{OUTPUT}]], or listen or textfile in [metrics]"
        );
        walk.faults.add(&(0..0), nothing);
    }
    walk.outputs = read;
    paths::check(walk);
    walk.faults.is_empty().then(|| AgentConfig {
        kernel: KernelConfig::of(walk.draft.kernel, walk.draft.ring),
        outputs,
        metrics: walk.draft.metrics.clone(),
        fields: walk.draft.fields.clone(),
        thresholds: walk.draft.thresholds.clone(),
    })
}

/// One output; `None`: it has a fault.
fn output(walk: &mut Walk<'_>, args: &RecordArgs, given: &Given) -> Option<RecordConfig> {
    let faults = &mut walk.faults;
    if given.has("keep") && !given.has("rotate") {
        let why = "output.keep is given without rotate; add rotate = \"100M\", or leave keep out";
        faults.add(given.place("keep"), why);
    }
    if args.filter.ipv4 && args.filter.ipv6 {
        let why = "output.ipv4 and output.ipv6 are both true; leave one of the two out";
        faults.add(given.place("ipv6"), why);
    }
    // If there is no path, that is a fault, and the other settings are checked as for a file.
    let path = args.stream.output.clone().unwrap_or_default();
    let target = if path == Path::new("-") { Target::Stdout } else { Target::File(path) };
    let checked = RecordConfig::checked(args, target, SETTING);
    let unfit = checked.as_ref().err().into_iter().flatten();
    for unfit in unfit {
        faults.add(given.place(unfit.option), unfit.why.clone());
    }
    checked.ok()
}
