use proptest::prelude::*;

use super::*;

fn bytes(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = request(kind, 0, payload);
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

#[test]
fn errors_and_damaged_messages_are_not_taken_for_the_end() {
    let end = |bytes: &[u8]| messages(bytes).next().unwrap().map(|message| message.end());
    assert_eq!(end(&bytes(NLMSG_DONE, 2, &0_i32.to_ne_bytes())), Some(Some(0)));
    assert_eq!(end(&bytes(NLMSG_DONE, 2, &[])), Some(Some(0)));
    assert_eq!(end(&bytes(NLMSG_ERROR, 0, &(-2_i32).to_ne_bytes())), Some(Some(2)));
    assert_eq!(end(&bytes(20, 2, &[0; 72])), Some(None));
    for damaged in [&bytes(NLMSG_ERROR, 0, &[0; 3])[..], &[0; 16], &[1; 3]] {
        assert_eq!(end(damaged), None, "{damaged:?}");
    }
}

#[test]
fn messages_of_one_datagram_follow_each_other_aligned() {
    let datagram = [bytes(20, 0, &[1, 2, 3]), vec![0], bytes(21, 0, &[4; 4])].concat();
    let found: Vec<_> = messages(&datagram).map(|message| message.unwrap().payload).collect();
    assert_eq!(found, [&[1, 2, 3][..], &[4; 4]]);
}

#[test]
fn attributes_are_read_up_to_a_damaged_one() {
    let read = |bytes: &[u8]| -> Vec<(u16, Vec<u8>)> {
        attributes(bytes).map(|(kind, value)| (kind, value.to_vec())).collect()
    };
    let two = [5, 0, 1, 0, 9, 0, 0, 0, 4, 0, 2, 0];
    assert_eq!(read(&two), [(1, vec![9]), (2, vec![])]);
    assert_eq!(read(&two[..10]), [(1, vec![9])]);
    assert_eq!(read(&[3, 0, 1, 0]), []);
    assert_eq!(read(&[9, 0, 1, 0, 0, 0, 0, 0]), []);
}

proptest! {
    #[test]
    fn any_bytes_are_messages_or_damaged(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for message in messages(&bytes).flatten() {
            attributes(message.payload).for_each(drop);
            message.end();
        }
    }
}
