//! Nodes, the network between them, time, and what goes wrong.

use super::Checked;
use super::clients::{Client, Reader};
use super::log::{Message, Replica};
use super::node::{Node, Sidecar};
use super::oracle::{Counts, Oracle};
use super::postgres::{Access, Postgres};
use howdah_protocol::InstanceId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;

/// How long followers elect nobody after they heard from a leader.
pub(super) const LEASE_US: u64 = 40_000;
const HEARTBEAT_US: u64 = 5_000;
const STEP_US: u64 = 1_000;
const STEPS: usize = 1_500;
/// The system is left in peace for at most so many steps.
const SETTLE_STEPS: usize = 60_000;
const CLIENTS: usize = 4;
const READERS: usize = 3;

/// Mistakes that one could make; the simulation is worth something only if it finds them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mistake {
    /// A leader serves although what its Postgres committed before is not decided yet.
    OpensBeforeItsTailIsDecided,
    /// What the group never accepted stays in an ex-leader.
    TailNotTakenBack,
    /// COMMIT returns when the leader's own disk has the entry.
    ConfirmsOwnDisk,
    /// The gate confirms up to where it has read.
    ConfirmsWhatItRead,
    /// A leader's applier does not stop in front of the next leader's reign.
    AppliesPastReign,
    /// A repair that begins again takes changes of tables without a key back again.
    TakesBackTwice,
    /// A cancel request reaches a COMMIT that waits.
    ForwardsCancels,
    /// A server connection is used without a look at the serving epoch.
    ConnectsWithoutEpoch,
    /// After a restart a node does not look for an opening of its own behind what it knows to be decided.
    ForgetsItsOpening,
    /// A reader does not look whether the lease has ended.
    ReadsWithoutLease,
    /// A client is told "committed" by a server that still holds the transaction back.
    AnswersBeforeTheGate,
}

impl Mistake {
    pub(super) const ALL: &[Self] = &[
        Self::OpensBeforeItsTailIsDecided,
        Self::TailNotTakenBack,
        Self::ConfirmsOwnDisk,
        Self::ConfirmsWhatItRead,
        Self::AppliesPastReign,
        Self::TakesBackTwice,
        Self::ForwardsCancels,
        Self::ConnectsWithoutEpoch,
        Self::ForgetsItsOpening,
        Self::ReadsWithoutLease,
        Self::AnswersBeforeTheGate,
    ];
}

#[derive(Debug)]
struct Letter {
    at: u64,
    from: usize,
    to: usize,
    message: Message,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) random: StdRng,
    pub(super) mistake: Option<Mistake>,
    /// In µs, of a clock that nobody has.
    pub(super) now: u64,
    pub(super) nodes: Vec<Node>,
    pub(super) clients: Vec<Client>,
    pub(super) readers: Vec<Reader>,
    pub(super) oracle: Oracle,
    /// The serial of values and transactions, and of epochs.
    pub(super) values: u64,
    pub(super) epochs: u64,
    /// Nothing goes wrong any more, and nobody begins a transaction.
    pub(super) quiet: bool,
    /// Says what happens, for whoever replays a run.
    tells: bool,
    letters: Vec<Letter>,
    cut: BTreeSet<(usize, usize)>,
}

impl World {
    pub(super) fn new(seed: u64, mistake: Option<Mistake>, tells: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let count = if random.random_ratio(1, 4) { 5 } else { 3 };
        let nodes = (0..count).map(|nth| Node {
            postgres: Postgres::new(InstanceId(1000 + nth), random.random_range(0..1000) * 8),
            replica: Replica::default(),
            sidecar: Some(Sidecar::new(0)),
            rate: random.random_range(996..=1004),
        });
        let nodes = nodes.collect();
        Self {
            random,
            mistake,
            now: LEASE_US * 3,
            nodes,
            clients: (0..CLIENTS).map(|_| Client::default()).collect(),
            readers: (0..READERS).map(|_| Reader::default()).collect(),
            oracle: Oracle::new(),
            values: 0,
            epochs: 0,
            quiet: false,
            tells,
            letters: Vec::new(),
            cut: BTreeSet::new(),
        }
    }

    /// All of it, or what went wrong.
    pub(super) fn run(mut self) -> Checked<Counts> {
        for _ in 0..STEPS {
            self.step()?;
            if self.random.random_ratio(1, 60) {
                self.fault()?;
            }
        }
        self.quiet = true;
        self.cut.clear();
        for _ in 0..SETTLE_STEPS {
            self.step()?;
            if self.is_settled() {
                return Ok(self.oracle.counts);
            }
        }
        self.nodes.iter().for_each(|node| self.tell(|| format!("{:?}", node.sidecar)));
        Err("it does not come to rest".to_owned())
    }

    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            println!("{:>9} us  {}", self.now, what());
        }
    }

    pub(super) fn clock(&self, at: usize) -> u64 {
        self.now * self.nodes[at].rate / 1000
    }

    /// Whether something that one sends comes to the other.
    pub(super) fn reach(&self, from: usize, to: usize) -> bool {
        !self.cut.contains(&(from, to)) && self.nodes[from].sidecar.is_some() && self.nodes[to].sidecar.is_some()
    }

    fn step(&mut self) -> Checked {
        self.now += self.random.random_range(0..STEP_US);
        self.deliver()?;
        let at = self.random.random_range(0..self.nodes.len());
        match self.random.random_range(0..10) {
            0..5 => self.act(at)?,
            5..8 => {
                let which = self.random.random_range(0..CLIENTS);
                self.write(which)?;
            }
            _ => {
                let which = self.random.random_range(0..READERS);
                self.read(which)?;
            }
        }
        if self.nodes[at].sidecar.is_none() && self.random.random_ratio(1, if self.quiet { 2 } else { 40 }) {
            self.start(at);
        }
        self.replicate();
        self.stand(at)
    }

    fn deliver(&mut self) -> Checked {
        let (due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.letters).into_iter().partition(|letter| letter.at <= self.now);
        self.letters = later;
        for Letter { from, to, message, .. } in due {
            if !self.reach(from, to) {
                continue;
            }
            let (clock, voters) = (self.clock(to), self.nodes.len());
            let replica = &mut self.nodes[to].replica;
            let before = replica.decided;
            let answer = replica.receive(from, message, clock, voters)?;
            if replica.decided > before {
                self.oracle.learn(&replica.entries[..replica.decided])?;
            }
            if let Some(answer) = answer {
                self.send(to, from, answer);
            }
        }
        Ok(())
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if !self.quiet && self.random.random_ratio(1, 16) {
            return;
        }
        let copies = if self.random.random_ratio(1, 20) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = if self.random.random_ratio(1, 30) { LEASE_US } else { 3_000 };
            let at = self.now + self.random.random_range(0..delay);
            self.letters.push(Letter { at, from, to, message: message.clone() });
        }
    }

    fn replicate(&mut self) {
        for at in 0..self.nodes.len() {
            let Node { replica, sidecar, .. } = &self.nodes[at];
            let due = self.now >= replica.sent + HEARTBEAT_US || replica.entries.len() > replica.sent_len;
            if sidecar.is_none() || !replica.leads || !due {
                continue;
            }
            let clock = self.clock(at);
            for to in (0..self.nodes.len()).filter(|to| *to != at) {
                let message = self.nodes[at].replica.append_for(to, clock);
                self.send(at, to, message);
            }
            let replica = &mut self.nodes[at].replica;
            (replica.sent, replica.sent_len) = (self.now, replica.entries.len());
        }
    }

    fn stand(&mut self, at: usize) -> Checked {
        let patience = LEASE_US + self.random.random_range(1..LEASE_US);
        let Node { replica, sidecar, .. } = &self.nodes[at];
        if sidecar.is_some() && !replica.leads && self.clock(at) > replica.heard + patience {
            self.elect(at, false);
        }
        Ok(())
    }

    /// A vote, in one moment. A planned one goes around the promises that followers gave to the leader.
    fn elect(&mut self, candidate: usize, planned: bool) {
        let rank = self.nodes[candidate].replica.rank();
        let is_for = |at: &usize| {
            let replica = &self.nodes[*at].replica;
            let promised = replica.leads || self.clock(*at) < replica.heard + LEASE_US;
            *at == candidate || self.reach(candidate, *at) && self.reach(*at, candidate) && replica.rank() <= rank && (planned || !promised)
        };
        let voters: Vec<usize> = (0..self.nodes.len()).filter(is_for).collect();
        if voters.len() <= self.nodes.len() / 2 {
            return;
        }
        let term = voters.iter().map(|at| self.nodes[*at].replica.term).max().unwrap_or_default() + 1;
        self.tell(|| format!("node {candidate} is elected for term {term} by {voters:?}"));
        for at in voters {
            let clock = self.clock(at);
            let replica = &mut self.nodes[at].replica;
            replica.begin_term(term, at == candidate, candidate);
            replica.heard = clock;
        }
    }

    /// The leader gives its leadership away. It stops granting leases before, and proxies hear of it.
    pub(super) fn hand_on(&mut self, leader: usize) {
        let to = self.random.random_range(0..self.nodes.len());
        if to != leader && self.nodes[leader].replica.leads && self.reach(leader, to) {
            self.readers.iter_mut().for_each(Reader::forget_lease);
            self.elect(to, true);
        }
    }

    fn start(&mut self, at: usize) {
        self.tell(|| format!("node {at}'s sidecar starts"));
        let clock = self.clock(at);
        let node = &mut self.nodes[at];
        node.replica.restart(clock);
        node.sidecar = Some(Sidecar::new(node.postgres.life));
    }

    fn fault(&mut self) -> Checked {
        let at = self.random.random_range(0..self.nodes.len());
        let others: Vec<usize> = (0..self.nodes.len()).filter(|other| *other != at).collect();
        let kind = self.random.random_range(0..12);
        self.tell(|| format!("fault {kind} at node {at}"));
        match kind {
            0 | 1 => self.nodes[at].postgres.crash(),
            2 => {
                self.nodes[at].sidecar = None;
                self.nodes[at].postgres.epoch = None;
                Ok(())
            }
            3 | 4 => self.lose(at),
            5 => (0..self.nodes.len()).try_for_each(|at| self.lose(at)),
            6 => {
                self.cut.extend(others.iter().flat_map(|other| [(at, *other), (*other, at)]));
                Ok(())
            }
            7 => {
                let pairs: Vec<_> =
                    others.iter().map(|other| if self.random.random_bool(0.5) { (at, *other) } else { (*other, at) }).collect();
                self.cut.extend(pairs);
                Ok(())
            }
            8 => {
                self.nodes[at].postgres.checkpoint();
                Ok(())
            }
            9 => {
                self.hand_on(at);
                Ok(())
            }
            _ => {
                self.cut.clear();
                Ok(())
            }
        }
    }

    /// The host is gone. When Postgres is started again, it is closed.
    fn lose(&mut self, at: usize) -> Checked {
        self.nodes[at].sidecar = None;
        self.nodes[at].postgres.access = Access::Closed;
        self.nodes[at].postgres.crash()
    }

    /// One leads, the others follow, everybody is open, and all hold what the log makes.
    fn is_settled(&self) -> bool {
        let mut leaders = 0;
        for Node { postgres, sidecar, .. } in &self.nodes {
            let Some(sidecar) = sidecar else { return false };
            leaders += usize::from(sidecar.leads_open());
            if postgres.epoch.is_none() || !postgres.waiting.is_empty() || !self.oracle.is_current(&postgres.rows) {
                return false;
            }
        }
        leaders == 1
    }
}
