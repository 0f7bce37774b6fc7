//! Principal components and t-SNE beside scikit-learn's (`golden/projection.py`).

use mesa_report::{PrincipalPlane, tsne};
use serde_json::Value;

struct Expected {
    points: Vec<Vec<f64>>,
    pca: Vec<[f64; 2]>,
    explained: [f64; 2],
    perplexity: f64,
    divergence: f64,
}

fn expected() -> Expected {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/golden/projection.json"
    );
    let json: Value = serde_json::from_str(&fs_err::read_to_string(path).unwrap()).unwrap();
    let read = |name: &str| json[name].clone();
    Expected {
        points: serde_json::from_value(read("points")).unwrap(),
        pca: serde_json::from_value(read("pca")).unwrap(),
        explained: serde_json::from_value(read("explained")).unwrap(),
        perplexity: read("perplexity").as_f64().unwrap(),
        divergence: read("divergence").as_f64().unwrap(),
    }
}

#[test]
fn the_principal_plane_is_scikit_learns() {
    let expected = expected();
    let plane = PrincipalPlane::of(&expected.points);
    for (share, other) in plane.explained().iter().zip(expected.explained) {
        assert!((share - other).abs() < 1e-12, "{share} instead of {other}");
    }
    for (point, place) in expected.points.iter().zip(expected.pca) {
        let found = plane.project(point);
        for axis in 0..2 {
            let (found, place) = (found[axis], place[axis]);
            assert!((found - place).abs() < 1e-10, "{found} instead of {place}");
        }
    }
}

#[test]
fn t_sne_comes_as_deep_as_scikit_learns() {
    let expected = expected();
    let found = tsne(&expected.points);
    assert!((found.perplexity - expected.perplexity).abs() < 1e-12);
    assert!(
        found.divergence < 1.05 * expected.divergence,
        "{} nats, {} there",
        found.divergence,
        expected.divergence
    );
}
