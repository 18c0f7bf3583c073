// SPDX-License-Identifier: Apache-2.0
// The one place that compiles stb_image's code, so that it can be optimised whatever the build mode
// and kept apart from this project's warnings.

#define STB_IMAGE_IMPLEMENTATION
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_FAILURE_USERMSG  // reasons in whole words
#include <stb/stb_image.h>
