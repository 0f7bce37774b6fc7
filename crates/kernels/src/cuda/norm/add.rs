//! The sum of feature maps.

use crate::cuda::buffer::Values;
use crate::cuda::device::CudaDevice;
use crate::cuda::failure::{CudaError, Result};
use crate::cuda::filter::CHANNEL_MULTIPLE;
use crate::cuda::function::{Argument, Kernel};
use crate::cuda::launch::{Grid, int};

impl CudaDevice {
    /// `target += values`, feature maps of one shape: a skip, or the gradient that has come back through
    /// one.
    ///
    /// # Errors
    ///
    /// [`CudaError::Argument`] for buffers of another length or type.
    #[allow(unsafe_code)]
    pub fn add(&self, values: &Values, target: &mut Values) -> Result<()> {
        let (len, precision) = (target.len(), target.precision());
        if !len.is_multiple_of(CHANNEL_MULTIPLE) {
            return Err(CudaError::argument(
                "values of feature maps",
                len,
                format!("a multiple of {CHANNEL_MULTIPLE}"),
            ));
        }
        let groups = len / CHANNEL_MULTIPLE;
        let address = |what, values: &Values| {
            let address = values.whole(self, what, len, precision)?;
            Ok::<_, CudaError>(Argument::Pointer(address))
        };
        let arguments = [
            address("a sum", target)?,
            address("what is added", values)?,
            Argument::Int(int(groups)?),
        ];
        let grid = Grid::list(groups)?;
        // SAFETY: the arguments of `add`; lengths were checked. Each thread reads its values before it
        // writes them.
        unsafe { self.launch(precision, Kernel::Add, grid, &arguments) }
    }
}
