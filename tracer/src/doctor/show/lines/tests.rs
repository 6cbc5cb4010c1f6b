use super::{super::test_diagnosis::diagnosis, *};

#[test]
fn in_a_narrow_room_every_line_fits_and_a_broken_command_is_one_for_a_shell() {
    for room in [40, 60, 80] {
        let findings = diagnosis().findings;
        let all: Vec<(Part, String)> =
            findings.iter().flat_map(|it| finding(it, room, Commands::Broken)).collect();
        assert!(all.iter().all(|(_, it)| columns(it) <= room), "{all:?}");
    }
    let command = "tracer spread --pool auto --cgroup '/a b/it'\\''s' --dry-run --netns \"x  y\"";
    let parts = broken(command, 30);
    assert_eq!(
        parts,
        [
            "tracer spread --pool auto \\",
            "--cgroup '/a b/it'\\''s' \\",
            "--dry-run --netns \"x  y\""
        ]
    );
    let typed = parts.join("\n").replace("\\\n", "");
    assert_eq!(typed, command);
    assert_eq!(broken(command, 100), [command]);
}
