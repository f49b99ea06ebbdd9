//! Progress of a node that joins: a bar on a terminal, a line now and then elsewhere. On standard error.

use howdah_protocol::admin::{MemberState, MemberStep, Seeding, SeedingStage};
use std::io::{IsTerminal, Write};

const WIDTH: usize = 24;
/// Where there is no terminal, a line for each of so many parts.
const PARTS: f64 = 10.0;

#[derive(Debug)]
pub(crate) struct Progress {
    on_terminal: bool,
    /// A bar stands in the present line.
    drawn: bool,
    /// What was said last where there is no terminal.
    told: Option<(SeedingStage, u64)>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { on_terminal: std::io::stderr().is_terminal(), drawn: false, told: None }
    }

    pub(crate) fn tell(&mut self, step: &MemberStep) {
        if let Some(text) = self.text(step) {
            let mut out = std::io::stderr().lock();
            // Nobody to tell: then nothing is told.
            let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
        }
    }

    fn text(&mut self, step: &MemberStep) -> Option<String> {
        let Some(seeding) = &step.seeding else {
            let before = if std::mem::take(&mut self.drawn) { "\n" } else { "" };
            let verb = match step.state {
                MemberState::Joining => "joins",
                MemberState::Voter => "is a member",
                MemberState::HandedOver => "leaves",
                MemberState::Removed => "has left",
            };
            return Some(format!("{before}node {} {verb}: {}\n", step.node, step.detail));
        };
        if self.on_terminal {
            self.drawn = true;
            return Some(format!("\rnode {} {} {seeding}\x1b[K", step.node, bar(seeding)));
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 10")]
        let part = (seeding.share() * PARTS) as u64;
        let is_new = self.told.replace((seeding.stage, part)) != Some((seeding.stage, part));
        is_new.then(|| format!("node {} is filled: {seeding}\n", step.node))
    }
}

fn bar(seeding: &Seeding) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "0 to the width")]
    let full = ((seeding.share() * WIDTH as f64) as usize).min(WIDTH);
    format!("[{}{}]", "#".repeat(full), "-".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;
    use howdah_protocol::NodeId;

    fn step(seeding: Option<Seeding>) -> MemberStep {
        MemberStep { node: NodeId(4), state: MemberState::Joining, detail: "seeding: from h:1".to_owned(), seeding }
    }

    fn rows(bytes_done: u64) -> Option<Seeding> {
        Some(Seeding { stage: SeedingStage::Rows, bytes_done, bytes_total: 100 << 20, ..Seeding::default() })
    }

    #[test]
    fn a_terminal_gets_a_bar_in_one_line() {
        let mut progress = Progress { on_terminal: true, drawn: false, told: None };
        let half = progress.text(&step(rows(50 << 20))).expect("a bar");
        assert!(half.starts_with("\rnode 4 [############------------] 50 %, 50 of 100 MiB"), "{half:?}");
        let after = progress.text(&step(None)).expect("a line");
        assert_eq!(after, "\nnode 4 joins: seeding: from h:1\n");
    }

    #[test]
    fn a_file_gets_a_line_for_every_tenth() {
        let mut progress = Progress { on_terminal: false, drawn: false, told: None };
        let lines: Vec<_> = (0..=100).filter_map(|done| progress.text(&step(rows(done << 20)))).collect();
        assert_eq!(lines.len(), 11);
        assert!(lines[5].starts_with("node 4 is filled: 50 %"), "{lines:?}");
    }
}
