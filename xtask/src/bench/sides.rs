//! Both sides, and their turns.

use std::{
    ffi::OsString,
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::Result;
use mesa_record::SpeedMachine;

use super::player::{Player, Turn};
use crate::workspace;

/// What a player is asked to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Task {
    pub(crate) work: &'static str,
    pub(crate) width: usize,
    pub(crate) batch_size: usize,
    pub(crate) threads: usize,
}

/// The programs of both sides.
pub(crate) struct Sides {
    ours: PathBuf,
    python: Option<OsString>,
}

impl Sides {
    /// Builds ours; `python` has torch, where the peer is wanted.
    pub(crate) fn new(python: Option<OsString>) -> Result<Self> {
        let ours = workspace::build(["--example", "bench_player"])?;
        Ok(Self { ours, python })
    }

    /// Starts ours.
    pub(crate) fn ours(&self, task: Task, extra: &[String]) -> Result<Player> {
        // The peer's formulation is all that tells the two apart.
        let work = task.work.trim_end_matches("-frozen");
        Player::start(side(Command::new(&self.ours), Task { work, ..task }).args(extra))
    }

    /// Starts the peer.
    pub(crate) fn peer(&self, task: Task, extra: &[String]) -> Result<Player> {
        let python = self.python.as_deref().unwrap_or("python3".as_ref());
        let mut script = Command::new(python);
        script
            .current_dir(workspace::root()?)
            .arg("xtask/src/bench/peer.py");
        Player::start(side(script, task).args(extra))
    }
}

/// The arguments and the environment that both sides share.
fn side(mut command: Command, task: Task) -> Command {
    let threads = task.threads.to_string();
    command
        .args(["--work", task.work])
        .args(["--width", &task.width.to_string()])
        .args(["--batch-size", &task.batch_size.to_string()])
        .args(["--threads", &threads])
        .env("RAYON_NUM_THREADS", &threads)
        .env("OMP_NUM_THREADS", &threads);
    command
}

/// Both sides in turns, `[ours, peer]` of each pair, whoever went first going second in the next
/// pair, so that a slow minute of the machine hits both.
pub(crate) fn turns(
    players: [&mut Player; 2],
    steps: [usize; 2],
    pairs: usize,
) -> Result<Vec<[Turn; 2]>> {
    let [ours, peer] = players;
    let mut one = |side: usize| {
        // Idle worker threads of the other side spin for a while.
        thread::sleep(Duration::from_millis(300));
        if side == 0 {
            ours.go(steps[0])
        } else {
            peer.go(steps[1])
        }
    };
    let mut taken = Vec::new();
    for pair in 0..pairs {
        taken.push(if pair % 2 == 0 {
            let ours = one(0)?;
            [ours, one(1)?]
        } else {
            let peer = one(1)?;
            [one(0)?, peer]
        });
    }
    Ok(taken)
}

/// How many steps fill a turn; the steps that tell warm the program up.
pub(crate) fn steps_in(player: &mut Player, turn_s: f64) -> Result<usize> {
    let seconds = player.go(1)?.seconds;
    Ok((turn_s / seconds).round().clamp(1.0, 10_000.0) as usize)
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        None => f64::NAN,
        Some(upper) if values.len() % 2 == 1 => *upper,
        Some(upper) => f64::midpoint(values[middle - 1], *upper),
    }
}

/// This machine; the sides' names are added by who starts them.
pub(crate) fn machine(threads: usize) -> SpeedMachine {
    let memory = fs_err::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|text| text.trim().split(' ').next()?.parse().ok());
    SpeedMachine {
        processor: mesa_record::processor(),
        cores: thread::available_parallelism().map_or(1, Into::into),
        threads,
        memory_mb: kib.unwrap_or(0.0_f64) / 1024.0,
        system: system(),
        ..SpeedMachine::default()
    }
}

fn system() -> String {
    let output = Command::new("uname")
        .arg("-s")
        .stdin(Stdio::null())
        .output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert!((median(vec![3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        assert!(median(Vec::new()).is_nan());
    }
}
