"""The page of the Space: the Unlearning Impact Score of numbers."""

import gradio as gr

from hf_dtl.errors import DTLError
from hf_dtl.metrics.look import look
from hf_dtl.metrics.scores import impact_of_unlearning

ABOUT = """
# Unlearning Impact Score
Half the relative loss of test accuracy, plus half the relative distance of the accuracy on the forget images from its
goal. **0 is ideal, lower is better.** It compares outputs only: what can be relearned from the weights is another
question (metric `piggyback_accuracy`).
"""
GOALS = [
    ("instances: forgotten images become like unseen ones", "instances"),
    ("class: a forgotten class is never right", "class"),
    ("untouched: this task was to stay as it was", "untouched"),
]


def score(
    original_test: float, unlearned_test: float, unlearned_forget: float, goal: str, original_forget: float | None
) -> float:
    """Compute the score of one task."""
    try:
        result = impact_of_unlearning(
            original_test, unlearned_test, unlearned_forget, goal=goal, original_forget=original_forget
        )
    except DTLError as error:
        raise gr.Error(str(error)) from error
    return result["unlearning_impact_score"]


with gr.Blocks(title="Unlearning Impact Score") as demo:
    gr.Markdown(ABOUT)
    goal = gr.Radio(GOALS, value="instances", label="What was to be forgotten")
    with gr.Row():
        original_test = gr.Number(0.5, label="Test accuracy before")
        unlearned_test = gr.Number(0.375, label="Test accuracy after")
    with gr.Row():
        original_forget = gr.Number(None, label="Accuracy on the forget images before (only for untouched)")
        unlearned_forget = gr.Number(0.5, label="Accuracy on the forget images after")
    button = gr.Button("Compute", variant="primary")
    result = gr.Number(label="Unlearning Impact Score", precision=4, interactive=False)
    inputs = [original_test, unlearned_test, unlearned_forget, goal, original_forget]
    button.click(score, inputs, result, api_name="score")

demo.queue(max_size=32)

if __name__ == "__main__":
    demo.launch(**look())
