//! Where edges are: what happens near by says more about a new edge than what happens far away.

use borsh::{BorshDeserialize, BorshSerialize};

/// Mean radius of the Earth, km.
const EARTH: f64 = 6371.0;
/// At this distance (km) another edge counts for a third of one at the same place.
const REGION: f64 = 1000.0;
/// Another edge that counts for less is elsewhere.
const LEAST: f32 = 0.05;

/// A place on Earth, degrees.
#[derive(Clone, Copy, Debug, PartialEq, BorshDeserialize, BorshSerialize)]
pub(crate) struct Place {
    latitude: f64,
    longitude: f64,
}

impl Place {
    /// `None` for what is no place.
    pub(crate) fn new(latitude: f64, longitude: f64) -> Option<Self> {
        let real = (-90.0..=90.0).contains(&latitude) && (-180.0..=180.0).contains(&longitude);
        real.then_some(Place { latitude, longitude })
    }

    /// Kilometres along the surface.
    fn distance(self, other: Place) -> f64 {
        let (a, b) = (self.latitude.to_radians(), other.latitude.to_radians());
        let half = |x: f64| (x / 2.0).sin().powi(2);
        let across = (self.longitude - other.longitude).to_radians();
        2.0 * EARTH * (half(a - b) + a.cos() * b.cos() * half(across)).clamp(0.0, 1.0).sqrt().asin()
    }

    /// How much another place counts as the same region: 1 for the same place, 0 for one that is elsewhere.
    pub(crate) fn nearness(self, other: Place) -> f32 {
        let near = (-(self.distance(other) / REGION).powi(2)).exp() as f32;
        if near < LEAST { 0.0 } else { near }
    }
}

/// Days of all edges together that the share of a region is shrunk with.
const SHRUNK_BY: f32 = 2.0;

/// Days of other edges, and on how many of them a function ran.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Elsewhere {
    hits: f32,
    days: f32,
    near_hits: f32,
    near_days: f32,
}

impl Elsewhere {
    /// Adds what is known of an edge of such nearness.
    pub(crate) fn add(&mut self, hits: f32, days: f32, nearness: f32) {
        self.hits += hits;
        self.days += days;
        self.near_hits += nearness * hits;
        self.near_days += nearness * days;
    }

    /// The share of days: of the region, as far as it is known, and else of everywhere; `None` where nothing is known.
    pub(crate) fn share(&self) -> Option<f32> {
        let all = (self.hits + 0.05) / (self.days + 1.0);
        let share = if self.near_days > 0.0 {
            (self.near_hits + SHRUNK_BY * all) / (self.near_days + SHRUNK_BY)
        } else {
            all
        };
        (self.days > 0.0).then_some(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(latitude: f64, longitude: f64) -> Place {
        Place::new(latitude, longitude).unwrap()
    }

    #[test]
    fn distances_are_those_on_a_globe() {
        let (paris, tokyo, newark) = (place(48.86, 2.35), place(35.68, 139.69), place(40.69, -74.17));
        assert!((paris.distance(tokyo) - 9_715.0).abs() < 30.0, "{}", paris.distance(tokyo));
        assert!((paris.distance(newark) - 5_850.0).abs() < 30.0, "{}", paris.distance(newark));
        assert!(place(0.0, 179.9).distance(place(0.0, -179.9)) < 30.0, "across the date line");
        assert_eq!(Place::new(f64::NAN, 0.0), None);
        assert_eq!(Place::new(91.0, 0.0), None);
    }

    #[test]
    fn near_counts_and_far_does_not() {
        let (paris, lille) = (place(48.86, 2.35), place(50.63, 3.06));
        assert!(paris.nearness(lille) > 0.9);
        assert_eq!(paris.nearness(place(35.68, 139.69)), 0.0);
    }

    #[test]
    fn a_region_is_believed_over_the_world_as_far_as_it_is_known() {
        let mut known = Elsewhere::default();
        known.add(0.0, 40.0, 0.0);
        let world = known.share().unwrap();
        known.add(2.0, 2.0, 1.0);
        let little = known.share().unwrap();
        known.add(20.0, 20.0, 1.0);
        let much = known.share().unwrap();
        assert!(world < 0.01 && (0.4..0.7).contains(&little) && much > 0.9, "{world} {little} {much}");
        assert_eq!(Elsewhere::default().share(), None);
    }
}
