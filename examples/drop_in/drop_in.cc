// SPDX-License-Identifier: Apache-2.0
// A map of std::weak_ptr and its replacement, side by side: same calls, same output.
//
//   ./bazelw run //examples:drop_in
//
//   what you write today (1)                       | what you write then (2)
//   -----------------------------------------------+--------------------------------------------
//   std::unordered_map<K, std::weak_ptr<V>> map;   | WeakValueMap<K, std::shared_ptr<V>> map;
//                                                  |
//   auto found = map.find(key);                    | object = map.get(key);
//   if (found != map.end())                        |
//     object = found->second.lock();               |
//   std::weak_ptr<V>& entry = map[key];            | object = map.get_or_create(key, Load);
//   object = entry.lock();                         |
//   if (!object) entry = object = Load();          |
//   map[key] = object;                             | map.insert_or_assign(key, object);
//   map.insert({key, object});  // not if one is   | map.insert(key, object);
//                               // there, dead too |
//   map.erase(key);                                | map.erase(key);
//   if (map[key].lock() == object) map.erase(key); | map.erase(key, object);
//   map.contains(key);          // also if dead    | map.contains(key);  // only if alive
//   map.size();                 // with the dead   | map.size();  // with those not swept yet
//   for (const auto& [key, entry] : map)           | for (const auto& [key, object] : map)
//     if (auto object = entry.lock()) Use(object); |   Use(object);
//   std::erase_if(map, HasExpired);                | map.purge();  // but it goes by itself
//   std::erase_if(map, condition);                 | map.erase_if(condition);
//   copy = map;                                    | copy = map.clone();
//
// swap, clear and reserve stay as they are; conditions take (key, object). With V in place of
// std::shared_ptr<V> (3) the lines are the same. drop_in_test.cc runs all of them.

#include <malloc.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <deque>
#include <iomanip>
#include <iostream>
#include <memory>
#include <new>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "weakcache/cache/weak_value_map.h"
#include "weakcache/weakref/handle_traits.h"

namespace drop_in {

struct Document {
  explicit Document(std::string name) : name(std::move(name)) { ++loads; }

  static inline int loads = 0;
  std::string name;
  char text[100'000] = {};
};

bool FileExists(const std::string& name) { return name != "missing"; }

// Step 1. A cache as many programs have it.
class WeakPtrDocuments {
 public:
  using Handle = std::shared_ptr<Document>;

  static Handle Load(const std::string& name) {
    return FileExists(name) ? std::make_shared<Document>(name) : nullptr;
  }

  // The document, loaded if it is not open; null if there is no such file.
  Handle Open(const std::string& name) {
    std::weak_ptr<Document>& entry = documents_[name];
    Handle document = entry.lock();
    if (document == nullptr) entry = document = Load(name);
    return document;
  }

  // Takes what a background thread has loaded, and returns the document to work with. That there
  // may be one already has not been thought of.
  Handle Add(const std::string& name, Handle loaded) {
    documents_[name] = loaded;
    return loaded;
  }

  // Lets the next Open() load it anew, since the file has changed. Returns whether it was open.
  bool Forget(const std::string& name) {
    const bool was_open = !documents_[name].expired();
    documents_.erase(name);
    return was_open;
  }

  std::set<std::string> OpenNames() const {
    std::set<std::string> names;
    for (const auto& [name, entry] : documents_) {
      if (!entry.expired()) names.insert(name);
    }
    return names;
  }

  // Should be called now and then, and is not.
  void Sweep() {
    std::erase_if(documents_, [](const auto& entry) { return entry.second.expired(); });
  }
  size_t entries() const { return documents_.size(); }

 private:
  std::unordered_map<std::string, std::weak_ptr<Document>> documents_;
};

// Step 2, V is std::shared_ptr<Document>: the map is another, and what uses it becomes shorter. The
// callers need no change. The dead leave by themselves, up to four in each operation.
// Step 3, V is Document: the handles become weakcache::Ref<Document>. Its memory goes back at the
// last release, whatever entries remain, and size() knows of it at once.
template <typename V>
class WeakDocuments {
  using Map = weakcache::WeakValueMap<std::string, V>;

 public:
  using Handle = typename Map::mapped_type;

  static Handle Load(const std::string& name) {  // Make is std::make_shared or weakcache::MakeRef
    return FileExists(name) ? weakcache::HandleTraits<Handle>::Make(name) : nullptr;
  }

  Handle Open(const std::string& name) {
    return documents_.get_or_create(name, [&] { return Load(name); });
  }
  Handle Add(const std::string& name, Handle loaded) {
    return documents_.insert(name, std::move(loaded)).first;
  }
  bool Forget(const std::string& name) { return documents_.erase(name) == 1; }

  std::set<std::string> OpenNames() const {
    std::set<std::string> names;
    for (const auto& [name, document] : documents_) names.insert(name);
    return names;
  }
  void Sweep() { documents_.purge(); }
  size_t entries() const { return documents_.size(); }

 private:
  Map documents_;
};

// The calling code, one text for all three: what it does and sees, line by line.
template <typename Cache>
std::vector<std::string> Transcript() {
  Cache cache;
  std::vector<std::string> lines;
  const auto open = [&](const std::string& name) {
    const int loads_before = Document::loads;
    auto document = cache.Open(name);
    const bool loaded = Document::loads != loads_before;
    lines.push_back("open " + name + (!document ? ": no file" : loaded ? ": loaded" : ": shared"));
    return document;
  };
  const auto close = [&](auto& document) {
    lines.push_back("close " + document->name + ", left:");
    document.reset();
    for (const std::string& name : cache.OpenNames()) lines.back() += " " + name;
  };
  const auto forget = [&](const std::string& name) {
    lines.push_back("forget " + name + (cache.Forget(name) ? ": was open" : ": was not open"));
  };

  auto report = open("report");
  auto cover = open("cover");
  auto again = open("report");
  lines.push_back(again == report ? "  one report" : "  two reports");
  open("missing");
  close(report);
  close(again);
  report = open("report");
  forget("report");
  again = open("report");
  lines.push_back(again == report ? "  one report" : "  two reports, old and new");
  close(report);
  close(again);
  close(cover);
  forget("cover");
  return lines;
}

// How many blocks of memory are large enough for a document; see operator new below.
int blocks = 0;

// What the callers do not see.
template <typename Cache>
std::vector<std::string> Figures() {
  Cache cache;
  std::vector<std::string> lines;
  const auto measure = [&](const std::string& when) {
    lines.push_back(when + std::to_string(cache.entries()) + " entries, " +
                    std::to_string(blocks * 100) + " kB");
  };
  std::deque<typename Cache::Handle> open;  // a hundred documents, at most eight at a time
  for (int i = 1; i <= 100; ++i) {
    open.push_back(cache.Open("document " + std::to_string(i)));
    if (open.size() > 8) open.pop_front();
  }
  measure("8 open: ");
  open.clear();
  measure("0 open: ");
  cache.Sweep();
  measure("swept: ");

  // Two background threads have loaded the same file. The second closes it, then it is opened.
  const int loads_before = Document::loads;
  const auto first = cache.Add("manual", Cache::Load("manual"));
  auto second = cache.Add("manual", Cache::Load("manual"));
  lines.push_back(first == second ? "manual: 1 copy" : "manual: 2 copies");
  second.reset();
  cache.Open("manual");
  lines.back() += ", " + std::to_string(Document::loads - loads_before) + " loads";
  return lines;
}

using Columns = std::array<std::vector<std::string>, 3>;

void Print(const Columns& columns) {
  for (size_t row = 0; row < columns[0].size(); ++row) {
    std::cout << std::left << std::setw(33) << columns[0][row] << std::setw(33) << columns[1][row]
              << columns[2][row] << "\n";
  }
}

// Returns whether the callers see the same of all three.
bool Compare() {
  using Step1 = WeakPtrDocuments;
  using Step2 = WeakDocuments<std::shared_ptr<Document>>;
  using Step3 = WeakDocuments<Document>;
  Print({{{"1. map of weak_ptr"}, {"2. WeakValueMap, shared_ptr"}, {"3. WeakValueMap, Ref"}}});
  std::cout << "\n";
  const Columns seen = {Transcript<Step1>(), Transcript<Step2>(), Transcript<Step3>()};
  Print(seen);
  const bool same = seen[0] == seen[1] && seen[0] == seen[2];
  std::cout
      << (same ? "\nAll three are the same.\n" : "\nTHESE DIFFER.\n")
      << "\nWhere they differ: after 100 documents, and a file that was loaded twice at once\n\n";
  Print({Figures<Step1>(), Figures<Step2>(), Figures<Step3>()});
  return same;
}

void* Count(void* block, int change) {
  if (malloc_usable_size(block) >= sizeof(Document)) blocks += change;
  return block;
}

}  // namespace drop_in

void* operator new(size_t size) {
  if (void* const block = std::malloc(size)) return drop_in::Count(block, 1);
  throw std::bad_alloc();
}
void operator delete(void* block) noexcept { std::free(drop_in::Count(block, -1)); }
void operator delete(void* block, size_t) noexcept { operator delete(block); }

int main() { return drop_in::Compare() ? EXIT_SUCCESS : EXIT_FAILURE; }
