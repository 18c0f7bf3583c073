// SPDX-License-Identifier: Apache-2.0
// What tools/gdb/weakcache.py prints. The test runs gdb in batch mode on its own program: `Subject`
// has the values, and stops at `Inspect`.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <memory>
#include <regex>
#include <string>
#include <utility>
#include <vector>

#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/weak_interner.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/cache/weak_set.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/atomic_ref.h"
#include "weakcache/weakref/cycles.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/finalizer.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace app {

using weakcache::Ref;

struct Image {
  int width = 640;
  char pixels[100] = {};
};
struct Thumbnail {
  int width;
};
struct Histogram {  // too large for an entry
  int bins[32] = {1};
};
struct Node {};
void WeakcacheTrace(const Node&, weakcache::Tracer&) {}

[[gnu::noinline]] void Inspect() { asm volatile("" ::: "memory"); }

// Returns whether all could be set up. The test prints the variables by their names.
bool Subject() {
  Ref<Image> image = weakcache::MakeRef<Image>();
  weakcache::WeakRef<Image> weak = image;
  weakcache::AtomicRef<Image> atomic(image);
  weakcache::AtomicWeakRef<Image> atomic_weak(image);
  Ref<Image> null;
  weakcache::WeakRef<Image> expired = weakcache::MakeRef<Image>();

  const weakcache::ExpiryRegistration registration = weakcache::OnExpire(image, [] {});
  const auto finalizer = weakcache::Finalize(image, [] {});
  const auto another_finalizer = weakcache::Finalize(image, [] {});
  const weakcache::Census census;
  Ref<Node> node = weakcache::MakeRef<Node>();

  weakcache::WeakValueMap<int, Image> by_number;
  by_number.insert(11, image);
  Ref<Image> created = by_number.get_or_create(12, [] { return Image(); });
  by_number.get_or_create(13, [] { return Image(); }).reset();
  weakcache::WeakValueMap<int, std::shared_ptr<Image>> of_shared_ptr;
  auto shared = std::make_shared<Image>();
  of_shared_ptr.insert(14, shared);
  of_shared_ptr.insert(15, std::make_shared<Image>());

  weakcache::WeakKeyMap<Image, Thumbnail> thumbnails;
  thumbnails.get_or_create(created, [] { return Thumbnail{80}; });
  weakcache::WeakKeyMap<Image, Histogram> histograms;
  histograms.try_emplace(created);
  weakcache::WeakSet<Image> open;
  open.insert(created);
  weakcache::WeakInterner<int> numbers;
  auto number = numbers.intern(42);

  weakcache::ConcurrentWeakValueMap<int, Image> concurrent;
  Ref<Image> kept = concurrent.get_or_create(21, [] { return Image(); });
  concurrent.insert(22, created);
  concurrent.get_or_create(23, [] { return Image(); }).reset();
  weakcache::ConcurrentWeakValueMap<int, std::shared_ptr<Image>> concurrent_shared_ptr;
  concurrent_shared_ptr.insert(24, shared);

  weakcache::LargeObjectCache<int, Image>::Options options;
  options.budget_bytes = 4096;
  options.shards = 2;
  auto cache = *weakcache::LargeObjectCache<int, Image>::Create(std::move(options));
  auto loaded = cache.GetOrLoad(31, [] { return Image(); });
  cache.Put(32, created);
  auto moved = std::move(cache);

  Inspect();
  return loaded.ok();
}

const char* program = "";

// Runs a command and returns what it prints.
std::string OutputOf(const std::string& command) {
  std::string output;
  FILE* const pipe = popen((command + " 2>&1 </dev/null").c_str(), "r");
  if (pipe == nullptr) return "popen failed";
  char buffer[4096];
  for (size_t read; (read = fread(buffer, 1, sizeof(buffer), pipe)) != 0;) {
    output.append(buffer, read);
  }
  pclose(pipe);
  return output;
}

TEST(GdbPrintersTest, ReferencesAndContainersArePrinted) {
  if (OutputOf("gdb -nx -batch -ex 'python print(6 * 7)'").find("42") == std::string::npos) {
    GTEST_SKIP() << "there is no gdb with Python: install the package gdb";
  }
  const std::string addresses = " = {get() = ADDRESS}";
  const std::string known = "; known to WeakValueMap, 2 Finalize, OnExpire)";
  const std::vector<std::pair<std::string, std::vector<std::string>>> expected = {
      {"image", {"= weakcache::Ref<app::Image> (use count 2, weak count 6" + known + addresses}},
      {"weak", {"= weakcache::WeakRef<app::Image> (use count 2, weak count 6" + known + addresses}},
      {"atomic",
       {"= weakcache::AtomicRef<app::Image> (use count 2, weak count 6" + known + addresses}},
      {"atomic_weak",
       {"= weakcache::AtomicWeakRef<app::Image> (use count 2, weak count 6" + known + addresses}},
      {"node",
       {"= weakcache::Ref<app::Node> (use count 1, weak count 1; known to Census)" + addresses}},
      {"created",
       {"; created by WeakValueMap; known to LargeObjectCache, ConcurrentWeakValueMap, WeakSet, "
        "2 WeakKeyMap)"}},
      {"kept", {"; created by ConcurrentWeakValueMap)"}},
      {"number", {"; created by WeakInterner)"}},
      {"null", {"= weakcache::Ref<app::Image> (null)\n"}},
      {"expired", {"= weakcache::WeakRef<app::Image> (expired, weak count 1)\n"}},
      {"by_number",
       {"= weakcache::WeakValueMap<int, app::Image> with 2 objects, 1 dead and not purged = {",
        "[11] = ADDRESS", "[12] = ADDRESS"}},
      {"of_shared_ptr", {"with 1 object, 1 dead and not purged = {[14] = ADDRESS}"}},
      {"thumbnails", {"with 1 object = {[ADDRESS] = {width = 80}}"}},
      {"histograms", {"with 1 object = {[ADDRESS] = {bins = {1, 0 <repeats 31 times>}}}"}},
      {"open", {"= weakcache::WeakSet<app::Image> with 1 object = {ADDRESS}"}},
      {"numbers", {"= weakcache::WeakInterner<int> with 1 object = {42}"}},
      {"concurrent",
       {"= weakcache::ConcurrentWeakValueMap<int, app::Image> with 2 objects", "[21] = ADDRESS",
        "[22] = ADDRESS"}},
      {"concurrent_shared_ptr", {"with 1 object = {[24] = ADDRESS}"}},
      {"moved",
       {"= weakcache::LargeObjectCache<int, app::Image> with 2 objects, 2 retained, budget 4096 "
        "bytes = {",
        "[31] = ADDRESS", "[32] = ADDRESS"}},
      {"cache", {"= weakcache::LargeObjectCache<int, app::Image> (moved from)\n"}},
  };
  std::string command =
      "gdb -nx -batch -iex 'set auto-load no' -iex 'set debuginfod enabled off' -ex 'set width 0'"
      " -ex 'source tools/gdb/weakcache.py' -ex 'break app::Inspect' -ex run -ex up";
  for (const auto& [variable, texts] : expected) {
    command += " -ex 'echo [" + variable + "]' -ex 'print " + variable + "'";
  }
  const std::string output =
      std::regex_replace(OutputOf(command + " --args " + program + " --subject"),
                         std::regex("0x[0-9a-f]+"), "ADDRESS");
  for (const auto& [variable, texts] : expected) {
    const size_t begin = std::min(output.find("[" + variable + "]$"), output.size());
    const std::string line = output.substr(begin, output.find('\n', begin) + 1 - begin);
    for (const std::string& text : texts) {
      EXPECT_NE(line.find(text), std::string::npos) << variable << ": " << text << '\n' << line;
    }
  }
  EXPECT_EQ(output.find("RTTI symbol not found"), std::string::npos);
  EXPECT_EQ(output.find("Python Exception"), std::string::npos);
  if (HasFailure()) std::fputs(output.c_str(), stdout);
}

}  // namespace app

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--subject") == 0) return app::Subject() ? 0 : 1;
  app::program = argv[0];
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
