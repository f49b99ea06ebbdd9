//! Our server against the client of postgres-protocol, which the Rust drivers use.

use super::*;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

fn login(password: &[u8], binding: ChannelBinding) -> Result<server::Proven, Error> {
    let mut client = ScramSha256::new(password, binding);
    let (server, server_first) = server::start("bob", Some(verifier(PASSWORD)), &mock(), &nonce(2), client.message())?;
    client.update(&server_first).unwrap();
    let (proven, server_final) = server.finish(client.message())?;
    client.finish(&server_final).unwrap();
    Ok(proven)
}

#[test]
fn the_drivers_client_logs_in() {
    for binding in [ChannelBinding::unsupported, ChannelBinding::unrequested] {
        let proven = login(PASSWORD.as_bytes(), binding()).unwrap();
        assert_eq!(proven.client_key.stored_key(), verifier(PASSWORD).stored_key);
    }
    assert_eq!(login(b"wrong", ChannelBinding::unsupported()).unwrap_err(), Error::WrongPassword);
    assert_eq!(login(PASSWORD.as_bytes(), ChannelBinding::tls_server_end_point(vec![1])).unwrap_err(), Error::ChannelBinding);
}
