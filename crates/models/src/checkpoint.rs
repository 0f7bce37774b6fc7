//! Checkpoints: safetensors and PyTorch's files in and out, atomically, with what made them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use mesa_pickle::shown;

use crate::files::{
    check_finite, is_safetensors, raw_tensors, read_file, save_tensors, write_file,
};
use crate::pytorch::Contents;
use crate::state_dict::{LayerNames, network_state};
use crate::{Architecture, Error, Network, Normalization, ResNetConfig, Result, Seeds, pytorch};

/// Text beside the tensors of a file.
pub type Metadata = BTreeMap<String, String>;

/// What a checkpoint says about its network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    /// The kind of network ([`Architecture::name`]).
    pub architecture: String,
    /// Its size.
    pub config: ResNetConfig,
    /// What it takes from its images first.
    pub normalization: Normalization,
    /// What made it: command, data, seed, measures.
    pub made_by: Metadata,
}

/// A network from a file.
#[derive(Debug)]
pub struct LoadedNetwork {
    /// The network.
    pub network: Network,
    /// What the file says about it, or what its shapes do.
    pub info: CheckpointInfo,
    /// Who says how its images are normalized.
    pub normalization_from: NormalizationSource,
    /// What a layer in front of the network normalizes by, whoever is asked.
    pub own_normalization: Option<Normalization>,
    /// Whether the file holds a whole module, of whose class only the names of its layers are known.
    pub is_module: bool,
    /// The key under which the network lies, if it is an unusual one.
    pub key: Option<String>,
    /// Classes and functions of other programs in the file, whose code `torch.load` would run.
    pub classes: BTreeSet<String>,
    /// Keys under which the file has other tensors by name, perhaps of another network.
    pub beside: Vec<String>,
}

/// Who says how images are normalized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormalizationSource {
    /// The file itself, which this project wrote.
    File,
    /// The caller.
    Caller,
    /// A layer in front of the network.
    Layer,
    /// Nobody: the number of classes is that of CIFAR-10 or CIFAR-100.
    Classes,
}

/// Key of a [`CheckpointInfo`] in a safetensors file's metadata.
const INFO_KEY: &str = "network";

/// Writes a network; the file appears whole or not at all.
///
/// A name that ends in `.pt` or `.pth` makes it a state dict that `torch.load` reads, any other a
/// safetensors file. Both hold the [`CheckpointInfo`] too.
///
/// # Errors
///
/// [`Error::Write`] if it cannot be written, [`Error::NotWritten`] if a tensor is not finite.
pub fn save_network(path: &Path, network: &Network, made_by: &Metadata) -> Result<()> {
    save_network_as(path, network, made_by, LayerNames::Common)
}

/// The same with layers named otherwise.
///
/// # Errors
///
/// As of [`save_network`].
pub fn save_network_as(
    path: &Path,
    network: &Network,
    made_by: &Metadata,
    names: LayerNames,
) -> Result<()> {
    let info = CheckpointInfo {
        architecture: network.config().architecture.name(),
        config: network.config(),
        normalization: network.normalization(),
        made_by: made_by.clone(),
    };
    let text = serde_json::to_string(&info).expect("plain fields become JSON");
    let state = names.of(network.state()?);
    if !named_by_pytorch(path) {
        return save_tensors(path, &state, &Metadata::from([(INFO_KEY.to_owned(), text)]));
    }
    check_finite(path, &state)?;
    let bytes = pytorch::to_bytes(&state, &text).map_err(|source| Error::Write {
        path: path.to_owned(),
        source,
    })?;
    write_file(path, &[&bytes])
}

fn named_by_pytorch(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "pt" || extension == "pth")
}

/// Reads a network: [`load_network_with`] without a normalization of the caller's.
///
/// # Errors
///
/// As of [`load_network_with`].
pub fn load_network(path: &Path) -> Result<(Network, CheckpointInfo)> {
    let loaded = load_network_with(path, None)?;
    Ok((loaded.network, loaded.info))
}

/// Reads a network written by [`save_network`], or a state dict or a whole module of a common ResNet
/// for 32×32 images that PyTorch saved (`.pt`, `.pth`, `.pth.tar`), or one in a safetensors file.
///
/// Such a file does not say how images are normalized: `normalization` does, else a layer in front of the
/// network or the number of classes, which may be wrong. Nothing in a file is executed, and no more is allocated than
/// its length warrants.
///
/// # Errors
///
/// [`Error::Read`] if the file cannot be read; [`Error::NoTensors`] if it is empty or text;
/// [`Error::NotSafetensors`], [`Error::Pytorch`] if it is cut off, damaged or of another format;
/// [`Error::Layout`] if a tensor is missing, unexpected, of another shape or type, not finite, or a
/// negative variance; [`Error::Checkpoint`] if the file contradicts itself;
/// [`Error::OtherNormalization`], [`Error::NoNormalization`].
pub fn load_network_with(
    path: &Path,
    normalization: Option<Normalization>,
) -> Result<LoadedNetwork> {
    let bytes = read_file(path)?;
    // What it is counts, not what it is called; the name decides where neither format begins so.
    let by_name = named_by_pytorch(path) && !is_safetensors(&bytes);
    let Contents {
        tensors,
        info,
        is_module,
        key,
        classes,
        beside,
    } = if by_name || pytorch::is_pytorch(&bytes) {
        pytorch::read(&bytes).map_err(|source| Error::Pytorch {
            path: path.to_owned(),
            source,
        })?
    } else {
        let (tensors, mut metadata) = raw_tensors(path, &bytes)?;
        Contents {
            tensors,
            info: metadata.remove(INFO_KEY),
            is_module: false,
            key: None,
            classes: BTreeSet::new(),
            beside: Vec::new(),
        }
    };
    let info = info.map(|text| parse_info(path, &text)).transpose()?;
    let layout = |source| Error::Layout {
        path: path.to_owned(),
        source,
    };
    let (config, state, own_normalization) = network_state(tensors, bytes.len()).map_err(layout)?;
    // The network needs the room.
    drop(bytes);
    let (info, normalization_from) = match info {
        Some(info) => {
            check_info(path, &info, config, own_normalization, normalization)?;
            (info, NormalizationSource::File)
        }
        None => foreign_info(path, config, own_normalization, normalization)?,
    };
    let mut rng = Seeds::new(0, "replaced").start();
    let mut network = Network::resnet(config, info.normalization, &mut rng)?;
    network.load_state(&state)?;
    Ok(LoadedNetwork {
        network,
        info,
        normalization_from,
        own_normalization,
        is_module,
        key,
        classes,
        beside,
    })
}

fn parse_info(path: &Path, text: &str) -> Result<CheckpointInfo> {
    let wrong = |reason: String| Error::Checkpoint {
        path: path.to_owned(),
        reason,
    };
    let info: CheckpointInfo = serde_json::from_str(text)
        .map_err(|source| wrong(format!("its description is malformed: {source}")))?;
    if info.architecture != info.config.architecture.name() {
        return Err(wrong(format!(
            "its architecture is `{}`, of {:?}; known are {}",
            shown(&info.architecture),
            info.config,
            Architecture::names()
        )));
    }
    if !info.normalization.is_usable() {
        let reason = "its normalization is not of numbers with standard deviations above zero";
        return Err(wrong(reason.to_owned()));
    }
    Ok(info)
}

/// Checks what a file says against what it holds, and against what the caller says.
fn check_info(
    path: &Path,
    info: &CheckpointInfo,
    config: ResNetConfig,
    own: Option<Normalization>,
    normalization: Option<Normalization>,
) -> Result<()> {
    let contradicts = |said: String, held: String| Error::Checkpoint {
        path: path.to_owned(),
        reason: format!("it says {said}, but its tensors are those of {held}"),
    };
    if info.config != config {
        return Err(contradicts(
            format!("{:?}", info.config),
            format!("{config:?}"),
        ));
    }
    if let Some(own) = own.filter(|own| *own != info.normalization) {
        return Err(contradicts(
            format!("that images are normalized by {}", info.normalization),
            format!("a layer that does so by {own}"),
        ));
    }
    if normalization.is_some_and(|given| given != info.normalization) {
        return Err(Error::OtherNormalization {
            path: path.to_owned(),
            found: info.normalization,
        });
    }
    Ok(())
}

/// What can be said of a network whose file says nothing: `own` is what a layer of it normalizes by.
fn foreign_info(
    path: &Path,
    config: ResNetConfig,
    own: Option<Normalization>,
    normalization: Option<Normalization>,
) -> Result<(CheckpointInfo, NormalizationSource)> {
    let (normalization, source) = match (normalization, own, config.num_classes) {
        (Some(given), ..) => (given, NormalizationSource::Caller),
        (None, Some(own), _) => (own, NormalizationSource::Layer),
        (None, None, 10) => (Normalization::cifar10(), NormalizationSource::Classes),
        (None, None, 100) => (Normalization::cifar100(), NormalizationSource::Classes),
        (None, None, num_classes) => {
            return Err(Error::NoNormalization {
                path: path.to_owned(),
                num_classes,
            });
        }
    };
    let info = CheckpointInfo {
        architecture: config.architecture.name(),
        config,
        normalization,
        made_by: Metadata::new(),
    };
    Ok((info, source))
}

#[cfg(test)]
mod tests {
    use candle::{Device, Tensor};

    use super::*;
    use crate::host::host_values;
    use crate::load_tensors;

    fn network() -> Network {
        let mut rng = Seeds::new(3, "weights").start();
        let config = ResNetConfig::resnet18(3, 4);
        Network::resnet(config, Normalization::cifar10(), &mut rng).unwrap()
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

    fn reason(path: &Path) -> String {
        match load_network(path) {
            Err(Error::Layout { source, .. }) => source.to_string(),
            other => panic!("{:?}", other.map(|_| ())),
        }
    }

    #[test]
    fn names_what_is_wrong_with_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.safetensors");
        save_network(&path, &network(), &Metadata::new()).unwrap();
        let whole = fs_err::read(&path).unwrap();
        let (tensors, metadata) = load_tensors(&path).unwrap();

        fs_err::write(&path, &whole[..whole.len() - 10]).unwrap();
        assert!(matches!(
            load_network(&path),
            Err(Error::NotSafetensors { .. })
        ));

        let mut renamed = tensors.clone();
        let moved = renamed.remove("layer3.0.bn1.weight").unwrap();
        renamed.insert("layer9.weight".to_owned(), moved);
        save_tensors(&path, &renamed, &metadata).unwrap();
        let names = reason(&path);
        assert!(
            names.contains("missing: layer3.0.bn1.weight; unexpected: layer9.weight"),
            "{names}"
        );

        let mut of_other_shape = tensors.clone();
        let other = tensors["layer4.0.bn1.bias"].clone();
        of_other_shape.insert("bn1.weight".to_owned(), other);
        save_tensors(&path, &of_other_shape, &metadata).unwrap();
        let shape = reason(&path);
        assert!(shape.contains("bn1.weight has the shape [24]"), "{shape}");

        let mut marked = tensors.clone();
        let mark = 123.456_f32;
        let values = Tensor::new(&[1.0, mark, 1.0], &Device::Cpu).unwrap();
        marked.insert("bn1.weight".to_owned(), values);
        save_tensors(&path, &marked, &metadata).unwrap();
        let mut bytes = fs_err::read(&path).unwrap();
        let mark = mark.to_le_bytes();
        let at = bytes.windows(4).position(|word| word == mark).unwrap();
        bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        fs_err::write(&path, bytes).unwrap();
        assert!(reason(&path).contains("bn1.weight holds a value that is not finite"));

        let mut metadata = metadata.clone();
        let other = metadata["network"].replace("\"width\":3", "\"width\":5");
        metadata.insert("network".to_owned(), other);
        save_tensors(&path, &tensors, &metadata).unwrap();
        assert!(matches!(load_network(&path), Err(Error::Checkpoint { .. })));
    }

    #[test]
    fn pytorchs_files_carry_what_safetensors_do() {
        let folder = tempfile::tempdir().unwrap();
        let made_by = Metadata::from([("seed".to_owned(), "3".to_owned())]);
        for name in ["a.pth", "b.pt"] {
            let path = folder.path().join(name);
            save_network(&path, &network(), &made_by).unwrap();
            let loaded = load_network_with(&path, None).unwrap();
            assert_eq!(loaded.normalization_from, NormalizationSource::File);
            assert_eq!(loaded.info.made_by, made_by);
            assert_eq!(
                format!("{:?}", loaded.network.state().unwrap()),
                format!("{:?}", network().state().unwrap())
            );
            // The content decides how a file is read, its name how it is written.
            let renamed = folder.path().join("renamed");
            fs_err::copy(&path, &renamed).unwrap();
            load_network(&renamed).unwrap();
        }
        let same = |name: &str| fs_err::read(folder.path().join(name)).unwrap();
        assert_eq!(same("a.pth"), same("b.pt"));
        let (other, renamed) = ("c.safetensors", "c.pth");
        save_network(&folder.path().join(other), &network(), &made_by).unwrap();
        fs_err::rename(folder.path().join(other), folder.path().join(renamed)).unwrap();
        let (_, info) = load_network(&folder.path().join(renamed)).unwrap();
        assert_eq!(info.made_by, made_by);
    }

    #[test]
    fn other_kinds_come_back_from_either_format_and_say_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        for kind in [
            "resnet34",
            "resnet50",
            "preactresnet18",
            "preactresnet50",
            "wideresnet16",
        ] {
            let config = ResNetConfig::new(kind.parse().unwrap(), 2, 10);
            let mut rng = Seeds::new(0, "kinds").start();
            let network = Network::resnet(config, Normalization::cifar10(), &mut rng).unwrap();
            for name in ["a.safetensors", "a.pth"] {
                let path = folder.path().join(name);
                save_network(&path, &network, &Metadata::new()).unwrap();
                let (back, info) = load_network(&path).unwrap();
                assert_eq!((back.config(), info.config), (config, config));
                assert_eq!(info.architecture, kind);
                let (state, expected) = (back.state().unwrap(), network.state().unwrap());
                assert_eq!(state.len(), expected.len());
                for (name, tensor) in expected {
                    let numbers = |tensor| host_values(tensor).unwrap();
                    assert_eq!(numbers(&state[&name]), numbers(&tensor), "{name}");
                }
            }
            // A description that names another kind than its own configuration.
            let text = serde_json::json!({
                "architecture": "resnet18\u{1b}[2J", "config": config,
                "normalization": Normalization::cifar10(), "made_by": {},
            });
            let path = folder.path().join("b.safetensors");
            let info = Metadata::from([(INFO_KEY.to_owned(), text.to_string())]);
            save_tensors(&path, &network.state().unwrap(), &info).unwrap();
            let refused = load_network(&path).unwrap_err().to_string();
            assert!(
                refused.contains(r"architecture is `resnet18\u{1b}[2J`"),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_file_that_does_not_say_how_to_normalize_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("network.safetensors");
        save_tensors(&path, &network().state().unwrap(), &Metadata::new()).unwrap();
        assert!(matches!(
            load_network(&path),
            Err(Error::NoNormalization { num_classes: 4, .. })
        ));
        let given = Normalization::identity();
        let loaded = load_network_with(&path, Some(given)).unwrap();
        assert_eq!(loaded.normalization_from, NormalizationSource::Caller);
        assert_eq!(loaded.network.normalization(), given);

        save_network(&path, &network(), &Metadata::new()).unwrap();
        assert!(load_network_with(&path, Some(Normalization::cifar10())).is_ok());
        assert!(matches!(
            load_network_with(&path, Some(given)),
            Err(Error::OtherNormalization { .. })
        ));
    }
}
