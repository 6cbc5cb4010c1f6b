//! What a client asks for in `Accept` and `Accept-Encoding`.

use super::encode::Format;

/// The media type of OpenMetrics.
const OPENMETRICS: &str = "application/openmetrics-text";

/// The format to answer in. `accept`: the values of all headers of this name. OpenMetrics only if it is asked for by name, in
/// version 1.0.0 or without a version, and at least as much as plain text.
pub(super) fn format<'a>(accept: impl Iterator<Item = &'a str>) -> Format {
    let (mut openmetrics, mut text, mut any) = (0.0_f32, None::<f32>, 0.0_f32);
    for item in accept.flat_map(|value| value.split(',')) {
        let Item { name, version, weight } = Item::parse(item);
        if name.eq_ignore_ascii_case(OPENMETRICS) && version.is_none_or(|it| it == "1.0.0") {
            openmetrics = openmetrics.max(weight);
        } else if name.eq_ignore_ascii_case("text/plain") {
            text = Some(text.unwrap_or(0.0).max(weight));
        } else if name == "*/*" || name.eq_ignore_ascii_case("text/*") {
            any = any.max(weight);
        }
    }
    let wanted = openmetrics > 0.0 && openmetrics >= text.unwrap_or(any);
    if wanted { Format::OpenMetrics } else { Format::Text }
}

/// Whether the answer may be compressed with gzip. `accept`: the values of all headers Accept-Encoding.
pub(super) fn gzip<'a>(accept: impl Iterator<Item = &'a str>) -> bool {
    let (mut gzip, mut any) = (None, false);
    for item in accept.flat_map(|value| value.split(',')) {
        let Item { name, weight, .. } = Item::parse(item);
        if name.eq_ignore_ascii_case("gzip") {
            gzip = Some(weight > 0.0);
        } else if name == "*" {
            any = weight > 0.0;
        }
    }
    gzip.unwrap_or(any)
}

/// One item of such a header.
struct Item<'a> {
    name: &'a str,
    version: Option<&'a str>,
    /// From 0 (not wanted) to 1; what is no such number counts as 0.
    weight: f32,
}

impl<'a> Item<'a> {
    fn parse(item: &'a str) -> Self {
        let mut parts = item.split(';').map(str::trim);
        let mut parsed =
            Self { name: parts.next().unwrap_or_default(), version: None, weight: 1.0 };
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            if key.trim().eq_ignore_ascii_case("q") {
                let weight = value.parse().ok().filter(|weight| (0.0..=1.0).contains(weight));
                parsed.weight = weight.unwrap_or(0.0);
            } else if key.trim().eq_ignore_ascii_case("version") {
                parsed.version = Some(value);
            }
        }
        parsed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openmetrics_is_for_those_who_ask_for_it() {
        let of = |accept: &str| format([accept].into_iter());
        for accept in [
            // Prometheus 2.42 and 3.
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
             text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;q=0.3,*/*;q=0.2",
            "application/openmetrics-text",
            "text/plain; q=0.5 , Application/OpenMetrics-Text; version=\"1.0.0\"; Q=0.5",
        ] {
            assert_eq!(of(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain",
            "application/openmetrics-text;version=0.0.1",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0.4,text/plain",
            "application/openmetrics-text;q=nan",
            ";;;,,,=;q=;version",
        ] {
            assert_eq!(of(accept), Format::Text, "{accept}");
        }
        assert_eq!(format(std::iter::empty()), Format::Text);
    }

    #[test]
    fn gzip_is_for_those_who_take_it() {
        let of = |accept: &str| gzip([accept].into_iter());
        for accept in ["gzip", "br, GZIP;q=0.5", "*"] {
            assert!(of(accept), "{accept}");
        }
        for accept in ["", "br", "gzip;q=0", "*, gzip;q=0", "identity"] {
            assert!(!of(accept), "{accept}");
        }
    }
}
