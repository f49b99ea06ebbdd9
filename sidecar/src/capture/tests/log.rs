//! A log in memory that decides when the test says so.

use crate::capture::{ProposeError, Proposer};
use crate::core::entry::{Entry, Item};
use crate::core::pgoutput::{self, Message};
use bytes::Bytes;
use howdah_protocol::{LogIndex, Lsn};
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::{Arc, Mutex};
use tokio::sync::oneshot;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// Decides at once.
    #[default]
    Accept,
    /// Decides when [`Log::release`] says so.
    Hold,
    /// Refuses everything.
    Refuse,
    /// Never answers.
    Lose,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Log(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    mode: Mode,
    decided: Vec<Bytes>,
    held: VecDeque<(Bytes, oneshot::Sender<()>)>,
    proposals: usize,
}

/// A transaction as the log holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Commit {
    pub(super) xid: u32,
    pub(super) end_lsn: Lsn,
    pub(super) changes: Vec<Message>,
    pub(super) chunked: bool,
}

impl Log {
    pub(super) fn mode(&self, mode: Mode) {
        self.0.lock().unwrap().mode = mode;
    }

    pub(super) fn held(&self) -> usize {
        self.0.lock().unwrap().held.len()
    }

    pub(super) fn proposals(&self) -> usize {
        self.0.lock().unwrap().proposals
    }

    /// Decides the oldest proposals that are held.
    pub(super) fn release(&self, count: usize) {
        let mut inner = self.0.lock().unwrap();
        for (entry, decided) in inner.held.drain(..count).collect::<Vec<_>>() {
            inner.decided.push(entry);
            let _ = decided.send(());
        }
    }

    /// End of the last transaction that is decided.
    pub(super) fn watermark(&self) -> Lsn {
        self.commits().last().map_or(Lsn(0), |commit| commit.end_lsn)
    }

    /// Every decided transaction, put together from its parts. Reads each entry as a follower does, with nothing but the entry.
    pub(super) fn commits(&self) -> Vec<Commit> {
        let entries = self.0.lock().unwrap().decided.clone();
        let (mut commits, mut parts) = (Vec::new(), HashMap::<u32, Vec<(u32, Message)>>::new());
        for entry in entries {
            let Entry::Batch { items, .. } = Entry::decode(entry).expect("what was encoded") else { panic!("only batches") };
            for item in items {
                read(item, &mut parts, &mut commits);
            }
        }
        assert!(parts.is_empty(), "chunks of {:?} belong to nothing", parts.keys());
        commits
    }
}

fn read(item: Item, parts: &mut HashMap<u32, Vec<(u32, Message)>>, commits: &mut Vec<Commit>) {
    let (xid, messages) = match &item {
        Item::Chunk { xid, messages } | Item::Commit { xid, messages, .. } => (*xid, messages),
        Item::Abort { xid } => {
            parts.remove(xid);
            return;
        }
        Item::SubAbort { xid, subxid } => {
            parts.get_mut(xid).expect("chunks").retain(|(tag, _)| tag != subxid);
            return;
        }
    };
    let part = parts.entry(xid).or_default();
    for raw in messages.iter() {
        let tagged = pgoutput::parse(raw.expect("whole"), messages.streamed).expect("a message");
        part.push((tagged.xid.unwrap_or(xid), tagged.message));
    }
    if let Item::Commit { end_lsn, chunked, .. } = item {
        let messages = parts.remove(&xid).unwrap_or_default().into_iter().map(|(_, message)| message);
        let changes = messages.filter(|message| !matches!(message, Message::Relation(_))).collect();
        commits.push(Commit { xid, end_lsn, changes, chunked });
    }
}

impl Proposer for Log {
    fn propose(&self, entry: Bytes) -> impl Future<Output = Result<LogIndex, ProposeError>> + Send + 'static + use<> {
        let mut inner = self.0.lock().unwrap();
        inner.proposals += 1;
        let (decide, decided) = oneshot::channel();
        let mode = inner.mode;
        match mode {
            Mode::Accept => {
                inner.decided.push(entry);
                let _ = decide.send(());
            }
            Mode::Hold => inner.held.push_back((entry, decide)),
            Mode::Refuse | Mode::Lose => {}
        }
        async move {
            match mode {
                Mode::Refuse => Err(ProposeError::Refused("the test said so".to_owned())),
                Mode::Lose => std::future::pending().await,
                _ => decided.await.map(|()| LogIndex(0)).map_err(|_| ProposeError::Unknown("dropped".to_owned())),
            }
        }
    }
}
