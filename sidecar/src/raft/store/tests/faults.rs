//! A disk in memory on which everything can fail and on which a crash forgets what was not synced.
//!
//! A run does random operations on a log with small segments until the disk fails at its n-th call. Then the host "crashes": every sector
//! that was not synced holds its old or its new content at random, and names that were not synced may be old. What was acknowledged must
//! be there when the log is opened again, in order, with nothing in between missing; and it must go on from there.
//!
//! Or only the process ends. Then the page cache is what it finds, and that lies: pages whose sync failed count as clean, are read as if they were
//! on disk, are written by no later sync, and are gone as soon as the memory is needed.

use super::{entry, vote};
use crate::raft::store::disk::{Disk, DiskFile};
use crate::raft::store::log::Log;
use crate::raft::store::record::Record;
use crate::raft::types::{LogId, RaftEntry, log_id};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::mem;
use std::sync::{Arc, Mutex};

const SECTOR: usize = 512;
const SEGMENT_LEN: u64 = 4096;
const CACHE_BYTES_MAX: usize = 600;

#[derive(Debug, Default, Clone)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Sectors that the next sync writes.
    dirty: BTreeSet<usize>,
}

impl Content {
    /// Sectors that are read from the page cache as they never were on disk, and that nobody will write.
    fn lost(&mut self) -> impl Iterator<Item = (&mut [u8], &[u8])> {
        self.durable.resize(self.now.len(), 0);
        let sectors = self.now.chunks_mut(SECTOR).zip(self.durable.chunks(SECTOR)).enumerate();
        sectors.filter(|(at, (now, durable))| !self.dirty.contains(at) && now != durable).map(|(_, both)| both)
    }
}

#[derive(Debug, Default)]
struct Memory {
    files: Vec<Content>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Calls that change something, until the one that fails.
    calls_left: Option<u32>,
    calls: u32,
}

impl Memory {
    fn call(&mut self) -> io::Result<()> {
        self.calls += 1;
        match &mut self.calls_left {
            None => Ok(()),
            Some(0) => Err(io::Error::other("the disk has failed")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    /// What a host finds when it comes back.
    fn crash(&mut self, random: &mut impl Rng) {
        if random.random_bool(0.5) {
            self.names = self.durable_names.clone();
        }
        self.durable_names = self.names.clone();
        for file in &mut self.files {
            file.lost().for_each(|(now, durable)| now.copy_from_slice(durable));
            for (now, durable) in file.now.chunks_mut(SECTOR).zip(file.durable.chunks(SECTOR)) {
                if random.random_bool(0.5) {
                    now.copy_from_slice(durable);
                }
            }
            file.durable = file.now.clone();
            file.dirty.clear();
        }
        self.calls_left = None;
    }

    /// What the next process finds. Says how many sectors are not what they seem.
    fn restart(&mut self, random: &mut impl Rng) -> usize {
        let mut seeming = 0;
        for file in &mut self.files {
            for (now, durable) in file.lost() {
                if random.random_bool(0.2) {
                    now.copy_from_slice(durable);
                } else {
                    seeming += 1;
                }
            }
        }
        self.calls_left = None;
        seeming
    }
}

#[derive(Debug, Clone, Default)]
struct MemoryDisk(Arc<Mutex<Memory>>);

#[derive(Debug)]
struct MemoryFile(Arc<Mutex<Memory>>, usize);

impl Disk for MemoryDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().names.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let memory = self.0.lock().unwrap();
        Ok(memory.files[memory.names[name]].now.clone())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.0.lock().unwrap().names[name];
        Ok(Arc::new(MemoryFile(self.0.clone(), file)))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut memory = self.0.lock().unwrap();
        memory.call()?;
        memory.files.push(Content::default());
        let file = memory.files.len() - 1;
        memory.names.insert(name.into(), file);
        Ok(Arc::new(MemoryFile(self.0.clone(), file)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        memory.call()?;
        let file = memory.names.remove(from).unwrap();
        memory.names.insert(to.into(), file);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        memory.call()?;
        memory.names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync_names(&self) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        memory.call()?;
        memory.durable_names = memory.names.clone();
        Ok(())
    }
}

impl DiskFile for MemoryFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().files[self.1].now.len() as u64)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        bytes.copy_from_slice(&self.0.lock().unwrap().files[self.1].now[offset..offset + bytes.len()]);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        let failed = memory.call();
        // A write that fails may have written a part.
        let len = if failed.is_ok() { bytes.len() } else { bytes.len() / 2 };
        let offset = usize::try_from(offset).unwrap();
        let now = &mut memory.files[self.1].now;
        now.resize(now.len().max(offset + len), 0);
        now[offset..offset + len].copy_from_slice(&bytes[..len]);
        if len > 0 {
            memory.files[self.1].dirty.extend(offset / SECTOR..=(offset + len - 1) / SECTOR);
        }
        failed
    }

    fn sync(&self) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        let failed = memory.call();
        let Content { now, durable, dirty } = &mut memory.files[self.1];
        durable.resize(now.len(), 0);
        // Whether it failed or not, no sector is dirty any more.
        for at in mem::take(dirty) {
            let sector = at * SECTOR..now.len().min((at + 1) * SECTOR);
            if failed.is_ok() {
                durable[sector.clone()].copy_from_slice(&now[sector]);
            }
        }
        failed
    }
}

/// What a log must hold, and what it may hold besides.
#[derive(Debug, Clone, Default)]
struct Model {
    /// All that was written, acknowledged or not.
    written: BTreeMap<u64, RaftEntry>,
    acknowledged: u64,
    purged: Option<LogId>,
    voted: u64,
    term: u64,
    /// A truncation that was not synced may or may not be there.
    older: Vec<BTreeMap<u64, RaftEntry>>,
}

impl Model {
    fn step(&mut self, log: &mut Log, random: &mut impl Rng) -> io::Result<()> {
        let next = self.written.keys().next_back().map_or(self.purged.map_or(0, |id| id.index + 1), |last| last + 1);
        match random.random_range(0..20) {
            0 => {
                self.term += 1;
                log.write([Record::Vote(vote(self.term))])?;
                log.sync()?;
                self.voted = self.term;
                self.synced(next);
            }
            1 if next > self.acknowledged => {
                let keep = random.random_range(self.acknowledged..=next);
                self.older.push(self.written.clone());
                let last = keep
                    .checked_sub(1)
                    .map(|last| self.written.get(&last).map_or(self.purged.unwrap_or(log_id(0, 0)), |entry| entry.log_id));
                log.write([Record::Keep(last)])?;
                self.written.retain(|index, _| *index < keep);
            }
            2 if self.acknowledged > 0 => {
                let upto = random.random_range(0..self.acknowledged);
                let Some(upto) = self.written.get(&upto).map(|entry| entry.log_id) else { return Ok(()) };
                log.purge(upto)?;
                self.purged = self.purged.max(Some(upto));
                self.written.retain(|index, _| *index > upto.index);
                self.synced(next);
            }
            3 => {
                if let Some(entry) = self.written.get(&self.acknowledged.saturating_sub(1)) {
                    log.commit(entry.log_id);
                }
            }
            4 => {
                if let Some(make) = log.make_spare() {
                    make()?;
                    log.spare_made();
                }
            }
            5..12 => {
                log.sync()?;
                self.synced(next);
            }
            _ => {
                let entries: Vec<_> =
                    (next..next + random.random_range(1..4)).map(|index| entry(self.term, index, random.random_range(0..900))).collect();
                self.written.extend(entries.iter().map(|entry| (entry.log_id.index, entry.clone())));
                log.write(entries.into_iter().map(Record::Entry))?;
            }
        }
        Ok(())
    }

    fn synced(&mut self, next: u64) {
        self.acknowledged = next;
        self.older.clear();
    }

    /// Everything acknowledged is in the log, and everything in the log was written.
    fn check(&self, log: &Log) {
        let found = log.read(0, u64::MAX, usize::MAX).unwrap();
        let head = log.head();
        assert!(head.vote.map_or(0, |vote| vote.leader_id.term) >= self.voted);
        let next = head.last.max(head.purged).map_or(0, |id| id.index + 1);
        assert!(next >= self.acknowledged, "{} were acknowledged, {next} are there", self.acknowledged);
        assert!(head.purged >= self.purged);
        for pair in found.windows(2) {
            assert_eq!(pair[0].log_id.index + 1, pair[1].log_id.index);
        }
        if let Some(first) = found.first() {
            assert_eq!(first.log_id.index, head.purged.map_or(0, |id| id.index + 1));
            assert_eq!(found.last().unwrap().log_id.index + 1, next);
        }
        for entry in found {
            let index = entry.log_id.index;
            let known = self.written.get(&index) == Some(&entry) || self.older.iter().any(|older| older.get(&index) == Some(&entry));
            assert!(known || head.purged > self.purged, "entry {index} was never written");
        }
    }
}

fn open(disk: &MemoryDisk) -> io::Result<Log> {
    Log::open(Arc::new(disk.clone()), SEGMENT_LEN, CACHE_BYTES_MAX)
}

/// One life of a log after another, each ended by a failing call, and a crash of the host or only of the process.
fn lives(seed: u64) -> [usize; 3] {
    let mut random = SmallRng::seed_from_u64(seed);
    let disk = MemoryDisk::default();
    let mut model = Model::default();
    let (mut failures, mut segments, mut seeming) = (0, 0, 0);
    for _ in 0..6 {
        disk.0.lock().unwrap().calls_left = Some(random.random_range(0..60));
        let outcome = open(&disk).and_then(|mut log| {
            model.check(&log);
            // What is found after a crash is durable from then on.
            model.written = log.read(0, u64::MAX, usize::MAX)?.into_iter().map(|entry| (entry.log_id.index, entry)).collect();
            model.purged = log.head().purged;
            model.synced(log.head().last.map_or(0, |id| id.index + 1));
            (0..400).try_for_each(|_| model.step(&mut log, &mut random))
        });
        failures += usize::from(outcome.is_err());
        let mut memory = disk.0.lock().unwrap();
        segments = segments.max(memory.names.len());
        if random.random_bool(0.5) {
            memory.crash(&mut random);
        } else {
            seeming += memory.restart(&mut random);
        }
    }
    model.check(&open(&disk).unwrap());
    [failures, segments, seeming]
}

#[test]
fn every_call_may_fail_and_every_crash_is_survived() {
    let (mut failures, mut segments, mut seeming) = (0, 0, 0);
    for seed in 0..1500 {
        let outcome = std::panic::catch_unwind(|| lives(seed));
        let [failed, most, seemed] = outcome.unwrap_or_else(|_| panic!("seed {seed}"));
        failures += failed;
        segments = segments.max(most);
        seeming += seemed;
    }
    assert!(seeming > 500, "{seeming} sectors: the page cache lied");
    assert!(failures > 5000, "{failures} failures: the faults happened");
    assert!(segments > 4, "{segments} segments: the log went over many");
}
