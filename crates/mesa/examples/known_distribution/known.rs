//! Testing functions with a known answer: their level sets, volumes and uniform samples.

use std::f64::consts::{PI, TAU};

use candle::Tensor;
use mesa::{BoxError, Observations, Position, TestingFunction};
use rand::Rng;

/// What the level sets look like.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A ring in the plane, a hollow sphere in space.
    Ring,
    /// Two disks or balls, far apart.
    Blobs,
    /// A box with sides of different lengths.
    Box,
}

/// `F(x) = 1 / (1 + (ρ(x) / s)⁸)` on the unit square or cube.
///
/// `ρ` is the distance to a circle or sphere, to the nearer of two points, or the largest of the
/// coordinates' distances to the center, each over its own scale. The level set at β is
/// `ρ ≤ s (1/β − 1)^⅛`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) shape: Shape,
    /// 2 or 3.
    pub(crate) dim: usize,
    /// Iterations of a fit.
    pub(crate) steps: usize,
}

const CENTER: f64 = 0.5;
const RING_RADIUS: f64 = 0.31;
/// Every coordinate of either blob's center.
const BLOB_CENTERS: [f64; 2] = [0.26, 0.74];
const BOX_SCALES: [f64; 3] = [1.0, 0.6, 0.8];

/// Cells of equal volume that a level set is cut into.
pub(crate) const CELLS: usize = 256;

impl Known {
    pub(crate) fn name(&self) -> String {
        let name = match self.shape {
            Shape::Ring if self.dim == 2 => "ring",
            Shape::Ring => "hollow sphere",
            Shape::Blobs if self.dim == 2 => "two disks",
            Shape::Blobs => "two balls",
            Shape::Box if self.dim == 2 => "rectangle",
            Shape::Box => "box",
        };
        name.to_owned()
    }

    fn scale(&self) -> f64 {
        match self.shape {
            Shape::Ring => 0.17,
            Shape::Blobs => 0.24,
            Shape::Box => 0.42,
        }
    }

    /// `ρ` on the boundary of the level set at β.
    pub(crate) fn radius(&self, beta: f64) -> f64 {
        self.scale() * (1.0 / beta - 1.0).powf(0.125)
    }

    /// `ρ` and its gradient.
    fn distance(&self, point: &[f64]) -> (f64, Vec<f64>) {
        match self.shape {
            Shape::Ring => {
                let (norm, away) = way_from(point, CENTER);
                let outward = if norm < RING_RADIUS { -1.0 } else { 1.0 };
                let gradient = away.iter().map(|x| outward * x / norm.max(1e-9));
                ((norm - RING_RADIUS).abs(), gradient.collect())
            }
            Shape::Blobs => {
                let [a, b] = BLOB_CENTERS.map(|center| way_from(point, center));
                let (norm, away) = if a.0 < b.0 { a } else { b };
                (norm, away.iter().map(|x| x / norm.max(1e-9)).collect())
            }
            Shape::Box => {
                let scaled = |i: usize| (point[i] - CENTER) / BOX_SCALES[i];
                let far = |i: &usize, j: &usize| scaled(*i).abs().total_cmp(&scaled(*j).abs());
                let largest = (0..self.dim).max_by(far).unwrap_or(0);
                let mut gradient = vec![0.0; self.dim];
                gradient[largest] = scaled(largest).signum() / BOX_SCALES[largest];
                (scaled(largest).abs(), gradient)
            }
        }
    }

    pub(crate) fn value(&self, point: &[f64]) -> f64 {
        1.0 / (1.0 + (self.distance(point).0 / self.scale()).powi(8))
    }

    /// Volume of the level set at β.
    pub(crate) fn volume(&self, beta: f64) -> f64 {
        let radius = self.radius(beta);
        let ball = |radius: f64| match self.dim {
            2 => PI * radius.powi(2),
            _ => 4.0 / 3.0 * PI * radius.powi(3),
        };
        match self.shape {
            Shape::Ring => ball(RING_RADIUS + radius) - ball(RING_RADIUS - radius),
            Shape::Blobs => 2.0 * ball(radius),
            Shape::Box => (BOX_SCALES[..self.dim].iter())
                .map(|scale| 2.0 * radius * scale)
                .product(),
        }
    }

    /// Independent uniform points of the level set at β, by rejection.
    pub(crate) fn uniform(&self, rng: &mut impl Rng, beta: f64, count: usize) -> Vec<Vec<f64>> {
        let draws = std::iter::repeat_with(|| (0..self.dim).map(|_| rng.random()).collect());
        let inside = draws.filter(|point: &Vec<f64>| self.value(point) >= beta);
        inside.take(count).collect()
    }

    /// The cell of a point of the level set at β, of 256 with equal volumes; `None` outside.
    ///
    /// Coordinates in which the uniform distribution on the level set is the uniform one on the
    /// unit square or cube are cut into equal parts: powers of a radius, angles, cosines, sides.
    pub(crate) fn cell(&self, point: &[f64], beta: f64) -> Option<usize> {
        let (radius, dim) = (self.radius(beta), self.dim as f64);
        if self.distance(point).0 > radius {
            return None;
        }
        let power = |norm: f64, inner: f64, outer: f64| {
            (norm.powf(dim) - inner.powf(dim)) / (outer.powf(dim) - inner.powf(dim))
        };
        let (units, parts) = match self.shape {
            Shape::Ring => {
                let (norm, away) = way_from(point, CENTER);
                let depth = power(norm, RING_RADIUS - radius, RING_RADIUS + radius);
                let parts: &[usize] = if self.dim == 2 { &[4, 64] } else { &[4, 8, 8] };
                (self.polar(norm, &away, depth), parts)
            }
            Shape::Blobs => {
                let [a, b] = BLOB_CENTERS.map(|center| way_from(point, center));
                let blob = if a.0 < b.0 { 0.0 } else { 1.0 };
                let (norm, away) = if a.0 < b.0 { a } else { b };
                let mut units = vec![blob / 2.0 + 0.25];
                units.extend(self.polar(norm, &away, power(norm, 0.0, radius)));
                let parts: &[usize] = if self.dim == 2 {
                    &[2, 8, 16]
                } else {
                    &[2, 4, 4, 8]
                };
                (units, parts)
            }
            Shape::Box => {
                let unit = |i: usize| 0.5 + (point[i] - CENTER) / BOX_SCALES[i] / radius / 2.0;
                let parts: &[usize] = if self.dim == 2 { &[16, 16] } else { &[8, 4, 8] };
                ((0..self.dim).map(unit).collect(), parts)
            }
        };
        let cell = units.iter().zip(parts).fold(0, |cell, (unit, parts)| {
            let part = (unit * *parts as f64).max(0.0) as usize;
            cell * parts + part.min(parts - 1)
        });
        Some(cell)
    }

    fn polar(&self, norm: f64, away: &[f64], depth: f64) -> Vec<f64> {
        let mut units = vec![depth];
        if self.dim == 3 {
            units.push(0.5 + away[2] / norm.max(1e-9) / 2.0);
        }
        units.push(away[1].atan2(away[0]) / TAU + 0.5);
        units
    }
}

impl TestingFunction for Known {
    fn trigger_shape(&self) -> [usize; 3] {
        [1, 1, self.dim]
    }

    fn steps_per_epoch(&self, _: usize) -> usize {
        self.steps
    }

    fn observe(
        &mut self,
        triggers: &Tensor,
        _: f64,
        _: Position,
    ) -> Result<Observations, BoxError> {
        let (mut values, mut gradients) = (Vec::new(), Vec::new());
        let points = points(triggers)?;
        for point in &points {
            let (distance, slope) = self.distance(point);
            let value = self.value(point);
            let outer = -8.0 * value * (1.0 - value) / distance.max(1e-9);
            values.push(value as f32);
            gradients.extend(slope.into_iter().map(|slope| (outer * slope) as f32));
        }
        let (count, device) = (points.len(), triggers.device());
        Ok(Observations {
            values: Tensor::from_vec(values, (count, 1), device)?,
            gradients: Tensor::from_vec(gradients, (count, 1, 1, 1, self.dim), device)?,
        })
    }
}

/// The way to a point from the one with all coordinates alike, and its length.
fn way_from(point: &[f64], center: f64) -> (f64, Vec<f64>) {
    let away: Vec<f64> = point.iter().map(|x| x - center).collect();
    (away.iter().map(|x| x * x).sum::<f64>().sqrt(), away)
}

/// Triggers as points.
pub(crate) fn points(triggers: &Tensor) -> candle::Result<Vec<Vec<f64>>> {
    let rows = triggers.flatten_from(1)?.to_vec2::<f32>()?;
    let widened = rows
        .into_iter()
        .map(|row| row.into_iter().map(f64::from).collect());
    Ok(widened.collect())
}
