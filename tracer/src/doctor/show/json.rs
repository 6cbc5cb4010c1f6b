//! A diagnosis as one JSON object with flat keys: `tracer/schema/doctor-v1.json`.

use serde_json::{Map, Value};

use super::Diagnosis;
use crate::{
    doctor::{
        changes::Missed,
        finding::{Advice, Finding, Home, Subject},
        verdict::Check,
    },
    error::Error,
    format::{json::terminal_safe, timestamp::Timestamp},
};

/// The diagnosis as a JSON object, by the schema `doctor-v1.json`. Values that are not known are left out, except `host.name` and
/// `kernel`, which are empty then. Texts can have control characters: see [`json_line`].
pub fn json(diagnosis: &Diagnosis) -> Value {
    let findings: Vec<_> = diagnosis.findings.iter().map(finding).collect();
    let checks: Vec<_> = diagnosis.checks.iter().map(|it| check(it, &diagnosis.findings)).collect();
    let metrics = diagnosis.metrics;
    let mut object = Map::new();
    let mut add = |key: &str, value: Value| {
        if !value.is_null() {
            object.insert(key.to_owned(), value);
        }
    };
    add("v", 1.into());
    add("ts", String::from_utf8_lossy(&Timestamp::default().text(diagnosis.wall_ns)).into());
    add("host.name", diagnosis.host.clone().into());
    add("kernel", diagnosis.kernel.clone().into());
    add("version", env!("CARGO_PKG_VERSION").into());
    add("verdict", diagnosis.verdict.name().into());
    add("exit", (diagnosis.verdict as u8).into());
    if let Some(of) = &diagnosis.recording {
        let time = |ns: u64| match ns {
            0 => Value::Null,
            ns => String::from_utf8_lossy(&Timestamp::default().text(ns)).into(),
        };
        add("recording.begin", time(of.begin_ns));
        add("recording.end", time(of.end_ns));
        add("recording.lines", of.lines.into());
        add("recording.readings", of.readings.into());
    }
    add("window_s", diagnosis.window.as_secs_f64().into());
    add("saturation", metrics.saturation.into());
    add("failed", metrics.failed.into());
    add("search.mean_ms", metrics.search_ms.into());
    if let Some(judged) = &diagnosis.judged {
        add("judged.pids", judged.pids.clone().into());
        add("judged.cgroups", judged.cgroups.clone().into());
    }
    add("round", diagnosis.changes.as_ref().map(|it| it.round).into());
    add("checks", checks.into());
    add("findings", findings.into());
    add("findings.left_out", diagnosis.left_out.into());
    if let Some(changes) = &diagnosis.changes {
        let all = |missed: &[Missed]| missed.iter().map(self::missed).collect::<Vec<_>>();
        add("findings.solved", all(&changes.solved).into());
        add("findings.missing", all(&changes.missing).into());
    }
    object.into()
}

/// The object of [`json`] as one line with a newline at its end, control characters escaped so that it is safe to print on a
/// terminal.
///
/// # Errors
/// [`Error::Failure`]: it cannot be written, which does not occur with these types.
pub fn json_line(diagnosis: &Diagnosis) -> Result<String, Error> {
    let bytes = terminal_safe(&json(diagnosis))
        .map_err(|error| Error::Failure(format!("cannot write the diagnosis as JSON: {error}")))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned() + "\n")
}

fn check(check: &Check, findings: &[Finding]) -> Value {
    let mut object = Map::new();
    object.insert("id".into(), check.id.into());
    object.insert("core".into(), check.core.into());
    let found = findings.iter().any(|it| check.is_about(it.id));
    let status = match check.missing {
        Some(_) => "not_made",
        None if found => "finding",
        None => "ok",
    };
    object.insert("status".into(), status.into());
    if let Some(missing) = &check.missing {
        object.insert("why".into(), missing.why.clone().into());
        if let Some(needs) = &missing.needs {
            object.insert("needs".into(), needs.clone().into());
        }
    }
    object.into()
}

fn finding(finding: &Finding) -> Value {
    let mut object = Map::new();
    object.insert("id".into(), finding.id.name().into());
    object.insert("severity".into(), finding.severity.name().into());
    object.insert("certainty".into(), finding.certainty.name().into());
    if let Some(change) = finding.change {
        object.insert("change".into(), change.name().into());
    }
    add_subject(&mut object, &finding.subject);
    let home = match &finding.subject {
        Subject::Process(process) => process.container.as_deref().map(Home::of),
        _ => None,
    };
    if let Some(home) = finding.home.as_ref().or(home.as_ref()) {
        add_home(&mut object, home);
    }
    object.insert("what".into(), finding.what.clone().into());
    object.insert("evidence".into(), finding.evidence.clone().into());
    if let Some(why) = &finding.why {
        object.insert("why".into(), why.clone().into());
    }
    if let Some(cause) = finding.consequence_of {
        object.insert("consequence_of".into(), cause.name().into());
    }
    let advice: Vec<Value> = finding.advice.iter().map(|it| advice(it).into()).collect();
    object.insert("advice".into(), advice.into());
    if let Some(verify) = &finding.verify {
        object.insert("verify".into(), verify.clone().into());
    }
    if let Some(not) = finding.not {
        object.insert("not".into(), not.into());
    }
    object.into()
}

/// A finding of an earlier round that is missing.
fn missed(missed: &Missed) -> Value {
    let mut object = Map::new();
    object.insert("id".into(), missed.id.name().into());
    object.insert("severity".into(), missed.severity.name().into());
    add_subject(&mut object, &missed.subject);
    object.into()
}

/// The keys of what a finding is about.
fn add_subject(object: &mut Map<String, Value>, subject: &Subject) {
    if let Some(place) = subject.place() {
        object.insert("netns".into(), place.inum.into());
        if let Some(name) = &place.name {
            object.insert("netns.name".into(), name.clone().into());
        }
    }
    match subject {
        Subject::Host | Subject::Netns(_) => {}
        Subject::Tuple { source, destination, .. } => {
            object.insert("network.local.address".into(), source.to_string().into());
            object.insert("network.peer.address".into(), destination.ip().to_string().into());
            object.insert("network.peer.port".into(), destination.port().into());
        }
        Subject::Address { address, .. } => {
            object.insert("address".into(), address.ip().to_string().into());
            if address.port() != 0 {
                object.insert("port".into(), address.port().into());
            }
        }
        Subject::Process(process) => {
            object.insert("process.pid".into(), process.pid.into());
            object.insert("process.name".into(), process.name.clone().into());
        }
    }
}

/// The keys of where its processes run.
fn add_home(object: &mut Map<String, Value>, home: &Home) {
    let pod = home.pod.as_ref();
    let keys = [
        ("container.id", home.container.as_deref()),
        ("container.name", home.container_name.as_deref()),
        ("k8s.pod.uid", home.pod_uid.as_deref()),
        ("k8s.pod.name", pod.map(|pod| pod.name.as_str())),
        ("k8s.namespace.name", pod.map(|pod| pod.namespace.as_str())),
        ("systemd.unit", home.unit.as_deref()),
    ];
    for (key, value) in keys {
        if let Some(value) = value {
            object.insert(key.to_owned(), value.into());
        }
    }
}

/// One advice as a JSON object, by the schema: an element of the list `advice` of a finding. `command`, `gain.factor` and `risk`
/// are left out if there is none.
pub fn advice(advice: &Advice) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("do".into(), advice.what.clone().into());
    if let Some(command) = &advice.command {
        object.insert("command".into(), command.clone().into());
    }
    object.insert("gain".into(), advice.gain.clone().into());
    if let Some(factor) = advice.factor {
        object.insert("gain.factor".into(), factor.into());
    }
    object.insert("persists".into(), advice.persists.into());
    if let Some(risk) = advice.risk {
        object.insert("risk".into(), risk.into());
    }
    object
}

#[cfg(test)]
mod tests {
    use super::{
        super::test_diagnosis::{diagnosis, healthy, recorded, round},
        *,
    };

    const SCHEMA: &str = include_str!("../../../schema/doctor-v1.json");

    #[test]
    fn every_diagnosis_is_by_the_schema() {
        let schema = serde_json::from_str(SCHEMA).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        for diagnosis in [diagnosis(), healthy(), round(), recorded()] {
            let line = json_line(&diagnosis).unwrap();
            let value: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(
                validator.validate(&value).map_err(|error| error.to_string()),
                Ok(()),
                "{line}"
            );
            assert!(line.ends_with("}\n") && !line.contains('\u{1b}'), "{line}");
        }
        let mut wrong = json(&diagnosis());
        wrong["exit"] = 4.into();
        assert!(!validator.is_valid(&wrong));
    }

    #[test]
    fn a_round_says_what_has_changed_and_where_its_processes_run() {
        let value = json(&round());
        let first = &value["findings"][0];
        assert_eq!((&value["round"], &first["change"]), (&2.into(), &"new".into()));
        assert_eq!(value["findings.solved"][0]["id"], "held_open");
        assert_eq!(value["findings.missing"][0]["severity"], "info");
        assert_eq!(first["k8s.pod.name"], "cart-7f9");
        assert_eq!(value["judged.pids"], serde_json::json!([7, 8]));
        let process = |value: &Value| {
            let mut all = value["findings"].as_array().unwrap().iter();
            all.find(|it| it["id"] == "descriptors").unwrap().clone()
        };
        let unit = process(&json(&diagnosis()));
        assert_eq!(
            (&unit["systemd.unit"], &unit["container.id"]),
            (&"api.service".into(), &Value::Null)
        );
        assert_eq!(process(&value)["systemd.unit"], Value::Null, "the container is known better");
    }

    #[test]
    fn checks_say_whether_they_found_something() {
        let all = json(&diagnosis());
        let status = |id: &str| {
            let checks = all["checks"].as_array().unwrap();
            checks.iter().find(|it| it["id"] == id).unwrap()["status"].clone()
        };
        assert_eq!((status("fill"), status("window")), ("finding".into(), "not_made".into()));
        assert_eq!(json(&healthy())["checks"][0]["status"], "ok");
    }
}
