//! Adam, three steps from zero moments.

use std::collections::BTreeMap;

use candle::Var;
use mesa_models::{Adam, AdamConfig};

use super::{Vectors, assert_close, values};

#[test]
fn three_steps_of_adam_agree() {
    let vectors = Vectors::load("adam");
    let parameter = Var::from_tensor(&vectors.tensor("start")).unwrap();
    let parameters = BTreeMap::from([("parameter".to_owned(), parameter.clone())]);
    let mut adam = Adam::new(parameters, AdamConfig::paper()).unwrap();
    let mut before = values(&parameter);
    for step in 1..=3 {
        let gradient = vectors.tensor(&format!("gradient.{step}"));
        adam.step(&BTreeMap::from([("parameter".to_owned(), gradient)]))
            .unwrap();
        // Steps are a ten-thousandth of the values: compare the values to the last place, and the
        // step to what is left of it.
        let (found, expected) = (values(&parameter), vectors.values(&format!("adam.{step}")));
        assert_close("parameter", &found, &expected, 1e-7);
        let moved =
            |to: &[f32]| -> Vec<f32> { to.iter().zip(&before).map(|(a, b)| a - b).collect() };
        assert_close("step", &moved(&found), &moved(&expected), 3e-3);
        before = expected;
    }
}
