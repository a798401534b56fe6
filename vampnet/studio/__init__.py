"""The studio: a Gradio page that receives a model and never loads one."""
