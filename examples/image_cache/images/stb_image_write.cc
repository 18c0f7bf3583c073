// SPDX-License-Identifier: Apache-2.0
// The one place that compiles stb_image_write's code: see examples/image_cache/stb.cc.

#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>
