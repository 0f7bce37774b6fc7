//! Memory on the device.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, DevicePtr, DeviceRepr, ValidAsZeroBits, result};

use super::algorithm::Precision;
use super::device::CudaDevice;
use super::failure::{CudaError, Result};
use super::turns::Turn;
use super::{bf16, launch};

/// What a buffer on the device can hold.
pub trait Element: DeviceRepr + ValidAsZeroBits + Copy + Send + Sync + 'static {}

impl Element for u8 {}
impl Element for i32 {}
impl Element for f32 {}
impl Element for f64 {}

/// A part of a flat buffer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Where it starts, in values.
    pub offset: usize,
    /// How many values it has.
    pub len: usize,
}

/// Numbers on the device.
#[derive(Debug)]
pub struct DeviceBuffer<T> {
    memory: Arc<Memory<T>>,
    address: u64,
    len: usize,
    device: CudaDevice,
}

/// An allocation. Recordings that refer to it share it with its buffer.
#[derive(Debug)]
struct Memory<T> {
    slice: Option<CudaSlice<T>>,
    device: CudaDevice,
}

impl<T> Memory<T> {
    fn slice(&self) -> &CudaSlice<T> {
        let slice = self.slice.as_ref();
        slice.expect("it is given up by `drop` alone")
    }
}

impl<T> Drop for Memory<T> {
    fn drop(&mut self) {
        let _turn = self.device.turn();
        // A thread that has only been handed the buffer frees it as well as any other.
        self.device.bind();
        self.slice = None;
    }
}

/// Bytes of ordinary memory that the driver takes over without waiting for the stream. Where it does
/// wait, within the call, other threads' calls may have to wait for it: so what is waited for anyway is
/// waited for before.
const TAKEN_AT_ONCE: usize = 64 << 10;

impl<T: Element> DeviceBuffer<T> {
    /// `len` zeros.
    ///
    /// # Errors
    ///
    /// [`CudaError::OutOfMemory`], or [`CudaError::Argument`] for a length that kernels cannot
    /// count.
    pub fn zeros(device: &CudaDevice, len: usize) -> Result<Self> {
        launch::index(len)?;
        let _turn = device.turn();
        device.check_not_recording("allocating memory")?;
        // The driver refuses to allocate nothing.
        let allocated = device.stream().alloc_zeros(len.max(1));
        let slice = device.driver(allocated, "allocating memory")?;
        // Nothing waits for an address: there is one stream, and no event is tracked.
        let address = slice.device_ptr(device.stream()).0;
        let memory = Memory {
            slice: Some(slice),
            device: device.clone(),
        };
        Ok(Self {
            memory: Arc::new(memory),
            address,
            len,
            device: device.clone(),
        })
    }

    /// A copy of `values`.
    ///
    /// # Errors
    ///
    /// As for [`DeviceBuffer::zeros`].
    pub fn from_slice(device: &CudaDevice, values: &[T]) -> Result<Self> {
        let mut buffer = Self::zeros(device, values.len())?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies `values`, as many as there are, to the device.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for another number of them; [`CudaError::Driver`].
    pub fn write(&mut self, values: &[T]) -> Result<()> {
        same_len("the number of values to write", values.len(), self.len)?;
        self.write_first(values)
    }

    /// Copies `values` to the first places on the device; the others stay as they are.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for more values than there are places; [`CudaError::Driver`].
    #[allow(unsafe_code)]
    pub fn write_first(&mut self, values: &[T]) -> Result<()> {
        if values.len() > self.len {
            let expected = format!("at most {}", self.len);
            let what = "the number of values to write";
            return Err(CudaError::argument(what, values.len(), expected));
        }
        if values.is_empty() {
            return Ok(());
        }
        let _turn = self.begin("copying to the GPU")?;
        if size_of_val(values) > TAKEN_AT_ONCE {
            self.device.synchronize()?;
        }
        let stream = self.device.stream().cu_stream();
        // SAFETY: the context is current, there is room for as many values (checked above), and
        // the driver has read values in ordinary memory when the call returns.
        let copied = unsafe { result::memcpy_htod_async(self.address, values, stream) };
        self.device.driver(copied, "copying to the GPU")
    }

    /// Waits for the device, and copies what is there to the host.
    ///
    /// # Errors
    ///
    /// [`CudaError`] for whatever went wrong on the device up to here.
    pub fn read(&self) -> Result<Vec<T>> {
        let _turn = self.begin("copying from the GPU")?;
        self.device.synchronize()?;
        let copied = self.device.stream().clone_dtoh(self.memory.slice());
        let mut values = self.device.driver(copied, "copying from the GPU")?;
        self.device.synchronize()?;
        values.truncate(self.len);
        Ok(values)
    }

    /// Copies everything from another buffer of the same length, on the device.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for another length; [`CudaError::Driver`].
    pub fn copy_from(&mut self, other: &Self) -> Result<()> {
        same_len("the number of values to copy", other.len, self.len)?;
        let (offset, len) = (0, self.len);
        self.copy(other, Place { offset, len })
    }

    /// Sets everything to zero.
    ///
    /// # Errors
    ///
    /// [`CudaError::Driver`] if the device has failed.
    #[allow(unsafe_code)]
    pub fn clear(&mut self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let _turn = self.begin("clearing memory")?;
        let stream = self.device.stream().cu_stream();
        let bytes = self.len * size_of::<T>();
        // SAFETY: the context is current, and the buffer has as many bytes.
        let cleared = unsafe { result::memset_d8_async(self.address, 0, bytes, stream) };
        self.device.driver(cleared, "clearing memory")
    }

    /// Copies a part of another buffer of the same device that is as long as this one.
    #[allow(unsafe_code)]
    pub(crate) fn copy(&mut self, from: &Self, place: Place) -> Result<()> {
        let source = from.at(&self.device, place, self.len)?;
        let _turn = self.begin("copying on the GPU")?;
        let (bytes, stream) = (self.len * size_of::<T>(), self.device.stream().cu_stream());
        // SAFETY: the context is current, and both have as many bytes. Two buffers do not overlap.
        let copied = unsafe { result::memcpy_dtod_async(self.address, source, bytes, stream) };
        self.device.driver(copied, "copying on the GPU")
    }

    /// What tells this buffer from any other that is alive, or that a recording keeps alive.
    pub(crate) fn identity(&self) -> u64 {
        self.address
    }

    /// The turn to do something that is not a launch, with the device's context current.
    fn begin(&self, doing: &'static str) -> Result<Turn<'_>> {
        let turn = self.device.turn();
        self.device.check_not_recording(doing)?;
        let bound = self.device.stream().context().bind_to_thread();
        self.device.driver(bound, doing)?;
        Ok(turn)
    }

    /// The device it lies on.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// The address of a part that has `len` values, for use on `device`.
    pub(crate) fn at(&self, device: &CudaDevice, place: Place, len: usize) -> Result<u64> {
        device.check_same(&self.device)?;
        check_place(place, len, self.len)?;
        device.keep(&self.memory);
        Ok(self.address + (place.offset * size_of::<T>()) as u64)
    }

    /// The address of all of it, for use on `device`, if it has `len` values.
    pub(crate) fn whole(&self, device: &CudaDevice, what: &'static str, len: usize) -> Result<u64> {
        device.check_same(&self.device)?;
        same_len(what, self.len, len)?;
        device.keep(&self.memory);
        Ok(self.address)
    }
}

/// Numbers in the type that convolutions read: f32 or bf16.
#[derive(Debug)]
pub struct Values {
    bytes: DeviceBuffer<u8>,
    len: usize,
    precision: Precision,
}

impl Values {
    /// `len` zeros.
    ///
    /// # Errors
    ///
    /// As for [`DeviceBuffer::zeros`].
    pub fn zeros(device: &CudaDevice, len: usize, precision: Precision) -> Result<Self> {
        launch::index(len)?;
        Ok(Self {
            bytes: DeviceBuffer::zeros(device, len * precision.bytes())?,
            len,
            precision,
        })
    }

    /// `values`, rounded to the type.
    ///
    /// # Errors
    ///
    /// As for [`DeviceBuffer::zeros`].
    pub fn from_slice(device: &CudaDevice, values: &[f32], precision: Precision) -> Result<Self> {
        let bytes: Vec<u8> = match precision {
            Precision::F32 | Precision::Tf32 => values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            Precision::Bf16 => values
                .iter()
                .flat_map(|value| bf16::from_f32(*value).to_le_bytes())
                .collect(),
        };
        let mut buffer = Self::zeros(device, values.len(), precision)?;
        buffer.bytes.write(&bytes)?;
        Ok(buffer)
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// What they are for.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The device they lie on.
    pub fn device(&self) -> &CudaDevice {
        self.bytes.device()
    }

    /// Waits for the device, and copies what is there to the host.
    ///
    /// # Errors
    ///
    /// As for [`DeviceBuffer::read`].
    pub fn read(&self) -> Result<Vec<f32>> {
        let bytes = self.bytes.read()?;
        Ok(match self.precision {
            Precision::F32 | Precision::Tf32 => {
                let words = bytes.as_chunks::<4>().0.iter();
                words.map(|word| f32::from_le_bytes(*word)).collect()
            }
            Precision::Bf16 => {
                let words = bytes.as_chunks::<2>().0.iter();
                words
                    .map(|word| bf16::to_f32(u16::from_le_bytes(*word)))
                    .collect()
            }
        })
    }

    /// The address of a part that has `len` values of `precision`, for use on `device`.
    pub(crate) fn at(
        &self,
        device: &CudaDevice,
        place: Place,
        len: usize,
        precision: Precision,
    ) -> Result<u64> {
        check_place(place, len, self.len)?;
        let start = self.whole(device, "a part of a buffer", self.len, precision)?;
        Ok(start + (place.offset * precision.bytes()) as u64)
    }

    /// The address of all of it, for use on `device`, if it has `len` values of `precision`.
    pub(crate) fn whole(
        &self,
        device: &CudaDevice,
        what: &'static str,
        len: usize,
        precision: Precision,
    ) -> Result<u64> {
        same_len(what, self.len, len)?;
        if self.precision != precision {
            let (found, expected) = (self.precision, precision);
            return Err(CudaError::argument(
                what,
                format!("{found:?}"),
                format!("{expected:?}"),
            ));
        }
        self.bytes.whole(device, what, len * precision.bytes())
    }
}

fn same_len(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(CudaError::argument(what, found, expected))
}

fn check_place(place: Place, len: usize, all: usize) -> Result<()> {
    same_len("the length of a part of a buffer", place.len, len)?;
    let end = place.offset.checked_add(len);
    if end.is_some_and(|end| end <= all) {
        return Ok(());
    }
    Err(CudaError::argument(
        "the end of a part of a buffer",
        format!("{} + {len}", place.offset),
        format!("at most {all}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_lie_inside_their_buffer() {
        let place = |offset, len| Place { offset, len };
        check_place(place(2, 3), 3, 5).unwrap();
        check_place(place(5, 0), 0, 5).unwrap();
        for (place, len) in [
            (place(3, 3), 3),
            (place(0, 3), 2),
            (place(usize::MAX, 1), 1),
        ] {
            assert!(check_place(place, len, 5).is_err(), "{place:?}");
        }
    }
}
