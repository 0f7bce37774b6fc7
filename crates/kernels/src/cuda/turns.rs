//! One thread at a time asks something of a stream: what a thread records there must not be mixed
//! with what another one starts.

use std::marker::PhantomData;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

/// A lock that its owner may take again, as recording does: it holds the turn around work that
/// takes it for each launch.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// Whose turn it is, and how many times it was taken.
    owner: Mutex<Option<(ThreadId, usize)>>,
    over: Condvar,
}

/// A turn, over when it is dropped, on the thread that took it.
#[derive(Debug)]
pub(crate) struct Turn<'a>(&'a Turns, PhantomData<*const ()>);

impl Turns {
    /// Waits until it is nobody else's turn.
    pub(crate) fn take(&self) -> Turn<'_> {
        let own = thread::current().id();
        let mut owner = self.owner();
        while owner.is_some_and(|(other, _)| other != own) {
            let waited = self.over.wait(owner);
            owner = waited.unwrap_or_else(PoisonError::into_inner);
        }
        let taken = owner.map_or(0, |(_, taken)| taken);
        *owner = Some((own, taken + 1));
        Turn(self, PhantomData)
    }

    fn owner(&self) -> MutexGuard<'_, Option<(ThreadId, usize)>> {
        self.owner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut owner = self.0.owner();
        *owner = owner.and_then(|(own, taken)| (taken > 1).then_some((own, taken - 1)));
        if owner.is_none() {
            self.0.over.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_turn_within_a_turn_does_not_end_it() {
        let turns = Turns::default();
        let outer = turns.take();
        drop(turns.take());
        assert!(turns.owner().is_some_and(|(_, taken)| taken == 1));
        drop(outer);
        assert!(turns.owner().is_none());
    }

    #[test]
    fn threads_wait_for_each_other() {
        let (turns, inside) = (Turns::default(), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let _turn = turns.take();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        thread::yield_now();
                        drop(turns.take());
                        assert_eq!(inside.fetch_sub(1, Ordering::SeqCst), 1);
                    }
                });
            }
        });
    }
}
