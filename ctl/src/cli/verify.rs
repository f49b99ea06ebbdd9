//! `howdahctl verify`: do all nodes hold the same data? The leader compares them at one log index, and repairs where it is asked to.

use super::target::{Target, leader};
use super::{Outcome, Verify};
use anyhow::{Context, bail};
use howdah_ctl::admin;
use howdah_ctl::core::verdict::in_words;
use howdah_protocol::verify::{VerifyProgress, VerifyReport, VerifyRequest};
use std::io::{IsTerminal, Write, stderr};

const BAR_WIDTH: usize = 30;

pub(crate) async fn run(arguments: Verify) -> anyhow::Result<Outcome> {
    let mut bar = Bar::new();
    let request = VerifyRequest { repair: arguments.repair };
    let report = verify(&arguments.target.resolve()?, request, |progress| bar.show(progress)).await;
    bar.clear();
    let report = report?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", in_words(&report));
    }
    Ok(if report.identical { Outcome::Good } else { Outcome::Bad })
}

pub(crate) async fn verify(target: &Target, request: VerifyRequest, progress: impl FnMut(&VerifyProgress)) -> anyhow::Result<VerifyReport> {
    let views = target.observe().await;
    let leader = leader(&views).context("no node is an open leader; `howdahctl status` shows why")?;
    let Some(secret) = &target.secret else {
        bail!("comparing needs the cluster's secret: give --secret, or HOWDAH_SECRET in the environment");
    };
    Ok(admin::verify::verify(&leader.admin, secret, request, progress).await?)
}

/// A line on the terminal that is written over; nothing where nobody looks.
struct Bar {
    shown: bool,
    terminal: bool,
}

impl Bar {
    fn new() -> Self {
        Self { shown: false, terminal: stderr().is_terminal() }
    }

    fn show(&mut self, progress: &VerifyProgress) {
        if self.terminal {
            // Nobody is harmed by a bar that cannot be drawn.
            drop(write!(stderr(), "\r\x1b[K{}", line(progress)));
            self.shown = true;
        }
    }

    fn clear(&mut self) {
        if self.shown {
            drop(write!(stderr(), "\r\x1b[K"));
        }
    }
}

fn line(progress: &VerifyProgress) -> String {
    let share = |of: usize| {
        let (done, total) = (u128::from(progress.done_bytes), u128::from(progress.total_bytes.max(1)));
        usize::try_from(done.min(total) * of as u128 / total).unwrap_or(of)
    };
    let filled = share(BAR_WIDTH);
    format!("[{}{}] {:>3} %  {}", "#".repeat(filled), " ".repeat(BAR_WIDTH - filled), share(100), progress.doing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_full_as_what_is_done() {
        let at = |done_bytes, total_bytes| line(&VerifyProgress { doing: "t".to_owned(), done_bytes, total_bytes });
        assert_eq!(at(1, 2), format!("[{}{}]  50 %  t", "#".repeat(15), " ".repeat(15)));
        assert!(at(0, 0).contains("  0 %") && at(9, 3).contains("100 %"));
    }
}
