//! Parsers of values that only the file has. Each returns the value, or as an error the reason for refusing the text.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};

use super::Listen;
use crate::cli::value;

/// The longest path of a Unix socket in bytes (`sun_path`, unix(7), without the NUL at its end).
const SUN_PATH: usize = 107;
const INTERVAL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(1);

/// An absolute path of a file, or `-`.
pub(super) fn output_path(text: &str) -> Result<PathBuf, String> {
    if text == "-" {
        return Ok(text.into());
    }
    file(text).ok_or_else(|| {
        "expected an absolute path of a file, or - for stdout; the agent does not run in your folder"
            .to_owned()
    })
}

/// An absolute path that ends in `.prom`.
pub(super) fn textfile(text: &str) -> Result<PathBuf, String> {
    file(text).filter(|path| path.extension().is_some_and(|end| end == "prom")).ok_or_else(|| {
        "expected an absolute path that ends in .prom: node_exporter reads no other file".to_owned()
    })
}

/// `ADDRESS:PORT`, `[ADDRESS]:PORT` of IPv6, or `unix:PATH`. The port is not 0.
pub(super) fn listen(text: &str) -> Result<Listen, String> {
    let expected =
        || "expected ADDRESS:PORT, [IPv6 ADDRESS]:PORT or unix:PATH, such as 127.0.0.1:28232";
    if let Some(path) = text.strip_prefix("unix:") {
        let path = file(path)
            .ok_or("expected an absolute path after unix:, such as unix:/run/tracer/metrics")?;
        if path.as_os_str().len() > SUN_PATH {
            return Err(format!(
                "a path of a socket has at most {SUN_PATH} bytes; write a shorter one"
            ));
        }
        return Ok(Listen::Unix(path));
    }
    let address: std::net::SocketAddr = text.parse().map_err(|_| expected())?;
    if address.port() == 0 { Err(expected().to_owned()) } else { Ok(Listen::Tcp(address)) }
}

/// Time between readings for metrics: 1 s to 60 s.
pub(super) fn metrics_interval(text: &str) -> Result<Duration, String> {
    let interval = value::seconds(text)?;
    if INTERVAL.contains(&interval) { Ok(interval) } else { Err("expected 1s to 60s".to_owned()) }
}

/// A saturation: above 0, at most 1, and above the one before it (`None`: it is the first).
pub(super) fn saturation(text: &str, before: Option<f64>) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value| *value > 0.0 && *value <= 1.0);
    let value = value.ok_or("expected a number above 0, at most 1, such as 0.45")?;
    match before {
        Some(before) if value <= before => Err(format!(
            "it is not above {before}, which comes before it; write them in ascending order"
        )),
        _ => Ok(value),
    }
}

/// An absolute path that can be that of a file; `None`: it is none.
fn file(text: &str) -> Option<PathBuf> {
    let path = Path::new(text);
    (path.is_absolute() && path.file_name().is_some() && !text.ends_with('/')).then(|| path.into())
}
