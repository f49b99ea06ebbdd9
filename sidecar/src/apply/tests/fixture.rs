//! Source, log and target in one.

use super::server::Server;
use crate::apply::{self, Applied, Handle, Log, LogError, Options};
use crate::core::entry::{Entry, Item, Messages, Writer};
use crate::core::pgoutput::{self, Message};
use bytes::{Bytes, BytesMut};
use howdah_protocol::{Epoch, InstanceId, LogIndex, Lsn, NodeId};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_postgres::Client;

pub(super) const SOURCE: Writer = Writer { node: NodeId(1), instance: InstanceId(101), epoch: Epoch(1) };
pub(super) const TARGET: InstanceId = InstanceId(102);
const CATCH_UP: Duration = Duration::from_secs(60);

const SCHEMA: &str = "
    CREATE SCHEMA howdah;
    CREATE TABLE howdah.progress (only_row bool PRIMARY KEY DEFAULT true CHECK (only_row), applied_index bigint NOT NULL, state jsonb NOT NULL);
    INSERT INTO howdah.progress VALUES (true, 0, '{}');
    SELECT pg_replication_origin_create('howdah');";

/// A log in memory. All of it is decided.
#[derive(Debug, Clone)]
pub(super) struct MemLog {
    entries: Arc<Mutex<Vec<Option<Bytes>>>>,
    decided: watch::Sender<LogIndex>,
}

impl MemLog {
    pub(super) fn new() -> Self {
        Self { entries: Arc::default(), decided: watch::Sender::new(LogIndex(0)) }
    }

    pub(super) fn append(&self, entry: Option<&Entry>) -> LogIndex {
        let mut entries = self.entries.lock().unwrap();
        entries.push(entry.map(Entry::encode));
        let last = LogIndex(entries.len() as u64);
        self.decided.send_replace(last);
        last
    }
}

impl Log for MemLog {
    fn decided(&self) -> LogIndex {
        *self.decided.borrow()
    }

    async fn decided_past(&self, index: LogIndex) {
        let _ = self.decided.subscribe().wait_for(|decided| *decided > index).await;
    }

    async fn read(&self, from: LogIndex, bytes_max: usize) -> Result<Vec<(LogIndex, Option<Bytes>)>, LogError> {
        let entries = self.entries.lock().unwrap();
        let mut size = 0;
        let first = usize::try_from(from.0 - 1).unwrap();
        let mut out = Vec::new();
        for (at, payload) in entries.iter().enumerate().skip(first) {
            if size >= bytes_max {
                break;
            }
            size += payload.as_ref().map_or(0, Bytes::len);
            out.push((LogIndex(at as u64 + 1), payload.clone()));
        }
        Ok(out)
    }
}

/// A committed transaction of the source.
#[derive(Debug, Clone)]
pub(super) struct Transaction {
    pub(super) xid: u32,
    pub(super) end_lsn: Lsn,
    pub(super) messages: Vec<Bytes>,
}

/// Frames messages so that each entry describes the tables that it uses, as capture does.
#[derive(Debug, Default)]
pub(super) struct Framer {
    relations: HashMap<[u8; 4], Bytes>,
    described: BTreeSet<[u8; 4]>,
}

impl Framer {
    pub(super) fn begin_entry(&mut self) {
        self.described.clear();
    }

    pub(super) fn messages(&mut self, messages: &[Bytes]) -> Messages {
        let mut out = BytesMut::new();
        for message in messages {
            let used: Vec<[u8; 4]> = match message[0] {
                b'I' | b'U' | b'D' => vec![message[1..5].try_into().unwrap()],
                b'T' => message[6..].chunks(4).map(|id| id.try_into().unwrap()).collect(),
                b'R' => {
                    let id = message[1..5].try_into().unwrap();
                    self.relations.insert(id, message.clone());
                    self.described.insert(id);
                    vec![]
                }
                _ => vec![],
            };
            for id in used {
                if self.described.insert(id) {
                    Messages::push(&mut out, &self.relations[&id]);
                }
            }
            Messages::push(&mut out, message);
        }
        Messages { streamed: false, bytes: out.freeze() }
    }

    pub(super) fn batch(&mut self, transactions: &[Transaction]) -> Entry {
        self.begin_entry();
        let items = transactions.iter().map(|transaction| self.commit(transaction, false, &transaction.messages)).collect();
        Entry::Batch { writer: SOURCE, time_ms: 0, items }
    }

    pub(super) fn commit(&mut self, transaction: &Transaction, chunked: bool, messages: &[Bytes]) -> Item {
        Item::Commit {
            xid: transaction.xid,
            commit_lsn: transaction.end_lsn,
            end_lsn: transaction.end_lsn,
            commit_time_us: 0,
            chunked,
            messages: self.messages(messages),
        }
    }
}

pub(super) struct Pair {
    pub(super) source: Client,
    pub(super) target: Client,
    pub(super) log: MemLog,
    pub(super) framer: Framer,
    pub(super) applier: Option<Handle>,
    pub(super) options: Options,
    pub(super) target_server: Server,
    pub(super) source_server: Server,
}

impl Pair {
    pub(super) async fn new() -> Self {
        let source_server = Server::start("source", "");
        // As on every node: what waited for the gate here would hang.
        let target_server = Server::start("target", "synchronous_standby_names = 'howdah'");
        let (source, target) = (source_server.client().await, target_server.client().await);
        source.batch_execute("CREATE PUBLICATION howdah FOR ALL TABLES").await.unwrap();
        source.batch_execute("SELECT pg_create_logical_replication_slot('howdah', 'pgoutput')").await.unwrap();
        target.batch_execute(SCHEMA).await.unwrap();
        let log = MemLog::new();
        log.append(None);
        log.append(Some(&Entry::Open { writer: SOURCE, time_ms: 0 }));
        let mut options = Options::new(target_server.target(), TARGET);
        options.linger = Duration::ZERO;
        let mut pair = Self { source, target, log, framer: Framer::default(), applier: None, options, target_server, source_server };
        pair.start();
        pair
    }

    pub(super) fn start(&mut self) {
        self.applier = Some(apply::start(self.options.clone(), self.log.clone()));
    }

    pub(super) async fn stop(&mut self) {
        if let Some(applier) = self.applier.take() {
            applier.stop().await;
        }
    }

    pub(super) fn applied(&self) -> Applied {
        self.applier.as_ref().unwrap().applied().borrow().clone()
    }

    /// The same statement on both servers.
    pub(super) async fn both(&self, sql: &str) {
        self.source.batch_execute(sql).await.unwrap_or_else(|error| panic!("source: {sql}: {error:?}"));
        let target = format!("SET session_replication_role = replica; {sql}; RESET session_replication_role");
        self.target.batch_execute(&target).await.unwrap_or_else(|error| panic!("target: {sql}: {error:?}"));
    }

    pub(super) async fn on_source(&self, sql: &str) {
        self.source.batch_execute(sql).await.unwrap_or_else(|error| panic!("source: {sql}: {error:?}"));
    }

    /// What the source committed since the last call.
    pub(super) async fn captured(&mut self) -> Vec<Transaction> {
        const CHANGES: &str = "SELECT xid::text, data FROM pg_logical_slot_get_binary_changes('howdah', NULL, NULL, 'proto_version', '1', \
                               'publication_names', 'howdah', 'messages', 'true')";
        let mut transactions = Vec::new();
        let mut messages = Vec::new();
        for row in self.source.query(CHANGES, &[]).await.unwrap() {
            let data = Bytes::from(row.get::<_, Vec<u8>>(1));
            match pgoutput::parse(data.clone(), false).unwrap().message {
                Message::Begin { .. } | Message::Origin { .. } | Message::Type => {}
                Message::Commit { end_lsn, .. } => {
                    let xid = row.get::<_, String>(0).parse().unwrap();
                    transactions.push(Transaction { xid, end_lsn, messages: std::mem::take(&mut messages) });
                }
                _ => messages.push(data),
            }
        }
        transactions
    }

    /// Puts all that the source committed into one entry.
    pub(super) async fn replicate(&mut self) -> LogIndex {
        let transactions = self.captured().await;
        let entry = self.framer.batch(&transactions);
        self.log.append(Some(&entry))
    }

    pub(super) async fn caught_up(&self) {
        let reached = self.applier.as_ref().unwrap().wait_for(self.log.decided(), Instant::now() + CATCH_UP).await;
        reached.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Replicates, waits, compares.
    pub(super) async fn same(&mut self) {
        self.replicate().await;
        self.caught_up().await;
        self.compare().await;
    }

    pub(super) async fn compare(&self) {
        let (source, target) = (checksums(&self.source).await, checksums(&self.target).await);
        assert_eq!(source, target);
    }
}

/// Rows and sum of row hashes, per table.
pub(super) async fn checksums(client: &Client) -> BTreeMap<String, (i64, String)> {
    const TABLES: &str = "SELECT format('%I.%I', schemaname, tablename) FROM pg_tables \
                          WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'howdah')";
    let mut sums = BTreeMap::new();
    for row in client.query(TABLES, &[]).await.unwrap() {
        let table: String = row.get(0);
        let sum = format!("SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text FROM {table} t");
        let row = client.query_one(&sum, &[]).await.unwrap();
        sums.insert(table, (row.get(0), row.get(1)));
    }
    sums
}
