//! Large transactions that come in chunks, among others, with subtransactions that rolled back.

use super::fixture::{Framer, Pair, SOURCE, Transaction};
use crate::core::entry::{Entry, Item, Messages};
use bytes::{BufMut, Bytes, BytesMut};
use howdah_protocol::Lsn;
use std::time::Duration;

/// Inside a stream every message carries the (sub)transaction that it belongs to.
fn tagged(messages: &Messages, xid: u32) -> Messages {
    let mut out = BytesMut::new();
    for message in messages.iter() {
        let message = message.unwrap();
        let mut with = BytesMut::from(&message[..1]);
        with.put_u32(xid);
        with.put_slice(&message[1..]);
        Messages::push(&mut out, &with);
    }
    Messages { streamed: true, bytes: out.freeze() }
}

fn entry(items: Vec<Item>) -> Entry {
    Entry::Batch { writer: SOURCE, time_ms: 0, items }
}

fn chunk(framer: &mut Framer, xid: u32, messages: &[Bytes], of: u32) -> Item {
    Item::Chunk { xid, messages: tagged(&framer.messages(messages), of) }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_wait_for_their_commit() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE big (n int); CREATE TABLE t (id int PRIMARY KEY, n int)").await;
    pair.on_source("INSERT INTO big SELECT generate_series(1, 3000)").await;
    pair.on_source("INSERT INTO t SELECT i, i FROM generate_series(1, 10) i").await;
    pair.on_source("UPDATE t SET n = 0").await;
    let [big, small, last]: [Transaction; 3] = pair.captured().await.try_into().unwrap();
    let mut framer = std::mem::take(&mut pair.framer);
    let thirds: Vec<&[Bytes]> = big.messages.chunks(1_001).collect();
    // The commit of the large one comes last: later than that of `small`, and with `last` behind it in the same entry.
    for part in &thirds[..2] {
        framer.begin_entry();
        let item = chunk(&mut framer, big.xid, part, big.xid);
        pair.log.append(Some(&entry(vec![item])));
    }
    framer.begin_entry();
    let bystander = framer.commit(&Transaction { end_lsn: Lsn(big.end_lsn.0 - 1), ..small.clone() }, false, &small.messages);
    // A subtransaction that rolled back: rows that nobody may see.
    let ghost = chunk(&mut framer, big.xid, &thirds[2][..500], big.xid + 1_000);
    pair.log.append(Some(&entry(vec![bystander, ghost, Item::SubAbort { xid: big.xid, subxid: big.xid + 1_000 }])));
    pair.caught_up().await;
    let rows = |table: &'static str| {
        let target = &pair.target;
        async move { target.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get::<_, i64>(0) }
    };
    assert_eq!((rows("big").await, rows("t").await), (0, 10));
    assert!(pair.applied().needs_from < pair.applied().index, "the chunks must stay in the log");

    // What a restart knows of the chunks is what was stored.
    pair.stop().await;
    pair.start();
    framer.begin_entry();
    let mut commit = framer.commit(&big, true, thirds[2]);
    if let Item::Commit { messages, .. } = &mut commit {
        *messages = tagged(messages, big.xid);
    }
    let behind = framer.commit(&last, false, &last.messages);
    pair.log.append(Some(&entry(vec![commit, behind])));
    pair.caught_up().await;
    pair.compare().await;
    assert_eq!(pair.applied().needs_from, pair.applied().index.next());
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_transaction_that_rolled_back_are_void() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE big (n int)").await;
    pair.on_source("INSERT INTO big SELECT generate_series(1, 10)").await;
    let [big]: [Transaction; 1] = pair.captured().await.try_into().unwrap();
    let mut framer = Framer::default();
    let item = chunk(&mut framer, big.xid, &big.messages, big.xid);
    pair.log.append(Some(&entry(vec![item, Item::Abort { xid: big.xid }])));
    pair.caught_up().await;
    let rows: i64 = pair.target.query_one("SELECT count(*) FROM big", &[]).await.unwrap().get(0);
    assert_eq!(rows, 0);
    // Once the position is stored, the chunks are not needed any more.
    let mut applied = pair.applier.as_ref().unwrap().applied();
    let stored = applied.wait_for(|applied| applied.needs_from == applied.index.next());
    tokio::time::timeout(Duration::from_secs(20), stored).await.unwrap().unwrap();
}

/// Tables of the same shape: a statement of the wrong one would be taken without complaint.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_find_their_tables() {
    let mut pair = Pair::new().await;
    pair.both("CREATE TABLE a (n int); CREATE TABLE b (n int); CREATE TABLE c (n int)").await;
    pair.on_source("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); INSERT INTO c VALUES (1)").await;
    pair.same().await;
    pair.on_source("BEGIN; INSERT INTO c SELECT generate_series(1, 100); INSERT INTO b SELECT generate_series(1, 100); COMMIT").await;
    let [large]: [Transaction; 1] = pair.captured().await.try_into().unwrap();
    let mut framer = std::mem::take(&mut pair.framer);
    for part in large.messages.chunks(50) {
        framer.begin_entry();
        let item = chunk(&mut framer, large.xid, part, large.xid);
        pair.log.append(Some(&entry(vec![item])));
    }
    framer.begin_entry();
    let commit = framer.commit(&large, true, &[]);
    pair.log.append(Some(&entry(vec![commit])));
    pair.caught_up().await;
    pair.compare().await;
}
