// The app that talks. The model that comes with the repository goes into the APK.
plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

android {
    namespace = "dev.omniedge.demo"
    compileSdk = 35
    defaultConfig {
        applicationId = "dev.omniedge.demo"
        minSdk = 24
        targetSdk = 35
        versionCode = 1
        versionName = "0.1"
        ndk { abiFilters += "arm64-v8a" }
    }
    packaging {
        // ONNX Runtime loads the operators by their path, so they must be files.
        jniLibs.useLegacyPackaging = true
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
}

kotlin {
    compilerOptions {
        jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_11
    }
}

abstract class CopyBundle : DefaultTask() {
    @get:InputDirectory
    abstract val bundle: DirectoryProperty

    @get:OutputDirectory
    abstract val assets: DirectoryProperty

    @get:Inject
    abstract val files: FileSystemOperations

    @TaskAction
    fun copy() {
        files.sync {
            from(bundle)
            into(assets.dir("bundle"))
        }
    }
}

val copyBundle = tasks.register<CopyBundle>("copyBundle") {
    bundle = rootProject.layout.projectDirectory.dir("../runtime/omni_edge/bundle/builtin_model")
}

androidComponents {
    onVariants { variant -> variant.sources.assets?.addGeneratedSourceDirectory(copyBundle, CopyBundle::assets) }
}

dependencies {
    implementation(project(":core"))
    implementation(project(":kernels"))
    implementation(libs.onnxruntime.android)
}
