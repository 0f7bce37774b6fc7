//! Residual networks of even and odd width, of basic blocks and of bottlenecks, batch norm behind and
//! before the convolutions, four stages and three, shortcuts that learn nothing: inference, pixel gradients, and training.

use candle::{DType, Tensor};
use mesa_models::{Network, Normalization, ResNetConfig, Seeds, Sgd, TargetGradient};

use super::{Vectors, assert_close, values};

/// Twenty to fifty convolutions deep, f32 keeps five digits of activations, and of their gradients.
const TOLERANCE: f32 = 2e-5;

const CASES: [&str; 9] = [
    "resnet18_w4",
    "resnet18_w5",
    "resnet20_w2",
    "paddedresnet20_w2",
    "resnet34_w2",
    "resnet50_w2",
    "preactresnet18_w5",
    "preactresnet50_w2",
    "wideresnet16_w5",
];

fn network(vectors: &Vectors) -> Network {
    let three = |name: &str| <[f32; 3]>::try_from(vectors.values(name)).unwrap();
    let normalization = Normalization {
        mean: three("normalization.mean"),
        std: three("normalization.std"),
    };
    let config = ResNetConfig::new(
        vectors.metadata["architecture"].parse().unwrap(),
        vectors.number("width") as usize,
        vectors.number("num_classes") as usize,
    );
    let mut rng = Seeds::new(0, "golden").start();
    let mut network = Network::resnet(config, normalization, &mut rng).unwrap();
    network.load_state(&vectors.under("state.")).unwrap();
    network
}

fn labels(vectors: &Vectors) -> Tensor {
    vectors.tensors["labels"].to_dtype(DType::U32).unwrap()
}

#[test]
fn inference_agrees() {
    for case in CASES {
        let vectors = Vectors::load(case);
        let classifier = network(&vectors).freeze().unwrap();
        let images = vectors.tensor("images");
        let logits = classifier.logits(&images).unwrap();
        assert_close(
            case,
            &values(&logits),
            &vectors.values("evaluation.logits"),
            TOLERANCE,
        );
        let target_class = vectors.number("target_class") as u32;
        let found = classifier
            .target_probability(&images, target_class)
            .unwrap();
        assert_close(
            case,
            &found,
            &vectors.values("evaluation.probability"),
            TOLERANCE,
        );
    }
}

#[test]
fn gradients_with_respect_to_patches_agree_wherever_they_lie() {
    for case in CASES {
        let vectors = Vectors::load(case);
        let classifier = network(&vectors).freeze().unwrap();
        let images = vectors.tensor("images");
        let expected = vectors.tensor("evaluation.pixel_gradient");
        let largest = values(&expected.abs().unwrap())
            .into_iter()
            .fold(0.0, f32::max);
        let target_class = vectors.number("target_class") as u32;
        let whole = ([(0, 0); 3], (32, 32));
        let corners = ([(0, 0), (29, 29), (13, 28)], (3, 3));
        let strips = ([(31, 0), (0, 27), (7, 11)], (1, 5));
        for (places, patch) in [whole, corners, strips] {
            let (_, gradients) = classifier
                .target_gradient(
                    &images,
                    target_class,
                    &places,
                    patch,
                    TargetGradient::Probability(2.0),
                )
                .unwrap();
            for (image, (row, column)) in places.into_iter().enumerate() {
                let part = expected.get(image).unwrap();
                let part = part
                    .narrow(1, row, patch.0)
                    .unwrap()
                    .narrow(2, column, patch.1)
                    .unwrap();
                let found = values(&gradients.get(image).unwrap());
                // Patches are judged by the scale of the whole picture's gradient.
                for (a, b) in found.iter().zip(values(&part.contiguous().unwrap())) {
                    let off = (a - b).abs() / largest;
                    assert!(
                        off <= TOLERANCE,
                        "{case}: image {image}, {patch:?}: {a}, not {b}"
                    );
                }
            }
        }
    }
}

#[test]
fn no_gradient_is_computed_where_the_probability_is_high_enough() {
    let vectors = Vectors::load(CASES[0]);
    let classifier = network(&vectors).freeze().unwrap();
    let expected = vectors.values("evaluation.probability");
    let mut sorted = expected.clone();
    sorted.sort_by(f32::total_cmp);
    let below = f32::midpoint(sorted[0], sorted[1]);
    assert!(below - sorted[0] > 1e-4, "one is clearly below");
    let (found, gradients) = classifier
        .target_gradient(
            &vectors.tensor("images"),
            vectors.number("target_class") as u32,
            &[(5, 5); 3],
            (3, 3),
            TargetGradient::Probability(below),
        )
        .unwrap();
    assert_close("probability", &found, &expected, TOLERANCE);
    for (image, expected) in expected.iter().enumerate() {
        let gradient = values(&gradients.get(image).unwrap());
        assert_eq!(
            gradient.iter().any(|g| *g != 0.0),
            *expected < below,
            "image {image}"
        );
    }
}

#[test]
fn training_mode_agrees_with_and_without_label_smoothing() {
    for case in CASES {
        let vectors = Vectors::load(case);
        let steps = Vectors::load(&format!("{case}_steps"));
        let (images, labels) = (vectors.tensor("images"), labels(&vectors));
        let logits = network(&vectors).training_logits(&images).unwrap();
        assert_close(
            case,
            &values(&logits),
            &vectors.values("training.logits"),
            TOLERANCE,
        );

        let smoothing = vectors.number("label_smoothing");
        for (smoothing, loss, file, prefix) in [
            (0.0, "training.loss", &vectors, "training.gradient."),
            (
                smoothing,
                "training.smooth_loss",
                &steps,
                "training.smooth_gradient.",
            ),
        ] {
            let mut network = network(&vectors);
            let found = network.gradients(&images, &labels, smoothing).unwrap();
            assert_close(loss, &[found.loss as f32], &vectors.values(loss), TOLERANCE);
            let gradients = network.gradient_state().unwrap();
            let expected = file.under(prefix);
            // Stem and linear layer, and the stem's batch norm where there is one.
            let least = if case.starts_with("preact") { 3 } else { 5 };
            assert!(expected.len() >= least);
            for (name, expected) in expected {
                let what = format!("{case}: gradient of {name}");
                assert_close(
                    &what,
                    &values(&gradients[&name]),
                    &values(&expected),
                    TOLERANCE,
                );
            }
            let state = network.state().unwrap();
            for (name, expected) in vectors.under("training.state.") {
                assert_close(&name, &values(&state[&name]), &values(&expected), 2e-6);
            }
        }
    }
}

/// The second step starts from a momentum buffer that is not zero.
#[test]
fn two_steps_of_sgd_agree() {
    for case in CASES {
        let vectors = Vectors::load(case);
        let steps = Vectors::load(&format!("{case}_steps"));
        let (images, labels) = (vectors.tensor("images"), labels(&vectors));
        let mut network = network(&vectors);
        let mut sgd = Sgd::new(vectors.number("momentum"), vectors.number("weight_decay"));
        for _ in 0..2 {
            let smoothing = vectors.number("label_smoothing");
            network.gradients(&images, &labels, smoothing).unwrap();
            sgd.step(&mut network, vectors.number("learning_rate"));
        }
        let state = network.state().unwrap();
        let expected = steps.under("two_steps.");
        assert!(expected.len() > 60);
        for (name, expected) in expected {
            let what = format!("{case}: {name} after two steps");
            assert_close(&what, &values(&state[&name]), &values(&expected), TOLERANCE);
        }
    }
}
