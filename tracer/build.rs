//! Puts the BPF object where `src/kernel/object.rs` embeds it from.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// Where `cargo xtask build` leaves the object, from this package, in which cargo runs this program.
const DEFAULT: &str = "../target/bpf/bpfel-unknown-none/release/tracer-ebpf";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-env-changed=TRACER_BPF_OBJECT");
    // Not by its compiled-in folder: a copied target/ would embed the object of the folder that it comes from.
    let object =
        env::var_os("TRACER_BPF_OBJECT").map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let out = env::var_os("OUT_DIR").ok_or_else(|| io::Error::other("OUT_DIR is not set"))?;
    let embedded = Path::new(&out).join("tracer.bpf.o");
    match fs::read(&object) {
        Ok(bytes) => fs::write(embedded, bytes),
        // No object yet: an empty one is embedded, because tests and clippy need none. A program with that says so when it is
        // to trace.
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::write(embedded, []),
        Err(error) => Err(error),
    }
}
