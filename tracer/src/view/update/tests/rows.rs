//! Which rows and columns a list has.

use super::*;

#[test]
fn the_column_of_namespaces_depends_on_the_shown_rows_only() {
    let mut model = model(&[]);
    let add_reading = |model: &mut Model, second: u64, fullest: u64| {
        model.history.begin(second * 1_000_000_000);
        // 200 rows, and two that differ in nothing but their namespace, which any user can make.
        let rows =
            (0..200).map(|destination| (tuple(1, destination), 500 - u64::from(destination)));
        let twin = |netns| (TupleKey { netns, ..tuple(2, 1) }, fullest);
        for (key, in_use) in rows.chain([twin(7), twin(8)]) {
            model.history.add(&TupleSample {
                key,
                count: &count(in_use),
                has_states: true,
                has_uses: true,
                capacity: Some(1000),
                limits: None,
                reuse: None,
                older: None,
                search_p99: None,
                called: crate::host::process::Called::default(),
                cgroup: None,
                container: None,
                netns_name: None,
            });
        }
        let reading = Snapshot::default();
        model.history.end(&reading);
        update(model, Message::Read(Box::new(reading)));
        assert_eq!(model.list.total, 202);
    };
    add_reading(&mut model, 2, 1);
    assert!(!model.list.alike);
    press(&mut model, KeyCode::End);
    assert!(model.list.alike);
    press(&mut model, KeyCode::Home);
    assert!(!model.list.alike);
    add_reading(&mut model, 3, 900);
    assert!(model.list.alike);
}

#[test]
fn failures_of_unknown_processes_have_a_row_of_their_own() {
    let mut model = model(&[]);
    let holders = vec![
        Holder { kind: HolderKind::TimeWait, ports: 9, ..Holder::default() },
        Holder { pid: 5, comm: *b"nginx\0\0\0\0\0\0\0\0\0\0\0", ports: 3, ..Holder::default() },
    ];
    let failures = vec![failure(1_500_000_000, 0), failure(1_500_000_000, 5)];
    model.view = View::Processes;
    let reading = Snapshot {
        wall_ns: 2_000_000_000,
        holders: Some(holders),
        failures,
        ..Snapshot::default()
    };
    read(&mut model, 2, &[], reading);
    let mut rows: Vec<_> = (model.list.rows.iter())
        .map(|row| (row.pid, row.in_use, row.rates.is_some_and(|rates| rates.failed > 0.0)))
        .collect();
    rows.sort_unstable();
    assert_eq!(rows, [(0, 0, true), (0, 9, false), (5, 3, true)]);
}
