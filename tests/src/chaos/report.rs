//! What a run of chaos says at its end: for people as Markdown, for scripts as a yes or no.

use super::Options;
use crate::check::Findings;
use crate::nemesis::{Fault, Strike};
use crate::workload::Counts;
use howdah_ctl::core::digests::Comparison;
use std::collections::BTreeMap;
use std::fmt::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// Notes are for people, who read so many.
const NOTES_MAX: usize = 40;

#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub began: Instant,
    pub ended: Duration,
    pub faults: Vec<Fault>,
    pub events: Vec<Event>,
    pub samples: Vec<Sample>,
    pub counts: Counts,
    /// The most that one life of the proxy counted.
    pub follower_reads: u64,
    pub verdicts: Vec<(&'static str, Findings)>,
    /// What is wrong beside the histories.
    pub violations: Vec<String>,
    /// What is worth knowing, and no violation.
    pub notes: Vec<String>,
    replicas: Option<String>,
}

/// One fault: struck, healed, clients served again; times since the beginning.
#[derive(Debug, Clone)]
pub struct Event {
    pub fault: Fault,
    pub at: Duration,
    pub healed: Duration,
    pub served: Duration,
    pub strike: Strike,
}

#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub at: Duration,
    pub counts: Counts,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, at, healed, served, strike } = self;
        let (word, text) = match strike {
            Strike::Proven(text) => ("proven", text),
            Strike::Indeterminate(text) => ("INDETERMINATE", text),
            Strike::Skipped(text) => ("skipped", text),
        };
        let (at, healed, served) = (at.as_secs_f64(), healed.as_secs_f64(), served.as_secs_f64());
        write!(f, "{at:>7.1} s  {}, healed at {healed:.1} s, served at {served:.1} s; {word}: {text}", fault.name())
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    proven: usize,
    indeterminate: usize,
    skipped: usize,
}

impl Report {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            seed: options.seed,
            began: Instant::now(),
            ended: Duration::ZERO,
            faults: options.faults.clone(),
            events: Vec::new(),
            samples: Vec::new(),
            counts: Counts::default(),
            follower_reads: 0,
            verdicts: Vec::new(),
            violations: Vec::new(),
            notes: Vec::new(),
            replicas: None,
        }
    }

    pub(super) fn replicas(&mut self, comparison: &Comparison) {
        let different: Vec<&str> = comparison.tables.iter().filter(|row| !row.identical).map(|row| row.table.as_str()).collect();
        if different.is_empty() {
            self.replicas = Some(format!("identical at index {} ({} tables)", comparison.index, comparison.tables.len()));
        } else {
            self.replicas = Some(format!("DIFFERENT at index {}", comparison.index));
            self.violations.push(format!("nodes differ at index {} in {different:?}: {:#?}", comparison.index, comparison.tables));
        }
    }

    /// Something that was promised was not kept.
    #[must_use]
    pub fn violated(&self) -> bool {
        !self.violations.is_empty() || self.verdicts.iter().any(|(_, findings)| !findings.is_clean())
    }

    /// How often the fault was proven to have happened.
    #[must_use]
    pub fn proven(&self, fault: Fault) -> usize {
        self.tally().get(&fault).map_or(0, |tally| tally.proven)
    }

    fn tally(&self) -> BTreeMap<Fault, Tally> {
        let mut tally: BTreeMap<Fault, Tally> = self.faults.iter().map(|fault| (*fault, Tally::default())).collect();
        for event in &self.events {
            let tally = tally.entry(event.fault).or_default();
            match event.strike {
                Strike::Proven(_) => tally.proven += 1,
                Strike::Indeterminate(_) => tally.indeterminate += 1,
                Strike::Skipped(_) => tally.skipped += 1,
            }
        }
        tally
    }

    /// Writes `NAME.md` and `NAME.svg`.
    pub fn write(&self, folder: &Path, name: &str) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join(format!("{name}.svg")), super::timeline::draw(&self.samples, &self.events))?;
        std::fs::write(folder.join(format!("{name}.md")), self.markdown(name))
    }

    #[must_use]
    pub fn markdown(&self, name: &str) -> String {
        let mut text = String::new();
        self.head(&mut text, name).expect("a String takes everything");
        self.tables(&mut text).expect("a String takes everything");
        text
    }

    fn head(&self, text: &mut String, name: &str) -> fmt::Result {
        let Counts { acknowledged, committed, refused, unknown } = self.counts;
        let verdict = if self.violated() { "**Something was violated.**" } else { "Nothing was violated." };
        writeln!(text, "# Chaos, seed {}\n\n{verdict}\n", self.seed)?;
        writeln!(
            text,
            "{} faults in {:.0} s; {acknowledged} transactions acknowledged, of which {committed} wrote; {refused} refused, {unknown} unknown.",
            self.events.len(),
            self.ended.as_secs_f64()
        )?;
        writeln!(text, "At least {} reads were served by followers.", self.follower_reads)?;
        writeln!(text, "The seed decides the order of the faults and what each client asks; how they meet is the machine's doing.\n")?;
        writeln!(text, "![Acknowledged commits per second, and faults, over time]({name}.svg)\n")?;
        writeln!(text, "| judge | verdict |\n|---|---|")?;
        for (name, findings) in &self.verdicts {
            writeln!(text, "| {name} | {findings} |")?;
        }
        writeln!(text, "| replicas | {} |", self.replicas.as_deref().unwrap_or("not compared"))?;
        writeln!(text, "| service and nodes come back | {} |\n", if self.violations.is_empty() { "ok" } else { "see below" })?;
        for violation in &self.violations {
            writeln!(text, "Violated:\n\n```\n{violation}\n```\n")?;
        }
        for (name, findings) in self.verdicts.iter().filter(|(_, findings)| !findings.is_clean() || !findings.undecided.is_empty()) {
            writeln!(text, "{name}:\n\n```\n{findings:#?}\n```\n")?;
        }
        Ok(())
    }

    fn tables(&self, text: &mut String) -> fmt::Result {
        let done: Vec<usize> = self.tally().into_values().map(|tally| tally.proven).filter(|proven| *proven > 0).collect();
        let rarest = done.iter().min().copied().unwrap_or_default();
        writeln!(text, "{} of {} kinds of faults were proven, the rarest of these {rarest} times.\n", done.len(), self.faults.len())?;
        writeln!(text, "| fault | struck | proven | indeterminate | skipped | longest until served again |\n|---|---|---|---|---|---|")?;
        for (fault, Tally { proven, indeterminate, skipped }) in self.tally() {
            let longest = self.events.iter().filter(|event| event.fault == fault).map(|event| event.served - event.healed).max();
            let longest = longest.map_or(String::new(), |time| format!("{:.1} s", time.as_secs_f64()));
            writeln!(text, "| {} | {} | {proven} | {indeterminate} | {skipped} | {longest} |", fault.name(), proven + indeterminate)?;
        }
        writeln!(text, "\nUntil served again: from the end of the fault until fifty more commits were acknowledged.\n")?;
        for note in self.notes.iter().take(NOTES_MAX) {
            writeln!(text, "- {}", note.split([';', '\n']).next().unwrap_or_default())?;
        }
        writeln!(text, "\n```")?;
        for event in &self.events {
            writeln!(text, "{event}")?;
        }
        writeln!(text, "```")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let faults = vec![Fault::KillNode, Fault::Switchover];
        let options = Options { seed: 7, duration: Duration::ZERO, faults, nodes: 3, network: false, progress: |_| {} };
        let mut report = Report::new(&options);
        let (at, healed, served) = (Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4));
        report.events.push(Event { fault: Fault::KillNode, at, healed, served, strike: Strike::Proven("pid 1 gone".to_owned()) });
        report.verdicts.push(("bank", Findings { checked: 3, ..Findings::default() }));
        report
    }

    #[test]
    fn a_clean_report_counts_every_kind_also_those_that_did_not_happen() {
        let report = report();
        let text = report.markdown("x");
        assert!(!report.violated() && text.contains("Nothing was violated"), "{text}");
        assert!(
            text.contains("| SIGKILL Postgres and sidecar | 1 | 1 | 0 | 0 | 2.0 s |") && text.contains("| switchover | 0 | 0 | 0 | 0 |  |"),
            "{text}"
        );
        assert!(text.contains("1 of 2 kinds of faults were proven, the rarest of these 1 times"), "{text}");
        assert!(text.contains("seed 7") && text.contains("(x.svg)"), "{text}");
        assert_eq!((report.proven(Fault::KillNode), report.proven(Fault::Switchover)), (1, 0));
    }

    #[test]
    fn an_anomaly_or_a_violation_is_told_first() {
        let mut bad = report();
        bad.violations.push("a node did not come back".to_owned());
        assert!(bad.violated() && bad.markdown("x").contains("**Something was violated.**"));
        let mut worse = report();
        let history = vec![crate::check::simulate::at(0, 0, 1, crate::check::sequence::Call, 1); 2];
        worse.verdicts.push(("sequence", crate::check::sequence::check(&history)));
        assert!(worse.violated() && worse.markdown("x").contains("HandedOutTwice"));
    }
}
