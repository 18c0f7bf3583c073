// SPDX-License-Identifier: Apache-2.0
// Objects that a container has created, so that their control blocks are in its slots: their last
// references, strong and weak, go on any threads while the container erases, creates anew or ends.
#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "tests/support/allocations.h"
#include "tests/support/race.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakcache::testing {
namespace {

struct Large {
  explicit Large(int id) : id(id) {}
  const int id;
  char bytes[200] = {};
};
using Map = WeakValueMap<int, Large>;

// Two objects in one page, each with a weak reference that may be the last of all.
class EmbeddedSlotRaceTest : public ::testing::Test {
 protected:
  const int rounds_ = testing::RaceRounds(5'000);
  static constexpr int kObjects = 2;

  void Create() {
    for (int key = 0; key < kObjects; ++key) {
      objects_[key] = map_->try_emplace(key, key).first;
      weak_[key] = objects_[key];
    }
  }
  // Two threads; each drops the strong references to one object and the weak ones to the other.
  std::vector<std::function<void()>> Racers(std::function<void()> container) {
    return {[this] { Drop(0); }, [this] { Drop(1); }, std::move(container)};
  }

  std::unique_ptr<Map> map_ = std::make_unique<Map>();

 private:
  void Drop(int key) {
    objects_[key].reset();
    weak_[1 - key].reset();
  }

  Ref<Large> objects_[kObjects];
  WeakRef<Large> weak_[kObjects];
};

TEST_F(EmbeddedSlotRaceTest, ExpiryAgainstErasure) {
  Race(
      rounds_, [&](int) { Create(); }, Racers([&] {
        for (int key = 0; key < kObjects; ++key) {
          map_->erase(key);
          ASSERT_LT(map_->size(), static_cast<size_t>(kObjects));
        }
        ASSERT_EQ(map_->size(), 0u);
      }),
      [&](int round) {
        ASSERT_EQ(map_->size(), 0u) << round;
        map_->purge();
        if (round % 64 == 0) map_->CheckInvariantsForTesting();
      });
  // Nothing has been lost on the way: every slot is free again.
  map_->shrink_to_fit();
  EXPECT_EQ(map_->purge(), 0u);
}

TEST_F(EmbeddedSlotRaceTest, ExpiryAgainstReuse) {
  const int64_t before = LiveAllocatedBytes();
  Race(
      rounds_, [&](int) { Create(); }, Racers([&] {
        for (int key = 0; key < kObjects; ++key) {
          map_->purge();
          map_->erase(key);
          const Ref<Large> successor = map_->try_emplace(key, 10 + key).first;
          ASSERT_EQ(map_->get(key), successor);
          ASSERT_EQ(successor->id, 10 + key);
        }
      }),
      [&](int round) {
        ASSERT_EQ(map_->size(), 0u) << round;
        map_->purge();
        if (round % 64 == 0) map_->CheckInvariantsForTesting();
      });
  map_->shrink_to_fit();
  map_ = std::make_unique<Map>();
  EXPECT_LE(LiveAllocatedBytes(), before);
}

TEST_F(EmbeddedSlotRaceTest, ExpiryAgainstTheEnd) {
  const int64_t before = LiveAllocations();
  Race(
      rounds_,
      [&](int) {
        map_ = std::make_unique<Map>();
        Create();
      },
      Racers([&] { map_.reset(); }), [](int) {});
  EXPECT_LT(LiveAllocations(), before + 1);
}

}  // namespace
}  // namespace weakcache::testing
