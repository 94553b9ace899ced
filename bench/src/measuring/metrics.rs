//! The bridge's own figures, as `/metrics` writes them.

use std::collections::HashMap;

/// Every sample by its name with labels, verbatim.
#[derive(Default)]
pub struct Metrics {
    samples: HashMap<String, f64>,
}

/// A histogram between two looks: how many samples were at most so large.
pub struct Histogram {
    /// Upper bounds in seconds, ascending, each with the samples up to it.
    buckets: Vec<(f64, f64)>,
    sum: f64,
}

impl Metrics {
    pub fn read(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self { samples: samples.collect() }
    }

    /// Sum of a counter or gauge over all its labels.
    pub fn sum(&self, name: &str) -> f64 {
        let own = |known: &str| known == name || known.strip_prefix(name).is_some_and(|l| l.starts_with('{'));
        self.samples.iter().filter(|(known, _)| own(known)).map(|(_, value)| value).sum()
    }

    /// Increase of a counter since then, by its labels; labels without an increase are left out.
    pub fn gained(&self, before: &Self, name: &str) -> Vec<(String, f64)> {
        let mut gained: Vec<_> = self
            .samples
            .iter()
            .filter_map(|(known, value)| {
                let labels = known.strip_prefix(name)?;
                let old = before.samples.get(known).copied().unwrap_or_default();
                (labels.starts_with('{') && *value > old).then(|| (labels.to_owned(), value - old))
            })
            .collect();
        gained.sort_by(|one, other| one.0.cmp(&other.0));
        gained
    }

    /// Observations of a histogram since then; `None` if the bridge does not keep it, or it saw nothing.
    pub fn histogram_since(&self, before: &Self, name: &str) -> Option<Histogram> {
        let (start, mut buckets) = (format!("{name}_bucket{{"), Vec::new());
        for (known, value) in &self.samples {
            let Some(labels) = known.strip_prefix(&start) else { continue };
            let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
            let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? };
            buckets.push((bound, value - before.samples.get(known).copied().unwrap_or_default()));
        }
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        let sum = self.sum(&format!("{name}_sum")) - before.sum(&format!("{name}_sum"));
        let histogram = Histogram { buckets, sum };
        (histogram.count() > 0.0).then_some(histogram)
    }
}

impl Histogram {
    pub fn count(&self) -> f64 {
        self.buckets.last().map_or(0.0, |(_, count)| *count)
    }

    pub fn mean(&self) -> f64 {
        self.sum / self.count().max(1.0)
    }

    /// Value below which a share of the samples lies, between the bounds of its bucket in proportion.
    pub fn at(&self, share: f64) -> f64 {
        let wanted = self.count() * share;
        let (mut bound_before, mut count_before) = (0.0, 0.0);
        for (bound, count) in &self.buckets {
            if *count >= wanted && *count > count_before {
                if bound.is_infinite() {
                    return bound_before;
                }
                return bound_before
                    + (bound - bound_before) * (wanted - count_before) / (count - count_before);
            }
            (bound_before, count_before) = (*bound, *count);
        }
        bound_before
    }

    /// In milliseconds, for people.
    pub fn describe(&self) -> String {
        format!(
            "n {:.0}  mean {:.2} ms  p50 {:.2}  p99 {:.2}",
            self.count(),
            self.mean() * 1e3,
            self.at(0.5) * 1e3,
            self.at(0.99) * 1e3
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# TYPE x histogram\nx_sum 0.5\nx_count 1\nx_bucket{le=\"1.0\"} 1\nx_bucket{le=\"2.0\"} 1\nx_bucket{le=\"+Inf\"} 1\n\
                          tried_total{outcome=\"ok\"} 2\n";
    const AFTER: &str = "x_sum 6.5\nx_count 5\nx_bucket{le=\"1.0\"} 3\nx_bucket{le=\"2.0\"} 5\nx_bucket{le=\"+Inf\"} 5\n\
                         tried_total{outcome=\"ok\"} 2\ntried_total{outcome=\"timeout\"} 3\n";

    #[test]
    fn reads_what_came_in_between() {
        let (before, after) = (Metrics::read(BEFORE), Metrics::read(AFTER));
        assert!((after.sum("tried_total") - 5.0).abs() < 1e-9);
        assert_eq!(after.gained(&before, "tried_total"), [("{outcome=\"timeout\"}".to_owned(), 3.0)]);
        let seen = after.histogram_since(&before, "x").unwrap();
        assert!((seen.count() - 4.0).abs() < 1e-9 && (seen.mean() - 1.5).abs() < 1e-9);
        assert!((seen.at(0.25) - 0.5).abs() < 1e-9 && (seen.at(0.75) - 1.5).abs() < 1e-9);
        assert!(
            after.histogram_since(&after, "x").is_none() && after.histogram_since(&before, "y").is_none()
        );
    }
}
