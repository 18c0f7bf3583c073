// SPDX-License-Identifier: Apache-2.0
// An application that is compiled without a build system, and has a folder cache/ of its own.
#include <cstdio>
#include <string>

#include "cache/weak_value_map.h"
#include "weakcache/cache/large_object_cache.h"

int main() {
  using Documents = weakcache::LargeObjectCache<std::string, std::string>;
  Documents::Options options;
  options.budget_bytes = 1000;
  options.weigher = [](const std::string& document) { return document.size() + 1; };
  auto documents = Documents::Create(options);
  if (!documents.ok()) return 1;
  auto document = documents->GetOrLoad("a.txt", [] { return std::string("contents"); });
  std::printf("%s %d\n", (*document)->c_str(), kMineNotTheLibrarys);
  return document.ok() && documents->Get("a.txt") == *document ? 0 : 1;
}
