//! The command that removes what a search found.

use std::path::Path;

use mesa_record::{Detection, Verdict};

use super::{Search, Searched};
use crate::output;

impl Search<'_> {
    /// The command that removes what was found, or that tries to where classes are reached alike.
    pub(super) fn how_to_remove(
        &self,
        detection: &Detection,
        found: &[Searched],
    ) -> Option<String> {
        let args = self.args;
        let mut words = vec![
            "mesa defend".to_owned(),
            quoted(&args.model),
            "--with".to_owned(),
        ];
        let reached: Vec<u32> = match detection.verdict {
            Verdict::Backdoor => detection.attacked_classes.clone(),
            Verdict::Undecided => detection.reached().map(|class| class.class).collect(),
            Verdict::NothingFound => return None,
        };
        for (figures, searched) in detection.classes.iter().zip(found) {
            if reached.contains(&figures.class) {
                words.push(quoted(&searched.shown(figures).fit.files.checkpoint));
            }
        }
        let mut option = |name: &str, value: Option<String>| {
            words.extend(value.into_iter().flat_map(|value| [name.to_owned(), value]));
        };
        option("--data", args.data.data.as_deref().map(quoted));
        option(
            "--normalize",
            args.normalize.normalize.map(|how| how.to_string()),
        );
        let named = args.preset.config.is_none();
        option("--preset", named.then(|| self.preset.clone()));
        option("--config", args.preset.config.as_deref().map(quoted));
        option(
            "--placement",
            args.placement.placement.map(|places| places.to_string()),
        );
        // Each class takes an epoch's turn.
        let turns = reached.len();
        let is_more = turns > self.settings.retrain.training.epochs;
        option("--epochs", is_more.then(|| turns.to_string()));
        // Beside that of another suspect, not instead of it.
        let stem = args.model.file_stem().unwrap_or_default().to_string_lossy();
        option(
            "-o",
            Some(output::quoted(&format!("{stem}-repaired.safetensors"))),
        );
        Some(words.join(" "))
    }
}

fn quoted(path: &Path) -> String {
    output::quoted(&path.to_string_lossy())
}
