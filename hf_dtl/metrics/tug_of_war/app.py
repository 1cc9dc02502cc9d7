"""The page of the Space: Tug-of-War of numbers."""

import gradio as gr

from hf_dtl.errors import DTLError
from hf_dtl.metrics.look import look
from hf_dtl.metrics.scores import likeness_to_retrained

ABOUT = """
# Tug-of-War
How like the model that was **retrained without the forgotten data** an unlearned model behaves on every split at once:
the product of 1 − |difference of accuracies|. **1 is ideal, higher is better.** It compares outputs only: what can be
relearned from the weights is another question (metric `piggyback_accuracy`).

Leave both numbers of a split empty to leave it out.
"""
SPLITS = {"forget": (0.75, 0.25), "retain": (1.0, 1.0), "test": (0.5, 1.0)}


def score(*numbers: float | None) -> tuple[float, float]:
    """Compute Tug-of-War and the average gap of the numbers of each split: unlearned, then retrained."""
    pairs = zip(SPLITS, zip(numbers[::2], numbers[1::2], strict=True), strict=True)
    given = {split: pair for split, pair in pairs if pair != (None, None)}
    try:
        result = likeness_to_retrained(*({split: pair[side] for split, pair in given.items()} for side in (0, 1)))
    except DTLError as error:
        raise gr.Error(str(error)) from error
    return result["tug_of_war"], result["average_gap"]


with gr.Blocks(title="Tug-of-War") as demo:
    gr.Markdown(ABOUT)
    inputs = []
    for split, values in SPLITS.items():
        with gr.Row():
            for model, value in zip(("unlearned", "retrained"), values, strict=True):
                inputs.append(gr.Number(value, label=f"Accuracy on {split} data, {model} model"))
    button = gr.Button("Compute", variant="primary")
    with gr.Row():
        tug_of_war = gr.Number(label="Tug-of-War", precision=4, interactive=False)
        average_gap = gr.Number(label="Average gap", precision=4, interactive=False)
    button.click(score, inputs, [tug_of_war, average_gap], api_name="score")

demo.queue(max_size=32)

if __name__ == "__main__":
    demo.launch(**look())
