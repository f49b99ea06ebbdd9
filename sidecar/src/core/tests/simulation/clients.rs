//! Clients that write and know what they were told, and readers that look at every node all the time. What they know of a node is what a
//! proxy checks: the serving epoch when it connects, and a lease before a linearizable read.

use super::Checked;
use super::postgres::{Access, Change, Postgres, Tx};
use super::world::{LEASE_US, Mistake, World};
use crate::core::lease;
use crate::core::outcomes::{Question, Verdict};
use howdah_protocol::{Epoch, LogIndex, NodeId};
use rand::Rng;
use rand::rngs::StdRng;
use std::time::Duration;

const KEYS: u64 = 8;
/// An outcome is asked for so often, and then nobody knows it.
const QUESTIONS_MAX: usize = 200;

/// A connection with one life of a node's sessions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Session {
    node: usize,
    sessions: u64,
}

#[derive(Debug, Default)]
pub(super) struct Client(Doing);

#[derive(Debug, Default)]
enum Doing {
    #[default]
    Nothing,
    /// In a transaction that has its id.
    Begun { session: Session, question: Question },
    /// COMMIT is sent.
    Waiting { session: Session, question: Question, tx: Tx },
    /// The connection broke. Without a transaction: before COMMIT.
    Asking { question: Question, tx: Option<Tx>, times: usize },
}

#[derive(Debug, Default)]
pub(super) struct Reader {
    session: Option<Session>,
    /// Until when, by the reader's clock, a node's lease holds.
    lease: Option<(usize, u64)>,
}

impl Client {
    /// A COMMIT returned. False where nobody waits for it any more.
    pub(super) fn returned(&mut self, returned: Tx) -> bool {
        let mine = matches!(self.0, Doing::Waiting { tx, .. } if tx == returned);
        if mine {
            self.0 = Doing::Nothing;
        }
        mine
    }
}

impl Reader {
    pub(super) fn forget_lease(&mut self) {
        self.lease = None;
    }
}

impl World {
    fn is_alive(&self, session: Session) -> bool {
        self.nodes[session.node].postgres.sessions == session.sessions
    }

    pub(super) fn write(&mut self, which: usize) -> Checked {
        let doing = std::mem::take(&mut self.clients[which].0);
        self.clients[which].0 = match doing {
            Doing::Nothing if self.quiet => Doing::Nothing,
            Doing::Nothing => self.begin(),
            Doing::Begun { session, question } if self.is_alive(session) => self.commit(session, question),
            Doing::Begun { question, .. } => Doing::Asking { question, tx: None, times: 0 },
            Doing::Waiting { session, question, tx } if self.is_alive(session) && !self.random.random_ratio(1, 400) => {
                if self.mistake == Some(Mistake::ForwardsCancels) && self.random.random_ratio(1, 4) {
                    self.nodes[session.node].postgres.cancel(tx)?;
                }
                Doing::Waiting { session, question, tx }
            }
            Doing::Waiting { question, tx, .. } => Doing::Asking { question, tx: Some(tx), times: 0 },
            Doing::Asking { question, tx, times } => self.ask(question, tx, times)?,
        };
        Ok(())
    }

    fn begin(&mut self) -> Doing {
        let node = self.random.random_range(0..self.nodes.len());
        let known = self.nodes[node].sidecar.as_ref().map_or(0, |sidecar| sidecar.known);
        let postgres = &mut self.nodes[node].postgres;
        let (Some(Epoch(epoch)), Access::Writes) = (postgres.epoch, postgres.access) else { return Doing::Nothing };
        let after = LogIndex(known as u64);
        let question = Question { node: NodeId(node as u64 + 1), epoch: Epoch(epoch), xid: postgres.begin(), after };
        Doing::Begun { session: Session { node, sessions: postgres.sessions }, question }
    }

    fn commit(&mut self, session: Session, question: Question) -> Doing {
        let postgres = &mut self.nodes[session.node].postgres;
        let count = self.random.random_range(1..4);
        let mut changes: Vec<Change> = Vec::new();
        for _ in 0..count {
            self.values += 1;
            let change = draw(&mut self.random, postgres, self.values);
            let fresh =
                |other: &Change| !matches!((other, &change), (Change::Keyed { key: a, .. }, Change::Keyed { key: b, .. }) if a == b);
            if changes.iter().all(fresh) && !postgres.is_locked(&change) && !changes.contains(&change) {
                changes.push(change);
            }
        }
        if changes.is_empty() {
            return Doing::Begun { session, question };
        }
        self.values += 1;
        let tx = self.values;
        let instance = postgres.instance;
        let record = postgres.commit(question.xid, tx, changes);
        self.oracle.committed(instance, record);
        Doing::Waiting { session, question, tx }
    }

    /// Asks the open leader's sidecar.
    fn ask(&mut self, question: Question, tx: Option<Tx>, times: usize) -> Checked<Doing> {
        let node = self.random.random_range(0..self.nodes.len());
        let leader = self.nodes[node].sidecar.as_ref().filter(|sidecar| sidecar.leads_open());
        let again = Doing::Asking { question, tx, times: times + 1 };
        let Some(sidecar) = leader else { return Ok(again) };
        let postgres = &self.nodes[node].postgres;
        // Between the decision and the gate's confirmation.
        let waits = question.ran_under(NodeId(node as u64 + 1), postgres.epoch) && tx.is_some_and(|tx| postgres.holds_back(tx));
        if waits && self.mistake != Some(Mistake::AnswersBeforeTheGate) {
            return Ok(again);
        }
        match (sidecar.outcomes.look_up(&question), tx) {
            (Verdict::Committed(index), Some(tx)) => {
                self.oracle.counts.told += 1;
                let place = self.oracle.acknowledged(tx)?;
                if place == index { Ok(Doing::Nothing) } else { Err(format!("transaction {tx} is at {place}, not at {index}")) }
            }
            (Verdict::Committed(_), None) => Err("a transaction was told to be committed that never was".to_owned()),
            (Verdict::Refused, tx) => {
                self.oracle.counts.told += 1;
                tx.map_or(Ok(()), |tx| self.oracle.refused(tx))?;
                Ok(Doing::Nothing)
            }
            (Verdict::Open { .. } | Verdict::Unheard, _) if times < QUESTIONS_MAX => Ok(again),
            _ => Ok(Doing::Nothing),
        }
    }

    pub(super) fn read(&mut self, which: usize) -> Checked {
        let session = self.readers[which].session.filter(|session| self.is_alive(*session));
        let Some(session) = session else {
            self.readers[which].session = self.connect();
            return Ok(());
        };
        let node = &self.nodes[session.node];
        // A lease that has ended promises nothing.
        let forever = self.mistake == Some(Mistake::ReadsWithoutLease);
        let lease = self.readers[which].lease.filter(|(leader, until)| *leader == session.node && (forever || self.now < *until));
        self.oracle.seen(session.node, &node.postgres.rows, lease.is_some())?;
        if self.random.random_ratio(1, 8) {
            self.readers[which] = Reader::default();
        } else if lease.is_none() {
            let left = self.lease_of(session.node);
            self.readers[which].lease = Some((session.node, self.now + left));
        }
        Ok(())
    }

    fn connect(&mut self) -> Option<Session> {
        let node = self.random.random_range(0..self.nodes.len());
        let postgres = &self.nodes[node].postgres;
        let serves = postgres.epoch.is_some() || self.mistake == Some(Mistake::ConnectsWithoutEpoch);
        (serves && postgres.access != Access::Closed).then_some(Session { node, sessions: postgres.sessions })
    }

    /// What the leader answers who asks for its lease, less what the asker's clock may be off.
    fn lease_of(&self, at: usize) -> u64 {
        let node = &self.nodes[at];
        if !node.sidecar.as_ref().is_some_and(|sidecar| sidecar.leads_open() && node.replica.leads) {
            return 0;
        }
        let age = node.replica.acknowledged_age(self.clock(at), self.nodes.len());
        let left = lease::left(Duration::from_micros(LEASE_US), age.map(Duration::from_micros));
        u64::try_from(left.as_micros()).unwrap_or(u64::MAX) * 99 / 100
    }
}

/// A change that fits what the server's clients see.
fn draw(random: &mut StdRng, postgres: &Postgres, value: u64) -> Change {
    if random.random_bool(0.7) {
        let key = random.random_range(0..KEYS);
        let old = postgres.rows.keyed.get(&key).copied();
        let new = (old.is_none() || random.random_bool(0.7)).then_some(value);
        return Change::Keyed { key, old, new };
    }
    let there = postgres.rows.keyless.len();
    match postgres.rows.keyless.iter().nth(random.random_range(0..there.max(1))) {
        Some(value) if random.random_bool(0.5) => Change::Keyless { value: *value, comes: false },
        _ => Change::Keyless { value, comes: true },
    }
}
