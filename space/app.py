"""The Space: probe a scrubbed model, try to relearn what it forgot, and read its leakage card.

    python space/app.py

starts it on http://127.0.0.1:7860, offline, with the example pair that comes with it and what `make demo` left.
"""

import argparse
from pathlib import Path

import gradio as gr
import torch
from starlette.middleware import Middleware

from hf_dtl.metrics.look import look
from page import views
from page.connections import bound_connections
from page.events import Events
from page.gate import MOST_UPLOAD, Gate
from page.pairs import OPENING, Pairs, local_pairs
from page.relearn import ATTACKS, BUDGETS, MOST_SEED
from page.temporary import take_folder
from page.uploads import received

HERE = Path(__file__).resolve().parent
SHOW_CURVE = (
    "(...inputs) => { document.querySelector('svg.curve')?.scrollIntoView({block: 'nearest'}); return inputs; }"
)
WAITING = 64
"""Events that may wait; further ones are told so."""
AT_ONCE = OPENING + 2
"""Events of one kind that run at once, so that those who open models of the Hub do not hold up the others."""

if __name__ == "__main__":
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="GRADIO_SERVER_NAME and GRADIO_SERVER_PORT choose another address; it takes no options.",
    ).parse_args()  # fmt: skip

gr.Image.preprocess = received
for field in (gr.Radio, gr.Number, gr.Dropdown):  # the events say at the field what is wrong, gradio in a traceback
    field.preprocess = lambda self, payload: payload
uploads = take_folder()
torch.set_num_threads(1)  # the networks are small, and the other core serves the page
pairs = Pairs(local_pairs(HERE))
events = Events(pairs)


def field_error() -> gr.HTML:
    """The place under a field where it is said what is wrong with it; empty, it takes no room."""
    return gr.HTML(elem_classes="field-error")


with gr.Blocks(title="Has this model really forgotten?", delete_cache=(600, 1800), analytics_enabled=False) as demo:
    gr.HTML(views.INTRO)
    with gr.Row():
        with gr.Column(scale=3, min_width=220):
            published = gr.Dropdown(
                list(pairs.local), value=next(iter(pairs.local)), allow_custom_value=True,
                label="Published model", info="Choose one, or write a Hub id.",
            )  # fmt: skip
            wrong_published = field_error()
        with gr.Column(scale=3, min_width=220):
            undisposed = gr.Textbox(
                label="Undisposed model (optional)", info="Hub id of the model before disposal.",
                placeholder="user/model", max_length=100, max_lines=1,
            )  # fmt: skip
            wrong_undisposed = field_error()
        opening = gr.Button("Open", scale=1, min_width=110, elem_classes="open-pair")
    pair = [gr.Textbox(visible=False), gr.Textbox(visible=False)]
    headline = gr.HTML()
    with gr.Tabs():
        with gr.Tab("Probe"):
            with gr.Row():
                with gr.Column(scale=2, min_width=260):
                    image = gr.Image(
                        label="Your image", sources=["upload", "clipboard"], height=230, alt_text="The probed image"
                    )  # fmt: skip
                    wrong_image = field_error()
                    examples = gr.Gallery(
                        label="Or an example", columns=5, height="auto", allow_preview=False, object_fit="contain",
                        elem_classes="examples", buttons=[],
                    )  # fmt: skip
                with gr.Column(scale=5, min_width=300):
                    seen = gr.HTML()
        with gr.Tab("Relearn it"):
            with gr.Row():
                with gr.Column(scale=2, min_width=260):
                    which = gr.Radio(["scrubbed", "undisposed"], value="scrubbed", label="Model to attack")
                    attack = gr.Radio(list(ATTACKS), value=ATTACKS[0], label="Attack")
                    budget = gr.Radio(
                        list(BUDGETS), value=5, label="Images a class", info="What the attacker may train on."
                    )
                    seed = gr.Number(0, label="Seed", info=f"Draws the images and the new head; 0 to {MOST_SEED:,}.")
                    wrong_attack = field_error()
                    with gr.Row():
                        start = gr.Button("Start attack", variant="primary", scale=2, min_width=140)
                        stop = gr.Button("Stop", scale=1, min_width=70)
                with gr.Column(scale=5, min_width=300):
                    picture = gr.HTML()
                    status = gr.HTML()
        with gr.Tab("Leakage card"):
            card = gr.HTML()
        with gr.Tab("How it works"):
            gr.HTML((HERE / "page" / "how.html").read_text(encoding="utf-8"))

    opened = [*pair, headline, examples, wrong_image, image, seen, which, attack, budget, wrong_attack, start, picture,
              status, card]  # fmt: skip
    gr.on([demo.load, published.change, undisposed.submit, opening.click], events.open, [published, undisposed],
          [wrong_published, wrong_undisposed, *opened], api_name="open", show_progress="minimal",
          show_progress_on=opening, concurrency_limit=AT_ONCE)  # fmt: skip
    examples.select(events.example, pair, [wrong_image, image, seen], api_name="example", api_visibility="private",
                    show_progress="hidden", concurrency_limit=AT_ONCE)  # fmt: skip
    gr.on([image.upload, image.clear], events.probe, [*pair, image], [wrong_image, seen], api_name="probe",
          show_progress="minimal", show_progress_on=seen, concurrency_limit=AT_ONCE)  # fmt: skip
    gr.on([attack.input, budget.input], events.idle, [*pair, attack, budget], [wrong_attack, picture, status],
          api_name="references", show_progress="hidden", concurrency_limit=AT_ONCE)  # fmt: skip
    start.click(events.ask, api_visibility="private", concurrency_limit=None).then(
        events.relearn, [*pair, which, attack, budget, seed], [wrong_attack, picture, status], api_name="relearn",
        concurrency_limit=1, show_progress="minimal", show_progress_on=status, js=SHOW_CURVE,
    )  # fmt: skip
    stop.click(events.stopped, None, status, api_name="stop", show_progress="hidden")

demo.queue(max_size=WAITING, default_concurrency_limit=1)

if __name__ == "__main__":
    pairs.get(next(iter(pairs.local)))  # the first visitor does not wait for it
    bound_connections()
    style = (HERE / "page" / "style.css").read_text(encoding="utf-8")
    demo.launch(
        **look(style), max_file_size=MOST_UPLOAD, state_session_capacity=200, max_threads=2 * AT_ONCE, ssr_mode=False,
        app_kwargs={"middleware": [Middleware(Gate, blocks=demo, uploads=uploads)]},
    )  # fmt: skip
