"""The one look of the pages of this project: a theme with the system's own fonts, so that no page asks for one."""

from typing import Any

CSS = """
.gradio-container { max-width: 1080px !important; margin: 0 auto !important; }
.gradio-container h1 { font-size: 1.7rem; line-height: 1.2; margin: .4rem 0 .3rem; letter-spacing: -.01em; }
.gradio-container .prose table { width: auto; }
.gradio-container .prose :is(table, thead, tbody, tr, th, td) { border: 0; }
.gradio-container .prose :is(th, td) { border-bottom: 1px solid var(--border-color-primary); padding: .35rem .8rem; }
.gradio-container .prose pre { contain: inline-size; overflow-x: auto; }
.gradio-container footer .divider { display: none; }
.gradio-container :focus-visible { outline: 2px solid var(--color-accent); outline-offset: 2px; }
@media (prefers-reduced-motion: reduce) { .gradio-container * { transition: none !important; } }
"""


def look(css: str = "") -> dict[str, Any]:
    """What a page gives to `demo.launch`: theme, style sheet, and the links below it.

    Args:
        css: rules of the page's own, added to the shared ones.

    Returns:
        Keyword arguments; gradio, which comes with the extra `space`, is imported only here.
    """
    import gradio as gr

    theme = gr.themes.Base(
        primary_hue="blue",
        secondary_hue="blue",
        neutral_hue="slate",
        radius_size="md",
        font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif"),
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
    ).set(
        body_background_fill="*neutral_50",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
        block_title_text_weight="600",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
    )
    return {"theme": theme, "css": CSS + css, "footer_links": ["api"]}
