//! Progress of a long step: a bar on a terminal, a line now and then elsewhere.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Whether nothing but warnings and errors is to be told.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Tells nothing but warnings and errors from now on.
pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// Whether nothing but warnings and errors is told.
pub(crate) fn is_quiet() -> bool {
    QUIET.load(Ordering::Relaxed)
}

/// Lines of text above all bars, where there is a terminal that wants them.
pub(crate) fn screen() -> Option<ProgressBar> {
    shows_bars().then(|| {
        let style = ProgressStyle::with_template("{msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        BARS.insert(0, ProgressBar::new_spinner().with_style(style))
    })
}

/// Removes a bar or a screen.
pub(crate) fn close(bar: &ProgressBar) {
    bar.finish_and_clear();
    BARS.remove(bar);
}

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Runs `write` while no bar is drawn.
pub(crate) fn above_bars<R>(write: impl FnOnce() -> R) -> R {
    BARS.suspend(write)
}

/// Seconds for people: `48 s`, `12 min`, `3.1 h`, `5.2 days`.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 99.5 => format!("{s:.0} s"),
        s if s < 5_970.0 => format!("{:.0} min", s / 60.0),
        s if s < 48.0 * 3_600.0 => format!("{:.1} h", s / 3_600.0),
        s => format!("{:.1} days", s / 86_400.0),
    }
}

/// Bytes for people: `3.2 MB`.
pub(crate) fn bytes(count: f64) -> String {
    match count {
        b if b < 1e6 => format!("{:.0} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} GB", b / 1e9),
    }
}

/// The progress of one step, counted in batches.
pub(crate) struct Progress {
    label: String,
    bar: Option<ProgressBar>,
    first: usize,
    total: usize,
    started: Instant,
    last_line: Instant,
}

impl Progress {
    /// The progress of a step of `total` batches of which `done` are done.
    pub(crate) fn new(label: &str, done: usize, total: usize) -> Self {
        let bar = shows_bars().then(|| {
            let template = "{prefix:28!} {bar:24} {percent:>3} % {msg} {eta:>4} left";
            let style = ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = BARS.add(ProgressBar::new(total as u64).with_style(style));
            bar.set_prefix(label.to_owned());
            bar.set_position(done as u64);
            bar.reset_eta();
            bar
        });
        let now = Instant::now();
        Self {
            label: label.to_owned(),
            bar,
            first: done,
            total,
            started: now,
            last_line: now,
        }
    }

    /// Tells that `done` batches are done; `message` is asked for only if shown.
    pub(crate) fn update(&mut self, done: usize, message: impl FnOnce() -> String) {
        if let Some(bar) = &self.bar {
            bar.set_position(done as u64);
            bar.set_message(message());
        } else if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let percent = 100.0 * done as f64 / self.total.max(1) as f64;
            let left = self.seconds_left(done).map(duration).unwrap_or_default();
            tracing::info!("{}: {percent:.0} %, {}, {left} left", self.label, message());
        }
    }

    fn seconds_left(&self, done: usize) -> Option<f64> {
        let here = done.checked_sub(self.first).filter(|here| *here > 0)?;
        let each = self.started.elapsed().as_secs_f64() / here as f64;
        Some(each * self.total.saturating_sub(done) as f64)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            close(bar);
        }
    }
}

fn shows_bars() -> bool {
    use std::io::IsTerminal;
    std::io::stderr().is_terminal() && !is_quiet()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_durations_and_sizes_for_people() {
        assert_eq!(duration(47.6), "48 s");
        assert_eq!(duration(99.6), "2 min");
        assert_eq!(duration(7_200.0), "2.0 h");
        assert_eq!(bytes(2_800_000.0), "2.8 MB");
    }
}
