//! Recordings of compressed files whose end is damaged or was reached before.

use super::*;

#[test]
fn the_end_of_a_zstd_file_is_that_of_its_newest_frame_even_if_it_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let recorder = readings(50, S);
    let lines: Vec<_> = recorder.bytes().split_inclusive(|byte| *byte == b'\n').collect();
    let mut bytes = zstd::encode_all(&lines[..70].concat()[..], 1).unwrap();
    let mut encoder = zstd::stream::write::Encoder::new(&mut bytes, 1).unwrap();
    encoder.write_all(&lines[70..].concat()).unwrap();
    encoder.flush().unwrap();
    let cut = encoder.get_ref().len();
    drop(encoder);
    bytes.truncate(cut);
    let mut player = Player::open(&[file(&folder, "f", &bytes)]).unwrap();
    assert_eq!(player.span(), (OFFSET + S, OFFSET + 51 * S));
    assert_eq!(rest(&mut player).len(), 50);
    assert_eq!(player.unreadable(), 0, "a file that is being written");
    let mut player = Player::open(&[file(&folder, "g", &bytes[..cut - 10])]).unwrap();
    rest(&mut player);
    assert_eq!(player.unreadable(), 1);
    // Going back counts nothing twice.
    player.seek(0).unwrap();
    rest(&mut player);
    assert_eq!(player.unreadable(), 1);
}

#[test]
fn the_progress_after_a_seek_is_where_the_recording_is_read() {
    let recorder = readings(400, S);
    let bytes = recorder.bytes();
    let middle = bytes.len() / 2;
    let cut = middle + bytes[middle..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let folder = tempfile::tempdir().unwrap();
    let first = file(&folder, "f.1.zst", &zstd::encode_all(&bytes[..cut], 1).unwrap());
    let second = file(&folder, "f", &bytes[cut..]);
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    let (first_size, all) = (size(&first), size(&first) + size(&second));
    let mut reader = Reader::open(&[first, second]).unwrap();
    let to_end = |reader: &mut Reader| while reader.next(&mut |_, _| ()).unwrap() {};
    to_end(&mut reader);
    assert_eq!(reader.progress(), (all, all));
    reader.go_to(0).unwrap();
    assert!(reader.progress().0 <= first_size, "{:?}", reader.progress());
    to_end(&mut reader);
    assert_eq!(reader.progress(), (all, all));
    reader.go_to(OFFSET + 390 * S).unwrap();
    let (read, _) = reader.progress();
    assert!((first_size..=all).contains(&read), "{read} of {first_size} and {all}");
    to_end(&mut reader);
    assert_eq!(reader.progress(), (all, all));
}
