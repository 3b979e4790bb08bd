/* Zeroed memory outside of the Java heap. Its pages become resident as they are written. */
#include <jni.h>
#include <sys/mman.h>

JNIEXPORT jobject JNICALL Java_dev_omniedge_kernels_Pages_map(JNIEnv *env, jobject pages, jlong bytes) {
    (void)pages;
    void *memory = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return memory == MAP_FAILED ? NULL : (*env)->NewDirectByteBuffer(env, memory, bytes);
}

JNIEXPORT void JNICALL Java_dev_omniedge_kernels_Pages_unmap(JNIEnv *env, jobject pages, jobject buffer) {
    (void)pages;
    munmap((*env)->GetDirectBufferAddress(env, buffer), (size_t)(*env)->GetDirectBufferCapacity(env, buffer));
}
