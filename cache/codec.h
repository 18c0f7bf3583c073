// SPDX-License-Identifier: Apache-2.0
// Codec<V>: how an application writes its objects as bytes, and reads them again, for a second tier
// behind a LargeObjectCache (second_tier.h).
//
// Why: a tier on a disk or on another machine keeps bytes. What a decoded image is in bytes, and
// whether yesterday's bytes still mean the same, only the application knows.
//
//   class ThumbnailCodec final : public weakcache::Codec<Thumbnail> {
//    public:
//     uint32_t schema() const override { return 3; }
//     absl::Status Encode(const Thumbnail& thumbnail, weakcache::ByteSink& sink) const override;
//     absl::StatusOr<Thumbnail> Decode(std::string_view bytes) const override;
//   };
//
// TrivialCodec and ContiguousCodec are ready ones, for types that are their own bytes.
//
// Thread safety: a codec's functions are called on any thread, also at the same time.
//
// Unlike a serialisation library, this sets no format.
//
// Complexity: the ready codecs copy the object's bytes once.
#ifndef WEAKCACHE_CACHE_CODEC_H_
#define WEAKCACHE_CACHE_CODEC_H_

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "weakcache/cache/internal/core/tier_target.h"
#include "weakcache/cache/internal/tier/object_tier.h"
#include "weakcache/cache/internal/tier/tier_codec.h"
#include "weakcache/cache/internal/tier/tiered_objects.h"

namespace weakcache {

// Takes the bytes of an encoded object, one piece after the other.
class ByteSink {
 public:
  // Says how many bytes will come in all, so that they are allocated at once.
  void Reserve(size_t size) { bytes_.reserve(size); }
  void Append(std::string_view piece) { bytes_.append(piece); }

  size_t size() const { return bytes_.size(); }
  // Returns the bytes, and has none afterwards.
  std::string TakeBytes() { return std::exchange(bytes_, std::string()); }

 private:
  std::string bytes_;
};

template <typename V>
class Codec {
 public:
  virtual ~Codec() = default;

  // Returns the version of the format. Bytes of another version are never decoded: they count as
  // missing. So a change of the format needs a new number, and nothing else.
  virtual uint32_t schema() const = 0;
  // Writes the object. If it fails, the object is not written to the tier.
  virtual absl::Status Encode(const V& object, ByteSink& sink) const = 0;
  // Makes an object of bytes that Encode has written, of the same schema, and that have arrived
  // whole. If it fails, the object counts as missing, and is loaded.
  virtual absl::StatusOr<V> Decode(std::string_view bytes) const = 0;
};

// For trivially copyable types without pointers: writes the object's own bytes. A machine of the
// other byte order has another schema, and so never decodes them. Give `kSchema` another number,
// below 2^30, whenever the type's layout changes.
template <typename V, uint32_t kSchema = 0>
requires std::is_trivially_copyable_v<V> && std::is_default_constructible_v<V>
class TrivialCodec final : public Codec<V> {
 public:
  uint32_t schema() const override {
    return kSchema * 2 + (std::endian::native == std::endian::big ? 1 : 0);
  }
  absl::Status Encode(const V& object, ByteSink& sink) const override {
    sink.Append(std::string_view(reinterpret_cast<const char*>(std::addressof(object)), sizeof(V)));
    return absl::OkStatus();
  }
  absl::StatusOr<V> Decode(std::string_view bytes) const override {
    if (bytes.size() != sizeof(V)) return absl::DataLossError("not the size of the type");
    V object;
    std::memcpy(std::addressof(object), bytes.data(), sizeof(V));
    return object;
  }
};

// For containers such as std::string and std::vector<float>, of trivially copyable elements without
// pointers: the bytes are those of the elements. Byte order and `kSchema`: as TrivialCodec.
template <typename V, uint32_t kSchema = 0>
requires std::is_trivially_copyable_v<typename V::value_type>
class ContiguousCodec final : public Codec<V> {
 public:
  uint32_t schema() const override {
    return kSchema * 2 + (std::endian::native == std::endian::big ? 1 : 0);
  }
  absl::Status Encode(const V& object, ByteSink& sink) const override {
    sink.Append(std::string_view(reinterpret_cast<const char*>(object.data()),
                                 object.size() * sizeof(Element)));
    return absl::OkStatus();
  }
  absl::StatusOr<V> Decode(std::string_view bytes) const override {
    if (bytes.size() % sizeof(Element) != 0) return absl::DataLossError("half an element");
    V object;
    if constexpr (sizeof(Element) == 1) {
      const auto* const first = reinterpret_cast<const Element*>(bytes.data());
      object.assign(first, first + bytes.size());
    } else {
      object.resize(bytes.size() / sizeof(Element));
      if (!bytes.empty()) std::memcpy(object.data(), bytes.data(), bytes.size());
    }
    return object;
  }

 private:
  using Element = typename V::value_type;
};

#ifndef WEAKCACHE_DOXYGEN  // which does not read the class
template <typename K, typename V>
template <typename C>
internal::TierCodec<K, V>::TierCodec(std::shared_ptr<C> codec) {
  using Object = std::remove_cv_t<V>;
  using Pointer = std::shared_ptr<const Codec<Object>>;
  static_assert(std::is_convertible_v<std::shared_ptr<C>, Pointer>,
                "options.codec takes a std::shared_ptr to a class derived from Codec<V>");
  codec_ = Pointer(std::move(codec));
  make_tier_ = [](std::shared_ptr<const void> any,
                  TierSettings<K> settings) -> std::shared_ptr<ObjectTier<K, V>> {
    const auto typed = std::static_pointer_cast<const Codec<Object>>(std::move(any));
    TierEncoding<Object> encoding;
    encoding.schema = [typed] { return typed->schema(); };
    encoding.encode = [typed](const Object& object) -> absl::StatusOr<std::string> {
      ByteSink sink;
      absl::Status status = typed->Encode(object, sink);
      if (!status.ok()) return status;
      return sink.TakeBytes();
    };
    encoding.decode = [typed](std::string_view bytes) { return typed->Decode(bytes); };
    return std::make_shared<TieredObjects<K, V>>(std::move(encoding), MakeDefaultTierTarget<K, V>,
                                                 std::move(settings));
  };
}
#endif

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_CODEC_H_
