use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, Instant},
};

use super::{super::test_reading::snapshot, *};

/// Waits until the file at this path is there, for at most 30 s.
fn wait_for(path: &Path) -> String {
    let begun = Instant::now();
    loop {
        match fs::read_to_string(path) {
            Ok(text) => return text,
            Err(error) => assert!(begun.elapsed() < Duration::from_secs(30), "{error}"),
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn each_snapshot_replaces_the_file_that_anyone_may_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tracer.prom");
    // Left over from a writer that was killed.
    fs::write(folder.path().join("tracer.prom.new"), "half").unwrap();
    let slot = Arc::new(Slot::default());
    let writer = TextFile::start(&path, Arc::clone(&slot)).unwrap();
    for _ in 0..2 {
        let snapshot = snapshot();
        slot.put(Arc::clone(&snapshot), Instant::now());
        let written = wait_for(&path);
        // node_exporter has metrics of a process under the same names: its own.
        assert!(!written.contains("process_") && snapshot.process.is_some());
        assert_eq!(written.as_bytes(), text(&snapshot));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        fs::remove_file(&path).unwrap();
    }
    drop(writer);
}

#[test]
fn a_link_at_either_name_is_replaced_and_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("victim"), "kept").unwrap();
    std::os::unix::fs::symlink("victim", at("a.prom")).unwrap();
    std::os::unix::fs::symlink("victim", at("a.prom.new")).unwrap();
    let place = Place::find(&at("a.prom")).unwrap();
    place.write(b"text").unwrap();
    assert_eq!(fs::read_to_string(at("victim")).unwrap(), "kept");
    assert_eq!(fs::read_to_string(at("a.prom")).unwrap(), "text");
    assert!(
        !fs::symlink_metadata(at("a.prom")).unwrap().is_symlink() && !at("a.prom.new").exists()
    );
}

#[test]
fn the_folder_stays_the_same_when_it_is_renamed() {
    let outer = tempfile::tempdir().unwrap();
    let (old, new) = (outer.path().join("old"), outer.path().join("new"));
    fs::create_dir(&old).unwrap();
    let place = Place::find(&old.join("a.prom")).unwrap();
    fs::rename(&old, &new).unwrap();
    fs::create_dir(&old).unwrap();
    place.write(b"text").unwrap();
    assert!(new.join("a.prom").exists() && !old.join("a.prom").exists());
}

#[test]
fn what_cannot_be_written_is_an_error_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let error =
        |path: &Path| TextFile::start(path, Arc::new(Slot::default())).unwrap_err().to_string();
    let text = error(&folder.path().join("metrics.txt"));
    assert!(
        text.ends_with("metrics.txt does not end in .prom: node_exporter reads no other files"),
        "{text}"
    );
    let text = error(&folder.path().join("no/tracer.prom"));
    assert!(text.contains("cannot open") && text.ends_with("; make its folder first"), "{text}");
    fs::create_dir(folder.path().join("a.prom.new")).unwrap();
    let text = error(&folder.path().join("a.prom"));
    assert!(text.contains("cannot write"), "{text}");
}
