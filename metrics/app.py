"""The page of a metric's Space: inputs go in as JSON, figures come out. Module and `example.json` lie beside it."""

import json
from pathlib import Path

import evaluate
import gradio

FOLDER = Path(__file__).parent
EXAMPLE = json.loads((FOLDER / "example.json").read_text(encoding="utf-8"))


def compute(inputs: str) -> dict:
    """Figures of inputs that are written as JSON."""
    metric = evaluate.load(str(FOLDER / EXAMPLE["module"]))
    try:
        figures = metric.compute(**json.loads(inputs))
    except (ValueError, TypeError, KeyError) as error:
        raise gradio.Error(f"No figures: {error}") from error
    return {name: value if isinstance(value, str) else float(value) for name, value in figures.items()}


def build_page() -> gradio.Interface:
    """The page."""
    card = (FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)[-1]
    inputs = gradio.Code(json.dumps(EXAMPLE["inputs"], indent=2), language="json", label="Inputs")
    return gradio.Interface(compute, inputs, gradio.JSON(label="Figures"), article=card, flagging_mode="never")


if __name__ == "__main__":
    build_page().launch()
