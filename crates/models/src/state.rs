//! Named tensors in and out of networks and optimizers.

use std::collections::BTreeMap;

use candle::{Tensor, Var};

use crate::{Error, Result};

/// Tensors by name, in name order.
pub type NamedTensors = BTreeMap<String, Tensor>;

/// Copies that later training steps leave alone.
pub(crate) fn copies(variables: &BTreeMap<String, Var>) -> Result<NamedTensors> {
    let copy = |(name, var): (&String, &Var)| Ok((name.clone(), var.detach().copy()?));
    variables.iter().map(copy).collect()
}

/// Checks that `found` has the names, shapes and types of `expected`, no more and no less.
pub(crate) fn check(expected: &NamedTensors, found: &NamedTensors) -> Result<()> {
    for (name, tensor) in expected {
        let Some(found) = found.get(name) else {
            return Err(Error::MissingTensor { name: name.clone() });
        };
        check_tensor(name, tensor, found)?;
    }
    match found.keys().find(|name| !expected.contains_key(*name)) {
        Some(name) => Err(Error::UnexpectedTensor { name: name.clone() }),
        None => Ok(()),
    }
}

/// Checks shape and type of one tensor.
pub(crate) fn check_tensor(name: &str, expected: &Tensor, found: &Tensor) -> Result<()> {
    if found.dims() == expected.dims() && found.dtype() == expected.dtype() {
        return Ok(());
    }
    Err(Error::TensorShape {
        name: name.to_owned(),
        expected: format!("{:?} {:?}", expected.dtype(), expected.dims()),
        found: format!("{:?} {:?}", found.dtype(), found.dims()),
    })
}

/// Sets variables to tensors that were checked before.
pub(crate) fn load(variables: &BTreeMap<String, Var>, tensors: &NamedTensors) -> Result<()> {
    for (name, var) in variables {
        var.set(&tensors[name].to_device(var.device())?)?;
    }
    Ok(())
}
