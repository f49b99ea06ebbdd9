//! A made-up server that does, in random order, everything that pgoutput may do.
//!
//! The server keeps account of what it described as the plugin does: once per connection, once more per streamed transaction, again after
//! a change. The test keeps account of what must come out, and compares.

use super::replay::{Change, ends, replay};
use super::wire::Wire;
use super::{SMALL, encode};
use crate::core::assemble::Assembler;
use bytes::Bytes;
use howdah_protocol::Lsn;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

const TABLES: u32 = 4;
/// Table 4 is Howdah's own.
const OWN_TABLE: u32 = 4;
const START_AFTER: u64 = 200;

/// (value, version of the table)
type Row = (String, u32);
type Expected = (u32, u64, Vec<Row>);

#[derive(Default)]
struct Streamed {
    own: bool,
    described: HashSet<u32>,
    rows: Vec<(u32, Row)>,
    chunked: bool,
}

struct Server {
    random: StdRng,
    lsn: u64,
    next_xid: u32,
    versions: HashMap<u32, u32>,
    described: HashSet<u32>,
    streams: BTreeMap<u32, Streamed>,
    assembler: Assembler,
    expected: Vec<Expected>,
    /// Decided.
    entries: Vec<Bytes>,
    /// Ends of the transactions in them.
    decided: Vec<u64>,
    undecided: VecDeque<Bytes>,
    values: u32,
}

impl Server {
    fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            lsn: 10,
            next_xid: 100,
            versions: (1..=TABLES).map(|id| (id, id)).collect(),
            described: HashSet::new(),
            streams: BTreeMap::new(),
            assembler: Assembler::new(SMALL, Lsn(START_AFTER), Lsn(0)),
            expected: Vec::new(),
            entries: Vec::new(),
            decided: Vec::new(),
            undecided: VecDeque::new(),
            values: 0,
        }
    }

    fn send(&mut self, message: Bytes) {
        self.assembler.message(message).expect("a stream as Postgres sends it");
    }

    fn xid(&mut self) -> u32 {
        self.next_xid += 1;
        self.next_xid
    }

    /// A change of a random table, described first where the server has not; `None` where it must not come out.
    fn change(&mut self, wire: Wire, stream: Option<u32>) -> Option<Row> {
        let id = self.random.random_range(1..=TABLES);
        if self.random.random_ratio(1, 12) {
            // ALTER TABLE: everybody is told again.
            *self.versions.get_mut(&id).expect("a table") += 10;
            self.described.remove(&id);
            for stream in self.streams.values_mut() {
                stream.described.remove(&id);
            }
        }
        let version = self.versions[&id];
        let described = stream.map_or(&mut self.described, |xid| &mut self.streams.get_mut(&xid).expect("a stream").described);
        if described.insert(id) {
            let schema = if id == OWN_TABLE { "howdah" } else { "public" };
            self.send(wire.relation(id, schema, "t", version));
        }
        self.values += 1;
        let filler = if self.random.random_ratio(1, 40) { 1_000 } else { self.random.random_range(1..60) };
        let value = format!("{}{}", self.values, "x".repeat(filler));
        let insert = self.random.random_bool(0.7);
        self.send(if insert { wire.insert(id, &value) } else { wire.delete(id, &value) });
        (id != OWN_TABLE).then_some((value, version))
    }

    fn whole(&mut self) {
        let (xid, plain, commit_lsn) = (self.xid(), Wire::plain(), self.lsn);
        self.lsn += 10;
        self.send(plain.begin(xid, commit_lsn));
        let own = self.random.random_ratio(1, 8);
        if own {
            self.send(plain.origin("howdah"));
        }
        let count = if self.random.random_ratio(1, 10) { 60 } else { self.random.random_range(0..6) };
        let rows: Vec<_> = (0..count).filter_map(|_| self.change(plain, None)).collect();
        self.send(plain.commit(commit_lsn, self.lsn));
        if !own && !rows.is_empty() && self.lsn > START_AFTER {
            self.expected.push((xid, self.lsn, rows));
        }
    }

    fn block(&mut self) {
        let open: Vec<_> = self.streams.keys().copied().collect();
        let first = open.len() < SMALL.streams_max && (open.is_empty() || self.random.random_bool(0.4));
        let xid = if first { self.xid() } else { open[self.random.random_range(0..open.len())] };
        self.streams.entry(xid).or_default();
        self.send(Wire::streamed(xid).stream_start(first));
        if first && self.random.random_ratio(1, 8) {
            self.send(Wire::plain().origin("howdah"));
            self.streams.get_mut(&xid).expect("a stream").own = true;
        }
        for _ in 0..self.random.random_range(0..20) {
            let subxid = if self.random.random_bool(0.5) { xid } else { xid * 100 + self.random.random_range(0..3) };
            let row = self.change(Wire::streamed(subxid), Some(xid));
            let stream = self.streams.get_mut(&xid).expect("a stream");
            stream.chunked |= row.is_some();
            stream.rows.extend(row.map(|row| (subxid, row)));
        }
        self.send(Wire::plain().stream_stop());
    }

    fn end_stream(&mut self) {
        let Some(xid) = self.streams.keys().copied().next() else { return };
        self.lsn += 10;
        match self.random.random_range(0..4) {
            0 => {
                self.streams.remove(&xid);
                self.send(Wire::plain().stream_abort(xid, xid));
            }
            1 => {
                let subxid = xid * 100 + self.random.random_range(0..3);
                self.streams.get_mut(&xid).expect("a stream").rows.retain(|(tag, _)| *tag != subxid);
                self.send(Wire::plain().stream_abort(xid, subxid));
            }
            _ => {
                let stream = self.streams.remove(&xid).expect("a stream");
                self.described.extend(&stream.described);
                self.send(Wire::plain().stream_commit(xid, self.lsn - 10, self.lsn));
                if !stream.own && stream.chunked && self.lsn > START_AFTER {
                    self.expected.push((xid, self.lsn, stream.rows.into_iter().map(|(_, row)| row).collect()));
                }
            }
        }
    }

    fn take(&mut self) {
        if let Some(entry) = encode(&mut self.assembler) {
            self.undecided.push_back(entry);
        }
    }

    fn decide(&mut self) {
        if let Some(entry) = self.undecided.pop_front() {
            self.decided.extend(ends(&entry));
            self.entries.push(entry);
            self.assembler.decided();
        }
    }

    fn step(&mut self) {
        let before = self.assembler.confirmed();
        match self.random.random_range(0..20) {
            0..6 => self.whole(),
            6..10 => self.block(),
            10..12 => self.end_stream(),
            12 | 13 => self.assembler.keepalive(Lsn(self.lsn)),
            14..17 => self.take(),
            _ => self.decide(),
        }
        assert!(self.assembler.confirmed() >= before, "positions only go forward");
        self.check();
    }

    /// No transaction is confirmed that is not in a decided entry.
    fn check(&self) {
        let confirmed = self.assembler.confirmed().0;
        let due: Vec<_> = self.expected.iter().map(|(_, end, _)| *end).take_while(|end| *end <= confirmed).collect();
        assert_eq!(Some(&due[..]), self.decided.get(..due.len()), "confirmed up to {confirmed} before it was decided");
    }
}

/// What the decided entries hold.
fn held(entries: &[Bytes]) -> Vec<Expected> {
    let row = |change: &Change| (change.text(), change.columns[0]);
    replay(entries).into_iter().map(|commit| (commit.xid, commit.end_lsn.0, commit.changes.iter().map(row).collect())).collect()
}

fn run(seed: u64) {
    let mut server = Server::new(seed);
    for _ in 0..400 {
        server.step();
    }
    while !server.streams.is_empty() {
        server.end_stream();
    }
    server.assembler.keepalive(Lsn(server.lsn));
    server.take();
    while !server.undecided.is_empty() {
        server.decide();
        server.take();
        server.check();
    }
    assert!(server.expected.len() > 10, "the run is about something");
    assert_eq!(held(&server.entries), server.expected);
    assert_eq!(server.assembler.confirmed(), Lsn(server.lsn));
}

/// Prints the seed of a run that fails. `HOWDAH_SEED=n cargo test -p howdah-sidecar random_streams` runs that one alone.
#[test]
fn random_streams() {
    let one = std::env::var("HOWDAH_SEED").ok().map(|seed| seed.parse::<u64>().expect("a number"));
    for seed in one.map_or(0..300, |seed| seed..seed + 1) {
        let result = std::panic::catch_unwind(|| run(seed));
        assert!(result.is_ok(), "failed with HOWDAH_SEED={seed}");
    }
}
