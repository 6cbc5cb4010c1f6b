//! The spreader's userspace side: what is asked for becomes the [`tracer_common::Rule`] that the
//! hooks go by.
//!
//! [`pool`], [`destinations`] and [`rule`] take values and return values; [`addresses`] asks the
//! kernel.

pub mod addresses;
pub mod destinations;
pub mod pool;
pub mod rule;
