//! MESA on a function whose level sets are known: disks in the unit square.
//!
//! `F(x) = exp(-|x - c|² / 2s²)` for "triggers" of two numbers. Its level set at β is the disk
//! around `c` with radius `s √(2 ln 1/β)`, so shares, spreads, entropies and mixture weights can
//! be held against the truth. Takes a minute on a CPU:
//!
//! ```text
//! cargo run --release -p mesa --example known_distribution
//! ```
#![allow(clippy::print_stdout, reason = "an example shows its results")]

use std::f64::consts::PI;
use std::ops::ControlFlow;

use candle::{Device, Tensor};
use mesa::{
    BoxError, EntropyConfig, MesaConfig, Observations, Position, Seeds, Staircase, SubModel,
    SubModelFit, TestingFunction, entropy_of, mixture_weights,
};

const CENTER: [f32; 2] = [0.45, 0.55];
const SCALE: f64 = 0.25;

/// `F(x) = exp(-|x - c|² / 2s²)`.
struct Bump;

impl Bump {
    fn values(triggers: &Tensor) -> candle::Result<(Tensor, Tensor)> {
        let center = Tensor::new(&CENTER, triggers.device())?.reshape((1, 1, 1, 2))?;
        let away = triggers.broadcast_sub(&center)?;
        let squared = away.sqr()?.flatten_from(1)?.sum_keepdim(1)?;
        Ok(((squared * (-0.5 / (SCALE * SCALE)))?.exp()?, away))
    }
}

impl TestingFunction for Bump {
    fn trigger_shape(&self) -> [usize; 3] {
        [1, 1, 2]
    }

    fn steps_per_epoch(&self, _: usize) -> usize {
        100
    }

    fn observe(
        &mut self,
        triggers: &Tensor,
        _: f64,
        _: Position,
    ) -> Result<Observations, BoxError> {
        let (values, away) = Self::values(triggers)?;
        let slopes = (&values * (-1.0 / (SCALE * SCALE)))?.reshape(((), 1, 1, 1))?;
        let gradients = away.broadcast_mul(&slopes)?.unsqueeze(1)?;
        Ok(Observations { values, gradients })
    }
}

fn config() -> MesaConfig {
    MesaConfig {
        alpha: 0.03,
        noise_dim: 8,
        network_width: 64,
        trigger_shape: [1, 1, 2],
        epochs: 12,
        learning_rate: 1e-3,
        trigger_noise_std: 0.02,
        ..MesaConfig::paper()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let device = Device::Cpu;
    let mut sub_models: Vec<SubModel> = Vec::new();
    let mut entropies = Vec::new();
    let mut true_entropies = Vec::new();
    println!("beta  F≥β    std (disk)     entropy, ± s.e., ≤ Gaussian   ln volume");
    for beta in config().betas {
        let mut fit = SubModelFit::new(
            &device,
            config(),
            beta,
            Seeds::new(0, &format!("fit/{beta}")),
        )?;
        fit.run(&mut Bump, &mut |_| ControlFlow::Continue(()))?;
        let sub_model = fit.into_sub_model();
        let triggers = sub_model.sample(&mut Seeds::new(0, "samples").start(), 2000)?;
        let values = Bump::values(&triggers)?.0.flatten_all()?.to_vec1::<f32>()?;
        let reached = values
            .iter()
            .filter(|value| f64::from(**value) >= beta)
            .count();
        let radius = SCALE * (2.0 * (1.0 / beta).ln()).sqrt();
        let volume = (PI * radius * radius).ln();
        let entropy = entropy_of(
            &device,
            &sub_model,
            &EntropyConfig::standard(),
            &Seeds::new(0, &format!("entropy/{beta}")),
        )?;
        println!(
            "{beta:4}  {:4.1} %  {:.3} ({:.3})  {:7.2} ± {:.2} ≤ {:.2}   {volume:12.2}",
            100.0 * reached as f64 / values.len() as f64,
            entropy.sample_std,
            radius / 2.0,
            entropy.entropy_nats,
            entropy.information_se,
            entropy.gaussian_bound_nats,
        );
        entropies.push((entropy.entropy_nats, entropy.information_se));
        true_entropies.push((volume, 0.0));
        sub_models.push(sub_model);
    }
    let betas = config().betas;
    let weights = mixture_weights(&betas, &entropies)?;
    let truth = mixture_weights(&betas, &true_entropies)?;
    println!(
        "gamma measured {:.3?} ± {:.3?}",
        weights.gamma, weights.gamma_se
    );
    println!("gamma of the disks {:.3?}", truth.gamma);
    if !weights.readable {
        println!("entropy does not fall as beta rises: gamma cannot be read");
    }
    let staircase = Staircase::new(sub_models, &weights.gamma)?;
    let triggers = staircase.sample(&mut Seeds::new(0, "staircase").start(), 2000)?;
    let mean = Bump::values(&triggers)?.0.mean_all()?.to_scalar::<f32>()?;
    println!("mean F over samples of the staircase: {mean:.3}");
    Ok(())
}
