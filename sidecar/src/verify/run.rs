//! A whole run on the leader: compare, mend where that is asked for, compare again what was mended, and tell everybody.

use super::sitting::{Compared, Group, Sitting};
use super::{Answer, Error, HOLD_MAX, Question};
use crate::config::Config;
use crate::core::bisect::Limits;
use crate::pg::connect::Target;
use crate::raft;
use crate::repair::AskTable;
use crate::status::Board;
use howdah_protocol::NodeId;
use howdah_protocol::admin::Role;
use howdah_protocol::verify::{NodeRepair, Verified, VerifyProgress, VerifyReport, VerifyRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Both of a repair's holds, and the transaction between them.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(3 * HOLD_MAX.as_secs());

/// Compares the nodes of the group, from the leader.
#[derive(Debug, Clone)]
pub struct Verifier {
    config: Arc<Config>,
    target: Target,
    raft: raft::Handle,
    board: Board,
    running: Arc<Semaphore>,
}

/// The right to be the one that compares.
#[derive(Debug)]
pub(super) struct Permit(OwnedSemaphorePermit);

impl Verifier {
    #[must_use]
    pub fn new(config: &Config, target: Target, raft: raft::Handle, board: Board) -> Self {
        Self { config: Arc::new(config.clone()), target, raft, board, running: Arc::new(Semaphore::new(1)) }
    }

    pub(super) fn leads(&self) -> bool {
        let stage = self.board.stage.borrow();
        stage.role == Role::Leader && stage.open
    }

    pub(super) fn last(&self) -> Option<Verified> {
        self.board.verification.borrow().last
    }

    /// One at a time, and on the leader.
    pub(super) fn permit(&self) -> Result<Permit, Error> {
        if !self.leads() {
            return Err(Error::NotLeader);
        }
        self.running.clone().try_acquire_owned().map(Permit).map_err(|_| Error::Busy)
    }

    /// `gentle`: with rests, for a run that nobody waits for.
    pub(super) async fn run(
        &self,
        permit: Permit,
        request: &VerifyRequest,
        gentle: bool,
        progress: &watch::Sender<VerifyProgress>,
    ) -> Result<VerifyReport, Error> {
        let Permit(_one) = permit;
        let say = |doing: &str| progress.send_modify(|progress| doing.clone_into(&mut progress.doing));
        say("brings all nodes to one place of the log");
        let others = self.others();
        let mut sitting = Sitting::open(self.group(&others)).await?;
        let mut compared = sitting.compare(None, gentle, self.limits(), progress).await?;
        let mut repairs = BTreeMap::new();
        let differing: BTreeSet<String> =
            compared.iter().filter(|table| !table.report.identical).map(|table| table.report.table.clone()).collect();
        warn_of(&compared);
        if request.repair && !differing.is_empty() {
            say("brings rows back to the leader's");
            repairs = self.repair(&mut sitting, &compared).await;
            // What the first could not say stays said, where the second is not there to look.
            let absent = std::mem::take(&mut sitting.absent);
            drop(sitting);
            say("compares again what was repaired");
            sitting = Sitting::open(self.group(&others)).await?;
            for again in sitting.compare(Some(&differing), gentle, self.limits(), progress).await? {
                match compared.iter_mut().find(|table| table.report.table == again.report.table) {
                    Some(table) => *table = again,
                    None => compared.push(again),
                }
            }
            for (address, why) in absent {
                sitting.absent.entry(address).or_insert(why);
            }
        }
        let index = sitting.index.unwrap_or_else(|| self.raft.decided().borrow().index);
        let tables: Vec<_> = compared.into_iter().map(|table| table.report).collect();
        let identical = sitting.absent.is_empty() && tables.iter().all(|table| table.identical);
        let absent = std::mem::take(&mut sitting.absent);
        let report = VerifyReport { leader: self.config.node, index, identical, tables, absent, repairs };
        self.tell(&mut sitting, &report).await;
        Ok(report)
    }

    fn group<'a>(&'a self, others: &'a [String]) -> Group<'a> {
        Group { leader: self.config.node, target: &self.target, others, secret: &self.config.secret }
    }

    /// Admin addresses of the other members, learners too.
    fn others(&self) -> Vec<String> {
        self.raft.members().into_iter().filter(|member| member.node != self.config.node).map(|member| member.admin_addr).collect()
    }

    fn limits(&self) -> Limits {
        Limits::rows(usize::try_from(self.config.repair_rows_max).unwrap_or(usize::MAX))
    }

    async fn repair(&self, sitting: &mut Sitting, compared: &[Compared]) -> BTreeMap<NodeId, NodeRepair> {
        let mut repairs = BTreeMap::new();
        // One after the other: the leader gives rows to one at a time, and not all followers should stand still at once.
        for remote in &mut sitting.remotes {
            let done = match plan(remote.node, compared, self.config.repair_rows_max as usize) {
                Ok(tables) if tables.is_empty() => continue,
                Ok(tables) => {
                    let asked = tokio::time::timeout(REPAIR_TIMEOUT, remote.ask(&Question::Repair { tables })).await;
                    match asked {
                        Ok(Ok(Answer::Repaired { keys })) => NodeRepair { keys, refused: None },
                        Ok(Ok(_)) => NodeRepair { keys: 0, refused: Some(Error::Strange.to_string()) },
                        Ok(Err(error)) => NodeRepair { keys: 0, refused: Some(error.to_string()) },
                        Err(_) => NodeRepair { keys: 0, refused: Some(format!("not done within {REPAIR_TIMEOUT:?}")) },
                    }
                }
                Err(why) => NodeRepair { keys: 0, refused: Some(why) },
            };
            tracing::warn!(node = %remote.node, keys = done.keys, refused = done.refused, "rows that differed from the leader's");
            repairs.insert(remote.node, done);
        }
        repairs
    }

    /// Each node shows what was found of it.
    async fn tell(&self, sitting: &mut Sitting, report: &VerifyReport) {
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let verdict = |node: NodeId| {
            let differences = || report.tables.iter().flat_map(|table| &table.differences).filter(|difference| difference.node == node);
            Verified {
                at_ms: u64::try_from(at_ms).unwrap_or(u64::MAX),
                index: report.index,
                tables: report.tables.iter().filter(|table| table.unsettled.is_none()).count() as u64,
                tables_differing: differences().count() as u64,
                tables_unlike: differences().filter(|difference| difference.structure.is_some()).count() as u64,
                rows_differing: differences().map(howdah_protocol::verify::Difference::rows).sum(),
            }
        };
        for remote in &mut sitting.remotes {
            let node = remote.node;
            if let Err(error) = remote.ask(&Question::Verdict(verdict(node))).await {
                tracing::warn!(%error, "a node was not told how it was found");
            }
        }
        self.board.verified(verdict(self.config.node));
    }
}

/// The keys that the node must get anew.
fn plan(node: NodeId, compared: &[Compared], rows_max: usize) -> Result<Vec<AskTable>, String> {
    let (mut tables, mut keys) = (Vec::new(), 0);
    for table in compared {
        let shape = &table.shape;
        let structure = table.report.differences.iter().find(|difference| difference.node == node && difference.structure.is_some());
        if let Some(why) = structure.and_then(|difference| difference.structure.as_ref()) {
            return Err(format!("table {}: {why}; rows cannot mend that; replace the node: `howdahctl node replace {node}`", shape.name()));
        }
        let Some(found) = table.found.get(&node) else { continue };
        keys += found.keys.len();
        if !found.is_whole() || keys > rows_max {
            return Err(format!("more than repair_rows_max = {rows_max} rows differ; seed the node again, or raise the setting"));
        }
        let columns = if shape.key.is_empty() { shape.columns.clone() } else { Vec::new() };
        let (schema, name, key) = (shape.schema.clone(), shape.table.clone(), shape.key.clone());
        tables.push(AskTable { schema, table: name, key, keys: found.keys.clone(), columns });
    }
    Ok(tables)
}

fn warn_of(compared: &[Compared]) {
    for table in compared {
        for difference in &table.report.differences {
            if let Some(structure) = &difference.structure {
                let (node, table) = (difference.node, &table.report.table);
                tracing::warn!(%node, table, structure, "a node's table differs from the leader's; `howdahctl node replace` replaces the node");
                continue;
            }
            tracing::warn!(
                node = %difference.node,
                table = table.report.table,
                changed = difference.changed,
                missing = difference.missing,
                surplus = difference.surplus,
                from = ?difference.from,
                to = ?difference.to,
                "a node's rows differ from the leader's; `howdahctl verify --repair` brings them back"
            );
        }
        if let Some(why) = &table.report.unsettled {
            tracing::info!(table = table.report.table, why, "a table could not be compared");
        }
    }
}
