// SPDX-License-Identifier: Apache-2.0
// From what is on the command line to a list of files.
#ifndef WEAKCACHE_EXAMPLES_IMAGE_CACHE_FILES_H_
#define WEAKCACHE_EXAMPLES_IMAGE_CACHE_FILES_H_

#include <string>
#include <vector>

namespace image_cache {

struct FoundFiles {
  std::vector<std::string> paths;
  std::vector<std::string> problems;  // one line each, "name: reason"
};

// Files as they are named, whatever they hold; from directories, all *.png, *.jpg and *.jpeg below
// them, sorted. A file that is named twice, in whatever spelling, is found once.
FoundFiles FindImageFiles(const std::vector<std::string>& arguments);

}  // namespace image_cache

#endif  // WEAKCACHE_EXAMPLES_IMAGE_CACHE_FILES_H_
