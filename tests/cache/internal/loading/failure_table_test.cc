// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/internal/loading/failure_table.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "absl/status/status.h"

namespace weakcache::internal {
namespace {

using Table = FailureTable<int>;

constexpr uint32_t kHash = 5;

Table::Failure FailureOf(int key, int64_t until) {
  return std::make_shared<const KeptFailure<int>>(key, kHash, absl::NotFoundError(""),
                                                  /*since=*/0, until, std::nullopt);
}
auto Matching(int key) {
  return [key](int other) { return other == key; };
}

// Inserts the failure. Returns whether it has taken another one's place.
bool Replaces(Table& table, int key, int64_t until) {
  Table::Failure failure = FailureOf(key, until);
  std::vector<Table::Failure> over;
  over.reserve(Table::kRowSize);
  table.Insert(failure, Matching(key), /*now=*/0, over);
  return failure != nullptr;
}

// Whoever finds the table empty takes no lock.
TEST(FailureTableTest, IsEmptyOnceEachFailureHasBeenTaken) {
  Table table;
  EXPECT_TRUE(table.empty());
  EXPECT_FALSE(Replaces(table, 1, 10));
  EXPECT_TRUE(Replaces(table, 1, 20));
  EXPECT_FALSE(Replaces(table, 2, 10));
  EXPECT_EQ(table.All().size(), 2u);
  EXPECT_EQ(table.Take(kHash, Matching(1))->until, 20);
  EXPECT_EQ(table.Take(kHash, Matching(1)), nullptr);
  EXPECT_FALSE(table.empty());
  EXPECT_NE(table.Take(kHash, Matching(2)), nullptr);
  EXPECT_TRUE(table.empty());
}

TEST(FailureTableTest, AFullRowLosesTheFailureThatEndsFirst) {
  Table table;
  for (int key = 0; key < static_cast<int>(Table::kRowSize); ++key) {
    EXPECT_FALSE(Replaces(table, key, key == 3 ? 10 : 20));
  }
  EXPECT_TRUE(Replaces(table, 100, 30));
  EXPECT_EQ(table.All().size(), Table::kRowSize);
  EXPECT_EQ(table.Take(kHash, Matching(3)), nullptr);
  EXPECT_NE(table.Take(kHash, Matching(100)), nullptr);
}

TEST(FailureTableTest, ALookIntoARowMovesWhatIsOver) {
  Table table;
  Replaces(table, 1, 10);
  Replaces(table, 2, 20);
  std::vector<Table::Failure> over;
  over.reserve(Table::kRowSize);
  EXPECT_EQ(table.Find(kHash, Matching(1), /*now=*/10, over), nullptr);
  EXPECT_EQ(over.size(), 1u);
  EXPECT_NE(table.Find(kHash, Matching(2), /*now=*/10, over), nullptr);
  EXPECT_EQ(table.All().size(), 1u);
}

}  // namespace
}  // namespace weakcache::internal
