// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/cache_holders.h"

#if __has_include(<execinfo.h>)
#include <execinfo.h>
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/debugging/symbolize.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace weakcache {
namespace {

constexpr std::string_view kNoLabel = "(no label)";
constexpr std::string_view kElsewhere = "(from elsewhere)";

std::string_view NameOf(const PossibleHolder& holder) {
  return holder.label.empty() ? kNoLabel : std::string_view(holder.label);
}

uint64_t SaturatingAdd(uint64_t a, uint64_t b) {
  return a + b < a ? std::numeric_limits<uint64_t>::max() : a + b;
}

// What the text says about one label.
struct LabelFigures {
  void Add(const PossibleHolder& holder) {
    first_age = look_ups == 0 ? holder.first_age : std::max(first_age, holder.first_age);
    last_age = look_ups == 0 ? holder.last_age : std::min(last_age, holder.last_age);
    look_ups = SaturatingAdd(look_ups, holder.look_ups);
  }

  uint64_t objects = 0;
  uint64_t bytes = 0;
  uint64_t sole_bytes = 0;  // of objects that no other label took
  uint64_t look_ups = 0;
  absl::Duration first_age;
  absl::Duration last_age;
};

std::string AgeText(absl::Duration age) {
  return absl::FormatDuration(absl::Trunc(age, absl::Milliseconds(1)));
}

std::string CountOf(uint64_t count, const char* unit) {
  return absl::StrCat(count, " ", unit, count == 1 ? "" : "s");
}

// The name of the function that a frame is in, without what folded stacks give a meaning to.
std::string FrameName(const void* frame) {
  char name[512];
  // The return address may be that of the next function already.
  const void* const call = static_cast<const char*>(frame) - 1;
  std::string text =
      absl::Symbolize(call, name, sizeof(name)) ? std::string(name) : absl::StrFormat("%p", frame);
  std::replace(text.begin(), text.end(), ';', ':');
  return text;
}

bool IsOfCache(std::string_view frame) {
  return frame == "backtrace" ||  // a sanitizer's own
         frame.starts_with("weakcache::internal::") ||
         frame.starts_with("weakcache::LargeObjectCache<");
}

std::string Folded(const PossibleHolder& holder) {
  std::string folded(NameOf(holder));
  std::replace(folded.begin(), folded.end(), ';', ':');
  std::replace(folded.begin(), folded.end(), '\n', ' ');
  size_t innermost = 0;
  std::vector<std::string> names;
  for (const void* const frame : holder.stack) names.push_back(FrameName(frame));
  while (innermost < names.size() && IsOfCache(names[innermost])) ++innermost;
  for (size_t i = names.size(); i > innermost; --i) folded += ";" + names[i - 1];
  return folded;
}

}  // namespace

std::string CacheHolders::ToText() const {
  if (sample_bytes == 0) return "objects in use are not sampled: holder_sample_bytes is not set\n";
  std::map<std::string_view, LabelFigures> labels;
  uint64_t bytes = 0;
  uint64_t represented = 0;
  for (const HeldObject& object : objects) {
    bytes = SaturatingAdd(bytes, object.weight);
    represented = SaturatingAdd(represented, object.represented_bytes);
    std::set<std::string_view> names;
    for (const PossibleHolder& holder : object.holders) {
      names.insert(NameOf(holder));
      labels[NameOf(holder)].Add(holder);
    }
    if (names.empty()) names.insert(kElsewhere);
    for (const std::string_view name : names) {
      LabelFigures& label = labels[name];
      ++label.objects;
      label.bytes = SaturatingAdd(label.bytes, object.weight);
      const bool is_sole =
          names.size() == 1 && object.dropped_look_ups == 0 && object.other_entries == 0;
      if (is_sole) label.sole_bytes = SaturatingAdd(label.sole_bytes, object.weight);
    }
  }
  std::vector<std::pair<std::string_view, LabelFigures>> sorted(labels.begin(), labels.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second.bytes > b.second.bytes; });
  std::string text = absl::StrFormat("sampled in use: %s, %d bytes, which stand for about %d\n",
                                     CountOf(objects.size(), "object"), bytes, represented);
  for (const auto& [name, label] : sorted) {
    absl::StrAppendFormat(&text, "%s: %s, %d bytes, %d of them taken by nobody else", name,
                          CountOf(label.objects, "object"), label.bytes, label.sole_bytes);
    if (label.look_ups != 0) {
      absl::StrAppendFormat(&text, "; %s, %s to %s ago", CountOf(label.look_ups, "look-up"),
                            AgeText(label.first_age), AgeText(label.last_age));
    }
    text += '\n';
  }
  return text;
}

std::string CacheHolders::ToFoldedStacks() const {
  std::map<std::string, uint64_t> stacks;
  for (const HeldObject& object : objects) {
    if (object.holders.empty()) {
      uint64_t& bytes = stacks[std::string(kElsewhere)];
      bytes = SaturatingAdd(bytes, object.represented_bytes);
      continue;
    }
    uint64_t rest = object.represented_bytes;
    for (size_t left = object.holders.size(); left > 0; --left) {
      const uint64_t part = rest / left;
      rest -= part;
      uint64_t& bytes = stacks[Folded(object.holders[left - 1])];
      bytes = SaturatingAdd(bytes, part);
    }
  }
  std::string text;
  for (const auto& [stack, bytes] : stacks) absl::StrAppend(&text, stack, " ", bytes, "\n");
  return text;
}

namespace internal {

int CaptureStack([[maybe_unused]] const void** frames, [[maybe_unused]] int size) {
#if __has_include(<execinfo.h>)
  // Unlike absl::GetStackTrace, it needs no frame pointers.
  return backtrace(const_cast<void**>(frames), size);
#else
  return 0;
#endif
}

}  // namespace internal

}  // namespace weakcache
