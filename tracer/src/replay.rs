//! stub
use crate::{config::ReplayConfig, error::Error};
/// stub
pub fn run(_: &ReplayConfig) -> Result<(), Error> {
    Ok(())
}
