//! Where the triggers come from that retraining unlearns.

use candle::{Device, Tensor};
use mesa::{Staircase, SubModel};
use mesa_datasets::{CHANNELS, Placement, Trigger};
use mesa_models::Triggers;
use rand::Rng;

use crate::{Error, Result, ReversedTrigger};

/// The triggers that a network is retrained with; each stamped image gets a fresh one.
///
/// Only [`TriggerSource::Ideal`] holds the attacker's trigger: it is the bound that a defense is
/// compared with, no defense.
///
/// # Examples
///
/// ```
/// use mesa_defense::TriggerSource;
/// use mesa_models::Seeds;
///
/// let source = TriggerSource::Random { size: (3, 3) };
/// let triggers = source.draw(&mut Seeds::new(0, "triggers").start(), 0, 5)?;
/// assert_eq!(triggers.len(), 5 * 3 * 3 * 3);
/// assert_eq!(TriggerSource::None.size(), None);
/// # Ok::<(), mesa_defense::Error>(())
/// ```
#[derive(Debug)]
pub enum TriggerSource {
    /// Samples of one sub-model (`mesa:β`).
    SubModel(SubModel),
    /// Samples of several sub-models by turns, one per epoch (`ensemble:turns`).
    Turns(Ensemble),
    /// Samples of several sub-models, drawn by weight for each image (`ensemble:weighted`).
    Weighted(Staircase),
    /// A single reversed trigger (`point`).
    Reversed(ReversedTrigger),
    /// The attacker's own trigger (`ideal`).
    Ideal(Trigger),
    /// Patches of uniform color at every pixel (`random`).
    Random {
        /// Height and width in pixels.
        size: (usize, usize),
    },
    /// Nothing is stamped (`no-trigger`).
    None,
}

/// Sub-models whose triggers are of one shape, at least one, each with the places where its triggers go if
/// not where all do.
#[derive(Debug)]
pub struct Ensemble(Vec<(SubModel, Option<Placement>)>);

impl Ensemble {
    /// An ensemble; the first sub-model takes the first epoch.
    ///
    /// # Errors
    ///
    /// [`Error::EmptyEnsemble`], [`Error::TriggerShapes`].
    pub fn new(sub_models: Vec<SubModel>) -> Result<Self> {
        Self::placed(sub_models.into_iter().map(|model| (model, None)).collect())
    }

    /// An ensemble of sub-models that were fitted in places of their own.
    ///
    /// # Errors
    ///
    /// As [`Ensemble::new`].
    pub fn placed(turns: Vec<(SubModel, Option<Placement>)>) -> Result<Self> {
        let mut shapes = turns.iter().map(|(sub_model, _)| shape_of(sub_model));
        let first = shapes.next().ok_or(Error::EmptyEnsemble)?;
        match shapes.find(|shape| *shape != first) {
            Some(other) => Err(Error::TriggerShapes { first, other }),
            None => Ok(Self(turns)),
        }
    }

    /// After how many epochs the first sub-model has its turn again.
    pub fn turns(&self) -> usize {
        self.0.len()
    }

    /// The sub-model whose turn an epoch is, and its places.
    fn turn(&self, epoch: usize) -> &(SubModel, Option<Placement>) {
        &self.0[epoch % self.0.len()]
    }
}

impl TriggerSource {
    /// Height and width of the triggers; `None` where nothing is stamped.
    pub fn size(&self) -> Option<(usize, usize)> {
        match self {
            Self::SubModel(sub_model) => Some(size_of(sub_model)),
            Self::Turns(ensemble) => Some(size_of(&ensemble.turn(0).0)),
            Self::Weighted(staircase) => Some(size_of(&staircase.sub_models()[0])),
            Self::Reversed(reversed) => Some(reversed.trigger().size()),
            Self::Ideal(trigger) => Some(trigger.size()),
            Self::Random { size } => Some(*size),
            Self::None => None,
        }
    }

    /// `count` fresh triggers for images of `epoch`, `(count, 3, h, w)` one after another; empty
    /// where nothing is stamped.
    ///
    /// # Errors
    ///
    /// [`Error::Mesa`] if a sub-model fails.
    pub fn draw(&self, rng: &mut impl Rng, epoch: usize, count: usize) -> Result<Vec<f32>> {
        if count == 0 {
            return Ok(Vec::new());
        }
        match self {
            Self::SubModel(sub_model) => flat(&sub_model.sample(rng, count)?),
            Self::Turns(ensemble) => flat(&ensemble.turn(epoch).0.sample(rng, count)?),
            Self::Weighted(staircase) => flat(&staircase.sample(rng, count)?),
            Self::Reversed(reversed) => Ok(reversed.trigger().pixels().repeat(count)),
            Self::Ideal(trigger) => Ok(trigger.pixels().repeat(count)),
            Self::Random {
                size: (height, width),
            } => Ok((0..count * CHANNELS * height * width)
                .map(|_| rng.random())
                .collect()),
            Self::None => Ok(Vec::new()),
        }
    }

    /// Where the triggers of `epoch` go, if not where the retraining's settings say.
    pub fn placement(&self, epoch: usize) -> Option<Placement> {
        match self {
            Self::Turns(ensemble) => ensemble.turn(epoch).1,
            _ => None,
        }
    }

    /// What [`draw`](Self::draw) drew, to be stamped: the attacker's own trigger keeps its mask and
    /// its opacity.
    pub(crate) fn triggers(&self, drawn: Vec<f32>, size: (usize, usize)) -> Triggers {
        match self {
            Self::Ideal(trigger) => Triggers {
                mask: trigger.mask().map(<[bool]>::to_vec),
                opacity: trigger.opacity(),
                ..Triggers::opaque(drawn, size)
            },
            _ => Triggers::opaque(drawn, size),
        }
    }
}

/// Samples of a sub-model, without noise and in evaluation mode, as one list of pixels.
fn flat(triggers: &Tensor) -> Result<Vec<f32>> {
    Ok(triggers.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

fn shape_of(sub_model: &SubModel) -> [usize; 3] {
    sub_model.info().sizes.trigger_shape
}

fn size_of(sub_model: &SubModel) -> (usize, usize) {
    let [_, height, width] = shape_of(sub_model);
    (height, width)
}

#[cfg(test)]
mod tests {
    use mesa_models::Seeds;

    use super::*;
    use crate::fixture;

    fn draw(source: &TriggerSource, epoch: usize, count: usize) -> Vec<f32> {
        source
            .draw(&mut Seeds::new(5, "draw").start(), epoch, count)
            .unwrap()
    }

    fn samples(seed: u64, count: usize) -> Vec<f32> {
        let mut rng = Seeds::new(5, "draw").start();
        flat(
            &fixture::sub_model(0.9, seed)
                .sample(&mut rng, count)
                .unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn turns_take_one_sub_model_per_epoch_in_order() {
        let models = (0..3).map(|seed| fixture::sub_model(0.9, seed)).collect();
        let source = TriggerSource::Turns(Ensemble::new(models).unwrap());
        for epoch in 0..10 {
            assert_eq!(draw(&source, epoch, 4), samples(epoch as u64 % 3, 4));
        }
    }

    #[test]
    fn a_mixture_draws_what_its_staircase_does_in_every_epoch() {
        let staircase = |weights: &[f64]| {
            let models = vec![fixture::sub_model(0.9, 0), fixture::sub_model(0.5, 1)];
            Staircase::new(models, weights).unwrap()
        };
        let drawn = |weights: &[f64]| draw(&TriggerSource::Weighted(staircase(weights)), 1, 40);
        for weights in [[0.3, 0.7], [0.0, 1.0]] {
            let mut rng = Seeds::new(5, "draw").start();
            let expected = staircase(&weights).sample(&mut rng, 40).unwrap();
            assert_eq!(drawn(&weights), flat(&expected).unwrap());
        }
        assert_ne!(drawn(&[0.0, 1.0]), drawn(&[1.0, 0.0]));
    }

    #[test]
    fn the_controls_draw_what_they_say() {
        let ideal = Trigger::pattern(170).unwrap();
        let source = TriggerSource::Ideal(ideal.clone());
        assert_eq!(draw(&source, 0, 2), ideal.pixels().repeat(2));
        assert_eq!(source.size(), Some((3, 3)));
        let random = TriggerSource::Random { size: (2, 5) };
        let drawn = draw(&random, 0, 50);
        assert_eq!(drawn.len(), 50 * 3 * 2 * 5);
        assert_ne!(drawn[..30], drawn[30..60]);
        let mean = drawn.iter().sum::<f32>() / drawn.len() as f32;
        assert!((mean - 0.5).abs() < 0.05 && drawn.iter().all(|x| (0.0..1.0).contains(x)));
        assert_eq!(TriggerSource::None.size(), None);
        assert!(draw(&TriggerSource::None, 0, 9).is_empty());
    }

    #[test]
    fn refuses_ensembles_of_nothing_and_of_several_shapes() {
        assert!(matches!(
            Ensemble::new(Vec::new()),
            Err(Error::EmptyEnsemble)
        ));
        let models = vec![
            fixture::sub_model(0.9, 0),
            fixture::sub_model_of([3, 2, 4], 0.5, 1),
        ];
        let refused = Ensemble::new(models);
        assert!(matches!(
            refused,
            Err(Error::TriggerShapes {
                other: [3, 2, 4],
                ..
            })
        ));
    }
}
