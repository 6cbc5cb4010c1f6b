//! The BPF object inside this binary.

/// The object that `cargo xtask build` made. Empty in a binary that was built without it, which cannot trace and
/// says so with [`MISSING`].
pub static BPF_OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tracer.bpf.o"));

/// The error text for an empty [`BPF_OBJECT`].
pub const MISSING: &str =
    "this binary was built without its BPF object; build it with `cargo xtask build`";
