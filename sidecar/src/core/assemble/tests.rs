//! The assembler against made-up streams.

mod random;
pub(crate) mod replay;
mod wire;

use super::{Assembler, Error, Limits};
use crate::core::entry::{Entry, Item, Writer};
use crate::core::pgoutput::Message;
use bytes::Bytes;
use howdah_protocol::{Epoch, InstanceId, Lsn, NodeId};
use replay::{Replayed, replay};
use wire::Wire;

const SMALL: Limits = Limits { item_bytes_max: 300, entry_bytes_max: 900, message_bytes_max: 2_000, streams_max: 4 };

fn assembler(start_after: u64) -> Assembler {
    Assembler::new(SMALL, Lsn(start_after), Lsn(0))
}

fn feed(assembler: &mut Assembler, messages: impl IntoIterator<Item = Bytes>) {
    for message in messages {
        assembler.message(message).expect("a stream as Postgres sends it");
    }
}

/// Takes and decides the next batch.
fn entry(assembler: &mut Assembler) -> Option<Bytes> {
    let entry = encode(assembler)?;
    assembler.decided();
    Some(entry)
}

fn encode(assembler: &mut Assembler) -> Option<Bytes> {
    let batch = assembler.take()?;
    let (bytes, commits) = (batch.bytes, batch.commits);
    assert_eq!(commits, batch.items.iter().filter(|item| matches!(item, Item::Commit { .. })).count());
    let writer = Writer { node: NodeId(1), instance: InstanceId(1), epoch: Epoch(1) };
    assert!(!batch.items.is_empty(), "an entry without content");
    let alone = batch.items.len() == 1;
    let entry = Entry::Batch { writer, time_ms: 0, items: batch.items }.encode();
    assert!(entry.len() <= bytes, "an entry of {} bytes was announced with {bytes}", entry.len());
    assert!(alone || entry.len() <= SMALL.entry_bytes_max, "{} bytes", entry.len());
    Some(entry)
}

fn drain(assembler: &mut Assembler) -> Vec<Replayed> {
    let entries: Vec<_> = std::iter::from_fn(|| entry(assembler)).collect();
    replay(&entries)
}

/// (transaction, first values of its rows)
fn rows(commits: &[Replayed]) -> Vec<(u32, Vec<String>)> {
    commits.iter().map(|commit| (commit.xid, commit.changes.iter().map(replay::Change::text).collect())).collect()
}

fn whole(xid: u32, end: u64, rows: &[&str]) -> Vec<Bytes> {
    let plain = Wire::plain();
    let mut messages = vec![plain.begin(xid, end - 5)];
    messages.extend(rows.iter().map(|row| plain.insert(1, row)));
    messages.push(plain.commit(end - 5, end));
    messages
}

fn described() -> Bytes {
    Wire::plain().relation(1, "public", "t", 1)
}

#[test]
fn every_entry_describes_its_tables_and_only_once() {
    let mut assembler = assembler(0);
    feed(&mut assembler, [described()]);
    feed(&mut assembler, whole(5, 10, &["a"]));
    feed(&mut assembler, whole(6, 20, &["b", "c"]));
    let first = entry(&mut assembler).expect("a batch");
    feed(&mut assembler, whole(7, 30, &["d"]));
    let second = entry(&mut assembler).expect("a batch");
    let described = |entry: &Bytes| replay::messages(entry).iter().filter(|message| matches!(message, Message::Relation(_))).count();
    assert_eq!((described(&first), described(&second)), (1, 1));
    let expected = [(5, vec!["a"]), (6, vec!["b", "c"]), (7, vec!["d"])];
    assert_eq!(rows(&replay(&[first, second])), expected.map(|(xid, rows)| (xid, rows.into_iter().map(str::to_owned).collect())));
}

#[test]
fn a_table_that_changes_inside_a_transaction_is_described_in_line() {
    let (mut assembler, plain) = (assembler(0), Wire::plain());
    feed(&mut assembler, [described(), plain.begin(5, 5), plain.insert(1, "old")]);
    feed(&mut assembler, [plain.relation(1, "public", "t", 2), plain.insert(1, "new"), plain.commit(5, 10)]);
    feed(&mut assembler, whole(6, 20, &["later"]));
    let commits = drain(&mut assembler);
    let versions: Vec<_> = commits.iter().flat_map(|commit| commit.changes.iter().map(|change| change.columns[0])).collect();
    assert_eq!(versions, [1, 2, 2]);
}

#[test]
fn positions_are_confirmed_in_order_and_only_when_everything_before_is_decided() {
    let mut assembler = assembler(0);
    assembler.keepalive(Lsn(3));
    assert_eq!(assembler.confirmed(), Lsn(3));
    feed(&mut assembler, [described()]);
    feed(&mut assembler, whole(5, 10, &["a"]));
    assert!(encode(&mut assembler).is_some());
    // An empty transaction and a keepalive behind an undecided one.
    feed(&mut assembler, whole(6, 20, &[]));
    assembler.keepalive(Lsn(25));
    feed(&mut assembler, whole(7, 30, &["b"]));
    assembler.keepalive(Lsn(35));
    assert!(encode(&mut assembler).is_some());
    assert!(encode(&mut assembler).is_none());
    assert_eq!(assembler.confirmed(), Lsn(3));
    assembler.decided();
    assert_eq!(assembler.confirmed(), Lsn(25));
    assembler.decided();
    assert_eq!(assembler.confirmed(), Lsn(35));
    feed(&mut assembler, whole(8, 40, &[]));
    assert_eq!(assembler.confirmed(), Lsn(40));
}

#[test]
fn a_keepalive_inside_a_transaction_confirms_nothing() {
    let (mut assembler, plain) = (assembler(0), Wire::plain());
    feed(&mut assembler, [described(), plain.begin(5, 5)]);
    assembler.keepalive(Lsn(100));
    assert_eq!(assembler.confirmed(), Lsn(0));
}

#[test]
fn what_is_ours_or_known_is_left_out_and_confirmed() {
    let (mut assembler, plain) = (assembler(20), Wire::plain());
    feed(&mut assembler, [described()]);
    feed(&mut assembler, whole(5, 10, &["known"]));
    feed(&mut assembler, whole(6, 20, &["known"]));
    feed(&mut assembler, [plain.begin(7, 25), plain.origin("howdah"), plain.insert(1, "applied"), plain.commit(25, 30)]);
    feed(&mut assembler, [plain.begin(8, 35), plain.relation(2, "howdah", "progress", 1), plain.insert(2, "own"), plain.commit(35, 40)]);
    assert!(assembler.take().is_none());
    assert_eq!(assembler.confirmed(), Lsn(40));
    feed(&mut assembler, [plain.begin(9, 45), plain.origin("other"), plain.insert(1, "kept"), plain.commit(45, 50)]);
    assert_eq!(rows(&drain(&mut assembler)), [(9, vec!["kept".to_owned()])]);
    let counts = assembler.counts();
    assert_eq!((counts.commits, counts.empty, counts.own, counts.known), (1, 1, 1, 2));
}

#[test]
fn a_watermark_inside_a_commit_record_is_found_out() {
    let mut assembler = assembler(17);
    feed(&mut assembler, [described(), Wire::plain().begin(5, 15)]);
    assert!(matches!(assembler.message(Wire::plain().commit(15, 20)), Err(Error::Watermark { .. })));
}

#[test]
fn truncate_leaves_our_own_tables_out() {
    let (mut assembler, plain) = (assembler(0), Wire::plain());
    feed(&mut assembler, [plain.begin(5, 5), described(), plain.relation(2, "howdah", "progress", 1)]);
    feed(&mut assembler, [plain.truncate(&[2]), plain.truncate(&[2, 1]), plain.commit(5, 10)]);
    let commits = drain(&mut assembler);
    let expected = Message::Truncate { relations: vec![1], cascade: true, restart_identity: false };
    assert_eq!(commits[0].changes.iter().map(|change| &change.message).collect::<Vec<_>>(), [&expected]);
}

#[test]
fn messages_of_a_transaction_stand_in_order_with_its_rows() {
    let (mut assembler, plain) = (assembler(0), Wire::plain());
    feed(&mut assembler, [described(), plain.logical(false, "outside")]);
    feed(&mut assembler, [plain.begin(5, 5), plain.logical(true, "first"), plain.insert(1, "second"), plain.commit(5, 10)]);
    assert_eq!(rows(&drain(&mut assembler)), [(5, vec!["first".to_owned(), "second".to_owned()])]);
}

#[test]
fn a_large_transaction_is_cut_and_put_together_again() {
    let mut assembler = assembler(0);
    let values: Vec<_> = (0..100).map(|n| format!("{n:020}")).collect();
    feed(&mut assembler, [described()]);
    feed(&mut assembler, whole(5, 10, &values.iter().map(String::as_str).collect::<Vec<_>>()));
    let commits = drain(&mut assembler);
    assert!(commits[0].chunked);
    assert_eq!(rows(&commits), [(5, values)]);
    assert_eq!(assembler.confirmed(), Lsn(10));
}

#[test]
fn one_large_change_goes_alone_and_one_that_is_too_large_stops_the_line() {
    let (mut assembler, plain) = (assembler(0), Wire::plain());
    let large = "x".repeat(1_500);
    feed(&mut assembler, [described()]);
    feed(&mut assembler, whole(5, 10, &["a", &large, "b"]));
    assert_eq!(rows(&drain(&mut assembler)), [(5, vec!["a".to_owned(), large, "b".to_owned()])]);
    feed(&mut assembler, [plain.begin(6, 15)]);
    let refused = assembler.message(plain.insert(1, &"x".repeat(2_000)));
    assert!(matches!(refused, Err(Error::TooLarge { max: 2_000, .. })), "{refused:?}");
}

#[test]
fn streamed_transactions_interleave_roll_back_in_part_and_end() {
    let (mut assembler, plain) = (assembler(0), Wire::plain());
    let (one, sub, two) = (Wire::streamed(5), Wire::streamed(50), Wire::streamed(6));
    feed(&mut assembler, [one.stream_start(true), one.relation(1, "public", "t", 1), one.insert(1, "a"), sub.insert(1, "void")]);
    feed(&mut assembler, [plain.stream_stop(), two.stream_start(true), two.relation(1, "public", "t", 1), two.insert(1, "b")]);
    feed(
        &mut assembler,
        [plain.stream_stop(), plain.stream_abort(5, 50), one.stream_start(false), one.insert(1, "c"), plain.stream_stop()],
    );
    feed(&mut assembler, [plain.stream_abort(6, 6), plain.stream_commit(5, 5, 10)]);
    // What the stream described holds for everybody once it has committed.
    feed(&mut assembler, whole(7, 20, &["d"]));
    let expected = [(5, vec!["a".to_owned(), "c".to_owned()]), (7, vec!["d".to_owned()])];
    assert_eq!(rows(&drain(&mut assembler)), expected);
    assert_eq!(assembler.confirmed(), Lsn(20));
}

#[test]
fn a_table_that_a_stream_changed_and_did_not_commit_is_as_it_was_for_others() {
    let (mut assembler, plain, one) = (assembler(0), Wire::plain(), Wire::streamed(5));
    feed(&mut assembler, [described()]);
    feed(&mut assembler, whole(6, 10, &["a"]));
    feed(&mut assembler, [one.stream_start(true), one.relation(1, "public", "t", 2), one.insert(1, "b"), plain.stream_stop()]);
    feed(&mut assembler, whole(7, 20, &["c"]));
    feed(&mut assembler, [plain.stream_commit(5, 25, 30), plain.relation(1, "public", "t", 3)]);
    feed(&mut assembler, whole(8, 40, &["d"]));
    let commits = drain(&mut assembler);
    let versions: Vec<_> = commits.iter().map(|commit| (commit.xid, commit.changes[0].columns[0])).collect();
    assert_eq!(versions, [(6, 1), (7, 1), (5, 2), (8, 3)]);
}

#[test]
fn a_streamed_transaction_that_the_log_holds_leaves_nothing_behind() {
    let (mut assembler, plain, one) = (assembler(10), Wire::plain(), Wire::streamed(5));
    feed(&mut assembler, [one.stream_start(true), one.relation(1, "public", "t", 1), one.insert(1, "a")]);
    feed(&mut assembler, [plain.stream_stop(), plain.stream_commit(5, 5, 10)]);
    assert!(drain(&mut assembler).is_empty());
    assert_eq!(assembler.confirmed(), Lsn(10));
}

#[test]
fn nonsense_is_an_error() {
    let (plain, stream) = (Wire::plain(), Wire::streamed(5));
    let bad: [&[Bytes]; 7] = [
        &[plain.insert(1, "outside")],
        &[plain.commit(5, 10)],
        &[plain.begin(5, 5), plain.begin(6, 15)],
        &[plain.begin(5, 5), plain.insert(1, "never described")],
        &[plain.stream_stop()],
        &[plain.stream_commit(5, 5, 10)],
        &[stream.stream_start(true), stream.insert(1, "never described")],
    ];
    for messages in bad {
        let mut assembler = assembler(0);
        let results: Vec<_> = messages.iter().map(|message| assembler.message(message.clone())).collect();
        assert!(results.last().is_some_and(Result::is_err), "{messages:?}");
    }
    let mut assembler = assembler(0);
    let too_many = (1..=5).flat_map(|xid| [Wire::streamed(xid).stream_start(true), plain.stream_stop()]);
    let results: Result<Vec<_>, _> = too_many.map(|message| assembler.message(message)).collect();
    assert_eq!(results, Err(Error::Streams(4)));
}
