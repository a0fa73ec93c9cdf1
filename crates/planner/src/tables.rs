//! Adaptive context tables: the share of positives seen so far in each cell of a small, quantised context, learned
//! over all functions and edges together. They are the pooled prior of the cold start, and they find interactions
//! that a weighted sum of logits cannot express.

use borsh::{BorshDeserialize, BorshSerialize};

use crate::numeric::shrunk;

/// Outcomes that the base rate counts for in every cell.
const PRIOR: f32 = 30.0;

#[derive(Clone, Copy, Debug, BorshDeserialize, BorshSerialize)]
struct Cell {
    p: f32,
    n: f32,
}

/// One table, indexed by a context number below its size.
#[derive(Clone, Debug, BorshDeserialize, BorshSerialize)]
pub(crate) struct Table {
    cells: Vec<Cell>,
    /// Evidence is capped here, which makes old evidence fade: one step moves `p` by at least 1 / `limit`.
    limit: f32,
}

impl Table {
    pub(crate) fn new(size: usize, limit: f32) -> Self {
        Table { cells: vec![Cell { p: 0.0, n: 0.0 }; size], limit }
    }

    /// The cell's share of positives, shrunk towards `base` while there is little evidence.
    #[inline]
    pub(crate) fn predict(&self, cell: usize, base: f32) -> f32 {
        self.cells.get(cell).map_or(base, |c| shrunk(c.p * c.n, c.n, base, PRIOR))
    }

    /// Number of cells.
    pub(crate) fn size(&self) -> usize {
        self.cells.len()
    }

    /// Adds one outcome.
    #[inline]
    pub(crate) fn learn(&mut self, cell: usize, positive: bool) {
        if let Some(c) = self.cells.get_mut(cell) {
            c.n = (c.n + 1.0).min(self.limit);
            c.p += (f32::from(u8::from(positive)) - c.p) / c.n;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moves_from_the_base_to_what_is_seen() {
        let mut t = Table::new(4, 2000.0);
        assert_eq!(t.predict(2, 0.1), 0.1);
        (0..1000).for_each(|i| t.learn(2, i % 2 == 0));
        assert!((t.predict(2, 0.1) - 0.5).abs() < 0.05);
        assert_eq!(t.predict(3, 0.1), 0.1);
    }

    #[test]
    fn follows_a_change() {
        let mut t = Table::new(1, 500.0);
        (0..10_000).for_each(|_| t.learn(0, false));
        (0..3000).for_each(|_| t.learn(0, true));
        assert!(t.predict(0, 0.5) > 0.9);
    }

    #[test]
    fn unknown_cells_are_harmless() {
        let mut t = Table::new(1, 100.0);
        t.learn(77, true);
        assert_eq!(t.predict(77, 0.25), 0.25);
    }
}
