//! The BPF object inside this binary.

/// The object that `cargo xtask build` made; empty in a binary that was built without it, which
/// must then say so: [`MISSING`].
pub static BPF_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer.bpf.o"));

/// What to tell the user when [`BPF_OBJECT`] is empty.
pub const MISSING: &str =
    "this binary was built without its BPF object; build it with `cargo xtask build`";
