//! Draws the built-in classes, stamps trigger 170 on every second row and writes the pictures as
//! one image (PPM): `cargo run -p mesa-datasets --example contact_sheet -- sheet.ppm`.

use std::error::Error;

use mesa_datasets::{CHANNELS, Placement, Stamps, Trigger, poison, synthetic};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

const ROWS: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "contact_sheet.ppm".to_owned());
    let data = synthetic(0, 10 * ROWS, 0);
    let columns = data.num_classes();
    let order: Vec<usize> = (0..data.train.len()).collect();
    let mut batch = data.train.batch(&order);

    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let trigger = Trigger::pattern(170)?;
    let images: Vec<usize> = order.into_iter().filter(|i| i / columns % 2 == 1).collect();
    let places =
        Placement::PerImage.places(&mut rng, images.len(), batch.size(), trigger.size())?;
    poison(
        &mut batch,
        &Stamps { images, places },
        trigger.patches(),
        None,
    )?;

    let (height, width) = batch.size();
    let mut picture = format!("P6 {} {} 255\n", columns * width, ROWS * height).into_bytes();
    for row in 0..ROWS * height {
        for column in 0..columns * width {
            let image = row / height * columns + column / width;
            for channel in 0..CHANNELS {
                let line = (image * CHANNELS + channel) * height + row % height;
                let value = batch.pixels[line * width + column % width];
                picture.push((value * 255.0).round() as u8);
            }
        }
    }
    fs_err::write(&path, picture)?;
    eprintln!(
        "{path}: {} images, classes {}",
        batch.len(),
        data.class_names.join(", ")
    );
    Ok(())
}
