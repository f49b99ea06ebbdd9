//! The write gap: how long nobody got a commit acknowledged around a fault.

use std::time::Duration;

/// The longest time between two successive acknowledgements of which the later one came after the fault.
///
/// `acks` are the moments of acknowledged commits of all writers together, in any order, and `fault` the moment of the fault, all since one start.
/// `None` when nothing was acknowledged after the fault: then there is no gap to speak of, the service never came back. The fault itself
/// counts as an acknowledgement where none came before it, so that a run that starts with its fault is measured as well.
#[must_use]
pub fn write_gap(acks: &[Duration], fault: Duration) -> Option<Duration> {
    let mut sorted = acks.to_vec();
    sorted.sort_unstable();
    let after = sorted.partition_point(|ack| *ack <= fault);
    let mut before = if after == 0 { fault } else { sorted[after - 1] };
    let mut longest = None;
    for ack in &sorted[after..] {
        longest = longest.max(Some(*ack - before));
        before = *ack;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: &[u64]) -> Vec<Duration> {
        values.iter().copied().map(Duration::from_millis).collect()
    }

    #[test]
    fn the_gap_spans_the_fault() {
        assert_eq!(write_gap(&ms(&[10, 20, 330, 340]), Duration::from_millis(25)), Some(Duration::from_millis(310)));
    }

    #[test]
    fn a_commit_acknowledged_late_by_the_dying_leader_does_not_hide_the_gap() {
        assert_eq!(write_gap(&ms(&[10, 26, 330, 340]), Duration::from_millis(25)), Some(Duration::from_millis(304)));
    }

    #[test]
    fn a_pause_before_the_fault_does_not_count() {
        assert_eq!(write_gap(&ms(&[0, 900, 950, 990]), Duration::from_millis(940)), Some(Duration::from_millis(50)));
    }

    #[test]
    fn order_of_the_samples_does_not_matter_and_no_commit_after_is_no_gap() {
        assert_eq!(write_gap(&ms(&[340, 10, 330, 20]), Duration::from_millis(25)), Some(Duration::from_millis(310)));
        assert_eq!(write_gap(&ms(&[10, 20]), Duration::from_millis(25)), None);
        assert_eq!(write_gap(&ms(&[100]), Duration::from_millis(25)), Some(Duration::from_millis(75)));
    }
}
