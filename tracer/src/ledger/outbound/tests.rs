//! Dumps, each with the sockets that must be found outbound.

use super::*;

const ME: Addr = Addr::v4([127, 0, 0, 1]);
const FAR: Addr = Addr::v4([10, 0, 0, 9]);
const ANY_V4: Addr = Addr::v4([0; 4]);
const ANY_V6: Addr = Addr::UNSPECIFIED;
const V6: Addr = Addr([0xfd; 16]);

fn in_range(port: u16) -> bool {
    (32_768..=60_999).contains(&port)
}

fn socket(state: u8, source: (Addr, u16), destination: (Addr, u16)) -> DiagSocket {
    DiagSocket { inode: 1, ..DiagSocket::between(state, source, destination) }
}

fn up(source: (Addr, u16), destination: (Addr, u16)) -> DiagSocket {
    socket(tcp_state::ESTABLISHED, source, destination)
}

fn waiting(source: (Addr, u16), destination: (Addr, u16)) -> DiagSocket {
    socket(tcp_state::TIME_WAIT, source, destination)
}

fn listener(at: Addr, port: u16) -> DiagSocket {
    socket(tcp_state::LISTEN, (at, port), (if at == ANY_V6 { ANY_V6 } else { ANY_V4 }, 0))
}

#[track_caller]
fn expect(dump: &[DiagSocket], outbound_at: &[usize]) {
    let found: Vec<&DiagSocket> = outbound(dump, in_range).collect();
    let expected: Vec<&DiagSocket> = outbound_at.iter().map(|index| &dump[*index]).collect();
    assert_eq!(found, expected);
}

#[test]
fn one_socket_is_judged_by_its_state_and_ports() {
    for (state, source, destination, is_outbound) in [
        (tcp_state::ESTABLISHED, 40_000, 80, true),
        (tcp_state::TIME_WAIT, 40_000, 80, true),
        (tcp_state::FIN_WAIT2, 40_000, 80, true),
        (tcp_state::ESTABLISHED, 80, 40_000, false),
        // Neither port is in the range: the application bound the source port.
        (tcp_state::ESTABLISHED, 1_000, 80, true),
        (tcp_state::ESTABLISHED, 40_000, 41_000, true),
        (tcp_state::SYN_SENT, 80, 40_000, true),
        (tcp_state::SYN_RECV, 40_000, 80, false),
        (tcp_state::NEW_SYN_RECV, 40_000, 80, false),
        (tcp_state::LISTEN, 40_000, 0, false),
        (tcp_state::CLOSE, 40_000, 0, false),
        (tcp_state::CLOSE, 40_000, 80, false),
        (tcp_state::ESTABLISHED, 0, 80, false),
    ] {
        let dump = [socket(state, (ME, source), (FAR, destination))];
        expect(&dump, if is_outbound { &[0] } else { &[] });
    }
}

#[test]
fn what_a_listener_accepted_is_not_outbound() {
    let accepted = up((ME, 40_000), (FAR, 41_000));
    expect(&[accepted, listener(ME, 40_000)], &[]);
    expect(&[accepted, listener(ANY_V4, 40_000)], &[]);
    expect(&[accepted, listener(ANY_V6, 40_000)], &[]);
    let v6_only = DiagSocket { v6_only: true, ..listener(ANY_V6, 40_000) };
    expect(&[accepted, v6_only], &[0]);
    expect(&[accepted, listener(FAR, 40_000)], &[0]);
    expect(&[accepted, listener(ANY_V4, 40_001)], &[0]);
    let six = up((V6, 40_000), (V6, 41_000));
    expect(&[six, listener(ANY_V4, 40_000)], &[0]);
    expect(&[six, v6_only], &[]);
}

#[test]
fn of_two_ends_of_a_connection_one_is_outbound() {
    let (client, server) = ((ME, 40_000), (ME, 80));
    expect(&[up(client, server), up(server, client), listener(ANY_V4, 80)], &[0]);
    // The listener has ended.
    expect(&[up(client, server), up(server, client)], &[0]);
    expect(&[waiting(server, client), up(client, server)], &[1]);
    // A listener on a port of the range.
    let server = (ME, 50_000);
    expect(&[up(client, server), up(server, client), listener(ME, 50_000)], &[0]);
}

#[test]
fn of_two_ports_of_the_range_the_servers_is_the_one_that_more_connections_share() {
    let (server, one, two) = ((ME, 50_000), (ME, 40_000), (ME, 40_002));
    let dump = [up(one, server), up(server, one), up(two, server), up(server, two)];
    expect(&dump, &[0, 2]);
    // With a single connection, nothing distinguishes the ends.
    expect(&dump[..2], &[0, 1]);
}

#[test]
fn a_certain_end_decides_for_the_other() {
    let (client, server) = ((ME, 40_000), (ME, 50_000));
    expect(&[up(client, server), socket(tcp_state::SYN_RECV, server, client)], &[0]);
    // The client's port has a listener too, on another socket.
    let syn_sent = socket(tcp_state::SYN_SENT, client, server);
    expect(&[syn_sent, up(server, client), listener(ANY_V4, 40_000)], &[0]);
}

#[test]
fn a_socket_connected_to_itself_is_outbound() {
    expect(&[up((ME, 40_000), (ME, 40_000))], &[0]);
}
