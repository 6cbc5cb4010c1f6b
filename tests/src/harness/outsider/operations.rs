//! The operations of an outsider. To add one, write a function `fn(&mut Belongings, &[&str]) -> Result<Vec<u64>>` in the file
//! where it belongs, and add it to that file's table. The function's documentation names its arguments, and the numbers that
//! it returns, in their order ("Counts ..." or "Returns ..."); a function whose documentation names no number returns none.

mod bpf;
mod calls;
mod files;
mod netlink;
mod processes;

use std::{net::Ipv4Addr, os::fd::OwnedFd, str::FromStr};

use anyhow::{Context, Result};

/// An operation: takes its arguments as words, and returns the numbers that its documentation names.
pub type Operation = fn(&mut Belongings, &[&str]) -> Result<Vec<u64>>;

/// Operations by name, of one file.
type Table = &'static [(&'static str, Operation)];

const TABLES: &[Table] = &[
    bpf::OPERATIONS,
    calls::OPERATIONS,
    files::OPERATIONS,
    netlink::OPERATIONS,
    processes::OPERATIONS,
];

/// The descriptors that an outsider holds open.
#[derive(Default)]
pub struct Belongings {
    pub fds: Vec<OwnedFd>,
}

/// The operation of this name; `None` if there is none.
pub fn find(name: &str) -> Option<Operation> {
    let tables = TABLES.iter().flat_map(|table| table.iter());
    tables.filter(|(one, _)| *one == name).map(|(_, operation)| *operation).next()
}

/// The argument at this index (0 is the first), parsed; an error if there is none, or it cannot be parsed.
fn argument<T: FromStr>(words: &[&str], place: usize) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let word = words.get(place).with_context(|| format!("argument {place} is missing"))?;
    word.parse().with_context(|| format!("argument {place} is {word:?}"))
}

/// The address in 127.0.0.0/8 whose lower 24 bits are this number.
fn loopback(number: u32) -> Ipv4Addr {
    let [_, b, c, d] = number.to_be_bytes();
    Ipv4Addr::new(127, b, c, d)
}
