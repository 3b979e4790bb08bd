"""INT4 and INT8 weights: numpy arrays in, packed weights out."""

from omni_quant.blockwise import BlockwiseWeight, dequantize_blockwise, quantize_blockwise, quantize_blockwise_rows
from omni_quant.channelwise import ChannelwiseWeight, quantize_channelwise

__all__ = [
    "BlockwiseWeight",
    "ChannelwiseWeight",
    "dequantize_blockwise",
    "quantize_blockwise",
    "quantize_blockwise_rows",
    "quantize_channelwise",
]
