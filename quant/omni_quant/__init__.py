"""Every decision about precision, and the methods behind it: numpy arrays in, packed weights out.

`precision` has the words, `policy` the table, `blockwise` and `channelwise` the methods.
"""

from omni_quant.blockwise import BlockwiseWeight, dequantize_blockwise, quantize_blockwise, quantize_blockwise_rows
from omni_quant.channelwise import ChannelwiseWeight, quantize_channelwise
from omni_quant.precision import CacheKind, Kind, Precision

__all__ = [
    "BlockwiseWeight",
    "CacheKind",
    "ChannelwiseWeight",
    "Kind",
    "Precision",
    "dequantize_blockwise",
    "quantize_blockwise",
    "quantize_blockwise_rows",
    "quantize_channelwise",
]
