//! The spreader's side of the kernel boundary: its programs and their links, its maps, where these are pinned, the rules that they go
//! by, and rules that are found by what is loaded.

mod links;
pub mod loaded;
pub mod maps;
pub mod pinned;
pub mod programs;
pub(super) mod rules;
