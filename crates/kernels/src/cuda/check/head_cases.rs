//! Pooling, the linear layer, both losses and their gradients against the reference.

use super::reference::{softmax, wide};
use super::{Comparison, noise, tolerance};
use crate::cuda::algorithm::Precision;
use crate::cuda::buffer::{DeviceBuffer, Place, Values};
use crate::cuda::device::CudaDevice;
use crate::cuda::failure::Result;
use crate::cuda::head::{CudaHead, LinearParameters, Totals};
use crate::cuda::images::{BatchPlans, DevicePlans};
use crate::cuda::packing::PlanLimits;
use crate::{ImagePlan, TargetGradient};

const BATCH: usize = 5;
const PIXELS: usize = 16;
const CHANNELS: usize = 40;
const CLASSES: usize = 10;
const SMOOTHING: f64 = 0.1;
const TARGET: usize = 3;
const WEIGHT: Place = Place {
    offset: 0,
    len: CLASSES * CHANNELS,
};
const BIAS: Place = Place {
    offset: CLASSES * CHANNELS,
    len: CLASSES,
};

/// What the head comes to, in f64.
struct Expected {
    logits: Vec<f64>,
    /// The likeliest class of every other image, the next one of the rest.
    labels: Vec<usize>,
    right: usize,
    chances: Vec<f64>,
    /// Summed over images.
    loss: f64,
    /// Of the mean loss.
    of_logits: Vec<f64>,
    of_parameters: Vec<f64>,
    of_features: Vec<f64>,
}

impl Expected {
    fn of(features: &[f32], parameters: &[f32]) -> Self {
        let w = wide(parameters);
        let mut pooled = vec![0.0; BATCH * CHANNELS];
        for (at, value) in features.iter().enumerate() {
            let image = at / (PIXELS * CHANNELS);
            pooled[image * CHANNELS + at % CHANNELS] += f64::from(*value) / PIXELS as f64;
        }
        let logit = |at: usize| {
            let (image, class) = (at / CLASSES, at % CLASSES);
            let row = &w[class * CHANNELS..][..CHANNELS];
            let pooled = &pooled[image * CHANNELS..][..CHANNELS];
            let product: f64 = row.iter().zip(pooled).map(|(w, x)| w * x).sum();
            product + w[BIAS.offset + class]
        };
        let logits: Vec<f64> = (0..BATCH * CLASSES).map(logit).collect();
        let chances: Vec<f64> = logits.chunks(CLASSES).flat_map(softmax).collect();
        let labels: Vec<usize> = (0..BATCH)
            .map(|image| {
                let row = &logits[image * CLASSES..][..CLASSES];
                let likeliest = (0..CLASSES).fold(0, |a, b| if row[b] > row[a] { b } else { a });
                (likeliest + image % 2) % CLASSES
            })
            .collect();
        let wanted = |at: usize| {
            let label = f64::from(u8::from(at % CLASSES == labels[at / CLASSES]));
            (1.0 - SMOOTHING) * label + SMOOTHING / CLASSES as f64
        };
        let loss = (0..logits.len()).map(|at| -wanted(at) * chances[at].ln());
        let slope = |at: usize| (chances[at] - wanted(at)) / BATCH as f64;
        let of_logits: Vec<f64> = (0..logits.len()).map(slope).collect();
        let mut of_parameters = vec![0.0; parameters.len()];
        let mut of_features = vec![0.0; features.len()];
        for (at, slope) in of_logits.iter().enumerate() {
            let (image, class) = (at / CLASSES, at % CLASSES);
            of_parameters[BIAS.offset + class] += slope;
            for channel in 0..CHANNELS {
                let weight = class * CHANNELS + channel;
                of_parameters[weight] += slope * pooled[image * CHANNELS + channel];
                for pixel in 0..PIXELS {
                    of_features[(image * PIXELS + pixel) * CHANNELS + channel] +=
                        slope * w[weight] / PIXELS as f64;
                }
            }
        }
        Self {
            loss: loss.sum(),
            right: BATCH.div_ceil(2),
            labels: labels.clone(),
            logits: logits.clone(),
            chances,
            of_logits,
            of_parameters,
            of_features,
        }
    }

    /// The gradient of what is wanted of the target class with respect to the logits.
    fn of_target(&self, wanted: TargetGradient) -> Vec<f64> {
        let slope = |at: usize| {
            let p = self.chances[at / CLASSES * CLASSES + TARGET];
            let factor = match wanted {
                TargetGradient::LogProbability => 1.0,
                TargetGradient::Probability(below) if p < f64::from(below) => p,
                TargetGradient::Probability(_) => 0.0,
            };
            factor * (f64::from(u8::from(at % CLASSES == TARGET)) - self.chances[at])
        };
        (0..self.chances.len()).map(slope).collect()
    }
}

fn plans(device: &CudaDevice, labels: &[usize]) -> Result<BatchPlans> {
    let limits = PlanLimits {
        images: 1,
        size: (8, 8),
        classes: CLASSES,
        triggers: 0,
        trigger_size: (1, 1),
    };
    let plans = labels.iter().map(|label| ImagePlan::plain(0, *label));
    let plans: Vec<ImagePlan> = plans.collect();
    let mut batch = BatchPlans::new(device, plans.len(), limits)?;
    batch.take(&DevicePlans::new(device, &plans, limits)?, 0)?;
    Ok(batch)
}

/// The whole head, forward and backward.
pub(super) fn head(
    device: &CudaDevice,
    precision: Precision,
    found: &mut Vec<Comparison>,
) -> Result<()> {
    let features = noise(8, BATCH * PIXELS * CHANNELS);
    let features = Values::from_slice(device, &features, precision)?;
    let flat = noise(9, WEIGHT.len + BIAS.len);
    let weights = DeviceBuffer::from_slice(device, &flat)?;
    let parameters = LinearParameters {
        weights: &weights,
        weight: WEIGHT,
        bias: BIAS,
    };
    let mut head = CudaHead::new(device, BATCH, PIXELS, CHANNELS, CLASSES, precision)?;
    let mut totals = Totals::new(device)?;
    let mut of_parameters = DeviceBuffer::zeros(device, flat.len())?;
    let mut of_features = Values::zeros(device, features.len(), precision)?;
    let expected = Expected::of(&features.read()?, &flat);
    let plans = plans(device, &expected.labels)?;
    head.forward(&features, parameters)?;
    // Twice, so that totals have something to add up.
    head.set_smoothing(SMOOTHING as f32)?;
    head.loss(&plans, &mut totals)?;
    head.loss(&plans, &mut totals)?;
    head.weight_gradients((&mut of_parameters, WEIGHT, BIAS))?;
    head.feature_gradient(parameters, &mut of_features)?;

    let mut compare = |name: &str, result: &[f32], expected: &[f64], precision: Precision| {
        let bar = tolerance(precision);
        found.push(Comparison::of_each(name, precision, result, expected, bar));
    };
    // Everything but the feature maps' gradient is f32, whatever the feature maps are.
    let exact = Precision::F32;
    let logits = head.logits().read()?;
    compare("logits", &logits, &expected.logits, exact);
    let (loss, correct) = totals.take()?;
    compare(
        "cross-entropy",
        &[loss as f32],
        &[2.0 * expected.loss],
        exact,
    );
    let right = [2.0 * expected.right as f64];
    compare("right answers", &[correct as f32], &right, exact);
    let slopes = head.logit_gradient().read()?;
    compare(
        "gradient of cross-entropy",
        &slopes,
        &expected.of_logits,
        exact,
    );
    let result = of_parameters.read()?;
    compare(
        "linear layer's gradients",
        &result,
        &expected.of_parameters,
        exact,
    );
    let result = of_features.read()?;
    compare(
        "feature maps' gradient",
        &result,
        &expected.of_features,
        precision,
    );

    let p = expected.chances.chunks(CLASSES).map(|row| row[TARGET]);
    let p: Vec<f64> = p.collect();
    let below = (p.iter().sum::<f64>() / p.len() as f64) as f32;
    for (name, wanted) in [
        ("gradient of ln p", TargetGradient::LogProbability),
        (
            "gradient of p below a bound",
            TargetGradient::Probability(below),
        ),
    ] {
        head.set_target(TARGET, wanted)?;
        head.target()?;
        let slopes = head.logit_gradient().read()?;
        compare(name, &slopes, &expected.of_target(wanted), exact);
    }
    compare("probabilities", &head.probabilities().read()?, &p, exact);
    Ok(())
}
