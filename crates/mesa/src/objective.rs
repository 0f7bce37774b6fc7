//! The generator's objective: hinge at β minus α-weighted entropy (Algorithm 2).

use candle::{DType, Tensor};

use crate::{Error, Hinge, Observations, Result};

/// The hinge of a batch and its gradient.
#[derive(Clone, Debug)]
pub struct HingeLoss {
    /// Mean of `max(0, β − F)`.
    pub loss: f64,
    /// Its gradient with respect to the triggers, `(B, C, h, w)`, no graph attached.
    pub gradient: Tensor,
    /// Mean of all observations.
    pub mean_value: f64,
    /// Share of the observations (of the triggers' means, for [`Hinge::Mean`]) of β or more.
    pub share_reached: f64,
}

/// How far the observations of a batch fall short of β, and the gradient of that.
///
/// ```text
/// per image:  L = 1/(B m) Σᵢⱼ max(0, β − pᵢⱼ)        ∂L/∂xᵢ = −1/(B m) Σⱼ 1[pᵢⱼ < β] ∂pᵢⱼ/∂xᵢ
/// mean:       L = 1/B Σᵢ max(0, β − 1/m Σⱼ pᵢⱼ)      ∂L/∂xᵢ = −1/(B m) 1[mean < β] Σⱼ ∂pᵢⱼ/∂xᵢ
/// ```
///
/// # Errors
///
/// [`Error::EmptyBatch`] if nothing was observed; [`Error::Tensor`] if the shapes do not fit.
///
/// # Examples
///
/// ```
/// use candle::{Device, Tensor};
/// use mesa::{Hinge, Observations, hinge_loss};
///
/// let values = Tensor::new(&[[0.25f32], [0.75]], &Device::Cpu)?;
/// let gradients = Tensor::ones((2, 1, 3, 3, 3), candle::DType::F32, &Device::Cpu)?;
/// let hinge = hinge_loss(&Observations { values, gradients }, 0.5, Hinge::Image)?;
/// assert_eq!((hinge.loss, hinge.share_reached), (0.125, 0.5));
/// # Ok::<(), mesa::Error>(())
/// ```
pub fn hinge_loss(observations: &Observations, beta: f64, hinge: Hinge) -> Result<HingeLoss> {
    let (batch_size, images) = observations.values.dims2()?;
    if batch_size * images == 0 {
        return Err(Error::EmptyBatch);
    }
    let values = observations.values.to_dtype(DType::F32)?.to_vec2::<f32>()?;
    let mean_of = |row: &Vec<f32>| row.iter().copied().map(f64::from).sum::<f64>() / images as f64;
    // What the hinge is taken of, in f64, and how strongly each observation's gradient counts.
    let judged: Vec<f64> = match hinge {
        Hinge::Image => values.iter().flatten().copied().map(f64::from).collect(),
        Hinge::Mean => values.iter().map(mean_of).collect(),
    };
    let repeats = batch_size * images / judged.len();
    let weight = -1.0 / (batch_size * images) as f32;
    let weights: Vec<f32> = (judged.iter())
        .flat_map(|value| std::iter::repeat_n(if *value < beta { weight } else { 0.0 }, repeats))
        .collect();
    let device = observations.gradients.device();
    let weights = Tensor::from_vec(weights, (batch_size, images, 1, 1, 1), device)?;
    let gradient = observations
        .gradients
        .detach()
        .broadcast_mul(&weights)?
        .sum(1)?;
    let count = judged.len() as f64;
    Ok(HingeLoss {
        loss: judged
            .iter()
            .map(|value| (beta - value).max(0.0))
            .sum::<f64>()
            / count,
        gradient: gradient.detach(),
        mean_value: values.iter().map(mean_of).sum::<f64>() / batch_size as f64,
        share_reached: judged.iter().filter(|value| **value >= beta).count() as f64 / count,
    })
}

/// Below which value a testing function's gradient is needed.
pub(crate) fn gradient_needed_below(beta: f64, hinge: Hinge) -> f64 {
    match hinge {
        Hinge::Image => beta,
        // One image above β still moves a mean that is below.
        Hinge::Mean => f64::INFINITY,
    }
}

/// The gradient of the generator's objective, `hinge − α Î`, with respect to the triggers.
pub(crate) fn objective_gradient(
    hinge_gradient: &Tensor,
    information_gradient: &Tensor,
    alpha: f64,
) -> Result<Tensor> {
    Ok((hinge_gradient - (information_gradient * alpha)?)?)
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;
    use candle::Device;

    use super::*;

    /// m observations `x₀ · sⱼ + x₁²` of triggers of two numbers.
    fn observe(triggers: &[[f32; 2]], slopes: &[f32]) -> Observations {
        let (mut values, mut gradients) = (Vec::new(), Vec::new());
        for [a, b] in triggers {
            for slope in slopes {
                values.push(a * slope + b * b);
                gradients.extend([*slope, 2.0 * b]);
            }
        }
        let (count, images) = (triggers.len(), slopes.len());
        Observations {
            values: Tensor::from_vec(values, (count, images), &Device::Cpu).unwrap(),
            gradients: Tensor::from_vec(gradients, (count, images, 1, 1, 2), &Device::Cpu).unwrap(),
        }
    }

    #[test]
    fn both_hinges_gradients_agree_with_finite_differences() {
        let triggers = [[0.3, 0.5], [0.9, 0.8], [0.1, 0.2]];
        let slopes = [0.2, 0.7, 1.1];
        for hinge in [Hinge::Image, Hinge::Mean] {
            let loss = |triggers: &[[f32; 2]]| {
                hinge_loss(&observe(triggers, &slopes), 0.6, hinge).unwrap()
            };
            let gradient = loss(&triggers)
                .gradient
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap();
            for at in 0..6 {
                let moved = |by: f32| {
                    let mut triggers = triggers;
                    triggers[at / 2][at % 2] += by;
                    loss(&triggers).loss
                };
                let numeric = (moved(1e-3) - moved(-1e-3)) / 2e-3;
                assert_abs_diff_eq!(numeric, f64::from(gradient[at]), epsilon = 2e-4);
            }
        }
    }

    #[test]
    fn the_hinges_differ_where_one_image_is_above() {
        let observations = observe(&[[1.0, 0.0]], &[0.0, 1.0]);
        let image = hinge_loss(&observations, 0.5, Hinge::Image).unwrap();
        assert_eq!(
            (image.loss, image.share_reached, image.mean_value),
            (0.25, 0.5, 0.5)
        );
        let mean = hinge_loss(&observations, 0.5, Hinge::Mean).unwrap();
        assert_eq!(
            (mean.loss, mean.share_reached, mean.mean_value),
            (0.0, 1.0, 0.5)
        );
        let total = mean
            .gradient
            .abs()
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f32>()
            .unwrap();
        assert_abs_diff_eq!(total, 0.0);
    }

    #[test]
    fn rejects_an_empty_batch() {
        let error = hinge_loss(&observe(&[[0.0, 0.0]], &[]), 0.5, Hinge::Image).unwrap_err();
        assert!(matches!(error, Error::EmptyBatch));
    }

    #[test]
    fn the_objectives_gradient_is_hinge_minus_alpha_times_information() {
        let vector = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let (hinge, information) = (vector(&[-1.0, 2.0]), vector(&[1.0, 0.5]));
        let found = objective_gradient(&hinge, &information, 0.1).unwrap();
        let found = found.to_vec1::<f32>().unwrap();
        assert_abs_diff_eq!(found[0], -1.1, epsilon = 1e-6);
        assert_abs_diff_eq!(found[1], 1.95, epsilon = 1e-6);
    }
}
