// SPDX-License-Identifier: Apache-2.0
// What CacheHolders says, and the labels of threads. Whom a cache records:
// large_object_cache_holders_test.cc.
#include "weakcache/cache/cache_holders.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "weakcache/cache/holder_label.h"

namespace weakcache {
namespace {

PossibleHolder Holder(std::string label, uint64_t look_ups, absl::Duration first,
                      absl::Duration last) {
  return {.label = std::move(label),
          .stack = {},
          .look_ups = look_ups,
          .first_age = first,
          .last_age = last};
}

HeldObject Object(uint64_t weight, uint64_t represented, std::vector<PossibleHolder> holders,
                  uint64_t dropped = 0) {
  return {.weight = weight,
          .represented_bytes = represented,
          .references = 1,
          .holders = std::move(holders),
          .dropped_look_ups = dropped};
}

std::string Label() { return HolderLabel::Current() == nullptr ? "" : HolderLabel::Current(); }

TEST(HolderLabelTest, ScopesNest) {
  EXPECT_EQ(Label(), "");
  {
    WEAKCACHE_HOLDER("renderer");
    EXPECT_EQ(Label(), "renderer");
    {
      WEAKCACHE_HOLDER("thumbnails");
      EXPECT_EQ(Label(), "thumbnails");
      const HolderLabel none(nullptr);
      EXPECT_EQ(Label(), "");
    }
    EXPECT_EQ(Label(), "renderer");
  }
  EXPECT_EQ(Label(), "");
}

TEST(HolderLabelTest, EachThreadHasItsOwn) {
  WEAKCACHE_HOLDER("renderer");
  std::thread([] { EXPECT_EQ(Label(), ""); }).join();
  std::thread([label = HolderLabel::Current()] {
    const HolderLabel taken_along(label);
    EXPECT_EQ(Label(), "renderer");
  }).join();
}

TEST(CacheHoldersTest, TextOfNothing) {
  EXPECT_EQ(CacheHolders().ToText(),
            "objects in use are not sampled: holder_sample_bytes is not set\n");
  EXPECT_EQ(CacheHolders{.sample_bytes = 64}.ToText(),
            "sampled in use: 0 objects, 0 bytes, which stand for about 0\n");
  EXPECT_EQ(CacheHolders{.sample_bytes = 64}.ToFoldedStacks(), "");
}

TEST(CacheHoldersTest, TextHasALineForEachLabel) {
  const absl::Duration hour = absl::Hours(1);
  const absl::Duration minute = absl::Minutes(1);
  CacheHolders holders{.sample_bytes = 1000};
  holders.objects.push_back(
      Object(100, 1000, {Holder("viewer", 3, hour, minute), Holder("export", 1, hour * 5, hour)}));
  holders.objects.push_back(Object(5000, 5000, {Holder("export", 1, hour * 2, hour * 2)}));
  // From two stacks of one label.
  holders.objects.push_back(Object(70, 1000,
                                   {Holder("viewer", 2, minute, absl::Nanoseconds(1500999)),
                                    Holder("viewer", 1, minute, minute)}));
  holders.objects.push_back(Object(30, 1000, {Holder("", 1, minute, minute)}, /*dropped=*/5));
  holders.objects.push_back(Object(20, 1000, {}));
  EXPECT_EQ(
      holders.ToText(),
      "sampled in use: 5 objects, 5220 bytes, which stand for about 9000\n"
      "export: 2 objects, 5100 bytes, 5000 of them taken by nobody else; 2 look-ups, 5h to 1h "
      "ago\n"
      "viewer: 2 objects, 170 bytes, 70 of them taken by nobody else; 6 look-ups, 1h to 1ms "
      "ago\n"
      "(no label): 1 object, 30 bytes, 0 of them taken by nobody else; 1 look-up, 1m to 1m "
      "ago\n"
      "(from elsewhere): 1 object, 20 bytes, 20 of them taken by nobody else\n");
}

TEST(CacheHoldersTest, FoldedStacksAddUpToAllBytes) {
  CacheHolders holders{.sample_bytes = 1};
  holders.objects.push_back(
      Object(11, 11, {Holder("a", 1, {}, {}), Holder("b", 1, {}, {}), Holder("a", 1, {}, {})}));
  holders.objects.push_back(Object(100, 100, {Holder("b;c\nd", 1, {}, {})}));
  holders.objects.push_back(Object(1, 1, {Holder("", 1, {}, {})}));
  holders.objects.push_back(Object(2, 2, {}));
  EXPECT_EQ(holders.ToFoldedStacks(), "(from elsewhere) 2\n(no label) 1\na 7\nb 4\nb:c d 100\n");
}

TEST(CacheHoldersTest, BytesSaturate) {
  constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
  CacheHolders holders{.sample_bytes = 1};
  for (int i = 0; i < 2; ++i) {
    holders.objects.push_back(Object(kMost, kMost, {Holder("a", kMost, {}, {})}));
  }
  EXPECT_EQ(holders.ToFoldedStacks(), "a 18446744073709551615\n");
  EXPECT_EQ(holders.ToText(),
            "sampled in use: 2 objects, 18446744073709551615 bytes, which stand for about "
            "18446744073709551615\n"
            "a: 2 objects, 18446744073709551615 bytes, 18446744073709551615 of them taken by "
            "nobody else; 18446744073709551615 look-ups, 0 to 0 ago\n");
}

TEST(CacheHoldersTest, FramesWithoutANameAreAddresses) {
  CacheHolders holders{.sample_bytes = 1};
  holders.objects.push_back(Object(5, 5, {Holder("a", 1, {}, {})}));
  holders.objects[0].holders[0].stack = {reinterpret_cast<const void*>(8),
                                         reinterpret_cast<const void*>(16)};
  EXPECT_EQ(holders.ToFoldedStacks(), "a;0x10;0x8 5\n");
}

}  // namespace
}  // namespace weakcache
