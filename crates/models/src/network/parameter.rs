//! What a network learns: a tensor with its gradient, and how both lie in memory.

use candle::{Device, Tensor};
use mesa_kernels::{Buffer, ConvShape, UnitGradients, UnitWeights};

use crate::Result;
use crate::graph::UnitSpec;

/// How a learned tensor lies in memory.
#[derive(Clone, Debug)]
pub(crate) enum ParameterShape {
    /// A convolution's weights, packed; (out, in, side, side) outside.
    Conv(ConvShape),
    /// Anything else, as it is.
    Plain(Vec<usize>),
}

/// A learned tensor and its gradient.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) shape: ParameterShape,
    pub(crate) values: Buffer,
    pub(crate) gradient: Buffer,
}

impl Parameter {
    pub(super) fn new(name: String, shape: ParameterShape, values: Buffer) -> Self {
        let gradient = Buffer::zeros(values.len());
        Self {
            name,
            shape,
            values,
            gradient,
        }
    }

    /// The weights of a unit's convolution, given in PyTorch's layout.
    pub(super) fn filter(unit: &UnitSpec, weights: &[f32]) -> Result<Self> {
        let values = Buffer::from_slice(&unit.shape.pack(weights)?);
        let shape = ParameterShape::Conv(unit.shape);
        Ok(Self::new(unit.filter_name(), shape, values))
    }

    /// Its dimensions in PyTorch's layout.
    pub(crate) fn dims(&self) -> Vec<usize> {
        match &self.shape {
            ParameterShape::Conv(shape) => shape.dims(),
            ParameterShape::Plain(dims) => dims.clone(),
        }
    }

    /// `values`, which lie as the parameter's, as a tensor in PyTorch's layout.
    pub(crate) fn tensor(&self, values: &[f32]) -> Result<Tensor> {
        let values = match &self.shape {
            ParameterShape::Conv(shape) => shape.unpack(values)?,
            ParameterShape::Plain(_) => values.to_vec(),
        };
        Ok(Tensor::from_vec(values, self.dims(), &Device::Cpu)?)
    }

    /// The inverse of [`Parameter::tensor`].
    pub(crate) fn pack(&self, values: &[f32]) -> Result<Buffer> {
        Ok(match &self.shape {
            ParameterShape::Conv(shape) => Buffer::from_slice(&shape.pack(values)?),
            ParameterShape::Plain(_) => Buffer::from_slice(values),
        })
    }

    pub(super) fn set(&mut self, values: &[f32]) -> Result<()> {
        self.values = self.pack(values)?;
        Ok(())
    }
}

/// What a unit reads: weights of its own (`selection`), or the first of what it learns; then batch norm's.
pub(super) fn unit_weights<'a>(
    selection: Option<&'a Parameter>,
    learned: &'a [Parameter],
) -> UnitWeights<'a> {
    let ((Some(filter), norm) | (None, [filter, norm @ ..])) = (selection, learned) else {
        unreachable!("a unit has a convolution");
    };
    let (gamma, beta): (&[f32], &[f32]) = match norm {
        [gamma, beta] => (&gamma.values, &beta.values),
        _ => (&[], &[]),
    };
    UnitWeights {
        conv: &filter.values,
        gamma,
        beta,
    }
}

/// The convolution's weights, as [`unit_weights`] has them, and where all gradients of a unit go.
pub(super) fn unit_gradients<'a>(
    selection: Option<&'a mut Parameter>,
    learned: &'a mut [Parameter],
) -> (&'a [f32], UnitGradients<'a>) {
    let ((Some(filter), norm) | (None, [filter, norm @ ..])) = (selection, learned) else {
        unreachable!("a unit has a convolution");
    };
    let Parameter {
        values, gradient, ..
    } = filter;
    let (gamma, beta): (&mut [f32], &mut [f32]) = match norm {
        [gamma, beta] => (&mut gamma.gradient, &mut beta.gradient),
        _ => (&mut [], &mut []),
    };
    let targets = UnitGradients {
        conv: gradient,
        gamma,
        beta,
    };
    (values, targets)
}
