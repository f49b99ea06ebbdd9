//! Is this node well enough to lead? Pure: the measurements come from outside.
//!
//! Between working and dead lies the gray: the process answers heartbeats, and its Postgres or its disk does not do its work. Nobody else can
//! see that, so the node itself must, within a bound, and leave leading to others.
//!
//! - Each symptom has a limit. Below it nothing happens: a busy machine is slow now and then.
//! - What was found keeps the node from leading for `REST_MS` behind the last symptom; so leadership does not go back and forth with a disk that
//!   is slow every few seconds, and people have the time to read why. Who was only behind is well as soon as it is not: so is every node that starts.

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fmt;

/// A write of the log that takes this long is a failure by itself.
const WRITE_MS_MAX: u64 = 2_000;
/// Writes of this length add up...
const SLOW_WRITE_MS: u64 = 250;
/// ...to no more than this...
const SLOW_SUM_MS_MAX: u64 = 3_000;
/// ...within this time.
const SLOW_WINDOW_MS: u64 = 10_000;
/// Two segments of Postgres' WAL, four of the log.
const FREE_BYTES_MIN: u64 = 32 << 20;
/// Questions that Postgres leaves without an answer, one after the other.
const SILENCES_MAX: u32 = 3;
/// A Raft leader opens in a tenth of a second where all is well. After this long another one may be quicker.
const CLOSED_MS_MAX: u64 = 10_000;
/// Who leads opens when it has applied all that is decided. Applied in this time, it is not what a group waits for.
const BEHIND_MS_MAX: u64 = 10_000;
/// How long a node without symptoms still does not lead.
const REST_MS: u64 = 30_000;

/// How well a node can lead. Leadership is handed on to a node that can do better, and to no other: among equals it would go round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Fit {
    /// It cannot open its Postgres, or cannot write: while it leads, nobody is served.
    Unable,
    /// It would serve, but slowly, or not for long, or it does not know yet: its disk is slow, it was in trouble a moment ago, or it has just started.
    Doubtful,
    Fit,
}

/// What Postgres did with the last question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Pulse {
    /// It answered, or it is known to be down: then its end was noticed elsewhere.
    #[default]
    Good,
    /// It left so many questions in a row without an answer.
    Silent(u32),
    /// It said that it cannot write, and why.
    CannotWrite(String),
}

/// How apply gets on, on a follower.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Apply {
    /// The age of the oldest decided entry that is not applied.
    Behind { ms: u64 },
    /// It does not go on by itself, and why.
    Stopped(String),
    #[default]
    NotAsked,
}

/// What was measured since the last look.
#[derive(Debug, Clone, Default)]
pub struct Signs {
    pub apply: Apply,
    /// How long this node has been the Raft leader without being open as one; 0 where it is not.
    pub leads_closed_ms: u64,
    pub postgres: Pulse,
    /// The longest write or fsync of the log, the one that is under way included.
    pub log_write_ms: u64,
    /// The folder on the fullest disk, and how many bytes are left there.
    pub free: Option<(String, u64)>,
}

/// Why a node does not lead. The text keeps the numbers with which it began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    PostgresSilent,
    PostgresCannotWrite(String),
    DiskSlow { ms: u64 },
    DiskFull { folder: String, bytes: u64 },
    OpensNot { ms: u64 },
    ApplyStopped(String),
    ApplyBehind { ms: u64 },
}

impl Trouble {
    const fn rest_ms(&self) -> u64 {
        if matches!(self, Self::ApplyBehind { .. }) { 0 } else { REST_MS }
    }

    const fn leaves(&self) -> Fit {
        match self {
            Self::DiskSlow { .. } | Self::ApplyBehind { .. } => Fit::Doubtful,
            Self::PostgresSilent | Self::PostgresCannotWrite(_) | Self::DiskFull { .. } | Self::OpensNot { .. } | Self::ApplyStopped(_) => {
                Fit::Unable
            }
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PostgresSilent => f.write_str(
                "PostgreSQL does not answer, neither in an open session nor in a new one: it hangs, or its disk takes no writes",
            ),
            Self::PostgresCannotWrite(error) => write!(f, "PostgreSQL cannot write: {error}"),
            Self::DiskSlow { ms } => write!(f, "the log's disk is slow: writing took {}.{} s", ms / 1000, ms % 1000 / 100),
            Self::OpensNot { ms } => write!(f, "this node leads the log, and has not opened its PostgreSQL for {} s", ms / 1000),
            Self::ApplyStopped(error) => write!(f, "apply has stopped: {error}"),
            Self::ApplyBehind { ms } => write!(f, "apply is {} s behind", ms / 1000),
            Self::DiskFull { folder, bytes } => write!(f, "the disk of {folder} is full: {} MiB are left", bytes >> 20),
        }
    }
}

#[derive(Debug, Default)]
pub struct Health {
    /// (when it was seen, how long it took), of slow writes within the window.
    slow: VecDeque<(u64, u64)>,
    trouble: Option<Trouble>,
    rests_until_ms: u64,
    fit: Option<Fit>,
}

impl Health {
    /// What keeps this node from leading, if anything does.
    pub fn look(&mut self, now_ms: u64, signs: &Signs) -> Option<&Trouble> {
        self.fit = None;
        if let Some(found) = self.symptom(now_ms, signs) {
            self.rests_until_ms = self.rests_until_ms.max(now_ms + found.rest_ms());
            self.fit = Some(found.leaves());
            let known = self.trouble.as_ref().is_some_and(|old| std::mem::discriminant(old) == std::mem::discriminant(&found));
            if !known {
                self.trouble = Some(found);
            }
        } else if now_ms >= self.rests_until_ms {
            self.trouble = None;
        }
        self.trouble.as_ref()
    }

    /// As far as the last look says.
    #[must_use]
    pub fn fit(&self) -> Fit {
        // Without a symptom it only rests.
        let rests = if self.trouble.is_some() { Fit::Doubtful } else { Fit::Fit };
        self.fit.unwrap_or(rests)
    }

    fn symptom(&mut self, now_ms: u64, signs: &Signs) -> Option<Trouble> {
        let slow = self.slowness(now_ms, signs.log_write_ms);
        match &signs.postgres {
            Pulse::Silent(times) if *times >= SILENCES_MAX => return Some(Trouble::PostgresSilent),
            Pulse::CannotWrite(error) => return Some(Trouble::PostgresCannotWrite(error.clone())),
            Pulse::Good | Pulse::Silent(_) => {}
        }
        if let Some((folder, bytes)) = signs.free.as_ref().filter(|(_, bytes)| *bytes < FREE_BYTES_MIN) {
            return Some(Trouble::DiskFull { folder: folder.clone(), bytes: *bytes });
        }
        if signs.leads_closed_ms >= CLOSED_MS_MAX {
            return Some(Trouble::OpensNot { ms: signs.leads_closed_ms });
        }
        match &signs.apply {
            Apply::Stopped(error) => return Some(Trouble::ApplyStopped(error.clone())),
            Apply::Behind { ms } if *ms >= BEHIND_MS_MAX => return Some(Trouble::ApplyBehind { ms: *ms }),
            Apply::Behind { .. } | Apply::NotAsked => {}
        }
        slow.map(|ms| Trouble::DiskSlow { ms })
    }

    fn slowness(&mut self, now_ms: u64, write_ms: u64) -> Option<u64> {
        while self.slow.front().is_some_and(|(seen, _)| now_ms.saturating_sub(*seen) > SLOW_WINDOW_MS) {
            self.slow.pop_front();
        }
        if write_ms >= WRITE_MS_MAX {
            return Some(write_ms);
        }
        if write_ms >= SLOW_WRITE_MS {
            self.slow.push_back((now_ms, write_ms));
        }
        let sum: u64 = self.slow.iter().map(|(_, ms)| ms).sum();
        (sum >= SLOW_SUM_MS_MAX).then_some(sum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writing(log_write_ms: u64) -> Signs {
        Signs { log_write_ms, ..Signs::default() }
    }

    fn free(bytes: u64) -> Signs {
        Signs { free: Some(("d".to_owned(), bytes)), ..Signs::default() }
    }

    fn pulse(postgres: Pulse) -> Signs {
        Signs { postgres, ..Signs::default() }
    }

    #[test]
    fn each_symptom_has_its_limit() {
        let cases = [
            (Signs::default(), None),
            (writing(WRITE_MS_MAX - 1), None),
            (writing(2_345), Some("writing took 2.3 s")),
            (free(FREE_BYTES_MIN), None),
            (free(5 << 20), Some("the disk of d is full: 5 MiB are left")),
            (pulse(Pulse::Silent(SILENCES_MAX - 1)), None),
            (pulse(Pulse::Silent(SILENCES_MAX)), Some("does not answer")),
            (pulse(Pulse::CannotWrite("no space".into())), Some("cannot write: no space")),
            (Signs { leads_closed_ms: CLOSED_MS_MAX - 1, ..Signs::default() }, None),
            (Signs { leads_closed_ms: 12_345, ..Signs::default() }, Some("has not opened its PostgreSQL for 12 s")),
            (Signs { apply: Apply::Behind { ms: BEHIND_MS_MAX - 1 }, ..Signs::default() }, None),
            (Signs { apply: Apply::Behind { ms: 45_000 }, ..Signs::default() }, Some("apply is 45 s behind")),
            (Signs { apply: Apply::Stopped("no table".into()), ..Signs::default() }, Some("apply has stopped: no table")),
        ];
        for (signs, expected) in cases {
            let found = Health::default().look(0, &signs).map(ToString::to_string);
            match expected {
                None => assert_eq!(found, None, "{signs:?}"),
                Some(text) => assert!(found.as_ref().is_some_and(|found| found.contains(text)), "{signs:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_disk_that_is_rather_slow_all_the_time_is_found_and_a_single_hiccup_is_not() {
        let mut health = Health::default();
        for second in 0..60 {
            // Two or three in ten seconds.
            let write = if second % 5 == 0 { 900 } else { 3 };
            assert_eq!(health.look(second * 1_000, &writing(write)), None, "second {second}");
        }
        let found = (60..70).find(|second| health.look(second * 1_000, &writing(700)).is_some());
        assert_eq!(found, Some(62));
    }

    #[test]
    fn trouble_lasts_through_the_rest_and_keeps_its_first_words() {
        let mut health = Health::default();
        health.look(1_000, &free(7 << 20));
        let again = health.look(2_000, &free(1 << 20)).map(ToString::to_string);
        assert!(again.is_some_and(|text| text.contains("7 MiB")));
        assert!(health.look(2_000 + REST_MS - 1, &Signs::default()).is_some());
        assert_eq!(health.look(2_000 + REST_MS, &Signs::default()), None);
    }

    #[test]
    fn a_node_in_trouble_can_less_than_one_that_is_slow_or_rests() {
        let mut health = Health::default();
        assert_eq!(health.fit(), Fit::Fit);
        health.look(0, &free(0));
        assert_eq!(health.fit(), Fit::Unable);
        health.look(500, &writing(3_000));
        assert_eq!(health.fit(), Fit::Doubtful);
        health.look(1_000, &Signs::default());
        assert_eq!(health.fit(), Fit::Doubtful, "it rests");
        health.look(1_000 + REST_MS, &Signs::default());
        assert_eq!(health.fit(), Fit::Fit);
        health.look(100_000, &Signs { leads_closed_ms: CLOSED_MS_MAX, ..Signs::default() });
        assert_eq!(health.fit(), Fit::Unable, "whoever opens later than this has others try");
        let behind = Signs { apply: Apply::Behind { ms: BEHIND_MS_MAX }, ..Signs::default() };
        health.look(100_500, &behind);
        assert_eq!(health.fit(), Fit::Doubtful, "it would open, late");
        health.look(101_000, &Signs::default());
        assert_eq!(health.fit(), Fit::Doubtful, "it rests from what was before");
        health.look(200_000, &behind);
        health.look(200_500, &Signs::default());
        assert_eq!(health.fit(), Fit::Fit, "it has caught up");
    }

    #[test]
    fn another_trouble_is_told_instead() {
        let mut health = Health::default();
        health.look(0, &writing(3_000));
        assert_eq!(health.look(10, &pulse(Pulse::Silent(3))), Some(&Trouble::PostgresSilent));
    }
}
