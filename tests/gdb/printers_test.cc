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

#include "absl/time/time.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/cache/holder_label.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/weak_interner.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/cache/weak_set.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/atomic_ref.h"
#include "weakcache/weakref/cycles.h"
#include "weakcache/weakref/edge_ref.h"
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

using Images = weakcache::LargeObjectCache<std::string, Image>;

// Returns the options of a cache that samples all objects.
Images::Options Sampling() {
  Images::Options options;
  options.budget_bytes = 1 << 20;
  options.shards = 1;
  options.holder_sample_bytes = 1;
  return options;
}
Ref<Image> LookUp(Images& cache, const char* label) {
  const weakcache::HolderLabel scope(label);
  return *cache.GetOrLoad("key", [] { return Image(); });
}

// Has the values of the tests about who has taken objects from caches, as Subject does.
bool Holders() {
  auto images = *Images::Create(Sampling());
  Ref<Image> held = LookUp(images, "renderer");
  LookUp(images, "renderer");
  LookUp(images, "indexer");
  Ref<Image> own = weakcache::MakeRef<Image>();
  images.Put("put", own);
  const weakcache::WeakRef<Image> idle = images.Get("put");
  own.reset();
  auto also_images = *Images::Create(Sampling());
  also_images.Put("of two", held);
  Ref<Image> shared = weakcache::MakeRef<Image>();
  also_images.Put("a", shared);
  also_images.Put("b", shared);
  const weakcache::WeakRef<Image> idle_of_two = shared;
  shared.reset();

  auto many = *Images::Create(Sampling());
  Ref<Image> by_many = LookUp(many, "a");
  for (const char* const label : {"b", "c", "d", "e", "f", "g", "h", "i", "j"}) LookUp(many, label);

  Images::Options small = Sampling();
  small.budget_bytes = 8;
  small.clock = [] { return absl::FromUnixSeconds(5); };
  auto evicting = *Images::Create(std::move(small));
  Ref<Image> evicted = LookUp(evicting, nullptr);

  Images::Options stacks = Sampling();
  stacks.holder_stacks = true;
  auto with_stacks = *Images::Create(std::move(stacks));
  Ref<Image> by_stacks = LookUp(with_stacks, "viewer");
  LookUp(with_stacks, "viewer");

  auto ending = std::make_unique<Images>(*Images::Create(Sampling()));
  Ref<Image> outlived = LookUp(*ending, "renderer");
  ending.reset();

  Inspect();
  return evicted != nullptr && by_many != nullptr && by_stacks != nullptr && outlived != nullptr;
}

// Returns whether all could be set up. The test prints the variables by their names.
bool Subject() {
  Ref<Image> image = weakcache::MakeRef<Image>();
  weakcache::WeakRef<Image> weak = image;
  weakcache::AtomicRef<Image> atomic(image);
  weakcache::AtomicWeakRef<Image> atomic_weak(image);
  weakcache::EdgeRef<Image> edge(weakcache::MakeRef<Image>());
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

using Expected = std::vector<std::pair<std::string, std::vector<std::string>>>;

// Runs a part of the program in gdb up to Inspect, prints variables there, and expects texts in
// what is printed of each. Before a variable's name there may be commands, each with a semicolon.
void ExpectPrinted(const std::string& part, const Expected& expected) {
  if (OutputOf("gdb -nx -batch -ex 'python print(6 * 7)'").find("42") == std::string::npos) {
    GTEST_SKIP() << "there is no gdb with Python: install the package gdb";
  }
  std::string command =
      "gdb -nx -batch -iex 'set auto-load no' -iex 'set debuginfod enabled off' -ex 'set width 0'"
      " -ex 'source tools/gdb/weakcache.py' -ex 'break app::Inspect' -ex run -ex up";
  size_t number = 0;
  for (const auto& [variable, texts] : expected) {
    size_t begin = 0;
    for (size_t end; (end = variable.find(';', begin)) != std::string::npos; begin = end + 1) {
      command += " -ex '" + variable.substr(begin, end - begin) + "'";
    }
    command +=
        " -ex 'echo [" + std::to_string(++number) + "]' -ex 'print " + variable.substr(begin) + "'";
  }
  std::string output = std::regex_replace(OutputOf(command + " --args " + program + " " + part),
                                          std::regex("0x[0-9a-f]+"), "ADDRESS");
  output = std::regex_replace(output, std::regex("([0-9]+(h|m|s|ms))+ to ([0-9]+(h|m|s|ms))+ ago"),
                              "AGES");
  number = 0;
  for (const auto& [variable, texts] : expected) {
    const std::string mark = "[" + std::to_string(++number) + "]$";
    const size_t begin = std::min(output.find(mark), output.size());
    const std::string line = output.substr(begin, output.find('\n', begin) + 1 - begin);
    for (const std::string& text : texts) {
      EXPECT_NE(line.find(text), std::string::npos) << variable << ": " << text << '\n' << line;
    }
  }
  EXPECT_EQ(output.find("RTTI symbol not found"), std::string::npos);
  EXPECT_EQ(output.find("Python Exception"), std::string::npos);
  EXPECT_EQ(output.find("Error"), std::string::npos);
  if (testing::Test::HasFailure()) std::fputs(output.c_str(), stdout);
}

TEST(GdbPrintersTest, ReferencesAndContainersArePrinted) {
  const std::string addresses = " = {get() = ADDRESS}";
  const std::string known = "; known to WeakValueMap, 2 Finalize, OnExpire)";
  const Expected expected = {
      {"image", {"= weakcache::Ref<app::Image> (use count 2, weak count 6" + known + addresses}},
      {"weak", {"= weakcache::WeakRef<app::Image> (use count 2, weak count 6" + known + addresses}},
      {"atomic",
       {"= weakcache::AtomicRef<app::Image> (use count 2, weak count 6" + known + addresses}},
      {"atomic_weak",
       {"= weakcache::AtomicWeakRef<app::Image> (use count 2, weak count 6" + known + addresses}},
      {"edge", {"= weakcache::EdgeRef<app::Image> (use count 1, weak count 0)" + addresses}},
      {"node",
       {"= weakcache::Ref<app::Node> (use count 1, weak count 1; known to Census)" + addresses}},
      {"created",
       {"; created by WeakValueMap; known to LargeObjectCache, ConcurrentWeakValueMap, WeakSet, "
        "2 WeakKeyMap; retained by LargeObjectCache)"}},
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
  ExpectPrinted("--subject", expected);
}

TEST(GdbPrintersTest, CachesSayWhatTheyRetainAndWhoHasTakenIt) {
  const std::string held = "\"indexer\": 1 look-up, AGES, \"renderer\": 2 look-ups, AGES";
  ExpectPrinted(
      "--holders",
      {{"held",
        {"= weakcache::Ref<app::Image> (use count 3, weak count 2; created by LargeObjectCache; "
         "known to LargeObjectCache; retained by 2 LargeObjectCache; taken by " +
         held + "; taken by (no label): 1 look-up, AGES) = {"}},
       {"idle",
        {"; known to LargeObjectCache; retained by LargeObjectCache; taken by nobody in a look-up "
         "since it was idle) = {"}},
       {"idle_of_two",
        {"; retained by 2 LargeObjectCache; taken by nobody in a look-up since it was idle; taken "
         "by nobody in a look-up since it was idle) = {"}},
       {"by_many",
        {"taken by \"j\": 1 look-up, AGES, \"i\": 1 look-up, AGES, ", "others: 2 look-ups)"}},
       {"evicted",
        {"(use count 1, weak count 1; created by LargeObjectCache; taken by (no label): 1 "
         "look-up) = {"}},
       {"by_stacks", {"; taken by \"viewer\": 2 look-ups, AGES) = {"}},
       {"outlived", {"; created by LargeObjectCache) = {"}},
       {"images",
        {"with 2 objects, 2 retained, budget 1048576 bytes = {",
         "] = ADDRESS (retained; taken by " + held + ")",
         "] = ADDRESS (retained; taken by nobody in a look-up since it was idle)"}},
       {"evicting", {"] = ADDRESS (not retained; taken by (no label): 1 look-up)}"}}});
}

TEST(GdbPrintersTest, DamagedAndHalfBuiltStructuresAreNoErrors) {
  const std::string read =
      "python slot = CacheSlot.of_block(ReferencePrinter(gdb.parse_and_eval(\"by_many\")).block);"
      "python log = int(slot.log().address);"
      "python block_type = ReferencePrinter(gdb.parse_and_eval(\"by_many\")).block_type;";
  const auto set_in_log = [](const std::string& field, const std::string& value) {
    return "python gdb.execute(f\"set var ((weakcache::internal::HolderLog*){log})->" + field +
           " = " + value + "\");";
  };
  const auto set = [](const std::string& type, const std::string& address,
                      const std::string& value) {
    return "python gdb.execute(\"set {" + type + "}%d = " + value + "\" % int(" + address + "));";
  };
  const std::string counts = "= weakcache::Ref<app::Image> (use count 2, weak count 1";
  const std::string created = counts + "; created by LargeObjectCache";
  const std::string retained = created + "; retained by LargeObjectCache";
  ExpectPrinted(
      "--holders",
      {{"by_many", {retained + "; taken by \"j\": "}},
       // A thread has the log's lock.
       {read + set_in_log("stacks_.word_._M_i", "1") + "by_many",
        {retained + "; taken by (being written) \"j\": 1 look-up, AGES, \"i\""}},
       {set_in_log("records_._M_elems[0].label", "8") + "by_many",
        {"taken by (being written) (unreadable): 1 look-up, AGES, \"i\""}},
       {set_in_log("size_", "1000000000000") + "by_many",
        {retained + "; taken by (unreadable)) = {"}},
       {"many", {"] = ADDRESS (retained; taken by (unreadable))"}},
       {set_in_log("size_", "0") + "by_many", {"taken by (being written) others: 2 look-ups) = {"}},
       {set("long", "field(slot.page, slot.page_type, \"cold\").address", "16") + "by_many",
        {retained + "; taken by (unreadable)) = {"}},
       // The slot is under construction.
       {set("char", "slot.field(\"state_\").address", "1") + "by_many", {created + ") = {"}},
       {set("long", "field(slot.address, block_type, \"watchers_\").address", "16") + "by_many",
        {created + "; known to (unreadable)) = {"}},
       {set("long", "slot.address", "0") + "by_many", {counts + "; known to (unreadable)) = {"}},
       {"set {long}&by_many.block_ = 16;by_many", {"= weakcache::Ref<app::Image> (unreadable)\n"}},
       {"set {long}&many.core_.core_ = 16;many",
        {"= weakcache::LargeObjectCache<std::string, app::Image", " (unreadable)\n"}}});
}

}  // namespace app

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--subject") == 0) return app::Subject() ? 0 : 1;
  if (argc == 2 && std::strcmp(argv[1], "--holders") == 0) return app::Holders() ? 0 : 1;
  app::program = argv[0];
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
