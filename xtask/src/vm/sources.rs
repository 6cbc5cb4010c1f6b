//! The addresses of Debian's archives, from this machine's apt sources in either format.

/// Addresses of archives, in the order in which to try them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Archives {
    /// Those with a suite that has the name of a release; first those that have a suite `NAME-updates`, too.
    pub(crate) main: Vec<String>,
    /// Those with a suite `NAME-security`.
    pub(crate) security: Vec<String>,
}

/// Names of Debian's releases. An entry of the apt sources counts if its suite is such a name, or `NAME-security`. Other entries
/// are ignored: they are a third party's, or parts like `NAME-updates` of an archive that also has an entry `NAME`.
const RELEASES: [&str; 11] = [
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "duke",
    "sid",
    "unstable",
    "testing",
    "stable",
    "oldstable",
    "oldoldstable",
];

/// An address of an archive, and one of its suites.
type Entry = (String, String);

impl Archives {
    /// Reads the files of `/etc/apt/sources.list*`: (name, content). A name that ends with `.sources` means deb822-style, any
    /// other one-line-style (sources.list(5)). Left out are entries that are not of type deb with the component main, that are
    /// disabled or of a CD, or whose suite is not one of [`RELEASES`].
    pub(crate) fn read(files: &[(String, String)]) -> Self {
        let entries: Vec<Entry> = files
            .iter()
            .flat_map(
                |(name, text)| {
                    if name.ends_with(".sources") { deb822(text) } else { one_line(text) }
                },
            )
            .filter(|(uri, _)| !uri.starts_with("cdrom:"))
            .collect();
        let mut archives = Self::default();
        for (uri, suite) in &entries {
            let list = match suite.split_once('-') {
                Some((release, "security")) if RELEASES.contains(&release) => {
                    &mut archives.security
                }
                None if RELEASES.contains(&suite.as_str()) => &mut archives.main,
                _ => continue,
            };
            if !list.contains(uri) {
                list.push(uri.clone());
            }
        }
        // Third parties also name suites after Debian's releases, but have no `-updates`: they come last.
        archives.main.sort_by_key(|uri| {
            !entries.iter().any(|(other, suite)| other == uri && suite.ends_with("-updates"))
        });
        archives
    }

    /// The addresses at which to look for this suite, which need not have it: for `NAME-security` [`Self::security`], for any
    /// other suite [`Self::main`]. Empty if the apt sources have none.
    pub(crate) fn of(&self, suite: &str) -> &[String] {
        if suite.ends_with("-security") { &self.security } else { &self.main }
    }
}

/// Parses lines `deb [options] uri suite component…`; takes those with the component main.
fn one_line(text: &str) -> Vec<Entry> {
    text.lines()
        .filter_map(|line| {
            let rest = line.trim().strip_prefix("deb ")?.trim_start();
            let rest = match rest.strip_prefix('[') {
                Some(options) => options.split_once(']')?.1,
                None => rest,
            };
            let mut words = rest.split('#').next()?.split_whitespace();
            let (uri, suite) = (words.next()?, words.next()?);
            words.any(|component| component == "main").then(|| (uri.to_owned(), suite.to_owned()))
        })
        .collect()
}

/// Parses paragraphs of `Field: values`, which continue on lines that begin with a space; takes those of the type deb with the
/// component main, unless they are disabled.
fn deb822(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for paragraph in lines.split(|line| line.trim().is_empty()) {
        let values = |wanted: &str| {
            let mut inside = false;
            let mut values = Vec::new();
            for line in paragraph {
                let mut rest = *line;
                if !line.starts_with([' ', '\t']) {
                    let Some((name, value)) = line.split_once(':') else { continue };
                    inside = name.eq_ignore_ascii_case(wanted);
                    rest = value;
                }
                if inside {
                    values.extend(rest.split_whitespace());
                }
            }
            values
        };
        if !values("Types").contains(&"deb")
            || !values("Components").contains(&"main")
            || values("Enabled").contains(&"no")
        {
            continue;
        }
        for uri in values("URIs") {
            entries
                .extend(values("Suites").iter().map(|suite| (uri.to_owned(), (*suite).to_owned())));
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &str, text: &str) -> Archives {
        Archives::read(&[(name.to_owned(), text.to_owned())])
    }

    fn debian() -> Archives {
        Archives {
            main: vec!["http://a.test/debian".to_owned()],
            security: vec!["http://s.test/debian-security".to_owned()],
        }
    }

    #[test]
    fn addresses_are_read_from_deb822_sources() {
        let text = "Types: deb\n# a comment\nURIs: http://a.test/debian\nSuites: bookworm\n bookworm-updates\n\
            Components: main\n\nTypes: deb\nURIs: http://s.test/debian-security\nSuites: bookworm-security\nComponents: main\n";
        assert_eq!(read("debian.sources", text), debian());
    }

    #[test]
    fn addresses_are_read_from_one_line_sources() {
        let text = "# deb http://old.test/debian bookworm main\n\
            deb [signed-by=/k.gpg arch=amd64] http://a.test/debian bookworm main contrib # here\n\
            deb-src http://src.test/debian bookworm main\n\
            deb http://s.test/debian-security bookworm-security main\n";
        assert_eq!(read("sources.list", text), debian());
    }

    #[test]
    fn disabled_foreign_and_offline_sources_are_left_out() {
        let disabled = "Enabled: no\nTypes: deb\nURIs: http://a.test/debian\nSuites: bookworm\nComponents: main\n";
        assert_eq!(read("a.sources", disabled), Archives::default());
        let foreign = "deb http://n.test nodistro main\ndeb cdrom:[disc] bookworm main\ndeb http://d.test bookworm stable\n";
        assert_eq!(read("a.list", foreign), Archives::default());
    }

    #[test]
    fn the_archive_that_has_updates_comes_before_third_parties() {
        let text = "deb http://third.test bookworm main\ndeb http://a.test/debian bookworm main\n\
            deb http://a.test/debian bookworm-updates main\n";
        assert_eq!(
            read("a.list", text).of("trixie"),
            ["http://a.test/debian", "http://third.test"]
        );
    }
}
