//! One owner's share of a gauge. It is taken off when the owner is dropped, so a panic leaves no false figure
//! behind.

use std::sync::atomic::AtomicI64;

use prometheus_client::metrics::gauge::Gauge;

pub struct GaugeShare {
    gauge: Gauge<i64, AtomicI64>,
    share: i64,
}

impl GaugeShare {
    /// Adds a share to the gauge.
    #[must_use]
    pub fn new(gauge: &Gauge<i64, AtomicI64>, share: usize) -> Self {
        let mut new = Self { gauge: gauge.clone(), share: 0 };
        new.set(share);
        new
    }

    #[must_use]
    pub fn get(&self) -> i64 {
        self.share
    }

    pub fn set(&mut self, share: usize) {
        let share = i64::try_from(share).unwrap_or(i64::MAX);
        self.gauge.inc_by(share - self.share);
        self.share = share;
    }
}

impl Drop for GaugeShare {
    fn drop(&mut self) {
        self.gauge.dec_by(self.share);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_counts_while_its_owner_lives() {
        let gauge = Gauge::default();
        let (one, mut other) = (GaugeShare::new(&gauge, 1), GaugeShare::new(&gauge, 5));
        assert_eq!(gauge.get(), 6);
        other.set(2);
        assert_eq!(gauge.get(), 3);
        drop(one);
        drop(other);
        assert_eq!(gauge.get(), 0);
    }
}
