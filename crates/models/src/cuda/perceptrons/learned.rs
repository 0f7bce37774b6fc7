//! Parameters in flat buffers, linear layers over them, and their optimizer.

use std::collections::BTreeMap;

use candle::{Device, Tensor};
use mesa_kernels::cuda::{
    Activation, AdamStep, CudaDevice, DeviceAdam, DeviceBuffer, LayerEnd, Matrix, MatrixPlace,
    Place,
};

use crate::adam::{Update, adam_state};
use crate::host::host_values;
use crate::{Adam, AdamConfig, Error, NamedTensors, Result};

pub(super) type Floats = DeviceBuffer<f32>;

/// Named tensors one behind the other in a flat buffer, and where each lies.
#[derive(Debug)]
pub(super) struct Flat {
    pub(super) values: Floats,
    places: BTreeMap<String, (Place, Vec<usize>)>,
}

impl Flat {
    pub(super) fn new<'a>(
        device: &CudaDevice,
        tensors: impl Iterator<Item = (&'a String, &'a Tensor)>,
    ) -> Result<Self> {
        let (mut flat, mut places) = (Vec::new(), BTreeMap::new());
        for (name, tensor) in tensors {
            let offset = flat.len();
            flat.extend(host_values(tensor)?);
            let len = flat.len() - offset;
            let place = Place { offset, len };
            places.insert(name.clone(), (place, tensor.dims().to_vec()));
        }
        let values = DeviceBuffer::from_slice(device, &flat)?;
        Ok(Self { values, places })
    }

    pub(super) fn place(&self, name: &str) -> Result<Place> {
        let found = self.places.get(name).map(|(place, _)| *place);
        found.ok_or_else(|| Error::MissingTensor {
            name: name.to_owned(),
        })
    }

    pub(super) fn named(&self, values: &Floats) -> Result<NamedTensors> {
        let values = values.read()?;
        let tensor = |(name, (place, dims)): (&String, &(Place, Vec<usize>))| {
            let own = &values[place.offset..][..place.len];
            let tensor = Tensor::from_slice(own, dims.as_slice(), &Device::Cpu)?;
            Ok((name.clone(), tensor))
        };
        self.places.iter().map(tensor).collect()
    }
}

/// Parameters, their gradients, and an optimizer's moments.
#[derive(Debug)]
pub(super) struct Learned {
    pub(super) device: CudaDevice,
    pub(super) parameters: Flat,
    pub(super) gradients: Floats,
    moments: [Floats; 2],
    pub(super) adam: AdamConfig,
    steps: u32,
    /// The factors of the next step.
    factors: DeviceAdam,
}

impl Learned {
    pub(super) fn new(device: &CudaDevice, adam: &Adam) -> Result<Self> {
        let [parameters, first, second] = adam.variables().map(|variables| {
            let named = variables.iter().map(|(name, var)| (name, var.as_tensor()));
            Flat::new(device, named)
        });
        let (parameters, (adam, steps)) = (parameters?, adam.progress());
        Ok(Self {
            device: device.clone(),
            gradients: DeviceBuffer::zeros(device, parameters.values.len())?,
            parameters,
            moments: [first?.values, second?.values],
            adam,
            steps,
            factors: DeviceAdam::new(device)?,
        })
    }

    /// A layer's weight (outputs, inputs) and bias.
    pub(super) fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<LinearPlace> {
        let weight = self.parameters.place(&format!("{name}.weight"))?;
        Ok(LinearPlace {
            weight: MatrixPlace::new(outputs, inputs).at(weight)?,
            bias: self.parameters.place(&format!("{name}.bias"))?,
        })
    }

    pub(super) fn values(&self) -> &Floats {
        &self.parameters.values
    }

    /// The gradients of a layer's parameters, from its inputs and the gradient of its outputs.
    pub(super) fn linear_gradients(
        &mut self,
        linear: &LinearPlace,
        inputs: &Floats,
        gradient: &Floats,
        rows: usize,
    ) -> Result<()> {
        let MatrixPlace {
            rows: outputs,
            columns,
            ..
        } = linear.weight;
        let of_outputs = Matrix::new(gradient, MatrixPlace::new(rows, outputs));
        let inputs = Matrix::new(inputs, MatrixPlace::new(rows, columns));
        let target = (&mut self.gradients, linear.weight);
        let first = of_outputs.transposed();
        self.device
            .product(first, inputs, LayerEnd::default(), target)?;
        let target = (&mut self.gradients, linear.bias);
        Ok(self.device.column_sums((gradient, rows), target)?)
    }

    /// Counts a step, and tells the device its factors: outside of recorded work.
    pub(super) fn begin_step(&mut self) -> Result<()> {
        self.steps += 1;
        let Update {
            beta1,
            beta2,
            step_size,
            second_correction,
            epsilon,
        } = Update::new(self.adam, self.steps);
        Ok(self.factors.set(AdamStep {
            first: [beta1, 1.0 - beta1].map(|x| x as f32),
            second: [beta2, 1.0 - beta2].map(|x| x as f32),
            step_size: step_size as f32,
            correction: second_correction as f32,
            epsilon: epsilon as f32,
        })?)
    }

    /// Moves all parameters.
    pub(super) fn end_step(&mut self) -> Result<()> {
        let [first, second] = &mut self.moments;
        let weights = &mut self.parameters.values;
        let moments = [first, second];
        Ok(self
            .device
            .adam(&self.factors, weights, moments, &self.gradients)?)
    }

    pub(super) fn adam_state(&self) -> Result<NamedTensors> {
        let [first, second] = &self.moments;
        let moments = [
            self.parameters.named(first)?,
            self.parameters.named(second)?,
        ];
        adam_state(moments, self.steps)
    }
}

/// Where a linear layer's parameters lie.
#[derive(Copy, Clone, Debug)]
pub(super) struct LinearPlace {
    /// (outputs, inputs).
    pub(super) weight: MatrixPlace,
    bias: Place,
}

impl LinearPlace {
    /// `inputs · weightᵀ + bias`, through a function.
    pub(super) fn forward(
        &self,
        learned: &Learned,
        inputs: &Floats,
        activation: Activation,
        outputs: &mut Floats,
        rows: usize,
    ) -> Result<()> {
        let (values, weight) = (learned.values(), self.weight);
        let inputs = Matrix::new(inputs, MatrixPlace::new(rows, weight.columns));
        let end = LayerEnd {
            bias: Some((values, self.bias)),
            activation,
            gate: None,
        };
        let weight = Matrix::new(values, weight).transposed();
        let target = (outputs, MatrixPlace::new(rows, self.bias.len));
        Ok(learned.device.product(inputs, weight, end, target)?)
    }

    /// The gradient of some of the inputs, times the slope of a leaky ReLU that they came out of.
    pub(super) fn input_gradient(
        &self,
        learned: &Learned,
        gradient: &Floats,
        (first, columns): (usize, usize),
        gate: Option<&Floats>,
        target: &mut Floats,
        rows: usize,
    ) -> Result<()> {
        let place = MatrixPlace::new(rows, columns);
        let end = LayerEnd {
            gate: gate.map(|gate| (gate, place)),
            ..LayerEnd::default()
        };
        let of_outputs = Matrix::new(gradient, MatrixPlace::new(rows, self.bias.len));
        let weight = Matrix::new(learned.values(), self.weight.columns(first, columns));
        let target = (target, place);
        Ok(learned.device.product(of_outputs, weight, end, target)?)
    }
}
