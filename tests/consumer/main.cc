// SPDX-License-Identifier: Apache-2.0
// What a user's first program with weakcache looks like, built as a user would
// build it.

#include <cstdlib>
#include <string>
#include <vector>

#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/ref.h"

using Pixels = std::vector<char>;

int main() {
  weakcache::WeakValueMap<std::string, Pixels> images;
  weakcache::Ref<Pixels> cover =
      images.get_or_create("cover", [] { return weakcache::MakeRef<Pixels>(1 << 20); });
  const bool shared = images.get("cover") == cover;
  cover = nullptr;
  const bool expired = images.get("cover") == nullptr && images.size() == 0;
  return shared && expired ? EXIT_SUCCESS : EXIT_FAILURE;
}
