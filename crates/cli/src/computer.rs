//! What computes the networks of a command: the CPU, or a GPU.

use anyhow::{Context, Result, bail};
use mesa_models::Processor;
use mesa_record::RunDir;
use serde_json::Value;

use crate::args::{DeviceArgs, DeviceName};

/// What computes networks, and what records say of it.
#[derive(Clone, Debug)]
pub(crate) struct Computer {
    pub(crate) processor: Processor,
    /// For records: `cpu`, or the card's name and how it computes.
    pub(crate) name: String,
    /// What figures depend on besides the settings; nothing on the CPU, whose keys are older.
    arithmetic: Option<String>,
    args: DeviceArgs,
}

impl Computer {
    /// The device that was asked for.
    pub(crate) fn open(args: &DeviceArgs) -> Result<Self> {
        match args.device {
            DeviceName::Cuda => Self::gpu(args).context("--device cuda"),
            DeviceName::Auto if cfg!(feature = "cuda") => Self::gpu(args).or_else(|error| {
                tracing::warn!("computing on the CPU: {error:#}");
                Ok(Self::cpu(args))
            }),
            DeviceName::Cpu | DeviceName::Auto => Ok(Self::cpu(args)),
        }
    }

    fn cpu(args: &DeviceArgs) -> Self {
        Self {
            processor: Processor::Cpu,
            name: "cpu".to_owned(),
            arithmetic: None,
            args: args.clone(),
        }
    }

    #[cfg(feature = "cuda")]
    fn gpu(args: &DeviceArgs) -> Result<Self> {
        use mesa_models::cuda::{CudaDevice, CudaSettings, Gpu, Precision};

        use crate::args::PrecisionName;

        let device = CudaDevice::open(0)?;
        let precision = match args.precision {
            PrecisionName::Bf16 => Precision::Bf16,
            PrecisionName::Tf32 => Precision::Tf32,
            PrecisionName::F32 => Precision::F32,
        };
        let settings = CudaSettings {
            precision,
            deterministic: !args.nondeterministic,
        };
        Ok(Self {
            name: format!("{}, {}", device.name(), in_words(args)),
            processor: Processor::Cuda(Gpu { device, settings }),
            arithmetic: Some(arithmetic(args)),
            args: args.clone(),
        })
    }

    #[cfg(not(feature = "cuda"))]
    fn gpu(_: &DeviceArgs) -> Result<Self> {
        bail!(
            "this build computes on the CPU only; build it with `cargo build --release \
             --features cuda`, which needs NVIDIA's compiler (nvcc) and, to run, cuDNN 9; or use \
             --device cpu"
        )
    }

    /// What keys say of a GPU, where there is none.
    #[cfg(test)]
    pub(crate) fn made_up_gpu() -> Self {
        use crate::args::PrecisionName;

        let args = DeviceArgs {
            device: DeviceName::Cuda,
            precision: PrecisionName::Bf16,
            nondeterministic: false,
        };
        Self {
            arithmetic: Some(arithmetic(&args)),
            ..Self::cpu(&args)
        }
    }

    /// The same device for another thread: its work goes on beside that of the others.
    pub(crate) fn for_another_thread(&self) -> Result<Self> {
        match self.processor {
            Processor::Cpu => Ok(self.clone()),
            _ => Self::gpu(&self.args),
        }
    }

    /// The same device with each of its earlier kernels whose results differ from today's in rounding
    /// alone.
    pub(crate) fn with_earlier_kernels(&self) -> Vec<Self> {
        let is_gpu = self.arithmetic.is_some();
        let versions = EARLIER_KERNELS.iter().filter(|_| is_gpu);
        versions
            .map(|version| Self {
                arithmetic: Some(arithmetic_of(*version, &self.args)),
                ..self.clone()
            })
            .collect()
    }

    /// Whether networks are computed on a GPU.
    pub(crate) fn is_gpu(&self) -> bool {
        !matches!(self.processor, Processor::Cpu)
    }

    /// Whether it still computes: what goes wrong on a GPU may leave it unusable for the process.
    #[cfg_attr(not(feature = "cuda"), allow(clippy::unnecessary_wraps))]
    pub(crate) fn check(&self) -> Result<()> {
        match &self.processor {
            #[cfg(feature = "cuda")]
            Processor::Cuda(gpu) => Ok(gpu.device.synchronize()?),
            _ => Ok(()),
        }
    }

    /// Refuses to go on by chance with what another kind of device has computed: none of it would
    /// count here.
    pub(crate) fn check_folder(&self, run: &RunDir) -> Result<()> {
        let Ok(Some(earlier)) = run.read_summary() else {
            return Ok(());
        };
        let on_cpu = earlier.device == "cpu";
        let has_rows = earlier.rows.iter().any(|row| !row.committed);
        if self.args.device != DeviceName::Auto || !has_rows || on_cpu != self.is_gpu() {
            return Ok(());
        }
        let device = if on_cpu { "cpu" } else { "cuda" };
        bail!(
            "{} holds what {} computed, and this would go on with {}, for which none of it counts: \
             name --device {device} to go on with it, another --out, or the other --device to begin anew",
            run.root().display(),
            earlier.device,
            self.name
        )
    }

    /// The settings of a step, with what its figures depend on here.
    pub(crate) fn tell(&self, mut config: Value) -> Value {
        if let Some(arithmetic) = &self.arithmetic {
            config["device"] = arithmetic.as_str().into();
        }
        config
    }
}

/// Version of what the kernels of a GPU compute, raised by hand whenever they may round otherwise, as
/// the engine's is for those of the CPU.
const KERNELS: u32 = 8;

/// Those before it that count as well as they do: the third had a race, of those after it there are no
/// records of whole sweeps.
const EARLIER_KERNELS: [u32; 2] = [1, 2];

/// How a GPU computes, for keys.
#[cfg_attr(not(feature = "cuda"), allow(dead_code))]
fn arithmetic(args: &DeviceArgs) -> String {
    arithmetic_of(KERNELS, args)
}

/// The same with some version of the kernels. The first one was not named.
fn arithmetic_of(version: u32, args: &DeviceArgs) -> String {
    let words = in_words(args);
    match version {
        1 => format!("cuda, {words}"),
        version => format!("cuda {version}, {words}"),
    }
}

/// How a GPU computes, in words.
fn in_words(args: &DeviceArgs) -> String {
    let nondeterministic = if args.nondeterministic {
        ", nondeterministic"
    } else {
        ""
    };
    format!("{}{nondeterministic}", args.precision)
}

/// Tells once why steps are not recorded, where they are not: all of them start more slowly then.
pub(crate) fn tell_refusal(processor: &Processor) {
    #[cfg(feature = "cuda")]
    if let Processor::Cuda(gpu) = processor
        && let Some(reason) = gpu.device.recording_refused()
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            tracing::warn!("steps start launch by launch, which is slower: {reason}");
        });
    }
    #[cfg(not(feature = "cuda"))]
    let _ = processor;
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::args::PrecisionName;

    fn args(device: DeviceName) -> DeviceArgs {
        DeviceArgs {
            device,
            precision: PrecisionName::Bf16,
            nondeterministic: false,
        }
    }

    #[test]
    fn keys_of_the_cpu_say_nothing_of_it() {
        let computer = Computer::open(&args(DeviceName::Cpu)).unwrap();
        assert_eq!(computer.tell(json!({"a": 1})), json!({"a": 1}));
        assert_eq!((computer.name.as_str(), computer.is_gpu()), ("cpu", false));
    }

    #[test]
    fn a_folder_of_another_kind_of_device_is_not_gone_on_with_by_chance() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunDir::new(folder.path());
        let computer = |device| Computer::cpu(&args(device));
        computer(DeviceName::Auto).check_folder(&run).unwrap();
        let summary = |device: &str| {
            let text = format!(
                r#"{{"preset": "paper", "data": "cifar10", "device": "{device}", "wall_s": 1.0,
                "peak_rss_mb": null, "rows": [{{"trigger": 170, "seed": 0, "method": "ideal",
                "asr": 0.03, "clean_accuracy": 0.95, "regained_accuracy": 0.9, "wall_s": 1.0}}]}}"#
            );
            run.write_summary(&serde_json::from_str(&text).unwrap())
                .unwrap();
        };
        summary("A card, bf16");
        let refused = computer(DeviceName::Auto).check_folder(&run).unwrap_err();
        assert!(refused.to_string().contains("--device cuda"), "{refused}");
        computer(DeviceName::Cpu).check_folder(&run).unwrap();
        summary("cpu");
        computer(DeviceName::Auto).check_folder(&run).unwrap();
    }

    #[test]
    fn every_arithmetic_has_a_key_of_its_own() {
        let mut keys = vec![json!({})];
        for precision in [PrecisionName::Bf16, PrecisionName::Tf32, PrecisionName::F32] {
            for nondeterministic in [false, true] {
                let args = DeviceArgs {
                    precision,
                    nondeterministic,
                    ..args(DeviceName::Cuda)
                };
                for version in 1..=KERNELS {
                    let computer = Computer {
                        arithmetic: Some(arithmetic_of(version, &args)),
                        ..Computer::cpu(&args)
                    };
                    keys.push(computer.tell(json!({})));
                }
            }
        }
        for (at, key) in keys.iter().enumerate() {
            assert!(!keys[at + 1..].contains(key), "{key}");
        }
        // Those of committed records, and that of now.
        assert_eq!(keys[1], json!({"device": "cuda, bf16"}));
        assert_eq!(keys[2], json!({"device": "cuda 2, bf16"}));
        let now = Computer::made_up_gpu().tell(json!({}));
        assert_eq!(now, json!({"device": "cuda 8, bf16"}));
        assert!(!EARLIER_KERNELS.contains(&3) && !EARLIER_KERNELS.contains(&KERNELS));
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_the_feature_says_how_to_build_it() {
        let refused = Computer::open(&args(DeviceName::Cuda)).unwrap_err();
        let refused = format!("{refused:#}");
        assert!(refused.contains("--features cuda"), "{refused}");
        assert!(!Computer::open(&args(DeviceName::Auto)).unwrap().is_gpu());
    }
}
