//! The 512 black/white 3×3 patterns and their 51 classes.

/// How many black/white 3×3 patterns there are.
pub(crate) const NUM_PATTERNS: u16 = 512;

const SIDE: usize = 3;

/// The smallest number among a pattern's rotations, reflections and inversions: its class.
///
/// # Panics
///
/// From 512 on: a pattern has nine bits.
///
/// # Examples
///
/// ```
/// // A white corner on black; a black corner on white.
/// assert_eq!(mesa_datasets::pattern_class(0b100_000_000), 1);
/// assert_eq!(mesa_datasets::pattern_class(0b110_111_111), 1);
/// ```
pub fn pattern_class(pattern: u16) -> u16 {
    assert!(pattern < NUM_PATTERNS, "a 3×3 pattern has nine bits");
    let mut turned = pattern;
    let mut smallest = pattern;
    for _ in 0..4 {
        turned = quarter_turn(turned);
        for image in [turned, reflection(turned)] {
            smallest = smallest.min(image).min(inversion(image));
        }
    }
    smallest
}

/// The representatives of all classes, in rising order: the paper's 51 triggers.
///
/// # Examples
///
/// ```
/// let classes = mesa_datasets::pattern_classes();
/// assert_eq!(classes.len(), 51);
/// assert!(classes.contains(&170));
/// ```
pub fn pattern_classes() -> Vec<u16> {
    (0..NUM_PATTERNS)
        .filter(|pattern| pattern_class(*pattern) == *pattern)
        .collect()
}

fn quarter_turn(pattern: u16) -> u16 {
    rearranged(pattern, |row, column| (SIDE - 1 - column, row))
}

fn reflection(pattern: u16) -> u16 {
    rearranged(pattern, |row, column| (row, SIDE - 1 - column))
}

fn inversion(pattern: u16) -> u16 {
    NUM_PATTERNS - 1 - pattern
}

/// The pattern whose pixel at (row, column) is the old one's at `source(row, column)`.
fn rearranged(pattern: u16, source: impl Fn(usize, usize) -> (usize, usize)) -> u16 {
    (0..SIDE * SIDE).fold(0, |bits, cell| {
        let (row, column) = source(cell / SIDE, cell % SIDE);
        bits << 1 | (pattern >> (SIDE * SIDE - 1 - (SIDE * row + column)) & 1)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn there_are_51_classes_and_they_cover_all_patterns() {
        let classes: BTreeSet<u16> = (0..NUM_PATTERNS).map(pattern_class).collect();
        assert_eq!(classes.len(), 51);
        assert!(classes.into_iter().eq(pattern_classes()));
        assert!(
            [0, 16, 97, 170]
                .iter()
                .all(|pattern| pattern_classes().contains(pattern))
        );
    }

    #[test]
    fn a_quarter_turn_moves_the_top_left_pixel_to_the_top_right() {
        assert_eq!(quarter_turn(0b100_000_000), 0b001_000_000);
        assert_eq!(reflection(0b110_000_000), 0b011_000_000);
    }

    /// Counted independently of the code above: Burnside's lemma over the group of 16.
    #[test]
    fn the_count_agrees_with_burnside() {
        let mut fixed = 0;
        for turns in 0..4 {
            for reflected in [false, true] {
                for inverted in [false, true] {
                    fixed += (0..NUM_PATTERNS)
                        .filter(|pattern| {
                            let mut image = *pattern;
                            for _ in 0..turns {
                                image = quarter_turn(image);
                            }
                            image = if reflected { reflection(image) } else { image };
                            image = if inverted { inversion(image) } else { image };
                            image == *pattern
                        })
                        .count();
                }
            }
        }
        assert_eq!(fixed, 16 * 51);
    }

    proptest! {
        #[test]
        fn symmetric_patterns_share_a_class_and_it_is_the_smallest(pattern in 0..NUM_PATTERNS) {
            let class = pattern_class(pattern);
            prop_assert!(class <= pattern);
            prop_assert_eq!(pattern_class(class), class);
            prop_assert_eq!(pattern_class(quarter_turn(pattern)), class);
            prop_assert_eq!(pattern_class(reflection(pattern)), class);
            prop_assert_eq!(pattern_class(inversion(pattern)), class);
        }
    }
}
