//! Messages as `pgoutput` writes them, and what becomes of them.

use super::*;
use bytes::{BufMut, BytesMut};

const WATERMARK: Lsn = Lsn(100);

fn begin(xid: u32, final_lsn: u64) -> Bytes {
    let mut out = BytesMut::from(&b"B"[..]);
    out.put_u64(final_lsn);
    out.put_i64(0);
    out.put_u32(xid);
    out.freeze()
}

fn commit(end_lsn: u64) -> Bytes {
    let mut out = BytesMut::from(&b"C\0"[..]);
    out.put_u64(end_lsn - 8);
    out.put_u64(end_lsn);
    out.put_i64(5);
    out.freeze()
}

/// Columns `id` (the key) and `note`; identity `d`efault or `f`ull.
fn relation(id: u32, schema: &str, name: &str, identity: u8) -> Bytes {
    let mut out = BytesMut::from(&b"R"[..]);
    out.put_u32(id);
    out.put_slice(format!("{schema}\0{name}\0").as_bytes());
    out.put_u8(identity);
    out.put_u16(2);
    for (key, column) in [(1, "id"), (u8::from(identity == b'f'), "note")] {
        out.put_u8(key);
        out.put_slice(format!("{column}\0").as_bytes());
        out.put_u32(25);
        out.put_i32(-1);
    }
    out.freeze()
}

fn tuple(out: &mut BytesMut, kind: u8, values: [&str; 2]) {
    out.put_u8(kind);
    out.put_u16(2);
    for value in values {
        match value {
            "-" => out.put_u8(b'n'),
            "?" => out.put_u8(b'u'),
            text => {
                out.put_u8(b't');
                out.put_u32(u32::try_from(text.len()).unwrap());
                out.put_slice(text.as_bytes());
            }
        }
    }
}

/// `kind` and the parts that follow the relation's id.
fn row(kind: u8, relation: u32, parts: &[(u8, [&str; 2])]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(kind);
    out.put_u32(relation);
    parts.iter().for_each(|(part, values)| tuple(&mut out, *part, *values));
    out.freeze()
}

fn insert(relation: u32, values: [&str; 2]) -> Bytes {
    row(b'I', relation, &[(b'N', values)])
}

fn logical(prefix: &str, content: &str) -> Bytes {
    let mut out = BytesMut::from(&b"M\x01\0\0\0\0\0\0\0\0"[..]);
    out.put_slice(format!("{prefix}\0").as_bytes());
    out.put_u32(u32::try_from(content.len()).unwrap());
    out.put_slice(content.as_bytes());
    out.freeze()
}

fn collect(limits: Limits, messages: impl IntoIterator<Item = Bytes>) -> Divergence {
    let mut collector = Collector::new(limits, WATERMARK);
    messages.into_iter().for_each(|message| collector.message(message).unwrap());
    collector.finish()
}

fn keyed(messages: Vec<Bytes>) -> Divergence {
    let all = [begin(1, 200), relation(5, "public", "t", b'd')].into_iter().chain(messages).chain([commit(208)]);
    collect(Limits::rows(100), all)
}

fn keys(divergence: &Divergence) -> Vec<Vec<u8>> {
    let touched = divergence.keys().unwrap();
    touched.iter().flat_map(|touched| &touched.keys).map(|key| key.concat()).collect()
}

fn text(text: &str) -> Value {
    match text {
        "-" => Value::Null,
        text => Value::Text(Bytes::copy_from_slice(text.as_bytes())),
    }
}

#[test]
fn every_key_that_was_touched_is_there_once() {
    let divergence = keyed(vec![
        insert(5, ["1", "a"]),
        row(b'U', 5, &[(b'N', ["1", "?"])]),
        row(b'U', 5, &[(b'K', ["1", "-"]), (b'N', ["2", "?"])]),
        row(b'D', 5, &[(b'K', ["2", "-"])]),
        row(b'D', 5, &[(b'K', ["3", "-"])]),
        insert(5, ["1", "b"]),
    ]);
    assert_eq!(keys(&divergence), [b"1", b"2", b"3"]);
    assert_eq!((divergence.count, divergence.rows, divergence.last_commit), (1, 6, Some(Lsn(208))));
    assert_eq!((divergence.refused.clone(), divergence.is_whole()), (None, true));
    assert_eq!(divergence.undo(Lsn(0)), Ok(vec![]));
}

#[test]
fn what_the_log_holds_what_was_applied_from_it_and_what_is_howdahs_own_do_not_count() {
    let mut origin = BytesMut::from(&b"O\0\0\0\0\0\0\0\0"[..]);
    origin.put_slice(b"howdah\0");
    let messages = [
        begin(1, 92),
        relation(5, "public", "t", b'd'),
        insert(5, ["1", "a"]),
        commit(100),
        begin(2, 192),
        origin.freeze(),
        insert(5, ["2", "a"]),
        commit(200),
        begin(3, 292),
        relation(6, "howdah", "progress", b'd'),
        insert(6, ["3", "a"]),
        commit(300),
        begin(4, 392),
        commit(400),
        begin(5, 492),
        insert(5, ["5", "a"]),
        commit(500),
        // Its commit never came.
        begin(6, 592),
    ];
    let divergence = collect(Limits::rows(100), messages);
    assert_eq!((divergence.count, divergence.last_commit, keys(&divergence)), (1, Some(Lsn(500)), vec![b"5".to_vec()]));
    assert_eq!(divergence.commits, [Commit { xid: 5, commit_lsn: Lsn(492), end_lsn: Lsn(500), time_us: 5 }]);
}

#[test]
fn rows_without_a_key_are_taken_back_from_the_last_to_the_first() {
    let messages = [
        begin(1, 192),
        relation(5, "public", "t", b'f'),
        insert(5, ["1", "a"]),
        commit(200),
        begin(2, 292),
        row(b'U', 5, &[(b'O', ["1", "a"]), (b'N', ["9", "?"])]),
        row(b'D', 5, &[(b'O', ["9", "a"])]),
        commit(300),
    ];
    let divergence = collect(Limits::rows(100), messages);
    assert_eq!(divergence.keys(), Ok(vec![]));
    let table = Arc::clone(&divergence.changes[0].table);
    let row = |id, note| vec![text(id), text(note)];
    let first = vec![
        Step::Append { table: Arc::clone(&table), rows: vec![row("9", "a")] },
        Step::Match { table: Arc::clone(&table), old: row("9", "a"), new: Some(row("1", "a")) },
    ];
    // What an earlier attempt took back already stays.
    assert_eq!(divergence.undo(Lsn(200)), Ok(first.clone()));
    let second = vec![Step::Match { table, old: row("1", "a"), new: None }];
    assert_eq!(divergence.undo(WATERMARK), Ok([first, second].concat()));
}

#[test]
fn what_rows_cannot_tell_is_refused_and_the_rest_is_kept() {
    let ddl = r#"{"kind":"ddl","tag":"CREATE TABLE","sql":"CREATE TABLE u ()","search_path":"","role":"r"}"#;
    let truncate = || Bytes::from_static(b"T\0\0\0\x01\0\0\0\0\x05");
    for (message, expected) in [
        (logical("howdah", ddl), Some(Refused::Command("CREATE TABLE".into()))),
        (truncate(), Some(Refused::Truncate("public.t".into()))),
        (logical("howdah.mark", ""), None),
        (logical("application", "x"), None),
    ] {
        let divergence = keyed(vec![message, insert(5, ["1", "a"])]);
        assert_eq!((divergence.refused, divergence.changes.len()), (expected, 1));
    }
    // A message alone is a commit all the same.
    assert_eq!(keyed(vec![logical("application", "x")]).count, 1);
    assert!(matches!(keyed(vec![logical("howdah", "{}")]).refused, Some(Refused::Command(_))));
}

#[test]
fn what_is_kept_is_bounded() {
    let rows = |count: u32| (0..count).map(|id| insert(5, [&id.to_string(), "a"]));
    let all = |count| [begin(1, 200), relation(5, "public", "t", b'd')].into_iter().chain(rows(count)).chain([commit(208)]);
    let divergence = collect(Limits::rows(10), all(10));
    assert_eq!((divergence.refused.clone(), divergence.is_whole()), (None, true));
    let divergence = collect(Limits::rows(10), all(11));
    assert_eq!((divergence.refused.clone(), divergence.is_whole()), (Some(Refused::Rows { max: 10 }), false));
    assert_eq!((divergence.changes.len(), divergence.rows, divergence.count), (10, 11, 1));
    let divergence = collect(Limits { rows_max: 100, bytes_max: 60 }, all(11));
    assert_eq!((divergence.refused.clone(), divergence.changes.len()), (Some(Refused::Bytes { max: 60 }), 3));
    // Counting only.
    let divergence = collect(Limits::rows(0), all(3));
    assert_eq!((divergence.count, divergence.last_commit, divergence.changes.len()), (1, Some(Lsn(208)), 0));

    let keyless = |count| {
        let rows = rows(count);
        collect(Limits::rows(10_000), [begin(1, 200), relation(5, "public", "t", b'f')].into_iter().chain(rows).chain([commit(208)]))
    };
    let max = u32::try_from(KEYLESS_ROWS_MAX).unwrap();
    assert!(keyless(max).undo(Lsn(0)).is_ok());
    assert_eq!(keyless(max + 1).undo(Lsn(0)), Err(Refused::KeylessRows { max: KEYLESS_ROWS_MAX }));
}

#[test]
fn nonsense_is_an_error() {
    let fails = |messages: Vec<Bytes>| {
        let mut collector = Collector::new(Limits::rows(10), WATERMARK);
        messages.into_iter().find_map(|message| collector.message(message).err()).unwrap()
    };
    assert_eq!(fails(vec![insert(5, ["1", "a"])]), Error::UnknownRelation(5));
    assert_eq!(fails(vec![relation(5, "public", "t", b'd'), insert(5, ["1", "a"])]), Error::OutOfOrder("a change"));
    assert_eq!(fails(vec![begin(1, 200), begin(2, 300)]), Error::OutOfOrder("the begin of a transaction"));
    assert!(matches!(fails(vec![begin(1, 99), commit(107)]), Error::Watermark { .. }));
}
