// SPDX-License-Identifier: Apache-2.0
// The one place that compiles stb_image_resize's code: see examples/image_cache/stb.cc.

#define STB_IMAGE_RESIZE_IMPLEMENTATION
#include <stb/stb_image_resize.h>
