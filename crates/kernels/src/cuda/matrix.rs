//! Matrices in flat buffers, as factors of products.

use super::buffer::{DeviceBuffer, Place};
use super::device::CudaDevice;
use super::failure::{CudaError, Result};
use super::function::Argument;
use super::launch::int;

/// Where a matrix lies in a flat buffer, row by row.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct MatrixPlace {
    /// Where its first row starts, in values.
    pub offset: usize,
    /// How many rows it has.
    pub rows: usize,
    /// How many columns it has.
    pub columns: usize,
    /// Values from the start of one row to that of the next.
    pub row_len: usize,
}

impl MatrixPlace {
    /// Rows without a gap, at the start of a buffer.
    pub fn new(rows: usize, columns: usize) -> Self {
        Self {
            offset: 0,
            rows,
            columns,
            row_len: columns,
        }
    }

    /// The same at a place of a buffer, which it fills.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for a place of another length.
    pub fn at(self, place: Place) -> Result<Self> {
        let Place { offset, len } = place;
        if len != self.rows * self.row_len {
            let (found, expected) = (format!("{self:?}"), format!("one of {len} values"));
            return Err(CudaError::argument("a matrix", found, expected));
        }
        Ok(Self { offset, ..self })
    }

    /// Some of its columns.
    #[must_use]
    pub fn columns(self, first: usize, columns: usize) -> Self {
        Self {
            offset: self.offset + first,
            columns,
            ..self
        }
    }

    /// Values from the first to the last one.
    fn extent(&self) -> Result<usize> {
        if self.rows == 0 || self.columns == 0 || self.row_len < self.columns {
            let expected = "rows and columns, and columns that lie within a row";
            return Err(CudaError::argument(
                "a matrix",
                format!("{self:?}"),
                expected,
            ));
        }
        Ok((self.rows - 1) * self.row_len + self.columns)
    }

    pub(super) fn address(
        &self,
        device: &CudaDevice,
        buffer: &DeviceBuffer<f32>,
    ) -> Result<Argument> {
        let len = self.extent()?;
        let offset = self.offset;
        let place = Place { offset, len };
        Ok(Argument::Pointer(buffer.at(device, place, len)?))
    }
}

/// A factor of a product.
#[derive(Copy, Clone, Debug)]
pub struct Matrix<'a> {
    buffer: &'a DeviceBuffer<f32>,
    place: MatrixPlace,
    transposed: bool,
}

impl<'a> Matrix<'a> {
    /// The matrix at a place of a buffer.
    pub fn new(buffer: &'a DeviceBuffer<f32>, place: MatrixPlace) -> Self {
        Self {
            buffer,
            place,
            transposed: false,
        }
    }

    /// Its rows as columns.
    #[must_use]
    pub fn transposed(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    pub(super) fn size(&self) -> (usize, usize) {
        let (rows, columns) = (self.place.rows, self.place.columns);
        if self.transposed {
            (columns, rows)
        } else {
            (rows, columns)
        }
    }

    /// The address, and the steps to the next row and the next column.
    pub(super) fn arguments(&self, device: &CudaDevice) -> Result<[Argument; 3]> {
        let long = Argument::Int(int(self.place.row_len)?);
        let address = self.place.address(device, self.buffer)?;
        Ok(if self.transposed {
            [address, Argument::Int(1), long]
        } else {
            [address, long, Argument::Int(1)]
        })
    }
}
