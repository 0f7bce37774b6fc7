//! How a convolution's weights lie on the device: (output, row, column, input), both channels
//! padded with zeros.
//!
//! Padding stays zero in training: a channel of zeros passes no gradient to its weights, and the
//! gradient of a channel whose weights, scale and shift are zero never passes its ReLU.

use super::failure::{CudaError, Result};
use crate::ConvShape;

/// Channels come in multiples of this many: what tensor cores and 16-byte loads of bf16 ask for.
pub const CHANNEL_MULTIPLE: usize = 8;

/// `channels` rounded up to a whole multiple of [`CHANNEL_MULTIPLE`].
pub fn padded(channels: usize) -> usize {
    channels.next_multiple_of(CHANNEL_MULTIPLE)
}

/// Weights given as (output, input, row, column) in the device's order.
///
/// # Errors
///
/// [`CudaError::Argument`] if `weights` does not belong to the shape.
pub fn pack_filter(shape: &ConvShape, weights: &[f32]) -> Result<Vec<f32>> {
    check("weights", weights.len(), plain_len(shape))?;
    let mut packed = vec![0.0; packed_len(shape)];
    for_each(shape, |plain, at| packed[at] = weights[plain]);
    Ok(packed)
}

/// The inverse of [`pack_filter`].
///
/// # Errors
///
/// [`CudaError::Argument`] if `packed` does not belong to the shape.
pub fn unpack_filter(shape: &ConvShape, packed: &[f32]) -> Result<Vec<f32>> {
    check("packed weights", packed.len(), packed_len(shape))?;
    let mut weights = vec![0.0; plain_len(shape)];
    for_each(shape, |plain, at| weights[plain] = packed[at]);
    Ok(weights)
}

fn plain_len(shape: &ConvShape) -> usize {
    shape.out_channels * shape.in_channels * shape.taps()
}

fn packed_len(shape: &ConvShape) -> usize {
    padded(shape.out_channels) * padded(shape.in_channels) * shape.taps()
}

fn check(what: &'static str, found: usize, expected: usize) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(CudaError::argument(
        what,
        format!("{found} values"),
        format!("{expected}"),
    ))
}

fn for_each(shape: &ConvShape, mut visit: impl FnMut(usize, usize)) {
    let (taps, inputs) = (shape.taps(), shape.in_channels);
    for output in 0..shape.out_channels {
        for input in 0..inputs {
            for tap in 0..taps {
                let plain = (output * inputs + input) * taps + tap;
                visit(plain, (output * taps + tap) * padded(inputs) + input);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ConvShape = ConvShape {
        in_channels: 3,
        out_channels: 5,
        kernel: 3,
        stride: 1,
    };

    #[test]
    fn weights_come_back_as_they_were() {
        let weights: Vec<f32> = (0..5 * 3 * 9).map(|value| value as f32 + 1.0).collect();
        let packed = pack_filter(&SHAPE, &weights).unwrap();
        assert_eq!(packed.len(), 8 * 9 * 8);
        assert_eq!(unpack_filter(&SHAPE, &packed).unwrap(), weights);
        let zeros = packed.iter().filter(|value| **value == 0.0).count();
        assert_eq!(zeros, packed.len() - weights.len());
    }

    #[test]
    fn the_input_channel_is_innermost_and_the_output_channel_outermost() {
        let mut weights = vec![0.0; 5 * 3 * 9];
        // Output 4, input 2, row 1, column 0.
        weights[(4 * 3 + 2) * 9 + 3] = 1.0;
        let packed = pack_filter(&SHAPE, &weights).unwrap();
        assert_eq!(packed[(4 * 9 + 3) * 8 + 2], 1.0);
    }

    #[test]
    fn refuses_weights_of_another_shape() {
        for weights in [vec![0.0; 5 * 3 * 9 - 1], Vec::new()] {
            assert!(pack_filter(&SHAPE, &weights).is_err());
            assert!(unpack_filter(&SHAPE, &weights).is_err());
        }
    }
}
