// SPDX-License-Identifier: Apache-2.0
// The flights of a shard against a plain list of them; who waits for whom is the model test's.
#include "weakcache/cache/internal/creation/single_flight.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <utility>
#include <vector>

#include "weakcache/cache/internal/creation/bounded_wait.h"
#include "weakcache/weakref/internal/atomics_policy.h"

namespace weakcache::internal {
namespace {

using Flights = SingleFlight<CreationResult<int*>, int, StdAtomics>;

struct Creation {
  Creation(int key, uint32_t hash) : key(key), hash(hash), flight(hash) {
    flight.SetKey(&this->key);
  }

  const int key;
  const uint32_t hash;
  Flights::Flight flight;
};

class SingleFlightTest : public testing::TestWithParam<uint32_t> {
 protected:
  uint32_t HashOf(int key) const { return static_cast<uint32_t>(key) * 2654435761u & GetParam(); }

  Flights::Found Find(int key) const {
    return flights_.Find(HashOf(key), [key](int present) { return present == key; });
  }
  void Start(int key) {
    auto creation = std::make_unique<Creation>(key, HashOf(key));
    const Flights::Found found = Find(key);
    ASSERT_EQ(found.flight, nullptr);
    ASSERT_TRUE(flights_.Start(creation->flight, found));
    creations_.push_back(std::move(creation));
  }
  void Check(int keys) const {
    for (int key = 0; key < keys; ++key) {
      const auto at =
          std::find_if(creations_.begin(), creations_.end(), [key](const auto& creation) {
            return creation->key == key && !creation->flight.cancelled();
          });
      ASSERT_EQ(Find(key).flight, at == creations_.end() ? nullptr : &(*at)->flight) << key;
    }
  }

  // Visits all flights in parts, by the lowest bits of their hashes.
  void CheckVisits(int bits) {
    std::vector<int> keys;
    for (const auto& creation : creations_) {
      if (!creation->flight.cancelled()) keys.push_back(creation->key);
    }
    std::sort(keys.begin(), keys.end());
    std::vector<int> visited;
    const uint32_t parts = uint32_t{1} << bits;
    for (uint32_t part = 0; part < parts; ++part) {
      flights_.ForEachKey(part, bits, [&](int key) {
        EXPECT_EQ(HashOf(key) % parts, part);
        visited.push_back(key);
        return true;
      });
    }
    std::sort(visited.begin(), visited.end());
    ASSERT_EQ(visited, keys);
  }

  Flights flights_;
  std::vector<std::unique_ptr<Creation>> creations_;
};

TEST_P(SingleFlightTest, FindsAllFlightsAndNoOthers) {
  constexpr int kKeys = 60;
  std::mt19937 random(1);
  for (int step = 0; step < 3000; ++step) {
    const int key = static_cast<int>(random() % kKeys);
    Flights::Flight* const present = Find(key).flight;
    if (present == nullptr) {
      Start(key);
    } else if (random() % 4 == 0) {
      flights_.Cancel(*present);
    } else {
      const auto at = std::find_if(creations_.begin(), creations_.end(), [&](const auto& creation) {
        return &creation->flight == present;
      });
      flights_.End((*at)->flight, {});
      if (random() % 4 == 0) {
        // As a flight that has started without the lock, in vain, and starts with it.
        ASSERT_TRUE(flights_.Start((*at)->flight, Find(key)));
      } else {
        creations_.erase(at);
      }
    }
    Check(kKeys);
    CheckVisits(step % 5);
    if (step % 500 == 499) {
      flights_.CancelAll();
      EXPECT_TRUE(flights_.empty());
      Check(kKeys);
      for (const auto& creation : creations_) flights_.End(creation->flight, {});
      creations_.clear();
    }
  }
}

// Hashes that are all different, few, and all the same.
INSTANTIATE_TEST_SUITE_P(Hashes, SingleFlightTest,
                         testing::Values(~uint32_t{0}, uint32_t{0x80000003}, uint32_t{0}));

TEST(InterestTest, ACallerLeavesOnce) {
  Interest interest(SteadyTime::min());
  interest.Join();
  EXPECT_TRUE(interest.Leave());  // the caller is late, too
  interest.Join();
  EXPECT_FALSE(interest.CallerLeaves());
  EXPECT_TRUE(interest.Leave());
}

}  // namespace
}  // namespace weakcache::internal
