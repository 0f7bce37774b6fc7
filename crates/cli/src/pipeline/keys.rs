//! What every step of a run depends on, known before anything is computed.

use mesa_datasets::TriggerId;
use mesa_models::{ENGINE_VERSION, Schedule};
use mesa_record::{Key, Row, Step, TriggerName};
use serde_json::{Value, json};

use crate::computer::Computer;
use crate::config::ExperimentConfig;
use crate::method::{Defense, Method};
use crate::modeling::step_name;

/// The steps of a run: pure functions of its settings.
#[derive(Clone, Debug)]
pub(crate) struct Steps {
    config: ExperimentConfig,
    data_digest: String,
    clean: Key,
    computer: Computer,
}

/// One attacked network: a trigger and a seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Chain {
    pub(crate) trigger: TriggerId,
    pub(crate) seed: u64,
}

impl Chain {
    /// The chain that a row belongs to, if this program knows its trigger.
    pub(crate) fn of(row: &Row) -> Option<Self> {
        let trigger = row.trigger.to_string().parse().ok()?;
        let seed = row.seed;
        Some(Self { trigger, seed })
    }

    /// What rows call its trigger.
    pub(crate) fn trigger_name(self) -> TriggerName {
        self.trigger.to_string().as_str().into()
    }

    /// Where the chain's files are, below the folders of the run.
    pub(crate) fn folder(self) -> String {
        format!(
            "{}/seed-{}",
            self.trigger.to_string().replace(':', "-"),
            self.seed
        )
    }
}

impl Steps {
    /// The steps that follow on the clean network with this key.
    pub(crate) fn new(
        config: &ExperimentConfig,
        data_digest: &str,
        clean: Key,
        computer: &Computer,
    ) -> Self {
        Self {
            computer: computer.clone(),
            config: config.clone(),
            data_digest: data_digest.to_owned(),
            clean,
        }
    }

    /// The same steps with another weight of the entropy: what comes before a fit is not moved.
    pub(crate) fn with_alpha(&self, alpha: f64) -> Self {
        let mut steps = self.clone();
        steps.config.mesa.alpha = alpha;
        steps
    }

    /// The training of the clean network.
    pub(crate) fn pretrain(
        config: &ExperimentConfig,
        data_digest: &str,
        computer: &Computer,
    ) -> Step {
        let config = json!({"pretrain": config.pretrain, "network": config.network});
        Step::new("pretrain", ENGINE_VERSION, data_digest).with_config(computer.tell(config))
    }

    /// A clean network from a file.
    pub(crate) fn clean_file(sha256: &str, data_digest: &str, computer: &Computer) -> Step {
        let config = computer.tell(json!({"sha256": sha256}));
        Step::new("clean-file", ENGINE_VERSION, data_digest).with_config(config)
    }

    /// What the trigger does to the clean network.
    pub(crate) fn clean_evaluation(&self, chain: Chain) -> Step {
        self.step(
            "evaluate-clean",
            json!({"evaluation": self.evaluation(chain)}),
        )
        .after("clean", &self.clean)
    }

    /// The attack and its evaluation.
    pub(crate) fn attack(&self, chain: Chain) -> Step {
        let config = json!({
            "backdoor": self.config.backdoor,
            "images": self.config.data.attack_images,
            "trigger": chain.trigger,
            "seed": chain.seed,
            "evaluation": self.evaluation(chain),
        });
        self.step("attack", config).after("clean", &self.clean)
    }

    /// The sub-model of one β.
    pub(crate) fn fit(&self, chain: Chain, beta: f64) -> Step {
        let target_class = self.target_class(chain);
        let config = fit_config(&self.config, beta, target_class, chain.seed);
        self.step("fit", config)
            .after("attack", &self.attack(chain).key())
    }

    /// The judgment of one sub-model's samples.
    pub(crate) fn samples(&self, chain: Chain, beta: f64) -> Step {
        let config = json!({
            "samples": self.config.samples,
            "images": modeling(&self.config),
            "placement": self.config.retrain.placement,
            "target_class": self.target_class(chain),
            "seed": chain.seed,
        });
        self.step("samples", config)
            .after("attack", &self.attack(chain).key())
            .after("fit", &self.fit(chain, beta).key())
    }

    /// The measurement of one sub-model's entropy.
    pub(crate) fn entropy(&self, chain: Chain, beta: f64) -> Step {
        let mut entropy = json!(self.config.entropy);
        // Measured before there was a choice: the same figures.
        if self.config.entropy.schedule == Schedule::Constant {
            let fields = entropy.as_object_mut();
            fields.and_then(|fields| fields.remove("schedule"));
        }
        let config = json!({"entropy": entropy, "seed": chain.seed});
        self.step("entropy", config)
            .after("fit", &self.fit(chain, beta).key())
    }

    /// A retraining and its evaluation; of `point` the search for its trigger as well.
    pub(crate) fn defend(&self, chain: Chain, defense: Defense) -> Step {
        let Defense { method, repeat } = defense;
        if let Some(repeat) = repeat {
            let config = json!({
                "search": self.config.point.search,
                "retrain": self.config.retrain,
                "method": method,
                "repeat": repeat,
                "images": modeling(&self.config),
                "patch": self.config.mesa.trigger_shape,
                "seed": chain.seed,
                "evaluation": self.evaluation(chain),
            });
            return self
                .step("defend", config)
                .after("attack", &self.attack(chain).key());
        }
        if method == Method::FineTune {
            let config = json!({
                "fine_tune": self.config.fine_tune,
                "method": method,
                "images": modeling(&self.config),
                "seed": chain.seed,
                "evaluation": self.evaluation(chain),
            });
            return self
                .step("defend", config)
                .after("attack", &self.attack(chain).key());
        }
        let config = json!({
            "retrain": self.config.retrain,
            "method": method,
            "images": modeling(&self.config),
            "trigger": (method == Method::Ideal).then_some(chain.trigger),
            "patch": (method == Method::Random).then_some(self.config.mesa.trigger_shape),
            "seed": chain.seed,
            "evaluation": self.evaluation(chain),
        });
        let mut step = self
            .step("defend", config)
            .after("attack", &self.attack(chain).key());
        for beta in self.betas_of(method) {
            step = step.after(&format!("fit-{beta}"), &self.fit(chain, beta).key());
            if method == Method::EnsembleWeighted {
                step = step.after(&format!("entropy-{beta}"), &self.entropy(chain, beta).key());
            }
        }
        if method.is_ensemble() {
            // Which sub-model comes first matters; the names above are sorted.
            let order: Value = json!(self.config.mesa.betas);
            step.config["order"] = order;
        }
        step
    }

    /// The sub-models that a method draws from.
    pub(crate) fn betas_of(&self, method: Method) -> Vec<f64> {
        match method {
            Method::Mesa(beta) => vec![beta],
            method if method.is_ensemble() => self.config.mesa.betas.clone(),
            _ => Vec::new(),
        }
    }

    /// All steps that a row rests on, by their names, but for those of the rows `clean` and
    /// `backdoored`.
    pub(crate) fn of_row(
        &self,
        chain: Chain,
        method: &str,
        repeat: Option<u64>,
    ) -> Vec<(String, Step)> {
        let folder = chain.folder();
        let Ok(method) = method.parse() else {
            return match method {
                "clean" => vec![(format!("{folder}/clean"), self.clean_evaluation(chain))],
                "backdoored" => vec![(format!("{folder}/attack"), self.attack(chain))],
                _ => Vec::new(),
            };
        };
        let defense = Defense { method, repeat };
        let name = format!("{folder}/{}", defense.step_name());
        let mut steps = vec![(name, self.defend(chain, defense))];
        for beta in self.betas_of(method) {
            let name = |kind| step_name(&folder, kind, beta);
            steps.push((name("fit"), self.fit(chain, beta)));
            steps.push((name("samples"), self.samples(chain, beta)));
            steps.push((name("entropy"), self.entropy(chain, beta)));
        }
        steps
    }

    /// The key of a row: of all the steps it shows figures of.
    pub(crate) fn row(&self, chain: Chain, method: &str, repeat: Option<u64>) -> Option<Key> {
        match method {
            "clean" => Some(self.clean_evaluation(chain).key()),
            "backdoored" => Some(self.attack(chain).key()),
            other => {
                let method: Method = other.parse().ok()?;
                // A row of `point` without a repeat, or of another method with one, is nobody's.
                if repeat.is_some() != (method == Method::Point) {
                    return None;
                }
                let defend = self.defend(chain, Defense { method, repeat }).key();
                let Method::Mesa(beta) = method else {
                    return Some(defend);
                };
                let row = self
                    .step("row", Value::Null)
                    .after("defend", &defend)
                    .after("samples", &self.samples(chain, beta).key())
                    .after("entropy", &self.entropy(chain, beta).key());
                Some(row.key())
            }
        }
    }

    /// Whether these steps, if asked, would compute just this row.
    pub(crate) fn made(&self, row: &Row) -> bool {
        let expected = Chain::of(row).and_then(|chain| self.row(chain, &row.method, row.repeat));
        expected.is_some_and(|key| row.key == Some(key.to_string()))
    }

    /// The attacked class: the paper's color triggers have one each on CIFAR-100.
    pub(crate) fn target_class(&self, chain: Chain) -> u32 {
        let own = chain.trigger.cifar100_target();
        match (self.config.data.set, own) {
            (mesa_datasets::DatasetName::Cifar100, Some(own)) => own,
            _ => self.config.backdoor.target_class,
        }
    }

    fn step(&self, kind: &str, config: Value) -> Step {
        let config = self.computer.tell(config);
        Step::new(kind, ENGINE_VERSION, &self.data_digest).with_config(config)
    }

    fn evaluation(&self, chain: Chain) -> Value {
        let data = &self.config.data;
        json!({
            "split_at": data.split_at,
            "split_seed": data.split_seed,
            "trigger": chain.trigger,
            "target_class": self.target_class(chain),
            "placement": self.config.backdoor.placement,
            "seed": chain.seed,
        })
    }
}

/// All that decides a sub-model, but for the network and the data.
pub(crate) fn fit_config(
    config: &ExperimentConfig,
    beta: f64,
    target_class: u32,
    seed: u64,
) -> Value {
    let mut mesa = json!(config.mesa);
    // The other sub-models do not matter to this one.
    if let Some(table) = mesa.as_object_mut() {
        table.remove("betas");
    }
    json!({
        "mesa": mesa,
        "beta": beta,
        "images": modeling(config),
        "placement": config.retrain.placement,
        "target_class": target_class,
        "seed": seed,
    })
}

/// Which images a defender sees.
fn modeling(config: &ExperimentConfig) -> Value {
    let data = &config.data;
    json!({"split_at": data.split_at, "split_seed": data.split_seed, "first": data.modeling_images})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(change: impl FnOnce(&mut ExperimentConfig)) -> Steps {
        let mut config = ExperimentConfig::paper();
        change(&mut config);
        let clean = Steps::clean_file("abc", "data", &computer()).key();
        Steps::new(&config, "data", clean, &computer())
    }

    fn computer() -> Computer {
        let args = crate::args::DeviceArgs {
            device: crate::args::DeviceName::Cpu,
            precision: crate::args::PrecisionName::Bf16,
            nondeterministic: false,
        };
        Computer::open(&args).unwrap()
    }

    const CHAIN: Chain = Chain {
        trigger: TriggerId::Pattern(170),
        seed: 0,
    };

    fn key(steps: &Steps, method: &str) -> Key {
        let repeat = (method == "point").then_some(0);
        steps.row(CHAIN, method, repeat).unwrap()
    }

    #[test]
    fn adding_methods_triggers_seeds_or_betas_leaves_old_rows_alone() {
        let before = steps(|_| {});
        let after = steps(|config| {
            config.methods.clear();
            config.triggers = "1,2".into();
            config.seeds.to = 9;
            config.mesa.betas.push(0.3);
            config.point.repeats += 1;
            config.output.keep_repaired = true;
        });
        for method in [
            "clean",
            "backdoored",
            "ideal",
            "mesa:0.9",
            "random",
            "point",
        ] {
            assert_eq!(key(&before, method), key(&after, method), "{method}");
        }
        assert_ne!(
            key(&before, "ensemble:turns"),
            key(&after, "ensemble:turns")
        );
    }

    #[test]
    fn a_change_reaches_what_comes_after_it_and_nothing_else() {
        let before = steps(|_| {});
        let retrain = steps(|config| config.retrain.stamp_rate = 0.5);
        assert_eq!(before.attack(CHAIN).key(), retrain.attack(CHAIN).key());
        assert_eq!(before.fit(CHAIN, 0.9).key(), retrain.fit(CHAIN, 0.9).key());
        assert_ne!(key(&before, "ideal"), key(&retrain, "ideal"));

        let entropy = steps(|config| config.entropy.steps += 1);
        assert_eq!(
            key(&before, "ensemble:turns"),
            key(&entropy, "ensemble:turns")
        );
        assert_ne!(
            key(&before, "ensemble:weighted"),
            key(&entropy, "ensemble:weighted")
        );

        let cosine = steps(|config| config.entropy.schedule = Schedule::Cosine);
        assert_ne!(
            key(&before, "ensemble:weighted"),
            key(&cosine, "ensemble:weighted")
        );
        // As it was written before there was a choice.
        let before_the_choice = json!({"entropy": {
            "steps": 1000, "batch_size": 256, "learning_rate": 0.001, "held_out": 16384,
        }, "seed": CHAIN.seed});
        assert_eq!(before.entropy(CHAIN, 0.9).config, before_the_choice);

        let attack = steps(|config| config.backdoor.poison_rate = 0.5);
        for method in ["backdoored", "no-trigger", "mesa:0.5"] {
            assert_ne!(key(&before, method), key(&attack, method), "{method}");
        }
        assert_eq!(key(&before, "clean"), key(&attack, "clean"));
    }

    #[test]
    fn repeats_are_rows_of_their_own() {
        let steps = steps(|_| {});
        let row = |method, repeat| steps.row(CHAIN, method, repeat);
        assert_ne!(row("point", Some(0)), row("point", Some(1)));
        assert_eq!((row("point", None), row("ideal", Some(0))), (None, None));
        let names = |method, repeat| -> Vec<String> {
            let steps = steps.of_row(CHAIN, method, repeat);
            steps.into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(names("point", Some(1)), ["170/seed-0/point-1"]);
        assert_eq!(names("clean", None), ["170/seed-0/clean"]);
        let expected = [
            "170/seed-0/mesa-0.9",
            "170/seed-0/fit-0.9",
            "170/seed-0/samples-0.9",
            "170/seed-0/entropy-0.9",
        ];
        assert_eq!(names("mesa:0.9", None), expected);
    }

    #[test]
    fn another_alpha_moves_what_is_modeled_and_nothing_before_it() {
        let steps = steps(|_| {});
        let keys = |steps: &Steps| {
            [
                steps.fit(CHAIN, 0.9).key(),
                steps.samples(CHAIN, 0.9).key(),
                steps.entropy(CHAIN, 0.9).key(),
            ]
        };
        let (same, other) = (steps.with_alpha(0.1), steps.with_alpha(10.0));
        assert_eq!(keys(&same), keys(&steps));
        for (one, other) in keys(&steps).iter().zip(keys(&other)) {
            assert_ne!(*one, other);
        }
        assert_eq!(other.attack(CHAIN).key(), steps.attack(CHAIN).key());
    }

    #[test]
    fn rows_of_a_gpus_earlier_kernels_are_known() {
        let on = |computer: &Computer| {
            let clean = Steps::clean_file("abc", "data", computer).key();
            Steps::new(&ExperimentConfig::paper(), "data", clean, computer)
        };
        assert!(computer().with_earlier_kernels().is_empty());
        let gpu = Computer::made_up_gpu();
        let earlier = gpu.with_earlier_kernels();
        let all: Vec<Steps> = [&gpu].into_iter().chain(&earlier).map(on).collect();
        assert_eq!(all.len(), 3);
        let row_of = |steps: &Steps| -> Row {
            let key = key(steps, "ideal").to_string();
            let row = serde_json::json!({
                "trigger": 170, "seed": 0, "method": "ideal", "asr": 0.03, "clean_accuracy": 0.95,
                "regained_accuracy": 0.9, "wall_s": 1.0, "key": key,
            });
            serde_json::from_value(row).unwrap()
        };
        let rows: Vec<Row> = all.iter().map(row_of).collect();
        for (at, steps) in all.iter().enumerate() {
            for (other, row) in rows.iter().enumerate() {
                assert_eq!(steps.made(row), at == other);
            }
        }
        let unknown = Row {
            key: None,
            ..rows[0].clone()
        };
        assert!(!all.iter().any(|steps| steps.made(&unknown)));
    }

    #[test]
    fn chains_share_nothing_but_the_clean_network() {
        let steps = steps(|_| {});
        let other = Chain { seed: 1, ..CHAIN };
        assert_ne!(steps.attack(CHAIN).key(), steps.attack(other).key());
        assert_eq!(other.folder(), "170/seed-1");
    }
}
