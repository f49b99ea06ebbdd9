//! Clients that misbehave: each is told, none hangs, nobody else notices.

use crate::support::postgres::{DATABASE, USER};
use crate::support::proxy::{Proxy, sqlstate};
use crate::support::raw::{Raw, field, message, startup};
use crate::support::sidecar::Group;
use tokio_postgres::NoTls;

const VERSION_3: u32 = 3 << 16;

/// What a connection gets that sends these bytes: the fields of the FATAL error, and then the end.
fn refused(proxy: &Proxy, bytes: &[u8]) -> (String, String) {
    let mut raw = Raw::connect(proxy.port);
    raw.send(bytes);
    let (kind, body) = raw.message();
    assert_eq!(kind, b'E');
    assert_eq!(field(&body, b'S'), "FATAL");
    raw.rest();
    (field(&body, b'C'), field(&body, b'M'))
}

#[tokio::test]
async fn first_packets_that_are_none_are_refused() {
    let proxy = Proxy::start(&Group::new(1));
    let client = proxy.connect().await;
    let version_2 = startup(2 << 16, &[]);
    for (what, bytes, code, text) in [
        ("a web browser", b"GET / HTTP/1.1\r\n\r\n".to_vec(), "08P01", "invalid length of startup packet"),
        ("oversized", 20_000_u32.to_be_bytes().to_vec(), "08P01", "invalid length of startup packet"),
        ("too short", 4_u32.to_be_bytes().to_vec(), "08P01", "invalid length of startup packet"),
        ("protocol 2", version_2, "0A000", "unsupported frontend protocol 2.0"),
        ("no user", startup(VERSION_3, &[("database", DATABASE)]), "28000", "no PostgreSQL user name"),
        ("unterminated", [&12_u32.to_be_bytes()[..], &VERSION_3.to_be_bytes(), b"user"].concat(), "08P01", "invalid startup packet layout"),
        ("replication", startup(VERSION_3, &[("user", USER), ("replication", "database")]), "0A000", "replication"),
        ("bad mode", startup(VERSION_3, &[("user", USER), ("options", "-c howdah.consistency=strong")]), "22023", "howdah.consistency"),
        ("unknown setting", startup(VERSION_3, &[("user", USER), ("options", "-c howdah.nope=1")]), "42704", "howdah.nope"),
    ] {
        let (sqlstate, message) = refused(&proxy, &bytes);
        assert_eq!(sqlstate, code, "{what}: {message}");
        assert!(message.contains(text), "{what}: {message}");
    }
    client.query_one("SELECT 1", &[]).await.expect("others do not notice");
}

#[tokio::test]
async fn encryption_is_declined_and_the_client_goes_on() {
    let proxy = Proxy::start(&Group::new(1));
    let mut raw = Raw::connect(proxy.port);
    for code in [80_877_104_u32, 80_877_103] {
        raw.send(&[8_u32.to_be_bytes(), code.to_be_bytes()].concat());
        let mut answer = [0];
        std::io::Read::read_exact(&mut raw.0, &mut answer).expect("an answer");
        assert_eq!(answer, *b"N");
    }
    raw.send(&startup(VERSION_3, &[("user", USER), ("database", DATABASE)]));
    let (kind, body) = raw.message();
    assert_eq!((kind, &body[..4]), (b'R', &[0, 0, 0, 10][..]), "SASL is offered");
}

#[tokio::test]
async fn a_newer_protocol_is_negotiated_down() {
    let proxy = Proxy::start(&Group::new(1));
    let mut raw = Raw::connect(proxy.port);
    raw.send(&startup(VERSION_3 | 2, &[("user", USER), ("database", DATABASE), ("_pq_.shiny", "on")]));
    let (kind, body) = raw.message();
    assert_eq!((kind, &body[..]), (b'v', &b"\0\0\0\0\0\0\0\x01_pq_.shiny\0"[..]));
    assert_eq!(raw.message().0, b'R');
}

#[tokio::test]
async fn a_login_that_is_no_scram_is_refused() {
    let proxy = Proxy::start(&Group::new(1));
    for (what, answer) in [
        ("a query", message(b'Q', b"SELECT 1\0")),
        ("a plain password", message(b'p', b"secret\0")),
        ("another mechanism", message(b'p', b"PLAIN\0\0\0\0\x01x")),
        ("an impossible length", vec![b'p', 0xff, 0xff, 0xff, 0xff]),
        ("nonsense", message(b'p', b"SCRAM-SHA-256\0\0\0\0\x03abc")),
    ] {
        let mut raw = Raw::connect(proxy.port);
        raw.send(&startup(VERSION_3, &[("user", USER), ("database", DATABASE)]));
        assert_eq!(raw.message().0, b'R');
        raw.send(&answer);
        let (kind, body) = raw.message();
        assert_eq!(kind, b'E', "{what}");
        assert_eq!((field(&body, b'S'), field(&body, b'C')), ("FATAL".into(), "08P01".into()), "{what}");
        raw.rest();
    }
}

#[tokio::test]
async fn a_slow_login_ends() {
    let proxy = Proxy::start_with(&Group::new(1), "handshake_ms = 200");
    for bytes in [&b""[..], &[0, 0], &startup(VERSION_3, &[("user", USER), ("database", DATABASE)])] {
        let mut raw = Raw::connect(proxy.port);
        raw.send(bytes);
        let rest = raw.rest();
        assert!(String::from_utf8_lossy(&rest).contains("login took longer than 200 ms"), "{rest:?}");
    }
}

#[tokio::test]
async fn messages_that_are_none_end_the_connection_with_a_reason() {
    let proxy = Proxy::start_with(&Group::new(1), "message_bytes_max = 65536");
    let client = proxy.connect().await;
    let parse_with_types = |count: u8| [&b"\0SELECT 1\0\0"[..], &[count]].concat();
    for (what, bytes, code) in [
        ("unknown type", message(b'z', b""), "08P01"),
        ("impossible length", vec![b'Q', 0, 0, 0, 1], "08P01"),
        ("negative length", vec![b'Q', 0xff, 0, 0, 0], "08P01"),
        ("query without end", message(b'Q', b"SELECT 1"), "08P01"),
        ("query with two ends", message(b'Q', b"SELECT 1\0SELECT 2\0"), "08P01"),
        ("parse without text", message(b'P', b"name"), "08P01"),
        ("parse with missing types", [message(b'P', &parse_with_types(3)), message(b'S', b"")].concat(), "08P01"),
        ("describe of neither", [message(b'P', &parse_with_types(0)), message(b'D', b"X\0"), message(b'S', b"")].concat(), "08P01"),
        ("query within COPY data", [message(b'Q', b"COPY items FROM STDIN\0"), message(b'Q', b"SELECT 1\0")].concat(), "08P01"),
        ("too large", [vec![b'Q'], 70_000_u32.to_be_bytes().to_vec()].concat(), "54000"),
    ] {
        let mut raw = Raw::log_in(&proxy).await;
        raw.send(&bytes);
        let error = loop {
            let (kind, body) = raw.message();
            if kind == b'E' {
                break body;
            }
        };
        assert_eq!((field(&error, b'S'), field(&error, b'C')), ("FATAL".into(), code.into()), "{what}: {}", field(&error, b'M'));
        raw.rest();
    }
    client.query_one("SELECT 1", &[]).await.expect("others do not notice");
    assert!(proxy.metric("howdah_proxy_protocol_violations_total") >= 9);
}

#[tokio::test]
async fn a_client_that_disappears_leaves_nothing_behind() {
    let proxy = Proxy::start(&Group::new(1));
    let mut raw = Raw::log_in(&proxy).await;
    raw.send(&message(b'Q', b"BEGIN; LOCK TABLE items IN ACCESS EXCLUSIVE MODE\0"));
    while raw.message().0 != b'Z' {}
    drop(raw);
    let client = proxy.connect().await;
    client.query_one("SELECT count(*) FROM items", &[]).await.expect("the lock is gone");
}

#[tokio::test]
async fn too_many_clients_are_refused_in_words() {
    let proxy = Proxy::start_with(&Group::new(1), "clients_max = 1");
    let _first = proxy.connect().await;
    let error = proxy.settings().connect(NoTls).await.err().expect("refused");
    assert_eq!(sqlstate(&error), "53300");
}

#[tokio::test]
async fn a_stray_copy_message_or_sync_is_harmless() {
    let proxy = Proxy::start(&Group::new(1));
    let mut raw = Raw::log_in(&proxy).await;
    raw.send(&[message(b'd', b"1\t2\n"), message(b'c', b""), message(b'H', b""), message(b'S', b"")].concat());
    assert_eq!(raw.message(), (b'Z', vec![b'I']));
    raw.send(&message(b'Q', b"\0"));
    assert_eq!(raw.message().0, b'I');
    assert_eq!(raw.message(), (b'Z', vec![b'I']));
}
