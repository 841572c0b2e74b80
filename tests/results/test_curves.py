"""Figures of a single run."""

import numpy as np
from figure_texts import texts

from clrkit.results import curves, style

HISTORY = {
    "step": [0, 10, 20],
    "loss": [5.0, 3.0, 2.5],
    "learning_rate": [0.0, 0.1, 0.05],
    "knn": [[10, 0.5], [20, 0.75]],
}


def test_training_curves_hold_the_history() -> None:
    each = curves.loss_curve(HISTORY, "Tinted MNIST, preset mini, seed 0")
    assert [axes.get_ylabel() for axes in each.figure.axes] == ["loss", "kNN accuracy (%)", "learning rate"]
    assert each.data["loss"].tolist() == HISTORY["loss"]
    assert each.data["knn"].dropna().tolist() == [50.0, 75.0]
    assert "5.00 to 2.50" in each.alt
    assert "75.0%" in each.alt


def test_training_curves_without_monitoring_have_no_knn_panel() -> None:
    each = curves.loss_curve(HISTORY | {"knn": []}, "")
    assert [axes.get_ylabel() for axes in each.figure.axes] == ["loss", "learning rate"]


def test_a_confusion_names_what_is_most_often_confused() -> None:
    matrix = [[8, 2, 0], [0, 9, 1], [0, 3, 7]]
    each = curves.confusion(matrix, ["cat", "dog", "owl"], "", "true class", "predicted class")
    assert each.alt == (
        "Predicted class and true class agree on 80.0% of 30 images; "
        "most often apart: true class owl with predicted class dog, 3 times."
    )
    counts = each.data.set_index(["row", "column"])["count"]
    assert counts["owl", "dog"] == 3
    assert "owl" in texts(each.figure)


def test_a_class_without_images_leaves_an_empty_row() -> None:
    each = curves.confusion([[0, 0], [1, 3]], ["a", "b"], "")
    assert each.data["count"].sum() == 4


def test_a_hundred_classes_are_drawn_without_names() -> None:
    each = curves.confusion(np.eye(100, dtype=int).tolist(), [f"class {i}" for i in range(100)], "")
    assert "class 7" not in texts(each.figure)


def test_counts_are_dark_on_light_cells_and_light_on_dark_ones() -> None:
    axes = curves.confusion([[99, 1], [50, 50]], ["a", "b"], "").figure.axes[0]
    colors = {text.get_text(): text.get_color() for text in axes.texts}
    assert colors["99"] in ("w", "white")
    assert colors["1"] not in ("w", "white")


def test_the_name_of_a_class_is_no_formula() -> None:
    each = curves.confusion([[1, 0], [0, 1]], ["$x$", "_b_"], "")
    assert not any(label.get_parse_math() for label in each.figure.axes[0].get_xticklabels())
    assert b"$x$" in style.encode(each.figure, "svg") or "$x$" in texts(each.figure)


def test_curves_are_the_same_bytes_each_time() -> None:
    for kind in style.UNDATED:
        first, second = (style.encode(curves.loss_curve(HISTORY, "").figure, kind) for _ in range(2))
        assert first == second
