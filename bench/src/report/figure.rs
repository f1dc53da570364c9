//! A measured figure, with the spread between its rounds.

use serde::{Deserialize, Serialize};

/// The median, the 5th and the 95th percentile of some rounds. With fewer than twenty rounds, the
/// two percentiles are the lowest and the highest round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// The median.
    pub median: f64,
    /// The 5th percentile.
    pub low: f64,
    /// The 95th percentile.
    pub high: f64,
}

impl Figure {
    /// Computes the figure of these rounds. Returns `None` if there are no rounds.
    pub fn of(rounds: &[f64]) -> Option<Figure> {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        let at = |share: f64| sorted[(last as f64 * share).round() as usize];
        Some(Figure { median: at(0.5), low: at(0.05), high: at(0.95) })
    }

    /// Like [`Figure::of`], but with the mean of the middle half instead of the median. Use this
    /// for whole numbers that differ by only a few units. The median of such numbers is itself a
    /// whole number, which is too coarse.
    pub fn of_whole_numbers(rounds: &[f64]) -> Option<Figure> {
        let figure = Figure::of(rounds)?;
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let quarter = sorted.len() / 4;
        let middle = &sorted[quarter..sorted.len() - quarter];
        let mean = middle.iter().sum::<f64>() / middle.len() as f64;
        Some(Figure { median: mean, ..figure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_between_its_percentiles() {
        let figure = |median, low, high| Some(Figure { median, low, high });
        let rounds: Vec<f64> = (0..=100).rev().map(f64::from).collect();
        assert_eq!(Figure::of(&rounds), figure(50.0, 5.0, 95.0));
        assert_eq!(Figure::of(&[3.0, 1.0, 2.0]), figure(2.0, 1.0, 3.0));
        assert_eq!(Figure::of(&[7.0]), figure(7.0, 7.0, 7.0));
    }

    #[test]
    fn no_rounds_give_no_figure() {
        assert_eq!((Figure::of(&[]), Figure::of_whole_numbers(&[])), (None, None));
    }

    #[test]
    fn whole_numbers_give_the_mean_of_the_middle_half() {
        let rounds = [0.0, 5.0, 6.0, 6.0, 6.0, 5.0, 90.0, 5.0];
        assert_eq!(Figure::of_whole_numbers(&rounds).map(|figure| figure.median), Some(5.5));
    }
}
