//! Images, labels and scores on the host: checked, loaded and read.

use candle::{DType, Device, Tensor};
use mesa_kernels::Layout;

use crate::graph::{COLORS, IMAGE_SIDE};
use crate::{Error, Normalization, Result};

/// Normalizes an image (3, 32, 32) into channels-last memory with a border.
pub(crate) fn load_image(
    normalization: &Normalization,
    pixels: &[f32],
    layout: &Layout,
    target: &mut [f32],
) {
    let plane = IMAGE_SIDE * IMAGE_SIDE;
    for color in 0..COLORS {
        let (mean, scale) = (normalization.mean[color], 1.0 / normalization.std[color]);
        for row in 0..IMAGE_SIDE {
            let source = &pixels[color * plane + row * IMAGE_SIDE..][..IMAGE_SIDE];
            let at = layout.offset(row, 0) + color;
            for (column, pixel) in source.iter().enumerate() {
                target[at + column * layout.stride] = (pixel - mean) * scale;
            }
        }
    }
}

/// The place of the largest value, the first of equals.
pub(crate) fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = index;
        }
    }
    best
}

pub(crate) fn host_values(tensor: &Tensor) -> Result<Vec<f32>> {
    Ok(tensor.to_device(&Device::Cpu)?.flatten_all()?.to_vec1()?)
}

/// The pixels of `(B, 3, 32, 32)` images.
pub(crate) fn host_images(images: &Tensor) -> Result<Vec<f32>> {
    let dims = images.dims();
    let fits = matches!(dims, [_, COLORS, IMAGE_SIDE, IMAGE_SIDE]) && images.dtype() == DType::F32;
    if !fits || dims[0] == 0 {
        return Err(Error::Batch {
            what: "images",
            expected: format!("F32 (B, {COLORS}, {IMAGE_SIDE}, {IMAGE_SIDE}), B above 0"),
            found: format!("{:?} {dims:?}", images.dtype()),
        });
    }
    host_values(images)
}

pub(crate) fn check_labels(labels: &Tensor, images: &Tensor, classes: usize) -> Result<Vec<u32>> {
    let batch = images.dims().first().copied().unwrap_or(0);
    if labels.dims() != [batch] || labels.dtype() != DType::U32 {
        return Err(Error::Batch {
            what: "labels",
            expected: format!("U32 ({batch},), one for each image"),
            found: format!("{:?} {:?}", labels.dtype(), labels.dims()),
        });
    }
    let labels: Vec<u32> = labels.to_device(&Device::Cpu)?.to_vec1()?;
    match labels.iter().find(|label| **label as usize >= classes) {
        Some(label) => Err(Error::Batch {
            what: "a label",
            expected: format!("below {classes}, the number of classes"),
            found: label.to_string(),
        }),
        None => Ok(labels),
    }
}
