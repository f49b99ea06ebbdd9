//! Asking the leader for rows, and where in the log they are from.

use super::{Ask, AskTable, CHUNK_TIMEOUT, Error, Line, PATH, STATEMENT_ROWS_MAX};
use crate::admin::client as http;
use crate::apply::fetch;
use crate::config::Config;
use crate::core::coalesce::{Change, Coalescer, Cut, Mode, Step, Table, TableId};
use crate::core::decisions::{Decisions, Fate, Serving};
use crate::core::divergence::Touched;
use crate::core::pgoutput::Value;
use crate::raft;
use crate::seed::{self, INSTANCE_HEADER, LSN_HEADER};
use bytes::{Bytes, BytesMut};
use howdah_protocol::{InstanceId, LogIndex};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Response, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A leader that is not open yet is asked again for so long.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// Rows that are held.
const HELD_BYTES_MAX: usize = 256 << 20;
/// Rows in one statement are at most about so many bytes.
const STATEMENT_BYTES_MAX: usize = 8 << 20;
/// Numbers from here on are given to the leader's tables; those of the tail have smaller ones, those of the log the smallest.
const TABLE_IDS_FROM: usize = 1 << 49;

/// The leader's rows and their place in the log.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) cut: Cut,
    /// Everything up to the cut is decided at this index, and the cut lies before it.
    pub(crate) index: LogIndex,
    /// Puts the rows in.
    pub(crate) steps: Vec<Step>,
    pub(crate) rows: u64,
}

pub(crate) async fn fetch(config: &Config, raft: &raft::Handle, leader: &str, ask: &Ask) -> Result<Fetched, Error> {
    let body = Bytes::from(serde_json::to_vec(ask).expect("names and values are plain data"));
    let asked = async {
        let (response, by) = send(config, raft, leader, body).await?;
        let lsn = seed::header(&response, LSN_HEADER)?;
        let instance = InstanceId(seed::header(&response, INSTANCE_HEADER)?);
        Ok::<_, Error>((lsn, instance, by, receive(response.into_body(), ask).await?))
    };
    // A leader that was cut off in the middle of its answer is waited for only as long as it leads.
    let (lsn, instance, by, rows) = tokio::select! {
        answered = asked => answered?,
        () = deposed(raft) => return Err(Error::LeaderChanged),
    };
    let known = |now: &Decisions| now.fate(by, lsn) != Fate::Open;
    let (index, decisions) = seed::wait_decided(raft, "the snapshot's last commits are not decided", known).await?;
    if by.instance != instance || decisions.fate(by, lsn) != Fate::Decided {
        return Err(Error::LeaderChanged);
    }
    Ok(Fetched { cut: Cut { instance, lsn }, index, steps: rows.steps, rows: rows.count })
}

/// Resolves when there is another leader than now.
async fn deposed(raft: &raft::Handle) {
    let mut role = raft.role();
    let term = role.borrow().term;
    // Where the log stops, the repair is ended by others.
    if role.wait_for(|role| role.term > term && role.leader.is_some()).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// What the changes of an ex-leader touched.
pub(super) fn ask(touched: &[Touched]) -> Ask {
    let text = |value: &Bytes| String::from_utf8_lossy(value).into_owned();
    let table = |Touched { table, keys, .. }: &Touched| AskTable {
        schema: table.relation.schema.clone(),
        table: table.relation.name.clone(),
        key: table.key_names(),
        keys: keys.iter().map(|key| key.iter().map(text).collect()).collect(),
        columns: Vec::new(),
    };
    Ask { tables: touched.iter().map(table).collect() }
}

/// A leader may have been elected and not be open yet, or repair another node at the moment. Answers with the opening that was the last one
/// known before the rows were asked for: a later one, also of the same server, may hold others.
async fn send(config: &Config, raft: &raft::Handle, leader: &str, body: Bytes) -> Result<(Response<Incoming>, Serving), Error> {
    let deadline = Instant::now() + OPEN_TIMEOUT;
    loop {
        let (_, decisions) = raft.decisions();
        let asked = tokio::time::timeout(CHUNK_TIMEOUT, http::post(leader, PATH, &config.secret, body.clone())).await;
        match asked.map_err(|_| Error::Broken("the leader does not answer".to_owned()))? {
            Err(http::Error::Refused { status, .. }) if status == StatusCode::SERVICE_UNAVAILABLE.as_u16() && Instant::now() < deadline => {
                tokio::time::sleep(ASK_AGAIN_AFTER).await;
            }
            answered => return Ok((answered?, decisions.serving.ok_or(Error::LeaderChanged)?)),
        }
    }
}

async fn receive(mut body: Incoming, ask: &Ask) -> Result<Rows, Error> {
    let (mut rows, mut buffer, mut total) = (Rows::default(), BytesMut::new(), 0);
    loop {
        let frame = tokio::time::timeout(CHUNK_TIMEOUT, body.frame()).await;
        let frame = frame.map_err(|_| Error::Broken(format!("nothing came for {CHUNK_TIMEOUT:?}")))?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Error::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        total += data.len();
        if total > HELD_BYTES_MAX {
            return Err(Error::TooLarge { max: HELD_BYTES_MAX });
        }
        let mut searched = buffer.len();
        buffer.extend_from_slice(&data);
        while let Some(end) = buffer[searched..].iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(searched + end + 1);
            let line = serde_json::from_slice(&line).map_err(|error| Error::Broken(error.to_string()))?;
            rows.take(line, ask)?;
            searched = 0;
        }
    }
    rows.whole()
}

/// The lines of an answer become steps.
#[derive(Debug, Default)]
struct Rows {
    table: Option<Arc<Table>>,
    tables: usize,
    gathered: Option<Coalescer>,
    gathered_rows: usize,
    gathered_bytes: usize,
    steps: Vec<Step>,
    count: u64,
    ended: bool,
}

impl Rows {
    fn take(&mut self, line: Line, ask: &Ask) -> Result<(), Error> {
        let strange = || Error::Broken("a line that does not fit what was asked for".to_owned());
        match line {
            _ if self.ended => Err(strange()),
            Line::Table { nth, columns } => {
                self.cut();
                let AskTable { schema, table, key, .. } = ask.tables.get(nth).ok_or_else(strange)?;
                let described = fetch::table(TableId(TABLE_IDS_FROM + self.tables), schema, table, columns, key);
                self.tables += 1;
                self.table = Some(Arc::new(described));
                Ok(())
            }
            Line::Row(values) => {
                let table = self.table.clone().ok_or_else(strange)?;
                self.gathered_bytes += values.iter().flatten().map(String::len).sum::<usize>();
                self.gathered_rows += 1;
                self.count += 1;
                let new = values.into_iter().map(|value| value.map_or(Value::Null, |text| Value::Text(text.into()))).collect();
                let gathered = self.gathered.get_or_insert_with(|| Coalescer::new(Mode::Net));
                gathered.push(&table, Change::Insert { new }).map_err(|error| Error::Broken(error.to_string()))?;
                if self.gathered_rows >= STATEMENT_ROWS_MAX || self.gathered_bytes >= STATEMENT_BYTES_MAX {
                    self.cut();
                }
                Ok(())
            }
            Line::End { rows } if rows == self.count => {
                self.cut();
                self.ended = true;
                Ok(())
            }
            Line::End { .. } => Err(strange()),
            Line::Refused { why } => Err(Error::Unlike(why)),
        }
    }

    fn cut(&mut self) {
        self.steps.extend(self.gathered.take().map(Coalescer::finish).unwrap_or_default());
        (self.gathered_rows, self.gathered_bytes) = (0, 0);
    }

    fn whole(self) -> Result<Self, Error> {
        if self.ended { Ok(self) } else { Err(Error::Broken("it ended before its last line".to_owned())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Ask {
        let table = |name: &str| AskTable {
            schema: "public".into(),
            table: name.into(),
            key: vec!["id".into()],
            keys: vec![vec!["1".into()], vec!["2".into()]],
            columns: vec![],
        };
        Ask { tables: vec![table("t"), table("u")] }
    }

    fn table(nth: usize) -> Line {
        Line::Table { nth, columns: vec!["note".into(), "id".into()] }
    }

    fn row(id: &str) -> Line {
        Line::Row(vec![None, Some(id.into())])
    }

    fn taken(lines: Vec<Line>) -> Result<Rows, Error> {
        let mut rows = Rows::default();
        lines.into_iter().try_for_each(|line| rows.take(line, &asked()))?;
        rows.whole()
    }

    #[test]
    fn rows_become_one_step_per_table() {
        let rows = taken(vec![table(0), table(1), row("1"), row("2"), row("2"), Line::End { rows: 3 }]).unwrap();
        let [Step::Net { table, upserts, .. }] = &rows.steps[..] else { panic!("{:?}", rows.steps) };
        assert_eq!((table.name(), table.key.clone(), upserts.len()), ("public.u".to_owned(), vec![1], 2));
    }

    #[test]
    fn an_answer_that_is_cut_short_or_strange_is_an_error() {
        assert!(matches!(taken(vec![table(0), Line::Refused { why: "no".into() }]), Err(Error::Unlike(_))));
        let bad = [
            vec![table(0), row("1")],
            vec![row("1")],
            vec![table(2)],
            vec![table(0), row("1"), Line::End { rows: 2 }],
            vec![Line::End { rows: 0 }, row("1")],
            vec![table(0), Line::Row(vec![Some("x".into()), None])],
            vec![table(0), Line::Row(vec![Some("x".into())])],
        ];
        for lines in bad {
            let text = format!("{lines:?}");
            assert!(matches!(taken(lines), Err(Error::Broken(_))), "{text}");
        }
    }
}
