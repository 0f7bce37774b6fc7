//! What happens is told once and goes two ways: plain lines to standard error,
//! with times to the log file of a run.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::progress;

/// Starts telling: to standard error, and to `log` if there is one.
/// `MESA_LOG` (`debug`, `mesa_models=trace`, …) shows more, `--quiet` less.
pub(crate) fn start(log: Option<&Path>) -> Result<()> {
    let filter = |otherwise: &str| {
        EnvFilter::try_from_env("MESA_LOG").unwrap_or_else(|_| EnvFilter::new(otherwise))
    };
    let told = if progress::is_quiet() { "warn" } else { "info" };
    let shown = tracing_subscriber::fmt::layer()
        .event_format(Plain)
        .with_writer(BesideBars)
        .with_filter(filter(told));
    let kept = match log {
        Some(path) => {
            if let Some(folder) = path.parent() {
                fs_err::create_dir_all(folder)?;
            }
            let file = fs_err::OpenOptions::new()
                .create(true)
                .append(true)
                .open(path)?;
            let (file, _) = file.into_parts();
            let layer = tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(std::sync::Mutex::new(file))
                .with_filter(filter("info"));
            Some(layer)
        }
        None => None,
    };
    // A second start within one process keeps the first one's way.
    let _ = tracing_subscriber::registry()
        .with(shown)
        .with(kept)
        .try_init();
    Ok(())
}

/// Lines for people: the message alone, with its level only if it matters.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match *event.metadata().level() {
            Level::ERROR => writer.write_str("error: ")?,
            Level::WARN => writer.write_str("warning: ")?,
            _ => {}
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// Writes above the progress bars, not through them.
struct BesideBars;

impl MakeWriter<'_> for BesideBars {
    type Writer = Line;

    fn make_writer(&self) -> Line {
        Line(Vec::new())
    }
}

struct Line(Vec<u8>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        progress::above_bars(|| {
            // Nothing sensible is left to do if standard error is closed.
            let _ = io::stderr().write_all(&self.0);
        });
    }
}
