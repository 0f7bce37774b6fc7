//! What the workers of a run share: the networks that nobody works on yet, and turns at training.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
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
    /// When to be done, and the longest that a network took so far.
    deadline: Option<(Instant, Mutex<Duration>)>,
    out_of_time: AtomicBool,
}

impl<'a> Queue<'a> {
    /// `deadline` is when all that was given out has to be done.
    pub(crate) fn new(left: &'a [(usize, &'a Open)], deadline: Option<Instant>) -> Self {
        Self {
            left,
            next: AtomicUsize::new(0),
            deadline: deadline.map(|deadline| (deadline, Mutex::default())),
            out_of_time: AtomicBool::new(false),
        }
    }

    /// The next network, its number first; none if there is none or no time for one.
    pub(crate) fn next(&self) -> Option<(usize, &'a Open)> {
        self.left.get(self.next.load(Ordering::Relaxed))?;
        if let Some((deadline, longest)) = &self.deadline
            && Instant::now() + *locked(longest) > *deadline
        {
            self.out_of_time.store(true, Ordering::Relaxed);
            return None;
        }
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        self.left.get(at).copied()
    }

    /// Notes how long a network took.
    pub(crate) fn took(&self, time: Duration) {
        if let Some((_, longest)) = &self.deadline {
            let mut longest = locked(longest);
            *longest = time.max(*longest);
        }
    }

    /// Gives nothing out any more.
    pub(crate) fn close(&self) {
        self.next.store(self.left.len(), Ordering::Relaxed);
    }

    pub(crate) fn has_run_out_of_time(&self) -> bool {
        self.out_of_time.load(Ordering::Relaxed)
    }
}

/// Turns at something that only so many may do at once. Clones are the same turns.
///
/// Two trainings keep a GPU busy; more would all be done late, and then all be on the CPU at once,
/// with the GPU idle.
#[derive(Clone, Debug)]
pub(crate) struct Turns(Arc<(Mutex<usize>, Condvar)>);

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Turns);

impl Turns {
    /// At most `most` at once.
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new((Mutex::new(most), Condvar::new())))
    }

    /// Waits for a turn.
    pub(crate) fn take(&self) -> Turn<'_> {
        let (free, freed) = &*self.0;
        let waited = freed.wait_while(locked(free), |free| *free == 0);
        *waited.unwrap_or_else(PoisonError::into_inner) -= 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let (free, freed) = &*self.0.0;
        *locked(free) += 1;
        freed.notify_one();
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
        let numbers: Vec<usize> = std::iter::from_fn(|| queue.next())
            .map(|(n, _)| n)
            .collect();
        assert_eq!(numbers, [1, 2, 3]);
        let queue = Queue::new(&left, None);
        assert!(queue.next().is_some());
        queue.close();
        assert!(queue.next().is_none() && !queue.has_run_out_of_time());
    }

    #[test]
    fn nothing_is_begun_that_would_not_be_done_in_time() {
        let chains = chains(3);
        let left: Vec<(usize, &Open)> = (1..).zip(&chains).collect();
        let queue = Queue::new(&left, Some(Instant::now() + Duration::from_mins(10)));
        // How long one takes is not known yet.
        assert!(queue.next().is_some());
        queue.took(Duration::from_mins(5));
        queue.took(Duration::from_secs(10));
        assert!(queue.next().is_some());
        queue.took(Duration::from_secs(700));
        assert!(queue.next().is_none() && queue.has_run_out_of_time());
    }

    #[test]
    fn never_more_have_a_turn_than_may() {
        let (turns, at_once) = (Turns::new(2), AtomicUsize::new(0));
        let most = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _turn = turns.take();
                    most.fetch_max(at_once.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                    at_once.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        assert!((1..=2).contains(&most.into_inner()));
    }
}
