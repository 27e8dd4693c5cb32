import pytest

from jaxinv.training.metrics_log import MetricsLog


def test_rows_come_back_and_are_cut_after_a_step(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    assert log.rows() == []
    rows = [{"step": step, "train_loss": 0.1 * step, "validation_loss": None} for step in (2, 4, 6)]
    for row in rows:
        log.append(row)
    assert log.rows() == rows
    assert log.cut(4) == rows[:2]
    assert log.rows() == rows[:2]


def test_a_line_cut_short_by_a_kill_does_not_count(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"step": 2})
    with log.path.open("a") as file:
        file.write('{"step": 4, "trai')
    assert log.rows() == [{"step": 2}]
    assert log.cut(2) == [{"step": 2}]
    assert log.path.read_text() == '{"step": 2}\n'


def test_a_damaged_line_is_said_with_the_name_of_the_file(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.path.write_text('{"step": 2\n{"step": 4}\n')
    with pytest.raises(ValueError, match="is damaged"):
        log.rows()
