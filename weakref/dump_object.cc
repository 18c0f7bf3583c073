// SPDX-License-Identifier: Apache-2.0
#include "weakcache/weakref/dump_object.h"

#include <cxxabi.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>
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

void AddEntry(const WatcherInfo& entry, ObjectDump* dump) {
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
}

void Add(const WatcherInfo& watcher, ObjectDump* dump) {
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
      AddEntry(watcher, dump);
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

void DescribeBlock(ControlBlock* block, bool is_alive, ObjectDump* dump) {
  dump->owned = true;
  dump->strong_count = block->strong_count();
  dump->weak_count = block->weak_count();
  if (is_alive) {
    if (const std::shared_ptr<void>* const owner = SharedPtrBlock::Owner(block)) {
      dump->shared_ptr_count = static_cast<size_t>(owner->use_count());
    }
    Add(block->DescribeOwnEntry(), dump);
  }
  for (const WatcherInfo& watcher : DescribeWatchers(block)) Add(watcher, dump);
}

}  // namespace internal

namespace {

void AppendLine(std::string_view what, size_t number, std::string* text) {
  text->append("  ").append(what).append(": ").append(std::to_string(number)).append("\n");
}
void AppendIfAny(std::string_view what, size_t number, std::string* text) {
  if (number != 0) AppendLine(what, number, text);
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
  }
  AppendIfAny("callbacks of OnExpire", dump.expiry_callbacks, &text);
  AppendIfAny("finalizers", dump.finalizers, &text);
  AppendIfAny("censuses", dump.censuses, &text);
  return text;
}

}  // namespace weakcache
