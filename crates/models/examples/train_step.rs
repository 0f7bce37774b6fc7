//! Our side of `cargo xtask bench --peer`: training steps on request.
//!
//! Says `ready NAME`, then answers each line `go N` on standard input with the
//! seconds that one of N training steps took: forward, loss, backward and update
//! of a ResNet-18 on random images. Ends when standard input does. By hand:
//!
//! ```text
//! echo "go 20" | cargo run --release --example train_step -- --width 16
//! ```

use std::{
    env,
    error::Error,
    io::{self, BufRead as _, Write as _},
    time::Instant,
};

use candle::{Device, Tensor};
use mesa_models::{Network, Normalization, ResNetConfig, Seeds, Sgd};
use rand::Rng as _;

fn main() -> Result<(), Box<dyn Error>> {
    let (width, batch_size) = (option("--width", 16)?, option("--batch-size", 128)?);
    // Without the option, every processor; `RAYON_NUM_THREADS` is the runner's way.
    let threads = option("--threads", 0)?;
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()?;

    let mut rng = Seeds::new(0, "train_step").start();
    let config = ResNetConfig {
        width,
        num_classes: 10,
    };
    let mut network = Network::resnet18(config, Normalization::cifar10(), &mut rng)?;
    let mut optimizer = Sgd::new(0.9, 0.0);
    let pixels: Vec<f32> = (0..batch_size * 3 * 32 * 32)
        .map(|_| rng.random())
        .collect();
    let images = Tensor::from_vec(pixels, (batch_size, 3, 32, 32), &Device::Cpu)?;
    let labels: Vec<u32> = (0..batch_size).map(|_| rng.random_range(0..10)).collect();
    let labels = Tensor::from_vec(labels, batch_size, &Device::Cpu)?;
    let mut step = || -> mesa_models::Result<()> {
        network.gradients(&images, &labels, 0.0)?;
        optimizer.step(&mut network, 1e-3);
        Ok(())
    };

    let mut output = io::stdout();
    writeln!(output, "ready mesa {}, f32", env!("CARGO_PKG_VERSION"))?;
    output.flush()?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let steps: u32 = line.strip_prefix("go ").unwrap_or(&line).trim().parse()?;
        step()?;
        let started = Instant::now();
        for _ in 0..steps {
            step()?;
        }
        writeln!(
            output,
            "{}",
            started.elapsed().as_secs_f64() / f64::from(steps)
        )?;
        output.flush()?;
    }
    Ok(())
}

/// The number behind `name` on the command line.
fn option(name: &str, default: usize) -> Result<usize, Box<dyn Error>> {
    let mut arguments = env::args().skip_while(|argument| argument != name);
    match (arguments.next(), arguments.next()) {
        (Some(_), Some(value)) => Ok(value.parse()?),
        _ => Ok(default),
    }
}
