//! Numbers as people read them.

use std::fmt::Write as _;

use mesa_record::{AtOnce, Summary};

/// A fraction as percent with one decimal, the sign left to the heading.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.1}", fraction * 100.0)
}

/// The same where there may be none.
pub(crate) fn percent_or_blank(fraction: Option<f64>) -> String {
    fraction.map(percent).unwrap_or_default()
}

/// A time in the unit that suits it.
pub(crate) fn seconds(seconds: f64) -> String {
    if seconds < 99.5 {
        format!("{seconds:.0} s")
    } else if seconds < 99.5 * 60.0 {
        format!("{:.1} min", seconds / 60.0)
    } else if seconds < 48.0 * 3600.0 {
        format!("{:.1} h", seconds / 3600.0)
    } else {
        format!("{:.1} days", seconds / 86_400.0)
    }
}

/// What a run's time by the clock was put together from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sessions {
    /// Records, one of each session.
    pub(crate) count: usize,
    /// Whether the clean network's training is in the time of none: a clock begins after it, but the sum of a
    /// run's steps has it.
    pub(crate) without_clean: bool,
}

impl Sessions {
    /// Of a run that one record tells of.
    pub(crate) fn one(run: &Summary) -> Self {
        Self {
            count: 1,
            without_clean: run.at_once.is_some(),
        }
    }

    /// What a time by the clock leaves out and is the sum of, to stand after it; nothing where that is the time
    /// of one whole session.
    pub(crate) fn words(self) -> String {
        let mut text = String::new();
        if self.count > 1 {
            let _ = write!(text, " in {} sessions", self.count);
        }
        if self.without_clean {
            text.push_str(", training of clean networks aside");
        }
        text
    }
}

/// How long a run took: by the clock, where several networks were worked on at once.
pub(crate) fn time_words(run: &Summary, sessions: Sessions) -> String {
    match run.at_once {
        None => seconds(run.wall_s),
        Some(AtOnce { workers, elapsed_s }) => {
            format!(
                "{} by the clock{}, up to {workers} networks at once",
                seconds(elapsed_s),
                sessions.words()
            )
        }
    }
}

/// The size of files in the unit that suits it.
pub(crate) fn bytes(count: f64) -> String {
    if count < 1e9 {
        format!("{:.0} MB", count / 1e6)
    } else {
        format!("{:.1} GB", count / 1e9)
    }
}

/// How many of something there are, in words.
pub(crate) fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("one {what}"),
        count => format!("{count} {what}s"),
    }
}

/// The data set, in words nobody can mistake.
pub(crate) fn data_words(data: &str) -> &str {
    match data {
        "cifar10" => "CIFAR-10",
        "cifar100" => "CIFAR-100",
        "synthetic" => "SYNTHETIC data (ten built-in classes, not CIFAR-10)",
        other => other,
    }
}

/// Where a run was made: device, kernels, threads, processor.
pub(crate) fn hardware(summary: &Summary) -> String {
    hardware_words(
        &summary.device,
        &summary.kernel_path,
        summary.threads,
        &summary.processor,
    )
}

/// Device, kernels, threads, processor, as far as they are known.
pub(crate) fn hardware_words(
    device: &str,
    kernel_path: &str,
    threads: usize,
    processor: &str,
) -> String {
    let mut parts = vec![device.to_owned()];
    if !kernel_path.is_empty() {
        parts.push(format!("{kernel_path} kernels"));
    }
    if threads > 0 {
        let plural = if threads == 1 { "" } else { "s" };
        parts.push(format!("{threads} thread{plural}"));
    }
    if !processor.is_empty() {
        parts.push(processor.to_owned());
    }
    parts.join(", ")
}

/// Peak memory, or that nobody measured it.
pub(crate) fn memory(peak_rss_mb: Option<f64>) -> String {
    peak_rss_mb.map_or_else(
        || "not measured".to_owned(),
        |peak| format!("{peak:.0} MiB"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_suit_their_size() {
        assert_eq!(seconds(4.4), "4 s");
        assert_eq!(seconds(200.0), "3.3 min");
        assert_eq!(seconds(9000.0), "2.5 h");
        assert_eq!(seconds(864_000.0), "10.0 days");
        assert_eq!(
            (bytes(4.5e7), bytes(4.6e9)),
            ("45 MB".into(), "4.6 GB".into())
        );
        assert_eq!(percent(0.034), "3.4");
    }
}
