from evax.pages.figures import run_curves

STEPS = [
    {
        "images": 8 * step, "cosine": 0.1 * step, "lr": 1e-3, "grad_norm": 1.0 + step, "spread": 0.5,
        "images_per_s": 50.0 + step, "matmul_share": 0.3,
    }
    for step in range(1, 6)
]  # fmt: skip
PROBES = [
    {"images": views, "knn_auc": 0.6, "linear_auc": 0.7, "rankme": 12.0} for views in (0, 40)
]  # fmt: skip


def curves_of(figure):
    return {
        axes.get_title(loc="left"): [list(line.get_ydata()) for line in axes.lines] for axes in figure.axes
    }


def test_every_number_that_a_run_logs_has_its_curve():
    drawn = curves_of(run_curves(STEPS, PROBES))
    assert drawn["images per second"] == [[51.0, 52.0, 53.0, 54.0, 55.0]]
    assert drawn["share of the speed of a plain matrix product"] == [[0.3] * 5]
    assert drawn["mean AUC on the validation images"][:2] == [[0.6, 0.6], [0.7, 0.7]]
    assert len(drawn) == 8


def test_a_step_done_twice_counts_once_and_a_run_without_probes_has_no_panels_for_them():
    again = STEPS[-1] | {"grad_norm": 9.0}
    drawn = curves_of(run_curves([*STEPS, again], []))
    assert drawn["gradient norm before clipping"] == [[2.0, 3.0, 4.0, 5.0, 9.0]]
    assert len(drawn) == 6
