//! What the demo found, and whether that is good enough.

use howdah_ctl::core::ledger::{Audit, TransactionId};
use howdah_protocol::verify::VerifyReport;
use std::fmt;
use std::time::Duration;

/// Far above the promise; a demo fails on what is broken, not on a slow machine.
const GAP_MAX: Duration = Duration::from_secs(30);
const NAMED_MAX: usize = 5;

#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) audit: Audit,
    /// `None` when no commit was acknowledged after the kill.
    pub(crate) gap: Option<Duration>,
    pub(crate) verified: VerifyReport,
}

impl Report {
    pub(crate) fn good(&self) -> bool {
        let audit = &self.audit;
        audit.lost.is_empty()
            && audit.ghosts.is_empty()
            && audit.acknowledged > 0
            && self.verified.identical
            && self.gap.is_some_and(|gap| gap <= GAP_MAX)
    }
}

fn named(ids: &[TransactionId]) -> String {
    let names = ids.iter().take(NAMED_MAX).map(|id| format!("client {} #{}", id.client, id.seq)).collect::<Vec<_>>().join(", ");
    match ids.len() {
        0 => String::new(),
        len if len > NAMED_MAX => format!("  ({names}, ...)"),
        _ => format!("  ({names})"),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { audit, gap, verified } = self;
        let gap = gap.map_or("writes never came back".to_owned(), |gap| format!("{} ms", gap.as_millis()));
        let different = verified.tables.iter().filter(|row| !row.identical).map(|row| row.table.as_str()).collect::<Vec<_>>();
        let data = if different.is_empty() { "identical".to_owned() } else { format!("DIFFERENT: {}", different.join(", ")) };
        writeln!(f, "  acknowledged commits      {}", audit.acknowledged)?;
        writeln!(f, "  lost                      {}{}", audit.lost.len(), named(&audit.lost))?;
        writeln!(f, "  refused, not committed    {}", audit.refused - audit.ghosts.len())?;
        writeln!(f, "  refused, yet committed    {}{}", audit.ghosts.len(), named(&audit.ghosts))?;
        writeln!(f, "  outcome unknown           {} (of which committed: {})", audit.unknown, audit.unknown_committed)?;
        writeln!(f, "  write gap                 {gap}")?;
        writeln!(f, "  tables on all servers     {data} ({} tables at log index {})", verified.tables.len(), verified.index)?;
        write!(f, "  {}", if self.good() { "GOOD" } else { "BAD" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use howdah_protocol::{LogIndex, NodeId};
    use std::collections::BTreeMap;

    fn report() -> Report {
        Report {
            audit: Audit { acknowledged: 10, ..Audit::default() },
            gap: Some(Duration::from_millis(300)),
            verified: VerifyReport {
                leader: NodeId(1),
                index: LogIndex(5),
                identical: true,
                tables: Vec::new(),
                absent: BTreeMap::new(),
                repairs: BTreeMap::new(),
            },
        }
    }

    #[test]
    fn each_broken_promise_makes_it_bad() {
        assert!(report().good());
        let id = TransactionId { client: 1, seq: 2 };
        let break_it: [fn(&mut Report, TransactionId); 6] = [
            |report, id| report.audit.lost.push(id),
            |report, id| {
                report.audit.refused = 1;
                report.audit.ghosts.push(id);
            },
            |report, _| report.audit.acknowledged = 0,
            |report, _| report.verified.identical = false,
            |report, _| report.gap = Some(GAP_MAX + Duration::from_millis(1)),
            |report, _| report.gap = None,
        ];
        for broken in break_it {
            let mut report = report();
            broken(&mut report, id);
            assert!(!report.good() && report.to_string().ends_with("BAD"), "{report}");
        }
    }
}
