//! A program without shared libraries: `static-dialer PEER` reads a number from each line on stdin, opens as many connections to
//! PEER, and keeps them. The answer to each line is the number of connections that the program holds. If a connection fails, the
//! program closes those of this line, and the answer has the error, too.
#![expect(clippy::print_stdout, reason = "the answers go to stdout")]

use std::{
    env, io,
    net::{SocketAddr, TcpStream},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let peer: SocketAddr = env::args().nth(1).ok_or("usage: static-dialer PEER")?.parse()?;
    let mut held = Vec::new();
    for line in io::stdin().lines() {
        let made: io::Result<Vec<_>> =
            (0..line?.parse::<usize>()?).map(|_| TcpStream::connect(peer)).collect();
        match made {
            Ok(made) => {
                held.extend(made);
                println!("{}", held.len());
            }
            Err(error) => println!("{}, then {error}", held.len()),
        }
    }
    Ok(())
}
