//! The vectors of RFC 7677, both sides against each other and against other implementations, and what must be refused.

mod interop;
mod live;

use super::*;

const PASSWORD: &str = "pencil";

fn mock() -> MockSecret {
    MockSecret::new([7; 32])
}

fn nonce(seed: u8) -> Nonce {
    Nonce::new([seed; Nonce::RANDOM_BYTES])
}

fn verifier(password: &str) -> Verifier {
    Verifier::from_password(password, b"0123456789abcdef", 64)
}

/// One login of our client to our server.
fn login(secret: Secret, stored: Option<Verifier>) -> Result<server::Proven, Error> {
    let (client, client_first) = client::start(secret, nonce(1));
    let (server, server_first) = server::start("bob", stored, &mock(), &nonce(2), &client_first)?;
    let (client, client_final) = client.respond(&server_first)?;
    let (proven, server_final) = server.finish(&client_final)?;
    client.finish(&server_final)?;
    Ok(proven)
}

#[test]
fn vectors_of_rfc_7677() {
    let nonce = Nonce::from_text("rOprNGfwEbeRWgbNEkqO");
    let server_nonce = Nonce::from_text("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
    let salt = message::decode("W22ZaJ0SNY7soEsUEjb6gQ==", "salt").unwrap();
    let verifier = Verifier::from_password(PASSWORD, &salt, 4096);
    assert_eq!(
        verifier.to_string(),
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    );
    let client_first = format!("n,,n=user,r={}", nonce.as_str());
    let (server, server_first) = server::start("user", Some(verifier), &mock(), &server_nonce, client_first.as_bytes()).unwrap();
    assert_eq!(
        String::from_utf8(server_first).unwrap(),
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    );
    let client_final = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    let (_, server_final) = server.finish(client_final).unwrap();
    assert_eq!(server_final, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
}

#[test]
fn a_login_leaves_the_keys_for_further_logins() {
    let stored = verifier(PASSWORD);
    let proven = login(Secret::Password(PASSWORD.to_owned()), Some(stored.clone())).unwrap();
    assert_eq!(proven.client_key.stored_key(), stored.stored_key);
    // The keys, not the password, log in; and leave the same keys.
    let again = login(proven.clone().into(), Some(stored)).unwrap();
    assert_eq!((&again.client_key, &again.server_key), (&proven.client_key, &proven.server_key));
    // A server with another verifier of the same password knows other keys.
    let other = Verifier::from_password(PASSWORD, b"another salt", 64);
    assert_eq!(login(proven.into(), Some(other)).unwrap_err(), Error::WrongPassword);
}

#[test]
fn a_wrong_password_and_an_unknown_role_cannot_be_told_apart() {
    let wrong = login(Secret::Password("pencils".to_owned()), Some(verifier(PASSWORD))).unwrap_err();
    let unknown = login(Secret::Password(PASSWORD.to_owned()), None).unwrap_err();
    assert_eq!((wrong, unknown), (Error::WrongPassword, Error::WrongPassword));

    let first = |user: &str, stored: Option<Verifier>, secret: &MockSecret| {
        let (_, message) = server::start(user, stored, secret, &nonce(2), b"n,,n=,r=abc").unwrap();
        String::from_utf8(message).unwrap()
    };
    // The same shape as of a role whose password PostgreSQL made a verifier of, and the same each time.
    let real = first("bob", Some(Verifier::from_password(PASSWORD, &[9; 16], ITERATIONS_DEFAULT)), &mock());
    let made_up = first("eve", None, &mock());
    assert_eq!(real.len(), made_up.len());
    assert!(real.ends_with(",i=4096") && made_up.ends_with(",i=4096"));
    assert_eq!(made_up, first("eve", None, &mock()));
    assert_ne!(made_up, first("eva", None, &mock()));
    assert_ne!(made_up, first("eve", None, &MockSecret::new([8; 32])));
}

#[test]
fn client_first_is_checked() {
    let start = |message: &[u8]| server::start("bob", Some(verifier(PASSWORD)), &mock(), &nonce(2), message).map(|_| ());
    for ok in [&b"n,,n=,r=abc"[..], b"y,,n=bob,r=abc", b"n,,n=bob,r=abc,x=extension"] {
        assert_eq!(start(ok), Ok(()));
    }
    assert_eq!(start(b"p=tls-server-end-point,,n=,r=abc"), Err(Error::ChannelBinding));
    assert_eq!(start(b"n,a=eve,n=,r=abc"), Err(Error::AuthorizationIdentity));
    for bad in [
        &b""[..],
        b"n",
        b"n,",
        b"n,,",
        b"x,,n=,r=abc",
        b"n,,r=abc",
        b"n,,n=,r=",
        b"n,,n=",
        b"n,,m=x,n=,r=abc",
        b"n,,n=,r=a\x01c",
        b"n,,n=,r=\xff",
    ] {
        assert!(matches!(start(bad), Err(Error::Malformed(_))), "{bad:?}");
    }
    let long = [b"n,,n=,r=".to_vec(), vec![b'a'; 10_000]].concat();
    assert!(matches!(start(&long), Err(Error::Malformed(_))));
}

#[test]
fn client_final_is_checked() {
    let finish = |header: &str, change: &dyn Fn(String) -> String| {
        let (client, client_first) = client::start(Secret::Password(PASSWORD.to_owned()), nonce(1));
        let client_first = String::from_utf8(client_first).unwrap().replacen("n,,", header, 1);
        let (server, server_first) = server::start("bob", Some(verifier(PASSWORD)), &mock(), &nonce(2), client_first.as_bytes()).unwrap();
        let (_, client_final) = client.respond(&server_first).unwrap();
        server.finish(change(String::from_utf8(client_final).unwrap()).as_bytes()).map(|_| ())
    };
    assert_eq!(finish("n,,", &|message| message), Ok(()));
    // The header that was said first must be the one that is said last.
    assert_eq!(finish("y,,", &|message| message), Err(Error::ChannelBinding));
    assert_eq!(finish("n,,", &|message| message.replacen("c=biws", "c=eSws", 1)), Err(Error::ChannelBinding));
    assert_eq!(finish("n,,", &|message| message.replacen(",r=", ",r=x", 1)), Err(Error::Nonce));
    // Another extension is part of what was signed.
    assert_eq!(finish("n,,", &|message| message.replacen(",p=", ",x=y,p=", 1)), Err(Error::WrongPassword));
    let without_proof = |message: String| message.split(",p=").next().unwrap().to_owned();
    assert_eq!(finish("n,,", &without_proof), Err(Error::Malformed("p")));
    for proof in ["", "AAAA", "####", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="] {
        assert_eq!(finish("n,,", &|message| format!("{},p={proof}", without_proof(message))), Err(Error::Malformed("p")), "{proof}");
    }
    assert!(matches!(finish("n,,", &|_| String::new()), Err(Error::Malformed(_))));
}

#[test]
fn a_server_that_cheats_is_found_out() {
    let respond = |message: &dyn Fn(&str) -> String| {
        let (client, client_first) = client::start(Secret::Password(PASSWORD.to_owned()), nonce(1));
        let (_, server_first) = server::start("bob", Some(verifier(PASSWORD)), &mock(), &nonce(2), &client_first).unwrap();
        client.respond(message(std::str::from_utf8(&server_first).unwrap()).as_bytes()).map(|(state, _)| state)
    };
    assert_eq!(respond(&|message| message.replacen("r=", "r=x", 1)).unwrap_err(), Error::Nonce);
    assert_eq!(respond(&|message| message.replacen("i=64", "i=0", 1)).unwrap_err(), Error::Iterations(0));
    assert_eq!(respond(&|message| message.replacen("i=64", "i=4000000000", 1)).unwrap_err(), Error::Iterations(4_000_000_000));
    assert_eq!(respond(&|message| message.replacen("i=64", "i=x", 1)).unwrap_err(), Error::Malformed("i"));
    assert_eq!(respond(&|message| message.replacen(",s=", ",s=#", 1)).unwrap_err(), Error::Malformed("s"));
    let only_ours =
        |message: &str| format!("r={},{}", nonce(1).as_str(), message.split_once(",s").map(|(_, rest)| format!("s{rest}")).unwrap());
    assert_eq!(respond(&only_ours).unwrap_err(), Error::Nonce);

    let last = |message: &[u8]| respond(&str::to_owned).unwrap().finish(message);
    assert_eq!(last(b"v=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="), Err(Error::ServerSignature));
    assert_eq!(last(b"e=invalid-proof"), Err(Error::Refused));
    assert_eq!(last(b"v=AAAA"), Err(Error::Malformed("v")));
    assert_eq!(last(b""), Err(Error::Malformed("v")));
}

#[test]
fn verifiers_are_read_and_written() {
    let text = verifier(PASSWORD).to_string();
    assert_eq!(text.parse::<Verifier>().unwrap(), verifier(PASSWORD));
    for (text, error) in [
        ("", BadVerifier::Mechanism),
        ("md5c4ca4238a0b923820dcc509a6f75849b", BadVerifier::Mechanism),
        ("SCRAM-SHA-512$1:AA==$x:y", BadVerifier::Mechanism),
        ("SCRAM-SHA-256$4096", BadVerifier::Form),
        ("SCRAM-SHA-256$4096:AA==", BadVerifier::Form),
        ("SCRAM-SHA-256$4096$x:y", BadVerifier::Form),
        ("SCRAM-SHA-256$4096:AA==$xy", BadVerifier::Form),
        ("SCRAM-SHA-256$0:AA==$x:y", BadVerifier::Iterations),
        ("SCRAM-SHA-256$-1:AA==$x:y", BadVerifier::Iterations),
        ("SCRAM-SHA-256$1:#$x:y", BadVerifier::Salt),
        ("SCRAM-SHA-256$1:$x:y", BadVerifier::Salt),
        ("SCRAM-SHA-256$1:AA==$AA==:AA==", BadVerifier::Key),
    ] {
        assert_eq!(text.parse::<Verifier>().unwrap_err(), error, "{text}");
    }
    assert_eq!(text.replace(":", "::").parse::<Verifier>().unwrap_err(), BadVerifier::Salt);
}

#[test]
fn secrets_are_not_printed() {
    let proven = login(Secret::Password(PASSWORD.to_owned()), Some(verifier(PASSWORD))).unwrap();
    let printed = format!(
        "{:?} {:?} {:?} {:?} {:?} {:?}",
        verifier(PASSWORD),
        proven,
        Secret::from(proven.clone()),
        Secret::Password(PASSWORD.to_owned()),
        mock(),
        nonce(1)
    );
    assert!(!printed.contains(PASSWORD) && !printed.contains('['), "{printed}");
}

#[test]
fn errors_have_the_codes_that_postgres_gives_them() {
    assert_eq!(Error::WrongPassword.sqlstate(), "28P01");
    assert_eq!(Error::Malformed("r").sqlstate(), "08P01");
    assert_eq!(Error::ChannelBinding.sqlstate(), "0A000");
}
