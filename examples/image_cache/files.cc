// SPDX-License-Identifier: Apache-2.0
#include "examples/image_cache/files.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"

namespace image_cache {
namespace {

namespace fs = std::filesystem;

bool IsNamedLikeAnImage(const fs::path& path) {
  const std::string extension = absl::AsciiStrToLower(path.extension().string());
  return extension == ".png" || extension == ".jpg" || extension == ".jpeg";
}

class Finder {
 public:
  void AddArgument(const fs::path& path) {
    if (!fs::is_directory(path, ignored_)) {
      AddFile(path);
      return;
    }
    const size_t before = images_below_;
    AddDirectory(path);
    if (images_below_ == before) AddProblem(path, "no PNG or JPEG files in it");
  }

  FoundFiles Take() && { return std::move(found_); }

 private:
  void AddFile(const fs::path& path) {
    const fs::file_status status = fs::status(path, ignored_);
    if (fs::exists(status) && !fs::is_regular_file(status)) {
      // To open a pipe would wait for its other end.
      AddProblem(path, "neither a file nor a directory");
      return;
    }
    std::error_code error;
    const fs::path canonical = fs::weakly_canonical(path, error);
    if (seen_.insert(error ? path : canonical).second) found_.paths.push_back(path.string());
  }

  void AddDirectory(const fs::path& directory) {
    std::vector<fs::path> entries;
    std::error_code error;
    for (fs::directory_iterator entry(directory, error);
         !error && entry != fs::directory_iterator(); entry.increment(error)) {
      entries.push_back(entry->path());
    }
    if (error) AddProblem(directory, error.message());
    std::sort(entries.begin(), entries.end());
    for (const fs::path& entry : entries) {
      if (fs::is_directory(entry, ignored_)) {
        // A link may lead back to here.
        if (!fs::is_symlink(entry, ignored_)) AddDirectory(entry);
      } else if (IsNamedLikeAnImage(entry)) {
        ++images_below_;
        AddFile(entry);
      }
    }
  }

  void AddProblem(const fs::path& path, const std::string& reason) {
    found_.problems.push_back(path.string() + ": " + reason);
  }

  FoundFiles found_;
  std::set<fs::path> seen_;
  size_t images_below_ = 0;  // any directory, duplicates too
  std::error_code ignored_;  // of questions that are answered "no" by an error
};

}  // namespace

FoundFiles FindImageFiles(const std::vector<std::string>& arguments) {
  Finder finder;
  for (const std::string& argument : arguments) finder.AddArgument(argument);
  return std::move(finder).Take();
}

}  // namespace image_cache
