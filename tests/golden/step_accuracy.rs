//! How far a whole training step in f32 lies from the same in f64: no more than three times as far
//! as PyTorch's own.

use std::collections::BTreeMap;
use std::path::Path;

use candle::DType;
use mesa_models::load_network;

use super::{Vectors, values};

/// How many times PyTorch's distance ours may be.
const BAR: f64 = 3.0;

/// Of a distance that is smaller chance decides: one unit of f32's last place.
const LAST_PLACE: f64 = f32::EPSILON as f64;

/// How far one tensor is off, relative to its norm.
struct Distance {
    name: String,
    ours: f64,
    peer: f64,
    /// Of the whole tensor, which the kept values stand for.
    squared_norm: f64,
}

#[test]
fn a_step_is_as_near_to_the_truth_as_pytorchs() {
    let distances = distances();
    let gradients: Vec<&Distance> = distances
        .iter()
        .filter(|distance| distance.name.starts_with("gradient."))
        .collect();
    assert_eq!(gradients.len(), 62, "every learned tensor has a gradient");
    for Distance {
        name, ours, peer, ..
    } in &distances
    {
        eprintln!("{name}: {ours:.2e}, PyTorch {peer:.2e}");
        let bar = BAR * peer.max(LAST_PLACE);
        assert!(
            *ours <= bar,
            "{name}: off by {ours:.2e}, PyTorch by {peer:.2e}"
        );
    }
    let over_all = |distance: fn(&Distance) -> f64| {
        let squares = |factor: fn(&Distance) -> f64, of: fn(&Distance) -> f64| -> f64 {
            let terms = gradients
                .iter()
                .map(|each| each.squared_norm * factor(each) * of(each));
            terms.sum()
        };
        (squares(distance, distance) / squares(|_| 1.0, |_| 1.0)).sqrt()
    };
    let (ours, peer) = (over_all(|each| each.ours), over_all(|each| each.peer));
    eprintln!("all gradients: {ours:.2e}, PyTorch {peer:.2e}");
    assert!(
        ours <= BAR * peer,
        "all gradients: {ours:.2e}, PyTorch {peer:.2e}"
    );
}

fn distances() -> Vec<Distance> {
    let vectors = Vectors::load("step_accuracy");
    let assets = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/weights");
    let weights = Path::new(assets).join("resnet18-w16-cifar10.safetensors");
    let mut network = load_network(&weights).unwrap().0;
    let images = vectors.tensor("images");
    let labels = vectors.tensors["labels"].to_dtype(DType::U32).unwrap();
    let logits = network.training_logits(&images).unwrap();
    let loss = network.gradients(&images, &labels, 0.0).unwrap().loss;

    let mut found = BTreeMap::from([
        ("logits".to_owned(), values(&logits)),
        ("loss".to_owned(), vec![loss as f32]),
    ]);
    for (name, gradient) in network.gradient_state().unwrap() {
        found.insert(format!("gradient.{name}"), values(&gradient));
    }
    let most = vectors.number("kept_at_most") as usize;
    let expected = vectors.under("expected.");
    assert_eq!(expected.len(), found.len());
    let compare = |(name, found): (String, Vec<f32>)| {
        let expected = values(&expected[&name]);
        // Every k-th value, as `step_accuracy.py` keeps them.
        let step = found.len().div_ceil(most) | 1;
        let kept: Vec<f32> = found.iter().copied().step_by(step).collect();
        assert_eq!(kept.len(), expected.len(), "{name}");
        let norm = |terms: &mut dyn Iterator<Item = f64>| -> f64 {
            terms.map(|term| term * term).sum::<f64>().sqrt()
        };
        let pairs = kept.iter().zip(&expected);
        let off = norm(&mut pairs.map(|(a, b)| f64::from(*a) - f64::from(*b)));
        let length = norm(&mut expected.iter().map(|b| f64::from(*b)));
        Distance {
            ours: off / length,
            peer: f64::from(vectors.values(&format!("peer.{name}"))[0]),
            squared_norm: length * length * step as f64,
            name,
        }
    };
    found.into_iter().map(compare).collect()
}
