//! The spreader's part of the kernel boundary: its programs, links, maps and rules, where these are pinned, and which
//! rules are loaded.

mod links;
pub mod loaded;
pub mod maps;
pub mod pinned;
pub mod programs;
pub(super) mod rules;
