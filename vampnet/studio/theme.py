"""Colours and type of Gradio's own components; `style.css` has the rest."""

from __future__ import annotations

import gradio as gr
from gradio.themes.utils import colors

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONOSPACE = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "monospace")


def make_theme() -> gr.themes.Base:
    """A quiet theme with one accent (amber), light and dark; fonts of the system, so that nothing is fetched from elsewhere."""
    theme = gr.themes.Base(
        primary_hue=colors.amber, neutral_hue=colors.zinc, font=list(SYSTEM_FONTS), font_mono=list(MONOSPACE),
        radius_size=gr.themes.sizes.radius_md, spacing_size=gr.themes.sizes.spacing_md, text_size=gr.themes.sizes.text_md,
    )  # fmt: skip
    return theme.set(
        body_background_fill="#f6f5f2", body_background_fill_dark="#121317",
        body_text_color="#1d1e22", body_text_color_dark="#e8e6e1",
        body_text_color_subdued="#5c5d63", body_text_color_subdued_dark="#a3a3a8",
        background_fill_primary="#ffffff", background_fill_primary_dark="#1a1c21",
        background_fill_secondary="#efede8", background_fill_secondary_dark="#15161a",
        block_background_fill="transparent", block_background_fill_dark="transparent",
        block_border_width="0px", block_border_width_dark="0px", block_shadow="none", block_shadow_dark="none",
        block_padding="0", block_label_background_fill="transparent", block_label_background_fill_dark="transparent",
        block_label_border_width="0px", block_label_border_width_dark="0px",
        block_title_text_color="*body_text_color", block_title_text_color_dark="*body_text_color",
        block_title_text_weight="600", block_title_text_size="*text_sm",
        block_info_text_color="*body_text_color_subdued", block_info_text_color_dark="*body_text_color_subdued",
        block_info_text_size="12px",
        border_color_primary="#dcd9d2", border_color_primary_dark="#2e3037",
        input_background_fill="#ffffff", input_background_fill_dark="#1f2127",
        input_border_width="1px", input_border_color="#cbc7be", input_border_color_dark="#363941",
        slider_color="#c47a12", slider_color_dark="#f0a93c",
        button_primary_background_fill="#f0a93c", button_primary_background_fill_dark="#f0a93c",
        button_primary_background_fill_hover="#f7bb5c", button_primary_background_fill_hover_dark="#f7bb5c",
        button_primary_text_color="#1a1408", button_primary_text_color_dark="#1a1408",
        button_primary_text_color_hover="#1a1408", button_primary_text_color_hover_dark="#1a1408",
        button_primary_border_color="transparent", button_primary_border_color_dark="transparent",
        button_secondary_background_fill="#e9e6df", button_secondary_background_fill_dark="#26282f",
        button_secondary_background_fill_hover="#dedad1", button_secondary_background_fill_hover_dark="#30333b",
        button_secondary_text_color="*body_text_color", button_secondary_text_color_dark="*body_text_color",
        checkbox_background_color_selected="#c47a12", checkbox_background_color_selected_dark="#d98f1f",
        checkbox_border_color_selected="#c47a12", checkbox_border_color_selected_dark="#d98f1f",
        checkbox_label_background_fill="transparent", checkbox_label_background_fill_dark="transparent",
        checkbox_label_background_fill_selected="#f7e6c8", checkbox_label_background_fill_selected_dark="#3a2d16",
        checkbox_label_text_color_selected="#4a2f05", checkbox_label_text_color_selected_dark="#f7d9a4",
        color_accent="#c47a12", color_accent_soft="#f7e6c8", color_accent_soft_dark="#3a2d16",
        link_text_color="#8f5606", link_text_color_dark="#f0a93c",
    )  # fmt: skip
