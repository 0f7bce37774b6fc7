//! What trainings measured epoch by epoch: `curves.csv`.

use std::fmt::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{Error, Result, write_text};

/// One figure of one epoch of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CurvePoint {
    /// The epoch, from 1 on.
    pub epoch: usize,
    /// What was measured: `loss`, `accuracy`; of a sub-model `probability`, `share_reached`,
    /// `information_nats`.
    pub figure: String,
    /// The figure; over the epoch of a training, of the last iteration of a sub-model.
    pub value: f64,
}

/// The curve of one step of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// The step's name: `clean`, `170/seed-0/attack`, `170/seed-0/fit-0.9`, ….
    pub step: String,
    /// Its figures, epoch by epoch.
    pub points: Vec<CurvePoint>,
}

const HEADER: &str = "step,epoch,figure,value";

/// Writes `step,epoch,figure,value`, a line for each figure.
///
/// # Errors
///
/// [`Error::Write`] if the file cannot be replaced.
pub fn write_curves(path: &Path, curves: &[Curve]) -> Result<()> {
    let mut text = format!("{HEADER}\n");
    for Curve { step, points } in curves {
        for CurvePoint {
            epoch,
            figure,
            value,
        } in points
        {
            let _ = writeln!(text, "{step},{epoch},{figure},{value}");
        }
    }
    write_text(path, &text)
}

/// Reads what [`write_curves`] wrote.
///
/// # Errors
///
/// [`Error::Csv`] names the first line that is not one of its lines.
pub fn read_curves(path: &Path) -> Result<Vec<Curve>> {
    let text = fs_err::read_to_string(path)?;
    let mut curves: Vec<Curve> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        if index == 0 && line == HEADER {
            continue;
        }
        let (step, point) = parsed(line).ok_or_else(|| Error::Csv {
            path: path.to_owned(),
            line: index + 1,
            expected: HEADER,
        })?;
        match curves.last_mut() {
            Some(curve) if curve.step == step => curve.points.push(point),
            _ => curves.push(Curve {
                step: step.to_owned(),
                points: vec![point],
            }),
        }
    }
    Ok(curves)
}

fn parsed(line: &str) -> Option<(&str, CurvePoint)> {
    let cells: Vec<&str> = line.split(',').collect();
    let [step, epoch, figure, value] = cells[..] else {
        return None;
    };
    let point = CurvePoint {
        epoch: epoch.parse().ok()?,
        figure: figure.to_owned(),
        value: value.parse().ok()?,
    };
    Some((step, point))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(epoch: usize, figure: &str, value: f64) -> CurvePoint {
        CurvePoint {
            epoch,
            figure: figure.into(),
            value,
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let curves = vec![
            Curve {
                step: "clean".into(),
                points: vec![point(1, "loss", 2.25), point(1, "accuracy", 0.1)],
            },
            Curve {
                step: "color-3/seed-0/fit-0.9".into(),
                points: vec![point(10, "information_nats", 1.0 / 3.0)],
            },
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curves.csv");
        write_curves(&path, &curves).unwrap();
        assert_eq!(read_curves(&path).unwrap(), curves);
    }

    #[test]
    fn a_damaged_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("curves.csv");
        fs_err::write(
            &path,
            "step,epoch,figure,value\nclean,1,loss,2\nclean,x,loss,2\n",
        )
        .unwrap();
        let error = read_curves(&path).unwrap_err().to_string();
        assert!(
            error.contains("curves.csv") && error.contains("line 3"),
            "{error}"
        );
    }
}
