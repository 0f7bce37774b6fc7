"""Writes what scikit-learn makes of one small cloud of points: its PCA and the depth its t-SNE reaches.

    python tests/golden/projection.py

Needs scikit-learn. The points are rounded, so that a text file holds them exactly; t-SNE runs on all
pairs, from the exact principal components, without stopping early.
"""

import json
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

PERPLEXITY = 30


def points():
    """Two curved threads and a blob in six dimensions."""
    draw = np.random.default_rng(0)
    along = np.linspace(-1, 1, 40)
    thread = np.stack([along, along**2, 0 * along, along, 0 * along, 0 * along], 1)
    other = np.stack([0 * along, along, 1 + along**2, 0 * along, along, 0 * along], 1)
    blob = draw.normal(0, 0.3, (40, 6)) + np.array([0, 0, 0, 0, 0, 1.5])
    cloud = np.concatenate([thread, other, blob])
    return np.round(cloud + draw.normal(0, 0.05, cloud.shape), 3)


cloud = points()
pca = PCA(n_components=2, svd_solver="full").fit(cloud)
# The project's rule of signs: the largest loading of an axis is positive.
largest = np.abs(pca.components_).argmax(axis=1)
signs = np.sign(pca.components_[np.arange(2), largest])
places = pca.transform(cloud) * signs
tsne = TSNE(
    perplexity=PERPLEXITY,
    early_exaggeration=12.0,
    learning_rate=max(len(cloud) / 48, 50),
    max_iter=1000,
    n_iter_without_progress=1000,
    min_grad_norm=0,
    init=places / places[:, 0].std() * 1e-4,
    method="exact",
)
tsne.fit_transform(cloud)
found = {
    "points": cloud.tolist(),
    "pca": places.tolist(),
    "explained": pca.explained_variance_ratio_.tolist(),
    "perplexity": PERPLEXITY,
    "divergence": float(tsne.kl_divergence_),
}
text = json.dumps(found, separators=(",", ":")).replace("],[", "],\n[")
(Path(__file__).parent / "projection.json").write_text(text + "\n")
print("KL divergence", tsne.kl_divergence_)
