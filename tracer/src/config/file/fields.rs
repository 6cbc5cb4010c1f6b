//! `[fields]`: keys and values that every line has.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{
    fault::{named, quoted},
    reserved::is_reserved,
    settings::FIELDS,
    walk::{Walk, kind},
};

/// The most fields.
const MOST: usize = 16;
/// The most bytes of a key.
const KEY: usize = 64;
/// The most bytes of a value.
const VALUE: usize = 256;

/// Takes the fields over. A key with dots may be in quotes or not: TOML makes tables of one without. Stops after the first field
/// too many.
pub(super) fn take(walk: &mut Walk<'_>, table: &DeTable<'_>) {
    let mut count = 0;
    take_below(walk, "", table, &mut count);
}

/// `above`: the key of the table with a dot at its end; empty for the section itself. False: there are too many.
fn take_below(walk: &mut Walk<'_>, above: &str, table: &DeTable<'_>, count: &mut usize) -> bool {
    for (key, value) in table {
        let place = key.span();
        let key = format!("{above}{}", key.get_ref());
        // A table may also be as deep as a line of dots is long: a key that is too long is not followed.
        if let DeValue::Table(inner) = value.get_ref()
            && key.len() < KEY
            && !inner.is_empty()
        {
            if !take_below(walk, &format!("{key}."), inner, count) {
                return false;
            }
            continue;
        }
        *count += 1;
        if *count > MOST {
            walk.faults.add(&place, format!("there are more than {MOST} {FIELDS}; leave some out"));
            return false;
        }
        let is_good_key = match refused(&key) {
            Some(why) => fault(walk, &place, &key, &why),
            None => true,
        };
        let is_good_value = match value.get_ref() {
            DeValue::String(text) => match refused_value(text) {
                Some(why) => {
                    fault(walk, &value.span(), &key, &format!("cannot be {}: {why}", quoted(text)))
                }
                None => true,
            },
            // It is known already that the key is too long.
            DeValue::Table(inner) if !inner.is_empty() => false,
            other => {
                let why = format!("cannot be {}; write a string in quotes", kind(other));
                fault(walk, &value.span(), &key, &why)
            }
        };
        if let (true, true, DeValue::String(text)) = (is_good_key, is_good_value, value.get_ref())
            && walk.draft.fields.insert(key.clone(), text.clone().into_owned()).is_some()
        {
            fault(walk, &place, &key, "is written twice, with and without quotes; leave one out");
        }
    }
    true
}

/// Adds a fault; returns false.
fn fault(walk: &mut Walk<'_>, place: &Range<usize>, key: &str, why: &str) -> bool {
    walk.faults.add(place, format!("{FIELDS}.{} {why}", named(key)));
    false
}

/// Why a key cannot be used, as the end of a sentence; `None`: it can.
fn refused(key: &str) -> Option<String> {
    let is_good = |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '_');
    if key.len() > KEY {
        return Some(format!("is longer than {KEY} bytes; write a shorter key"));
    }
    if !key.split('.').all(|part| !part.is_empty() && part.chars().all(is_good)) {
        return Some(
            "is no key; write a-z, 0-9, _ and single dots between them, such as service.version"
                .to_owned(),
        );
    }
    is_reserved(key).then(|| "is a key that tracer writes itself; choose another one".to_owned())
}

/// Why a value cannot be used; `None`: it can.
fn refused_value(text: &str) -> Option<String> {
    if text.len() > VALUE {
        return Some(format!("it is longer than {VALUE} bytes; write a shorter one"));
    }
    let has_control = text.chars().any(char::is_control);
    has_control.then(|| "it has control characters; leave them out".to_owned())
}
