// SPDX-License-Identifier: Apache-2.0
// WEAKCACHE_HOLDER: says for which part of a program a thread works, so that a LargeObjectCache can
// tell who has taken the objects that it can't free.
//
// Why: a cache whose objects are all in use frees nothing, however small its budget, and its
// figures say only how many bytes that are. Which part of the program holds them is known where an
// object is looked up.
//
//   WEAKCACHE_HOLDER("renderer");           // on this thread, until the end of the scope
//   const auto cover = images.Get("cover.png");
//   std::cerr << images.Holders().ToText();  // "renderer: 1 object, 1008 bytes, …"
//
// Scopes nest: the innermost label counts, and the one around it counts again afterwards. A label
// does not go along to other threads, so no co_await may be in its scope. An asynchronous load
// counts for the label under which it was asked for.
//
// Thread safety: each thread has a label of its own.
//
// Unlike absl's and perf's profiler labels, a label is an address that is stored: a string literal.
//
// Complexity: O(1): two stores. Caches that don't sample never read it.
#ifndef WEAKCACHE_CACHE_HOLDER_LABEL_H_
#define WEAKCACHE_CACHE_HOLDER_LABEL_H_

// Labels the look-ups of this thread until the end of the enclosing scope. `literal` is a string
// literal.
#define WEAKCACHE_HOLDER(literal) \
  const ::weakcache::HolderLabel WEAKCACHE_HOLDER_JOIN(weakcache_holder_, __LINE__)("" literal)
#define WEAKCACHE_HOLDER_JOIN(a, b) WEAKCACHE_HOLDER_JOIN_EXPANDED(a, b)
#define WEAKCACHE_HOLDER_JOIN_EXPANDED(a, b) a##b

namespace weakcache {

// Labels the look-ups of this thread as long as it lives: what WEAKCACHE_HOLDER declares. Construct
// one from another thread's HolderLabel::Current() to carry its label over.
class [[nodiscard]] HolderLabel {
 public:
  // Returns this thread's label, or null.
  static const char* Current();

  // Precondition: a string that lives for ever, or null, for no label.
  explicit HolderLabel(const char* label);
  HolderLabel(const HolderLabel&) = delete;
  HolderLabel& operator=(const HolderLabel&) = delete;
  // Precondition: the same thread; scopes end in the reverse order of their beginnings.
  ~HolderLabel();

 private:
  const char* const around_;
};

}  // namespace weakcache

#endif  // WEAKCACHE_CACHE_HOLDER_LABEL_H_
