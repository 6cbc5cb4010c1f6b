//! The kernel modules that a guest loads, and their order.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// The modules that the tests need in every guest.
const COMMON: [&str; 6] = ["veth", "dummy", "tun", "tcp_diag", "udp_diag", "nf_conntrack"];

/// The unpacked packages of one kernel.
pub(crate) struct Tree {
    /// The file of the kernel image.
    pub(crate) vmlinuz: PathBuf,
    /// The file of each module, by its name with underscores.
    modules: BTreeMap<String, PathBuf>,
    /// Names of the modules that are built into the kernel.
    builtin: Vec<String>,
}

impl Tree {
    /// Finds the kernel image (the first file found whose name begins with `vmlinuz`) and the modules in the packages, whose
    /// layout differs between releases. Without a file `modules.builtin`, no module counts as built in. Fails if there is no
    /// image, or the folder cannot be read.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let mut files = Vec::new();
        walk(dir, &mut files)?;
        let named = |start: &str| {
            files.iter().find(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
            })
        };
        let vmlinuz =
            named("vmlinuz").with_context(|| format!("no vmlinuz in {}", dir.display()))?;
        let builtin = match named("modules.builtin") {
            Some(path) => {
                fs::read_to_string(path)?.lines().filter_map(|line| stem(Path::new(line))).collect()
            }
            None => Vec::new(),
        };
        let modules = files.iter().filter_map(|path| Some((stem(path)?, path.clone()))).collect();
        Ok(Self { vmlinuz: vmlinuz.clone(), modules, builtin })
    }

    /// The modules of all guests ([`COMMON`]), those in `more` (names with underscores), and all on which they depend, except
    /// those that are built into the kernel: as (name, decompressed content), each once and after those on which it depends.
    /// Fails if the packages lack one of them, its file cannot be read, or xz(1) or zstd(1), which decompress it, is missing or
    /// fails.
    pub(crate) fn wanted(&self, more: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut loads = Vec::new();
        for name in COMMON.iter().chain(more) {
            self.add(name, &mut loads)?;
        }
        Ok(loads)
    }

    fn add(&self, name: &str, loads: &mut Vec<(String, Vec<u8>)>) -> Result<()> {
        if self.builtin.iter().any(|builtin| builtin == name)
            || loads.iter().any(|(loaded, _)| loaded == name)
        {
            return Ok(());
        }
        let Some(path) = self.modules.get(name) else {
            bail!("this kernel has no module {name}, nor is it built in");
        };
        let bytes = read(path).with_context(|| format!("cannot read {}", path.display()))?;
        for dependency in depends(&bytes) {
            self.add(&dependency, loads)?;
        }
        loads.push((name.to_owned(), bytes));
        Ok(())
    }
}

fn walk(dir: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            walk(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}

/// The name of a module by its file: `foo_bar` for `kernel/net/foo-bar.ko.xz`; `None` if the file is no module.
fn stem(path: &Path) -> Option<String> {
    let (name, end) = path.file_name()?.to_str()?.split_once(".ko")?;
    ["", ".xz", ".zst"].contains(&end).then(|| name.replace('-', "_"))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let program = match path.extension().and_then(|end| end.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        _ => return Ok(fs::read(path)?),
    };
    let output = Command::new(program).arg("-dc").arg(path).output()?;
    if !output.status.success() {
        bail!("{program} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// The modules on which a module depends: `depends=a,b` in its `.modinfo` section; empty if it has no such entry.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(at) = module.windows(key.len()).position(|window| window == key) else {
        return Vec::new();
    };
    let value = module[at + key.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_modinfo() {
        assert_eq!(
            depends(b"ELF\0license=GPL\0depends=inet_diag,nf-defrag\0name=x\0"),
            ["inet_diag", "nf_defrag"]
        );
        assert_eq!(depends(b"ELF\0depends=\0name=x\0"), Vec::<String>::new());
    }

    #[test]
    fn a_module_is_named_with_underscores_whatever_its_compression() {
        assert_eq!(stem(Path::new("kernel/net/tcp-diag.ko.xz")).as_deref(), Some("tcp_diag"));
        assert_eq!(stem(Path::new("veth.ko")).as_deref(), Some("veth"));
        assert_eq!(stem(Path::new("veth.ko.sig")), None);
    }

    #[test]
    fn a_module_is_loaded_once_and_after_its_dependencies() {
        let dir = std::env::temp_dir().join(format!("tracer-modules-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        for (name, depends) in [("a", "b,c"), ("b", "c"), ("c", "builtin")] {
            fs::write(dir.join(format!("{name}.ko")), format!("\0depends={depends}\0")).unwrap();
        }
        fs::write(dir.join("modules.builtin"), "kernel/builtin.ko\n").unwrap();
        fs::write(dir.join("vmlinuz-1"), "").unwrap();
        let tree = Tree::read(&dir).unwrap();
        let mut loads = Vec::new();
        tree.add("a", &mut loads).unwrap();
        let missing = tree.add("d", &mut loads).unwrap_err().to_string();
        fs::remove_dir_all(&dir).unwrap();
        let order: Vec<&str> = loads.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(order, ["c", "b", "a"]);
        assert_eq!(missing, "this kernel has no module d, nor is it built in");
    }
}
