//! For how long a leader can be sure that nobody else leads.
//!
//! A follower that heard from the leader refuses to elect another one for the length of the lease. So from the moment at which the
//! leader *sent* what a majority then acknowledged, nobody else is elected for that long: a majority of voters holds still, and every
//! other majority has one of them in it. No clock is compared with another; what is assumed is that clocks run at nearly the same rate.

use howdah_protocol::settings::CLOCK_DRIFT_PARTS;
use std::time::Duration;

/// What is left of the lease, `age` after the leader sent what a majority acknowledged last. Nothing without any acknowledgement.
#[must_use]
pub fn left(lease: Duration, age: Option<Duration>) -> Duration {
    let sure = lease - lease / CLOCK_DRIFT_PARTS;
    age.map_or(Duration::ZERO, |age| sure.saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(400);

    #[test]
    fn it_shrinks_with_age_and_ends_before_the_followers_promise_does() {
        let left = |age_ms| left(LEASE, Some(Duration::from_millis(age_ms)));
        assert_eq!(left(0), Duration::from_millis(396));
        assert_eq!(left(100), Duration::from_millis(296));
        assert_eq!(left(396), Duration::ZERO);
        assert_eq!(left(100_000), Duration::ZERO);
        for age_ms in 0..400 {
            // A leader whose clock is slow by the drift that is allowed for.
            let real = (Duration::from_millis(age_ms) + left(age_ms)).mul_f64(1.01);
            assert!(left(age_ms).is_zero() || real <= LEASE, "{age_ms}");
        }
    }

    #[test]
    fn a_leader_that_nobody_has_acknowledged_has_none() {
        assert_eq!(left(LEASE, None), Duration::ZERO);
    }
}
