//! One comparison, as the leader conducts it: everybody at one place of the log, then table by table.

use super::conversation::Remote;
use super::examiner::Examiner;
use super::locate::{Located, locate};
use super::{Answer, Error, Question, Shape};
use crate::core::bisect::{Digest, Found, Limits};
use crate::pg::connect::Target;
use futures::future::join_all;
use howdah_protocol::admin::TableDigest;
use howdah_protocol::verify::{Difference, VerifiedTable, VerifyProgress};
use howdah_protocol::{LogIndex, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;

/// Nodes stand still meanwhile, for [`super::HOLD_MAX`] at most.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(15);
const TELL_EVERY: Duration = Duration::from_millis(200);
/// Keys that a report shows.
const KEYS_SHOWN: usize = 10;

/// Who compares whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group<'a> {
    pub(super) leader: NodeId,
    pub(super) target: &'a Target,
    /// Admin addresses of the others.
    pub(super) others: &'a [String],
    pub(super) secret: &'a str,
}

#[derive(Debug)]
pub(super) struct Sitting {
    leader: NodeId,
    examiner: Examiner,
    pub(super) remotes: Vec<Remote>,
    /// `None` where nobody else is there to say.
    pub(super) index: Option<LogIndex>,
    /// Nodes that could not be compared, and why.
    pub(super) absent: BTreeMap<String, String>,
}

/// A table as everybody has it, and what a repair would need to know.
#[derive(Debug)]
pub(super) struct Compared {
    pub(super) report: VerifiedTable,
    pub(super) shape: Shape,
    pub(super) found: BTreeMap<NodeId, Found>,
}

impl Sitting {
    pub(super) async fn open(group: Group<'_>) -> Result<Self, Error> {
        let opened = join_all(group.others.iter().map(|address| Remote::open(address, group.secret))).await;
        let (mut absent, mut held) = (BTreeMap::new(), Vec::new());
        for (address, opened) in group.others.iter().zip(opened) {
            match opened {
                Ok(remote) => held.push(remote),
                Err(error) => drop(absent.insert(address.clone(), error.to_string())),
            }
        }
        let snapshot = tokio::time::timeout(SNAPSHOT_TIMEOUT, Examiner::at_new_cut(group.target)).await;
        let (examiner, cut) = snapshot.map_err(|_| {
            let why = format!("it was not there within {SNAPSHOT_TIMEOUT:?}: a transaction on the leader has been open for long");
            Error::Snapshot(why)
        })??;
        let reached = join_all(held.iter_mut().map(|remote| remote.advance(cut))).await;
        let mut index: Option<LogIndex> = None;
        let mut remotes = Vec::with_capacity(held.len());
        for (remote, reached) in held.into_iter().zip(reached) {
            match reached {
                Ok(at) if index.is_none_or(|index| index == at) => {
                    index = Some(at);
                    remotes.push(remote);
                }
                Ok(at) => return Err(Error::Node { node: remote.node, why: format!("stands at {at}, another at {index:?}") }),
                Err(error) => drop(absent.insert(remote.address, error.to_string())),
            }
        }
        Ok(Self { leader: group.leader, examiner, remotes, index, absent })
    }

    /// All tables, or only those with these names.
    pub(super) async fn compare(
        &mut self,
        only: Option<&BTreeSet<String>>,
        gentle: bool,
        limits: Limits,
        progress: &watch::Sender<VerifyProgress>,
    ) -> Result<Vec<Compared>, Error> {
        let mut tables = self.examiner.tables().await?;
        tables.extend(self.only_elsewhere(&tables).await?);
        tables.retain(|table| only.is_none_or(|only| only.contains(&table.name())));
        let total_bytes = tables.iter().map(|table| table.bytes).sum();
        let mut compared = Vec::with_capacity(tables.len());
        for (nth, table) in tables.iter().enumerate() {
            let doing = format!("{} ({} of {} tables)", table.name(), nth + 1, tables.len());
            let done_bytes = tables[..nth].iter().map(|table| table.bytes).sum();
            progress.send_replace(VerifyProgress { doing, done_bytes, total_bytes });
            compared.push(self.table(table, gentle, limits, progress).await?);
        }
        Ok(compared)
    }

    /// Tables that the leader does not have.
    async fn only_elsewhere(&mut self, known: &[Shape]) -> Result<Vec<Shape>, Error> {
        let mut more: BTreeMap<String, Shape> = BTreeMap::new();
        for answer in self.ask_all(&Question::Tables).await {
            let (_, Answer::Tables(tables)) = answer else { return Err(Error::Strange) };
            let new = tables.into_iter().filter(|table| known.iter().all(|known| known.name() != table.name()));
            more.extend(new.map(|table| (table.name(), Shape { bytes: 0, ..table })));
        }
        Ok(more.into_values().collect())
    }

    /// Asks all others at once. Who fails is not asked again.
    async fn ask_all(&mut self, question: &Question) -> Vec<(NodeId, Answer)> {
        let asked = join_all(self.remotes.iter_mut().map(|remote| remote.ask(question))).await;
        let mut answers = Vec::with_capacity(asked.len());
        let mut asked = asked.into_iter();
        self.remotes.retain(|remote| match asked.next() {
            Some(Ok(answer)) => {
                answers.push((remote.node, answer));
                true
            }
            Some(Err(error)) => {
                self.absent.insert(remote.address.clone(), error.to_string());
                false
            }
            None => false,
        });
        answers
    }

    async fn table(
        &mut self,
        shape: &Shape,
        gentle: bool,
        limits: Limits,
        progress: &watch::Sender<VerifyProgress>,
    ) -> Result<Compared, Error> {
        let question = Question::Whole { table: shape.clone(), gentle };
        let (here, there) = self.whole(&question, progress).await?;
        let (nodes, key) = (BTreeMap::new(), shape.key.clone());
        let report = VerifiedTable { table: shape.name(), identical: true, nodes, unsettled: None, key, differences: Vec::new() };
        let mut compared = Compared { report, shape: shape.clone(), found: BTreeMap::new() };
        let reference = compared.note(self.leader, here)?;
        for (node, answer) in there {
            let structure = if let Answer::Unlike(why) = &answer { Some(why.clone()) } else { None };
            let other = compared.note(node, answer)?;
            if compared.report.unsettled.is_some() {
                continue;
            }
            match (&reference, other) {
                (Some(reference), Some(other)) if *reference == other => {}
                (Some(reference), Some(other)) => {
                    let Some(remote) = self.remotes.iter_mut().find(|remote| remote.node == node) else { continue };
                    match locate(&self.examiner, remote, shape, (reference, &other), limits).await {
                        Ok(Located::Found(found)) => compared.differs(node, found),
                        Ok(Located::Unsettled(why)) => compared.report.unsettled = Some(why),
                        Err(error @ (Error::Node { .. } | Error::Broken(_))) => self.lose(node, &error),
                        Err(error) => return Err(error),
                    }
                }
                (None, None) => {}
                (Some(_), None) => compared.unlike(node, structure.unwrap_or_default()),
                (None, Some(_)) => compared.unlike(node, "the leader does not have this table".to_owned()),
            }
        }
        compared.report.identical = compared.report.differences.is_empty() && compared.report.unsettled.is_none();
        Ok(compared)
    }

    /// Digests of the whole table everywhere, at the same time.
    async fn whole(
        &mut self,
        question: &Question,
        progress: &watch::Sender<VerifyProgress>,
    ) -> Result<(Answer, Vec<(NodeId, Answer)>), Error> {
        let before = self.examiner.read_bytes.load(Ordering::Relaxed);
        let (examiner, begun) = (&self.examiner, progress.borrow().done_bytes);
        let tell = async {
            loop {
                tokio::time::sleep(TELL_EVERY).await;
                let read = examiner.read_bytes.load(Ordering::Relaxed) - before;
                progress.send_modify(|progress| progress.done_bytes = (begun + read).min(progress.total_bytes));
            }
        };
        let here = examiner.answer(question);
        let asked = join_all(self.remotes.iter_mut().map(|remote| async { (remote.node, remote.ask(question).await) }));
        let (here, there) = tokio::select! {
            both = futures::future::join(here, asked) => both,
            never = tell => never,
        };
        let mut answers = Vec::with_capacity(there.len());
        for (node, answer) in there {
            match answer {
                Ok(answer) => answers.push((node, answer)),
                Err(error) => self.lose(node, &error),
            }
        }
        Ok((here?, answers))
    }

    fn lose(&mut self, node: NodeId, error: &Error) {
        let absent = &mut self.absent;
        self.remotes.retain(|remote| {
            let stays = remote.node != node;
            if !stays {
                absent.insert(remote.address.clone(), error.to_string());
            }
            stays
        });
    }
}

impl Compared {
    /// The digest, where the node has one.
    fn note(&mut self, node: NodeId, answer: Answer) -> Result<Option<Digest>, Error> {
        let digest = match answer {
            Answer::Digest(digest) => Some(digest),
            Answer::Unlike(_) => None,
            Answer::Unsettled(why) => {
                self.report.unsettled = Some(format!("on node {node}: {why}"));
                None
            }
            _ => return Err(Error::Strange),
        };
        let told = digest.as_ref().map(|digest| TableDigest { rows: digest.rows, sum: digest.sum.clone() });
        self.report.nodes.insert(node, told);
        Ok(digest)
    }

    fn differs(&mut self, node: NodeId, found: Found) {
        let keyed = !self.shape.key.is_empty();
        let (from, to) = if keyed { found.span() } else { (None, None) };
        let difference = Difference {
            node,
            changed: found.changed,
            missing: found.missing,
            surplus: found.surplus,
            complete: found.is_whole(),
            from,
            to,
            keys: found.keys.iter().take(if keyed { KEYS_SHOWN } else { 0 }).cloned().collect(),
            structure: None,
        };
        self.report.differences.push(difference);
        self.found.insert(node, found);
    }

    fn unlike(&mut self, node: NodeId, why: String) {
        let (changed, missing, surplus) = (0, 0, 0);
        let difference =
            Difference { node, changed, missing, surplus, complete: false, from: None, to: None, keys: Vec::new(), structure: Some(why) };
        self.report.differences.push(difference);
    }
}
