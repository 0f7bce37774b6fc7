//! How fast each path of this processor convolves: `cargo run --release -p mesa-kernels --example paths`.

use std::time::Instant;

use mesa_kernels::{Buffer, Conv, ConvShape, Finish, Layout, Path, Result, Start};

fn main() -> Result<()> {
    let shape = ConvShape {
        in_channels: 64,
        out_channels: 64,
        kernel: 3,
        stride: 1,
    };
    let input = Layout::features(64, 32, 32, 1);
    let output = Layout::features(64, 32, 32, 0);
    let conv = Conv::new(shape, &input, &output)?;
    let image = Buffer::from_slice(&vec![0.5; input.len()]);
    let packed = vec![0.1; shape.packed_len()];
    let mut target = Buffer::zeros(output.len());
    let operations = 2.0 * (64 * 64 * 9 * output.pixel_count()) as f64;
    for path in [Path::Portable, Path::Avx2, Path::Avx512]
        .into_iter()
        .filter(|p| p.is_available())
    {
        let mut room = Buffer::default();
        let weights = conv.weights(path, &packed, &mut room);
        let seconds = (0..20)
            .map(|_| {
                let start = Instant::now();
                conv.forward(
                    path,
                    &[&image],
                    weights,
                    &mut [&mut target],
                    Start::Zero,
                    Finish::Linear,
                );
                start.elapsed().as_secs_f64()
            })
            .fold(f64::MAX, f64::min);
        let rate = operations / seconds / 1e9;
        eprintln!(
            "{:8}  {rate:6.1} GFLOP/s on one core, 64 → 64 channels, 32×32",
            path.name()
        );
    }
    Ok(())
}
