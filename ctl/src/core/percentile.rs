//! Percentiles of samples, by the nearest-rank method: always a value that was measured, never an interpolation.

/// The smallest sample that at least `percent` of all samples do not exceed; `None` without samples. Sorts the samples.
///
/// # Panics
/// When `percent` is not within 0 to 100, or a sample is not comparable (NaN).
#[must_use]
pub fn percentile<T: Copy + PartialOrd>(samples: &mut [T], percent: f64) -> Option<T> {
    assert!((0.0..=100.0).contains(&percent), "a percentile is within 0 to 100");
    samples.sort_by(|a, b| a.partial_cmp(b).expect("samples are comparable"));
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let rank = (percent / 100.0 * samples.len() as f64).ceil() as usize;
    samples.get(rank.max(1) - 1).copied()
}

/// The middle sample; the mean of the two middle ones for an even count.
#[must_use]
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        len if len % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_rank() {
        let mut samples = [15, 20, 35, 40, 50];
        assert_eq!(percentile(&mut samples, 0.0), Some(15));
        assert_eq!(percentile(&mut samples, 30.0), Some(20));
        assert_eq!(percentile(&mut samples, 50.0), Some(35));
        assert_eq!(percentile(&mut samples, 99.0), Some(50));
        assert_eq!(percentile(&mut samples, 100.0), Some(50));
        assert_eq!(percentile::<u32>(&mut [], 50.0), None);
    }

    #[test]
    fn median_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }
}
