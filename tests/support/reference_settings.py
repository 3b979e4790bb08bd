"""Settings of torch and transformers for every test."""

from __future__ import annotations

import torch
import transformers

torch.set_num_threads(1)
# It warns of every id beyond the Talker's own small vocabulary, for the published configuration as well.
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
