//! THE list of kernels that `tracer` is tested on; README's table is made from it.

/// How `tracer` watches the kernel, by the name that `--backend` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Fexit,
    Kprobe,
    Tracepoint,
}

impl Backend {
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
    /// The series, as a person names it.
    pub(crate) version: &'static str,
    /// Debian suites to look in; the first that has the packages is taken.
    pub(crate) suites: &'static [&'static str],
    /// Packages to unpack: `*` stands for digits, dots and Debian's `+debNN`. The newest is taken.
    pub(crate) packages: &'static [&'static str],
    /// Kernel modules beside those that all guests load.
    pub(crate) modules: &'static [&'static str],
    /// The backend that must be chosen when none is asked for.
    pub(crate) chooses: Backend,
    /// Whether `tracer spread` hands out ports itself where the kernel would search long.
    pub(crate) fast_ports: bool,
    /// How much of the tests runs in it, in each matrix.
    pub(crate) depths: Depths,
    /// The backends that the tests force, one after the other.
    pub(crate) backends: &'static [Backend],
}

/// How much of the tests a guest runs: `tests/src/cases/depth.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Depth {
    Part,
    Whole,
    Thorough,
}

impl Depth {
    /// As `TRACER_DEPTH` has it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Part => "part",
            Self::Whole => "whole",
            Self::Thorough => "thorough",
        }
    }
}

/// By matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Depths {
    pub(crate) short: Depth,
    pub(crate) long: Depth,
}

/// Which tests run in the guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Matrix {
    /// Of `cargo xtask test`: the oldest and the newest kernel, and a part in those between.
    Short,
    /// Of `cargo xtask ci` and `cargo xtask test vm`: everything.
    Long,
}

impl Kernel {
    pub(crate) const fn depth(&self, matrix: Matrix) -> Depth {
        match matrix {
            Matrix::Short => self.depths.short,
            Matrix::Long => self.depths.long,
        }
    }
}

/// The oldest and the newest.
const AN_END: Depths = Depths { short: Depth::Whole, long: Depth::Whole };
const BETWEEN: Depths = Depths { short: Depth::Part, long: Depth::Whole };

const ALL: &[Backend] = &[Backend::Fexit, Backend::Kprobe, Backend::Tracepoint];

/// Oldest first: Debian's cloud kernels, in the suites that keep them longest.
pub(crate) const KERNELS: [Kernel; 5] = [
    Kernel {
        version: "5.10",
        suites: &["bullseye", "bullseye-security"],
        packages: &["linux-image-5.10.0-*-cloud-amd64"],
        // No MPTCP in this one.
        modules: &[],
        chooses: Backend::Fexit,
        fast_ports: false,
        depths: AN_END,
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
        // The image is split in two from 7.0 on. sid moves on; the backports keep older versions.
        suites: &["trixie-backports", "sid"],
        packages: &["linux-binary-7.2.*-cloud-amd64", "linux-modules-7.2.*-cloud-amd64"],
        modules: &["mptcp_diag"],
        chooses: Backend::Fexit,
        fast_ports: true,
        depths: AN_END,
        backends: ALL,
    },
];

/// The matrix as README shows it.
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
