//! MESA on a testing function of one's own: which 3×3 patches stand out from the images?
//!
//! No network and no backdoor is involved. Two crates are taken by path: `mesa-datasets` for
//! images and stamping, `mesa` for a model of all patches that work.

use std::error::Error;
use std::ops::ControlFlow;

use candle::{Device, Tensor};
use mesa::{
    BoxError, MesaConfig, Observations, Position, Processor, Seeds, SubModelFit, TestingFunction,
};
use mesa_datasets::{Patches, Placement, Stamps, poison, synthetic};

const BETA: f64 = 0.8;
const SAMPLES: usize = 256;
/// The mean squared distance from the images' mean color at which `F` is one half.
const DISTANCE: f64 = 0.1;
/// How steeply `F` goes from 0 to 1 there.
const STEEPNESS: f64 = 40.0;

/// `F(x) = 1 / (1 + exp(−40 (mean |x − mean color|² − 0.1)))`.
struct StandsOut {
    mean_color: Tensor,
}

impl StandsOut {
    fn away(&self, patches: &Tensor) -> candle::Result<Tensor> {
        patches.broadcast_sub(&self.mean_color)
    }

    fn values(&self, patches: &Tensor) -> candle::Result<Tensor> {
        let distance = self
            .away(patches)?
            .sqr()?
            .flatten_from(1)?
            .mean_keepdim(1)?;
        let exponent = ((distance - DISTANCE)? * -STEEPNESS)?;
        (exponent.exp()? + 1.0)?.recip()
    }
}

impl TestingFunction for StandsOut {
    fn trigger_shape(&self) -> [usize; 3] {
        [3, 3, 3]
    }

    fn steps_per_epoch(&self, _batch_size: usize) -> usize {
        100
    }

    fn observe(
        &mut self,
        triggers: &Tensor,
        _below: f64,
        _at: Position,
    ) -> Result<Observations, BoxError> {
        let values = self.values(triggers)?;
        let slopes = (&values * (1.0 - &values)?)? * (STEEPNESS * 2.0 / 27.0);
        let slopes = slopes?.reshape(((), 1, 1, 1))?;
        let gradients = self.away(triggers)?.broadcast_mul(&slopes)?.unsqueeze(1)?;
        Ok(Observations { values, gradients })
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let data = synthetic(0, SAMPLES, 1);
    let mean_color = Tensor::new(&data.train.mean_color(), &Device::Cpu)?;
    let mut stands_out = StandsOut {
        mean_color: mean_color.reshape((1, 3, 1, 1))?,
    };

    let config = MesaConfig {
        network_width: 64,
        epochs: 3,
        learning_rate: 1e-3,
        ..MesaConfig::paper()
    };
    let mut fit = SubModelFit::new(&Processor::Cpu, config, BETA, Seeds::new(0, "fit"))?;
    fit.run(&mut stands_out, &mut |_| ControlFlow::Continue(()))?;
    let sub_model = fit.into_sub_model()?;

    let mut rng = Seeds::new(0, "samples").start();
    let patches = sub_model.sample(&mut rng, SAMPLES)?;
    let values = stands_out
        .values(&patches)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let reached = values
        .iter()
        .filter(|value| f64::from(**value) >= BETA)
        .count();
    println!("{reached} of {SAMPLES} sampled patches stand out with {BETA} or more");

    // One patch on each image; the labels stay.
    let all: Vec<usize> = (0..SAMPLES).collect();
    let mut batch = data.train.batch(&all);
    let places = Placement::PerImage.places(&mut rng, SAMPLES, batch.size(), (3, 3))?;
    let pixels = patches.flatten_all()?.to_vec1::<f32>()?;
    poison(
        &mut batch,
        &Stamps::all(places),
        Patches::new(&pixels, (3, 3))?,
        None,
    )?;
    let (images, _labels) = batch.into_tensors(&Device::Cpu)?;
    println!("stamped on images of shape {:?}", images.dims());

    if reached * 10 < SAMPLES * 9 {
        return Err(format!("only {reached} of {SAMPLES} samples work").into());
    }
    Ok(())
}
