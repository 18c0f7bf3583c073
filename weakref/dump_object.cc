// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/dump_object.h"

#include <cxxabi.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weakcache/weakref/internal/control_block.h"
#include "weakcache/weakref/internal/shared_ptr_block.h"
#include "weakcache/weakref/internal/watcher_info.h"

namespace weakcache {
namespace internal {
namespace {

// Returns what each watcher is. Nothing is allocated under the lock of the list.
std::vector<WatcherInfo> DescribeWatchers(ControlBlock* block) {
  std::vector<WatcherInfo> watchers;
  size_t count = block->watcher_count();
  do {
    watchers.clear();
    watchers.reserve(count);
    count = 0;
    block->DescribeWatchers([&](const WatcherInfo& watcher) {
      if (++count <= watchers.capacity()) watchers.push_back(watcher);
    });
  } while (count > watchers.size());  // some have been added
  return watchers;
}

std::string NameOf(const ContainerType& type) {
  std::string name(type.name);
  name.append("<").append(type.first);
  if (!type.second.empty()) name.append(", ").append(type.second);
  return name + ">";
}

ObjectDump::Holder Describe(const HoldersInfo::Holder& holder, bool has_own_clock, int64_t now) {
  ObjectDump::Holder described;
  if (holder.label != nullptr) described.label = holder.label;
  described.look_ups = holder.look_ups;
  if (!has_own_clock) {
    described.first_age = std::chrono::nanoseconds(std::max<int64_t>(now - holder.first, 0));
    described.last_age = std::chrono::nanoseconds(std::max<int64_t>(now - holder.last, 0));
  }
  return described;
}

// Look-ups under one label from different call stacks become one.
void AddHolder(ObjectDump::Holder holder, size_t first, std::vector<ObjectDump::Holder>* holders) {
  for (size_t i = first; i < holders->size(); ++i) {
    ObjectDump::Holder& known = (*holders)[i];
    if (known.label != holder.label) continue;
    known.look_ups += holder.look_ups;
    known.first_age = std::max(known.first_age, holder.first_age);
    known.last_age = std::min(known.last_age, holder.last_age);
    return;
  }
  holders->push_back(std::move(holder));
}

// `own` references to the object are the caller's, or those of other caches.
void AddHolders(const HoldersInfo& info, size_t own, ObjectDump::Containers* containers) {
  if (!info.sampled) return;
  ++containers->sampled;
  if (info.references <= own) return;  // who is in the log has released the object
  containers->dropped_look_ups += info.dropped_look_ups;
  // As Freshness::RoughNow, unless the cache has a clock of its own.
  const int64_t now =
      std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
  const size_t first = containers->holders.size();  // of this entry
  for (size_t i = 0; i < info.size; ++i) {
    AddHolder(Describe(info.holders[i], info.has_own_clock, now), first, &containers->holders);
  }
}

void AddEntry(const WatcherInfo& entry, size_t own, ObjectDump* dump) {
  std::string type = NameOf(*entry.container);
  ObjectDump::Containers* containers = nullptr;
  for (ObjectDump::Containers& known : dump->containers) {
    if (known.type == type) containers = &known;
  }
  if (containers == nullptr) {
    containers = &dump->containers.emplace_back();
    containers->type = std::move(type);
  }
  ++containers->entries;
  if (entry.retained) ++containers->retained;
  AddHolders(entry.holders, own, containers);
}

void Add(const WatcherInfo& watcher, size_t own, ObjectDump* dump) {
  switch (watcher.kind) {
    case WatcherInfo::Kind::kNone:
      return;
    case WatcherInfo::Kind::kExpiryCallback:
      ++dump->expiry_callbacks;
      return;
    case WatcherInfo::Kind::kFinalizer:
      ++dump->finalizers;
      return;
    case WatcherInfo::Kind::kCensus:
      ++dump->censuses;
      return;
    case WatcherInfo::Kind::kEntry:
      AddEntry(watcher, own, dump);
      return;
  }
}

}  // namespace

std::string DemangledName(const char* name) {
  int status = 0;
  const std::unique_ptr<char, void (*)(void*)> demangled(
      abi::__cxa_demangle(name, nullptr, nullptr, &status), &std::free);
  return demangled == nullptr ? name : demangled.get();
}

void DescribeBlock(ControlBlock* block, bool is_alive, size_t own, ObjectDump* dump) {
  dump->owned = true;
  const size_t strong = block->strong_count();
  dump->strong_count = strong - (is_alive ? std::min(strong, own) : 0);
  dump->weak_count = block->weak_count();
  std::vector<WatcherInfo> watchers = DescribeWatchers(block);
  if (is_alive) {
    if (const std::shared_ptr<void>* const owner = SharedPtrBlock::Owner(block)) {
      dump->shared_ptr_count = static_cast<size_t>(owner->use_count());
    }
    watchers.insert(watchers.begin(), block->DescribeOwnEntry());
  }
  const auto retaining = static_cast<size_t>(std::count_if(
      watchers.begin(), watchers.end(), [](const WatcherInfo& info) { return info.retained; }));
  for (const WatcherInfo& watcher : watchers) {
    // An entry's log leaves the reference of its own cache out, but not those of other entries.
    Add(watcher, own + retaining - (watcher.retained ? 1 : 0), dump);
  }
}

}  // namespace internal

namespace {

void AppendLine(std::string_view what, size_t number, std::string* text) {
  text->append("  ").append(what).append(": ").append(std::to_string(number)).append("\n");
}
void AppendIfAny(std::string_view what, size_t number, std::string* text) {
  if (number != 0) AppendLine(what, number, text);
}

// Returns a duration in its two largest units, such as "2h3m" or "5s".
std::string AgeText(std::chrono::nanoseconds age) {
  struct Unit {
    const char* name;
    int64_t nanoseconds;
  };
  constexpr Unit kUnits[] = {{"h", 3'600'000'000'000}, {"m", 60'000'000'000}, {"s", 1'000'000'000}};
  int64_t rest = age.count();
  std::string text;
  int parts = 0;
  for (const Unit& unit : kUnits) {
    const int64_t whole = rest / unit.nanoseconds;
    rest %= unit.nanoseconds;
    if (whole != 0 && parts < 2) text += std::to_string(whole) + unit.name;
    if (whole != 0 || parts != 0) ++parts;
  }
  return text.empty() ? std::to_string(rest / 1'000'000) + "ms" : text;
}

void AppendLookUps(uint64_t look_ups, std::string* text) {
  text->append(": ")
      .append(std::to_string(look_ups))
      .append(look_ups == 1 ? " look-up" : " look-ups");
}
void AppendHolders(const ObjectDump::Containers& containers, std::string* text) {
  for (const ObjectDump::Holder& holder : containers.holders) {
    text->append("  taken by ");
    text->append(holder.label.empty() ? "(no label)" : "\"" + holder.label + "\"");
    AppendLookUps(holder.look_ups, text);
    if (holder.first_age.has_value() && holder.last_age.has_value()) {
      text->append(", ").append(AgeText(*holder.first_age)).append(" to ");
      text->append(AgeText(*holder.last_age)).append(" ago");
    }
    text->append("\n");
  }
  if (containers.dropped_look_ups != 0) {
    text->append("  taken by others");
    AppendLookUps(containers.dropped_look_ups, text);
    text->append("\n");
  }
  if (containers.sampled != 0 && containers.holders.empty()) {
    text->append("  taken by nobody in a look-up since it was idle\n");
  }
}

}  // namespace

std::string ToText(const ObjectDump& dump) {
  std::string text = dump.type;
  if (!dump.label.empty()) text += " \"" + dump.label + "\"";
  if (dump.address != nullptr) {
    char address[32];
    std::snprintf(address, sizeof(address), " at %p", dump.address);
    text += address;
  }
  if (!dump.owned) return text + (dump.address == nullptr ? ", null\n" : ", without an owner\n");
  if (dump.strong_count == 0 && dump.address == nullptr) text += ", expired";
  text += '\n';
  AppendLine("strong references", dump.strong_count, &text);
  AppendIfAny("std::shared_ptrs that own it", dump.shared_ptr_count, &text);
  AppendLine("weak references", dump.weak_count, &text);
  for (const ObjectDump::Containers& containers : dump.containers) {
    AppendLine("entries of " + containers.type, containers.entries, &text);
    AppendIfAny("references of " + containers.type, containers.retained, &text);
    AppendHolders(containers, &text);
  }
  AppendIfAny("callbacks of OnExpire", dump.expiry_callbacks, &text);
  AppendIfAny("finalizers", dump.finalizers, &text);
  AppendIfAny("censuses", dump.censuses, &text);
  return text;
}

}  // namespace weakcache
