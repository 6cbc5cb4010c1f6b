use std::io::Read as _;

use super::{
    super::{
        Metrics, TupleReading,
        test_reading::{count, reading, snapshot, tuple},
    },
    *,
};

fn of(snapshot: &Arc<Snapshot>, format: Format) -> String {
    String::from_utf8(snapshot.encode(format).into()).unwrap()
}

#[test]
fn the_text_of_0_0_4() {
    insta::assert_snapshot!(of(&snapshot(), Format::Text));
}

#[test]
fn the_text_of_openmetrics() {
    let text = of(&snapshot(), Format::OpenMetrics);
    assert!(text.ends_with("\n# EOF\n"));
    insta::assert_snapshot!(text);
}

#[test]
fn every_metric_of_the_table_is_encoded_and_no_other() {
    let text = of(&snapshot(), Format::OpenMetrics);
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut encoded: Vec<_> = types.filter_map(|rest| rest.split(' ').next()).collect();
    let mut table: Vec<_> = table::ALL.iter().map(|family| family.name).collect();
    encoded.sort_unstable();
    table.sort_unstable();
    assert_eq!(encoded, table);
}

#[test]
fn a_text_is_made_once_and_compressed_on_demand() {
    let snapshot = snapshot();
    let first = snapshot.encode(Format::Text);
    assert_eq!(first.as_ptr(), snapshot.encode(Format::Text).as_ptr());
    let packed = snapshot.text(Format::Text, true);
    assert_eq!(packed.as_ptr(), snapshot.text(Format::Text, true).as_ptr());
    let mut unpacked = String::new();
    flate2::read::GzDecoder::new(&*packed).read_to_string(&mut unpacked).unwrap();
    assert_eq!(unpacked.as_bytes(), first);
    assert!(packed.len() < first.len() / 3, "{} of {}", packed.len(), first.len());
}

/// The value of the label netns in the first series that has one, as a reader of the format finds it.
fn netns(text: &str) -> String {
    let (_, rest) = text.split_once("tracer_tuple_ports_capacity{netns=\"").unwrap();
    let (mut value, mut letters) = (String::new(), rest.chars());
    loop {
        match letters.next().unwrap() {
            '"' => return value,
            '\\' => value.push(match letters.next().unwrap() {
                'n' => '\n',
                other => other,
            }),
            '\n' => panic!("a line end in {rest:?}"),
            other => value.push(other),
        }
    }
}

#[test]
fn any_name_of_a_namespace_comes_back_as_it_was() {
    let counts = count(20);
    let invalid = String::from_utf8_lossy(b"in\xffvalid");
    for name in [
        "a \"quoted\" name",
        "back\\slash\\n\\",
        "two\nlines",
        "\u{1b}[31mred",
        "carriage\rreturn\ttab",
        "} 1\n# EOF\n",
        "other",
        &*invalid,
    ] {
        let tuple = TupleReading { netns_name: Some(name.into()), ..tuple(80, &counts) };
        let snapshot = Metrics::new(1, &[0.45, 0.8, 0.95])
            .update(&reading(vec![tuple]), std::time::Instant::now());
        for format in [Format::Text, Format::OpenMetrics] {
            assert_eq!(netns(&of(&snapshot, format)), name, "{format:?}");
        }
    }
}
