// SPDX-License-Identifier: Apache-2.0
// Opens bytes that may be anything as an entry of a second tier, and compares with a decoder of its
// own: written from the table in envelope.h, with the streams of xxHash and zstd.
#include <xxhash.h>
#include <zstd.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "tests/support/allocations.h"
#include "weakcache/cache/internal/tier/envelope.h"
#include "weakcache/cache/second_tier.h"

namespace weakcache::internal {
namespace {

constexpr uint64_t kMaxBytes = 1 << 20;

void Check(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "not so: %s\n", what);
  std::abort();
}

// In a block of exactly its size, so that AddressSanitizer sees each byte that is read beyond it:
// the tests' operator new has room to spare.
TierBytes Exactly(std::string_view bytes) {
  const std::shared_ptr<void> block(std::malloc(bytes.size()), std::free);
  if (!bytes.empty()) std::memcpy(block.get(), bytes.data(), bytes.size());
  return {std::string_view(static_cast<const char*>(block.get()), bytes.size()), block};
}

// --- The second decoder ------------------------------------------------------------------------

struct Decoded {
  enum Verdict {
    kWhole,
    kNotWhole,
    kTooLarge,
    // A stream needs the window that a frame names, and the function for whole frames does not.
    kPerhaps,
  };

  Verdict verdict = kNotWhole;
  std::string bytes = {};
  uint32_t schema = 0;
  int64_t written = 0;
  int64_t expires = 0;
  std::optional<uint32_t> group = {};
};

// Takes numbers from the beginning of bytes, the last of their bytes first.
class Reader {
 public:
  explicit Reader(std::string_view bytes) : rest_(bytes) {}

  uint64_t Take(size_t size) {
    uint64_t number = 0;
    for (size_t i = size; i > 0; --i) number = number << 8 | static_cast<uint8_t>(rest_[i - 1]);
    rest_.remove_prefix(size);
    return number;
  }

 private:
  std::string_view rest_;
};

uint64_t StreamedChecksum(std::string_view header, std::string_view payload) {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(),
                                                                       &XXH3_freeState);
  XXH3_64bits_reset(state.get());
  for (const char byte : header) XXH3_64bits_update(state.get(), &byte, 1);
  XXH3_64bits_reset_withSeed(state.get(), XXH3_64bits_digest(state.get()));
  for (size_t i = 0; i < payload.size(); i += 100) {
    const std::string_view piece = payload.substr(i, 100);
    XXH3_64bits_update(state.get(), piece.data(), piece.size());
  }
  return XXH3_64bits_digest(state.get());
}

// Returns the bytes of the one frame that there is, if it can be read as a stream of small pieces.
std::optional<std::string> StreamedFrame(std::string_view frame, size_t raw_size) {
  // One for all inputs: under AddressSanitizer, making a stream takes longer than reading with it.
  static ZSTD_DStream* const stream = ZSTD_createDStream();
  ZSTD_DCtx_reset(stream, ZSTD_reset_session_only);
  std::string raw;
  std::array<char, 4096> room;
  for (size_t begin = 0; begin < frame.size(); begin += 97) {
    const std::string_view piece = frame.substr(begin, 97);
    ZSTD_inBuffer input{piece.data(), piece.size(), 0};
    ZSTD_outBuffer output;
    do {
      output = {room.data(), room.size(), 0};
      const size_t left = ZSTD_decompressStream(stream, &output, &input);
      if (ZSTD_isError(left)) return std::nullopt;
      raw.append(room.data(), output.pos);
      if (raw.size() > raw_size) return std::nullopt;
      if (left != 0) continue;
      const bool at_the_end = input.pos == piece.size() && begin + piece.size() == frame.size();
      return at_the_end && raw.size() == raw_size ? std::optional(std::move(raw)) : std::nullopt;
    } while (input.pos < input.size || output.pos == output.size);
  }
  return std::nullopt;
}

// More than the blocks of a frame can hold: each takes three bytes, and is of 128 KiB at most.
uint64_t BlocksBytes(std::string_view frame) { return (frame.size() / 3 + 1) * (128 << 10); }

void DecodePayload(std::string_view payload, bool compressed, uint64_t raw_size, Decoded& decoded) {
  if (!compressed) {
    if (payload.size() != raw_size) return;
    decoded.verdict = raw_size > kMaxBytes ? Decoded::kTooLarge : Decoded::kWhole;
    decoded.bytes = payload;
    return;
  }
  const bool plausible =
      payload.substr(0, 4) == "\x28\xB5\x2F\xFD" && payload.size() < raw_size &&
      ZSTD_getFrameContentSize(payload.data(), payload.size()) == raw_size &&
      raw_size < BlocksBytes(payload) &&
      ZSTD_findFrameCompressedSize(payload.data(), payload.size()) == payload.size();
  if (!plausible) return;
  if (raw_size > kMaxBytes) {
    decoded.verdict = Decoded::kTooLarge;
    return;
  }
  std::optional<std::string> raw = StreamedFrame(payload, raw_size);
  decoded.verdict = raw.has_value() ? Decoded::kWhole : Decoded::kPerhaps;
  decoded.bytes = std::move(raw).value_or("");
}

Decoded Decode(std::string_view sealed) {
  Decoded decoded;
  if (sealed.size() < 48 || sealed.substr(0, 4) != "WCTE") return decoded;
  Reader reader(sealed.substr(4));
  if (reader.Take(1) != 1) return decoded;
  const uint64_t flags = reader.Take(1);
  const bool grouped = (flags & 2) != 0;
  if (flags > 3 || reader.Take(2) != 0) return decoded;
  const auto group = static_cast<uint32_t>(reader.Take(4));
  if (grouped) decoded.group = group;
  if (!grouped && group != 0) return decoded;
  decoded.schema = static_cast<uint32_t>(reader.Take(4));
  const uint64_t raw_size = reader.Take(8);
  decoded.written = static_cast<int64_t>(reader.Take(8));
  decoded.expires = static_cast<int64_t>(reader.Take(8));
  const std::string_view payload = sealed.substr(48);
  if (reader.Take(8) != StreamedChecksum(sealed.substr(0, 40), payload)) return decoded;
  DecodePayload(payload, (flags & 1) != 0, raw_size, decoded);
  return decoded;
}

// --- The comparison ----------------------------------------------------------------------------

absl::StatusOr<TierEntry> CompareDecoders(std::string_view sealed) {
  const TierBytes bytes = Exactly(sealed);
  testing::TakeLargestAllocation();
  absl::StatusOr<TierEntry> opened = OpenEntry(bytes, kMaxBytes);
  const size_t largest = testing::TakeLargestAllocation();
  Check(largest <= kMaxBytes && largest < BlocksBytes(sealed), "allocates too much");

  const Decoded decoded = Decode(sealed);
  if (decoded.verdict == Decoded::kNotWhole) {
    Check(opened.status().code() == absl::StatusCode::kDataLoss, "opens what is not whole");
    Check(largest < 1024, "allocates for what is not whole");
  } else if (decoded.verdict == Decoded::kTooLarge) {
    Check(opened.status().code() == absl::StatusCode::kResourceExhausted,
          "opens what is too large");
    Check(largest < 1024, "allocates for what is too large");
  } else if (decoded.verdict == Decoded::kWhole) {
    Check(opened.ok(), "opens what is whole");
    Check(opened->bytes.view() == decoded.bytes, "the same bytes");
  }
  if (!opened.ok()) return opened;
  Check(opened->schema == decoded.schema && opened->group == decoded.group, "the same numbers");
  Check(absl::ToUnixNanos(opened->written) == decoded.written, "written at the same time");
  Check(absl::ToUnixNanos(opened->expires) == decoded.expires, "expires at the same time");
  return opened;
}

// --- What is opened ----------------------------------------------------------------------------

void Write(uint64_t number, size_t size, size_t offset, std::string& bytes) {
  for (size_t i = 0; i < size; ++i) bytes[offset + i] = static_cast<char>(number >> (8 * i));
}

std::string WithChecksum(std::string sealed) {
  const std::string_view view = sealed;
  if (view.size() >= 48) {
    Write(StreamedChecksum(view.substr(0, 40), view.substr(48)), 8, 40, sealed);
  }
  return sealed;
}

// A header that agrees with its payload, so that zstd has to find what is wrong.
std::string WithSize(std::string sealed) {
  if (sealed.size() < 48) return sealed;
  sealed.replace(0, 5, "WCTE\1");
  Write(sealed[5] & 3, 3, 5, sealed);
  if ((sealed[5] & 2) == 0) Write(0, 4, 8, sealed);
  const std::string_view payload = std::string_view(sealed).substr(48);
  Write((sealed[5] & 1) != 0 ? ZSTD_getFrameContentSize(payload.data(), payload.size())
                             : payload.size(),
        8, 16, sealed);
  return WithChecksum(std::move(sealed));
}

// Seals the bytes, opens them, and opens them with one byte changed.
void RoundTrip(std::string_view bytes) {
  const uint8_t choice = bytes.empty() ? 0 : static_cast<uint8_t>(bytes[0]);
  std::string raw;
  for (int i = 0; i <= choice % 4; ++i) raw.append(bytes);
  TierEntry entry{.bytes = Exactly(raw), .schema = choice};
  entry.written = absl::FromUnixNanos(choice - 100);
  if (choice % 3 == 0) entry.group = choice;
  const size_t compress_above = choice % 5 == 0 ? SIZE_MAX : choice / 4;
  const absl::StatusOr<std::string> sealed =
      SealEntry(entry, {.compress_above = compress_above, .level = choice % 4});
  Check(sealed.ok() && sealed->size() <= raw.size() + kEnvelopeBytes, "seals");
  const absl::StatusOr<TierEntry> opened = CompareDecoders(*sealed);
  Check(opened.ok() && opened->bytes.view() == raw, "opens what was sealed");
  Check(opened->written == entry.written && opened->expires == entry.expires, "the same times");

  std::string changed = *sealed;
  char& byte = changed[(choice * size_t{7919}) % changed.size()];
  byte = static_cast<char>(byte ^ (1 + choice % 255));
  Check(!CompareDecoders(changed).ok(), "finds a changed byte");
}

}  // namespace
}  // namespace weakcache::internal

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using weakcache::internal::CompareDecoders;
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0:
      CompareDecoders(bytes).IgnoreError();
      break;
    case 1:
      CompareDecoders(weakcache::internal::WithChecksum(bytes)).IgnoreError();
      break;
    case 2:
      CompareDecoders(weakcache::internal::WithSize(bytes)).IgnoreError();
      break;
    default:
      weakcache::internal::RoundTrip(bytes);
  }
  return 0;
}
