"""Every decision about precision, and the methods behind it: numpy arrays in, packed weights out.

`precision` has the words and `policy` the table. `blockwise` and `channelwise` are formats; `group_search` chooses
scales and codes, `gptq` by the inputs of a matrix.
"""

from omni_quant.blockwise import (
    BlockwiseWeight,
    blockwise_weight,
    dequantize_blockwise,
    quantize_blockwise,
    quantize_blockwise_rows,
)
from omni_quant.channelwise import ChannelwiseWeight, quantize_channelwise
from omni_quant.group_search import Groups, quantize_groups
from omni_quant.precision import CacheKind, Kind, Precision

__all__ = [
    "BlockwiseWeight",
    "CacheKind",
    "ChannelwiseWeight",
    "Groups",
    "Kind",
    "Precision",
    "blockwise_weight",
    "dequantize_blockwise",
    "quantize_blockwise",
    "quantize_blockwise_rows",
    "quantize_channelwise",
    "quantize_groups",
]
