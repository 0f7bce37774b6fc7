//! Trains a small network to tell bright images from dark ones, saves it, loads it and asks it:
//! `cargo run --release -p mesa-models --example bright_or_dark`.

use std::error::Error;

use candle::{Device, Tensor};
use mesa_models::{
    Metadata, Network, Normalization, ResNetConfig, Seeds, Sgd, load_network, save_network,
};
use rand::Rng;

const BATCH_SIZE: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let config = ResNetConfig::resnet18(8, 2);
    let mut rng = Seeds::new(0, "weights").start();
    let mut network = Network::resnet(config, Normalization::cifar10(), &mut rng)?;
    let mut sgd = Sgd::new(0.9, 5e-4);
    for step in 0..30 {
        let (images, labels) = batch(&mut rng)?;
        let found = network.gradients(&images, &labels, 0.0)?;
        sgd.step(&mut network, 0.02);
        if step % 5 == 4 {
            let (loss, correct) = (found.loss, found.correct);
            eprintln!(
                "step {}: loss {loss:.3}, {correct} of {BATCH_SIZE} right",
                step + 1
            );
        }
    }

    let path =
        std::env::temp_dir().join(format!("bright-or-dark-{}.safetensors", std::process::id()));
    save_network(&path, &network, &Metadata::new())?;
    let classifier = load_network(&path)?.0.freeze()?;
    fs_err::remove_file(&path)?;
    let (images, labels) = batch(&mut rng)?;
    let labels = labels.to_vec1::<u32>()?;
    let predicted = classifier.predict(&images)?;
    let right = predicted
        .iter()
        .zip(&labels)
        .filter(|(a, b)| a == b)
        .count();
    eprintln!("loaded again: {right} of {BATCH_SIZE} new images right");
    Ok(())
}

/// Noise images of which every other one is bright: `(B, 3, 32, 32)` in [0, 1], and `(B,)`.
fn batch(rng: &mut impl Rng) -> candle::Result<(Tensor, Tensor)> {
    let labels: Vec<u32> = (0..BATCH_SIZE as u32).map(|image| image % 2).collect();
    let pixels: Vec<f32> = labels
        .iter()
        .flat_map(|label| std::iter::repeat_n(*label as f32, 3 * 32 * 32))
        .map(|bright| 0.3 * bright + 0.7 * rng.random::<f32>())
        .collect();
    let images = Tensor::from_vec(pixels, (BATCH_SIZE, 3, 32, 32), &Device::Cpu)?;
    Ok((images, Tensor::from_vec(labels, BATCH_SIZE, &Device::Cpu)?))
}
