from PIL import Image

from hf_dtl.audit.plots.disposal import plot_disposal


def test_draws_a_panel_for_each_logged_quantity(tmp_path):
    few = [{"step": s, "disposal_value": -(float(s) ** 4), "source_loss": float(s)} for s in range(1, 9)]
    many = [entry | {"mean_cosine": 0.1, "mean_gradient_norm": 2.0, "retain_loss": 0.3} for entry in few]
    widths = [Image.open(plot_disposal(logs, "gc", tmp_path / "p" / "a.png")).width for logs in (few, many)]
    assert widths[1] > 2 * widths[0]
    assert plot_disposal([], "gc", tmp_path / "none.png") is None and not (tmp_path / "none.png").exists()


def test_same_logs_give_the_same_bytes(tmp_path):
    logs = [{"step": 1, "disposal_value": 0.5}, {"step": 2, "disposal_value": 0.25}]
    files = [plot_disposal(logs, "gc", tmp_path / f"{i}.png") for i in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()
