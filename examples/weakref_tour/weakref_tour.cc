// SPDX-License-Identifier: Apache-2.0
// A tour of weakref/, after that of Python's weakref module: each capability as it happens.
//
//   ./bazelw run //examples:weakref_tour

#include <exception>
#include <functional>
#include <iostream>
#include <optional>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>

#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/expired_reference_error.h"
#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/finalizer.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_bind.h"
#include "weakcache/weakref/weak_proxy.h"
#include "weakcache/weakref/weak_ref.h"

namespace weakref_tour {

using ::weakcache::ExpiredReferenceError;
using ::weakcache::ExpiryRegistration;
using ::weakcache::Finalize;
using ::weakcache::MakeRef;
using ::weakcache::OnExpire;
using ::weakcache::Ref;
using ::weakcache::WeakBind;
using ::weakcache::WeakProxy;
using ::weakcache::WeakRef;
using ::weakcache::WeakValueMap;

// A large object that says when it goes.
class Image {
 public:
  explicit Image(std::string name) : name_(std::move(name)) {}
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;
  ~Image() { std::cout << "    ~Image(" << name_ << ")\n"; }

  const std::string& name() const { return name_; }
  int Scale(int factor) const { return 100 * factor; }
  void Rename(const std::string& name) { name_ = name; }

 private:
  std::string name_;
  [[maybe_unused]] char pixels_[100'000] = {};
};

void Chapter(const std::string& title) { std::cout << "\n" << title << "\n"; }
void Say(const std::string& line) { std::cout << "  " << line << "\n"; }
template <typename Value>
void Show(const std::string& what, const Value& value) {
  std::cout << "  " << what << ": " << value << "\n";
}
std::string NameOf(const Ref<Image>& image) { return image == nullptr ? "null" : image->name(); }
std::string TextOf(const std::optional<int>& number) {
  return number ? std::to_string(*number) : "empty";
}

void References() {
  Chapter("ref(o): WeakRef<T>");
  Ref<Image> image = MakeRef<Image>("cover");
  const WeakRef<Image> weak = image;
  const WeakRef<Image> same = image;
  Show("lock()", NameOf(weak.lock()));
  Show("expired()", weak.expired());
  Show("use_count()", weak.use_count());
  const size_t hash = std::hash<WeakRef<Image>>()(weak);
  Say("the last Ref goes, and the memory with it:");
  image.reset();
  Show("lock()", NameOf(weak.lock()));
  Show("expired()", weak.expired());
  Show("still equal to another WeakRef to it", weak == same);
  Show("still the same hash", std::hash<WeakRef<Image>>()(weak) == hash);
}

void ShowError(std::exception_ptr error) {
  try {
    std::rethrow_exception(std::move(error));
  } catch (const std::exception& exception) {
    Show("one threw, the rest go on", exception.what());
  }
}

void Callbacks() {
  Chapter("ref(o, callback): OnExpire(ref, fn)");
  Ref<Image> image = MakeRef<Image>("cover");
  const ExpiryRegistration older = OnExpire(image, [] { Say("older callback"); });
  const ExpiryRegistration throwing = OnExpire(image, [] { throw std::runtime_error("oops"); });
  ExpiryRegistration cancelled = OnExpire(image, [] { Say("never said"); });
  const ExpiryRegistration newest = OnExpire(image, [] { Say("newest callback"); });
  cancelled.reset();
  weakcache::SetExpiryErrorHandler(ShowError);
  Say("the last Ref goes; newest first:");
  image.reset();
  weakcache::SetExpiryErrorHandler(nullptr);
}

void Finalizers() {
  Chapter("finalize: Finalize(ref, fn, arguments...)");
  Ref<Image> image = MakeRef<Image>("cover");
  Finalize(image, [] { Say("finalizer that nobody kept a handle of"); });
  Finalize(image, Say, "finalizer with a bound argument");
  const auto now = Finalize(image, [] { return 42; });
  Show("alive()", now.alive());
  Show("peek()", NameOf(now.peek()));
  Show("call now", TextOf(now()));
  Show("call again", TextOf(now()));
  Show("alive()", now.alive());
  const auto detached = Finalize(image, [] { return 7; });
  auto function = detached.detach();
  Show("detach() gives the function back; it returns", (*function)());
  Show("detach() again gives something", detached.detach().has_value());
  Say("the last Ref goes:");
  image.reset();
}

void FinalizerThatKeepsItsReferent() {
  Chapter("the finalizer that keeps its own referent");
  Ref<Image> image = MakeRef<Image>("kept");
  const WeakRef<Image> weak = image;
  const auto bad = Finalize(image, [image] { Say("never said: bye, " + image->name()); });
  Say("bad: the lambda captures a Ref to the image. The last Ref outside goes:");
  image.reset();
  Show("alive()", bad.alive());
  Show("expired()", weak.expired());
  Say("a lambda's captures can't be checked (a bound Ref is: it aborts). Way out, detach():");
  bad.detach();
  Show("expired()", weak.expired());
  Say("fixed: capture what is needed, not the image");
  image = MakeRef<Image>("freed");
  Finalize(image, [name = image->name()] { Say("bye, " + name); });
  image.reset();
}

void Proxies() {
  Chapter("proxy: WeakProxy<T>, and ReferenceError: ExpiredReferenceError");
  Ref<Image> image = MakeRef<Image>("cover");
  const WeakProxy proxy(image);
  proxy->Rename("back");
  const auto name_of = [](const Image& viewed) { return viewed.name(); };
  Show("proxy->name()", proxy->name());
  Show("passed as *proxy to a function of const Image&", name_of(*proxy));
  Show("use_count(): the proxy is not counted", image.use_count());
  image.reset();
  try {
    proxy->Rename("lost");
  } catch (const ExpiredReferenceError& error) {
    Show("ExpiredReferenceError", error.what());
  }
}

void BoundMethods() {
  Chapter("WeakMethod: WeakBind(ref, &T::method), WeakBind(ref, lambda)");
  Ref<Image> image = MakeRef<Image>("cover");
  const auto scale = WeakBind(image, &Image::Scale);
  const std::function<bool(const std::string&)> rename = WeakBind(image, &Image::Rename);
  const auto length = WeakBind(image, [](const Image& bound) { return int(bound.name().size()); });
  Show("scale(3)", TextOf(scale(3)));
  Show("rename(\"back\")", rename("back"));
  Show("length()", TextOf(length()));
  Show("equal to another binding of the same", scale == WeakBind(image, &Image::Scale));
  Say("the last Ref goes; bindings keep nothing alive:");
  image.reset();
  Show("scale(3)", TextOf(scale(3)));
  Show("rename(\"back\")", rename("back"));
}

void Counts() {
  Chapter("getweakrefcount: weak_count(), watcher_count()");
  const Ref<Image> image = MakeRef<Image>("cover");
  const WeakRef<Image> weak = image;
  const ExpiryRegistration registration = OnExpire(image, [] {});
  Show("weak_count(), a WeakRef and a registration", image.weak_count());
  Show("watcher_count(), the registration", image.watcher_count());
}

// The same steps with either cache: look up twice, let go, look again.
template <typename Cache, typename Find>
void UseCache(const std::string& name, const Cache& cache, const Find& find) {
  Ref<Image> first = find("cover");
  Show(name + ": the second look-up finds the same image", find("cover") == first);
  Show(name + ": nobody uses the image any more; entries", (first.reset(), cache.size()));
}

void Caches() {
  Chapter("a dict cache against a weak-value cache");
  std::unordered_map<std::string, Ref<Image>> dict;
  UseCache("dict", dict, [&](const std::string& name) {
    Ref<Image>& entry = dict[name];
    if (entry == nullptr) entry = MakeRef<Image>(name);
    return entry;
  });
  Say("... and it would stay for ever, unless the cache is told:");
  dict.erase("cover");
  WeakValueMap<std::string, Image> weak;
  UseCache("weak", weak, [&](const std::string& name) {
    return weak.get_or_create(name, [&] { return MakeRef<Image>(name); });
  });
}

// The images are statics: they are alive when main returns.
void AtExit() {
  Chapter("at exit: {.at_exit = true}");
  static const Ref<Image> first = MakeRef<Image>("first static");
  static const Ref<Image> second = MakeRef<Image>("second static");
  Finalize(first, Say, {.at_exit = true}, "at exit: older, runs last");
  Finalize(second, Say, {.at_exit = true}, "at exit: newer, runs first, the image still alive");
  Finalize(second, Say,
           "not asked to run at exit: waits for the image, here a static's destructor");
  const auto called = Finalize(first, Say, {.at_exit = true}, "called now, so not at exit");
  called();
  Say("main returns");
}

void Tour() {
  std::cout << std::boolalpha << "The tour of weakref. Python's name: the name here\n";
  References();
  Callbacks();
  Finalizers();
  FinalizerThatKeepsItsReferent();
  Proxies();
  BoundMethods();
  Counts();
  Caches();
  AtExit();
}

}  // namespace weakref_tour

int main() { weakref_tour::Tour(); }
