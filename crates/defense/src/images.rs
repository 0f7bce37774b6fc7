//! What a defender holds: the first part of the split, never the evaluation images.

use mesa_datasets::{Images, Split};

/// Clean, labeled images that trigger modeling and retraining work with.
///
/// It is made of a split's first part only, so no function of this crate can be handed the
/// images that results are measured on.
///
/// # Examples
///
/// ```
/// use mesa_datasets::{split, synthetic};
/// use mesa_defense::DefenseImages;
///
/// let test = synthetic(0, 1, 100).test;
/// let split = split(100, 80, 0)?;
/// assert_eq!(DefenseImages::new(&test, &split).images().len(), 80);
/// # Ok::<(), mesa_datasets::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DefenseImages(Images);

impl DefenseImages {
    /// The images of `split.first`, in its order.
    ///
    /// # Panics
    ///
    /// If the split belongs to more images than there are.
    pub fn new(images: &Images, split: &Split) -> Self {
        Self(images.select(split.first()))
    }

    /// The first `count` of them, or all where there are fewer: for runs that must be short.
    #[must_use]
    pub fn take(&self, count: usize) -> Self {
        let indices: Vec<usize> = (0..count.min(self.0.len())).collect();
        Self(self.0.select(&indices))
    }

    /// The images and their true labels.
    pub fn images(&self) -> &Images {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use mesa_datasets::{split, synthetic};

    use super::*;

    #[test]
    fn holds_no_evaluation_image() {
        let test = synthetic(0, 1, 50).test;
        let split = split(50, 40, 1).unwrap();
        let held = DefenseImages::new(&test, &split);
        for (position, index) in split.first().iter().enumerate() {
            assert_eq!(held.images().image(position), test.image(*index));
            assert_eq!(held.images().labels()[position], test.labels()[*index]);
        }
        let evaluation = test.select(split.second());
        for index in 0..evaluation.len() {
            let same = |held_at| held.images().image(held_at) == evaluation.image(index);
            assert!(!(0..held.images().len()).any(same));
        }
        assert_eq!(held.take(7).images().len(), 7);
        assert_eq!(held.take(70).images().len(), 40);
    }
}
