// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/codec.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace weakcache {
namespace {

constexpr uint32_t kBig = std::endian::native == std::endian::big ? 1 : 0;

struct Point {
  int32_t x = 0;
  double y = 0;
};

template <typename V>
std::string Encoded(const Codec<V>& codec, const V& object) {
  ByteSink sink;
  EXPECT_TRUE(codec.Encode(object, sink).ok());
  return sink.TakeBytes();
}

TEST(ByteSinkTest, JoinsThePieces) {
  ByteSink sink;
  EXPECT_EQ(sink.size(), 0);
  sink.Reserve(100);
  sink.Append("ab");
  sink.Append("");
  sink.Append(std::string_view("\0c", 2));
  EXPECT_EQ(sink.size(), 4);
  const std::string bytes = sink.TakeBytes();
  EXPECT_EQ(bytes, std::string("ab\0c", 4));
  EXPECT_GE(bytes.capacity(), 100);
}

TEST(ByteSinkTest, HasNothingAfterTakeBytes) {
  ByteSink sink;
  sink.Append("a string that is longer than what fits into the object itself");
  sink.TakeBytes();
  EXPECT_EQ(sink.size(), 0);
  sink.Append("b");
  EXPECT_EQ(sink.TakeBytes(), "b");
}

TEST(TrivialCodecTest, ObjectComesBack) {
  const TrivialCodec<Point> codec;
  const std::string bytes = Encoded(codec, Point{.x = -3, .y = 0.5});
  EXPECT_EQ(bytes.size(), sizeof(Point));
  const absl::StatusOr<Point> decoded = codec.Decode(bytes);
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->x, -3);
  EXPECT_EQ(decoded->y, 0.5);
}

TEST(TrivialCodecTest, ObjectIsReadAtAnyAddress) {
  const TrivialCodec<Point> codec;
  const std::string bytes = "x" + Encoded(codec, Point{.x = 5, .y = 7});
  const absl::StatusOr<Point> decoded = codec.Decode(std::string_view(bytes).substr(1));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->y, 7);
}

TEST(TrivialCodecTest, OtherSizesAreDataLoss) {
  const TrivialCodec<uint32_t> codec;
  EXPECT_EQ(codec.Decode("").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(codec.Decode("abc").status().code(), absl::StatusCode::kDataLoss);
  EXPECT_TRUE(codec.Decode("abcd").ok());
  EXPECT_EQ(codec.Decode("abcde").status().code(), absl::StatusCode::kDataLoss);
}

TEST(TrivialCodecTest, SchemaTellsByteOrders) {
  EXPECT_EQ(TrivialCodec<int>().schema(), kBig);
  EXPECT_EQ((TrivialCodec<int, 1>().schema()), 2 + kBig);
  EXPECT_EQ((TrivialCodec<int, 7>().schema()), 14 + kBig);
}

TEST(ContiguousCodecTest, StringComesBack) {
  const ContiguousCodec<std::string> codec;
  for (const std::string& text : {std::string(), std::string("\0x", 2), std::string(5000, 'a')}) {
    EXPECT_EQ(Encoded(codec, text), text);
    const absl::StatusOr<std::string> decoded = codec.Decode(text);
    ASSERT_TRUE(decoded.ok());
    EXPECT_EQ(*decoded, text);
  }
}

TEST(ContiguousCodecTest, VectorOfBytesComesBack) {
  const ContiguousCodec<std::vector<std::byte>> codec;
  const std::vector<std::byte> object = {std::byte{0}, std::byte{255}, std::byte{7}};
  const absl::StatusOr<std::vector<std::byte>> decoded = codec.Decode(Encoded(codec, object));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(*decoded, object);
}

TEST(ContiguousCodecTest, VectorOfFloatsComesBackFromAnyAddress) {
  const ContiguousCodec<std::vector<float>> codec;
  for (const std::vector<float>& object : {std::vector<float>(), {1.5F, -2.0F, 0.0F}}) {
    const std::string bytes = "x" + Encoded(codec, object);
    EXPECT_EQ(bytes.size(), 1 + object.size() * sizeof(float));
    const absl::StatusOr<std::vector<float>> decoded =
        codec.Decode(std::string_view(bytes).substr(1));
    ASSERT_TRUE(decoded.ok());
    EXPECT_EQ(*decoded, object);
  }
}

TEST(ContiguousCodecTest, HalfAnElementIsDataLoss) {
  const ContiguousCodec<std::vector<uint32_t>> codec;
  EXPECT_EQ(codec.Decode("abcdef").status().code(), absl::StatusCode::kDataLoss);
  const absl::StatusOr<std::vector<uint32_t>> decoded = codec.Decode("abcdefgh");
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(decoded->size(), 2);
}

TEST(ContiguousCodecTest, SchemaTellsByteOrders) {
  EXPECT_EQ(ContiguousCodec<std::string>().schema(), kBig);
  EXPECT_EQ((ContiguousCodec<std::vector<float>, 7>().schema()), 14 + kBig);
}

}  // namespace
}  // namespace weakcache
