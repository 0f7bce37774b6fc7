//! A classifier in evaluation mode, wherever it is computed.

use std::fmt::Debug;
use std::sync::Arc;

use candle::Tensor;
use mesa_kernels::TargetGradient;

use crate::host::argmax;
use crate::{FrozenClassifier, ImagePool, Normalization, Recipe, Result};

/// What is asked of a classifier that no longer changes.
///
/// Images are told as recipes, so that a GPU makes them of what it holds.
pub trait Classifier: Debug + Send + Sync {
    /// Number of classes.
    fn num_classes(&self) -> usize;

    /// How images are normalized before the network sees them.
    fn normalization(&self) -> Normalization;

    /// Scores of the classes, `(B, K)`, row by row.
    ///
    /// # Errors
    ///
    /// [`crate::Error::Batch`] for images or triggers that do not exist, or images that are cropped.
    fn scores(&self, pool: &ImagePool, recipe: &Recipe) -> Result<Vec<f32>>;

    /// The probability of `target_class` for every image `(B,)`, and the gradient of what is
    /// `wanted` with respect to the pixels under the trigger that it is stamped with,
    /// f32 `(B, 3, h, w)` per unit of pixel value.
    ///
    /// # Errors
    ///
    /// As for [`Classifier::scores`]; also for a class that does not exist, an image that is not
    /// stamped, or triggers that do not replace all pixels under them.
    fn trigger_gradient(
        &self,
        pool: &ImagePool,
        recipe: &Recipe,
        target_class: u32,
        wanted: TargetGradient,
    ) -> Result<(Vec<f32>, Tensor)>;

    /// The most likely class of every image, the first of equals.
    ///
    /// # Errors
    ///
    /// As for [`Classifier::scores`].
    fn classes(&self, pool: &ImagePool, recipe: &Recipe) -> Result<Vec<u32>> {
        let scores = self.scores(pool, recipe)?;
        let rows = scores.chunks(self.num_classes());
        Ok(rows.map(|row| argmax(row) as u32).collect())
    }
}

impl Classifier for FrozenClassifier {
    fn num_classes(&self) -> usize {
        self.num_classes()
    }

    fn normalization(&self) -> Normalization {
        self.normalization()
    }

    fn scores(&self, pool: &ImagePool, recipe: &Recipe) -> Result<Vec<f32>> {
        recipe.check_uncropped()?;
        let (images, _) = pool.batch(recipe)?;
        Ok(self.logits(&images)?.flatten_all()?.to_vec1()?)
    }

    fn trigger_gradient(
        &self,
        pool: &ImagePool,
        recipe: &Recipe,
        target_class: u32,
        wanted: TargetGradient,
    ) -> Result<(Vec<f32>, Tensor)> {
        recipe.check_uncropped()?;
        let (images, _) = pool.batch(recipe)?;
        let (places, size) = (recipe.places()?, recipe.triggers.size);
        self.target_gradient(&images, target_class, &places, size, wanted)
    }
}

impl<C: Classifier + ?Sized> Classifier for Arc<C> {
    fn num_classes(&self) -> usize {
        (**self).num_classes()
    }

    fn normalization(&self) -> Normalization {
        (**self).normalization()
    }

    fn scores(&self, pool: &ImagePool, recipe: &Recipe) -> Result<Vec<f32>> {
        (**self).scores(pool, recipe)
    }

    fn trigger_gradient(
        &self,
        pool: &ImagePool,
        recipe: &Recipe,
        target_class: u32,
        wanted: TargetGradient,
    ) -> Result<(Vec<f32>, Tensor)> {
        (**self).trigger_gradient(pool, recipe, target_class, wanted)
    }

    fn classes(&self, pool: &ImagePool, recipe: &Recipe) -> Result<Vec<u32>> {
        (**self).classes(pool, recipe)
    }
}
