//! Reads entries as a follower may: each with nothing but itself. Panics on whatever a follower could not read.

use crate::core::entry::{Entry, Item};
use crate::core::pgoutput::{self, Message, Old, Relation, Value};
use bytes::Bytes;
use howdah_protocol::Lsn;
use std::collections::HashMap;

/// A transaction, put together from its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replayed {
    pub(crate) xid: u32,
    pub(crate) end_lsn: Lsn,
    pub(crate) chunked: bool,
    pub(crate) changes: Vec<Change>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) message: Message,
    /// Types of the columns of the table it is about, as described at that place.
    pub(crate) columns: Vec<u32>,
}

impl Change {
    /// The first value, or the content of a logical message.
    pub(crate) fn text(&self) -> String {
        let text = match &self.message {
            Message::Insert { new, .. } | Message::Update { new, .. } => &new[0],
            Message::Delete { old: Old::Key(old) | Old::Full(old), .. } => &old[0],
            Message::Logical { content, .. } => &Value::Text(content.clone()),
            other => panic!("{other:?} has no value"),
        };
        let Value::Text(text) = text else { panic!("text was asked for, not {text:?}") };
        String::from_utf8(text.to_vec()).expect("UTF-8")
    }
}

type Tables = HashMap<u32, Relation>;
type Parts = HashMap<u32, Vec<(u32, Change)>>;

/// Every transaction in the entries. A follower may keep the chunks with descriptions of their own, or read everything in line:
/// both must come to the same.
pub(crate) fn replay(entries: &[Bytes]) -> Vec<Replayed> {
    let apart = replay_with(entries, true);
    assert_eq!(apart, replay_with(entries, false), "chunks and whole transactions describe tables for each other");
    apart
}

fn replay_with(entries: &[Bytes], chunks_apart: bool) -> Vec<Replayed> {
    let (mut commits, mut parts) = (Vec::new(), Parts::new());
    for entry in entries {
        let mut tables = Tables::new();
        for item in items(entry) {
            let chunk = !matches!(item, Item::Commit { chunked: false, .. });
            if chunk && chunks_apart {
                read(item, &mut Tables::new(), &mut parts, &mut commits);
            } else {
                read(item, &mut tables, &mut parts, &mut commits);
            }
        }
    }
    assert!(parts.is_empty(), "chunks of {:?} belong to nothing", parts.keys());
    commits
}

/// All messages of an entry, in order.
pub(crate) fn messages(entry: &Bytes) -> Vec<Message> {
    let items = items(entry).into_iter().filter_map(|item| match item {
        Item::Chunk { messages, .. } | Item::Commit { messages, .. } => Some(messages),
        _ => None,
    });
    let parse = |raw, streamed| pgoutput::parse(raw, streamed).expect("a message").message;
    items.flat_map(|messages| messages.iter().map(move |raw| parse(raw.expect("whole"), messages.streamed))).collect()
}

/// Where the transactions of an entry end.
pub(super) fn ends(entry: &Bytes) -> Vec<u64> {
    let end = |item: Item| match item {
        Item::Commit { end_lsn, .. } => Some(end_lsn.0),
        _ => None,
    };
    items(entry).into_iter().filter_map(end).collect()
}

fn items(entry: &Bytes) -> Vec<Item> {
    match Entry::decode(entry.clone()) {
        Ok(Entry::Batch { items, .. }) => items,
        other => panic!("not a batch: {other:?}"),
    }
}

fn read(item: Item, tables: &mut Tables, parts: &mut Parts, commits: &mut Vec<Replayed>) {
    let (xid, messages) = match &item {
        Item::Chunk { xid, messages } | Item::Commit { xid, messages, .. } => (*xid, messages),
        Item::Abort { xid } => {
            parts.remove(xid).expect("an abort has chunks");
            return;
        }
        Item::SubAbort { xid, subxid } => {
            parts.get_mut(xid).expect("an abort has chunks").retain(|(tag, _)| tag != subxid);
            return;
        }
    };
    let part = parts.entry(xid).or_default();
    for raw in messages.iter() {
        let tagged = pgoutput::parse(raw.expect("whole"), messages.streamed).expect("a message");
        if let Message::Relation(relation) = tagged.message {
            tables.insert(relation.id, relation);
            continue;
        }
        let columns = columns(&tagged.message, tables);
        part.push((tagged.xid.unwrap_or(xid), Change { message: tagged.message, columns }));
    }
    if let Item::Commit { end_lsn, chunked, .. } = item {
        let changes = parts.remove(&xid).unwrap_or_default().into_iter().map(|(_, change)| change).collect();
        commits.push(Replayed { xid, end_lsn, chunked, changes });
    }
}

fn columns(message: &Message, tables: &Tables) -> Vec<u32> {
    let ids = match message {
        Message::Insert { relation, .. } | Message::Update { relation, .. } | Message::Delete { relation, .. } => vec![*relation],
        Message::Truncate { relations, .. } => relations.clone(),
        Message::Logical { .. } => vec![],
        other => panic!("{other:?} does not belong into an entry"),
    };
    let table = |id: &u32| tables.get(id).unwrap_or_else(|| panic!("table {id} is not described before its use in {message:?}"));
    ids.iter().flat_map(|id| table(id).columns.iter().map(|column| column.type_oid)).collect()
}
