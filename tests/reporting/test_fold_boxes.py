from evax.pages.drawing import save_figure
from evax.pages.folds import fold_boxes


def box_count(scores):
    return len(fold_boxes(scores, title="", x_label="").axes[0].patches)


def test_a_box_shows_mean_and_sd_of_the_folds_that_define_it_and_the_warning_stands_above(tmp_path):
    scores = {"Effusion": [0.8, 0.9, None], "Hernia": [None, None, None], "Mass": [0.7, None, None]}
    save_figure(
        fold_boxes(scores, title="mine", x_label="AUROC", warning="films were split"), tmp_path / "boxes"
    )
    assert box_count({**scores, "Edema": [0.7, 0.8, 0.75, 0.9]}) == 1  # of four values on
    drawn = (tmp_path / "boxes.svg").read_text()
    for text in ("0.850 ± 0.071", "not defined", ">0.700<", "films were split", "mine", "Hernia"):
        assert text in drawn
