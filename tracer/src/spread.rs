//! The spreader's userspace side: what is asked for becomes the [`tracer_common::Rule`] that the
//! hooks go by. [`addresses`] asks the kernel; the rest takes values and returns values.

pub mod addresses;
pub mod pool;
