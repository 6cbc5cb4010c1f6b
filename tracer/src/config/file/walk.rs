//! Goes through the parsed file by the table of settings: takes values over, and collects everything that is wrong.

use std::{borrow::Cow, collections::BTreeMap, ops::Range};

use toml::{
    Spanned,
    de::{DeInteger, DeTable, DeValue},
};

use super::{
    draft::Draft,
    fault::{Faults, quoted},
    fields,
    settings::{METRICS, OUTPUT, SECTIONS, Scalar, Section, Setting, Shape, Value, section},
    unknown,
};
use crate::cli::RecordArgs;

/// The most unknown names that are faults each; one more says that there are others.
const UNKNOWN: usize = 20;

/// Where the settings of one section are.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    header: Range<usize>,
    values: BTreeMap<&'static str, Range<usize>>,
}

impl Given {
    /// Where the value of a setting is, or the section's header if it is not given.
    pub(super) fn place(&self, setting: &str) -> &Range<usize> {
        self.values.get(setting).unwrap_or(&self.header)
    }

    /// Whether the file has this setting, right or wrong.
    pub(super) fn has(&self, setting: &str) -> bool {
        self.values.contains_key(setting)
    }
}

/// What was read.
#[derive(Debug)]
pub(super) struct Walk<'t> {
    /// Of all sections but the outputs.
    pub draft: Draft,
    pub outputs: Vec<(RecordArgs, Given)>,
    /// Of `[metrics]`.
    pub metrics: Given,
    pub faults: Faults<'t>,
    /// Whether all that the file has was read: false if a part of it is no TOML, or has a name that is no section's.
    pub is_whole: bool,
    unknown: usize,
}

impl<'t> Walk<'t> {
    /// Reads everything. `faults`: those that there are already. `is_whole`: whether the document is all that the file has; if
    /// not, nothing is missed in it.
    pub(super) fn through(root: &DeTable<'_>, faults: Faults<'t>, is_whole: bool) -> Self {
        let mut walk = Self {
            draft: Draft::new(),
            outputs: Vec::new(),
            metrics: Given::default(),
            faults,
            is_whole,
            unknown: 0,
        };
        for (key, value) in root {
            if let Some(section) = section(key.get_ref()) {
                walk.section(section, value);
            } else {
                walk.is_whole = false;
                walk.unknown(key, unknown::section);
            }
        }
        let absent = SECTIONS.iter().filter(|it| !root.contains_key(it.name));
        for section in absent.filter(|it| it.shape == Shape::One) {
            walk.settings(section, &DeTable::new(), 0..0);
        }
        walk
    }

    fn section(&mut self, section: &'static Section, value: &Spanned<DeValue<'_>>) {
        match (section.shape, value.get_ref()) {
            (Shape::One, DeValue::Table(table)) => {
                let given = self.settings(section, table, value.span());
                if section.name == METRICS {
                    self.metrics = given;
                }
            }
            (Shape::Free, DeValue::Table(table)) => fields::take(self, table),
            (Shape::Many(most), DeValue::Array(tables)) => {
                for table in tables.iter().take(most) {
                    self.one_of_many(section, table);
                }
                if let Some(next) = tables.get(most) {
                    let name = section.name;
                    let many =
                        format!("there are more than {most} sections {name}; leave the others out");
                    self.faults.add(&next.span(), many);
                }
            }
            (_, other) => self.misplaced(section, other, &value.span()),
        }
    }

    fn one_of_many(&mut self, section: &'static Section, value: &Spanned<DeValue<'_>>) {
        let DeValue::Table(table) = value.get_ref() else {
            return self.misplaced(section, value.get_ref(), &value.span());
        };
        let given = self.settings(section, table, value.span());
        if section.name == OUTPUT {
            self.outputs.push((self.draft.take_output(), given));
        }
    }

    fn misplaced(&mut self, section: &Section, value: &DeValue<'_>, place: &Range<usize>) {
        self.is_whole = false;
        let (name, header) = (section.name, section.header());
        let written = match (section.shape, value) {
            (Shape::Many(_), DeValue::Table(_)) => format!("[{name}]"),
            (_, DeValue::Array(_)) => format!("[[{name}]]"),
            (_, value) => kind(value).to_owned(),
        };
        self.faults.add(place, format!("{name} is a section, not {written}; write {header}"));
    }

    /// Takes the settings of a section over, and the defaults of those that it does not have.
    fn settings(
        &mut self,
        section: &'static Section,
        table: &DeTable<'_>,
        header: Range<usize>,
    ) -> Given {
        let mut given = Given { header, values: BTreeMap::new() };
        for (key, value) in table {
            match section.setting(key.get_ref()) {
                Some(setting) => {
                    given.values.insert(setting.name, value.span());
                    self.values(section, setting, value);
                }
                None => self.unknown(key, |name| unknown::setting(section, name)),
            }
        }
        for setting in section.settings.iter().filter(|setting| !given.has(setting.name)) {
            match setting.value {
                Value::Default(texts) => {
                    for text in texts {
                        self.set(section, setting, text, &given.header);
                    }
                }
                Value::Required { .. } if self.is_whole => {
                    let missing = format!(
                        "{} has no {}; write {}",
                        section.name,
                        setting.name,
                        setting.line()
                    );
                    self.faults.add(&given.header, missing);
                }
                Value::Unset { .. } | Value::Required { .. } => {}
            }
        }
        given
    }

    /// Takes one value over, or all of a list.
    fn values(&mut self, section: &Section, setting: &Setting, value: &Spanned<DeValue<'_>>) {
        let most = setting.form.most;
        let DeValue::Array(values) = value.get_ref() else {
            return self.value(section, setting, value);
        };
        if most == 0 {
            return self.value(section, setting, value);
        }
        let name = format!("{}.{}", section.name, setting.name);
        if values.is_empty() {
            let empty = format!("{name} has no value; leave it out, or write {}", setting.line());
            self.faults.add(&value.span(), empty);
        }
        if let Some(next) = values.get(most) {
            let many = format!(
                "{name} has {} values, and takes at most {most}; leave the others out",
                values.len()
            );
            self.faults.add(&next.span(), many);
        }
        for value in values.iter().take(most) {
            self.value(section, setting, value);
        }
    }

    fn value(&mut self, section: &Section, setting: &Setting, value: &Spanned<DeValue<'_>>) {
        if let Some(text) = text_of(setting.form.scalar, value.get_ref()) {
            return self.set(section, setting, &text, &value.span());
        }
        let wrong = format!(
            "{}.{} cannot be {}; write {}, such as {}",
            section.name,
            setting.name,
            kind(value.get_ref()),
            wanted(setting),
            setting.line(),
        );
        self.faults.add(&value.span(), wrong);
    }

    fn set(&mut self, section: &Section, setting: &Setting, text: &str, place: &Range<usize>) {
        let set = if text.contains('\0') {
            Err("it has a NUL character; leave that out".to_owned())
        } else {
            (setting.set)(&mut self.draft, text)
        };
        if let Err(why) = set {
            let (section, name) = (section.name, setting.name);
            self.faults.add(place, format!("{section}.{name} cannot be {}: {why}", quoted(text)));
        }
    }

    fn unknown(&mut self, key: &Spanned<Cow<'_, str>>, text: impl Fn(&str) -> String) {
        self.unknown += 1;
        if self.unknown <= UNKNOWN {
            self.faults.add(&key.span(), text(key.get_ref()));
        } else if self.unknown == UNKNOWN + 1 {
            let more = format!("more than {UNKNOWN} names are unknown; mend these first");
            self.faults.add(&key.span(), more);
        }
    }
}

/// The value as text, as the command line's parsers take it; `None`: it is of another type.
fn text_of<'v>(scalar: Scalar, value: &'v DeValue<'_>) -> Option<Cow<'v, str>> {
    let is_text = matches!(scalar, Scalar::Text | Scalar::TextOrWhole | Scalar::Time);
    let is_decimal = matches!(scalar, Scalar::Decimal | Scalar::Time);
    let is_whole = is_decimal || matches!(scalar, Scalar::Whole | Scalar::TextOrWhole);
    match value {
        DeValue::String(text) if is_text => Some(Cow::Borrowed(text.as_ref())),
        DeValue::Integer(number) if is_whole => Some(decimal(number)),
        DeValue::Float(number) if is_decimal => Some(Cow::Borrowed(number.as_str())),
        DeValue::Boolean(true) if scalar == Scalar::Flag => Some(Cow::Borrowed("true")),
        DeValue::Boolean(false) if scalar == Scalar::Flag => Some(Cow::Borrowed("false")),
        _ => None,
    }
}

/// A whole number in decimal digits; one that has more than 128 bits as it is written.
fn decimal<'v>(number: &'v DeInteger<'_>) -> Cow<'v, str> {
    match i128::from_str_radix(number.as_str(), number.radix()) {
        Ok(number) => Cow::Owned(number.to_string()),
        Err(_) => Cow::Borrowed(number.as_str()),
    }
}

/// What kind of value this is, as in "a string".
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// What kinds of value a setting takes.
fn wanted(setting: &Setting) -> &'static str {
    match (setting.form.scalar, setting.form.most > 0) {
        (Scalar::Text, false) => "a string",
        (Scalar::Text, true) => "strings",
        (Scalar::Whole, false) => "a whole number",
        (Scalar::Whole, true) => "whole numbers",
        (Scalar::Decimal, false) => "a number",
        (Scalar::Decimal, true) => "numbers",
        (Scalar::TextOrWhole, false) => "a string or a whole number",
        (Scalar::TextOrWhole, true) => "strings or whole numbers",
        (Scalar::Time, _) => "a string or a number of seconds",
        (Scalar::Flag, _) => "true or false",
    }
}
