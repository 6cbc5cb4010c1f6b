//! Parsers of single values. Each returns the value, or as an error the reason for refusing the text.

use std::{fmt, net::IpAddr, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use clap::ValueEnum;
use ipnet::IpNet;
use tracer_common::filter::Ports;

/// A network namespace, as it was named on the command line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum NetnsRef {
    /// A name under /run/netns.
    Name(String),
    Path(PathBuf),
    /// What `stat -L /proc/PID/ns/net` shows.
    Inode(u32),
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => out.write_str(name),
            Self::Path(path) => write!(out, "{}", path.display()),
            Self::Inode(inode) => write!(out, "{inode}"),
        }
    }
}

/// Makes a parser of a whole number in this range; `what` says what kind of number, as in "a process id".
pub(crate) fn whole<T>(
    what: &'static str,
    range: RangeInclusive<T>,
) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + fmt::Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("expected {what}, from {} to {}", range.start(), range.end()))
    }
}

/// A decimal number of seconds, or of the unit that follows it (`ms`, `s`, `m`, `h`, `d`): `0.5`, `10`, `5m`; from 1 ms to
/// 366 days.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    const YEAR: f64 = 366.0 * 86_400.0;
    // `ms` comes before `s`, because it ends with it.
    const UNITS: [(&str, f64); 5] =
        [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("d", 86_400.0)];
    let with_unit = UNITS.iter().find_map(|(unit, in_s)| Some((text.strip_suffix(unit)?, *in_s)));
    let (number, in_s) = with_unit.unwrap_or((text, 1.0));
    let number: f64 = number.parse().map_err(|_| {
        "expected a number of seconds, or with a unit (ms, s, m, h, d), such as 0.5, 10 or 5m"
            .to_owned()
    })?;
    let value = number * in_s;
    if !(0.001..=YEAR).contains(&value) {
        return Err("expected 0.001 seconds to 366 days".to_owned());
    }
    Duration::try_from_secs_f64(value).map_err(|error| error.to_string())
}

/// A value of `T` by its name on the command line; the error names all of them.
pub(crate) fn one_of<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let values = T::value_variants().iter().filter_map(T::to_possible_value);
        let names: Vec<String> = values.map(|value| value.get_name().to_owned()).collect();
        format!("expected {}", names.join(", "))
    })
}

/// A table's number of entries: `least` to 16,777,216.
pub(crate) fn entries(
    least: u32,
) -> impl Fn(&str) -> Result<u32, String> + Clone + Send + Sync + 'static {
    whole("a number of entries", least..=16_777_216)
}

/// A process id: 1 to 4,194,304, which is `PID_MAX_LIMIT` of a 64-bit kernel (include/linux/threads.h).
pub(crate) fn process_id(text: &str) -> Result<u32, String> {
    whole("a process id", 1..=4_194_304)(text)
}

/// How many rotated files are kept: 1 to 1,000.
pub(crate) fn files_kept(text: &str) -> Result<u32, String> {
    whole("a number of files", 1..=1000)(text)
}

/// Seconds between two readings: 0.1 to an hour.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    let interval = seconds(text)?;
    if (Duration::from_millis(100)..=Duration::from_hours(1)).contains(&interval) {
        Ok(interval)
    } else {
        Err("expected 0.1 to 3600 seconds".to_owned())
    }
}

/// The speed of a replay, as a multiple of real time: 0.125 to 1024.
pub(super) fn speed(text: &str) -> Result<f64, String> {
    let speed: f64 = text.parse().map_err(|_| "expected a number, such as 1 or 10".to_owned())?;
    if (0.125..=1024.0).contains(&speed) { Ok(speed) } else { Err("expected 0.125 to 1024".into()) }
}

/// Bytes, with an optional K, M or G (also `KiB` and so on) for powers of 1,024.
fn size(text: &str) -> Result<u64, String> {
    let expected = || "expected bytes with an optional K, M or G, such as 16M".to_owned();
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let factor: u64 = match &text[digits.len()..] {
        "" => 1,
        "k" | "K" | "KiB" => 1 << 10,
        "m" | "M" | "MiB" => 1 << 20,
        "g" | "G" | "GiB" => 1 << 30,
        _ => return Err(expected()),
    };
    let number: u64 = digits.parse().map_err(|_| expected())?;
    number.checked_mul(factor).ok_or_else(expected)
}

/// The size of the ring buffer in bytes: 4K to 1G.
pub(crate) fn ring_size(text: &str) -> Result<u32, String> {
    let bytes = size(text)?;
    u32::try_from(bytes)
        .ok()
        .filter(|bytes| (4 << 10..=1 << 30).contains(bytes))
        .ok_or_else(|| "expected 4K to 1G".to_owned())
}

/// The size in bytes at which a file is rotated: at least 64K.
pub(crate) fn rotate_size(text: &str) -> Result<u64, String> {
    let bytes = size(text)?;
    if bytes < 64 << 10 { Err("expected at least 64K".to_owned()) } else { Ok(bytes) }
}

/// A thread's name of 1 to 15 bytes: the kernel keeps no more (`TASK_COMM_LEN`, include/linux/sched.h).
pub(crate) fn comm(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("expected a name".to_owned()),
        1..=15 => Ok(text.to_owned()),
        _ => {
            let kept = String::from_utf8_lossy(&text.as_bytes()[..15]).into_owned();
            Err(format!("the kernel keeps only 15 bytes of a name; write '{kept}'"))
        }
    }
}

/// A network namespace: only digits are an inode number (at most 32 bits), a text with a slash is a path, any other a name under
/// /run/netns. An empty text, `.` and `..` are refused.
pub(crate) fn netns(text: &str) -> Result<NetnsRef, String> {
    if text.is_empty() || text == "." || text == ".." {
        return Err("expected a name under /run/netns, a path, or an inode number".to_owned());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return text
            .parse()
            .map(NetnsRef::Inode)
            .map_err(|_| "an inode number has at most 32 bits".to_owned());
    }
    if text.contains('/') {
        return Ok(NetnsRef::Path(PathBuf::from(text)));
    }
    Ok(NetnsRef::Name(text.to_owned()))
}

/// An address, or a network; one with bits set beyond the prefix is refused. A v4-mapped one becomes IPv4: to the ledger,
/// both are the same.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let network = if text.contains('/') {
        text.parse::<IpNet>()
            .map_err(|_| "expected an address or a network, such as 10.1.0.0/16".to_owned())?
    } else {
        text.parse::<IpAddr>()
            .map(IpNet::from)
            .map_err(|_| "expected an address or a network, such as 10.1.0.0/16".to_owned())?
    };
    if network.addr() != network.network() {
        return Err(format!("bits are set beyond the prefix; write {}", network.trunc()));
    }
    Ok(unmapped(network))
}

fn unmapped(network: IpNet) -> IpNet {
    let IpNet::V6(v6) = network else { return network };
    v6.addr()
        .to_ipv4_mapped()
        .and_then(|address| {
            let length = v6.prefix_len().checked_sub(96)?;
            IpNet::new(IpAddr::V4(address), length).ok()
        })
        .unwrap_or(network)
}

/// A port from 1 to 65535, or LOW-HIGH with both ends included and LOW not above HIGH.
pub(crate) fn ports(text: &str) -> Result<Ports, String> {
    let port = |text: &str| {
        text.parse::<u16>()
            .ok()
            .filter(|port| *port > 0)
            .ok_or_else(|| "expected a port (1 to 65535) or a range, such as 8000-8099".to_owned())
    };
    let (low, high) = match text.split_once('-') {
        Some((low, high)) => (port(low)?, port(high)?),
        None => (port(text)?, port(text)?),
    };
    if low > high {
        return Err(format!("the range is empty; write {high}-{low}"));
    }
    Ok(Ports { low, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_decimal_and_positive() {
        assert_eq!(seconds("0.1"), Ok(Duration::from_millis(100)));
        assert_eq!(seconds("10"), Ok(Duration::from_secs(10)));
        assert_eq!(seconds("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(seconds("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(seconds("5m"), Ok(Duration::from_mins(5)));
        assert_eq!(seconds("2h"), Ok(Duration::from_hours(2)));
        assert_eq!(seconds("1d"), Ok(Duration::from_hours(24)));
        for bad in ["", "0", "-1", "nan", "inf", "1e300", "s", "1 s", "1sec", "nans", "1000d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_whole_number_that_is_none_is_refused_with_what_was_expected() {
        let pid = whole::<u32>("a process id", 1..=4_194_304);
        assert_eq!(pid("1234"), Ok(1234));
        for bad in ["abc", "", "0", "-1", "1.5", "4194305", "99999999999999999999"] {
            assert_eq!(pid(bad).unwrap_err(), "expected a process id, from 1 to 4194304", "{bad}");
        }
    }

    #[test]
    fn an_interval_and_a_speed_have_their_bounds() {
        assert_eq!(interval("0.1"), Ok(Duration::from_millis(100)));
        assert_eq!(speed("10"), Ok(10.0));
        for bad in ["0.01", "4000", "x"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
        for bad in ["0", "-1", "nan", "2000", "fast"] {
            assert!(speed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_take_binary_suffixes() {
        assert_eq!(size("512"), Ok(512));
        assert_eq!(size("16M"), Ok(16 << 20));
        assert_eq!(size("2GiB"), Ok(2 << 30));
        for bad in ["", "M", "1.5M", "16MB", "-1", "99999999999999999999", "99999999999G", "1é"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        assert!(ring_size("3K").is_err());
        assert!(ring_size("2G").is_err());
    }

    #[test]
    fn host_bits_are_refused_with_the_network_that_was_meant() {
        let refused = network("10.1.2.3/16").unwrap_err();
        assert_eq!(refused, "bits are set beyond the prefix; write 10.1.0.0/16");
        assert_eq!(network("10.1.2.3"), Ok("10.1.2.3/32".parse().unwrap()));
        assert_eq!(network("2001:db8::/32"), Ok("2001:db8::/32".parse().unwrap()));
    }

    #[test]
    fn v4_mapped_networks_become_ipv4() {
        assert_eq!(network("::ffff:10.0.0.1"), Ok("10.0.0.1/32".parse().unwrap()));
        assert_eq!(network("::ffff:10.0.0.0/104"), Ok("10.0.0.0/8".parse().unwrap()));
        assert_eq!(network("::/0"), Ok("::/0".parse().unwrap()));
    }

    #[test]
    fn port_ranges_are_not_empty_and_have_no_port_0() {
        assert_eq!(ports("80"), Ok(Ports { low: 80, high: 80 }));
        assert_eq!(ports("8000-8099"), Ok(Ports { low: 8000, high: 8099 }));
        assert_eq!(ports("9-8").unwrap_err(), "the range is empty; write 8-9");
        for bad in ["0", "65536", "", "-", "80-", "http"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_netns_is_a_name_a_path_or_an_inode_number() {
        assert_eq!(netns("blue"), Ok(NetnsRef::Name("blue".into())));
        assert_eq!(netns("/proc/1/ns/net"), Ok(NetnsRef::Path("/proc/1/ns/net".into())));
        assert_eq!(netns("4026531840"), Ok(NetnsRef::Inode(4_026_531_840)));
        assert!(netns("99999999999").is_err());
        assert!(netns("..").is_err());
    }

    #[test]
    fn a_name_longer_than_the_kernel_keeps_is_refused_with_what_it_keeps() {
        assert_eq!(comm("exactly15bytes_"), Ok("exactly15bytes_".to_owned()));
        assert!(comm("systemd-resolved").unwrap_err().ends_with("write 'systemd-resolve'"));
    }
}
