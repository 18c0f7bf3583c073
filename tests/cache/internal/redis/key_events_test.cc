// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/internal/redis/key_events.h"

#include <string>

#include "gtest/gtest.h"

namespace weakcache::internal {
namespace {

TEST(KeyEventsTest, FlagsThatSuffice) {
  EXPECT_TRUE(KeyEvents::AreTold("AK"));
  EXPECT_TRUE(KeyEvents::AreTold("KEA"));
  EXPECT_TRUE(KeyEvents::AreTold("g$lshzxetK"));
  EXPECT_FALSE(KeyEvents::AreTold(""));
  EXPECT_FALSE(KeyEvents::AreTold("AE"));
  EXPECT_FALSE(KeyEvents::AreTold("Kxe")) << "a SET before an eviction would be missed";
}

TEST(KeyEventsTest, OnlyWhatIsKnownToBeARemovalIsNoChange) {
  KeyEvents events;
  EXPECT_TRUE(events.TakeNotice("unknown"));
  events.Take("evicted", "evicted");
  events.Take("expired", "expired");
  events.Take("erased", "del");
  events.Take("set", "set");
  EXPECT_FALSE(events.TakeNotice("evicted"));
  EXPECT_FALSE(events.TakeNotice("expired"));
  EXPECT_TRUE(events.TakeNotice("erased"));
  EXPECT_TRUE(events.TakeNotice("set"));
  // Each is of one notice only.
  EXPECT_TRUE(events.TakeNotice("evicted"));
}

TEST(KeyEventsTest, AChangeBesideARemovalIsAChange) {
  KeyEvents events;
  events.Take("a", "set");
  events.Take("a", "evicted");
  EXPECT_TRUE(events.TakeNotice("a"));
  events.Take("a", "evicted");
  events.Take("a", "rename_to");
  EXPECT_TRUE(events.TakeNotice("a"));
}

// The notices leave out what this process has written last, so what was known is over.
TEST(KeyEventsTest, AnOwnPutEndsWhatIsKnown) {
  KeyEvents events;
  events.Take("a", "evicted");
  events.NoteOwnPut("a");
  events.Take("a", "rename_to");
  EXPECT_TRUE(events.TakeNotice("a")) << "of another client's DEL, some time later";
  events.NoteOwnPut("b");
  events.Take("b", "rename_to");
  events.Take("b", "evicted");
  EXPECT_FALSE(events.TakeNotice("b")) << "the own put is not another's change";
  events.NoteOwnPut("c");
  events.Take("c", "rename_to");
  events.Take("c", "rename_to");
  events.Take("c", "evicted");
  EXPECT_TRUE(events.TakeNotice("c")) << "the second one is another's";
}

TEST(KeyEventsTest, TooManyAreChanges) {
  KeyEvents events;
  for (int key = 0; key < 150'000; ++key) events.Take(std::to_string(key), "evicted");
  EXPECT_TRUE(events.TakeNotice("149999"));
  events.EndNotices();
  events.Take("a", "evicted");
  EXPECT_FALSE(events.TakeNotice("a"));
  events.Take("b", "evicted");
  events.Clear();
  EXPECT_TRUE(events.TakeNotice("b"));
}

}  // namespace
}  // namespace weakcache::internal
