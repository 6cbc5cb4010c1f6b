//! The first line for monitoring systems (Monitoring Plugins Development Guidelines): a verdict, and numbers after a `|`.

use super::{Diagnosis, text};
use crate::{doctor::verdict::Verdict, format::text as safe};

/// The diagnosis as text, after a first line for monitoring systems: the state (`OK`, `WARNING`, `CRITICAL`, `UNKNOWN`), the
/// worst finding, and after a `|` the numbers, `U` for one that is not known. Their labels are the same in every run; any other
/// `|` is shown as `/`. With a newline at its end.
pub fn plugin(diagnosis: &Diagnosis) -> String {
    let state = match diagnosis.verdict {
        Verdict::Healthy => "OK",
        Verdict::Warning => "WARNING",
        Verdict::Critical => "CRITICAL",
        Verdict::Unknown => "UNKNOWN",
    };
    let worst = diagnosis.findings.first();
    let what = worst.map_or_else(
        || "no sign of port exhaustion".to_owned(),
        |it| format!("{}: {}", it.id, it.what),
    );
    let metrics = diagnosis.metrics;
    let unknown = || "U".to_owned();
    let saturation = format!("saturation={:.4};0.8;0.95;0;1", metrics.saturation);
    let failed = metrics.failed.map_or_else(unknown, |it| it.to_string());
    let search = metrics.search_ms.map_or_else(unknown, |it| format!("{it:.4}ms"));
    let first = safe::line(&format!("TRACER {state} - {what}")).replace('|', "/");
    // Only the numbers stand behind a `|`.
    let body = text(diagnosis).replace('|', "/");
    format!("{first} | {saturation} failed={failed};;0;0 search={search};;;0\n{body}")
}

#[cfg(test)]
mod tests {
    use super::{
        super::test_diagnosis::{diagnosis, healthy},
        *,
    };

    /// The labels of the first line, by a strict reading of the grammar: `label=value[UOM];[warn];[crit];[min];[max]`.
    fn labels(text: &str) -> Vec<String> {
        let first = text.lines().next().unwrap();
        let parts: Vec<&str> = text.split('|').collect();
        assert_eq!(parts.len(), 2, "one `|`: {text}");
        let (_, numbers) = first.split_once(" | ").unwrap();
        let label = |number: &str| {
            let (label, rest) = number.split_once('=').unwrap();
            assert!(label.chars().all(|it| it.is_ascii_alphanumeric() || it == '_'), "{label}");
            let fields: Vec<&str> = rest.split(';').collect();
            assert!(fields.len() <= 5, "{rest}");
            let value = fields[0].strip_suffix("ms").unwrap_or(fields[0]);
            assert!(value == "U" || value.parse::<f64>().is_ok(), "{value}");
            assert!(
                fields[1..].iter().all(|it| it.is_empty() || it.parse::<f64>().is_ok()),
                "{rest}"
            );
            label.to_owned()
        };
        numbers.split(' ').map(label).collect()
    }

    #[test]
    fn the_first_line_has_a_verdict_and_the_same_labels_in_every_run() {
        let critical = plugin(&diagnosis());
        assert!(
            critical.starts_with("TRACER CRITICAL - ports_exhausted: 28,232 of 28,232 "),
            "{critical}"
        );
        let well = plugin(&healthy());
        let expected = "TRACER OK - no sign of port exhaustion | saturation=0.1000;0.8;0.95;0;1 failed=U;;0;0 search=U;;;0";
        assert_eq!(well.lines().next(), Some(expected));
        assert_eq!(labels(&critical), labels(&well));
    }
}
