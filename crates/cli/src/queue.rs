//! What the workers of a run share: the networks that nobody works on yet.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::pipeline::Open;

/// A mutex's content, also where a thread that held it has panicked.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Networks that nobody works on yet.
pub(crate) struct Queue<'a> {
    left: &'a [(usize, &'a Open)],
    next: AtomicUsize,
    /// When to be done.
    deadline: Option<Instant>,
    out_of_time: AtomicBool,
}

impl<'a> Queue<'a> {
    /// `deadline` is when all that was given out has to be done.
    pub(crate) fn new(left: &'a [(usize, &'a Open)], deadline: Option<Instant>) -> Self {
        Self {
            left,
            next: AtomicUsize::new(0),
            deadline,
            out_of_time: AtomicBool::new(false),
        }
    }

    /// The next network, its number first; none if there is none, or no time for one that takes as long as
    /// `expected`.
    pub(crate) fn next(&self, expected: Duration) -> Option<(usize, &'a Open)> {
        let late = |deadline| Instant::now() + expected > deadline;
        self.left.get(self.next.load(Ordering::Relaxed))?;
        if self.deadline.is_some_and(late) {
            self.out_of_time.store(true, Ordering::Relaxed);
            return None;
        }
        self.take()
    }

    fn take(&self) -> Option<(usize, &'a Open)> {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        self.left.get(at).copied()
    }

    /// Gives nothing out any more.
    pub(crate) fn close(&self) {
        self.next.store(self.left.len(), Ordering::Relaxed);
    }

    pub(crate) fn has_run_out_of_time(&self) -> bool {
        self.out_of_time.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use mesa_datasets::TriggerId;

    use super::*;
    use crate::pipeline::Chain;

    fn chains(count: u16) -> Vec<Open> {
        let chain = |pattern| Chain {
            trigger: TriggerId::Pattern(pattern),
            seed: 0,
        };
        (0..count)
            .map(|pattern| (chain(pattern), Vec::new()))
            .collect()
    }

    #[test]
    fn every_network_is_given_out_once() {
        let chains = chains(3);
        let left: Vec<(usize, &Open)> = (1..).zip(&chains).collect();
        let queue = Queue::new(&left, None);
        let numbers: Vec<usize> = std::iter::from_fn(|| queue.next(Duration::ZERO))
            .map(|(n, _)| n)
            .collect();
        assert_eq!(numbers, [1, 2, 3]);
        let queue = Queue::new(&left, None);
        assert!(queue.next(Duration::ZERO).is_some());
        queue.close();
        assert!(queue.next(Duration::ZERO).is_none() && !queue.has_run_out_of_time());
    }

    #[test]
    fn nothing_is_begun_that_would_not_be_done_in_time() {
        let chains = chains(4);
        let left: Vec<(usize, &Open)> = (1..).zip(&chains).collect();
        let deadline = Instant::now() + Duration::from_mins(10);
        let queue = Queue::new(&left, Some(deadline));
        // How long one takes is not known yet.
        assert!(queue.next(Duration::ZERO).is_some());
        assert!(queue.next(Duration::from_mins(8)).is_some());
        assert!(queue.next(Duration::from_mins(12)).is_none() && queue.has_run_out_of_time());
        // A faster worker still takes one.
        assert!(queue.next(Duration::from_mins(5)).is_some());
        // Where nothing is left, time is not what is short.
        let queue = Queue::new(&left[..0], Some(deadline));
        assert!(queue.next(Duration::from_mins(12)).is_none() && !queue.has_run_out_of_time());
    }
}
