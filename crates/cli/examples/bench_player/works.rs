//! Training, inference and MESA, each as something that advances by steps.

use std::ops::ControlFlow;

use anyhow::{Result, ensure};
use candle::{Device, Tensor};
use mesa::{MesaConfig, SubModelFit};
use mesa_datasets::{Images, split, synthetic};
use mesa_defense::{AttackSuccess, AttackSuccessConfig, DefenseImages};
use mesa_models::{IMAGE_SIDE, Network, Normalization, Processor, ResNetConfig, Seeds, Sgd};
use rand::Rng as _;

/// Takes so many steps.
pub(crate) type Advance = Box<dyn FnMut(usize) -> Result<()>>;

/// More passes than anybody waits for.
pub(crate) const ENDLESS: usize = 1_000_000;

pub(crate) const CLASSES: usize = 10;

/// The defender's images, as many as the paper's.
const MODELING_IMAGES: usize = 8_000;

/// The images of the evaluation, as many as the paper's.
const EVALUATION_IMAGES: usize = 2_000;

/// An untrained classifier: it is as fast as a trained one.
pub(crate) fn network(width: usize) -> Result<Network> {
    let config = ResNetConfig::resnet18(width, CLASSES);
    let mut rng = Seeds::new(0, "bench").start();
    let normalization = Normalization::cifar10();
    Ok(Network::resnet(config, normalization, &mut rng)?)
}

/// The built-in classes in the paper's numbers: to defend with, and to evaluate on.
pub(crate) fn images() -> Result<(DefenseImages, Images)> {
    let test = synthetic(0, 1, MODELING_IMAGES + EVALUATION_IMAGES).test;
    let split = split(test.len(), MODELING_IMAGES, 0)?;
    let evaluation = test.select(split.second());
    Ok((DefenseImages::new(&test, &split), evaluation))
}

/// Training steps: forward, loss, backward, update, on random images.
pub(crate) fn train(width: usize, batch_size: usize) -> Result<Advance> {
    let mut network = network(width)?;
    let mut optimizer = Sgd::new(0.9, 0.0);
    let (images, labels) = batch(batch_size)?;
    Ok(Box::new(move |steps| {
        for _ in 0..steps {
            network.gradients(&images, &labels, 0.0)?;
            optimizer.step(&mut network, 1e-3);
        }
        Ok(())
    }))
}

/// Logits of random images.
pub(crate) fn evaluate(width: usize, batch_size: usize) -> Result<Advance> {
    let classifier = network(width)?.freeze()?;
    let (images, _) = batch(batch_size)?;
    Ok(Box::new(move |steps| {
        for _ in 0..steps {
            classifier.logits(&images)?;
        }
        Ok(())
    }))
}

/// Iterations of MESA in the paper's settings: a step of the generator, for which the classifier
/// is asked for the gradient of its input, then a step of the statistics network.
///
/// Nothing would go back for an image that reaches β. On an untrained classifier none does, so
/// every image is worked on, here as at the peer's.
pub(crate) fn mesa(width: usize, batch_size: usize) -> Result<Advance> {
    let (images, _) = images()?;
    let frozen = network(width)?.freeze()?;
    let mut testing = AttackSuccess::new(frozen, images, AttackSuccessConfig::paper(), 0)?;
    let config = MesaConfig {
        batch_size,
        epochs: ENDLESS,
        ..MesaConfig::paper()
    };
    let beta = config.betas[0];
    let mut fit = SubModelFit::new(&Processor::Cpu, config, beta, Seeds::new(0, "mesa/fit"))?;
    Ok(Box::new(move |steps| {
        let mut left = steps;
        fit.run(&mut testing, &mut |_| {
            left -= 1;
            match left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            }
        })?;
        let reached = fit
            .report()
            .is_some_and(|report| report.share_reached > 0.0);
        ensure!(!reached, "an image reached β: less work than the peer's");
        Ok(())
    }))
}

/// Random images and labels.
fn batch(batch_size: usize) -> Result<(Tensor, Tensor)> {
    let mut rng = Seeds::new(0, "bench/images").start();
    let shape = (batch_size, 3, IMAGE_SIDE, IMAGE_SIDE);
    let pixels = batch_size * 3 * IMAGE_SIDE * IMAGE_SIDE;
    let pixels: Vec<f32> = (0..pixels).map(|_| rng.random()).collect();
    let labels: Vec<u32> = (0..batch_size)
        .map(|_| rng.random_range(0..CLASSES as u32))
        .collect();
    Ok((
        Tensor::from_vec(pixels, shape, &Device::Cpu)?,
        Tensor::from_vec(labels, batch_size, &Device::Cpu)?,
    ))
}
