//! What a node whose Postgres has just been looked at may become.
//!
//! The question after every start and every demotion is whether this Postgres holds commits that the group has not decided. They
//! stand in the node's own slot, behind the watermark of its instance in the log. As long as nobody else has opened since, they may
//! still be decided: the node waits, closed, or proposes them again as the leader. Once another has opened they never will be.
//!
//! After a restart a node knows less to be decided than before. Its own opening may be among what it has forgotten, so one that stands in
//! its log keeps everything open: without it the node would take itself for one that never led, and let its slot go.

use crate::core::decisions::Decisions;
use howdah_protocol::{InstanceId, Lsn};

/// What the own slot holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    Missing,
    /// The end of the last commit in it that this node did not apply itself, if there is one.
    Read {
        last_commit: Option<Lsn>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Everything here is decided: follow, or lead.
    Clean,
    /// Undecided commits, and nobody else has opened: as the leader, propose them again.
    LeadAgain,
    /// Undecided commits, or an undecided opening, whose fate is open: stay closed until it is known.
    Wait,
    /// Commits that the group never accepted. Repair before anything else; who repairs does not lead.
    Diverged,
}

/// What is known of the log beside what is decided.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Beyond {
    /// This node is the Raft leader, and everything that earlier terms decided is known to be.
    pub leads: bool,
    /// Behind what is known to be decided the log holds an opening of this node.
    pub opening: bool,
}

#[must_use]
pub fn judge(me: InstanceId, decisions: &Decisions, slot: Slot, Beyond { leads, opening }: Beyond) -> Verdict {
    if opening {
        return Verdict::Wait;
    }
    let mine = decisions.serving.is_some_and(|serving| serving.instance == me);
    let undecided = match slot {
        // Without its slot a node that opened last cannot tell what it committed since.
        Slot::Missing if mine => return Verdict::Diverged,
        Slot::Missing => false,
        Slot::Read { last_commit } => last_commit.is_some_and(|lsn| lsn > decisions.watermark(me)),
    };
    match (undecided, mine, leads) {
        (false, _, _) => Verdict::Clean,
        (true, true, true) => Verdict::LeadAgain,
        (true, true, false) => Verdict::Wait,
        (true, false, _) => Verdict::Diverged,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::decisions::Serving;

    const ME: InstanceId = InstanceId(1);

    fn decisions(serving: u64, watermark: u64) -> Decisions {
        let serving = Some(Serving { node: 1, instance: InstanceId(serving), epoch: 1 });
        Decisions { serving, watermarks: [(ME, Lsn(watermark))].into(), ..Decisions::default() }
    }

    #[test]
    fn the_table() {
        let tail = |lsn| Slot::Read { last_commit: Some(Lsn(lsn)) };
        let cases = [
            (decisions(2, 10), Slot::Missing, false, Verdict::Clean),
            (decisions(1, 10), Slot::Missing, true, Verdict::Diverged),
            (decisions(1, 10), Slot::Read { last_commit: None }, false, Verdict::Clean),
            (decisions(1, 10), tail(10), false, Verdict::Clean),
            (decisions(1, 10), tail(11), false, Verdict::Wait),
            (decisions(1, 10), tail(11), true, Verdict::LeadAgain),
            (decisions(2, 10), tail(11), false, Verdict::Diverged),
            (decisions(2, 10), tail(11), true, Verdict::Diverged),
            (decisions(2, 11), tail(11), true, Verdict::Clean),
        ];
        for (decisions, slot, leads, expected) in cases {
            assert_eq!(judge(ME, &decisions, slot, Beyond { leads, opening: false }), expected, "{decisions:?} {slot:?} leads={leads}");
            assert_eq!(judge(ME, &decisions, slot, Beyond { leads, opening: true }), Verdict::Wait, "{decisions:?} {slot:?}");
        }
        let leads = Beyond { leads: true, opening: false };
        assert_eq!(judge(ME, &Decisions::default(), Slot::Missing, leads), Verdict::Clean);
    }
}
