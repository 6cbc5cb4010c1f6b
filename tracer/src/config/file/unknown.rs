//! What is said of a name that is no setting.

use super::{
    fault::named,
    settings::{self, SECTIONS, Section},
};

/// The name that was meant: the one that the fewest changes make of `given`, if these are no more than 1 and a quarter of its
/// letters. `None`: there is none.
pub(super) fn nearest<'n>(given: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let letters = given.chars().count();
    // No name of a setting is as long as that, and the comparison takes time.
    if letters > 64 {
        return None;
    }
    let distances = names.map(|name| (strsim::damerau_levenshtein(given, name), name));
    let (distance, name) = distances.min()?;
    (distance <= 1 + letters / 4).then_some(name)
}

/// Of a name that is no setting of this section.
pub(super) fn setting(section: &Section, given: &str) -> String {
    let there_is_none = format!("there is no setting {}.{}", section.name, named(given));
    let names = || section.settings.iter().map(|setting| setting.name);
    if let Some(near) = nearest(given, names()) {
        return format!("{there_is_none}; write {near}");
    }
    if let Some(other) = section_with(given) {
        return format!("{there_is_none}; it belongs to {}", other.header());
    }
    let names: Vec<_> = names().collect();
    format!("{there_is_none}; {} has {}", section.header(), names.join(", "))
}

/// Of a name that is no section.
pub(super) fn section(given: &str) -> String {
    if let Some(section) = section_with(given) {
        return format!(
            "{} is before the first section; write it below {}",
            named(given),
            section.header()
        );
    }
    let there_is_none = format!("there is no section {}", named(given));
    let near = nearest(given, SECTIONS.iter().map(|section| section.name));
    if let Some(near) = near.and_then(settings::section) {
        return format!("{there_is_none}; write {}", near.header());
    }
    let headers: Vec<_> = SECTIONS.iter().map(Section::header).collect();
    format!("{there_is_none}; there are {}", headers.join(", "))
}

/// The first section that has a setting of this name; `None`: no section has.
fn section_with(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.setting(name).is_some())
}
