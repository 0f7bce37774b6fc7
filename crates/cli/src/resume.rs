//! Training that survives being stopped: its state is saved now and then, and
//! taken up by the next start of the same command.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use mesa_models::Position;
use mesa_record::{CurvePoint, Key, peak_rss_mb, read_json, write_json};
use serde::{Deserialize, Serialize};

use crate::args::SaveEvery;
use crate::interrupt;
use crate::progress::Progress;
use crate::resumable::{Extent, Resumable};

/// Where the state of a training is kept, beside a note of whose it is.
#[derive(Clone, Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    key: Key,
}

/// The note beside a state file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Note {
    key: Key,
    wall_s: f64,
    starts: usize,
    peak_rss_mb: Option<f64>,
    #[serde(default)]
    curve: Vec<CurvePoint>,
}

/// What a step has cost, and how its training went, over every start.
#[derive(Clone, Debug)]
pub(crate) struct Effort {
    pub(crate) wall_s: f64,
    pub(crate) resumed: usize,
    pub(crate) peak_rss_mb: Option<f64>,
    pub(crate) curve: Vec<CurvePoint>,
}

/// Keeps an eye on a training: shows progress, saves, stops.
pub(crate) struct Watch {
    state: Option<StateFile>,
    save_every: SaveEvery,
    progress: Option<Progress>,
    extent: Option<Extent>,
    /// When the first batch was done and how many were done then.
    first: Option<(Instant, usize)>,
    rate: Option<f64>,
    label: String,
    started: Instant,
    /// Of earlier starts.
    before: Effort,
    last_save: Instant,
    last_epoch: usize,
    curve: Vec<CurvePoint>,
    /// Stop after this many batches, or soon after, when only measuring.
    batches_left: Option<usize>,
    /// Batches that were done when the measurement began.
    measured_from: usize,
    failure: Option<anyhow::Error>,
    stopped: bool,
}

impl StateFile {
    /// The state at `path` of the step with this key.
    pub(crate) fn new(path: impl Into<PathBuf>, key: Key) -> Self {
        Self {
            path: path.into(),
            key,
        }
    }

    /// The state file that goes with a command's output.
    pub(crate) fn beside(output: &Path, key: Key) -> Self {
        Self::new(with_ending(output, ".state"), key)
    }

    /// The state of a further part of the same command.
    pub(crate) fn part(&self, name: &str, key: Key) -> Self {
        Self::new(with_ending(&self.path, &format!(".{name}")), key)
    }

    fn note(&self) -> PathBuf {
        with_ending(&self.path, ".json")
    }

    /// Removes the state once its step is done.
    pub(crate) fn remove(&self) {
        // A state without a note counts for nothing, so the note goes first.
        let _ = fs_err::remove_file(self.note());
        let _ = fs_err::remove_file(&self.path);
    }

    /// Sets a state of other settings aside, takes one of these up again that was, and returns its note.
    fn claim(&self) -> Result<Option<Note>> {
        let note = read_json::<Note>(&self.note()).ok();
        if self.path.exists() && note.as_ref().is_none_or(|note| note.key != self.key) {
            let aside = self.aside(note.as_ref().map(|note| &note.key));
            self.move_to(&aside)?;
            let found = match note {
                Some(_) => ", where the command that it is of finds it",
                None => "; nothing says whose it is",
            };
            tracing::warn!(
                "{} is not of these settings and input files; moved to {}{found}",
                self.path.display(),
                aside.path.display()
            );
        }
        let own = self.aside(Some(&self.key));
        if !self.path.exists() && own.path.exists() {
            own.move_to(self)?;
        }
        if !self.path.exists() {
            return Ok(None);
        }
        let note = read_json::<Note>(&self.note()).ok();
        Ok(note.filter(|note| note.key == self.key))
    }

    /// Where this state is kept while another command's is in its place.
    fn aside(&self, key: Option<&Key>) -> Self {
        let key = key.map_or("old", Key::short);
        Self::new(
            with_ending(&self.path, &format!(".{key}")),
            self.key.clone(),
        )
    }

    fn move_to(&self, other: &Self) -> Result<()> {
        // A state without a note counts for nothing, so the note goes last.
        fs_err::rename(&self.path, &other.path)?;
        if self.note().exists() {
            fs_err::rename(self.note(), other.note())?;
        }
        Ok(())
    }
}

/// The file beside another whose name has more at its end.
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

impl Watch {
    /// Watches a training named `label`, whose state is kept in `state`.
    pub(crate) fn new(label: &str, state: Option<StateFile>, save_every: SaveEvery) -> Self {
        let now = Instant::now();
        Self {
            state,
            save_every,
            progress: None,
            extent: None,
            first: None,
            rate: None,
            label: label.to_owned(),
            started: now,
            before: Effort {
                wall_s: 0.0,
                resumed: 0,
                peak_rss_mb: None,
                curve: Vec::new(),
            },
            last_save: now,
            last_epoch: 0,
            curve: Vec::new(),
            batches_left: None,
            measured_from: 0,
            failure: None,
            stopped: false,
        }
    }

    /// Watches only `batches` batches of a training, to measure it.
    pub(crate) fn measuring(label: &str, batches: usize) -> Self {
        let mut watch = Self::new(label, None, SaveEvery::Epoch);
        watch.batches_left = Some(batches);
        watch
    }

    /// Loads the saved state into `training`, if there is one.
    pub(crate) fn take_up(&mut self, training: &mut impl Resumable, extent: Extent) -> Result<()> {
        if let Some(state) = &self.state
            && let Some(note) = state.claim()?
        {
            training.load(&state.path).with_context(|| {
                format!(
                    "taking up the work in {}; remove that file to start it anew",
                    state.path.display()
                )
            })?;
            let done = extent.steps_before(training.position());
            tracing::info!(
                "{}: going on after batch {done} of {}",
                self.label,
                extent.steps()
            );
            self.curve.clone_from(&note.curve);
            // The note is written before the state: it may know more epochs than the state has.
            let epochs = training.position().epoch;
            self.curve.retain(|point| point.epoch <= epochs);
            self.before = Effort {
                wall_s: note.wall_s,
                resumed: note.starts + 1,
                peak_rss_mb: note.peak_rss_mb,
                curve: note.curve,
            };
        }
        let now = Instant::now();
        (self.last_epoch, self.last_save) = (training.position().epoch, now);
        self.extent = Some(extent);
        let done = extent.steps_before(training.position());
        self.measured_from = done;
        let total = self.batches_left.map_or(extent.steps(), |left| done + left);
        self.progress = Some(Progress::new(&self.label, done, total));
        Ok(())
    }

    /// To be called when batches are done: after each, or after a few where they come together.
    pub(crate) fn observe(&mut self, training: &impl Resumable) -> ControlFlow<()> {
        let position = training.position();
        self.note_epoch(training);
        if let (Some(progress), Some(extent)) = (&mut self.progress, self.extent) {
            let done = extent.steps_before(position);
            let (since, before) = *self.first.get_or_insert((Instant::now(), done));
            if done > before {
                let images = ((done - before) * extent.batch_size) as f64;
                self.rate = Some(images / since.elapsed().as_secs_f64());
            }
            let rate = self
                .rate
                .map_or_else(String::new, |rate| format!(", {rate:.0} {}/s", extent.unit));
            progress.update(done, || format!("{}{rate}", training.describe()));
        }
        if let (Some(batches), Some(extent)) = (self.batches_left, self.extent)
            && extent.steps_before(position) >= self.measured_from + batches
            && self.rate.is_some()
        {
            return ControlFlow::Break(());
        }
        let stop = interrupt::requested();
        if (stop || self.is_due(position.epoch))
            && let Err(error) = self.save(training)
        {
            self.failure = Some(error);
            return ControlFlow::Break(());
        }
        if stop {
            self.stopped = true;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    }

    /// To be called when the training has returned: saves what is done, so
    /// that a kill during the evaluation costs no training.
    pub(crate) fn finish(&mut self, training: &impl Resumable) -> Result<()> {
        self.progress = None;
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        if self.stopped {
            let go_on = match (&self.state, self.batches_left) {
                (_, Some(_)) => "a measurement saves nothing".to_owned(),
                (Some(_), None) => interrupt::how_to_go_on(),
                (None, None) => interrupt::how_to_start_anew(),
            };
            return Err(interrupt::Interrupted { go_on }.into());
        }
        if self.batches_left.is_none() {
            return self.save(training);
        }
        // What saving a state takes belongs to the peak memory that is measured.
        let file = std::env::temp_dir().join(format!("mesa-measured-{}", std::process::id()));
        let saved = training.save(&file);
        let _ = fs_err::remove_file(&file);
        saved
    }

    /// Training images for each second, the first batch left out.
    pub(crate) fn images_per_s(&self) -> f64 {
        self.rate.unwrap_or(f64::NAN)
    }

    /// What the step has cost until now.
    pub(crate) fn effort(&self) -> Effort {
        Effort {
            wall_s: self.before.wall_s + self.started.elapsed().as_secs_f64(),
            resumed: self.before.resumed,
            peak_rss_mb: highest(self.before.peak_rss_mb, peak_rss_mb()),
            curve: self.curve.clone(),
        }
    }

    /// Removes the state: the result is safe.
    pub(crate) fn done(self) {
        if let Some(state) = &self.state {
            state.remove();
        }
    }

    /// Notes the figures of an epoch that has just ended.
    fn note_epoch(&mut self, training: &impl Resumable) {
        let Position { epoch, step } = training.position();
        if step != 0 || self.curve.last().is_some_and(|point| point.epoch >= epoch) {
            return;
        }
        let points = training
            .figures()
            .into_iter()
            .map(|(figure, value)| CurvePoint {
                epoch,
                figure: figure.to_owned(),
                value,
            });
        self.curve.extend(points);
    }

    fn is_due(&self, epoch: usize) -> bool {
        match self.save_every {
            SaveEvery::Epoch => epoch > self.last_epoch,
            SaveEvery::Seconds(seconds) => self.last_save.elapsed().as_secs_f64() >= seconds,
        }
    }

    fn save(&mut self, training: &impl Resumable) -> Result<()> {
        let Some(state) = &self.state else {
            return Ok(());
        };
        let effort = self.effort();
        let note = Note {
            key: state.key.clone(),
            wall_s: effort.wall_s,
            starts: effort.resumed,
            peak_rss_mb: effort.peak_rss_mb,
            curve: effort.curve,
        };
        if let Some(folder) = state.path.parent() {
            fs_err::create_dir_all(folder)?;
        }
        // The note first: it makes nothing of an older state of this key
        // untrue, and there is none of another key left to mistake.
        write_json(&state.note(), &note)?;
        training.save(&state.path)?;
        self.last_save = Instant::now();
        self.last_epoch = training.position().epoch;
        Ok(())
    }
}

/// The larger of two measures of which either may be missing.
pub(crate) fn highest(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.max(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    use mesa_record::Step;

    use super::*;

    const EXTENT: Extent = Extent {
        epochs: 2,
        steps_per_epoch: 5,
        batch_size: 1,
        unit: "count",
    };

    /// Counts to ten.
    struct Counter(usize);

    impl Resumable for Counter {
        fn save(&self, path: &Path) -> Result<()> {
            Ok(fs_err::write(path, self.0.to_string())?)
        }
        fn load(&mut self, path: &Path) -> Result<()> {
            self.0 = fs_err::read_to_string(path)?.parse()?;
            Ok(())
        }
        fn position(&self) -> Position {
            Position {
                epoch: self.0 / 5,
                step: self.0 % 5,
            }
        }
        fn describe(&self) -> String {
            String::new()
        }
        fn figures(&self) -> Vec<(&'static str, f64)> {
            vec![("count", self.0 as f64)]
        }
    }

    fn state(folder: &Path, kind: &str) -> StateFile {
        StateFile::new(folder.join("state"), Step::new(kind, 1, "").key())
    }

    #[test]
    fn goes_on_where_it_was_saved() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(
            "x",
            Some(state(folder.path(), "a")),
            SaveEvery::Seconds(0.0),
        );
        watch.take_up(&mut Counter(0), EXTENT).unwrap();
        assert!(watch.observe(&Counter(7)).is_continue());
        drop(watch); // killed

        let mut counter = Counter(0);
        let mut watch = Watch::new("x", Some(state(folder.path(), "a")), SaveEvery::Epoch);
        watch.take_up(&mut counter, EXTENT).unwrap();
        assert_eq!(counter.0, 7);
        assert_eq!(watch.effort().resumed, 1);
        watch.done();
        assert!(fs_err::read_dir(folder.path()).unwrap().next().is_none());
    }

    #[test]
    fn a_curve_has_every_epoch_once_over_all_starts() {
        let folder = tempfile::tempdir().unwrap();
        let new = || {
            Watch::new(
                "x",
                Some(state(folder.path(), "a")),
                SaveEvery::Seconds(0.0),
            )
        };
        let mut watch = new();
        watch.take_up(&mut Counter(0), EXTENT).unwrap();
        for done in 1..=7 {
            assert!(watch.observe(&Counter(done)).is_continue());
        }
        drop(watch); // killed

        let mut counter = Counter(0);
        let mut watch = new();
        watch.take_up(&mut counter, EXTENT).unwrap();
        for done in counter.0 + 1..=10 {
            assert!(watch.observe(&Counter(done)).is_continue());
        }
        let points = watch.effort().curve.into_iter();
        let found: Vec<_> = points.map(|point| (point.epoch, point.value)).collect();
        assert_eq!(found, [(1, 5.0), (2, 10.0)]);
    }

    /// Nor loses it: the command that it is of finds it, whatever came between.
    #[test]
    fn never_goes_on_with_the_state_of_other_settings() {
        let folder = tempfile::tempdir().unwrap();
        let start = |kind: &str, stop: usize| {
            let mut counter = Counter(0);
            let mut watch = Watch::new("x", Some(state(folder.path(), kind)), SaveEvery::Epoch);
            watch.take_up(&mut counter, EXTENT).unwrap();
            assert!(watch.observe(&Counter(stop)).is_continue());
            counter.0
        };
        assert_eq!(start("a", 5), 0);
        assert_eq!(start("b", 6), 0);
        assert_eq!(start("c", 7), 0);
        assert_eq!(start("a", 10), 5);
        assert_eq!(start("c", 10), 7);
        assert_eq!(start("b", 10), 6);
        assert_eq!(start("a", 10), 10);
    }

    #[test]
    fn sets_a_state_without_a_note_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        fs_err::write(&path, "7").unwrap();
        let mut counter = Counter(0);
        let mut watch = Watch::new("x", Some(state(folder.path(), "a")), SaveEvery::Epoch);
        watch.take_up(&mut counter, EXTENT).unwrap();
        assert_eq!((counter.0, watch.effort().resumed), (0, 0));
        let aside = folder.path().join("state.old");
        assert_eq!(fs_err::read_to_string(aside).unwrap(), "7");
        assert!(!path.exists());
    }

    /// Nor is it lost: that is for whoever started this to say.
    #[test]
    fn a_state_that_cannot_be_read_is_not_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::new("x", Some(state(folder.path(), "a")), SaveEvery::Epoch);
        watch.take_up(&mut Counter(0), EXTENT).unwrap();
        assert!(watch.observe(&Counter(5)).is_continue());
        let path = folder.path().join("state");
        fs_err::write(&path, "five").unwrap();
        let mut watch = Watch::new("x", Some(state(folder.path(), "a")), SaveEvery::Epoch);
        let error = watch.take_up(&mut Counter(0), EXTENT).unwrap_err();
        let words = format!("{}; remove that file to start it anew", path.display());
        assert!(error.to_string().contains(&words), "{error}");
        assert_eq!(fs_err::read_to_string(path).unwrap(), "five");
    }

    /// Counts, but finds no room for its state.
    struct Full(Counter);

    impl Resumable for Full {
        fn save(&self, path: &Path) -> Result<()> {
            anyhow::bail!("no room for {}", path.display())
        }
        fn load(&mut self, path: &Path) -> Result<()> {
            self.0.load(path)
        }
        fn position(&self) -> Position {
            self.0.position()
        }
        fn describe(&self) -> String {
            self.0.describe()
        }
        fn figures(&self) -> Vec<(&'static str, f64)> {
            self.0.figures()
        }
    }

    #[test]
    fn a_save_that_fails_ends_the_training_and_leaves_the_older_state() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::new("x", Some(state(folder.path(), "a")), SaveEvery::Epoch);
        watch.take_up(&mut Counter(0), EXTENT).unwrap();
        assert!(watch.observe(&Counter(5)).is_continue());
        let full = Full(Counter(10));
        assert!(watch.observe(&full).is_break());
        let error = watch.finish(&full).unwrap_err().to_string();
        assert!(error.contains("no room for"), "{error}");

        let mut counter = Counter(0);
        let mut watch = Watch::new("x", Some(state(folder.path(), "a")), SaveEvery::Epoch);
        watch.take_up(&mut counter, EXTENT).unwrap();
        assert_eq!((counter.0, watch.effort().resumed), (5, 1));
        // Also where it is the last one, when the training is over.
        assert!(watch.finish(&Full(Counter(10))).is_err());
        assert_eq!(
            fs_err::read_to_string(folder.path().join("state")).unwrap(),
            "5"
        );
    }

    #[test]
    fn saves_by_the_epoch_where_asked() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = Watch::new("x", Some(state(folder.path(), "a")), SaveEvery::Epoch);
        watch.take_up(&mut Counter(0), EXTENT).unwrap();
        assert!(watch.observe(&Counter(4)).is_continue());
        assert!(!folder.path().join("state").exists());
        assert!(watch.observe(&Counter(5)).is_continue());
        assert!(folder.path().join("state").exists());
    }
}
