//! What several rounds of the same measurement say: a middle, a spread, and how one contender compares with another.
//!
//! Machines have moods: a whole round can be slow. So a ratio is formed within each round, between two measurements
//! that lie seconds apart, and only then is the median taken.

use serde::Serialize;

/// A median and the middle half around it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// First quartile.
    pub low: f64,
    /// Third quartile.
    pub high: f64,
}

impl Spread {
    /// Of some values; `None` of none.
    pub fn of(values: &[f64]) -> Option<Spread> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        Some(Spread {
            median: quantile(&sorted, 0.5)?,
            low: quantile(&sorted, 0.25)?,
            high: quantile(&sorted, 0.75)?,
        })
    }

    /// The larger distance from the median to a quartile, as a part of the median.
    pub fn relative(&self) -> f64 {
        (self.high - self.median).max(self.median - self.low) / self.median
    }
}

/// The value below which `part` of the sorted values lie, interpolated.
pub fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let place = part * (sorted.len().checked_sub(1)? as f64);
    let below = *sorted.get(place.floor() as usize)?;
    let above = *sorted.get(place.ceil() as usize)?;
    Some(below + (above - below) * place.fract())
}

/// The ratios of two contenders, round by round; a round in which one of them has no value is left out.
pub fn ratios(ours: &[Option<f64>], base: &[Option<f64>]) -> Vec<f64> {
    let pairs = ours.iter().zip(base).filter_map(|(a, b)| Some((*a)? / (*b)?));
    pairs.filter(|ratio| ratio.is_finite() && *ratio > 0.0).collect()
}

/// The geometric mean; `None` of nothing.
pub fn geometric_mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    Some((values.iter().map(|v| v.ln()).sum::<f64>() / values.len() as f64).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((spread.median, spread.low, spread.high), (2.5, 1.75, 3.25));
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[7.0]).unwrap().relative(), 0.0);
    }

    #[test]
    fn ratios_pair_the_rounds_and_skip_what_is_missing() {
        let ours = [Some(2.0), None, Some(9.0), Some(1.0)];
        let base = [Some(1.0), Some(1.0), Some(3.0), Some(0.0)];
        assert_eq!(ratios(&ours, &base), [2.0, 3.0]);
    }

    #[test]
    fn a_row_twice_as_fast_makes_up_for_one_twice_as_slow() {
        assert!((geometric_mean(&[2.0, 0.5]).unwrap() - 1.0).abs() < 1e-12);
        assert_eq!(geometric_mean(&[]), None);
    }
}
