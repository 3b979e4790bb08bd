"""What a bundle's recipe costs in quality: the bundle's graphs beside the reference in float32."""
