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
    /// Whether tests that say the same of every backend are run with each, not with one.
    pub(crate) thorough: bool,
    /// The backends that the tests force, one after the other.
    pub(crate) backends: &'static [Backend],
}

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
        thorough: false,
        backends: ALL,
    },
    Kernel {
        version: "6.1",
        suites: &["bookworm", "bookworm-security"],
        packages: &["linux-image-6.1.0-*-cloud-amd64"],
        modules: &["mptcp_diag"],
        chooses: Backend::Fexit,
        fast_ports: true,
        thorough: true,
        backends: ALL,
    },
    Kernel {
        version: "6.12",
        suites: &["bookworm-security", "trixie", "bookworm-backports"],
        packages: &["linux-image-6.12.*-cloud-amd64"],
        modules: &["mptcp_diag"],
        chooses: Backend::Fexit,
        fast_ports: true,
        thorough: false,
        backends: ALL,
    },
    Kernel {
        version: "6.18",
        suites: &["trixie-backports"],
        packages: &["linux-image-6.18.*-cloud-amd64"],
        modules: &["mptcp_diag"],
        chooses: Backend::Fexit,
        fast_ports: true,
        thorough: false,
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
        thorough: false,
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
