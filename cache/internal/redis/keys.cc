// SPDX-License-Identifier: Apache-2.0
#ifdef WEAKCACHE_REDIS_TIER  // else this file is empty: see "Plain" in README.md
#include "weakcache/cache/internal/redis/keys.h"

#include <xxhash.h>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <system_error>

#include "weakcache/cache/internal/redis/text.h"

namespace weakcache::internal {
namespace {

constexpr size_t kRunDigits = 6;
constexpr size_t kChunksDigits = 8;
constexpr size_t kBytesDigits = 16;
constexpr std::string_view kNoGroup = "--------";
constexpr std::string_view kNoGeneration = "----------------";

uint64_t RandomBits() {
  // Not a generator with a seed: two processes of one fork must not have the same tokens.
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

std::string Hexadecimal(uint64_t number, size_t digits) {
  std::string text(digits, '0');
  for (size_t i = digits; i > 0; --i, number >>= 4) text[i - 1] = "0123456789abcdef"[number & 15];
  return text;
}

std::string RunDigits(std::string_view run) {
  return Hexadecimal(XXH3_64bits(run.data(), run.size()), kRunDigits);
}

std::string KeyDigits(std::string_view key) {
  return Hexadecimal(XXH3_64bits(key.data(), key.size()), kKeyDigits);
}

bool ReadHexadecimal(std::string_view digits, auto& number) {
  const char* const last = digits.data() + digits.size();
  const auto [end, error] = std::from_chars(digits.data(), last, number, 16);
  return error == std::errc() && end == last;
}

}  // namespace

std::string RandomDigits() { return Hexadecimal(RandomBits(), kRandomDigits); }

std::string MakeGeneration(std::string_view run) {
  return Text(RunDigits(run), RandomDigits().substr(kRunDigits));
}

bool IsOfRun(std::string_view generation, std::string_view run) {
  return generation.substr(0, kRunDigits) == RunDigits(run);
}

double RandomFraction() { return static_cast<double>(RandomBits() >> 11) * 0x1.0p-53; }

std::string GroupDigits(std::optional<uint32_t> group) {
  return group.has_value() ? Hexadecimal(*group, kGroupDigits) : std::string(kNoGroup);
}

std::string MakeHeader(const ValueTag& tag, std::string_view key, bool is_manifest) {
  return Text(is_manifest ? "m" : "v", tag.generation, GroupDigits(tag.group),
              tag.group.has_value() ? std::string_view(tag.group_generation) : kNoGeneration,
              KeyDigits(key));
}

bool IsOfKey(std::string_view value, std::string_view key) {
  return value.substr(kHeaderBytes - kKeyDigits, kKeyDigits) == KeyDigits(key);
}

std::string MakeManifest(const Manifest& manifest) {
  return Text(manifest.id, Hexadecimal(manifest.chunks, kChunksDigits),
              Hexadecimal(manifest.bytes, kBytesDigits));
}

std::optional<Manifest> ReadManifest(std::string_view value) {
  if (value.size() != kHeaderBytes + kRandomDigits + kChunksDigits + kBytesDigits) {
    return std::nullopt;
  }
  value.remove_prefix(kHeaderBytes);
  Manifest manifest = {.id = std::string(value.substr(0, kRandomDigits))};
  value.remove_prefix(kRandomDigits);
  if (!ReadHexadecimal(value.substr(0, kChunksDigits), manifest.chunks) ||
      !ReadHexadecimal(value.substr(kChunksDigits), manifest.bytes)) {
    return std::nullopt;
  }
  return manifest;
}

std::optional<ValueTag> ReadHeader(std::string_view value) {
  if (value.size() < kHeaderBytes || (value[0] != 'v' && value[0] != 'm')) return std::nullopt;
  ValueTag tag = {.generation = std::string(value.substr(1, kRandomDigits))};
  const std::string_view digits = value.substr(1 + kRandomDigits, kGroupDigits);
  if (digits == kNoGroup) return tag;
  uint32_t group = 0;
  if (!ReadHexadecimal(digits, group)) return std::nullopt;
  tag.group = group;
  tag.group_generation = value.substr(1 + kRandomDigits + kGroupDigits, kRandomDigits);
  return tag;
}

}  // namespace weakcache::internal

#endif  // WEAKCACHE_REDIS_TIER
