"""What are samples good for? Models trained on them and tested on real rows, and one that tells them from real rows.

Train on synthetic, test on real (Esteban, Hyland and Ratsch, 2017, "Real-valued (medical) time series generation with
recurrent conditional GANs", arXiv:1706.02633, section 4.2): one column is predicted from all others, by

    linear    logistic regression of a category, ridge regression of a number, on standardised features
    trees     a random forest: 100 trees on at most 10,000 rows each, leaves of at least 5 (Breiman, 2001, "Random
              forests", Machine Learning 45)

A category is scored by the area under the ROC curve, one value against the others, averaged over the values that the
test rows have; a number by R^2 = 1 - |y - prediction|^2 / |y - mean|^2.

Classifier two-sample test (Lopez-Paz and Oquab, 2016, "Revisiting classifier two-sample tests", arXiv:1610.06545): the
area under the ROC curve of trees that tell samples from real rows, each row scored by trees that have not seen it (five
folds). 0.5 = they cannot, 1 = they always can.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gensys.columns import Column
from gensys.evaluate.tabular.rows import Rows, features

__all__ = ["Kind", "area", "predicted", "score", "told_apart"]

Kind = Literal["linear", "trees"]

_SEED = 0  # of forests and folds
_DRAWN = 10_000  # rows that a tree is grown on: enough for its purpose, and the time is bounded
_LEAF = 5
_FOLDS = 5


def _classifier(kind: Kind, n: int):  # noqa: ANN202 - a pipeline and a forest of scikit-learn have no type in common
    """n: rows that it is trained on, or a few less."""
    if kind == "trees":
        return RandomForestClassifier(min_samples_leaf=_LEAF, max_samples=min(1.0, _DRAWN / n), random_state=_SEED)
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _regressor(kind: Kind, n: int):  # noqa: ANN202
    if kind == "trees":
        return RandomForestRegressor(min_samples_leaf=_LEAF, max_samples=min(1.0, _DRAWN / n), random_state=_SEED)
    return make_pipeline(StandardScaler(), Ridge())


def predicted(train: Rows, test: Rows, columns: Sequence[Column], target: int, kind: Kind) -> Rows:
    """What a model that was trained on `train` (n, D) says of the column `target` of `test` (m, D).

    A number: (m,). A category: the probability of each of its values, (m, values).
    """
    others = [k for k in range(len(columns)) if k != target]
    seen = [columns[k] for k in others]
    x, y, new = features(train[:, others], seen), train[:, target], features(test[:, others], seen)
    if not columns[target].categories:
        return _regressor(kind, len(x)).fit(x, y).predict(new)
    found = np.zeros((len(test), len(columns[target].categories)))
    kinds = np.unique(y).astype(np.int64)  # of a model that has forgotten others
    found[:, kinds] = 1.0 if len(kinds) == 1 else _classifier(kind, len(x)).fit(x, y).predict_proba(new)
    return found


def score(prediction: Rows, truth: Rows) -> float:
    """R^2 of numbers (m,), the mean area under the ROC curve of probabilities (m, values). truth: (m,).

    ValueError for rows that all have the same truth: nothing can be told about them.
    """
    if np.ptp(truth) == 0.0:
        raise ValueError(f"'truth' must have different values, got {truth[0]:g} in all of {len(truth)} rows")
    if prediction.ndim == 1:
        return float(r2_score(truth, prediction))
    return float(np.mean([area(truth == value, prediction[:, int(value)]) for value in np.unique(truth)]))


def area(positive: npt.NDArray[np.bool_], scores: Rows) -> float:
    """The area under the ROC curve, (n,) each: how often a positive row is scored higher than another, ties by half."""
    return float(roc_auc_score(positive, scores))


def told_apart(samples: Rows, real: Rows, columns: Sequence[Column]) -> tuple[npt.NDArray[np.bool_], Rows]:
    """(which rows are samples, the probability of it by trees that have not seen the row), of as many rows of either
    as the smaller set has, at least five."""
    n = min(len(samples), len(real))
    x = features(np.concatenate([samples[:n], real[:n]]), columns)
    fake = np.arange(2 * n) < n
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=_SEED)
    found = cross_val_predict(_classifier("trees", len(x)), x, fake, cv=folds, method="predict_proba")
    return fake, np.asarray(found)[:, 1]
