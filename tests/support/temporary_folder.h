// SPDX-License-Identifier: Apache-2.0
// A folder of a test's own, which is deleted at the end, and what tests want to know of its files.
#ifndef WEAKCACHE_TESTS_SUPPORT_TEMPORARY_FOLDER_H_
#define WEAKCACHE_TESTS_SUPPORT_TEMPORARY_FOLDER_H_

#include <sys/stat.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "gtest/gtest.h"

namespace weakcache::testing {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = ::testing::TempDir() + "/weakcache_XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "can't make " << name;
    path_ = name;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }

  const std::filesystem::path& path() const { return path_; }

  // Returns the files below the folder whose names end in `ending`, in the order of their names.
  std::vector<std::filesystem::path> Files(const std::string& ending = "") const {
    std::vector<std::filesystem::path> files;
    std::error_code error;
    std::filesystem::recursive_directory_iterator file(path_, error);
    while (!error && file != std::filesystem::recursive_directory_iterator()) {
      const std::string name = file->path().string();
      if (file->is_regular_file(error) && name.ends_with(ending)) files.push_back(file->path());
      // Files come and go while a database is open.
      file.increment(error);
    }
    std::sort(files.begin(), files.end());
    return files;
  }

  // Returns what the files have on the disk, of sizes and blocks the greater.
  uint64_t Bytes() const {
    uint64_t bytes = 0;
    for (const std::filesystem::path& file : Files()) {
      struct stat about = {};
      if (::stat(file.c_str(), &about) != 0) continue;
      bytes += static_cast<uint64_t>(std::max<int64_t>(about.st_size, about.st_blocks * 512));
    }
    return bytes;
  }

 private:
  std::filesystem::path path_;
};

}  // namespace weakcache::testing

#endif  // WEAKCACHE_TESTS_SUPPORT_TEMPORARY_FOLDER_H_
