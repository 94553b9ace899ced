//! Moments of the last window of time, for limits that hold wherever a window begins: unlike in a bucket that
//! is filled once a minute, no minute ever holds more than the limit.

use std::collections::VecDeque;
use std::ops::Add;
use std::time::Duration;

/// What happened within a window, oldest first. `T` is a moment of a clock that never goes back: an
/// `Instant`, or a `Duration` since some fixed moment.
#[derive(Clone, Debug)]
pub struct SlidingWindow<T> {
    moments: VecDeque<T>,
}

impl<T> Default for SlidingWindow<T> {
    fn default() -> Self {
        Self { moments: VecDeque::new() }
    }
}

impl<T: Copy + Ord + Add<Duration, Output = T>> SlidingWindow<T> {
    /// Counts what happened in the window of length `window` that ends at `now`; forgets what came before it.
    pub fn count(&mut self, now: T, window: Duration) -> usize {
        while self.moments.front().is_some_and(|at| *at + window <= now) {
            self.moments.pop_front();
        }
        self.moments.len()
    }

    /// Adds what happened at `at`, which is not before what was added last.
    pub fn push(&mut self, at: T) {
        self.moments.push_back(at);
    }

    /// When the `index`-th oldest, from 0, leaves the window; `None` if there are not that many.
    #[must_use]
    pub fn leaves_at(&self, index: usize, window: Duration) -> Option<T> {
        self.moments.get(index).map(|at| *at + window)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_moment_leaves_when_the_window_has_passed_since() {
        let mut window = SlidingWindow::default();
        window.push(s(0));
        window.push(s(4));
        assert_eq!(window.count(s(9), WINDOW), 2);
        assert_eq!([0, 1, 2].map(|index| window.leaves_at(index, WINDOW)), [Some(s(10)), Some(s(14)), None]);
        assert_eq!(window.count(s(10), WINDOW), 1);
        assert_eq!(window.count(s(14), WINDOW), 0);
    }

    #[test]
    fn a_shorter_window_holds_less_of_the_same_moments() {
        let mut window = SlidingWindow::default();
        window.push(s(0));
        window.push(s(8));
        assert_eq!(window.count(s(9), s(5)), 1);
    }
}
