//! Falsifies JSON: a document, or lines of JSON.

use serde_json::{Map, Value};

use super::{Lie, another};
use crate::harness::lines::{DECISION, SOCKET_EVENTS};

/// The text with every JSON object in it changed as the lie says. If the whole text is one object on several lines, returns it on
/// one line. Otherwise changes each line that is a JSON object: the lie may leave the line out or double it, and `seq` and
/// [`SUMS`] are then corrected. Other lines stay as they are.
pub(super) fn text(lie: &Lie, text: &str) -> String {
    let document = || serde_json::from_str(text).ok().filter(Value::is_object);
    if text.trim_end().contains('\n')
        && let Some(mut value) = document()
    {
        change(lie, &mut value);
        return format!("{value}\n");
    }
    let mut changed = String::new();
    // `seq` and the totals of events are made to agree with lines that are left out or doubled. Otherwise every test would fail
    // because of these numbers, and it would not show whether it checks the lines themselves.
    let (mut lines, mut events) = (Change::default(), Change::default());
    for line in text.split_inclusive('\n') {
        let Some(value) = serde_json::from_str(line).ok().filter(Value::is_object) else {
            changed.push_str(line);
            continue;
        };
        let times = times(lie, &value);
        let event = value["event.name"].as_str().unwrap_or_default();
        let is_event = event == DECISION || SOCKET_EVENTS.contains(&event);
        let mut new: Value = value;
        change(lie, &mut new);
        for time in 0..times {
            let mut new = new.clone();
            if let Some(seq) = new["seq"].as_u64() {
                new["seq"] = Value::from(lines.of(seq) + time);
            }
            for sum in SUMS {
                if let Some(count) = new[sum].as_u64() {
                    new[sum] = Value::from(events.of(count));
                }
            }
            changed.push_str(&new.to_string());
            changed.push_str(if line.ends_with('\n') { "\n" } else { "" });
        }
        lines.add(times);
        if is_event {
            events.add(times);
        }
    }
    changed
}

/// Keys of the `tracer.stop` line that count lines of events.
const SUMS: [&str; 3] = ["events.seen", "events.emitted", "events.written"];

/// How many lines were added so far, and how many were left out.
#[derive(Default)]
struct Change {
    added: u64,
    left_out: u64,
}

impl Change {
    fn add(&mut self, times: u64) {
        self.left_out += u64::from(times == 0);
        self.added += times.saturating_sub(1);
    }

    fn of(&self, count: u64) -> u64 {
        (count + self.added).saturating_sub(self.left_out)
    }
}

/// How many times this line is in the falsified text: 0, 1 or 2.
fn times(lie: &Lie, written: &Value) -> u64 {
    let is = |name: &str| written["event.name"].as_str().is_some_and(|event| matches(name, event));
    match lie {
        Lie::Without(name) if is(name) => 0,
        Lie::Twice(name) if is(name) => 2,
        _ => 1,
    }
}

fn matches(pattern: &str, key: &str) -> bool {
    let beginning = pattern.strip_suffix('*');
    beginning.map_or(pattern == key, |beginning| key.starts_with(beginning))
}

fn change(lie: &Lie, value: &mut Value) {
    match value {
        Value::Object(map) => {
            if let Lie::Added(key) = lie
                && map.contains_key("ports.in_use")
            {
                map.insert(key.clone(), Value::from(1));
            }
            if let Lie::Without(name) = lie {
                without(name, map);
            }
            for (key, value) in map.iter_mut() {
                match (lie, &mut *value) {
                    (Lie::Other(name), value) if matches(name, key) => other(value),
                    (Lie::Zero(name), value) if matches(name, key) => times_all(value, 0),
                    (Lie::Double(name), value) if matches(name, key) => times_all(value, 2),
                    (Lie::Twice(name), Value::Array(all)) if matches(name, key) => {
                        *all = all.iter().flat_map(|one| [one.clone(), one.clone()]).collect();
                    }
                    (_, value) => change(lie, value),
                }
            }
        }
        Value::Array(all) => all.iter_mut().for_each(|value| change(lie, value)),
        _ => {}
    }
}

/// Empties the lists at this key, and removes all other values at it.
fn without(name: &str, map: &mut Map<String, Value>) {
    map.retain(|key, value| {
        let wanted = matches(name, key);
        if let Value::Array(all) = value
            && wanted
        {
            all.clear();
        }
        !wanted || value.is_array()
    });
}

/// Changes a value to another one of the same kind: a number grows by 1, a boolean is negated, an IP address becomes another one,
/// other text gets a `?` at its end; `null` stays. In a list or an object, all numbers at any depth change; if there are none,
/// all texts and booleans.
fn other(value: &mut Value) {
    match value {
        Value::Null => {}
        Value::Bool(is) => *is = !*is,
        Value::Number(number) => {
            let more = number.as_u64().map(|number| Value::from(number.wrapping_add(1)));
            *value = more.unwrap_or_else(|| Value::from(number.as_f64().unwrap_or(0.0) + 1.0));
        }
        Value::String(text) => {
            *text = text.parse().map_or_else(|_| format!("{text}?"), |it| another(it).to_string());
        }
        Value::Array(_) | Value::Object(_) => {
            let numbers = has_number(value);
            scalars(value, &|one| {
                if one.is_number() == numbers {
                    other(one);
                }
            });
        }
    }
}

/// Multiplies every whole number in a value by this factor.
fn times_all(value: &mut Value, factor: u64) {
    scalars(value, &|one| {
        if let Some(number) = one.as_u64() {
            *one = Value::from(number.wrapping_mul(factor));
        }
    });
}

fn has_number(value: &Value) -> bool {
    match value {
        Value::Array(all) => all.iter().any(has_number),
        Value::Object(map) => map.values().any(has_number),
        value => value.is_number(),
    }
}

fn scalars(value: &mut Value, act: &impl Fn(&mut Value)) {
    match value {
        Value::Array(all) => all.iter_mut().for_each(|value| scalars(value, act)),
        Value::Object(map) => map.values_mut().for_each(|value| scalars(value, act)),
        value => act(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_change_at_any_depth() {
        let others = Lie::Other("a*".to_owned());
        let written = "{\"b\":[{\"a\":1},{\"ab\":[[\"x\",2]]}],\"ac\":\"10.0.0.1\"}\n";
        let read = "{\"ac\":\"192.0.2.1\",\"b\":[{\"a\":2},{\"ab\":[[\"x\",3]]}]}\n";
        assert_eq!(text(&others, written), read);
    }

    #[test]
    fn lines_that_are_left_out_or_doubled_leave_no_gap() {
        let lines = ["a", "b", "a"].iter().zip(0..);
        let line = |name: &str, seq: i32| format!("{{\"event.name\":\"{name}\",\"seq\":{seq}}}\n");
        let all: String = lines.map(|(name, seq)| line(name, seq)).collect();
        let without = text(&Lie::Without("b".to_owned()), &all);
        assert_eq!(without, line("a", 0) + &line("a", 1));
        let twice = text(&Lie::Twice("b".to_owned()), &all);
        assert_eq!(twice, line("a", 0) + &line("b", 1) + &line("b", 2) + &line("a", 3));
    }

    #[test]
    fn lists_are_emptied_and_rows_get_a_key() {
        let rows = "{\"tuples\":[{\"ports.in_use\":1}]}";
        assert_eq!(text(&Lie::Without("tuples".to_owned()), rows), "{\"tuples\":[]}");
        let added = "{\"tuples\":[{\"eta_s\":1,\"ports.in_use\":1}]}";
        assert_eq!(text(&Lie::Added("eta_s".to_owned()), rows), added);
    }
}
