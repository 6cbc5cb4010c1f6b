//! Decides from the facts what to install next for the eBPF toolchain, without I/O.

use super::{
    Toolchain, Way,
    facts::{CORE_PACKAGE, Compiler, Facts, Installer, LINKER, LLVM_MAJORS, Linker, linker_root},
};

/// The oldest Rust release that builds the workspace: `rust-version` in Cargo.toml.
const OLDEST_RUST: (u32, u32) = (1, 95);

/// The oldest version of bpf-linker that is used; an older one counts as missing.
const OLDEST_LINKER: (u32, u32) = (0, 13);

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing is missing.
    Ready(Toolchain),
    /// Do this step; what comes after it is decided then.
    Step(Step),
    /// This program cannot install what is missing; the text says what to do.
    Stuck(String),
}

/// One step of the set-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Update apt's package lists.
    AptUpdate,
    /// Install these packages with apt.
    Apt(Vec<String>),
    /// Install rustup's nightly with the source of core.
    Nightly,
    /// Build bpf-linker with the distribution's LLVM of this major version.
    Linker { llvm: u32 },
}

/// The next step towards a complete toolchain: [`Next::Ready`] if there is none to do, [`Next::Stuck`] if none helps.
pub(crate) fn next(facts: &Facts) -> Next {
    match way(facts) {
        Some(Way::Distribution) => distribution(facts),
        Some(Way::Nightly) => nightly(facts),
        None => Next::Step(Step::AptUpdate),
    }
}

/// The way to use: the one that the user chose, or else one whose compiler is installed, or else one that can be installed; if
/// none can, the distribution's, for which a later step says what is missing. `None` if the package lists must be updated before
/// that is known.
fn way(facts: &Facts) -> Option<Way> {
    if facts.forced.is_some() {
        return facts.forced;
    }
    if usable(facts.distribution.as_ref()).is_some() {
        return Some(Way::Distribution);
    }
    if usable(facts.nightly.as_ref()).is_some() {
        return Some(Way::Nightly);
    }
    match facts.candidate {
        Some(candidate) if candidate >= OLDEST_RUST => Some(Way::Distribution),
        _ if facts.installer == Installer::Apt && !facts.updated => None,
        _ if facts.rustup => Some(Way::Nightly),
        _ => Some(Way::Distribution),
    }
}

fn usable(compiler: Option<&Compiler>) -> Option<&Compiler> {
    compiler.filter(|compiler| compiler.core && compiler.release >= OLDEST_RUST)
}

fn distribution(facts: &Facts) -> Next {
    match usable(facts.distribution.as_ref()) {
        Some(compiler) => linker(facts, Way::Distribution, compiler.llvm),
        None => apt(facts, ["rustc-web", "cargo-web", CORE_PACKAGE].map(str::to_owned).to_vec()),
    }
}

fn nightly(facts: &Facts) -> Next {
    match usable(facts.nightly.as_ref()) {
        Some(compiler) => linker(facts, Way::Nightly, compiler.llvm),
        None if facts.rustup => Next::Step(Step::Nightly),
        None => {
            Next::Stuck("rustup, which installs the nightly toolchain, is not installed".to_owned())
        }
    }
}

fn linker(facts: &Facts, way: Way, llvm: u32) -> Next {
    // An older LLVM cannot read the bitcode of a newer one.
    let fits = |linker: &&Linker| {
        linker.version >= OLDEST_LINKER && linker.llvm.is_none_or(|major| major >= llvm)
    };
    if let Some(linker) = facts.linkers.iter().find(fits) {
        return Next::Ready(Toolchain { way, linker: linker.path.clone() });
    }
    if !LLVM_MAJORS.contains(&llvm) {
        return Next::Stuck(format!(
            "rustc has LLVM {llvm}, which bpf-linker {LINKER} cannot be built with (it takes {} to {}); install a \
             bpf-linker that can and put it on PATH",
            LLVM_MAJORS.start(),
            LLVM_MAJORS.end()
        ));
    }
    if facts.llvm_dev.contains(&llvm) {
        return Next::Step(Step::Linker { llvm });
    }
    if way == Way::Nightly && facts.installer == Installer::None {
        return Next::Stuck(format!(
            "bpf-linker is missing; get a release of it from its project (or build {LINKER} with LLVM {llvm}) \
             and put it on PATH"
        ));
    }
    apt(facts, vec![format!("llvm-{llvm}-dev")])
}

fn apt(facts: &Facts, packages: Vec<String>) -> Next {
    Next::Step(if facts.updated { Step::Apt(packages) } else { Step::AptUpdate })
}

impl Step {
    pub(crate) fn needs_root(&self) -> bool {
        matches!(self, Self::AptUpdate | Self::Apt(_))
    }

    /// What the step does, as a message for the user.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::AptUpdate => "something is missing; reading the package lists".to_owned(),
            Self::Apt(packages) => format!("installing {}", packages.join(", ")),
            Self::Nightly => "installing rustup's nightly with the source of core".to_owned(),
            Self::Linker { llvm } => format!("building bpf-linker {LINKER} with LLVM {llvm}"),
        }
    }

    /// The commands of the step, each a line for a shell, to be run in the workspace's root.
    pub(crate) fn commands(&self) -> Vec<String> {
        match self {
            Self::AptUpdate => vec!["apt-get update".to_owned()],
            Self::Apt(packages) => {
                vec![format!("apt-get install -y --no-install-recommends {}", packages.join(" "))]
            }
            Self::Nightly => vec![
                "rustup toolchain install nightly --profile minimal --component rust-src"
                    .to_owned(),
            ],
            Self::Linker { llvm } => vec![linker_command(&llvm.to_string(), &linker_root(*llvm))],
        }
    }
}

/// The command that builds bpf-linker, with little optimization: LLVM, which does most of the work, is built already.
fn linker_command(llvm: &str, root: &str) -> String {
    format!(
        "LLVM_PREFIX=/usr/lib/llvm-{llvm} CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
         cargo install bpf-linker@{LINKER} --locked --no-default-features \
         --features llvm-{llvm} --root {root}"
    )
}

/// What a user has to run when this program is not root, each a line for a shell: `apt-get update`, and the commands of the step
/// that [`next`] returns for these facts once the lists are updated. If that step installs rustc, a last command installs the
/// LLVM that fits it. Only `apt-get update` if [`next`] returns no step.
pub(crate) fn commands(facts: &Facts) -> Vec<String> {
    let facts = Facts { updated: true, ..facts.clone() };
    let mut commands = Step::AptUpdate.commands();
    if let Next::Step(step) = next(&facts) {
        commands.extend(step.commands());
        if matches!(&step, Step::Apt(packages) if packages.iter().any(|name| name == CORE_PACKAGE))
        {
            // The LLVM version of that rustc is known only once it is installed, so a shell command reads it.
            let version = r"sed -n 's/^LLVM version: \([0-9]*\).*/\1/p'";
            commands.push(format!(
                "apt-get install -y --no-install-recommends llvm-$(/usr/bin/rustc -vV | {version})-dev"
            ));
        }
    }
    commands
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn compiler() -> Compiler {
        Compiler { release: (1, 96), llvm: 22, core: true }
    }

    fn linker(llvm: Option<u32>) -> Linker {
        Linker { path: PathBuf::from("/bin/bpf-linker"), version: (0, 13), llvm }
    }

    /// A fresh Debian 12 whose package lists were read.
    fn fresh() -> Facts {
        Facts {
            installer: Installer::Apt,
            updated: true,
            candidate: Some((1, 96)),
            rustup: true,
            ..Facts::default()
        }
    }

    fn ready(way: Way) -> Next {
        Next::Ready(Toolchain { way, linker: PathBuf::from("/bin/bpf-linker") })
    }

    #[test]
    fn a_fresh_debian_gets_compiler_llvm_and_linker_in_this_order() {
        let lists_unread = Facts { updated: false, candidate: None, ..fresh() };
        assert_eq!(next(&lists_unread), Next::Step(Step::AptUpdate));
        let packages = ["rustc-web", "cargo-web", CORE_PACKAGE].map(str::to_owned).to_vec();
        assert_eq!(next(&fresh()), Next::Step(Step::Apt(packages)));
        let compiled = Facts { distribution: Some(compiler()), ..fresh() };
        assert_eq!(next(&compiled), Next::Step(Step::Apt(vec!["llvm-22-dev".to_owned()])));
        let with_llvm = Facts { llvm_dev: vec![22], ..compiled };
        assert_eq!(next(&with_llvm), Next::Step(Step::Linker { llvm: 22 }));
        let linked = Facts { linkers: vec![linker(Some(22))], ..with_llvm };
        assert_eq!(next(&linked), ready(Way::Distribution));
    }

    #[test]
    fn nothing_is_installed_or_updated_when_nothing_is_missing() {
        let offline = Facts {
            distribution: Some(compiler()),
            linkers: vec![linker(Some(22))],
            ..Facts::default()
        };
        assert_eq!(next(&offline), ready(Way::Distribution));
    }

    #[test]
    fn a_nightly_with_source_is_taken_where_the_distribution_has_no_core() {
        let facts = Facts { nightly: Some(compiler()), linkers: vec![linker(None)], ..fresh() };
        assert_eq!(next(&facts), ready(Way::Nightly));
        let no_source = Compiler { core: false, ..compiler() };
        let old = Facts { candidate: Some((1, 85)), nightly: Some(no_source), ..fresh() };
        assert_eq!(next(&old), Next::Step(Step::Nightly));
    }

    #[test]
    fn the_way_that_is_asked_for_is_taken() {
        let facts = Facts {
            forced: Some(Way::Nightly),
            distribution: Some(compiler()),
            nightly: Some(compiler()),
            linkers: vec![linker(None)],
            ..fresh()
        };
        assert_eq!(next(&facts), ready(Way::Nightly));
    }

    #[test]
    fn a_linker_with_an_older_llvm_than_the_compiler_is_not_used() {
        let facts = Facts {
            distribution: Some(compiler()),
            linkers: vec![linker(Some(21)), linker(Some(23))],
            ..fresh()
        };
        assert_eq!(next(&facts), ready(Way::Distribution));
        let old = Facts { linkers: vec![linker(Some(21))], llvm_dev: vec![22], ..facts };
        assert_eq!(next(&old), Next::Step(Step::Linker { llvm: 22 }));
    }

    #[test]
    fn a_compiler_that_is_too_new_for_the_linker_is_an_error() {
        let newer = Compiler { llvm: 30, ..compiler() };
        let Next::Stuck(why) = next(&Facts { distribution: Some(newer), ..fresh() }) else {
            panic!("not stuck");
        };
        assert!(why.starts_with("rustc has LLVM 30, which bpf-linker 0.13.0 cannot"), "{why}");
    }

    #[test]
    fn a_user_without_root_gets_every_command_that_needs_it() {
        let facts = Facts { installer: Installer::NotRoot, updated: false, ..fresh() };
        let commands = commands(&facts);
        assert_eq!(commands[0], "apt-get update");
        assert!(
            commands[1].contains("rustc-web cargo-web libstd-rust-web-dev-bpf"),
            "{commands:?}"
        );
        assert!(commands[2].contains("llvm-$(/usr/bin/rustc -vV | sed"), "{commands:?}");
    }
}
