//! What a sub-model's samples do to the classifier they were fitted on.

use candle::{Device, Tensor};
use mesa::SubModel;
use mesa_datasets::{Placement, shuffled};
use mesa_models::{FrozenClassifier, Seeds};
use serde::{Deserialize, Serialize};

use crate::attack_success::{check_target, stamp_each};
use crate::{DefenseImages, Error, Result};

/// Stamped images per forward pass; the figures do not depend on it.
const BATCH_SIZE: usize = 256;

/// How samples of a sub-model are tested.
#[derive(Copy, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleTest {
    /// The class that was attacked.
    pub target_class: u32,
    /// Samples drawn.
    pub samples: usize,
    /// Images, none of the target class, that each sample is stamped on.
    pub images_per_sample: usize,
    /// Where the samples go.
    pub placement: Placement,
}

impl SampleTest {
    /// 512 samples, each on 64 images at places of their own.
    pub fn standard(target_class: u32) -> Self {
        Self {
            target_class,
            samples: 512,
            images_per_sample: 64,
            placement: Placement::PerImage,
        }
    }
}

/// What the samples of one sub-model do, and how they look.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SampleSuccess {
    /// Samples drawn.
    pub samples: usize,
    /// Images, none of the target class, that each sample was stamped on.
    pub images_per_sample: usize,
    /// Share of all stamped images that were predicted as the target class.
    pub sample_asr: f64,
    /// Share of the samples whose mean target probability over their images is β or more.
    pub in_level_set: f64,
    /// Mean target probability over all stamped images.
    pub mean_probability: f64,
    /// Mean of all pixel values, in [0, 1] units.
    pub sample_mean: f64,
    /// Standard deviation of a pixel over the samples, root mean square over the pixels.
    pub sample_std: f64,
    /// Mean of each pixel over the samples: channel, row, column.
    pub pixel_means: Vec<f64>,
    /// Standard deviation of each pixel over the samples: channel, row, column.
    pub pixel_stds: Vec<f64>,
}

/// Tests samples of a sub-model: drawn in evaluation mode and without noise, each stamped on
/// `images_per_sample` different images, walking through the images of other classes.
///
/// # Errors
///
/// [`Error::TargetClass`]; [`Error::TooFewOthers`] if fewer than `images_per_sample` images
/// belong to other classes.
///
/// # Examples
///
/// ```
/// use candle::Device;
/// use mesa::{MesaConfig, SubModelFit};
/// use mesa_datasets::{split, synthetic};
/// use mesa_defense::{DefenseImages, SampleTest, sample_success};
/// use mesa_models::{Network, Normalization, ResNetConfig, Seeds};
///
/// let config = ResNetConfig { width: 4, num_classes: 10 };
/// let mut rng = Seeds::new(0, "weights").start();
/// let suspect = Network::resnet18(config, Normalization::cifar10(), &mut rng)?.freeze()?;
/// let images = DefenseImages::new(&synthetic(0, 1, 50).test, &split(50, 40, 0)?);
/// let config = MesaConfig { network_width: 16, ..MesaConfig::paper() };
/// let unfitted = SubModelFit::new(&Device::Cpu, config, 0.9, Seeds::new(0, "fit"))?;
///
/// let test = SampleTest { samples: 10, images_per_sample: 4, ..SampleTest::standard(0) };
/// let found = sample_success(&suspect, &unfitted.into_sub_model(), &images, test, 0)?;
/// assert!((0.0..=1.0).contains(&found.sample_asr));
/// assert_eq!(found.pixel_means.len(), 27);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn sample_success(
    classifier: &FrozenClassifier,
    sub_model: &SubModel,
    images: &DefenseImages,
    test: SampleTest,
    seed: u64,
) -> Result<SampleSuccess> {
    check_target(classifier, test.target_class)?;
    let mut rng = Seeds::new(seed, "samples").start();
    let triggers = sub_model.sample(&mut rng, test.samples)?;
    let mut logits = |images: &Tensor| Ok(classifier.logits(images)?.to_vec2::<f32>()?);
    test_samples(
        &mut logits,
        &triggers,
        sub_model.info().beta,
        images,
        test,
        seed,
    )
}

/// The logits of a batch of images.
type Logits<'a> = &'a mut dyn FnMut(&Tensor) -> Result<Vec<Vec<f32>>>;

fn test_samples(
    logits: Logits<'_>,
    triggers: &Tensor,
    beta: f64,
    images: &DefenseImages,
    test: SampleTest,
    seed: u64,
) -> Result<SampleSuccess> {
    let (samples, _, height, width) = triggers.dims4()?;
    let flat = triggers.flatten_all()?.to_vec1::<f32>()?;
    let stamped = stamp_order(images, test, seed)?;
    let mut rng = Seeds::new(seed, "samples/places").start();
    let mut sums = vec![0.0; samples];
    let mut fooled = 0;
    let visits: Vec<usize> = (0..samples * test.images_per_sample).collect();
    for visits in visits.chunks(BATCH_SIZE) {
        let indices: Vec<usize> = visits
            .iter()
            .map(|visit| stamped[visit % stamped.len()])
            .collect();
        let sample_of = |visit: &usize| visit / test.images_per_sample;
        let patches: Vec<f32> = visits
            .iter()
            .flat_map(|visit| pixels_of(&flat, samples, sample_of(visit)))
            .copied()
            .collect();
        let mut batch = images.images().batch(&indices);
        stamp_each(
            &mut rng,
            &mut batch,
            &patches,
            (height, width),
            test.placement,
        )?;
        let rows = logits(&batch.into_tensors(&Device::Cpu)?.0)?;
        for (visit, row) in visits.iter().zip(&rows) {
            let (probability, is_target) = target_of(row, test.target_class as usize);
            sums[sample_of(visit)] += probability;
            fooled += usize::from(is_target);
        }
    }
    let per_sample = test.images_per_sample as f64;
    let inside = sums.iter().filter(|sum| **sum / per_sample >= beta).count();
    let count = samples as f64;
    let (pixel_means, pixel_stds) = spread(&flat, samples);
    Ok(SampleSuccess {
        samples,
        images_per_sample: test.images_per_sample,
        sample_asr: fooled as f64 / (count * per_sample),
        in_level_set: inside as f64 / count,
        mean_probability: sums.iter().sum::<f64>() / (count * per_sample),
        sample_mean: mean(&pixel_means),
        sample_std: mean(&pixel_stds.iter().map(|std| std * std).collect::<Vec<_>>()).sqrt(),
        pixel_means,
        pixel_stds,
    })
}

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
fn target_of(logits: &[f32], target_class: usize) -> (f64, bool) {
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
    (target / total, best == target_class)
}

/// Mean and (population) standard deviation of each pixel over the samples.
fn spread(flat: &[f32], samples: usize) -> (Vec<f64>, Vec<f64>) {
    let len = flat.len() / samples;
    (0..len)
        .map(|pixel| {
            let values = || {
                flat.iter()
                    .skip(pixel)
                    .step_by(len)
                    .map(|value| f64::from(*value))
            };
            let mean = values().sum::<f64>() / samples as f64;
            let square = values().map(|value| (value - mean).powi(2)).sum::<f64>();
            (mean, (square / samples as f64).sqrt())
        })
        .unzip()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[cfg(test)]
mod tests {
    use mesa_datasets::{split, synthetic};

    use super::*;

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
    fn gray_reader(images: &Tensor) -> Result<Vec<Vec<f32>>> {
        let grays = images.narrow(1, 0, 1)?.narrow(2, 2, 1)?.narrow(3, 5, 1)?;
        let grays = grays.flatten_all()?.to_vec1::<f32>()?;
        Ok(grays
            .iter()
            .map(|gray| vec![gray.ln(), (1.0 - gray).ln()])
            .collect())
    }

    #[test]
    fn counts_images_for_success_and_samples_for_the_level_set() {
        let grays = triggers([0.9, 0.6, 0.85, 0.1]);
        let found = test_samples(&mut gray_reader, &grays, 0.8, &images(), test(), 0).unwrap();
        assert_eq!((found.sample_asr, found.in_level_set), (0.75, 0.5));
        assert!((found.mean_probability - 2.45 / 4.0).abs() < 1e-6);
        assert!((found.sample_mean - 2.45 / 4.0).abs() < 1e-6);
        assert_eq!(found.pixel_stds.len(), 27);
    }

    #[test]
    fn a_collapsed_generator_has_no_spread() {
        let found = test_samples(
            &mut gray_reader,
            &triggers([0.5; 4]),
            0.8,
            &images(),
            test(),
            0,
        )
        .unwrap();
        assert!(found.sample_std < 1e-9);
        let found = test_samples(
            &mut gray_reader,
            &triggers([0.1, 0.9, 0.1, 0.9]),
            0.8,
            &images(),
            test(),
            0,
        )
        .unwrap();
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
