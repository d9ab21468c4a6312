"""Makes the SavedModels that the tests serve: `linear/1` says 2x + 1 of pairs of numbers, `linear/2` says 3x + 1."""

import sys

import tensorflow as tf


class Linear(tf.Module):
    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = tf.Variable(slope)

    @tf.function(input_signature=[tf.TensorSpec([None, 2], tf.float32, name="x")])
    def serve(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"y": self.slope * x + 1}


for version, slope in ((1, 2.0), (2, 3.0)):
    model = Linear(slope)
    tf.saved_model.save(model, f"{sys.argv[1]}/linear/{version}", signatures={"serving_default": model.serve})
