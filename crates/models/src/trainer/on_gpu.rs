//! A training run on a GPU, which makes its batches of recipes.

use std::ops::ControlFlow;

use super::{BatchSource, Trainer};
use crate::cuda::{CudaTraining, Gpu, STRETCH, StepSettings};
use crate::{Error, Position, Recipe, Recipes, Result, Status};

impl Trainer {
    /// Stretches of steps: the device works on one while the host makes the next.
    pub(super) fn run_on_gpu(
        &mut self,
        gpu: &Gpu,
        source: &mut dyn BatchSource,
        observe: &mut dyn FnMut(&Trainer) -> ControlFlow<()>,
    ) -> Result<Status> {
        let recipes = source.recipes().ok_or_else(|| Error::Batch {
            what: "a source of batches",
            expected: "one that tells recipes, for a GPU".to_owned(),
            found: "one that makes them itself".to_owned(),
        })?;
        let batch_size = self.config.batch_size;
        let velocity = self.sgd.state(&self.network)?;
        let (network, pool) = (&self.network, recipes.pool());
        let training = CudaTraining::start(gpu, network, &velocity, pool, batch_size)?;
        self.on_gpu = Some(training);
        let mut stretch = self::stretch(recipes, self.position, self.steps_per_epoch)?;
        while self.is_left() {
            let settings: Vec<StepSettings> = (0..stretch.len())
                .map(|step| StepSettings {
                    learning_rate: self.rate_of(self.steps_done() + step),
                    momentum: self.config.momentum,
                    weight_decay: self.config.weight_decay,
                    label_smoothing: self.config.label_smoothing,
                })
                .collect();
            let (steps, next) = (stretch.len(), self.position_after(stretch.len()));
            let Some(training) = &mut self.on_gpu else {
                break;
            };
            training.ask(&stretch, &settings)?;
            stretch = if next.epoch < self.config.epochs {
                self::stretch(recipes, next, self.steps_per_epoch)?
            } else {
                Vec::new()
            };
            let loss = training.take_loss()?;
            self.check_loss(loss.loss)?;
            self.note(loss, steps, steps * batch_size);
            if observe(self).is_break() && self.is_left() {
                return Ok(Status::Stopped);
            }
        }
        Ok(Status::Finished)
    }

    /// Brings the network and its velocities back from the device.
    pub(super) fn fetch(&mut self) -> Result<()> {
        let Some(training) = self.on_gpu.take() else {
            return Ok(());
        };
        let (network, velocity) = training.state()?;
        self.network.load_state(&network)?;
        self.sgd.load_state(&self.network, &velocity)
    }
}

/// Recipes from a position to the end of its epoch, not more than the device is asked for at once.
fn stretch(recipes: &mut dyn Recipes, from: Position, steps: usize) -> Result<Vec<Recipe>> {
    let last = steps.min(from.step + STRETCH);
    (from.step..last)
        .map(|step| recipes.recipe(Position { step, ..from }))
        .collect::<Result<_, _>>()
        .map_err(Error::Source)
}
