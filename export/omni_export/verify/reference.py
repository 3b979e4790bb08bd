"""The reference implementation's modules with a checkpoint's weights, one at a time.

Verification looks at one graph at a time: a whole model would need all float32 weights in memory.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
import transformers
from transformers import Qwen2_5OmniConfig
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as modeling

from omni_edge.errors import CheckpointError
from omni_export.checkpoint.checkpoint import Checkpoint
from omni_export.checkpoint.config import OmniConfig
from omni_export.models.token2wav import bigvgan, dit
from omni_export.verify.weights import ReferenceWeights

Module = TypeVar("Module", bound=torch.nn.Module)


class ReferenceModules:
    """Builds float32 modules of the reference.

    Attributes:
        weights: the checkpoint's tensors, read independently of the exporter.
        config: the reference's configuration.
    """

    def __init__(self, checkpoint: Checkpoint, config: OmniConfig) -> None:
        self.weights = ReferenceWeights(checkpoint.path)
        # transformers warns of text tokens beyond the Talker's vocabulary, even for the published configuration.
        transformers.logging.set_verbosity_error()
        self.config = Qwen2_5OmniConfig(**_transformers_spelling(config))

    def audio_encoder(self) -> modeling.Qwen2_5OmniAudioEncoder:
        """The audio encoder, `thinker.audio_tower`."""
        config = self.config.thinker_config.audio_config
        return self._load(modeling.Qwen2_5OmniAudioEncoder._from_config(config), "thinker.audio_tower")

    def vision_encoder(self) -> modeling.Qwen2_5OmniVisionEncoder:
        """The vision encoder, `thinker.visual`."""
        config = self.config.thinker_config.vision_config
        return self._load(modeling.Qwen2_5OmniVisionEncoder._from_config(config), "thinker.visual")

    def thinker(self) -> modeling.Qwen2_5OmniThinkerTextModel:
        """The Thinker's text model without output head, `thinker.model`."""
        config = self.config.thinker_config.text_config
        return self._load(modeling.Qwen2_5OmniThinkerTextModel._from_config(config), "thinker.model")

    def talker(self) -> modeling.Qwen2_5OmniTalkerForConditionalGeneration:
        """The Talker with projection and head, `talker`."""
        config = self.config.talker_config
        return self._load(modeling.Qwen2_5OmniTalkerForConditionalGeneration._from_config(config), "talker")

    def dit(self) -> modeling.Qwen2_5OmniToken2WavDiTModel:
        """The DiT of token2wav."""
        config = self.config.token2wav_config.dit_config
        return self._load(modeling.Qwen2_5OmniToken2WavDiTModel._from_config(config), dit.PREFIX)

    def bigvgan(self) -> modeling.Qwen2_5OmniToken2WavBigVGANModel:
        """The BigVGAN of token2wav."""
        config = self.config.token2wav_config.bigvgan_config
        return self._load(modeling.Qwen2_5OmniToken2WavBigVGANModel._from_config(config), bigvgan.PREFIX)

    def _load(self, module: Module, prefix: str) -> Module:
        module.float()
        state = module.state_dict()
        with torch.no_grad():
            for name, value in state.items():
                tensor = self.weights.tensor(f"{prefix}.{name}")
                if tensor.shape != value.shape:
                    raise CheckpointError(
                        f"{prefix}.{name} has shape {list(tensor.shape)}, the config asks for {list(value.shape)}. "
                        "config.json and the weights do not belong together."
                    )
                value.copy_(tensor)
        return module.eval()


def _transformers_spelling(config: OmniConfig) -> dict[str, Any]:
    """config.json in the spelling of transformers 5, which does not read the published names of the DiT's sizes."""
    raw = copy.deepcopy(config.raw)
    if config.talker is None:
        for section in ("talker_config", "token2wav_config"):
            raw.pop(section, None)
        raw["enable_audio_output"] = False
    if config.dit is not None:
        entry = raw["token2wav_config"]["dit_config"]
        for published in ("dim", "depth", "heads"):
            entry.pop(published, None)
        entry["hidden_size"] = config.dit.hidden_size
        entry["num_hidden_layers"] = config.dit.num_layers
        entry["num_attention_heads"] = config.dit.num_heads
    return raw
