//! A process that is killed while it writes: what it was told is on disk is there.

use super::{append, entry, open, vote};
use crate::raft::store::LogStore;
use openraft::RaftLogReader;
use openraft::storage::RaftLogStorage;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

const DIR_VARIABLE: &str = "HOWDAH_TEST_CRASH_DIR";
const TEST_NAME: &str = "raft::store::tests::crash::kill_in_the_middle";

/// The child: appends and votes for ever, and prints what is durable.
async fn write_until_killed(mut store: LogStore) {
    let state = store.get_log_state().await.unwrap();
    let mut next = state.last_log_id.map_or(0, |id| id.index + 1);
    let mut term = state.last_log_id.map_or(1, |id| id.leader_id.term + 1);
    loop {
        let batch: Vec<_> = (next..next + 1 + next % 7).map(|index| entry(term, index, 50 + (index as usize * 37) % 3000)).collect();
        next = batch.last().unwrap().log_id.index + 1;
        append(&mut store, batch).await.unwrap();
        println!("ACKED {term} {}", next - 1);
        if next % 5 == 0 {
            term += 1;
            store.save_vote(&vote(term)).await.unwrap();
            println!("VOTED {term}");
        }
    }
}

#[tokio::test]
async fn kill_in_the_middle() {
    if let Ok(dir) = std::env::var(DIR_VARIABLE) {
        return write_until_killed(open(dir.as_ref())).await;
    }
    let dir = tempfile::tempdir().unwrap();
    for round in 0..6_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([TEST_NAME, "--exact", "--nocapture"])
            .env(DIR_VARIABLE, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut acked, mut voted, mut seen) = (None, None, 0);
        let mut note = |line: String| {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["ACKED", _, index] => acked = Some(index.parse::<u64>().unwrap()),
                ["VOTED", term] => voted = Some(term.parse::<u64>().unwrap()),
                _ => return false,
            }
            true
        };
        while seen < 40 + round * 17 {
            seen += usize::from(note(lines.next().expect("the child goes on").unwrap()));
        }
        child.kill().unwrap();
        // A line may be cut by the kill; a cut number is a smaller one.
        for line in lines.map_while(Result::ok) {
            note(line);
        }
        child.wait().unwrap();
        let mut store = open(dir.path());
        let last = store.get_log_state().await.unwrap().last_log_id.unwrap();
        assert!(last.index >= acked.unwrap(), "round {round}: acknowledged {acked:?}, found {last:?}");
        let term = store.read_vote().await.unwrap().map(|vote| vote.leader_id.term);
        assert!(term >= voted, "round {round}: voted in {voted:?}, found {term:?}");
        let found = store.read(0, u64::MAX, usize::MAX).unwrap();
        assert_eq!(found.len() as u64, last.index + 1, "no holes");
        for found in found {
            let index = found.log_id.index;
            assert_eq!(found, entry(found.log_id.leader_id.term, index, 50 + (index as usize * 37) % 3000));
        }
        store.close();
    }
}
