//! Our client, with a password and with recovered keys, against a real server.

use super::*;
use crate::sql::tests::server::Server;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const HBA: &str = "local all bob scram-sha-256\nlocal all all trust\n";
const ANSWER_MAX: Duration = Duration::from_secs(20);

#[test]
fn a_real_server_takes_the_password_and_the_recovered_keys() {
    let server = Server::start(HBA);
    server.query("CREATE ROLE bob LOGIN PASSWORD 'pencil'");
    let stored: Verifier = server.query("SELECT rolpassword FROM pg_authid WHERE rolname = 'bob'").parse().unwrap();
    let socket = server.socket();

    assert_eq!(connect(&socket, Secret::Password(PASSWORD.to_owned())), Ok(()));
    assert_eq!(connect(&socket, Secret::Password("wrong".to_owned())), Err("28P01".to_owned()));

    // A client logs in to us with the password, and we to the server with what its login proved.
    let proven = login(Secret::Password(PASSWORD.to_owned()), Some(stored)).unwrap();
    assert_eq!(connect(&socket, proven.clone().into()), Ok(()));

    // A verifier of ours is as good as one of the server's.
    let ours = Verifier::from_password("graphite", b"0123456789abcdef", ITERATIONS_DEFAULT);
    server.query(&format!("ALTER ROLE bob PASSWORD '{ours}'"));
    assert_eq!(connect(&socket, Secret::Password("graphite".to_owned())), Ok(()));
    assert_eq!(connect(&socket, proven.into()), Err("28P01".to_owned()));
}

/// Logs in as bob; the SQLSTATE where the server refuses.
fn connect(socket: &Path, secret: Secret) -> Result<(), String> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(ANSWER_MAX)).unwrap();
    let parameters = b"\0\x03\0\0user\0bob\0database\0postgres\0\0";
    stream.write_all(&[&length(parameters.len()), &parameters[..]].concat()).unwrap();

    let offer = authentication(&mut stream, 10)?;
    assert!(offer.starts_with(MECHANISM.as_bytes()));
    let (client, client_first) = client::start(secret, nonce(3));
    let initial = [MECHANISM.as_bytes(), b"\0", &u32::try_from(client_first.len()).unwrap().to_be_bytes(), &client_first].concat();
    send(&mut stream, &initial);
    let (client, client_final) = client.respond(&authentication(&mut stream, 11)?).unwrap();
    send(&mut stream, &client_final);
    client.finish(&authentication(&mut stream, 12)?).unwrap();
    authentication(&mut stream, 0).map(drop)
}

fn length(body: usize) -> [u8; 4] {
    u32::try_from(body + 4).unwrap().to_be_bytes()
}

fn send(stream: &mut UnixStream, body: &[u8]) {
    stream.write_all(&[b"p", &length(body.len())[..], body].concat()).unwrap();
}

/// The body of the next message, which is an Authentication of this kind or an ErrorResponse.
fn authentication(stream: &mut UnixStream, kind: u32) -> Result<Vec<u8>, String> {
    let mut header = [0; 5];
    stream.read_exact(&mut header).unwrap();
    let len = u32::from_be_bytes(header[1..].try_into().unwrap()) as usize - 4;
    let mut body = vec![0; len];
    stream.read_exact(&mut body).unwrap();
    if header[0] == b'E' {
        let code = body.split(|byte| *byte == 0).find(|field| field.first() == Some(&b'C')).unwrap();
        return Err(String::from_utf8(code[1..].to_vec()).unwrap());
    }
    assert_eq!((header[0], &body[..4]), (b'R', &kind.to_be_bytes()[..]));
    Ok(body[4..].to_vec())
}
