//! Sub-models fitted end to end, on a closed-form testing function.
#![allow(clippy::unwrap_used, reason = "tests fail by unwrapping")]

use std::io::Write;
use std::ops::ControlFlow;
use std::process::Command;

use candle::Tensor;
use mesa::{
    BoxError, EntropyConfig, Error, Hinge, MesaConfig, Observations, Position, Processor, Seeds,
    Status, SubModel, SubModelFit, TestingFunction, entropy_of,
};

const CENTER: f64 = 0.5;
const SCALE: f64 = 0.25;

/// `F(x) = exp(-|x - c|² / 2s²)`: its level sets are balls.
struct Bump {
    shape: [usize; 3],
    steps: usize,
    images: usize,
}

impl Bump {
    fn new(shape: [usize; 3], steps: usize) -> Self {
        Self {
            shape,
            steps,
            images: 1,
        }
    }

    fn values(triggers: &Tensor) -> Tensor {
        let squared = (triggers - CENTER).unwrap().sqr().unwrap();
        let squared = squared.flatten_from(1).unwrap().sum_keepdim(1).unwrap();
        (squared * (-0.5 / (SCALE * SCALE))).unwrap().exp().unwrap()
    }

    fn radius(beta: f64) -> f64 {
        SCALE * (2.0 * (1.0 / beta).ln()).sqrt()
    }
}

impl TestingFunction for Bump {
    fn trigger_shape(&self) -> [usize; 3] {
        self.shape
    }

    fn steps_per_epoch(&self, _: usize) -> usize {
        self.steps
    }

    fn observe(
        &mut self,
        triggers: &Tensor,
        _: f64,
        _: Position,
    ) -> Result<Observations, BoxError> {
        let values = Self::values(triggers);
        let slopes = (&values * (-1.0 / (SCALE * SCALE)))?.reshape(((), 1, 1, 1))?;
        let gradients = (triggers - CENTER)?.broadcast_mul(&slopes)?.unsqueeze(1)?;
        let values = values.repeat((1, self.images))?;
        let gradients = gradients.repeat((1, self.images, 1, 1, 1))?;
        Ok(Observations { values, gradients })
    }
}

fn config() -> MesaConfig {
    MesaConfig {
        alpha: 0.03,
        noise_dim: 8,
        network_width: 32,
        trigger_shape: [1, 1, 2],
        batch_size: 64,
        epochs: 2,
        learning_rate: 1e-3,
        trigger_noise_std: 0.02,
        ..MesaConfig::paper()
    }
}

fn new_fit(config: MesaConfig, beta: f64, seed: u64) -> SubModelFit {
    SubModelFit::new(&Processor::Cpu, config, beta, Seeds::new(seed, "fit")).unwrap()
}

fn samples(sub_model: &SubModel, count: usize) -> Tensor {
    sub_model
        .sample(&mut Seeds::new(0, "samples").start(), count)
        .unwrap()
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    values.into_iter().map(f32::to_bits).collect()
}

/// Share of samples in the level set, and their standard deviation over the uniform disk's.
fn quality(sub_model: &SubModel) -> (f64, f64) {
    let beta = sub_model.info().beta;
    let triggers = samples(sub_model, 1000);
    let values = Bump::values(&triggers)
        .flatten_all()
        .unwrap()
        .to_vec1::<f32>()
        .unwrap();
    let reached = values
        .iter()
        .filter(|value| f64::from(**value) >= beta)
        .count();
    let mean = triggers.mean_keepdim(0).unwrap();
    let variance = triggers
        .broadcast_sub(&mean)
        .unwrap()
        .sqr()
        .unwrap()
        .mean_all()
        .unwrap();
    let std = f64::from(variance.to_scalar::<f32>().unwrap()).sqrt();
    (reached as f64 / 1000.0, std / (Bump::radius(beta) / 2.0))
}

#[test]
fn samples_clear_their_beta_and_spread_over_its_level_set() {
    let mut entropies = Vec::new();
    for (beta, hinge) in [(0.5, Hinge::Image), (0.9, Hinge::Mean)] {
        let images_per_trigger = if hinge == Hinge::Mean { 2 } else { 1 };
        let config = MesaConfig {
            hinge,
            images_per_trigger,
            network_width: 64,
            batch_size: 128,
            epochs: 12,
            ..config()
        };
        let mut bump = Bump {
            images: images_per_trigger,
            ..Bump::new([1, 1, 2], 100)
        };
        let mut fit = new_fit(config, beta, 0);
        let status = fit
            .run(&mut bump, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        assert_eq!(status, Status::Finished);
        let sub_model = fit.into_sub_model().unwrap();
        let (reached, spread) = quality(&sub_model);
        println!("beta {beta}: {reached} in the level set, spread {spread}");
        assert!(reached > 0.75, "beta {beta}: {reached} in the level set");
        assert!((0.6..1.4).contains(&spread), "beta {beta}: spread {spread}");
        let config = EntropyConfig {
            steps: 500,
            ..EntropyConfig::standard()
        };
        let seeds = Seeds::new(0, "entropy");
        let entropy = entropy_of(&Processor::Cpu, &sub_model, &config, &seeds).unwrap();
        println!("{entropy:?}");
        assert!(entropy.entropy_nats < entropy.gaussian_bound_nats + 3.0 * entropy.information_se);
        assert!(entropy.information_nats > 0.3);
        entropies.push(entropy.entropy_nats);
    }
    assert!(entropies[0] > entropies[1], "{entropies:?}");
}

#[test]
fn a_resumed_fit_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fit.safetensors");
    let mut straight = new_fit(config(), 0.8, 1);
    straight
        .run(&mut Bump::new([1, 1, 2], 5), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();

    let stop = Position { epoch: 1, step: 2 };
    let mut stopped = new_fit(config(), 0.8, 1);
    let mut until = |fit: &SubModelFit| {
        if fit.position() == stop {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let status = stopped
        .run(&mut Bump::new([1, 1, 2], 5), &mut until)
        .unwrap();
    assert_eq!(status, Status::Stopped);
    stopped.save_state(&path).unwrap();

    let mut resumed = new_fit(config(), 0.8, 1);
    resumed.load_state(&path).unwrap();
    assert_eq!(resumed.position(), stop);
    let mut steps = 0;
    let mut count = |_: &SubModelFit| {
        steps += 1;
        ControlFlow::Continue(())
    };
    resumed
        .run(&mut Bump::new([1, 1, 2], 5), &mut count)
        .unwrap();
    assert_eq!(steps, 3);

    let (a, b) = (folder.path().join("a"), folder.path().join("b"));
    straight.save_state(&a).unwrap();
    resumed.save_state(&b).unwrap();
    assert!(fs_err::read(a).unwrap() == fs_err::read(b).unwrap());
}

#[test]
fn the_state_of_another_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fit.safetensors");
    new_fit(config(), 0.8, 1).save_state(&path).unwrap();
    let other_alpha = MesaConfig {
        alpha: 0.5,
        ..config()
    };
    for mut other in [
        new_fit(config(), 0.8, 2),
        new_fit(config(), 0.7, 1),
        new_fit(other_alpha, 0.8, 1),
    ] {
        assert!(matches!(
            other.load_state(&path),
            Err(Error::OtherFit { .. })
        ));
    }
    let other_list = MesaConfig {
        betas: vec![0.8],
        ..config()
    };
    new_fit(other_list, 0.8, 1).load_state(&path).unwrap();
}

#[test]
fn a_saved_sub_model_samples_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g.safetensors");
    let mut fit = new_fit(config(), 0.8, 1);
    fit.run(&mut Bump::new([1, 1, 2], 5), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let sub_model = fit.into_sub_model().unwrap();
    sub_model
        .save(&path, &[("command".to_owned(), "test".to_owned())].into())
        .unwrap();
    let loaded = SubModel::load(&path).unwrap();
    assert_eq!(loaded.info(), sub_model.info());
    assert_eq!(bits(&samples(&loaded, 10)), bits(&samples(&sub_model, 10)));
}

#[test]
fn a_state_is_no_sub_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fit.safetensors");
    new_fit(config(), 0.8, 1).save_state(&path).unwrap();
    let error = SubModel::load(&path).unwrap_err();
    assert!(matches!(error, Error::Metadata { name: "kind" }));
}

#[test]
fn a_testing_function_of_another_shape_is_refused() {
    let mut fit = new_fit(config(), 0.8, 1);
    let error = fit
        .run(&mut Bump::new([1, 2, 1], 5), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap_err();
    assert!(matches!(
        error,
        Error::Config {
            name: "trigger_shape",
            ..
        }
    ));
    let mut bump = Bump {
        images: 2,
        ..Bump::new([1, 1, 2], 5)
    };
    let error = fit
        .run(&mut bump, &mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    assert!(matches!(error, Error::Observations { .. }));
}

/// A short fit at the paper's sizes, as a number.
fn digest() -> u64 {
    let mut fit = new_fit(
        MesaConfig {
            epochs: 1,
            ..MesaConfig::paper()
        },
        0.9,
        0,
    );
    fit.run(&mut Bump::new([3, 3, 3], 3), &mut |_| {
        ControlFlow::Continue(())
    })
    .unwrap();
    let bits = bits(&samples(&fit.into_sub_model().unwrap(), 200));
    bits.into_iter().fold(0, |digest: u64, bits| {
        digest
            .wrapping_mul(0x0100_0000_01b3)
            .wrapping_add(u64::from(bits))
    })
}

#[test]
fn writes_its_digest() {
    // Read by the test below, in processes of their own.
    if let Some(path) = std::env::var_os("MESA_TEST_DIGEST") {
        let mut file = fs_err::File::create(path).unwrap();
        write!(file, "{}", digest()).unwrap();
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let digests: Vec<String> = ["1", "2", "5"]
        .into_iter()
        .map(|threads| {
            let path = folder.path().join(threads);
            let run = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "writes_its_digest"])
                .env("RAYON_NUM_THREADS", threads)
                .env("MESA_TEST_DIGEST", &path)
                .output();
            assert!(run.unwrap().status.success());
            fs_err::read_to_string(path).unwrap()
        })
        .collect();
    assert!(
        digests.iter().all(|digest| *digest == digests[0]),
        "{digests:?}"
    );
}
