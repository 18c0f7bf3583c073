// SPDX-License-Identifier: Apache-2.0
// Else this file is empty: see "Plain" in README.md.
#if defined(WEAKCACHE_REDIS_TIER) || defined(WEAKCACHE_ROCKSDB_TIER)
#include "weakcache/cache/internal/tier/envelope.h"

#include <xxhash.h>
#include <zstd.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace weakcache::internal {
namespace {

constexpr std::string_view kMagic = "WCTE";
constexpr uint8_t kFormat = 1;
constexpr uint8_t kCompressed = 1;
constexpr uint8_t kGrouped = 2;
constexpr size_t kFormatAt = 4;
constexpr size_t kFlagsAt = 5;
constexpr size_t kZeroAt = 6;
constexpr size_t kGroupAt = 8;
constexpr size_t kSchemaAt = 12;
constexpr size_t kRawSizeAt = 16;
constexpr size_t kWrittenAt = 24;
constexpr size_t kExpiresAt = 32;
constexpr size_t kChecksumAt = 40;

// Of zstd's format: what a frame begins with, and how much its blocks hold at most, each of which
// has a header.
constexpr std::string_view kFrameMagic = "\x28\xB5\x2F\xFD";
constexpr uint64_t kMaxBlockBytes = uint64_t{128} << 10;
constexpr uint64_t kBlockHeaderBytes = 3;

template <typename Number>
void AppendNumber(Number number, std::string& to) {
  const auto bits = static_cast<std::make_unsigned_t<Number>>(number);
  for (size_t i = 0; i < sizeof(Number); ++i) to.push_back(static_cast<char>(bits >> (8 * i)));
}

template <typename Number>
Number ReadNumber(std::string_view bytes, size_t offset) {
  uint64_t number = 0;
  for (size_t i = 0; i < sizeof(Number); ++i) {
    number |= uint64_t{static_cast<uint8_t>(bytes[offset + i])} << (8 * i);
  }
  return static_cast<Number>(number);
}

// Knows the infinite times: FromUnixNanos would make the year 2262 of the greatest number.
absl::Time ReadTime(std::string_view bytes, size_t offset) {
  const auto nanoseconds = ReadNumber<int64_t>(bytes, offset);
  if (nanoseconds == std::numeric_limits<int64_t>::max()) return absl::InfiniteFuture();
  if (nanoseconds == std::numeric_limits<int64_t>::min()) return absl::InfinitePast();
  return absl::FromUnixNanos(nanoseconds);
}

// Of the first kChecksumAt bytes and the payload.
uint64_t Checksum(std::string_view header, std::string_view payload) {
  return XXH3_64bits_withSeed(payload.data(), payload.size(),
                              XXH3_64bits(header.data(), kChecksumAt));
}

// Runs a function that returns a StatusOr, and turns a failed allocation into a status.
template <typename Function>
auto WithoutBadAlloc(Function&& function) -> decltype(function()) {
#ifdef __cpp_exceptions
  try {
    return function();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory for an entry of the second tier");
  }
#else
  return function();
#endif
}

struct Buffer {
  std::unique_ptr<char[]> bytes = nullptr;
  size_t size = 0;

  std::string_view view() const { return {bytes.get(), size}; }
};

// Returns a frame of zstd if that saves a twentieth of the bytes; else, also if there is no memory
// for it, an empty buffer. Gives zstd no more room than that, so that it stops where it is of no
// use.
Buffer Compress(std::string_view raw, int level) {
  const size_t limit = raw.size() - raw.size() / 20 - 1;
  Buffer frame{.bytes = std::unique_ptr<char[]>(new (std::nothrow) char[limit])};
  if (frame.bytes == nullptr) return frame;
  const size_t size = ZSTD_compress(frame.bytes.get(), limit, raw.data(), raw.size(), level);
  if (ZSTD_isError(size)) return {};
  frame.size = size;
  return frame;
}

// Absl's string_view is not always std's.
absl::Status NotWhole(std::string_view why) {
  return absl::DataLossError(absl::string_view(why.data(), why.size()));
}

// Returns what is wrong with a frame that is to have `raw_size` bytes in it, or nothing. Allocates
// nothing.
std::string_view FrameFault(std::string_view frame, uint64_t raw_size) {
  // Other beginnings are frames to skip, or of zstd's formats before the first release.
  if (!frame.starts_with(kFrameMagic)) return "no frame of zstd";
  if (frame.size() >= raw_size) return "the frame is not shorter than the object";
  if (ZSTD_getFrameContentSize(frame.data(), frame.size()) != raw_size) {
    return "the frame is of another size than the entry";
  }
  if (raw_size / kMaxBlockBytes > frame.size() / kBlockHeaderBytes) {
    return "the frame has too few blocks for its size";
  }
  // An error is greater than any size.
  if (ZSTD_findFrameCompressedSize(frame.data(), frame.size()) != frame.size()) {
    return "the frame is cut off, or more than one";
  }
  return {};
}

absl::StatusOr<TierBytes> Decompress(std::string_view frame, size_t raw_size) {
  std::unique_ptr<char[]> buffer(new (std::nothrow) char[raw_size]);
  if (buffer == nullptr) {
    return absl::ResourceExhaustedError("no memory for the object of an entry");
  }
  if (ZSTD_decompress(buffer.get(), raw_size, frame.data(), frame.size()) != raw_size) {
    return NotWhole("the frame does not decompress");
  }
  const std::string_view view(buffer.get(), raw_size);
  return TierBytes(view, std::shared_ptr<char[]>(std::move(buffer)));
}

// Returns what is wrong with sealed bytes, but for the payload's sizes, or nothing.
std::string_view EnvelopeFault(std::string_view sealed, Checked checked) {
  if (sealed.size() < kEnvelopeBytes) return "shorter than an envelope";
  if (!sealed.starts_with(kMagic)) return "no envelope";
  if (ReadNumber<uint8_t>(sealed, kFormatAt) != kFormat) return "an envelope of another format";
  const auto flags = ReadNumber<uint8_t>(sealed, kFlagsAt);
  if ((flags & ~(kCompressed | kGrouped)) != 0 || ReadNumber<uint16_t>(sealed, kZeroAt) != 0) {
    return "an envelope with unknown flags";
  }
  if ((flags & kGrouped) == 0 && ReadNumber<uint32_t>(sealed, kGroupAt) != 0) {
    return "a group without its flag";
  }
  if (checked == Checked::kNo && ReadNumber<uint64_t>(sealed, kChecksumAt) !=
                                     Checksum(sealed, sealed.substr(kEnvelopeBytes))) {
    return "the checksum is wrong";
  }
  return {};
}

absl::StatusOr<TierBytes> OpenPayload(TierBytes sealed, uint64_t max_bytes) {
  const std::string_view payload = sealed.view().substr(kEnvelopeBytes);
  const auto raw_size = ReadNumber<uint64_t>(sealed.view(), kRawSizeAt);
  const bool compressed = (ReadNumber<uint8_t>(sealed.view(), kFlagsAt) & kCompressed) != 0;
  if (compressed) {
    const std::string_view fault = FrameFault(payload, raw_size);
    if (!fault.empty()) return NotWhole(fault);
  } else if (payload.size() != raw_size) {
    return NotWhole("the payload is of another size than the entry");
  }
  if (raw_size > max_bytes || !std::in_range<size_t>(raw_size)) {
    return absl::ResourceExhaustedError("the object of the entry is larger than the limit");
  }
  if (compressed) return Decompress(payload, static_cast<size_t>(raw_size));
  return TierBytes(payload, std::make_shared<const TierBytes>(std::move(sealed)));
}

std::string Seal(const TierEntry& entry, const SealOptions& options) {
  const std::string_view raw = entry.bytes.view();
  Buffer frame;
  if (raw.size() > options.compress_above) frame = Compress(raw, options.level);
  const bool compressed = frame.size != 0;
  const std::string_view payload = compressed ? frame.view() : raw;

  std::string sealed;
  sealed.reserve(kEnvelopeBytes + payload.size());
  sealed.append(kMagic);
  AppendNumber(kFormat, sealed);
  AppendNumber(static_cast<uint8_t>((compressed ? kCompressed : 0) |
                                    (entry.group.has_value() ? kGrouped : 0)),
               sealed);
  AppendNumber(uint16_t{0}, sealed);
  AppendNumber(entry.group.value_or(0), sealed);
  AppendNumber(entry.schema, sealed);
  AppendNumber(uint64_t{raw.size()}, sealed);
  AppendNumber(absl::ToUnixNanos(entry.written), sealed);
  AppendNumber(absl::ToUnixNanos(entry.expires), sealed);
  AppendNumber(Checksum(sealed, payload), sealed);
  sealed.append(payload);
  return sealed;
}

}  // namespace

absl::StatusOr<std::string> SealEntry(const TierEntry& entry, const SealOptions& options) {
  return WithoutBadAlloc([&]() -> absl::StatusOr<std::string> { return Seal(entry, options); });
}

absl::StatusOr<TierEntry> OpenEntry(TierBytes sealed, uint64_t max_bytes, Checked checked) {
  return WithoutBadAlloc([&]() -> absl::StatusOr<TierEntry> {
    const std::string_view fault = EnvelopeFault(sealed.view(), checked);
    if (!fault.empty()) return NotWhole(fault);
    const std::string_view header = sealed.view();
    TierEntry entry;
    entry.schema = ReadNumber<uint32_t>(header, kSchemaAt);
    entry.written = ReadTime(header, kWrittenAt);
    entry.expires = ReadTime(header, kExpiresAt);
    if ((ReadNumber<uint8_t>(header, kFlagsAt) & kGrouped) != 0) {
      entry.group = ReadNumber<uint32_t>(header, kGroupAt);
    }
    absl::StatusOr<TierBytes> bytes = OpenPayload(std::move(sealed), max_bytes);
    if (!bytes.ok()) return bytes.status();
    entry.bytes = *std::move(bytes);
    return entry;
  });
}

}  // namespace weakcache::internal

#endif  // defined(WEAKCACHE_REDIS_TIER) || defined(WEAKCACHE_ROCKSDB_TIER)
