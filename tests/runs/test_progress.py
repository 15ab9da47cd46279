from evax.runs.progress import PlainLines, counting_bar, live_panel, progress_bar


def lines_of(total, seconds_per_step, done=0):
    """What a run of steps that all take the same time writes, and the moments of it."""
    moment, said = [0.0], list[str]()
    lines = PlainLines(said.append, "learning", total, done, clock=lambda: moment[0])
    moments = []
    for now in range(done + 1, total + 1):
        moment[0] += seconds_per_step
        before = len(said)
        lines.show(now, f"loss {now}\n\nkNN AUC 0.5")
        moments += [moment[0]] * (len(said) - before)
    return said, moments


def test_a_line_says_how_far_it_is_how_long_the_rest_takes_and_what_is_new():
    said, _ = lines_of(3, 40, done=1)
    assert said == [
        "learning: 2 of 3 in 0:00:40, 0:00:40 left; loss 2; kNN AUC 0.5",
        "learning: 3 of 3 in 0:01:20; loss 3",
    ]


def test_slow_steps_have_a_line_a_minute_fast_ones_one_every_twentieth_and_a_moment_only_two():
    assert lines_of(100, 30)[1] == [30, *range(90, 3000, 60), 3000]
    assert lines_of(100, 2)[1] == [2, *range(12, 200, 10), 200]
    assert lines_of(100, 0.001)[1] == [0.001, lines_of(100, 0.001)[1][-1]]
    assert len(lines_of(100_000, 1)[1]) < 100_000 / 60 + 3


def test_without_a_terminal_bars_and_panels_write_lines_and_hidden_ones_nothing(capsys):
    with progress_bar("embedding", 2) as advance:
        advance("one")
        assert capsys.readouterr().err.startswith("embedding: 1 of 2 in 0:00:0")  # at once, not at the end
        advance("two [x]")
    with live_panel("pre-training", 5, done=4) as advance:
        advance("cosine 0.5\n250 films/s")
    with counting_bar("preparing", 1, shown=False) as show:
        show(1, "")
    *_, embedded, trained = capsys.readouterr().err.splitlines()
    assert embedded.startswith("embedding: 2 of 2 in 0:00:0")
    assert embedded.endswith("; two [x]")
    assert trained.startswith("pre-training: 5 of 5 in 0:00:0")
    assert trained.endswith("; cosine 0.5; 250 films/s")
