//! The side that asks for the proof: the proxy towards a client.

use super::keys::{ClientKey, KEY_BYTES, ServerKey};
use super::message::{attribute, decode, encode, text};
use super::{Error, MockSecret, Nonce, Verifier};

/// The answer to server-first is awaited.
#[derive(Debug)]
pub(crate) struct AwaitClientFinal {
    verifier: Verifier,
    /// The role exists and may log in. Where not, the verifier is made up.
    known: bool,
    /// `n,,` or `y,,`, as the client said it.
    gs2_header: &'static str,
    nonce: Nonce,
    client_first_bare: String,
    server_first: String,
}

/// What a successful login leaves: enough to log in as this role to any server with the same verifier.
#[derive(Debug, Clone)]
pub(crate) struct Proven {
    pub(crate) client_key: ClientKey,
    pub(crate) server_key: ServerKey,
}

/// Takes client-first (the bytes of SASLInitialResponse) and gives server-first (for AuthenticationSASLContinue).
///
/// `user` is the role of the startup packet, the only one that counts; the one in the message is ignored, as PostgreSQL does.
/// `verifier` is None for a role that does not exist or may not log in.
pub(crate) fn start(
    user: &str,
    verifier: Option<Verifier>,
    mock: &MockSecret,
    nonce: &Nonce,
    client_first: &[u8],
) -> Result<(AwaitClientFinal, Vec<u8>), Error> {
    let (gs2_header, bare) = gs2(text(client_first)?)?;
    if bare.starts_with("m=") {
        return Err(Error::Malformed("mandatory extension"));
    }
    let (_user, rest) = attribute(bare, "n")?;
    let (client_nonce, _extensions) = attribute(rest, "r")?;
    let nonce = Nonce::parse(client_nonce)?.followed_by(nonce);

    let known = verifier.is_some();
    // Made for known roles too, so that both take as long.
    let mock = Verifier::mock(mock, user);
    let verifier = verifier.unwrap_or(mock);
    let server_first = format!("r={},s={},i={}", nonce.as_str(), encode(&verifier.salt), verifier.iterations);
    let answer = server_first.clone().into_bytes();
    Ok((AwaitClientFinal { verifier, known, gs2_header, nonce, client_first_bare: bare.to_owned(), server_first }, answer))
}

impl AwaitClientFinal {
    /// Takes client-final (the bytes of SASLResponse) and gives server-final (for AuthenticationSASLFinal).
    pub(crate) fn finish(self, client_final: &[u8]) -> Result<(Proven, Vec<u8>), Error> {
        let message = text(client_final)?;
        let (binding, rest) = attribute(message, "c")?;
        // The header comes again so that nobody between could have changed it.
        if binding != encode(self.gs2_header.as_bytes()) {
            return Err(Error::ChannelBinding);
        }
        let (nonce, _) = attribute(rest, "r")?;
        if nonce != self.nonce.as_str() {
            return Err(Error::Nonce);
        }
        // The proof stands last, whatever extensions there are.
        let (without_proof, proof) = message.rsplit_once(",p=").ok_or(Error::Malformed("p"))?;
        let proof: [u8; KEY_BYTES] = decode(proof, "p")?.try_into().map_err(|_| Error::Malformed("p"))?;

        let auth_message = auth_message(&self.client_first_bare, &self.server_first, without_proof);
        let client_key = self.verifier.stored_key.recover(&proof, &auth_message);
        let signature = self.verifier.server_key.signature(&auth_message);
        match client_key {
            Some(client_key) if self.known => {
                let answer = format!("v={}", encode(&signature)).into_bytes();
                Ok((Proven { client_key, server_key: self.verifier.server_key }, answer))
            }
            _ => Err(Error::WrongPassword),
        }
    }
}

/// What both sides sign.
pub(super) fn auth_message<'a>(client_first_bare: &'a str, server_first: &'a str, client_final_without_proof: &'a str) -> [&'a [u8]; 5] {
    [client_first_bare.as_bytes(), b",", server_first.as_bytes(), b",", client_final_without_proof.as_bytes()]
}

/// Splits the GS2 header off. `y` says that the client could bind to the channel and believes that we cannot: it is right.
fn gs2(message: &str) -> Result<(&'static str, &str), Error> {
    let header = match message.as_bytes().first() {
        Some(b'n') => "n,,",
        Some(b'y') => "y,,",
        Some(b'p') => return Err(Error::ChannelBinding),
        _ => return Err(Error::Malformed("GS2 header")),
    };
    if let Some(bare) = message.strip_prefix(header) {
        return Ok((header, bare));
    }
    Err(if message[1..].starts_with(",a=") { Error::AuthorizationIdentity } else { Error::Malformed("GS2 header") })
}
