//! The test of a sub-model's samples batch by batch.

use std::ops::{ControlFlow, Range};

use candle::Tensor;
use mesa::SubModel;
use mesa_datasets::shuffled;
use mesa_models::{Classifier, ImagePool, Recipe, Seeds};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::attack_success::{check_target, pool_of, stamp_at};
use crate::sample_success::{mean, spread};
use crate::{DefenseImages, Error, Result, SampleSuccess, SampleTest, SuccessByPlace};

/// Stamped images per forward pass. With a place for each batch it is how many share one; else no figure
/// depends on it.
const BATCH_SIZE: usize = 256;

/// The test of [`crate::sample_success`] batch by batch, to be stopped and taken up anywhere: the figures
/// are the same to the last bit.
#[derive(Clone, Debug)]
pub struct SampleTesting {
    images: DefenseImages,
    test: SampleTest,
    beta: f64,
    /// The samples' pixels, one after another.
    pixels: Vec<f32>,
    size: (usize, usize),
    /// The images of other classes, in the order in which they are stamped.
    order: Vec<usize>,
    place_seeds: Seeds,
    progress: SampleProgress,
}

/// What a [`SampleTesting`] has counted so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleProgress {
    /// Batches that are done.
    pub batches: usize,
    /// Stamped images that were predicted as the target class.
    pub fooled: usize,
    /// Of each sample, the sum of its images' target probabilities.
    pub probabilities: Vec<f64>,
    /// What was counted in each place, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_place: Option<SuccessByPlace>,
}

impl SampleTesting {
    /// A test that is about to begin.
    ///
    /// # Errors
    ///
    /// As [`crate::sample_success`].
    pub fn new(
        classifier: &dyn Classifier,
        sub_model: &SubModel,
        images: &DefenseImages,
        test: SampleTest,
        seed: u64,
    ) -> Result<Self> {
        check_target(classifier, test.target_class)?;
        let mut rng = Seeds::new(seed, "samples").start();
        let triggers = sub_model.sample(&mut rng, test.samples)?;
        Self::of_triggers(&triggers, sub_model.info().beta, images, test, seed)
    }

    fn of_triggers(
        triggers: &Tensor,
        beta: f64,
        images: &DefenseImages,
        test: SampleTest,
        seed: u64,
    ) -> Result<Self> {
        let (samples, _, height, width) = triggers.dims4()?;
        let count = || SuccessByPlace::new(images.images().size(), (height, width));
        Ok(Self {
            beta,
            pixels: triggers.flatten_all()?.to_vec1()?,
            size: (height, width),
            order: stamp_order(images, test, seed)?,
            place_seeds: Seeds::new(seed, "samples/places"),
            images: images.clone(),
            test,
            progress: SampleProgress {
                probabilities: vec![0.0; samples],
                by_place: test.by_place.then(count),
                ..SampleProgress::default()
            },
        })
    }

    /// Tests batches until all are done or `observe`, which is called after each, breaks.
    ///
    /// # Errors
    ///
    /// [`Error::Dataset`] if a trigger does not fit its place, [`Error::Model`] if the classifier
    /// fails.
    pub fn run(
        &mut self,
        classifier: &dyn Classifier,
        observe: &mut dyn FnMut(&Self) -> ControlFlow<()>,
    ) -> Result<()> {
        let classes = classifier.num_classes();
        let mut logits = |pool: &ImagePool, recipe: &Recipe| {
            let scores = classifier.scores(pool, recipe)?;
            Ok(scores.chunks(classes).map(<[f32]>::to_vec).collect())
        };
        self.run_with(&mut logits, observe)
    }

    /// Batches of the whole test.
    pub fn batches(&self) -> usize {
        self.visits().div_ceil(BATCH_SIZE)
    }

    /// Images in a batch, but for the last.
    pub fn batch_size(&self) -> usize {
        BATCH_SIZE
    }

    /// What was counted so far.
    pub fn progress(&self) -> &SampleProgress {
        &self.progress
    }

    /// Goes on where [`SampleTesting::progress`] was taken.
    ///
    /// # Errors
    ///
    /// [`Error::OtherTest`] if it is that of a test of another size.
    pub fn resume(&mut self, progress: SampleProgress) -> Result<()> {
        let (samples, found) = (self.test.samples, progress.probabilities.len());
        let places = |progress: &SampleProgress| {
            let counted = progress.by_place.as_ref();
            counted.map(|counted| (counted.columns, counted.stamped.len(), counted.fooled.len()))
        };
        let same_places = places(&progress) == places(&self.progress);
        if found != samples || progress.batches > self.batches() || !same_places {
            return Err(Error::OtherTest {
                samples,
                batches: self.batches(),
                found_samples: found,
                found_batches: progress.batches,
            });
        }
        self.progress = progress;
        Ok(())
    }

    /// The figures, once all batches are done.
    ///
    /// # Errors
    ///
    /// [`Error::Unfinished`] before.
    pub fn finish(self) -> Result<SampleSuccess> {
        let (done, batches) = (self.progress.batches, self.batches());
        if done < batches {
            return Err(Error::Unfinished { done, batches });
        }
        let per_sample = self.test.images_per_sample as f64;
        let sums = &self.progress.probabilities;
        let inside = sums.iter().filter(|sum| **sum / per_sample >= self.beta);
        let count = sums.len() as f64;
        let (pixel_means, pixel_stds) = spread(&self.pixels, sums.len());
        Ok(SampleSuccess {
            samples: sums.len(),
            images_per_sample: self.test.images_per_sample,
            sample_asr: self.progress.fooled as f64 / (count * per_sample),
            in_level_set: inside.count() as f64 / count,
            mean_probability: sums.iter().sum::<f64>() / (count * per_sample),
            sample_mean: mean(&pixel_means),
            sample_std: mean(&pixel_stds.iter().map(|std| std * std).collect::<Vec<_>>()).sqrt(),
            pixel_means,
            pixel_stds,
            by_place: self.progress.by_place,
        })
    }

    fn run_with(
        &mut self,
        logits: Logits<'_>,
        observe: &mut dyn FnMut(&Self) -> ControlFlow<()>,
    ) -> Result<()> {
        let pool = pool_of(self.images.images())?;
        let mut rng = self.place_seeds.start();
        // All places come from one stream: those of the batches done before are drawn again.
        for batch in 0..self.progress.batches {
            let (count, image) = (self.batch_at(batch).len(), self.images.images().size());
            self.test
                .placement
                .places(&mut rng, count, image, self.size)?;
        }
        while self.progress.batches < self.batches() {
            self.test_batch(logits, &pool, &mut rng)?;
            self.progress.batches += 1;
            if observe(self).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn test_batch(
        &mut self,
        logits: Logits<'_>,
        pool: &ImagePool,
        rng: &mut impl Rng,
    ) -> Result<()> {
        let visits = self.batch_at(self.progress.batches);
        let samples = self.progress.probabilities.len();
        let sample_of = |visit: usize| visit / self.test.images_per_sample;
        let indices: Vec<usize> = visits
            .clone()
            .map(|visit| self.order[visit % self.order.len()])
            .collect();
        let patches: Vec<f32> = visits
            .clone()
            .flat_map(|visit| pixels_of(&self.pixels, samples, sample_of(visit)))
            .copied()
            .collect();
        let images = self.images.images();
        let (placement, count) = (self.test.placement, indices.len());
        let places = placement.places(rng, count, images.size(), self.size)?;
        let recipe = stamp_at(&places, (images, &indices), &patches, self.size);
        let rows = logits(pool, &recipe)?;
        for ((visit, row), place) in visits.zip(&rows).zip(places) {
            let (probability, is_target) = target_of(row, self.test.target_class as usize)?;
            self.progress.probabilities[sample_of(visit)] += probability;
            self.progress.fooled += usize::from(is_target);
            if let Some(by_place) = &mut self.progress.by_place {
                by_place.count(place, is_target);
            }
        }
        Ok(())
    }

    /// Stamped images of the whole test, numbered sample by sample.
    fn visits(&self) -> usize {
        self.progress.probabilities.len() * self.test.images_per_sample
    }

    fn batch_at(&self, batch: usize) -> Range<usize> {
        let start = batch * BATCH_SIZE;
        start..(start + BATCH_SIZE).min(self.visits())
    }
}

/// The logits of a batch of images.
type Logits<'a> = &'a mut dyn FnMut(&ImagePool, &Recipe) -> Result<Vec<Vec<f32>>>;

/// The images of other classes than the target, in random order.
fn stamp_order(images: &DefenseImages, test: SampleTest, seed: u64) -> Result<Vec<usize>> {
    let others = images.images().not_of_class(test.target_class);
    if others.len() < test.images_per_sample.max(1) {
        return Err(Error::TooFewOthers {
            found: others.len(),
            needed: test.images_per_sample.max(1),
            target_class: test.target_class,
        });
    }
    let mut rng = Seeds::new(seed, "samples/order").start();
    let order = shuffled(&mut rng, others.len());
    Ok(order.into_iter().map(|index| others[index]).collect())
}

fn pixels_of(flat: &[f32], samples: usize, sample: usize) -> &[f32] {
    let len = flat.len() / samples;
    &flat[sample * len..][..len]
}

/// Softmax probability of the target class, and whether it is the prediction.
fn target_of(logits: &[f32], target_class: usize) -> Result<(f64, bool)> {
    if logits.iter().any(|logit| !logit.is_finite()) {
        return Err(Error::NoScores);
    }
    let mut best = 0;
    for (class, logit) in logits.iter().enumerate() {
        if *logit > logits[best] {
            best = class;
        }
    }
    let largest = f64::from(logits[best]);
    let total: f64 = logits
        .iter()
        .map(|logit| (f64::from(*logit) - largest).exp())
        .sum();
    let target = (f64::from(logits[target_class]) - largest).exp();
    Ok((target / total, best == target_class))
}

#[cfg(test)]
mod tests {
    use candle::Device;
    use mesa_datasets::{Placement, split, synthetic};

    use super::*;

    #[test]
    fn scores_that_are_no_numbers_are_no_answer() {
        let (probability, is_target) = target_of(&[0.0, 3_f32.ln()], 1).unwrap();
        assert!((probability - 0.75).abs() < 1e-6 && is_target);
        for strange in [f32::NAN, f32::INFINITY] {
            let refused = target_of(&[0.0, strange], 0);
            assert!(matches!(refused, Err(Error::NoScores)), "{strange}");
        }
    }

    fn images() -> DefenseImages {
        DefenseImages::new(&synthetic(0, 1, 60).test, &split(60, 50, 0).unwrap())
    }

    fn test() -> SampleTest {
        SampleTest {
            samples: 4,
            images_per_sample: 6,
            placement: Placement::Fixed { row: 2, column: 5 },
            ..SampleTest::standard(0)
        }
    }

    /// Triggers of one gray each.
    fn triggers(grays: [f32; 4]) -> Tensor {
        let flat: Vec<f32> = grays.iter().flat_map(|gray| [*gray; 27]).collect();
        Tensor::from_vec(flat, (4, 3, 3, 3), &Device::Cpu).unwrap()
    }

    /// Class 0 with the probability that the patch's first pixel says, else class 1.
    fn gray_reader(pool: &ImagePool, recipe: &Recipe) -> Result<Vec<Vec<f32>>> {
        let (images, _) = pool.batch(recipe)?;
        let grays = images.narrow(1, 0, 1)?.narrow(2, 2, 1)?.narrow(3, 5, 1)?;
        let grays = grays.flatten_all()?.to_vec1::<f32>()?;
        Ok(grays
            .iter()
            .map(|gray| vec![gray.ln(), (1.0 - gray).ln()])
            .collect())
    }

    fn testing(triggers: &Tensor, test: SampleTest) -> SampleTesting {
        SampleTesting::of_triggers(triggers, 0.8, &images(), test, 0).unwrap()
    }

    fn whole(triggers: &Tensor) -> SampleSuccess {
        let mut testing = testing(triggers, test());
        let go_on = &mut |_: &SampleTesting| ControlFlow::Continue(());
        testing.run_with(&mut gray_reader, go_on).unwrap();
        testing.finish().unwrap()
    }

    #[test]
    fn stopped_anywhere_it_ends_with_the_same_figures_to_the_last_bit() {
        // 800 stamped images in four batches, at places of their own.
        let test = SampleTest {
            images_per_sample: 20,
            samples: 40,
            placement: Placement::PerImage,
            by_place: true,
            ..test()
        };
        let mut rng = Seeds::new(1, "triggers").start();
        let flat: Vec<f32> = (0..40 * 27).map(|_| rng.random()).collect();
        let triggers = Tensor::from_vec(flat, (40, 3, 3, 3), &Device::Cpu).unwrap();
        let tested = |stop_after: &[usize]| {
            let mut forward_passes = 0;
            let mut progress = testing(&triggers, test).progress().clone();
            for stop in stop_after.iter().chain([&usize::MAX]) {
                let mut testing = testing(&triggers, test);
                testing.resume(progress).unwrap();
                let mut logits = |pool: &ImagePool, recipe: &Recipe| {
                    let (images, _) = pool.batch(recipe)?;
                    forward_passes += 1;
                    // A score that depends on every pixel, and so on the places.
                    let weights: Vec<f32> = (0..3072).map(|i| (i as f32).sin()).collect();
                    let weights = Tensor::from_vec(weights, (3072, 1), &Device::Cpu)?;
                    let scores = images.flatten_from(1)?.matmul(&weights)?;
                    let scores = scores.flatten_all()?.to_vec1::<f32>()?;
                    Ok(scores.iter().map(|score| vec![*score, 0.0]).collect())
                };
                let mut observe = |testing: &SampleTesting| {
                    if testing.progress().batches >= *stop {
                        ControlFlow::Break(())
                    } else {
                        ControlFlow::Continue(())
                    }
                };
                testing.run_with(&mut logits, &mut observe).unwrap();
                progress = testing.progress().clone();
            }
            let mut testing = testing(&triggers, test);
            testing.resume(progress).unwrap();
            (testing.finish().unwrap(), forward_passes)
        };
        let (expected, passes) = tested(&[]);
        assert_eq!(passes, 4);
        let places = expected.by_place.as_ref().unwrap();
        assert_eq!(places.stamped.iter().sum::<u32>(), 800);
        let fooled: u32 = places.fooled.iter().sum();
        assert_eq!(fooled, (800.0 * expected.sample_asr).round() as u32);
        for stops in [&[1][..], &[2], &[3], &[1, 2, 3]] {
            let (found, passes) = tested(stops);
            assert_eq!(found, expected, "{stops:?}");
            assert_eq!(passes, 4, "nothing is tested twice: {stops:?}");
        }
    }

    #[test]
    fn refuses_to_end_early_and_to_go_on_with_another_test() {
        let grays = triggers([0.5; 4]);
        let unfinished = testing(&grays, test()).finish();
        assert!(matches!(
            unfinished,
            Err(Error::Unfinished {
                done: 0,
                batches: 1
            })
        ));
        let other = SampleProgress {
            probabilities: vec![0.0; 3],
            ..SampleProgress::default()
        };
        let refused = testing(&grays, test()).resume(other);
        assert!(matches!(
            refused,
            Err(Error::OtherTest {
                found_samples: 3,
                ..
            })
        ));
        let counted = SampleTest {
            by_place: true,
            ..test()
        };
        let uncounted = testing(&grays, test()).progress().clone();
        let refused = testing(&grays, counted).resume(uncounted);
        assert!(matches!(refused, Err(Error::OtherTest { .. })));
    }

    #[test]
    fn counts_images_for_success_and_samples_for_the_level_set() {
        let grays = triggers([0.9, 0.6, 0.85, 0.1]);
        let found = whole(&grays);
        assert_eq!((found.sample_asr, found.in_level_set), (0.75, 0.5));
        assert!((found.mean_probability - 2.45 / 4.0).abs() < 1e-6);
        assert!((found.sample_mean - 2.45 / 4.0).abs() < 1e-6);
        assert_eq!(found.pixel_stds.len(), 27);
    }

    #[test]
    fn success_is_counted_where_it_was() {
        let counted = SampleTest {
            by_place: true,
            ..test()
        };
        let mut testing = testing(&triggers([0.9, 0.6, 0.85, 0.1]), counted);
        let go_on = &mut |_: &SampleTesting| ControlFlow::Continue(());
        testing.run_with(&mut gray_reader, go_on).unwrap();
        let found = testing.finish().unwrap().by_place.unwrap();
        let there = 2 * 30 + 5;
        assert_eq!((found.stamped[there], found.fooled[there]), (24, 18));
        assert_eq!(found.stamped.iter().sum::<u32>(), 24);
        assert_eq!(whole(&triggers([0.5; 4])).by_place, None);
    }

    #[test]
    fn a_collapsed_generator_has_no_spread() {
        let found = whole(&triggers([0.5; 4]));
        assert!(found.sample_std < 1e-9);
        let found = whole(&triggers([0.1, 0.9, 0.1, 0.9]));
        assert!((found.sample_std - 0.4).abs() < 1e-6);
    }

    #[test]
    fn stamps_images_of_other_classes_only() {
        let images = images();
        let order = stamp_order(&images, test(), 0).unwrap();
        assert!(
            order
                .iter()
                .all(|index| images.images().labels()[*index] != 0)
        );
        assert_eq!(order.len(), images.images().not_of_class(0).len());
        let all = SampleTest {
            images_per_sample: 51,
            ..test()
        };
        assert!(matches!(
            stamp_order(&images, all, 0),
            Err(Error::TooFewOthers { .. })
        ));
    }
}
