//! COPY in and out, and its ends that are none.

use crate::support::proxy::{Proxy, sqlstate};
use crate::support::raw::{Raw, field, message};
use crate::support::sidecar::Group;
use bytes::Bytes;
use futures::{SinkExt, TryStreamExt};

#[tokio::test]
async fn data_goes_in_and_comes_out() {
    let proxy = Proxy::start(&Group::new(1));
    let client = proxy.connect().await;
    client.batch_execute("DROP TABLE IF EXISTS copied; CREATE TABLE copied (id int, text text)").await.expect("made");
    let sink = client.copy_in("COPY copied FROM STDIN").await.expect("begun");
    futures::pin_mut!(sink);
    for chunk in 0..100 {
        let lines: String = (0..1000).map(|nth| format!("{}\tsome text that makes the line longer\n", chunk * 1000 + nth)).collect();
        sink.send(Bytes::from(lines)).await.expect("sent");
    }
    assert_eq!(sink.finish().await.expect("finished"), 100_000);
    let count: i64 = client.query_one("SELECT count(*) FROM copied", &[]).await.expect("counted").get(0);
    assert_eq!(count, 100_000);
    let out: Vec<Bytes> = client.copy_out("COPY copied TO STDOUT").await.expect("begun").try_collect().await.expect("all");
    assert_eq!(out.iter().map(|chunk| chunk.iter().filter(|byte| **byte == b'\n').count()).sum::<usize>(), 100_000);
    client.batch_execute("DROP TABLE copied").await.expect("dropped");
}

#[tokio::test]
async fn a_server_error_in_the_middle_is_told_and_the_rest_of_the_data_is_harmless() {
    let proxy = Proxy::start(&Group::new(1));
    let client = proxy.connect().await;
    client.batch_execute("DROP TABLE IF EXISTS copy_fails; CREATE TABLE copy_fails (id int)").await.expect("made");
    let sink = client.copy_in("COPY copy_fails FROM STDIN").await.expect("begun");
    futures::pin_mut!(sink);
    for _ in 0..500 {
        // The error may come while there is more to send.
        if sink.send(Bytes::from("not a number\n".repeat(1000))).await.is_err() {
            break;
        }
    }
    let error = sink.finish().await.expect_err("no numbers");
    assert_eq!(sqlstate(&error), "22P02");
    client.query_one("SELECT 1", &[]).await.expect("alive");

    let mut raw = Raw::log_in(&proxy).await;
    raw.send(&message(b'Q', b"COPY copy_fails FROM STDIN\0"));
    assert_eq!(raw.message().0, b'G');
    raw.send(&[message(b'd', b"nonsense\n"), message(b'd', b"1\n"), message(b'd', b"2\n"), message(b'c', b"")].concat());
    let messages = raw.until_ready();
    assert_eq!(messages.iter().map(|(kind, _)| char::from(*kind)).collect::<String>(), "EZ");
    raw.send(&message(b'Q', b"SELECT count(*) FROM copy_fails\0"));
    assert_eq!(raw.kinds(), "TDCZ");
}

#[tokio::test]
async fn copy_fail_ends_it_in_both_protocols() {
    let proxy = Proxy::start(&Group::new(1));
    let mut raw = Raw::log_in(&proxy).await;
    raw.send(&message(b'Q', b"DROP TABLE IF EXISTS copy_fail; CREATE TABLE copy_fail (id int)\0"));
    raw.until_ready();
    raw.send(&message(b'Q', b"COPY copy_fail FROM STDIN\0"));
    assert_eq!(raw.message().0, b'G');
    raw.send(&[message(b'd', b"1\n"), message(b'f', b"changed my mind\0")].concat());
    let messages = raw.until_ready();
    assert_eq!(field(&messages[0].1, b'C'), "57014");
    let begin =
        [message(b'P', b"\0COPY copy_fail FROM STDIN\0\0\0"), message(b'B', &[0; 8]), message(b'E', &[0; 5]), message(b'S', b"")].concat();
    raw.send(&begin);
    for expected in *b"12G" {
        assert_eq!(raw.message().0, expected);
    }
    raw.send(&[message(b'd', b"1\n"), message(b'f', b"no\0"), message(b'S', b"")].concat());
    assert_eq!(raw.kinds(), "EZ");
    raw.send(&begin);
    for expected in *b"12G" {
        assert_eq!(raw.message().0, expected);
    }
    raw.send(&[message(b'd', b"1\n2\n"), message(b'c', b""), message(b'S', b"")].concat());
    assert_eq!(raw.kinds(), "CZ");
    raw.send(&message(b'Q', b"SELECT count(*) FROM copy_fail\0"));
    let row = raw.until_ready().into_iter().find(|(kind, _)| *kind == b'D').expect("a row").1;
    assert!(row.ends_with(b"2"));
}

#[tokio::test]
async fn large_rows_pass_in_both_directions() {
    let proxy = Proxy::start(&Group::new(1));
    let client = proxy.connect().await;
    let long = "x".repeat(3_000_000);
    let echoed: String = client.query_one("SELECT $1::text", &[&long]).await.expect("echoed").get(0);
    assert!(echoed == long);
    let rows = client.query("SELECT repeat('y', 200000), g FROM generate_series(1, 50) g", &[]).await.expect("rows");
    assert_eq!(rows.iter().map(|row| row.get::<_, String>(0).len()).sum::<usize>(), 10_000_000);
}
