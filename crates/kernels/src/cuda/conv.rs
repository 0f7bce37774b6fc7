//! 2-D convolution through cuDNN or own kernels: forward, input gradient, weight gradient.

use super::algorithm::{ConvKey, Direction, OwnShape, Precision};
use super::buffer::{DeviceBuffer, Place, Values};
use super::device::CudaDevice;
use super::dnn::Addresses;
use super::failure::{CudaError, Result};
use super::filter::CHANNEL_MULTIPLE;
use super::function::{Argument, Kernel};
use super::hopper::{Hopper, Then, Through};
use super::launch::{Grid, index, int};
use super::norm::{CudaNorm, Onward, Residual};
use crate::ConvShape;

/// Bytes that addresses of what the hardware copies are multiples of.
const COPIED_AT: u64 = 128;

/// A convolution of a batch of feature maps; see the crate's [`crate::Conv`] for what it computes.
///
/// Images are (batch, row, column, channel), weights (output, row, column, input). Channels are
/// multiples of [`CHANNEL_MULTIPLE`]. Only algorithms that give the same bits every time are used,
/// unless others are allowed.
#[derive(Debug)]
pub struct Convolution {
    device: CudaDevice,
    shape: ConvShape,
    size: (usize, usize),
    batch: usize,
    precision: Precision,
    deterministic: bool,
    /// What own kernels know it as, on a card that has them.
    own: Option<OwnShape>,
    /// What a 1×1 convolution of stride 2 sees of its input: every second row and column, or the
    /// gradients of these. cuDNN is slow at stride 2, and convolves them with stride 1.
    thinned: Option<Values>,
}

/// One of the three products of own kernels, and what is done on the result's way to memory.
#[derive(Copy, Clone, Debug)]
enum Product {
    Forward(Then),
    InputGradient(bool, Option<Through>),
    WeightGradient,
}

impl Convolution {
    /// A convolution of `batch` images of `size` (height, width).
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for a shape that is not computed here; [`CudaError::OutOfMemory`].
    pub fn new(
        device: &CudaDevice,
        shape: ConvShape,
        size: (usize, usize),
        batch: usize,
        precision: Precision,
        deterministic: bool,
    ) -> Result<Self> {
        let channels = [shape.in_channels, shape.out_channels];
        let whole = |channels: usize| channels > 0 && channels.is_multiple_of(CHANNEL_MULTIPLE);
        if !channels.into_iter().all(whole) {
            return Err(CudaError::argument(
                "the channels of a convolution",
                format!("{channels:?}"),
                format!("multiples of {CHANNEL_MULTIPLE}"),
            ));
        }
        if !matches!(shape.kernel, 1 | 3) || !matches!(shape.stride, 1 | 2) {
            return Err(CudaError::argument(
                "kernel side and stride",
                format!("{} and {}", shape.kernel, shape.stride),
                "1 or 3, and 1 or 2",
            ));
        }
        if size.0 * size.1 * batch == 0 {
            return Err(CudaError::argument(
                "images",
                format!("{batch} of {size:?}"),
                "at least one pixel",
            ));
        }
        let mut convolution = Self {
            device: device.clone(),
            shape,
            size,
            batch,
            precision,
            deterministic,
            own: device
                .hopper()
                .and_then(|_| OwnShape::of(&shape, size, precision)),
            thinned: None,
        };
        if (shape.kernel, shape.stride) == (1, 2) {
            let (rows, columns) = convolution.output_size();
            let len = batch * rows * columns * shape.in_channels;
            convolution.thinned = Some(Values::zeros(device, len, precision)?);
        }
        Ok(convolution)
    }

    /// Channels of the input.
    pub fn in_channels(&self) -> usize {
        self.shape.in_channels
    }

    /// What it convolves with.
    pub(crate) fn shape(&self) -> ConvShape {
        self.shape
    }

    /// Height and width of its images.
    pub(crate) fn size(&self) -> (usize, usize) {
        self.size
    }

    /// Values of the input.
    pub fn input_len(&self) -> usize {
        self.batch * self.size.0 * self.size.1 * self.shape.in_channels
    }

    /// Values of the output.
    pub fn output_len(&self) -> usize {
        let (rows, columns) = self.output_size();
        self.batch * rows * columns * self.shape.out_channels
    }

    /// Values of the weights.
    pub fn weights_len(&self) -> usize {
        self.shape.out_channels * self.shape.taps() * self.shape.in_channels
    }

    /// Chooses the algorithms of the forward pass and, if asked, of the input's and the weights'
    /// gradients, and makes room for their workspace: nothing is allocated later.
    ///
    /// # Errors
    ///
    /// [`CudaError::NoAlgorithm`], [`CudaError::OutOfMemory`], [`CudaError::Dnn`].
    pub fn prepare(&self, input_gradient: bool, weight_gradient: bool) -> Result<()> {
        let mut dnn = self.device.dnn()?;
        let wanted = [
            (Direction::Forward, true),
            (Direction::BackwardData, input_gradient),
            (Direction::BackwardFilter, weight_gradient),
        ];
        for (direction, wanted) in wanted {
            match self.own(direction) {
                _ if !wanted => {}
                None => dnn.prepare(&self.key(direction))?,
                Some(own) if direction == Direction::BackwardFilter => {
                    dnn.make_room(Hopper::room(own, index(self.batch)?))?;
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Convolves a batch with the weights at a place of a flat buffer.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for a buffer of another shape; [`CudaError::Dnn`], [`CudaError::Driver`].
    pub fn forward(
        &self,
        input: &Values,
        (weights, place): (&Values, Place),
        output: &mut Values,
    ) -> Result<()> {
        let addresses = self.addresses(input, (weights, place), output)?;
        self.run(Direction::Forward, addresses, false)
    }

    /// The same before batch norm: the sums that it takes its moments from are left to it where the
    /// convolution takes them on its way. Nothing may be added to the output in between.
    ///
    /// # Errors
    ///
    /// As for [`Convolution::forward`].
    pub fn forward_to_norm(
        &self,
        input: &Values,
        (weights, place): (&Values, Place),
        output: &mut Values,
        norm: &mut CudaNorm,
        running_mean: (&DeviceBuffer<f32>, Place),
    ) -> Result<()> {
        let Some(own) = self.own(Direction::Forward) else {
            norm.forget_sums();
            return self.forward(input, (weights, place), output);
        };
        let addresses = self.addresses(input, (weights, place), output)?;
        let channels = self.shape.out_channels;
        let result = (self.output_len() / channels, channels);
        let parts = Hopper::sums(own, index(self.batch)?) as usize;
        let sums = norm.place_for_sums(&self.device, result, parts, running_mean)?;
        self.run_own(own, Product::Forward(Then::Moments(sums)), addresses)?;
        norm.note_sums(parts);
        Ok(())
    }

    /// The same with all that follows in a layer whose statistics are fixed, as [`CudaNorm::normalize`] does
    /// it, but that the convolution's result is not rounded before it is normalized; it is after, if a
    /// residual is to be added. False if the convolution cannot do it, and has done nothing.
    ///
    /// # Errors
    ///
    /// As for [`Convolution::forward`].
    pub fn forward_fixed(
        &self,
        input: &Values,
        (weights, place): (&Values, Place),
        output: &mut Values,
        norm: &mut CudaNorm,
        residual: Option<Residual<'_>>,
    ) -> Result<bool> {
        let Some(own) = self.own(Direction::Forward) else {
            return Ok(false);
        };
        let addresses = self.addresses(input, (weights, place), output)?;
        let normal = norm.place_for_result(&self.device, self.output_len(), residual)?;
        self.run_own(own, Product::Forward(Then::Normalize(normal)), addresses)?;
        Ok(true)
    }

    /// The gradient of the input, written or, with `accumulate`, added to what is there.
    ///
    /// # Errors
    ///
    /// As for [`Convolution::forward`].
    pub fn input_gradient(
        &self,
        (weights, place): (&Values, Place),
        gradient: &Values,
        target: &mut Values,
        accumulate: bool,
    ) -> Result<()> {
        let addresses = self.addresses(target, (weights, place), gradient)?;
        self.run(Direction::BackwardData, addresses, accumulate)
    }

    /// The same, which completes the gradient of a layer's output: of one with batch norm and a ReLU, whose
    /// result before that is `y`. What is to be done to it then is done on its way, where the convolution
    /// can; `norm` knows.
    ///
    /// # Errors
    ///
    /// As for [`Convolution::forward`].
    pub fn input_gradient_to_norm(
        &self,
        (weights, place): (&Values, Place),
        gradient: &Values,
        (target, accumulate): (&mut Values, bool),
        (norm, y): (&mut CudaNorm, &Values),
        onward: Onward,
    ) -> Result<()> {
        let Some(own) = self.own.filter(|own| own.lets_through()) else {
            norm.forget_gradient();
            return self.input_gradient((weights, place), gradient, target, accumulate);
        };
        let addresses = self.addresses(target, (weights, place), gradient)?;
        let parts = Hopper::sums(own, index(self.batch)?) as usize;
        let len = self.input_len();
        let through = norm.place_for_gradient(&self.device, y, len, (onward, parts))?;
        let product = Product::InputGradient(accumulate, Some(through));
        self.run_own(own, product, addresses)?;
        norm.let_through(onward, parts);
        Ok(())
    }

    /// The gradient of the weights, written to a place of a flat buffer.
    ///
    /// # Errors
    ///
    /// As for [`Convolution::forward`].
    pub fn weight_gradient(
        &self,
        input: &Values,
        gradient: &Values,
        (target, place): (&mut Values, Place),
    ) -> Result<()> {
        let addresses = self.addresses(input, (target, place), gradient)?;
        self.run(Direction::BackwardFilter, addresses, false)
    }

    fn output_size(&self) -> (usize, usize) {
        let (height, width) = self.size;
        let side = |side| self.shape.output_side(side);
        (side(height), side(width))
    }

    /// The addresses of an input, weights at a place of a flat buffer, and an output, or of their
    /// gradients.
    fn addresses(
        &self,
        input: &Values,
        (weights, place): (&Values, Place),
        output: &Values,
    ) -> Result<Addresses> {
        let (device, precision) = (&self.device, self.precision);
        let (inputs, outputs) = (self.input_len(), self.output_len());
        Ok(Addresses {
            input: input.whole(device, "the input of a convolution", inputs, precision)?,
            filter: weights.at(device, place, self.weights_len(), precision)?,
            output: output.whole(device, "the output of a convolution", outputs, precision)?,
        })
    }

    fn run(&self, direction: Direction, at: Addresses, accumulate: bool) -> Result<()> {
        if let Some(own) = self.own(direction) {
            let product = match direction {
                Direction::Forward => Product::Forward(Then::Nothing),
                Direction::BackwardData => Product::InputGradient(accumulate, None),
                Direction::BackwardFilter => Product::WeightGradient,
            };
            return self.run_own(own, product, at);
        }
        let Some(thinned) = &self.thinned else {
            return self.convolve(direction, at, accumulate);
        };
        // To the end: no other thread changes the thinned images in between.
        let _turn = self.device.turn();
        let (what, len) = ("thinned images", thinned.len());
        let input = thinned.whole(&self.device, what, len, self.precision)?;
        let inner = Addresses { input, ..at };
        if direction == Direction::BackwardData {
            self.convolve(direction, inner, false)?;
            let accumulate = Argument::Int(i32::from(accumulate));
            self.thin(Kernel::Spread, (at.input, input), len, &[accumulate])
        } else {
            self.thin(Kernel::Gather, (at.input, input), len, &[])?;
            self.convolve(direction, inner, false)
        }
    }

    /// Starts `gather` or `spread` between the input, or its gradient, and `len` thinned values.
    /// `more` are arguments that come last.
    #[allow(unsafe_code)]
    fn thin(
        &self,
        kernel: Kernel,
        (full, thinned): (u64, u64),
        len: usize,
        more: &[Argument],
    ) -> Result<()> {
        let groups = len / CHANNEL_MULTIPLE;
        let arguments = [
            Argument::Pointer(full),
            Argument::Pointer(thinned),
            Argument::Int(int(groups)?),
            Argument::Int(int(self.size.0)?),
            Argument::Int(int(self.size.1)?),
            Argument::Int(int(self.shape.in_channels)?),
        ];
        let (arguments, grid) = ([&arguments, more].concat(), Grid::list(groups)?);
        // SAFETY: the arguments of the two kernels; lengths were checked, by the callers of `run`
        // and by `new`.
        unsafe { self.device.launch(self.precision, kernel, grid, &arguments) }
    }

    /// What own kernels know one of the products as, if they compute it.
    fn own(&self, direction: Direction) -> Option<OwnShape> {
        self.own.filter(|own| own.has(direction))
    }

    /// Convolves with own kernels.
    #[allow(unsafe_code)]
    fn run_own(&self, own: OwnShape, product: Product, at: Addresses) -> Result<()> {
        let Some(hopper) = self.device.hopper() else {
            return Err(CudaError::argument(
                "a convolution of own kernels",
                "none on this card",
                "one on a Hopper card",
            ));
        };
        // What the hardware copies begins at such addresses: all allocations do.
        if !at.filter.is_multiple_of(COPIED_AT) {
            return Err(CudaError::argument(
                "the place of a convolution's weights",
                format!("{} bytes into them", at.filter % COPIED_AT),
                format!("a multiple of {COPIED_AT} bytes"),
            ));
        }
        // Kernels count values by an `int`.
        index(self.input_len())?;
        index(self.output_len())?;
        let mut dnn = self.device.dnn()?;
        let (batch, stream) = (index(self.batch)?, self.device.stream());
        let addresses = (at.input, at.filter, at.output);
        // SAFETY: lengths were checked above, and a buffer that is dropped is freed in the stream's
        // order. Whoever calls has borrowed what is written mutably. Addresses are whole multiples, as
        // was checked of the weights.
        let started = unsafe {
            match product {
                Product::Forward(then) => hopper.forward(stream, own, batch, addresses, then),
                Product::InputGradient(accumulate, through) => {
                    hopper.input_gradient(stream, own, batch, addresses, accumulate, through)
                }
                Product::WeightGradient => {
                    let bytes = Hopper::room(own, batch);
                    if dnn.room().1 < bytes {
                        self.device.check_not_recording("preparing a convolution")?;
                        dnn.make_room(bytes)?;
                    }
                    if let Some(workspace) = dnn.workspace() {
                        self.device.keep(workspace);
                    }
                    let room = dnn.room().0;
                    hopper.weight_gradient(stream, own, batch, addresses, room)
                }
            }
        };
        self.device.driver(started, "starting a convolution")
    }

    #[allow(unsafe_code)]
    fn convolve(&self, direction: Direction, at: Addresses, accumulate: bool) -> Result<()> {
        let (mut dnn, key) = (self.device.dnn()?, self.key(direction));
        if !dnn.knows(&key) {
            self.device.check_not_recording("preparing a convolution")?;
        }
        // SAFETY: the three lengths were checked above, and a buffer that is dropped is freed in
        // the stream's order. Whoever calls has borrowed what is written mutably.
        unsafe { dnn.run(&key, at, accumulate) }?;
        if let Some(workspace) = dnn.workspace() {
            self.device.keep(workspace);
        }
        Ok(())
    }

    fn key(&self, direction: Direction) -> ConvKey {
        let (mut shape, mut size) = (self.shape, self.size);
        if self.thinned.is_some() {
            (shape.stride, size) = (1, self.output_size());
        }
        ConvKey::new(
            &shape,
            size,
            self.batch,
            self.precision,
            self.deterministic,
            direction,
        )
    }
}
