//! What predictions are worth: baselines to compare with, and replays of a cache that acts on them.

mod baselines;
mod grid;
mod invalidation;
mod residency;
mod threshold;

pub use baselines::{Baseline, Baselines};
pub use grid::Grid;
pub use invalidation::{Refreshed, refresh};
pub use residency::{RESIDENCY, Residency, reside};
pub use threshold::{Point, curve, removed_at};
