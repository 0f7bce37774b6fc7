//! Samples of several kinds of work in turns, and their medians.

use anyhow::Result;
use mesa_record::GpuTime;

/// What one of a turn's repetitions took, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sample {
    /// Until the host had asked for it.
    pub(super) host: f64,
    /// Until it was done.
    pub(super) wall: f64,
    /// By the device's clock, without waiting for the host.
    pub(super) device: f64,
}

/// Takes a sample of every work in turn, `rounds` times, so that whatever changes on the machine
/// meanwhile changes for all of them. A work that fails is not tried again; the others go on.
pub(super) fn interleave<W>(
    works: &mut [W],
    rounds: usize,
    mut sample: impl FnMut(&mut W) -> Result<Sample>,
) -> Result<Vec<Result<GpuTime, String>>> {
    let mut taken: Vec<Result<Vec<Sample>, String>> = works.iter().map(|_| Ok(vec![])).collect();
    for _ in 0..rounds {
        for (work, taken) in works.iter_mut().zip(&mut taken) {
            crate::interrupt::check()?;
            let Ok(samples) = taken else { continue };
            match sample(work) {
                Ok(found) => samples.push(found),
                Err(error) => *taken = Err(format!("{error:#}")),
            }
        }
    }
    Ok(taken
        .into_iter()
        .map(|taken| taken.map(|samples| time(&samples)))
        .collect())
}

/// The medians of samples.
pub(super) fn time(samples: &[Sample]) -> GpuTime {
    let of = |what: fn(&Sample) -> f64| samples.iter().map(what).collect::<Vec<_>>();
    let walls = of(|sample| sample.wall);
    GpuTime {
        wall_s: rounded(median(&walls)),
        lowest_s: rounded(walls.iter().copied().fold(f64::INFINITY, f64::min)),
        highest_s: rounded(walls.iter().copied().fold(0.0, f64::max)),
        host_s: rounded(median(&of(|sample| sample.host))),
        device_s: rounded(median(&of(|sample| sample.device))),
        rounds: samples.len(),
    }
}

/// The median; of an even number the mean of the two in the middle; of none zero.
pub(super) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[len / 2],
        len => f64::midpoint(sorted[len / 2 - 1], sorted[len / 2]),
    }
}

/// Five digits: clocks are no better, and records stay readable.
pub(super) fn rounded(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

/// How often to repeat what takes `seconds` in a turn of `turn_s`.
pub(super) fn repetitions(seconds: f64, turn_s: f64, most: usize) -> usize {
    if seconds <= 0.0 {
        return most;
    }
    // Saturates, and is bounded below.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive, and a count of repetitions"
    )]
    let fitting = (turn_s / seconds) as usize;
    fitting.clamp(1, most)
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn sample(wall: f64) -> Sample {
        Sample {
            host: wall / 2.0,
            wall,
            device: wall / 4.0,
        }
    }

    #[test]
    fn medians_and_spread_come_out() {
        let found = time(&[sample(4.0), sample(1.0), sample(2.0)]);
        let (host_s, device_s) = (1.0, 0.5);
        let expected = GpuTime {
            wall_s: 2.0,
            lowest_s: 1.0,
            highest_s: 4.0,
            host_s,
            device_s,
            rounds: 3,
        };
        assert_eq!(found, expected);
        let same = |a: f64, b: f64| (a - b).abs() < 1e-12;
        assert!(same(median(&[1.0, 4.0, 2.0, 3.0]), 2.5));
        assert!(same(median(&[]), 0.0));
        assert!(same(rounded(0.001_234_567), 0.001_234_6));
    }

    #[test]
    fn works_take_turns_and_one_that_fails_stops_no_other() {
        let mut order = Vec::new();
        let found = interleave(&mut [1, 2, 3], 2, |work| {
            order.push(*work);
            if *work == 2 {
                bail!("no algorithm");
            }
            Ok(sample(f64::from(*work)))
        });
        let found = found.unwrap();
        assert_eq!(order, [1, 2, 3, 1, 3]);
        assert_eq!(found[0].as_ref().unwrap().rounds, 2);
        assert_eq!(found[1].as_ref().unwrap_err(), "no algorithm");
        assert_eq!(found[2], Ok(time(&[sample(3.0); 2])));
    }

    #[test]
    fn turns_are_about_as_long_as_asked_for() {
        assert_eq!(repetitions(0.01, 0.05, 100), 5);
        assert_eq!(repetitions(1.0, 0.05, 100), 1);
        assert_eq!(repetitions(1e-9, 0.05, 100), 100);
        assert_eq!(repetitions(0.0, 0.05, 100), 100);
    }
}
