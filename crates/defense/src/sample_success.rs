//! What a sub-model's samples do to the classifier they were fitted on.

use std::ops::ControlFlow;

use mesa::SubModel;
use mesa_datasets::Placement;
use mesa_models::Classifier;
use serde::{Deserialize, Serialize};

use crate::{DefenseImages, Result, SampleTesting, SuccessByPlace};

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
    /// Whether success is counted by place too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_place: bool,
}

impl SampleTest {
    /// 512 samples, each on 64 images at places of their own.
    pub fn standard(target_class: u32) -> Self {
        Self {
            target_class,
            samples: 512,
            images_per_sample: 64,
            placement: Placement::PerImage,
            by_place: false,
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
    /// Success in each place, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_place: Option<SuccessByPlace>,
}

/// Tests samples of a sub-model: drawn in evaluation mode and without noise, each stamped on
/// `images_per_sample` different images, walking through the images of other classes.
///
/// # Errors
///
/// [`crate::Error::TargetClass`]; [`crate::Error::TooFewOthers`] if fewer than `images_per_sample`
/// images belong to other classes.
///
/// # Examples
///
/// ```
/// use mesa::{MesaConfig, Processor, SubModelFit};
/// use mesa_datasets::{split, synthetic};
/// use mesa_defense::{DefenseImages, SampleTest, sample_success};
/// use mesa_models::{Network, Normalization, ResNetConfig, Seeds};
///
/// let config = ResNetConfig::resnet18(4, 10);
/// let mut rng = Seeds::new(0, "weights").start();
/// let suspect = Network::resnet(config, Normalization::cifar10(), &mut rng)?.freeze()?;
/// let images = DefenseImages::new(&synthetic(0, 1, 50).test, &split(50, 40, 0)?);
/// let config = MesaConfig { network_width: 16, ..MesaConfig::paper() };
/// let unfitted = SubModelFit::new(&Processor::Cpu, config, 0.9, Seeds::new(0, "fit"))?;
///
/// let test = SampleTest { samples: 10, images_per_sample: 4, ..SampleTest::standard(0) };
/// let found = sample_success(&suspect, &unfitted.into_sub_model()?, &images, test, 0)?;
/// assert!((0.0..=1.0).contains(&found.sample_asr));
/// assert_eq!(found.pixel_means.len(), 27);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn sample_success(
    classifier: &dyn Classifier,
    sub_model: &SubModel,
    images: &DefenseImages,
    test: SampleTest,
    seed: u64,
) -> Result<SampleSuccess> {
    let mut testing = SampleTesting::new(classifier, sub_model, images, test, seed)?;
    testing.run(classifier, &mut |_| ControlFlow::Continue(()))?;
    testing.finish()
}

/// Mean and (population) standard deviation of each pixel over the samples.
pub(crate) fn spread(flat: &[f32], samples: usize) -> (Vec<f64>, Vec<f64>) {
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

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}
