// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/internal/tier/envelope.h"

#include <gtest/gtest.h>
#include <xxhash.h>
#include <zstd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/allocations.h"

namespace weakcache::internal {
namespace {

using testing::FailAllocation;
using testing::TakeLargestAllocation;

constexpr uint64_t kNoLimit = std::numeric_limits<uint64_t>::max();
constexpr SealOptions kCompressAll = {.compress_above = 0, .level = 1};
// More than a status and its message take, less than any object of the tests below.
constexpr size_t kSmall = 1024;

std::string RandomBytes(size_t size) {
  std::mt19937_64 random(size);
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

std::string RepeatedBytes(size_t size) {
  std::string bytes;
  while (bytes.size() < size) bytes += "line " + std::to_string(bytes.size()) + " of many\n";
  bytes.resize(size);
  return bytes;
}

TierEntry Entry(std::string bytes) {
  return {.bytes = TierBytes(std::move(bytes)),
          .schema = 7,
          .written = absl::FromUnixNanos(1234567890123456789),
          .expires = absl::FromUnixNanos(1234567890987654321),
          .group = 42};
}

std::string Seal(const TierEntry& entry, const SealOptions& options = {}) {
  const absl::StatusOr<std::string> sealed = SealEntry(entry, options);
  EXPECT_TRUE(sealed.ok()) << sealed.status();
  return sealed.value_or("");
}

// In a block of exactly its size, so that AddressSanitizer sees each byte that is read beyond it:
// the tests' operator new has room to spare.
TierBytes Exactly(std::string_view bytes) {
  const std::shared_ptr<void> block(std::malloc(bytes.size()), std::free);
  if (!bytes.empty()) std::memcpy(block.get(), bytes.data(), bytes.size());
  return {std::string_view(static_cast<const char*>(block.get()), bytes.size()), block};
}

absl::StatusCode OpenedCode(std::string_view sealed, uint64_t max_bytes = kNoLimit) {
  return OpenEntry(Exactly(sealed), max_bytes).status().code();
}

void ExpectSame(const absl::StatusOr<TierEntry>& opened, const TierEntry& entry) {
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(opened->bytes.view() == entry.bytes.view());
  EXPECT_EQ(opened->schema, entry.schema);
  EXPECT_EQ(opened->written, entry.written);
  EXPECT_EQ(opened->expires, entry.expires);
  EXPECT_EQ(opened->group, entry.group);
}

// --- What is sealed is what is opened
// --------------------------------------------------------------

TEST(EnvelopeTest, EachFieldComesBack) {
  for (const size_t size : {0, 1, 2, 20, 47, 48, 1000, 300000}) {
    for (const std::string& bytes : {RandomBytes(size), RepeatedBytes(size)}) {
      for (const SealOptions& options : {SealOptions(), kCompressAll}) {
        TierEntry entry = Entry(bytes);
        ExpectSame(OpenEntry(Seal(entry, options), size), entry);
        entry.group = std::nullopt;
        entry.expires = absl::InfiniteFuture();
        ExpectSame(OpenEntry(Seal(entry, options), size), entry);
        entry.group = 0;
        entry.schema = std::numeric_limits<uint32_t>::max();
        entry.written = absl::UnixEpoch() - absl::Nanoseconds(1);
        ExpectSame(OpenEntry(Seal(entry, options), size), entry);
        entry.group = std::numeric_limits<uint32_t>::max();
        entry.written = absl::InfinitePast();
        ExpectSame(OpenEntry(Seal(entry, options), size), entry);
      }
    }
  }
}

TEST(EnvelopeTest, TimesBeyondTheFormatAreInfinite) {
  TierEntry entry = Entry("x");
  entry.expires = absl::FromUnixSeconds(int64_t{1} << 40);
  const absl::StatusOr<TierEntry> opened = OpenEntry(Seal(entry), kNoLimit);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->expires, absl::InfiniteFuture());
}

TEST(EnvelopeTest, UncompressedEntrySharesTheSealedBytes) {
  const TierBytes sealed = Exactly(Seal(Entry(RandomBytes(5000))));
  TakeLargestAllocation();
  const absl::StatusOr<TierEntry> opened = OpenEntry(sealed, kNoLimit);
  EXPECT_LT(TakeLargestAllocation(), kSmall);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ(opened->bytes.view().data(), sealed.view().data() + kEnvelopeBytes);
}

TEST(EnvelopeTest, UncompressedEntryKeepsTheSealedBytesAlive) {
  const TierEntry entry = Entry(RandomBytes(5000));
  absl::StatusOr<TierEntry> opened = absl::InternalError("");
  {
    TierBytes sealed = Exactly(Seal(entry));
    opened = OpenEntry(std::move(sealed), kNoLimit);
  }
  ExpectSame(opened, entry);
}

// --- Compression
// -----------------------------------------------------------------------------------

TEST(EnvelopeTest, CompressesObjectsOfMoreBytesOnly) {
  const TierEntry entry = Entry(RepeatedBytes(1000));
  EXPECT_EQ(Seal(entry, {.compress_above = 1000}).size(), 1000 + kEnvelopeBytes);
  EXPECT_LT(Seal(entry, {.compress_above = 999}).size(), 500);
}

TEST(EnvelopeTest, LevelIsThatOfZstd) {
  const TierEntry entry = Entry(RepeatedBytes(300000));
  EXPECT_GT(Seal(entry, {.compress_above = 0, .level = -50}).size(),
            Seal(entry, kCompressAll).size());
}

TEST(EnvelopeTest, IncompressibleObjectsStayAsTheyAre) {
  for (const size_t size : {1, 19, 20, 21, 100, 300000}) {
    EXPECT_EQ(Seal(Entry(RandomBytes(size)), kCompressAll).size(), size + kEnvelopeBytes);
  }
}

TEST(EnvelopeTest, CompressesIfThatSavesATwentieth) {
  // Of 100,000 bytes, so many are the same; zstd needs a few itself.
  const auto sealed_size = [](size_t same) {
    return Seal(Entry(RandomBytes(100000 - same) + std::string(same, 'a')), kCompressAll).size();
  };
  EXPECT_EQ(sealed_size(4900), 100000 + kEnvelopeBytes);
  EXPECT_LT(sealed_size(5200), 95000 + kEnvelopeBytes);
}

TEST(EnvelopeTest, SealedEntryHasNoBytesToSpare) {
  for (const SealOptions& options : {SealOptions(), kCompressAll}) {
    const absl::StatusOr<std::string> sealed = SealEntry(Entry(RepeatedBytes(100000)), options);
    ASSERT_TRUE(sealed.ok());
    EXPECT_EQ(sealed->capacity(), sealed->size());
  }
}

// --- The format stays
// ------------------------------------------------------------------------------

std::string Hexadecimal(std::string_view bytes) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const char byte : bytes) {
    text += kDigits[static_cast<uint8_t>(byte) >> 4];
    text += kDigits[static_cast<uint8_t>(byte) & 15];
  }
  return text;
}

constexpr std::string_view kGolden =
    "57435445"          // "WCTE"
    "01020000"          // format, flags, 0
    "2a00000007000000"  // group, schema
    "0500000000000000"  // size
    "1581e97df4102211"  // written
    "b11c6cb1f4102211"  // expires
    "7998f65135ccc6c8"  // checksum
    "68656c6c6f";       // "hello"

TEST(EnvelopeTest, FormatIsThatOfEarlierVersions) {
  EXPECT_EQ(Hexadecimal(Seal(Entry("hello"))), kGolden);
}

// --- Bytes that are not whole
// ----------------------------------------------------------------------

std::vector<std::string> WholeEntries() {
  return {Seal(Entry("")), Seal(Entry(RandomBytes(70))),
          Seal(Entry(RepeatedBytes(400)), kCompressAll)};
}

TEST(EnvelopeTest, EachFlippedBitIsFound) {
  for (const std::string& whole : WholeEntries()) {
    ASSERT_EQ(OpenedCode(whole), absl::StatusCode::kOk);
    for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
      std::string flipped = whole;
      flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
      EXPECT_EQ(OpenedCode(flipped), absl::StatusCode::kDataLoss) << bit;
    }
  }
}

TEST(EnvelopeTest, EachOtherLengthIsFound) {
  for (const std::string& whole : WholeEntries()) {
    for (size_t size = 0; size < whole.size(); ++size) {
      EXPECT_EQ(OpenedCode(whole.substr(0, size)), absl::StatusCode::kDataLoss) << size;
    }
    EXPECT_EQ(OpenedCode(whole + '\0'), absl::StatusCode::kDataLoss);
    EXPECT_EQ(OpenedCode(whole + whole), absl::StatusCode::kDataLoss);
  }
}

TEST(EnvelopeTest, PartsOfTwoEntriesAreFound) {
  const std::string first = Seal(Entry(RandomBytes(1000)));
  TierEntry other = Entry(RandomBytes(1000).replace(500, 5, "other"));
  other.schema = 8;
  for (const size_t cut : {13, 20, 44, 48, 300, 502}) {
    EXPECT_EQ(OpenedCode(first.substr(0, cut) + Seal(other).substr(cut)),
              absl::StatusCode::kDataLoss);
  }
}

// Bytes that somebody else has checked: nothing else is taken on trust.
TEST(EnvelopeTest, CheckedEntryOpensWithoutItsChecksum) {
  const TierEntry entry = Entry(RandomBytes(1000));
  std::string sealed = Seal(entry);
  sealed[44] = static_cast<char>(sealed[44] ^ 1);
  EXPECT_EQ(OpenedCode(sealed), absl::StatusCode::kDataLoss);
  ExpectSame(OpenEntry(Exactly(sealed), kNoLimit, Checked::kYes), entry);
  for (const std::string& other : {sealed.substr(0, 47), sealed + 'x', "x" + sealed.substr(1)}) {
    EXPECT_EQ(OpenEntry(Exactly(other), kNoLimit, Checked::kYes).status().code(),
              absl::StatusCode::kDataLoss);
  }
  EXPECT_EQ(OpenEntry(Exactly(sealed), 999, Checked::kYes).status().code(),
            absl::StatusCode::kResourceExhausted);
}

// --- Bytes that mean harm: their checksum is right
// -------------------------------------------------

void SetNumber(uint64_t number, size_t size, size_t offset, std::string& bytes) {
  for (size_t i = 0; i < size; ++i) bytes[offset + i] = static_cast<char>(number >> (8 * i));
}

std::string WithChecksum(std::string sealed) {
  const uint64_t checksum =
      XXH3_64bits_withSeed(sealed.data() + kEnvelopeBytes, sealed.size() - kEnvelopeBytes,
                           XXH3_64bits(sealed.data(), 40));
  SetNumber(checksum, 8, 40, sealed);
  return sealed;
}

// An entry that says it is of `raw_size` bytes and has a payload of zstd.
std::string Forged(uint64_t raw_size, std::string_view payload, uint8_t flags = 1) {
  std::string sealed = Seal(TierEntry{});
  sealed.append(payload);
  SetNumber(flags, 1, 5, sealed);
  SetNumber(raw_size, 8, 16, sealed);
  return WithChecksum(std::move(sealed));
}

std::string Frame(std::string_view raw) {
  std::string frame(ZSTD_compressBound(raw.size()), '\0');
  frame.resize(ZSTD_compress(frame.data(), frame.size(), raw.data(), raw.size(), 1));
  return frame;
}

// A frame that says it is of `size` bytes, with blocks of one repeated byte each.
std::string FrameOfSize(uint64_t size, int blocks, size_t block_bytes = 128 << 10) {
  std::string frame("\x28\xB5\x2F\xFD\xC0\x38", 6);  // the size has eight bytes; window: 128 KiB
  frame.append(8, '\0');
  SetNumber(size, 8, 6, frame);
  for (int i = 0; i < blocks; ++i) {
    std::string block("\0\0\0z", 4);
    SetNumber(block_bytes << 3 | 1 << 1 | (i == blocks - 1 ? 1 : 0), 3, 0, block);
    frame += block;
  }
  return frame;
}

void ExpectRefused(const std::string& sealed, uint64_t max_bytes, absl::StatusCode code) {
  const TierBytes bytes = Exactly(sealed);
  TakeLargestAllocation();
  const absl::Status status = OpenEntry(bytes, max_bytes).status();
  EXPECT_LT(TakeLargestAllocation(), kSmall);
  EXPECT_EQ(status.code(), code) << status;
}

void ExpectDataLoss(const std::string& sealed) {
  ExpectRefused(sealed, kNoLimit, absl::StatusCode::kDataLoss);
}

TEST(EnvelopeTest, LimitHolds) {
  for (const SealOptions& options : {SealOptions(), kCompressAll}) {
    const TierEntry entry = Entry(RepeatedBytes(100000));
    const std::string sealed = Seal(entry, options);
    ExpectSame(OpenEntry(sealed, 100000), entry);
    ExpectRefused(sealed, 99999, absl::StatusCode::kResourceExhausted);
    ExpectRefused(sealed, 0, absl::StatusCode::kResourceExhausted);
  }
}

TEST(EnvelopeTest, ForgedEntryOpensIfItIsWhole) {
  const std::string raw = RepeatedBytes(2000);
  ExpectSame(OpenEntry(Forged(2000, Frame(raw)), 2000),
             {.bytes = raw, .written = TierEntry{}.written});
  const uint64_t size = 3 * (128 << 10);
  const absl::StatusOr<TierEntry> opened = OpenEntry(Forged(size, FrameOfSize(size, 3)), kNoLimit);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_TRUE(opened->bytes.view() == std::string(size, 'z'));
}

TEST(EnvelopeTest, HostileSizesAllocateNothing) {
  const std::string raw = RepeatedBytes(2000);
  const std::string frame = Frame(raw);
  for (const uint64_t size :
       std::vector<uint64_t>{0, 1, frame.size(), 1999, 2001, uint64_t{1} << 40, kNoLimit}) {
    ExpectDataLoss(Forged(size, frame));
    ExpectDataLoss(Forged(size, raw, 0));
  }
  // The frame agrees, but cannot have so many bytes; or it says nothing, as a stream does.
  for (const uint64_t size : {uint64_t{1} << 20, uint64_t{1} << 40, kNoLimit - 2}) {
    ExpectDataLoss(Forged(size, FrameOfSize(size, 2)));
  }
  ExpectDataLoss(Forged(kNoLimit, FrameOfSize(kNoLimit, 2)));  // ZSTD_CONTENTSIZE_UNKNOWN
  ExpectDataLoss(Forged(kNoLimit - 1, FrameOfSize(kNoLimit - 1, 2)));
  // As much as the limit allows.
  const uint64_t size = 64 << 20;
  ExpectRefused(Forged(size, FrameOfSize(size, 512)), size - 1,
                absl::StatusCode::kResourceExhausted);
}

TEST(EnvelopeTest, FrameThatHasLessThanItSaysIsFound) {
  const uint64_t size = 2 * (128 << 10);
  EXPECT_EQ(OpenedCode(Forged(size, FrameOfSize(size, 2))), absl::StatusCode::kOk);
  EXPECT_EQ(OpenedCode(Forged(size, FrameOfSize(size, 2, 1000))), absl::StatusCode::kDataLoss);
  EXPECT_EQ(OpenedCode(Forged(size, FrameOfSize(size, 3))), absl::StatusCode::kDataLoss);
}

TEST(EnvelopeTest, OtherFramesAreFound) {
  const std::string raw = RepeatedBytes(2000);
  const std::string frame = Frame(raw);
  ExpectDataLoss(Forged(2000, ""));
  ExpectDataLoss(Forged(2000, frame.substr(0, frame.size() - 1)));
  ExpectDataLoss(Forged(2000, frame.substr(0, 5)));
  ExpectDataLoss(Forged(2000, frame + '\0'));
  ExpectDataLoss(Forged(2000, frame + Frame("")));
  ExpectDataLoss(Forged(2000, Frame(raw.substr(0, 1000)) + Frame(raw.substr(1000))));
  // A frame to skip, alone and before another one; and formats of zstd 0.7 and 0.1.
  const std::string skipped("\x50\x2A\x4D\x18\x04\0\0\0skip", 12);
  ExpectDataLoss(Forged(2000, skipped));
  ExpectDataLoss(Forged(0, skipped));
  ExpectDataLoss(Forged(2000, skipped + frame));
  ExpectDataLoss(Forged(2000, "\x27" + frame.substr(1)));
  ExpectDataLoss(Forged(2000, std::string("\x27\xB5\x2F\xFD\xE0\xD0\x07\0\0\0\0\0\0"
                                          "\x80\x07\xD0z\xC0\0\0",
                                          20)));  // a whole one
  ExpectDataLoss(Forged(2000, "\xFD\x2F\xB5\x1E" + frame.substr(4)));
  // Compressed, and none the shorter for it.
  const std::string longer = Frame(RandomBytes(100));
  ExpectDataLoss(Forged(100, longer));
  // With the id of a dictionary.
  std::string dictionary("\x28\xB5\x2F\xFD\xC1\x38\x07", 7);
  dictionary += FrameOfSize(128 << 10, 1).substr(6);
  EXPECT_EQ(OpenedCode(Forged(128 << 10, dictionary)), absl::StatusCode::kDataLoss);
}

TEST(EnvelopeTest, UnknownHeadersAreFound) {
  const std::string whole = Seal(Entry("hello"));
  for (const auto& [offset, value] : std::vector<std::pair<size_t, uint8_t>>{
           {0, 'X'}, {4, 0}, {4, 2}, {5, 4 | 2}, {5, 0x80 | 2}, {5, 0}, {6, 1}, {7, 1}}) {
    std::string changed = whole;
    SetNumber(value, 1, offset, changed);
    ExpectDataLoss(WithChecksum(changed));
  }
}

TEST(EnvelopeTest, AnyBytesWithTheRightChecksumAreSafe) {
  std::mt19937 random(17);
  const std::vector<std::string> whole = WholeEntries();
  int opened = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string changed = whole[i % whole.size()];
    for (int j = 0; j < 1 + i % 3; ++j) {
      // Not its first six bytes, of which hardly any others are right.
      changed[6 + random() % (changed.size() - 6)] = static_cast<char>(random());
    }
    const TierBytes bytes = Exactly(WithChecksum(changed));
    opened += OpenEntry(bytes, 1 << 20).ok() ? 1 : 0;
  }
  // Otherwise this would test the checksum only.
  EXPECT_GT(opened, 1000);
}

// --- No memory
// -------------------------------------------------------------------------------------

TEST(EnvelopeTest, FailedAllocationIsAStatus) {
  for (const SealOptions& options : {SealOptions(), kCompressAll}) {
    const TierEntry entry = Entry(RepeatedBytes(100000));
    int failures = 0;
    for (int k = 1; k < 8; ++k) {
      FailAllocation(k);
      const absl::StatusOr<std::string> sealed = SealEntry(entry, options);
      FailAllocation(0);
      if (sealed.ok()) {
        ExpectSame(OpenEntry(*sealed, kNoLimit), entry);
      } else {
        EXPECT_EQ(sealed.status().code(), absl::StatusCode::kResourceExhausted);
        ++failures;
      }
      const TierBytes bytes = Exactly(Seal(entry, options));
      FailAllocation(k);
      const absl::StatusOr<TierEntry> opened = OpenEntry(bytes, kNoLimit);
      FailAllocation(0);
      if (opened.ok()) {
        ExpectSame(opened, entry);
      } else {
        EXPECT_EQ(opened.status().code(), absl::StatusCode::kResourceExhausted);
        ++failures;
      }
    }
    EXPECT_GE(failures, 2);
  }
}

}  // namespace
}  // namespace weakcache::internal
