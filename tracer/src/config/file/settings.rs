//! The table of all settings: name, form, default, what it does, and how a value is taken over.

mod kernel;
mod metrics;
mod output;

use super::draft::Draft;

/// A part of the file.
#[derive(Debug)]
pub(super) struct Section {
    pub name: &'static str,
    pub shape: Shape,
    /// What the section is for, as sentences.
    pub about: &'static str,
    /// Empty for [`Shape::Free`].
    pub settings: &'static [Setting],
}

/// How a section is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shape {
    /// `[name]`, once.
    One,
    /// `[[name]]`, at most this many times.
    Many(usize),
    /// `[name]`, once, with keys of the user's choice.
    Free,
}

/// A setting of a section.
#[derive(Debug)]
pub(super) struct Setting {
    pub name: &'static str,
    pub form: Form,
    pub value: Value,
    /// What it does, as a sentence without a full stop at its end.
    pub help: &'static str,
    /// Takes a value over. Of a list, this is called for each value.
    ///
    /// # Errors
    /// Why the text is refused, and what is expected.
    pub set: fn(&mut Draft, &str) -> Result<(), String>,
}

/// How a value is written in TOML.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Form {
    pub scalar: Scalar,
    /// The most values of a list, which may also be written as one value without brackets; 0: no list.
    pub most: usize,
}

/// One value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Scalar {
    /// A string.
    Text,
    /// A whole number.
    Whole,
    /// A number, whole or not.
    Decimal,
    /// A string, or a whole number.
    TextOrWhole,
    /// A string, or a number of seconds.
    Time,
    /// `true` or `false`.
    Flag,
}

/// What a setting is if the file does not have it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    /// These texts, as [`Setting::set`] takes them.
    Default(&'static [&'static str]),
    /// Not set; `absent` says what that means, `sample` is a value for the example.
    Unset { sample: &'static [&'static str], absent: &'static str },
    /// The file must have it; `sample` is the value in the example.
    Required { sample: &'static [&'static str] },
}

impl Value {
    /// The default, or a sample if there is none: texts, as [`Setting::set`] takes them.
    pub(super) fn texts(self) -> &'static [&'static str] {
        match self {
            Self::Default(texts) => texts,
            Self::Unset { sample, .. } | Self::Required { sample } => sample,
        }
    }
}

impl Setting {
    /// These texts as a value of this setting in TOML.
    pub(super) fn toml(&self, texts: &[&str]) -> String {
        let bare = |text: &str| match self.form.scalar {
            Scalar::Whole | Scalar::Decimal | Scalar::Flag => true,
            Scalar::TextOrWhole => text.bytes().all(|byte| byte.is_ascii_digit()),
            Scalar::Text | Scalar::Time => false,
        };
        let one = |text: &&str| {
            if bare(text) { (*text).to_owned() } else { format!("\"{text}\"") }
        };
        let values: Vec<String> = texts.iter().map(one).collect();
        if self.form.most > 0 { format!("[{}]", values.join(", ")) } else { values.concat() }
    }

    /// The setting as a line of the file, with its default or a sample: `interval = "10s"`.
    pub(super) fn line(&self) -> String {
        format!("{} = {}", self.name, self.toml(self.value.texts()))
    }
}

/// A section by its name.
pub(super) fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

impl Section {
    /// A setting by its name.
    pub(super) fn setting(&self, name: &str) -> Option<&'static Setting> {
        self.settings.iter().find(|setting| setting.name == name)
    }

    /// The section's header: `[kernel]` or `[[output]]`.
    pub(super) fn header(&self) -> String {
        match self.shape {
            Shape::Many(_) => format!("[[{}]]", self.name),
            Shape::One | Shape::Free => format!("[{}]", self.name),
        }
    }
}

/// The section with keys of the user's choice.
pub(super) const FIELDS: &str = "fields";
/// The section of which there may be several.
pub(super) const OUTPUT: &str = "output";
/// The section about metrics.
pub(super) const METRICS: &str = "metrics";

/// All sections, in the order of the example and the man page.
pub(super) static SECTIONS: &[Section] = &[
    Section {
        name: "kernel",
        shape: Shape::One,
        about: "Hooks and tables. The options of `tracer record` of the same names, with - for _.",
        settings: kernel::SETTINGS,
    },
    Section {
        name: OUTPUT,
        shape: Shape::Many(8),
        about: "A file or stdout that gets lines of JSON, as `tracer record` writes them. Up to 8 of these, each with a path of its \
                own. Filters: values of one setting are alternatives; different settings must all match.",
        settings: output::SETTINGS,
    },
    Section {
        name: METRICS,
        shape: Shape::One,
        about: "Metrics for Prometheus: served over HTTP, or in a file for node_exporter, or both.",
        settings: metrics::METRICS,
    },
    Section {
        name: FIELDS,
        shape: Shape::Free,
        about: "Keys that every line of every output has. Up to 16: keys of a-z, 0-9, _ and dots, at most 64 bytes; values of at \
                most 256 bytes. A key that tracer writes itself is refused, except host.name.",
        settings: &[],
    },
    Section {
        name: "thresholds",
        shape: Shape::One,
        about: "What counts as near the limit.",
        settings: metrics::THRESHOLDS,
    },
];
