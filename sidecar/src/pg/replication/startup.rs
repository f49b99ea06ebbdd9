//! From an open socket to a session: start-up message and authentication (trust, SCRAM-SHA-256, MD5).

use super::frames::{self, Frame};
use super::{Connection, Error, OPTIONS};
use crate::pg::connect::Target;
use bytes::{Buf, Bytes};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::frontend;

const AUTH_OK: u32 = 0;
const AUTH_CLEARTEXT: u32 = 3;
const AUTH_MD5: u32 = 5;
const AUTH_SASL: u32 = 10;
const AUTH_SASL_CONTINUE: u32 = 11;
const AUTH_SASL_FINAL: u32 = 12;

pub(super) async fn run(connection: &mut Connection, target: &Target, application_name: &str) -> Result<(), Error> {
    let parameters = [
        ("user", target.user.as_str()),
        ("database", target.database.as_str()),
        ("replication", "database"),
        ("application_name", application_name),
        ("client_encoding", "UTF8"),
        ("options", OPTIONS),
    ];
    connection.send(|out| frontend::startup_message(parameters, out)).await?;
    authenticate(connection, target).await?;
    loop {
        let frame = connection.receive().await?;
        match frame.tag {
            b'Z' => return Ok(()),
            b'K' => connection.process_id = frame.body.clone().try_get_i32().map_err(|_| frames::unexpected(b'K'))?,
            b'E' => return Err(frames::server_error(&frame)),
            b'S' | b'N' => {}
            other => return Err(frames::unexpected(other)),
        }
    }
}

async fn authenticate(connection: &mut Connection, target: &Target) -> Result<(), Error> {
    let (kind, rest) = request(connection).await?;
    match kind {
        AUTH_OK => return Ok(()),
        AUTH_MD5 => {
            let salt: [u8; 4] = rest.as_ref().try_into().map_err(|_| frames::unexpected(b'R'))?;
            let answer = md5_hash(target.user.as_bytes(), password(target)?, salt);
            connection.send(|out| frontend::password_message(answer.as_bytes(), out)).await?;
        }
        AUTH_SASL => scram(connection, password(target)?, &rest).await?,
        AUTH_CLEARTEXT => return Err(Error::Authentication("clear-text password")),
        _ => return Err(Error::Authentication("GSS, SSPI or Kerberos")),
    }
    match request(connection).await? {
        (AUTH_OK, _) => Ok(()),
        _ => Err(frames::unexpected(b'R')),
    }
}

async fn scram(connection: &mut Connection, password: &[u8], mechanisms: &[u8]) -> Result<(), Error> {
    if !mechanisms.split(|byte| *byte == 0).any(|name| name == SCRAM_SHA_256.as_bytes()) {
        return Err(Error::Authentication("a SASL mechanism other than SCRAM-SHA-256"));
    }
    let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
    connection.send(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out)).await?;
    let (kind, challenge) = request(connection).await?;
    if kind != AUTH_SASL_CONTINUE {
        return Err(frames::unexpected(b'R'));
    }
    scram.update(&challenge)?;
    connection.send(|out| frontend::sasl_response(scram.message(), out)).await?;
    let (kind, proof) = request(connection).await?;
    if kind != AUTH_SASL_FINAL {
        return Err(frames::unexpected(b'R'));
    }
    // The server proves that it knows the password too.
    Ok(scram.finish(&proof)?)
}

async fn request(connection: &mut Connection) -> Result<(u32, Bytes), Error> {
    loop {
        let Frame { tag, mut body } = connection.receive().await?;
        match tag {
            b'R' => {
                let kind = body.try_get_u32().map_err(|_| frames::unexpected(b'R'))?;
                return Ok((kind, body));
            }
            b'E' => return Err(frames::server_error(&Frame { tag, body })),
            b'N' | b'v' => {}
            other => return Err(frames::unexpected(other)),
        }
    }
}

fn password(target: &Target) -> Result<&[u8], Error> {
    target.password.as_deref().map(str::as_bytes).ok_or(Error::NoPassword)
}
