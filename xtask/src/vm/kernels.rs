//! The list of kernels on which `tracer` is tested; README.md's table is made from it.

/// A backend of `tracer`: the kind of BPF programs with which it traces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Fexit,
    Kprobe,
    Tracepoint,
}

impl Backend {
    /// The value of `--backend`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
            Self::Tracepoint => "tracepoint",
        }
    }
}

/// One kernel of the matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kernel {
    /// The version without its last number: `6.12`.
    pub(crate) version: &'static str,
    /// Debian suites; the first one that has the packages is used.
    pub(crate) suites: &'static [&'static str],
    /// Packages to unpack: `*` stands for one or more letters, digits, dots and `+`. The match with the highest version is used.
    pub(crate) packages: &'static [&'static str],
    /// Kernel modules that the guest loads, in addition to those of all guests.
    pub(crate) modules: &'static [&'static str],
    /// The backend that tracer must choose by default.
    pub(crate) chooses: Backend,
    /// Whether `tracer spread` has fast ports.
    pub(crate) fast_ports: bool,
    /// How many of the tests run in the guest, in each matrix.
    pub(crate) depths: Depths,
    /// The backends that are tested with `--backend`.
    pub(crate) backends: &'static [Backend],
}

/// How many of the tests a guest runs (`tests/src/cases/depth.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Depth {
    /// The tests that are most likely to fail on one kernel only.
    Part,
    /// As `Whole`, without tests of what old kernels lack and new ones do not change.
    Most,
    /// All tests whose result depends on the kernel; those whose result is the same with every backend run with the default one
    /// only.
    Whole,
    /// All tests, with every backend, except those that only the host runs.
    Thorough,
}

impl Depth {
    /// The value of `TRACER_DEPTH`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Part => "part",
            Self::Most => "most",
            Self::Whole => "whole",
            Self::Thorough => "thorough",
        }
    }
}

/// The depth in each [`Matrix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depths {
    pub(crate) short: Depth,
    pub(crate) long: Depth,
}

/// Which tests run in the guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matrix {
    /// For `cargo xtask test`: most tests in the oldest and the newest kernel, and some in those between.
    Short,
    /// For `cargo xtask ci` and `cargo xtask test vm`: on every kernel all tests whose result depends on the kernel, and on one
    /// kernel also the tests whose result does not.
    Long,
}

impl Kernel {
    /// How many of the tests run on this kernel in this matrix.
    pub(crate) const fn depth(&self, matrix: Matrix) -> Depth {
        match matrix {
            Matrix::Short => self.depths.short,
            Matrix::Long => self.depths.long,
        }
    }
}

const OLDEST: Depths = Depths { short: Depth::Whole, long: Depth::Whole };
const NEWEST: Depths = Depths { short: Depth::Most, long: Depth::Whole };
/// The depths of the kernels between them, but for the one that is tested thoroughly.
const BETWEEN: Depths = Depths { short: Depth::Part, long: Depth::Whole };

const ALL: &[Backend] = &[Backend::Fexit, Backend::Kprobe, Backend::Tracepoint];

/// Debian's cloud kernels, oldest first. Of a kernel's suites, the first that has its packages is used.
pub(crate) const KERNELS: [Kernel; 5] = [
    Kernel {
        version: "5.10",
        suites: &["bullseye", "bullseye-security"],
        packages: &["linux-image-5.10.0-*-cloud-amd64"],
        // This kernel has no MPTCP.
        modules: &[],
        chooses: Backend::Fexit,
        fast_ports: false,
        depths: OLDEST,
        backends: ALL,
    },
    Kernel {
        version: "6.1",
        suites: &["bookworm", "bookworm-security"],
        packages: &["linux-image-6.1.0-*-cloud-amd64"],
        modules: &["mptcp_diag"],
        chooses: Backend::Fexit,
        fast_ports: true,
        depths: Depths { short: Depth::Part, long: Depth::Thorough },
        backends: ALL,
    },
    Kernel {
        version: "6.12",
        suites: &["bookworm-security", "trixie", "bookworm-backports"],
        packages: &["linux-image-6.12.*-cloud-amd64"],
        modules: &["mptcp_diag"],
        chooses: Backend::Fexit,
        fast_ports: true,
        depths: BETWEEN,
        backends: ALL,
    },
    Kernel {
        version: "6.18",
        suites: &["trixie-backports"],
        packages: &["linux-image-6.18.*-cloud-amd64"],
        modules: &["mptcp_diag"],
        chooses: Backend::Fexit,
        fast_ports: true,
        depths: BETWEEN,
        backends: ALL,
    },
    Kernel {
        version: "7.2",
        // From 7.0 on, the image is in two packages. sid has only the newest version; the backports keep older ones.
        suites: &["trixie-backports", "sid"],
        packages: &["linux-binary-7.2.*-cloud-amd64", "linux-modules-7.2.*-cloud-amd64"],
        modules: &["mptcp_diag"],
        chooses: Backend::Fexit,
        fast_ports: true,
        depths: NEWEST,
        backends: ALL,
    },
];

/// The matrix as README.md's table, in Markdown: a line for each kernel, the last one with a line end.
pub(crate) fn table() -> String {
    let rows = KERNELS.iter().map(|kernel| {
        let forced: Vec<&str> = kernel.backends.iter().map(|backend| backend.name()).collect();
        let forced = forced.join(", ");
        let fast = if kernel.fast_ports { "with fast ports" } else { "without fast ports" };
        [kernel.version, kernel.suites[0], kernel.chooses.name(), &forced, fast].join(" | ")
    });
    let head = [
        "kernel | Debian suite | chosen by itself | tested when forced | `spread`",
        "---|---|---|---|---",
    ];
    let rows: Vec<String> = head.map(str::to_owned).into_iter().chain(rows).collect();
    format!("| {} |\n", rows.join(" |\n| "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_row_for_every_kernel() {
        let table = table();
        assert_eq!(table.lines().count(), KERNELS.len() + 2);
        assert!(
            table.contains("| 5.10 | bullseye | fexit | fexit, kprobe, tracepoint | without fast"),
            "{table}"
        );
    }
}
