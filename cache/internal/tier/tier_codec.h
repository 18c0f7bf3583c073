// SPDX-License-Identifier: Apache-2.0
// TierCodec<K, V>: the codec among a LargeObjectCache's options. It brings all that a cache needs
// for its tier, so that a cache without one has none of that.
#ifndef WEAKCACHE_CACHE_INTERNAL_TIER_TIER_CODEC_H_
#define WEAKCACHE_CACHE_INTERNAL_TIER_TIER_CODEC_H_

#include <charconv>
#include <concepts>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/time/time.h"

namespace weakcache {

class SecondTier;

namespace internal {

template <typename K, typename V>
class ObjectTier;

template <typename K>
concept IsTextKey = std::is_convertible_v<const K&, std::string_view> &&
    std::is_constructible_v<K, std::string_view>;
template <typename K>
concept IsNumberKey = std::integral<K> && requires(K& key, char* text) {
  std::to_chars(text, text, key);
  std::from_chars(text, text, key);
};
// Keys that are written as strings without functions of the user's.
template <typename K>
concept HasDefaultTierKey = IsTextKey<K> || IsNumberKey<K>;

// What a tier's objects take from the options.
template <typename K>
struct TierSettings {
  std::shared_ptr<SecondTier> tier = nullptr;
  std::function<std::string(const K&)> encode_key = {};               // empty: the default
  std::function<std::optional<K>(std::string_view)> decode_key = {};  // likewise
  std::function<absl::Time()> clock = {};                             // empty: absl::Now
  absl::Duration expire_after_write = absl::InfiniteDuration();
  absl::Duration refresh_after_write = absl::InfiniteDuration();
  bool keeps_when_disconnected = false;
  bool checks_again_when_disconnected = false;
  // Runs the tasks that write evicted objects. Empty: objects are written when they are loaded.
  std::function<void(std::function<void()>)> eviction_executor = {};
};

template <typename K, typename V>
class TierCodec {
 public:
  TierCodec() = default;
  TierCodec(std::nullptr_t) {}  // NOLINT(google-explicit-constructor): as std::shared_ptr
  // Takes a pointer to a class that is derived from Codec<V>. Defined in codec.h.
  template <typename C>
  TierCodec(std::shared_ptr<C> codec);  // NOLINT(google-explicit-constructor): as std::shared_ptr

  explicit operator bool() const { return codec_ != nullptr; }
  // Precondition: there is a codec.
  std::shared_ptr<ObjectTier<K, V>> MakeTier(TierSettings<K> settings) const {
    return make_tier_(codec_, std::move(settings));
  }

 private:
  using MakeTierFunction = std::shared_ptr<ObjectTier<K, V>> (*)(std::shared_ptr<const void> codec,
                                                                 TierSettings<K> settings);

  std::shared_ptr<const void> codec_ = nullptr;  // points to a Codec<V>
  MakeTierFunction make_tier_ = nullptr;
};

}  // namespace internal

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_INTERNAL_TIER_TIER_CODEC_H_
