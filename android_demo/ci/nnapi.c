/* The one function that the Android archive's JNI library wants and ONNX Runtime for desktops lacks; never called. */
void *append_nnapi(void *options, unsigned flags) {
  (void)options;
  (void)flags;
  return 0;
}
__asm__(".symver append_nnapi, OrtSessionOptionsAppendExecutionProvider_Nnapi@@VERS_1.29.0");
