//! Ctrl-C, and the end of a process whose parent is gone.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use candle::Tensor;
use mesa_models::{Classifier, ImagePool, Normalization, Recipe, TargetGradient};

use crate::output::{Usage, complain, quoted};

static STOP: AtomicBool = AtomicBool::new(false);

/// When Ctrl-C came first.
static ASKED: OnceLock<Instant> = OnceLock::new();

/// For so long further signals are the same request: `timeout` and shells send theirs to a process and to its
/// group.
const SAME_REQUEST: Duration = Duration::from_millis(500);

/// What a command returns that was stopped by Ctrl-C.
#[derive(Debug)]
pub(crate) struct Interrupted {
    /// What to do to go on.
    pub(crate) go_on: String,
}

impl std::fmt::Display for Interrupted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "stopped; {}", self.go_on)
    }
}

impl std::error::Error for Interrupted {}

/// The exit code of a program stopped by Ctrl-C.
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

/// Turns the first Ctrl-C into a request to stop; a later one ends at once.
pub(crate) fn watch() {
    let installed = ctrlc::set_handler(|| {
        // A time limit may have asked for the stop already: then this is still the first Ctrl-C.
        if let Some(first) = ASKED.get() {
            if first.elapsed() >= SAME_REQUEST {
                std::process::exit(EXIT_INTERRUPTED.into());
            }
            return;
        }
        ASKED.get_or_init(Instant::now);
        STOP.store(true, Ordering::SeqCst);
        tracing::info!("stopping after this batch; press Ctrl-C again to stop at once");
    });
    if let Err(error) = installed {
        // Logging starts later, where each command says.
        complain(&format!("Ctrl-C will end this at once: {error}"));
    }
}

/// Asks for a stop once so much time has passed, if there is a limit; returns when that will be.
pub(crate) fn deadline_after(limit: Option<Duration>) -> Option<Instant> {
    let limit = limit?;
    std::thread::spawn(move || {
        std::thread::sleep(limit);
        tracing::info!("the time limit is reached: stopping after this batch");
        STOP.store(true, Ordering::SeqCst);
    });
    Some(Instant::now() + limit)
}

/// Whether a stop was asked for.
pub(crate) fn requested() -> bool {
    STOP.load(Ordering::SeqCst)
}

/// An [`Interrupted`] error if a stop was asked for.
pub(crate) fn check() -> anyhow::Result<()> {
    if requested() {
        return Err(Interrupted {
            go_on: how_to_go_on(),
        }
        .into());
    }
    Ok(())
}

/// The words for [`Interrupted::go_on`].
pub(crate) fn how_to_go_on() -> String {
    format!("its work is saved: {}", same_command())
}

/// The same for what is short and saves nothing.
pub(crate) fn how_to_start_anew() -> String {
    format!("this part starts anew: {}", same_command())
}

fn same_command() -> String {
    let command: Vec<String> = std::env::args_os()
        .map(|word| quoted(&word.to_string_lossy()))
        .collect();
    format!("go on with the same command, `{}`", command.join(" "))
}

/// A classifier that answers no more once a stop was asked for.
#[derive(Debug)]
struct Stoppable<'a>(&'a dyn Classifier);

/// Why a [`Stoppable`] does not answer.
#[derive(Debug)]
struct Stopped;

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a stop was asked for")
    }
}

impl std::error::Error for Stopped {}

/// What `measure` finds of a classifier; an [`Interrupted`] error, saying `go_on`, if a stop is
/// asked for between two of its batches.
pub(crate) fn stoppable<T>(
    classifier: &dyn Classifier,
    go_on: impl FnOnce() -> String,
    measure: impl FnOnce(&dyn Classifier) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    measure(&Stoppable(classifier)).map_err(|error| {
        if error.chain().any(<dyn std::error::Error>::is::<Stopped>) {
            return Interrupted { go_on: go_on() }.into();
        }
        error
    })
}

impl Stoppable<'_> {
    fn check() -> mesa_models::Result<()> {
        if requested() {
            return Err(mesa_models::Error::Source(Box::new(Stopped)));
        }
        Ok(())
    }
}

impl Classifier for Stoppable<'_> {
    fn num_classes(&self) -> usize {
        self.0.num_classes()
    }

    fn normalization(&self) -> Normalization {
        self.0.normalization()
    }

    fn scores(&self, pool: &ImagePool, recipe: &Recipe) -> mesa_models::Result<Vec<f32>> {
        Self::check()?;
        self.0.scores(pool, recipe)
    }

    fn trigger_gradient(
        &self,
        pool: &ImagePool,
        recipe: &Recipe,
        target_class: u32,
        wanted: TargetGradient,
    ) -> mesa_models::Result<(Vec<f32>, Tensor)> {
        Self::check()?;
        self.0.trigger_gradient(pool, recipe, target_class, wanted)
    }
}

/// Names the process that started this one, to end with it.
const PARENT: &str = "MESA_PARENT_PID";

/// Where the environment names the parent, ends this process within half a second of the parent's
/// end, so that no worker outlives a sweep that was killed.
pub(crate) fn end_with_parent() -> anyhow::Result<()> {
    let Some(text) = std::env::var_os(PARENT).filter(|value| !value.is_empty()) else {
        return Ok(());
    };
    let Some(parent) = text.to_str().and_then(|text| text.parse().ok()) else {
        let reason = format!("{PARENT}: `{}` is no process's number", text.display());
        return Err(Usage(reason).into());
    };
    end_with(parent);
    Ok(())
}

#[cfg(unix)]
fn end_with(parent: u32) {
    let watch = move || {
        while std::os::unix::process::parent_id() == parent {
            std::thread::sleep(Duration::from_millis(250));
        }
        std::process::exit(1);
    };
    std::thread::spawn(watch);
}

#[cfg(not(unix))]
fn end_with(_: u32) {}
