//! The layers of MESA's perceptrons: products of matrices, batch norm over rows, Adam. All in f32, on
//! one stream with the classifier's work, whatever that is computed in.

use super::algorithm::Precision;
use super::buffer::{DeviceBuffer, Place};
use super::device::CudaDevice;
use super::failure::{CudaError, Result};
use super::function::{Argument, Kernel};
use super::launch::{Grid, int};
use super::matrix::{Matrix, MatrixPlace};
use super::norm::NormParameters;

/// What a layer ends with; the discriminants are those of `perceptron.cuh`.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
#[repr(i32)]
pub enum Activation {
    /// Nothing.
    #[default]
    Identity = 0,
    /// `x` above zero, `0.2 x` below.
    LeakyRelu = 1,
    /// `1 / (1 + exp(-x))`.
    Sigmoid = 2,
}

/// What becomes of a product before it is written: a layer's bias and function, or, on the way back,
/// the slope of the function before it.
#[derive(Copy, Clone, Debug, Default)]
pub struct LayerEnd<'a> {
    /// Added to each row.
    pub bias: Option<(&'a DeviceBuffer<f32>, Place)>,
    /// Of the sum.
    pub activation: Activation,
    /// Outputs of a leaky ReLU, whose slope there it is multiplied by.
    pub gate: Option<(&'a DeviceBuffer<f32>, MatrixPlace)>,
}

/// Numbers of one step of Adam; see `mesa-models`' `Adam` for what they are.
#[derive(Copy, Clone, Debug, PartialEq)]
pub struct AdamStep {
    /// β₁ and 1 − β₁.
    pub first: [f32; 2],
    /// β₂ and 1 − β₂.
    pub second: [f32; 2],
    /// Learning rate over 1 − β₁ᵗ.
    pub step_size: f32,
    /// √(1 − β₂ᵗ).
    pub correction: f32,
    /// Added to the root.
    pub epsilon: f32,
}

/// An [`AdamStep`] on the device, where recorded work finds it.
#[derive(Debug)]
pub struct DeviceAdam {
    buffer: DeviceBuffer<f32>,
}

/// Numbers of an [`AdamStep`], in the order of `perceptron.cuh`.
const NUMBERS: usize = 7;

impl DeviceAdam {
    /// One that was not set yet.
    ///
    /// # Errors
    ///
    /// [`CudaError::OutOfMemory`].
    pub fn new(device: &CudaDevice) -> Result<Self> {
        Ok(Self {
            buffer: DeviceBuffer::zeros(device, NUMBERS)?,
        })
    }

    /// Those of the next step.
    ///
    /// # Errors
    ///
    /// [`CudaError::Driver`] if the device has failed.
    pub fn set(&mut self, step: AdamStep) -> Result<()> {
        let [decay1, rest1] = step.first;
        let [decay2, rest2] = step.second;
        let AdamStep {
            step_size,
            correction,
            epsilon,
            ..
        } = step;
        self.buffer
            .write(&[decay1, rest1, decay2, rest2, step_size, correction, epsilon])
    }
}

impl CudaDevice {
    /// `target = activation(first · second + bias)`, times the gate's slope.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for matrices that do not fit together or into their buffers.
    #[allow(unsafe_code)]
    pub fn product(
        &self,
        first: Matrix<'_>,
        second: Matrix<'_>,
        end: LayerEnd<'_>,
        (target, place): (&mut DeviceBuffer<f32>, MatrixPlace),
    ) -> Result<()> {
        let ((rows, depth), (terms, columns)) = (first.size(), second.size());
        let gate = end.gate.map_or(place, |(_, gate)| gate);
        let of_result = |place: MatrixPlace| (place.rows, place.columns) == (rows, columns);
        if depth != terms || !of_result(place) || !of_result(gate) {
            let found = format!("({rows}, {depth}), ({terms}, {columns}) and {place:?}");
            let expected = "sizes that fit together";
            return Err(CudaError::argument(
                "the matrices of a product",
                found,
                expected,
            ));
        }
        let mut arguments = Vec::with_capacity(15);
        arguments.extend(first.arguments(self)?);
        arguments.extend(second.arguments(self)?);
        for count in [rows, columns, depth] {
            arguments.push(Argument::Int(int(count)?));
        }
        let bias = end
            .bias
            .map(|(buffer, place)| buffer.at(self, place, columns));
        arguments.push(Argument::Pointer(bias.transpose()?.unwrap_or(0)));
        arguments.push(Argument::Int(end.activation as i32));
        let slopes = end.gate.map(|(buffer, place)| place.address(self, buffer));
        arguments.push(slopes.transpose()?.unwrap_or(Argument::Pointer(0)));
        arguments.push(Argument::Int(int(gate.row_len)?));
        arguments.push(place.address(self, target)?);
        arguments.push(Argument::Int(int(place.row_len)?));
        let grid = Grid::tiles(rows, columns)?;
        // SAFETY: the arguments of `product`; each matrix lies within its buffer, and the sizes fit
        // together, as was checked. What is written is borrowed mutably, so it is nothing of what
        // is read.
        unsafe { self.perceptron(Kernel::Product, grid, &arguments) }
    }

    /// Copies a matrix to a place of another buffer.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for places of different sizes, or outside of their buffers.
    #[allow(unsafe_code)]
    pub fn copy_columns(
        &self,
        (from, source): (&DeviceBuffer<f32>, MatrixPlace),
        (to, target): (&mut DeviceBuffer<f32>, MatrixPlace),
    ) -> Result<()> {
        let MatrixPlace { rows, columns, .. } = source;
        if (target.rows, target.columns) != (rows, columns) {
            let (found, expected) = (format!("{target:?}"), format!("{rows} rows of {columns}"));
            return Err(CudaError::argument("the size of a matrix", found, expected));
        }
        let arguments = [
            source.address(self, from)?,
            Argument::Int(int(source.row_len)?),
            Argument::Int(int(rows)?),
            Argument::Int(int(columns)?),
            target.address(self, to)?,
            Argument::Int(int(target.row_len)?),
        ];
        // SAFETY: the arguments of `copy_columns`; both places lie within their buffers.
        unsafe { self.perceptron(Kernel::CopyColumns, Grid::list(rows * columns)?, &arguments) }
    }

    /// The sum of each column of a matrix without gaps: a bias' gradient.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for buffers of another shape.
    #[allow(unsafe_code)]
    pub fn column_sums(
        &self,
        (matrix, rows): (&DeviceBuffer<f32>, usize),
        (target, place): (&mut DeviceBuffer<f32>, Place),
    ) -> Result<()> {
        let columns = place.len;
        let arguments = [
            MatrixPlace::new(rows, columns).address(self, matrix)?,
            Argument::Int(int(rows)?),
            Argument::Int(int(columns)?),
            Argument::Pointer(target.at(self, place, columns)?),
        ];
        let grid = Grid::tiles(1, columns)?;
        // SAFETY: the arguments of `column_sums`; lengths were checked.
        unsafe { self.perceptron(Kernel::ColumnSums, grid, &arguments) }
    }

    /// Batch norm over the rows of `x` and a leaky ReLU. `statistics` keeps the means and inverse
    /// deviations of the batch, and the running ones (mean, unbiased variance; places of a flat
    /// buffer) move by the share `momentum` towards them.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for buffers of another shape.
    #[allow(unsafe_code)]
    pub fn norm_leaky(
        &self,
        x: &DeviceBuffer<f32>,
        parameters: NormParameters<'_>,
        (running, mean, variance): (&mut DeviceBuffer<f32>, Place, Place),
        momentum: f32,
        statistics: &mut DeviceBuffer<f32>,
        (y, place): (&mut DeviceBuffer<f32>, MatrixPlace),
    ) -> Result<()> {
        let MatrixPlace { rows, columns, .. } = place;
        let [gamma, beta] = parameters.addresses(self, columns)?;
        let arguments = [
            MatrixPlace::new(rows, columns).address(self, x)?,
            gamma,
            beta,
            Argument::Int(int(rows)?),
            Argument::Int(int(columns)?),
            Argument::Float(momentum),
            Argument::Pointer(running.at(self, mean, columns)?),
            Argument::Pointer(running.at(self, variance, columns)?),
            Argument::Pointer(statistics.whole(self, "statistics", 2 * columns)?),
            place.address(self, y)?,
            Argument::Int(int(place.row_len)?),
        ];
        let grid = Grid::tiles(1, columns)?;
        // SAFETY: the arguments of `norm_leaky`; lengths were checked.
        unsafe { self.perceptron(Kernel::NormLeaky, grid, &arguments) }
    }

    /// The same with the running statistics.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for buffers of another shape.
    #[allow(unsafe_code)]
    pub fn fixed_norm_leaky(
        &self,
        x: &DeviceBuffer<f32>,
        parameters: NormParameters<'_>,
        (running, mean, variance): (&DeviceBuffer<f32>, Place, Place),
        (y, place): (&mut DeviceBuffer<f32>, MatrixPlace),
    ) -> Result<()> {
        let MatrixPlace { rows, columns, .. } = place;
        let [gamma, beta] = parameters.addresses(self, columns)?;
        let arguments = [
            MatrixPlace::new(rows, columns).address(self, x)?,
            gamma,
            beta,
            Argument::Int(int(rows)?),
            Argument::Int(int(columns)?),
            Argument::Pointer(running.at(self, mean, columns)?),
            Argument::Pointer(running.at(self, variance, columns)?),
            place.address(self, y)?,
            Argument::Int(int(place.row_len)?),
        ];
        let grid = Grid::list(rows * columns)?;
        // SAFETY: the arguments of `fixed_norm_leaky`; lengths were checked.
        unsafe { self.perceptron(Kernel::FixedNormLeaky, grid, &arguments) }
    }

    /// From the gradient behind [`CudaDevice::norm_leaky`] to that of its input, written to `of_x`,
    /// and of its parameters, written to places of a flat buffer.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for buffers of another shape.
    #[allow(unsafe_code)]
    pub fn norm_leaky_gradient(
        &self,
        gradient: &DeviceBuffer<f32>,
        (x, statistics): (&DeviceBuffer<f32>, &DeviceBuffer<f32>),
        (y, place): (&DeviceBuffer<f32>, MatrixPlace),
        parameters: NormParameters<'_>,
        of_x: &mut DeviceBuffer<f32>,
        targets: &mut DeviceBuffer<f32>,
    ) -> Result<()> {
        let MatrixPlace { rows, columns, .. } = place;
        let whole = MatrixPlace::new(rows, columns);
        let [gamma, _] = parameters.addresses(self, columns)?;
        let NormParameters {
            gamma: of_gamma,
            beta: of_beta,
            ..
        } = parameters;
        let arguments = [
            whole.address(self, gradient)?,
            whole.address(self, x)?,
            place.address(self, y)?,
            Argument::Int(int(place.row_len)?),
            Argument::Pointer(statistics.whole(self, "statistics", 2 * columns)?),
            gamma,
            Argument::Int(int(rows)?),
            Argument::Int(int(columns)?),
            whole.address(self, of_x)?,
            Argument::Pointer(targets.at(self, of_gamma, columns)?),
            Argument::Pointer(targets.at(self, of_beta, columns)?),
        ];
        let grid = Grid::tiles(1, columns)?;
        // SAFETY: the arguments of `norm_leaky_gradient`; lengths were checked.
        unsafe { self.perceptron(Kernel::NormLeakyGradient, grid, &arguments) }
    }

    /// The gradient in front of a function, from that behind it and the function's values.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for buffers of different lengths.
    #[allow(unsafe_code)]
    pub fn through_function(
        &self,
        gradient: &DeviceBuffer<f32>,
        y: &DeviceBuffer<f32>,
        activation: Activation,
        result: &mut DeviceBuffer<f32>,
    ) -> Result<()> {
        let count = result.len();
        let arguments = [
            Argument::Pointer(gradient.whole(self, "a gradient", count)?),
            Argument::Pointer(y.whole(self, "values of a function", count)?),
            Argument::Int(int(count)?),
            Argument::Int(activation as i32),
            Argument::Pointer(result.whole(self, "a gradient", count)?),
        ];
        // SAFETY: the arguments of `through_function`; lengths were checked.
        unsafe { self.perceptron(Kernel::ThroughFunction, Grid::list(count)?, &arguments) }
    }

    /// A step of Adam over a flat buffer of parameters and its moments.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for buffers of different lengths.
    #[allow(unsafe_code)]
    pub fn adam(
        &self,
        step: &DeviceAdam,
        weights: &mut DeviceBuffer<f32>,
        [first, second]: [&mut DeviceBuffer<f32>; 2],
        gradient: &DeviceBuffer<f32>,
    ) -> Result<()> {
        let count = weights.len();
        let arguments = [
            Argument::Pointer(weights.whole(self, "weights", count)?),
            Argument::Pointer(first.whole(self, "first moments", count)?),
            Argument::Pointer(second.whole(self, "second moments", count)?),
            Argument::Pointer(gradient.whole(self, "gradients", count)?),
            Argument::Int(int(count)?),
            Argument::Pointer(step.buffer.whole(self, "settings", NUMBERS)?),
        ];
        // SAFETY: the arguments of `adam`; lengths were checked.
        unsafe { self.perceptron(Kernel::Adam, Grid::list(count)?, &arguments) }
    }

    /// Starts one of the perceptrons' kernels.
    ///
    /// # Safety
    ///
    /// As for [`CudaDevice::launch`].
    #[allow(unsafe_code)]
    unsafe fn perceptron(&self, kernel: Kernel, grid: Grid, arguments: &[Argument]) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { self.launch(Precision::F32, kernel, grid, arguments) }
    }
}
