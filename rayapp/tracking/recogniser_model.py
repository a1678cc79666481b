"""A recogniser as MLflow runs it: kept with a model as this very file, which MLflow reads when the model is loaded.

`mlflow.pyfunc.load_model("runs:/RUN/model").predict(audio)` takes (batch, samples) float32, 16 kHz, padded with 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.pyfunc import PythonModel, PythonModelContext


class RecogniserModel(PythonModel):  # type: ignore[misc]
    """Needs this project where it is loaded."""

    def load_context(self, context: PythonModelContext) -> None:
        from rayapp.asr.open import open_recogniser

        self.recogniser = open_recogniser(Path(context.artifacts["recogniser"]))

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """A text for each audio."""
        audio = np.asarray(model_input, np.float32)
        return np.array([heard.text for heard in self.recogniser.transcribe(list(audio))])


mlflow.models.set_model(RecogniserModel())
