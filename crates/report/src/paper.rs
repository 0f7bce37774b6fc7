//! The figures the paper gives, to stand beside ours.

use mesa_record::TriggerName;

/// ASR in percent over many networks, as the paper prints it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PaperFigure {
    /// Mean over triggers.
    pub(crate) mean: f64,
    /// Worst of them, where it is given: the highest after a defense, the
    /// lowest before.
    pub(crate) worst: Option<f64>,
}

/// The kinds of triggers the paper averages over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TriggerKind {
    /// Black/white patterns.
    BlackWhite,
    /// The ten color triggers.
    Color,
    /// Anything else; the paper has none.
    Other,
}

impl TriggerKind {
    /// The kind of a trigger, from its name.
    pub(crate) fn of(trigger: &TriggerName) -> Self {
        match trigger {
            TriggerName::Pattern(_) => Self::BlackWhite,
            TriggerName::Named(name) if name.starts_with("color:") => Self::Color,
            TriggerName::Named(_) => Self::Other,
        }
    }

    /// For titles.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::BlackWhite => "black/white triggers",
            Self::Color => "color triggers",
            Self::Other => "other triggers",
        }
    }
}

/// The paper's ASR of a method (Qiao et al. 2019, the defense figure's caption
/// and the published poster): ResNet-18 of width 64, 51 black/white patterns
/// or 10 color triggers. `None` where the paper gives none, as for every other data set.
pub(crate) fn paper_figure(data: &str, kind: TriggerKind, method: &str) -> Option<PaperFigure> {
    let (mean, worst) = match (data, kind, method) {
        ("cifar10", TriggerKind::BlackWhite, "backdoored") => (98.7, Some(92.4)),
        ("cifar10", TriggerKind::BlackWhite, "ideal") => (2.4, Some(3.7)),
        ("cifar10", TriggerKind::BlackWhite, "mesa:0.9") => (3.4, Some(5.9)),
        ("cifar10", TriggerKind::BlackWhite, "mesa:0.8") => (3.6, Some(9.1)),
        ("cifar10", TriggerKind::BlackWhite, "mesa:0.5") => (4.2, Some(9.0)),
        ("cifar10", TriggerKind::BlackWhite, "ensemble:turns") => (3.6, Some(8.2)),
        ("cifar10", TriggerKind::BlackWhite, "point") => (10.5, Some(51.4)),
        ("cifar10", TriggerKind::Color, "mesa:0.9") => (2.04, None),
        ("cifar10", TriggerKind::Color, "mesa:0.8") => (1.93, None),
        ("cifar10", TriggerKind::Color, "mesa:0.5") => (1.77, None),
        ("cifar10", TriggerKind::Color, "ensemble:turns") => (1.91, None),
        ("cifar10", TriggerKind::Color, "point") => (22.75, None),
        ("cifar100", TriggerKind::Color, "mesa:0.9") => (1.42, None),
        ("cifar100", TriggerKind::Color, "mesa:0.8") => (1.41, None),
        ("cifar100", TriggerKind::Color, "mesa:0.5") => (1.56, None),
        ("cifar100", TriggerKind::Color, "ensemble:turns") => (1.14, None),
        ("cifar100", TriggerKind::Color, "point") => (27.41, None),
        _ => return None,
    };
    Some(PaperFigure { mean, worst })
}

/// Where a method stands in every table: what is defended, the controls, MESA
/// with the highest β first, the ensembles, what a defender could at best do.
pub(crate) fn rank(method: &str) -> (u8, u32, String) {
    let fixed = |place| (place, 0, method.to_owned());
    match method {
        "clean" => fixed(0),
        "backdoored" => fixed(1),
        "no-trigger" => fixed(2),
        "random" => fixed(3),
        "fine-tune" => fixed(4),
        "point" => fixed(5),
        "ensemble:turns" => fixed(7),
        "ensemble:weighted" => fixed(8),
        "ideal" => fixed(9),
        other => match other
            .strip_prefix("mesa:")
            .and_then(|beta| beta.parse::<f64>().ok())
        {
            Some(beta) => (
                6,
                ((1.0 - beta.clamp(0.0, 1.0)) * 1e6) as u32,
                other.to_owned(),
            ),
            None => (10, 0, other.to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_keep_their_order() {
        let mut methods = [
            "ideal",
            "mesa:0.5",
            "ensemble:weighted",
            "other",
            "mesa:0.9",
            "backdoored",
            "clean",
            "mesa:0.8",
            "random",
            "ensemble:turns",
            "no-trigger",
        ];
        methods.sort_by_key(|method| rank(method));
        let expected = [
            "clean",
            "backdoored",
            "no-trigger",
            "random",
            "mesa:0.9",
            "mesa:0.8",
            "mesa:0.5",
            "ensemble:turns",
            "ensemble:weighted",
            "ideal",
            "other",
        ];
        assert_eq!(methods, expected);
    }

    #[test]
    fn the_papers_figures_are_of_its_data_alone() {
        let figure = |data| paper_figure(data, TriggerKind::BlackWhite, "mesa:0.9");
        let expected = PaperFigure {
            mean: 3.4,
            worst: Some(5.9),
        };
        assert_eq!(figure("cifar10"), Some(expected));
        assert_eq!(figure("synthetic"), None);
    }

    #[test]
    fn knows_the_kinds_of_triggers() {
        assert_eq!(TriggerKind::of(&"170".into()), TriggerKind::BlackWhite);
        assert_eq!(TriggerKind::of(&"color:3".into()), TriggerKind::Color);
        assert_eq!(TriggerKind::of(&"random:1".into()), TriggerKind::Other);
    }
}
