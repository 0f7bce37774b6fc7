//! What a network learns: a tensor with its gradient, and how both lie in memory.

use candle::{Device, Tensor};
use mesa_kernels::{Buffer, ConvShape, UnitGradients, UnitWeights};

use crate::Result;

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

    /// Its dimensions in PyTorch's layout.
    pub(crate) fn dims(&self) -> Vec<usize> {
        match &self.shape {
            ParameterShape::Conv(shape) => {
                vec![
                    shape.out_channels,
                    shape.in_channels,
                    shape.kernel,
                    shape.kernel,
                ]
            }
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

/// Of the parameters of one unit.
pub(super) fn unit_weights(parameters: &[Parameter]) -> UnitWeights<'_> {
    let (gamma, beta): (&[f32], &[f32]) = match &parameters[1..] {
        [gamma, beta] => (&gamma.values, &beta.values),
        _ => (&[], &[]),
    };
    UnitWeights {
        conv: &parameters[0].values,
        gamma,
        beta,
    }
}

/// The convolution's weights and all gradients, of the parameters of one unit.
pub(super) fn unit_gradients(parameters: &mut [Parameter]) -> (&[f32], UnitGradients<'_>) {
    let (first, norm) = parameters.split_at_mut(1);
    let Parameter {
        values, gradient, ..
    } = &mut first[0];
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
