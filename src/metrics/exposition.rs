//! The two text formats of `/metrics`: OpenMetrics 1.0, and Prometheus' own 0.0.4 for those who do not ask
//! for it. Both hold the same samples under the same names.

use std::fmt::Write;

/// Format of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus' text format 0.0.4.
    Prometheus,
}

impl TextFormat {
    /// Content-Type of the format.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// The same page in format 0.0.4: it knows no `# EOF`, and describes a counter under the name of its samples.
pub(super) fn to_prometheus(open_metrics: &str) -> String {
    let mut page = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines().filter(|line| *line != "# EOF") {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
            continue;
        }
        let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|typed| typed.split_once(' ')) else {
            page.push_str(line);
            page.push('\n');
            continue;
        };
        let total = if kind == "counter" { "_total" } else { "" };
        // Writing to a String cannot fail.
        if let Some((_, text)) = help.take() {
            let _ = writeln!(page, "# HELP {name}{total} {text}");
        }
        let _ = writeln!(page, "# TYPE {name}{total} {kind}");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::to_prometheus;

    #[test]
    fn a_counter_is_described_under_the_name_of_its_samples() {
        let open_metrics = "# HELP a_seconds Age.\n# TYPE a_seconds gauge\na_seconds 1.5\n\
                            # HELP b Things.\n# TYPE b counter\nb_total{x=\"y\"} 2\n# EOF\n";
        let prometheus = "# HELP a_seconds Age.\n# TYPE a_seconds gauge\na_seconds 1.5\n\
                          # HELP b_total Things.\n# TYPE b_total counter\nb_total{x=\"y\"} 2\n";
        assert_eq!(to_prometheus(open_metrics), prometheus);
    }
}
