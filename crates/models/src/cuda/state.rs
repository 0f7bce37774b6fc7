//! Named tensors in PyTorch's layout ↔ the flat, padded buffers of a plan.

use candle::{Device, Tensor};
use mesa_kernels::cuda::{Place, pack_filter, padded, unpack_filter};

use super::plan::{Directory, Kind, Plan};
use crate::graph::Graph;
use crate::host::host_values;
use crate::state::NamedTensors;
use crate::{Error, Result};

/// The tensors of a directory, each at its place; everything else is zero.
///
/// # Errors
///
/// [`Error::MissingTensor`] or [`Error::TensorShape`] by name.
pub(crate) fn pack(directory: &Directory, state: &NamedTensors) -> Result<Vec<f32>> {
    let mut flat = vec![0.0; directory.len];
    for entry in &directory.entries {
        let Some(tensor) = state.get(&entry.name) else {
            return Err(Error::MissingTensor {
                name: entry.name.clone(),
            });
        };
        let dims = dims(&entry.kind);
        if tensor.dims() != dims {
            return Err(Error::TensorShape {
                name: entry.name.clone(),
                expected: format!("{dims:?}"),
                found: format!("{:?}", tensor.dims()),
            });
        }
        let values = host_values(tensor)?;
        let target = &mut flat[entry.place.offset..][..entry.place.len];
        match entry.kind {
            Kind::Filter(shape) => target.copy_from_slice(&pack_filter(&shape, &values)?),
            Kind::Linear(_, channels) => {
                let rows = target.chunks_exact_mut(padded(channels));
                for (row, values) in rows.zip(values.chunks_exact(channels)) {
                    row[..channels].copy_from_slice(values);
                }
            }
            Kind::Channels(_) | Kind::Classes(_) => {
                target[..values.len()].copy_from_slice(&values);
            }
        }
    }
    Ok(flat)
}

/// The weights of units that learn none, each at its place.
///
/// # Errors
///
/// [`Error::Cuda`] for weights that do not belong to their shape.
pub(crate) fn pack_selections(graph: &Graph, plan: &Plan) -> Result<Vec<f32>> {
    let mut flat = vec![0.0; plan.selected_values];
    for (index, unit) in graph.units.iter().enumerate() {
        if let Some(weights) = unit.selection() {
            let Place { offset, len } = plan.unit(index).filter;
            flat[offset..][..len].copy_from_slice(&pack_filter(&unit.shape, &weights)?);
        }
    }
    Ok(flat)
}

/// The inverse of [`pack`].
///
/// # Errors
///
/// [`Error::Tensor`] if candle cannot make one.
pub(crate) fn unpack(directory: &Directory, flat: &[f32]) -> Result<NamedTensors> {
    let mut state = NamedTensors::new();
    for entry in &directory.entries {
        let source = &flat[entry.place.offset..][..entry.place.len];
        let values = match entry.kind {
            Kind::Filter(shape) => unpack_filter(&shape, source)?,
            Kind::Linear(_, channels) => {
                let rows = source.chunks_exact(padded(channels));
                rows.flat_map(|row| &row[..channels]).copied().collect()
            }
            Kind::Channels(count) | Kind::Classes(count) => source[..count].to_vec(),
        };
        let tensor = Tensor::from_vec(values, dims(&entry.kind), &Device::Cpu)?;
        state.insert(entry.name.clone(), tensor);
    }
    Ok(state)
}

/// A tensor's dimensions in PyTorch's layout.
fn dims(kind: &Kind) -> Vec<usize> {
    match *kind {
        Kind::Filter(shape) => shape.dims(),
        Kind::Linear(classes, channels) => vec![classes, channels],
        Kind::Channels(count) | Kind::Classes(count) => vec![count],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Network, Normalization, ResNetConfig, Seeds};

    fn network(width: usize) -> Network {
        network_of("resnet18", width)
    }

    fn network_of(kind: &str, width: usize) -> Network {
        let config = ResNetConfig::new(kind.parse().unwrap(), width, 7);
        let mut rng = Seeds::new(0, "weights").start();
        Network::resnet(config, Normalization::cifar10(), &mut rng).unwrap()
    }

    #[test]
    fn a_networks_state_comes_back_to_the_last_bit() {
        // 5 channels are padded to 8, 40 are not.
        for (kind, width) in [("resnet18", 5), ("resnet18", 8), ("preactresnet18", 5)] {
            let network = network_of(kind, width);
            let state = network.state().unwrap();
            let plan = Plan::new(&network.config().graph());
            let mut back = NamedTensors::new();
            for directory in [&plan.parameters, &plan.running] {
                let flat = pack(directory, &state).unwrap();
                back.extend(unpack(directory, &flat).unwrap());
            }
            assert_eq!(back.len(), state.len());
            for (name, tensor) in &state {
                let bits = |tensor: &Tensor| host_values(tensor).unwrap();
                assert_eq!(bits(&back[name]), bits(tensor), "{name}");
                assert_eq!(back[name].dims(), tensor.dims(), "{name}");
            }
        }
    }

    #[test]
    fn padding_is_zero() {
        let network = network(5);
        let plan = Plan::new(&network.config().graph());
        let flat = pack(&plan.parameters, &network.state().unwrap()).unwrap();
        let gamma = plan.unit(0).norm.unwrap().gamma;
        assert_eq!(&flat[gamma.offset..][..8], [1., 1., 1., 1., 1., 0., 0., 0.]);
        let nonzero = flat.iter().filter(|value| **value != 0.0).count();
        assert!(nonzero <= network.parameter_count());
    }

    #[test]
    fn tensors_that_are_missing_or_of_another_shape_are_named() {
        let plan = Plan::new(&network(5).config().graph());
        let mut state = network(8).state().unwrap();
        let refused = pack(&plan.parameters, &state);
        assert!(matches!(refused, Err(Error::TensorShape { name, .. }) if name == "conv1.weight"));
        state.remove("conv1.weight");
        let refused = pack(&plan.parameters, &state);
        assert!(matches!(refused, Err(Error::MissingTensor { name }) if name == "conv1.weight"));
    }
}
