//! Which files a package has, and where.

use std::io;

use super::archive::{File, gzip};

/// The documentation's folder.
const DOC: &str = "usr/share/doc/tracer";

/// What a package is made of.
pub(crate) struct Parts {
    /// The static binary.
    pub(crate) program: Vec<u8>,
    /// The man pages: names, such as `tracer.toml.5`, and texts.
    pub(crate) man: Vec<(String, String)>,
    /// The completions for bash, fish and zsh.
    pub(crate) completions: [String; 3],
    /// The configuration with every setting, which works as it is.
    pub(crate) example: String,
    /// The unit for systemd.
    pub(crate) unit: String,
    /// Drop-ins for the unit: names and texts.
    pub(crate) drop_ins: Vec<(&'static str, String)>,
    /// The alerts and recording rules for Prometheus.
    pub(crate) rules: String,
    /// The dashboard for Grafana.
    pub(crate) dashboard: String,
    /// CHANGELOG.md.
    pub(crate) changelog: String,
    /// Who has the copyright, and the licences, in Debian's form.
    pub(crate) copyright: String,
}

/// The configuration: kept by an upgrade if it was edited.
pub(crate) const CONFIGURATION: &str = "etc/tracer/tracer.toml";

/// The files that every package has, in no order. Documents that Debian wants compressed are. A man page's section is what
/// follows the last dot of its name.
pub(crate) fn files(parts: Parts) -> io::Result<Vec<File>> {
    let [bash, fish, zsh] = parts.completions;
    let mut files = vec![
        File::program("usr/bin/tracer", parts.program),
        File::new(CONFIGURATION, parts.example),
        File::new("usr/lib/systemd/system/tracer.service", parts.unit),
        File::new("usr/share/bash-completion/completions/tracer", bash),
        File::new("usr/share/fish/vendor_completions.d/tracer.fish", fish),
        File::new("usr/share/zsh/vendor-completions/_tracer", zsh),
        File::new(format!("{DOC}/examples/tracer.rules.yml"), parts.rules),
        File::new(format!("{DOC}/examples/tracer.dashboard.json"), parts.dashboard),
        File::new(format!("{DOC}/copyright"), parts.copyright),
        File::new(format!("{DOC}/changelog.gz"), gzip(parts.changelog.as_bytes())?),
    ];
    files.extend(parts.drop_ins.into_iter().map(|(name, text)| document(name, text)));
    for (name, text) in parts.man {
        let section = name.rsplit('.').next().unwrap_or_default();
        let path = format!("usr/share/man/man{section}/{name}.gz");
        files.push(File::new(path, gzip(text.as_bytes())?));
    }
    Ok(files)
}

/// A file of the documentation.
pub(crate) fn document(name: &str, bytes: impl Into<Vec<u8>>) -> File {
    File::new(format!("{DOC}/{name}"), bytes)
}

/// Parts whose contents are their own names, for tests.
#[cfg(test)]
pub(crate) fn sample() -> Parts {
    let text = str::to_owned;
    Parts {
        program: b"program".to_vec(),
        man: vec![(text("tracer.1"), text("one")), (text("tracer.toml.5"), text("five"))],
        completions: [text("bash"), text("fish"), text("zsh")],
        example: text("example"),
        unit: text("unit"),
        drop_ins: vec![("host-only.conf", text("fewer rights"))],
        rules: text("rules"),
        dashboard: text("dashboard"),
        changelog: text("changelog"),
        copyright: text("copyright"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_file_is_where_it_is_looked_for() {
        let files = files(sample()).unwrap();
        let mut found: Vec<_> =
            files.iter().map(|file| format!("{:o} {}", file.mode, file.path)).collect();
        found.sort();
        let expected = [
            "644 etc/tracer/tracer.toml",
            "644 usr/lib/systemd/system/tracer.service",
            "644 usr/share/bash-completion/completions/tracer",
            "644 usr/share/doc/tracer/changelog.gz",
            "644 usr/share/doc/tracer/copyright",
            "644 usr/share/doc/tracer/examples/tracer.dashboard.json",
            "644 usr/share/doc/tracer/examples/tracer.rules.yml",
            "644 usr/share/doc/tracer/host-only.conf",
            "644 usr/share/fish/vendor_completions.d/tracer.fish",
            "644 usr/share/man/man1/tracer.1.gz",
            "644 usr/share/man/man5/tracer.toml.5.gz",
            "644 usr/share/zsh/vendor-completions/_tracer",
            "755 usr/bin/tracer",
        ];
        assert_eq!(found, expected);
        let bash = files.iter().find(|file| file.path.contains("bash")).unwrap();
        assert_eq!(bash.bytes, b"bash");
    }
}
