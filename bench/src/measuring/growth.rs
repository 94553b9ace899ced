//! Memory and open files of a process, and whether they grow.

use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::sleep;

const EVERY: Duration = Duration::from_secs(5);

/// One reading of memory.
struct Sample {
    hours: f64,
    mib: f64,
}

/// Looks at a process until it is asked.
pub struct Growth {
    pid: u32,
    files_before: usize,
    looking: JoinHandle<()>,
    samples: Arc<Mutex<Vec<Sample>>>,
}

impl Growth {
    pub fn of(pid: u32) -> Self {
        let samples = Arc::<Mutex<Vec<Sample>>>::default();
        let (taken, start) = (samples.clone(), Instant::now());
        let looking = tokio::spawn(async move {
            loop {
                let sample = Sample { hours: start.elapsed().as_secs_f64() / 3600.0, mib: rss_mib(pid) };
                if let Ok(mut taken) = taken.lock() {
                    taken.push(sample);
                }
                sleep(EVERY).await;
            }
        });
        Self { pid, files_before: files(pid), looking, samples }
    }

    /// Stops, and prints the peak and the slope, the latter without the first third of the time.
    pub fn print(self) {
        self.looking.abort();
        let samples = self.samples.lock().map(|mut taken| std::mem::take(&mut *taken)).unwrap_or_default();
        let peak = samples.iter().map(|sample| sample.mib).fold(0.0, f64::max);
        let warm = samples.get(samples.len() / 3..).unwrap_or_default();
        println!("  memory at most                               {peak:.1} MiB");
        println!("  growth after the first third of the time     {:+.2} MiB an hour", slope(warm));
        println!("  open files before, now                       {} {}", self.files_before, files(self.pid));
    }
}

/// Resident memory of a process, in MiB.
pub fn rss_mib(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

fn files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Of the line that lies nearest to the samples.
#[expect(clippy::as_conversions, clippy::cast_precision_loss, reason = "figures for people to read")]
fn slope(samples: &[Sample]) -> f64 {
    let count = samples.len().max(1) as f64;
    let middle = |of: fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / count;
    let (hours, mib) = (middle(|sample| sample.hours), middle(|sample| sample.mib));
    let along: f64 = samples.iter().map(|sample| (sample.hours - hours) * (sample.mib - mib)).sum();
    let across: f64 = samples.iter().map(|sample| (sample.hours - hours).powi(2)).sum();
    if across > 0.0 { along / across } else { 0.0 }
}
