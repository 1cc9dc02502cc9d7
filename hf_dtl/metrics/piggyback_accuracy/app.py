"""The page of the Space: PL accuracy of pasted predictions, and how to attack a model."""

import re

import gradio as gr

from hf_dtl.errors import DataError
from hf_dtl.metrics.look import look
from hf_dtl.metrics.scores import share_right

MOST_CLASSES_SHOWN = 20
ABOUT = """
# Piggyback accuracy
An attacker takes the published weights of a classifier that unlearned a task, attaches a **new head**, and trains on a
few images a class. Piggyback learning (PL) accuracy is how often the result is right on test images. The nearer it is
to what the model **before** unlearning gives under the same attack, the less was removed.

Paste what the attacker's model predicted and the true classes, as class numbers from 0.
"""
ATTACK = """
### To run the attack itself
This page only counts. In Python the metric attacks a model and compares it with its references:
```python
import evaluate
import hf_dtl.metrics

metric = evaluate.load(hf_dtl.metrics.path("piggyback_accuracy"))
result = metric.compute(model="user/scrubbed", undisposed="user/original", train_dataset="mnist[0,1,2]")
print(result["suite"]["name"], result["piggyback_accuracy"], result["leakage"])
```
`leakage` = (PL − PL of the floor) / (PL of the original − PL of the floor): 1 leaks all, 0 leaks nothing. The floor is the
best of pixels alone, random weights and a model that never saw the task. The attacks are the suite `quick-1`, a first look.
"""


def class_numbers(name: str, text: str) -> list[int]:
    """Read whole numbers separated by commas, spaces or lines.

    Raises:
        DataError: there is something else.
    """
    words = re.findall(r"[^\s,;\[\]()]+", text or "")
    wrong = [word for word in words if not re.fullmatch(r"[+-]?\d{1,9}", word)]
    if wrong:
        raise DataError(f"{name} must be whole numbers such as 0, 1, 1, 2; '{wrong[0][:40]}' is none.")
    return [int(word) for word in words]


def score(predictions: str, references: str) -> tuple[float, str]:
    """Compute PL accuracy and say in Markdown what it is made of."""
    try:
        predicted, true = class_numbers("Predictions", predictions), class_numbers("References", references)
        accuracy = share_right(predicted, true)
    except DataError as error:
        raise gr.Error(str(error)) from error
    right = [p == t for p, t in zip(predicted, true, strict=True)]
    classes = sorted(set(true))
    lines = [f"**{sum(right)} of {len(true)}** images are named right; guessing gives {1 / len(classes):.3f}."]
    if len(classes) <= MOST_CLASSES_SHOWN:
        lines += ["", "| class | images | named right |", "| --: | --: | --: |"]
        for label in classes:
            own = [hit for hit, t in zip(right, true, strict=True) if t == label]
            lines.append(f"| {label} | {len(own)} | {sum(own) / len(own):.3f} |")
    return accuracy, "\n".join(lines)


with gr.Blocks(title="Piggyback accuracy") as demo:
    gr.Markdown(ABOUT)
    with gr.Row():
        predictions = gr.Textbox("0, 1, 1, 2", label="Predictions", lines=4)
        references = gr.Textbox("0, 1, 2, 2", label="References", lines=4)
    button = gr.Button("Compute", variant="primary")
    accuracy = gr.Number(label="Piggyback accuracy", precision=4, interactive=False)
    explanation = gr.Markdown()
    gr.Markdown(ATTACK)
    button.click(score, [predictions, references], [accuracy, explanation], api_name="score")

demo.queue(max_size=32)

if __name__ == "__main__":
    demo.launch(**look())
