//! A measured number: the middle of its rounds and how far they lie apart.

use serde::{Deserialize, Serialize};

/// The median of some rounds, between their 5th and 95th percentile, which are the lowest
/// and the highest of fewer than twenty.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The middle one.
    pub median: f64,
    /// The 5th percentile.
    pub low: f64,
    /// The 95th percentile.
    pub high: f64,
}

impl Figure {
    /// The figure of these rounds, of which there is at least one.
    pub fn of(rounds: &[f64]) -> Figure {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| sorted[((sorted.len() - 1) as f64 * share).round() as usize];
        Figure { median: at(0.5), low: at(0.05), high: at(0.95) }
    }

    /// The same, but in the middle the mean of the middle half. For whole numbers that
    /// differ by little.
    pub fn of_whole_numbers(rounds: &[f64]) -> Figure {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let quarter = sorted.len() / 4;
        let middle = &sorted[quarter..sorted.len() - quarter];
        let mean = middle.iter().sum::<f64>() / middle.len() as f64;
        Figure { median: mean, ..Figure::of(rounds) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_between_its_percentiles() {
        let rounds: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(Figure::of(&rounds), Figure { median: 50.0, low: 5.0, high: 95.0 });
        let few = [3.0, 1.0, 2.0];
        assert_eq!(Figure::of(&few), Figure { median: 2.0, low: 1.0, high: 3.0 });
        assert_eq!(Figure::of(&[7.0]), Figure { median: 7.0, low: 7.0, high: 7.0 });
    }

    #[test]
    fn whole_numbers_have_a_mean_between_them() {
        let rounds = [0.0, 5.0, 6.0, 6.0, 6.0, 5.0, 90.0, 5.0];
        assert_eq!(Figure::of_whole_numbers(&rounds).median, 5.5);
    }
}
