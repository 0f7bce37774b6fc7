//! Checkpoints: safetensors in and out, atomically, with what made them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::files::{load_tensors, save_tensors};
use crate::{Error, Network, Normalization, ResNetConfig, Result, Seeds};

/// Text beside the tensors of a file.
pub type Metadata = BTreeMap<String, String>;

/// What a checkpoint says about its network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    /// The kind of network: `resnet18`.
    pub architecture: String,
    /// Its size.
    pub config: ResNetConfig,
    /// What it takes from its images first.
    pub normalization: Normalization,
    /// What made it: command, data, seed, measures.
    pub made_by: Metadata,
}

/// Writes a network; the file appears whole or not at all.
///
/// # Errors
///
/// [`Error::Write`] if it cannot be written.
pub fn save_network(path: &Path, network: &Network, made_by: &Metadata) -> Result<()> {
    let info = CheckpointInfo {
        architecture: "resnet18".to_owned(),
        config: network.config(),
        normalization: network.normalization(),
        made_by: made_by.clone(),
    };
    let text = serde_json::to_string(&info).expect("plain fields become JSON");
    save_tensors(
        path,
        &network.state()?,
        &Metadata::from([("network".to_owned(), text)]),
    )
}

/// Reads a network written by [`save_network`].
///
/// # Errors
///
/// [`Error::Read`] if the file cannot be read; [`Error::NotSafetensors`], [`Error::Checkpoint`] and the like if it is cut off, holds
/// something else, or a tensor is missing, unexpected, of another shape or type, or not finite.
pub fn load_network(path: &Path) -> Result<(Network, CheckpointInfo)> {
    let wrong = |reason: String| Error::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    let (tensors, metadata) = load_tensors(path)?;
    let text = metadata.get("network").ok_or_else(|| {
        wrong("it holds no network, or not one that says how its images are normalized".to_owned())
    })?;
    let info: CheckpointInfo = serde_json::from_str(text)
        .map_err(|source| wrong(format!("its metadata `network` is malformed: {source}")))?;
    if info.architecture != "resnet18" {
        return Err(wrong(format!(
            "its architecture is `{}`; resnet18 is the one known",
            info.architecture
        )));
    }
    // The shapes say how large the network is before anything of that size is made.
    let dim = |name: &str| {
        tensors
            .get(name)
            .and_then(|tensor| tensor.dims().first().copied())
    };
    let sizes = (dim("conv1.weight"), dim("linear.weight"));
    if sizes != (Some(info.config.width), Some(info.config.num_classes)) {
        return Err(wrong(format!(
            "its metadata says {:?}, but conv1.weight and linear.weight have first dimensions {sizes:?}",
            info.config
        )));
    }
    let mut rng = Seeds::new(0, "replaced").start();
    let mut network = Network::resnet18(info.config, info.normalization, &mut rng)?;
    network
        .load_state(&tensors)
        .map_err(|error| wrong(error.to_string()))?;
    Ok((network, info))
}

#[cfg(test)]
mod tests {
    use candle::{Device, Tensor};

    use super::*;

    fn network() -> Network {
        let mut rng = Seeds::new(3, "weights").start();
        let config = ResNetConfig {
            width: 3,
            num_classes: 4,
        };
        Network::resnet18(config, Normalization::cifar10(), &mut rng).unwrap()
    }

    #[test]
    fn a_network_comes_back_as_it_went() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a"), folder.path().join("b"));
        let made_by = Metadata::from([("seed".to_owned(), "3".to_owned())]);
        save_network(&first, &network(), &made_by).unwrap();
        let (loaded, info) = load_network(&first).unwrap();
        assert_eq!(info.made_by, made_by);
        save_network(&second, &loaded, &made_by).unwrap();
        assert_eq!(fs_err::read(first).unwrap(), fs_err::read(second).unwrap());
    }

    #[test]
    fn names_what_is_wrong_with_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.safetensors");
        save_network(&path, &network(), &Metadata::new()).unwrap();
        let whole = fs_err::read(&path).unwrap();
        let (tensors, metadata) = load_tensors(&path).unwrap();
        let message = || load_network(&path).map(|_| ()).unwrap_err().to_string();

        fs_err::write(&path, &whole[..whole.len() - 10]).unwrap();
        assert!(matches!(
            load_network(&path),
            Err(Error::NotSafetensors { .. })
        ));

        let mut missing = tensors.clone();
        missing.remove("layer3.0.bn1.weight");
        save_tensors(&path, &missing, &metadata).unwrap();
        assert!(
            message().contains("layer3.0.bn1.weight is missing"),
            "{}",
            message()
        );

        let mut unexpected = tensors.clone();
        unexpected.insert("layer9.weight".to_owned(), tensors["bn1.bias"].clone());
        save_tensors(&path, &unexpected, &metadata).unwrap();
        assert!(
            message().contains("unexpected tensor layer9.weight"),
            "{}",
            message()
        );

        let mut of_other_shape = tensors.clone();
        of_other_shape.insert(
            "bn1.weight".to_owned(),
            tensors["layer4.0.bn1.bias"].clone(),
        );
        save_tensors(&path, &of_other_shape, &metadata).unwrap();
        assert!(message().contains("bn1.weight is"), "{}", message());

        let mut not_finite = tensors.clone();
        let values = Tensor::new(&[1.0, f32::NAN, 1.0], &Device::Cpu).unwrap();
        not_finite.insert("bn1.weight".to_owned(), values);
        save_tensors(&path, &not_finite, &metadata).unwrap();
        assert!(matches!(load_network(&path), Err(Error::NotFinite { .. })));
    }
}
