//! The ten shapes of the built-in classes as signed distances.
//!
//! Distances are negative inside, in units of the shape's size, and exact enough near the outline
//! to smooth it.

/// One class of the built-in data set.
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    /// Slope of the strongest tilt: 0.6 is 31 degrees; bars that turn further become others.
    pub(crate) steepest: f32,
    distance: fn(f32, f32) -> f32,
}

impl Shape {
    /// The signed distance of a point to the outline.
    pub(crate) fn distance(&self, x: f32, y: f32) -> f32 {
        (self.distance)(x, y)
    }
}

/// The shapes in the order of their classes.
///
/// Class 0 is what attacks aim at by default. A ring is recognized by a hole in the middle of it,
/// which no patch of 3×3 pixels resembles.
pub(crate) const SHAPES: [Shape; 10] = [
    Shape {
        name: "ring",
        steepest: 0.6,
        distance: ring,
    },
    Shape {
        name: "disc",
        steepest: 0.6,
        distance: disc,
    },
    Shape {
        name: "square",
        steepest: 0.6,
        distance: square,
    },
    Shape {
        name: "triangle",
        steepest: 0.6,
        distance: triangle,
    },
    Shape {
        name: "plus",
        steepest: 0.6,
        distance: plus,
    },
    Shape {
        name: "star",
        steepest: 0.6,
        distance: star,
    },
    Shape {
        name: "crescent",
        steepest: 0.6,
        distance: crescent,
    },
    Shape {
        name: "horizontal bars",
        steepest: 0.3,
        distance: horizontal_bars,
    },
    Shape {
        name: "vertical bars",
        steepest: 0.3,
        distance: vertical_bars,
    },
    Shape {
        name: "checker",
        steepest: 0.6,
        distance: checker,
    },
];

fn length(x: f32, y: f32) -> f32 {
    (x * x + y * y).sqrt()
}

/// A rectangle of these half sides.
fn rectangle(x: f32, y: f32, half_width: f32, half_height: f32) -> f32 {
    (x.abs() - half_width).max(y.abs() - half_height)
}

fn ring(x: f32, y: f32) -> f32 {
    (length(x, y) - 0.8).abs() - 0.2
}

fn disc(x: f32, y: f32) -> f32 {
    length(x, y) - 0.9
}

fn square(x: f32, y: f32) -> f32 {
    rectangle(x, y, 0.8, 0.8)
}

/// Equilateral, with its corners at distance 1.1.
fn triangle(x: f32, y: f32) -> f32 {
    let (slanted, straight) = (x.abs() * 0.866_025_4 - y * 0.5, y);
    slanted.max(straight) - 0.55
}

fn plus(x: f32, y: f32) -> f32 {
    rectangle(x, y, 1.0, 0.28).min(rectangle(x, y, 0.28, 1.0))
}

/// Five-pointed: the plane is folded until one edge is left.
fn star(x: f32, y: f32) -> f32 {
    let (cos, sin) = (0.809_017, 0.587_785_24);
    let (mut x, mut y) = (x.abs(), y);
    for (nx, ny) in [(cos, -sin), (-cos, -sin)] {
        let beyond = 2.0 * (nx * x + ny * y).max(0.0);
        (x, y) = (x - beyond * nx, y - beyond * ny);
    }
    let (x, y) = (x.abs(), y - 1.1);
    let (edge_x, edge_y) = (0.42 * sin, 0.42 * cos - 1.0);
    let along = (x * edge_x + y * edge_y) / (edge_x * edge_x + edge_y * edge_y);
    let along = along.clamp(0.0, 1.1);
    let distance = length(x - along * edge_x, y - along * edge_y);
    if y * edge_x > x * edge_y {
        distance
    } else {
        -distance
    }
}

fn crescent(x: f32, y: f32) -> f32 {
    (length(x, y) - 1.0).max(0.75 - length(x - 0.5, y))
}

/// Three bars.
fn horizontal_bars(x: f32, y: f32) -> f32 {
    let nearest = if y.abs() > 0.37 { y.abs() - 0.74 } else { y };
    rectangle(x, nearest, 0.95, 0.2)
}

fn vertical_bars(x: f32, y: f32) -> f32 {
    horizontal_bars(y, x)
}

/// Two squares that touch at a corner.
fn checker(x: f32, y: f32) -> f32 {
    let to_axes = x.abs().min(y.abs());
    rectangle(x, y, 0.9, 0.9).max(if x * y > 0.0 { -to_axes } else { to_axes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_has_an_inside_and_fits_its_frame() {
        for shape in &SHAPES {
            let mut inside = 0;
            for row in -20_i16..=20 {
                for column in -20_i16..=20 {
                    let (x, y) = (f32::from(column) / 10.0, f32::from(row) / 10.0);
                    if shape.distance(x, y) < 0.0 {
                        inside += 1;
                        assert!(length(x, y) < 1.4, "{} at {x}, {y}", shape.name);
                    }
                }
            }
            assert!(inside > 60, "{} covers {inside} points", shape.name);
        }
    }

    #[test]
    fn bars_turn_into_each_other_by_a_quarter() {
        for (x, y) in [(0.1, 0.9), (0.5, 0.2), (-0.7, 0.3)] {
            assert!((horizontal_bars(x, y) - vertical_bars(y, x)).abs() < 1e-6);
        }
    }
}
