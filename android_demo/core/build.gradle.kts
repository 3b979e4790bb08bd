// The runtime itself: Kotlin for any JVM, without Android's classes.
plugins {
    alias(libs.plugins.kotlin.jvm)
}

kotlin {
    jvmToolchain(17)
    compilerOptions {
        allWarningsAsErrors = true
        jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_11
    }
}

tasks.withType<JavaCompile> {
    options.release = 11
}

dependencies {
    api(libs.coroutines)
    // The classes alone: an app brings onnxruntime-android, a desktop onnxruntime.
    compileOnly(libs.onnxruntime)
}
