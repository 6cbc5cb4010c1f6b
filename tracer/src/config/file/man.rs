//! tracer.toml(5), made of the table of settings.

use roff::{Roff, bold, italic, roman};

use super::{
    example::described,
    settings::{SECTIONS, Section, Shape, Value},
};

/// The man page: its file name, and its text.
pub fn page() -> (&'static str, String) {
    let mut page = Roff::new();
    page.control("TH", ["tracer.toml", "5"]);
    page.control("SH", ["NAME"]);
    page.text([roman("tracer.toml - the configuration of tracer agent")]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([italic("/etc/tracer/tracer.toml")]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        roman("A file in TOML, UTF-8, of at most 1 MiB. It has at least one section "),
        bold("[[output]]"),
        roman(", or "),
        bold("listen"),
        roman(" or "),
        bold("textfile"),
        roman(" in "),
        bold("[metrics]"),
        roman(". All else may be left out. An unknown setting is an error. A list of one value may be written without brackets."),
    ]);
    page.control("PP", []);
    page.text([
        bold("tracer config check"),
        roman(" FILE prints everything that is wrong with a file; "),
        bold("tracer config example"),
        roman(" prints one with every setting, which works as it is."),
    ]);
    for section in SECTIONS {
        add(&mut page, section);
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("tracer-config"), roman("(1), "), bold("tracer-record"), roman("(1)")]);
    ("tracer.toml.5", page.render())
}

fn add(page: &mut Roff, section: &Section) {
    let heading = section.header();
    page.control("SH", [heading.as_str()]);
    page.text([roman(section.about)]);
    for setting in section.settings {
        page.control("TP", []);
        page.text([bold(setting.line())]);
        let note = match setting.value {
            Value::Default(_) => " This is the default.",
            Value::Required { .. } => " Required.",
            Value::Unset { .. } => "",
        };
        page.text([roman(format!("{}{note}", described(setting)))]);
    }
    if section.shape == Shape::Free {
        page.control("TP", []);
        page.text([bold("service.version = \"1.2.3\"")]);
        page.text([roman("A key, with or without quotes, and its value.")]);
    }
}
