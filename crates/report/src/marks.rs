//! How each method is marked in figures: by a shape and a color, so that no figure needs colors to
//! be read. Every color has a contrast of more than 4.5 to the ground.

use crate::svg::{Canvas, GROUND, INK, Point, short};

/// A method's mark.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Mark {
    shape: Shape,
    filled: bool,
    pub(crate) color: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Circle,
    Square,
    Diamond,
    Up,
    Down,
    Cross,
    Plus,
    Dash,
    Star,
}

const GRAY: &str = "#46525f";
const RED: &str = "#a3231c";
const BROWN: &str = "#6f4a00";
const PURPLE: &str = "#7a2f9b";
const TEAL: &str = "#005f6b";
const BLUE: &str = "#0b4f9e";
const GREEN: &str = "#1c5f38";

impl Mark {
    /// The mark of a method among all of a figure.
    pub(crate) fn of(method: &str, all: &[&str]) -> Self {
        let (shape, filled, color) = match method {
            "clean" => (Shape::Dash, true, GRAY),
            "backdoored" => (Shape::Square, true, RED),
            "no-trigger" => (Shape::Circle, false, BROWN),
            "random" => (Shape::Cross, true, PURPLE),
            "fine-tune" => (Shape::Plus, true, TEAL),
            "point" => (Shape::Square, false, GRAY),
            "ensemble:turns" => (Shape::Diamond, true, GREEN),
            "ensemble:weighted" => (Shape::Diamond, false, GREEN),
            "ideal" => (Shape::Star, true, INK),
            other => {
                let mut alike = all.iter().filter(|method| method.starts_with("mesa:"));
                match alike.position(|method| *method == other) {
                    Some(0) => (Shape::Circle, true, BLUE),
                    Some(1) => (Shape::Up, true, BLUE),
                    Some(2) => (Shape::Down, true, BLUE),
                    Some(3) => (Shape::Up, false, BLUE),
                    Some(_) => (Shape::Down, false, BLUE),
                    None => (Shape::Square, false, INK),
                }
            }
        };
        Self {
            shape,
            filled,
            color,
        }
    }

    /// Draws it, so that it reaches about `radius` from its middle.
    pub(crate) fn draw(self, canvas: &mut Canvas, (x, y): Point, radius: f64) {
        let color = self.color;
        let r = radius;
        let style = if self.filled {
            format!("fill=\"{color}\" stroke=\"{GROUND}\" stroke-width=\"0.7\"")
        } else {
            format!("fill=\"{GROUND}\" stroke=\"{color}\" stroke-width=\"1.6\"")
        };
        let lines = format!("fill=\"none\" stroke=\"{color}\" stroke-width=\"2\"");
        let polygon = |canvas: &mut Canvas, points: &[Point]| {
            let corners: Vec<String> = points
                .iter()
                .map(|(dx, dy)| format!("{} {}", short(x + dx * r), short(y + dy * r)))
                .collect();
            canvas.path(&format!("M{}Z", corners.join("L")), &style);
        };
        match self.shape {
            Shape::Circle => canvas.circle((x, y), 0.9 * r, &style),
            Shape::Square => canvas.rect((x - 0.8 * r, y - 0.8 * r), (1.6 * r, 1.6 * r), &style),
            Shape::Diamond => polygon(
                canvas,
                &[(0.0, -1.15), (1.15, 0.0), (0.0, 1.15), (-1.15, 0.0)],
            ),
            Shape::Up => polygon(canvas, &[(0.0, -1.0), (1.05, 0.85), (-1.05, 0.85)]),
            Shape::Down => polygon(canvas, &[(0.0, 1.0), (1.05, -0.85), (-1.05, -0.85)]),
            Shape::Star => polygon(canvas, &star()),
            Shape::Dash => canvas.line((x - 1.3 * r, y), (x + 1.3 * r, y), &lines),
            Shape::Cross => {
                let d = 0.8 * r;
                canvas.line((x - d, y - d), (x + d, y + d), &lines);
                canvas.line((x - d, y + d), (x + d, y - d), &lines);
            }
            Shape::Plus => {
                canvas.line((x - r, y), (x + r, y), &lines);
                canvas.line((x, y - r), (x, y + r), &lines);
            }
        }
    }
}

/// A star's ten corners around the origin, the first on top.
fn star() -> [Point; 10] {
    std::array::from_fn(|corner| {
        let reach = if corner % 2 == 0 { 1.3 } else { 0.55 };
        let angle = corner as f64 * std::f64::consts::PI / 5.0;
        (reach * angle.sin(), -reach * angle.cos())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::PAPER;

    /// All rows of a network.
    fn methods() -> Vec<&'static str> {
        [&["clean", "backdoored"], &PAPER[..]].concat()
    }

    #[test]
    fn no_two_methods_look_alike_without_color() {
        let methods = methods();
        let looks = |method: &&str| {
            let mark = Mark::of(method, &methods);
            (mark.shape, mark.filled)
        };
        for (index, method) in methods.iter().enumerate() {
            for other in &methods[..index] {
                assert_ne!(looks(method), looks(other), "{method} and {other}");
            }
        }
    }

    #[test]
    fn colors_stand_out_from_the_ground() {
        let luminance = |color: &str| {
            let channel = |at: usize| {
                let value = u8::from_str_radix(&color[at..at + 2], 16).unwrap();
                let share = f64::from(value) / 255.0;
                if share <= 0.04045 {
                    share / 12.92
                } else {
                    ((share + 0.055) / 1.055).powf(2.4)
                }
            };
            0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
        };
        let ground = luminance(GROUND) + 0.05;
        for method in methods() {
            let color = Mark::of(method, &methods()).color;
            let contrast = ground / (luminance(color) + 0.05);
            assert!(contrast > 4.5, "{method}: {contrast:.2}");
        }
    }
}
