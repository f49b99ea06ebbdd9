//! The vectors of RFC 7677, both sides against each other, and what must be refused.

use super::*;

#[test]
fn vectors_of_rfc_7677() {
    let nonce = Nonce::from_text("rOprNGfwEbeRWgbNEkqO");
    let server_nonce = Nonce::from_text("%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0");
    let salt = message::decode("W22ZaJ0SNY7soEsUEjb6gQ==", "salt").unwrap();
    let verifier = Verifier::from_password("pencil", &salt, 4096);
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

fn mock() -> MockSecret {
    MockSecret::new([7; 32])
}
