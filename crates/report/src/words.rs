//! What reports say in words: methods, limits.

/// The methods, a line each.
pub(crate) const METHODS: &[(&str, &str)] = &[
    (
        "clean",
        "the network before the attack, on images stamped with the attacker's trigger",
    ),
    (
        "backdoored",
        "the network after the attack, before any defense",
    ),
    (
        "no-trigger",
        "the retraining of the defense with nothing stamped",
    ),
    (
        "random",
        "the same with uniform random patches: shows that the distribution matters, not the stamping",
    ),
    (
        "fine-tune",
        "training on clean images with a falling learning rate, shifts and flips, as if nothing were wrong",
    ),
    (
        "point",
        "the baseline: retraining with one reversed trigger, found by SGD on its pixels, in independent repeats",
    ),
    (
        "mesa:β",
        "retraining with samples of the sub-model of one threshold β (Algorithm 2)",
    ),
    (
        "ensemble:turns",
        "the sub-models of all β, one in each epoch, as in the authors' code",
    ),
    (
        "ensemble:weighted",
        "the sub-models of all β, drawn by their weight γ for each image (Algorithm 1)",
    ),
    (
        "ideal",
        "retraining with the attacker's own trigger: about the best that can be hoped for",
    ),
];

/// What the figures do not say.
pub(crate) const LIMITS: &[&str] = &[
    "One family of networks, ResNets for 32×32 images, and backdoors that are small stamped patches, of the size that is looked for unless the preset says otherwise. A blended pattern or a natural object is another kind.",
    "The figures are those of the presets named above them; a preset of another width than the paper's 64 compares with the paper in kind, not digit by digit.",
    "An ASR of zero is not to be had: the rows `clean` are where networks without a backdoor stand, the share of stamped images that are mistaken for the target class anyway.",
    "Networks of one seed share all draws and, unless the notes name another, their clean network, so intervals are about the choice of triggers, and too narrow for anything wider.",
    "The entropy estimate is a lower bound and no volume of a level set; the notes of runs of several networks say how often it agrees with the Gaussian's bound on which of two sub-models is wider.",
    "Times are those of the machine named beside them, whatever else it did.",
];
