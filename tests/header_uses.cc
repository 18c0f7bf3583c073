// SPDX-License-Identifier: Apache-2.0
// Uses each public header as an application does, for tools/warnings_check.sh: an application that
// turns on its compiler's warnings must see none from here. Is compiled, never run.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "weakcache/cache/concurrent_weak_value_map.h"
#include "weakcache/cache/large_object_cache.h"
#include "weakcache/cache/weak_interner.h"
#include "weakcache/cache/weak_key_map.h"
#include "weakcache/cache/weak_set.h"
#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/atomic_ref.h"
#include "weakcache/weakref/dump_object.h"
#include "weakcache/weakref/edge_ref.h"
#include "weakcache/weakref/enable_ref_from_this.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/finalizer.h"
#include "weakcache/weakref/handle_traits.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/shared_ptr_interop.h"
#include "weakcache/weakref/version.h"
#include "weakcache/weakref/weak_bind.h"
#include "weakcache/weakref/weak_proxy.h"
#include "weakcache/weakref/weak_ref.h"

namespace header_uses {

struct Image : weakcache::EnableRefFromThis<Image> {
  Image() = default;
  explicit Image(size_t size) : pixels(size) {}
  uint64_t byte_size() const { return pixels.size(); }
  void Redraw() {}
  std::vector<char> pixels;
};

template <typename Map, typename Strong>
size_t UseValueMap(Map& map, const Strong& image) {
  map.insert(std::string("a"), image);
  map.insert_or_assign(std::string("b"), image);
  size_t count = map.get("a").get() != nullptr ? 1u : 0u;
  count += map.get_or_create("c", [] { return Image(); })->pixels.size();
  count += map.erase("a");
  map.reserve(100);
  map.purge();
  map.clear();
  return count + map.size();
}

size_t UseWeakValueMaps() {
  weakcache::WeakValueMap<std::string, Image> map;
  size_t count = UseValueMap(map, weakcache::MakeRef<Image>());
  for (const auto& [key, image] : map) count += key.size() + image->pixels.size();
  weakcache::WeakValueMap<std::string, std::shared_ptr<Image>> shared;
  count += UseValueMap(shared, std::make_shared<Image>());
  weakcache::ConcurrentWeakValueMap<std::string, Image> concurrent;
  count += UseValueMap(concurrent, weakcache::MakeRef<Image>());
  weakcache::ConcurrentWeakValueMap<std::string, std::shared_ptr<Image>> concurrent_shared;
  return count + UseValueMap(concurrent_shared, std::make_shared<Image>());
}

size_t UseOtherContainers() {
  const weakcache::Ref<Image> image = weakcache::MakeRef<Image>();
  weakcache::WeakKeyMap<Image, int> notes;
  notes.insert_or_assign(image, 1);
  size_t count = notes.contains(image) ? 1u : 0u;
  weakcache::WeakKeyMap<std::string, int, weakcache::ByValue<>> by_value;
  const weakcache::Ref<std::string> name = weakcache::MakeRef<std::string>("name");
  by_value.insert_or_assign(name, 1);
  count += by_value.contains(*name) ? 1u : 0u;
  weakcache::WeakSet<Image> set;
  set.insert(image);
  for (const weakcache::Ref<Image>& member : set) count += member->pixels.size();
  weakcache::WeakInterner<std::string> names;
  count += names.intern("name")->size();
  return count + set.size() + names.size();
}

size_t UseCache() {
  using Images = weakcache::LargeObjectCache<std::string, Image>;
  absl::StatusOr<Images> images = Images::Create({.budget_bytes = uint64_t{256} << 20});
  if (!images.ok()) return 0;
  auto loaded = images->GetOrLoad("a", [](const std::string& key) { return Image(key.size()); });
  images->Put("b", Image(1));
  auto unique = images->GetOrLoad("c", [] { return std::make_unique<Image>(1u); });
  const std::vector<std::string> keys = {"a", "d"};
  auto all = images->GetAll(keys, [](const std::vector<std::string>& missing) {
    return std::vector<Image>(missing.size());
  });
  images->Invalidate("a");
  images->InvalidateIf(
      [](const std::string& key, const weakcache::Ref<Image>&) { return key.empty(); });
  images->SetBudget(100);
  images->Trim(0);
  images->Purge();
  const size_t hottest = images->HottestKeys(3).size();
  images->Clear();
  return hottest + all.size() + images->Stats().ToText().size() + images->size();
}

void UseHandles() {
  weakcache::Ref<Image> image = weakcache::MakeRef<Image>();
  const weakcache::WeakRef<Image> weak = image;
  const weakcache::ExpiryRegistration registration = weakcache::OnExpire(image, [] {});
  const auto finalizer = weakcache::Finalize(image, [] {});
  const weakcache::WeakProxy<Image> proxy(image);
  weakcache::WeakBind(image, &Image::Redraw)();
  const std::shared_ptr<Image> shared = weakcache::ToSharedPtr(image);
  const weakcache::Ref<Image> back = weakcache::FromSharedPtr(shared);
  weakcache::AtomicRef<Image> atomic(image);
  weakcache::Ref<Image> expected = atomic.load();
  atomic.compare_exchange_strong(expected, weakcache::MakeRef<Image>());
  weakcache::AtomicWeakRef<Image> atomic_weak(image);
  atomic_weak.store(atomic_weak.exchange(expected));
  weakcache::EdgeRef<Image> edge(image);
  edge.store(edge.exchange(edge.load()));
  const weakcache::Ref<std::string[][2]> rows = weakcache::MakeRef<std::string[][2]>(3);
  const weakcache::Ref<int[2]> pair =
      weakcache::AllocateRef<int[2]>(std::allocator<int>(), rows[0][0].empty() ? 1 : 2);
  static_cast<void>(weakcache::get_deleter<std::default_delete<int>>(pair));
  const weakcache::Ref<int[]> numbers = weakcache::MakeRef<int[]>(3);
  image = image->ref_from_this();
  if (weak.lock() != nullptr && !ToText(weakcache::DumpObject(weak)).empty()) proxy->Redraw();
}

}  // namespace header_uses
