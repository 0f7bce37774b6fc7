//! One iteration of MESA (a step of the generator, a step of the statistics network) at the
//! paper's sizes, on a testing function that costs nothing: what the perceptrons take.
#![allow(
    missing_docs,
    reason = "criterion's macros make undocumented functions"
)]

use std::hint::black_box;
use std::ops::ControlFlow;

use candle::Tensor;
use criterion::{Criterion, criterion_group, criterion_main};
use mesa::{
    BoxError, MesaConfig, Observations, Position, Processor, Seeds, SubModelFit, TestingFunction,
};

/// The mean of a trigger's pixels.
struct Mean;

impl TestingFunction for Mean {
    fn trigger_shape(&self) -> [usize; 3] {
        [3, 3, 3]
    }

    fn steps_per_epoch(&self, _: usize) -> usize {
        usize::MAX
    }

    fn observe(
        &mut self,
        triggers: &Tensor,
        _: f64,
        _: Position,
    ) -> Result<Observations, BoxError> {
        let values = triggers.flatten_from(1)?.mean_keepdim(1)?;
        let gradients = (triggers.ones_like()? / 27.0)?.unsqueeze(1)?;
        Ok(Observations { values, gradients })
    }
}

fn iteration(criterion: &mut Criterion) {
    let seeds = Seeds::new(0, "bench");
    let mut fit = SubModelFit::new(&Processor::Cpu, MesaConfig::paper(), 0.9, seeds)
        .expect("the paper's settings are valid");
    criterion.bench_function("mesa iteration, batch 128, width 512", |bencher| {
        bencher.iter(|| {
            let status = fit.run(&mut Mean, &mut |_| ControlFlow::Break(()));
            black_box(status.expect("the testing function never fails"))
        });
    });
}

criterion_group!(benches, iteration);
criterion_main!(benches);
