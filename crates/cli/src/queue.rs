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
    /// When to be done, and what tells whether a network will be.
    deadline: Option<(Instant, Mutex<Forecast>)>,
    out_of_time: AtomicBool,
}

impl<'a> Queue<'a> {
    /// `deadline` is when all that was given out has to be done; `at_once` networks train at a time.
    pub(crate) fn new(
        left: &'a [(usize, &'a Open)],
        deadline: Option<Instant>,
        at_once: usize,
    ) -> Self {
        let forecast = Mutex::new(Forecast::new(at_once));
        Self {
            left,
            next: AtomicUsize::new(0),
            deadline: deadline.map(|deadline| (deadline, forecast)),
            out_of_time: AtomicBool::new(false),
        }
    }

    /// The next network, its number first; none if there is none or no time for one.
    pub(crate) fn next(&self) -> Option<(usize, &'a Open)> {
        let Some((deadline, forecast)) = &self.deadline else {
            return self.take();
        };
        self.left.get(self.next.load(Ordering::Relaxed))?;
        // Held until the network counts as begun: whoever asks next waits for its training too.
        let mut forecast = locked(forecast);
        let now = Instant::now();
        if now + forecast.time_of_one(now) > *deadline {
            self.out_of_time.store(true, Ordering::Relaxed);
            return None;
        }
        let taken = self.take();
        if let Some((number, _)) = taken {
            forecast.active.push((number, now));
        }
        taken
    }

    fn take(&self) -> Option<(usize, &'a Open)> {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        self.left.get(at).copied()
    }

    /// Notes that nobody works on a network any more, and what it took if it is done.
    pub(crate) fn ended(&self, number: usize, took: Option<Took>) {
        if let Some((_, forecast)) = &self.deadline {
            locked(forecast).ended(number, took);
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

/// What a network took, from its begin to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Took {
    pub(crate) time: Duration,
    pub(crate) turns: TurnTimes,
}

/// How long a network would take that is begun now.
///
/// It takes the time of its own work, and waits for turns at training. The first gets little shorter
/// when others end: most of a network's time on a GPU is the host's, on threads that are its worker's
/// alone (on an H100 the fits and entropies of three at once took four fifths of those of eight). So
/// the longest work so far counts, waits left out. The second is what workers that begin together
/// suffer from, 100 s of 264 there, and a late one does not: a network trains first of all, so those
/// begun before it are served in that order, `at_once` at a time, each for as long as the longest total
/// of turns so far. A worker alone never waits, so for it the forecast is the longest so far.
#[derive(Debug)]
struct Forecast {
    at_once: usize,
    /// Networks that are worked on, in the order in which they were begun.
    active: Vec<(usize, Instant)>,
    longest_work: Duration,
    longest_turns: Duration,
}

impl Forecast {
    fn new(at_once: usize) -> Self {
        Self {
            at_once: at_once.max(1),
            active: Vec::new(),
            longest_work: Duration::ZERO,
            longest_turns: Duration::ZERO,
        }
    }

    /// The time from `now` on; nothing as long as none is done.
    fn time_of_one(&self, now: Instant) -> Duration {
        // When each of the turns is free again.
        let mut free: Vec<Option<Instant>> = vec![None; self.at_once];
        for (_, begun) in &self.active {
            if let Some(first) = free.iter_mut().min() {
                let from = first.map_or(*begun, |free| free.max(*begun));
                *first = Some(from + self.longest_turns);
            }
        }
        let first = free.into_iter().min().flatten();
        let wait = first.map_or(Duration::ZERO, |free| free.saturating_duration_since(now));
        self.longest_work + wait
    }

    fn ended(&mut self, number: usize, took: Option<Took>) {
        self.active.retain(|(active, _)| *active != number);
        if let Some(Took { time, turns }) = took {
            let work = time.saturating_sub(turns.waited);
            self.longest_work = self.longest_work.max(work);
            self.longest_turns = self.longest_turns.max(turns.held);
        }
    }
}

/// Turns at something that only so many may do at once. Clones are the same turns.
///
/// Two trainings keep a GPU busy; more would all be done late, and then all be on the CPU at once,
/// with the GPU idle.
#[derive(Clone, Debug)]
pub(crate) struct Turns {
    at_once: usize,
    free: Arc<(Mutex<usize>, Condvar)>,
    times: Arc<Mutex<TurnTimes>>,
}

/// How long turns were waited for, and had.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct TurnTimes {
    pub(crate) waited: Duration,
    pub(crate) held: Duration,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    since: Instant,
}

impl Turns {
    /// At most `at_once` at once.
    pub(crate) fn new(at_once: usize) -> Self {
        Self {
            at_once,
            free: Arc::new((Mutex::new(at_once), Condvar::new())),
            times: Arc::default(),
        }
    }

    /// The same turns, with times of their own.
    pub(crate) fn for_another_thread(&self) -> Self {
        Self {
            times: Arc::default(),
            ..self.clone()
        }
    }

    /// How many have one at most.
    pub(crate) fn at_once(&self) -> usize {
        self.at_once
    }

    /// Waits for a turn.
    pub(crate) fn take(&self) -> Turn<'_> {
        let asked = Instant::now();
        let (free, freed) = &*self.free;
        let waited = freed.wait_while(locked(free), |free| *free == 0);
        *waited.unwrap_or_else(PoisonError::into_inner) -= 1;
        let since = Instant::now();
        locked(&self.times).waited += since - asked;
        Turn { turns: self, since }
    }

    /// The times since the last call.
    pub(crate) fn take_times(&self) -> TurnTimes {
        std::mem::take(&mut *locked(&self.times))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        locked(&self.turns.times).held += self.since.elapsed();
        let (free, freed) = &*self.turns.free;
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
        let queue = Queue::new(&left, None, 1);
        let numbers: Vec<usize> = std::iter::from_fn(|| queue.next())
            .map(|(n, _)| n)
            .collect();
        assert_eq!(numbers, [1, 2, 3]);
        let queue = Queue::new(&left, None, 1);
        assert!(queue.next().is_some());
        queue.close();
        assert!(queue.next().is_none() && !queue.has_run_out_of_time());
    }

    const NO_TURNS: TurnTimes = TurnTimes {
        waited: Duration::ZERO,
        held: Duration::ZERO,
    };

    fn took(seconds: u64, waited: u64, held: u64) -> Took {
        let turns = TurnTimes {
            waited: Duration::from_secs(waited),
            held: Duration::from_secs(held),
        };
        let time = Duration::from_secs(seconds);
        Took { time, turns }
    }

    #[test]
    fn nothing_is_begun_that_would_not_be_done_in_time() {
        let chains = chains(3);
        let left: Vec<(usize, &Open)> = (1..).zip(&chains).collect();
        let deadline = Instant::now() + Duration::from_mins(10);
        let queue = Queue::new(&left, Some(deadline), 1);
        // How long one takes is not known yet.
        assert!(queue.next().is_some());
        queue.ended(1, Some(took(300, 0, 200)));
        assert!(queue.next().is_some());
        // What failed says nothing of how long one takes.
        queue.ended(2, None);
        queue.ended(0, Some(took(700, 0, 200)));
        assert!(queue.next().is_none() && queue.has_run_out_of_time());
    }

    #[test]
    fn a_worker_alone_needs_the_longest_so_far() {
        let mut forecast = Forecast::new(1);
        let now = Instant::now();
        for (number, seconds) in [(1, 300), (2, 310), (3, 290)] {
            forecast.active.push((number, now));
            forecast.ended(number, Some(took(seconds, 0, 250)));
        }
        assert_eq!(forecast.time_of_one(now), Duration::from_secs(310));
    }

    #[test]
    fn one_that_begins_late_does_not_wait_as_those_that_began_together() {
        // Eight on an H100, begun together, two training at a time.
        let mut forecast = Forecast::new(2);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let first = [165, 167, 209, 211, 230, 233, 236, 264];
        for (number, seconds) in (1..).zip(first) {
            forecast.ended(number, Some(took(seconds, seconds - 165, 35)));
        }
        let work = forecast.longest_work.as_secs();
        assert_eq!((work, forecast.longest_turns.as_secs()), (165, 35));
        // When the last of them ended, seven others had begun.
        for (number, begun) in (9..).zip([166, 167, 211, 211, 229, 233, 236]) {
            forecast.active.push((number, at(begun)));
        }
        let late = forecast.time_of_one(at(264)).as_secs();
        assert!((165..190).contains(&late), "{late}");
        // Much later all of them have trained.
        assert_eq!(forecast.time_of_one(at(400)).as_secs(), 165);
        // Together again, the last waits for the three pairs before it.
        forecast.active.clear();
        for number in 20..27 {
            forecast.active.push((number, at(500)));
        }
        assert_eq!(forecast.time_of_one(at(500)).as_secs(), 165 + 3 * 35);
    }

    #[test]
    fn each_threads_times_are_its_own() {
        let turns = Turns::new(1);
        let other = turns.for_another_thread();
        let turn = turns.take();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(other.take()));
            std::thread::sleep(Duration::from_millis(20));
            drop(turn);
        });
        let (times, others) = (turns.take_times(), other.take_times());
        assert!(times.held >= Duration::from_millis(20), "{times:?}");
        assert!(others.held < times.held && times.waited < times.held);
        assert_eq!(turns.take_times(), NO_TURNS);
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
