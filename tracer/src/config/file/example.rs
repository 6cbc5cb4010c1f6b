//! `tracer config example`: a file with every setting.

use super::settings::{METRICS, SECTIONS, Section, Setting, Shape, Value};

const HEAD: &str = "\
# The configuration of `tracer agent`, in TOML. This file works as it is.
#
# A setting after a # has its default, or is not set; then its value here is a sample.
# After a change: tracer config check FILE. All settings: man 5 tracer.toml
";
/// Settings that have no default, and a value in the example.
const WRITTEN: [(&str, &str); 1] = [(METRICS, "listen")];
/// Fields for the example.
const FIELDS: [&str; 2] =
    ["deployment.environment.name = \"production\"", "service.version = \"1.2.3\""];
/// Columns of a comment.
const COLUMNS: usize = 98;

/// A file with every setting, what it does, and its default. It is a right one.
pub fn example() -> String {
    let sections: Vec<String> = SECTIONS.iter().map(section).collect();
    format!("{HEAD}\n{}", sections.join("\n"))
}

fn section(section: &Section) -> String {
    let mut text = comment(section.about);
    text += &section.header();
    text.push('\n');
    for setting in section.settings {
        text.push('\n');
        text += &comment(&described(setting));
        let is_written = matches!(setting.value, Value::Required { .. })
            || WRITTEN.contains(&(section.name, setting.name));
        if !is_written {
            text += "# ";
        }
        text += &setting.line();
        text.push('\n');
    }
    if section.shape == Shape::Free {
        text.extend(FIELDS.map(|line| format!("# {line}\n")));
    }
    text
}

/// What a setting does, and what it means that it is not set.
pub(super) fn described(setting: &Setting) -> String {
    match setting.value {
        Value::Unset { absent, .. } => format!("{}. Default: {absent}.", setting.help),
        Value::Default(_) | Value::Required { .. } => format!("{}.", setting.help),
    }
}

/// A text as comments of at most [`COLUMNS`] columns.
fn comment(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.split(' ') {
        if line.chars().count() + 1 + word.chars().count() > COLUMNS {
            lines += &line;
            lines.push('\n');
            line.truncate(1);
        }
        line.push(' ');
        line += word;
    }
    lines + &line + "\n"
}
