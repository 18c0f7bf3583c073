// SPDX-License-Identifier: Apache-2.0
// An application that is built together with the library.
#include <cstdio>
#include <string>

#include "cache/large_object_cache.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/ref.h"

int main() {
  weakcache::WeakValueMap<std::string, std::string> documents;
  const weakcache::Ref<std::string> document =
      documents.get_or_create("a.txt", [] { return weakcache::MakeRef<std::string>("contents"); });
  std::printf("%s %d\n", document->c_str(), MineNotTheLibrarys());
  return documents.get("a.txt") == document ? 0 : 1;
}
