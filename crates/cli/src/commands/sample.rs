//! `mesa sample`: draw triggers from a sub-model.

use std::collections::BTreeMap;
use std::iter;
use std::path::Path;

use anyhow::{Result, ensure};
use candle::Tensor;
use mesa_models::{Seeds, save_tensors};
use mesa_record::write_text;
use mesa_report::{SampleGroup, SamplesPicture};
use serde::Serialize;

use crate::args::Sample;
use crate::chosen_trigger::ChosenTrigger;
use crate::output::Usage;
use crate::{inputs, logging, output};

#[derive(Serialize)]
struct Sampled {
    output: String,
    beta: f64,
    count: u32,
    mean: f64,
    shape: Vec<usize>,
}

pub(crate) fn run(args: &Sample, json: bool) -> Result<()> {
    logging::start(None)?;
    if args.output != Path::new(output::STDOUT) {
        let trigger = args.trigger.as_deref().map(Path::new);
        let inputs = iter::once(args.sub_model.as_path()).chain(trigger);
        super::check_not_input(&args.output, inputs)?;
        super::check_output(&args.output)?;
    }
    let form = Form::of(&args.output)?;
    if json && args.output == Path::new(output::STDOUT) {
        let reason = "--json and `-o -` both take standard output; name a file with -o";
        return Err(Usage(reason.to_owned()).into());
    }
    let truth = args.trigger.as_deref().map(ChosenTrigger::read);
    let truth = truth.transpose()?;
    let sub_model = inputs::sub_model(&args.sub_model)?;
    let mut rng = Seeds::new(args.seed, "sample").start();
    let triggers = sub_model.sample(&mut rng, args.count as usize)?;
    let pixels = triggers.flatten_all()?.to_vec1::<f32>()?;
    let beta = sub_model.info().beta;
    match form {
        Form::Picture => {
            let [_, height, width] = sub_model.info().sizes.trigger_shape;
            let truth = truth.map(ChosenTrigger::into_trigger);
            // A picture has one size of patch.
            if let Some(truth) = &truth {
                ensure!(
                    truth.size() == (height, width),
                    "--trigger: {} × {} pixels, the samples have {height} × {width}",
                    truth.height(),
                    truth.width()
                );
            }
            let picture = SamplesPicture {
                title: format!("{} samples", args.count),
                patch_shape: (height, width),
                true_trigger: truth.map(|trigger| trigger.pixels().to_vec()),
                groups: vec![SampleGroup::of_beta(beta, None, pixels.clone())],
            };
            let svg = picture.to_svg()?;
            if args.output == Path::new(output::STDOUT) {
                return output::text(&svg);
            }
            write_text(&args.output, &svg)?;
        }
        Form::Tensor => {
            let tensors = BTreeMap::from([("triggers".to_owned(), triggers.clone())]);
            save_tensors(&args.output, &tensors, &made_by(args, beta))?;
        }
    }
    let sampled = Sampled {
        output: args.output.display().to_string(),
        beta,
        count: args.count,
        mean: mean(&triggers)?,
        shape: triggers.dims().to_vec(),
    };
    let plain = format!(
        "{}: {} samples at β = {beta}",
        sampled.output, sampled.count
    );
    output::result(json, &sampled, &plain)
}

/// What kind of file is written.
enum Form {
    Picture,
    Tensor,
}

impl Form {
    fn of(path: &Path) -> Result<Self> {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("svg") => Ok(Self::Picture),
            None if path == Path::new(output::STDOUT) => Ok(Self::Picture),
            Some("safetensors") => Ok(Self::Tensor),
            _ => {
                let reason = format!(
                    "{}: name a file that ends in .svg (a picture) or .safetensors (the tensor)",
                    path.display()
                );
                Err(Usage(reason).into())
            }
        }
    }
}

fn made_by(args: &Sample, beta: f64) -> BTreeMap<String, String> {
    super::made_by(&[("beta", beta.to_string()), ("seed", args.seed.to_string())])
}

fn mean(triggers: &Tensor) -> Result<f64> {
    Ok(f64::from(triggers.mean_all()?.to_scalar::<f32>()?))
}
