// SPDX-License-Identifier: Apache-2.0
// The forms in which a report of cycles is written.
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <string>
#include <string_view>

#include "weakcache/weakref/cycles.h"

namespace weakcache {
namespace {

std::string Count(size_t count, std::string_view one) {
  std::string text = std::to_string(count) + " " + std::string(one);
  if (count != 1) text += 's';
  return text;
}

std::string NameOf(const CycleObject& object) {
  std::string name(object.type);
  if (!object.label.empty()) name += " \"" + object.label + "\"";
  return name;
}

// Returns the length of the UTF-8 sequence that `text` begins with, or 0 if it begins with none.
size_t Utf8Length(std::string_view text) {
  const auto byte = [text](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return 1;
  const size_t length = first < 0xc2   ? 0
                        : first < 0xe0 ? 2
                        : first < 0xf0 ? 3
                        : first < 0xf5 ? 4
                                       : 0;
  if (length == 0 || text.size() < length) return 0;
  // What would have a shorter form, is a surrogate, or is above U+10FFFF.
  if (first == 0xe0 && byte(1) < 0xa0) return 0;
  if (first == 0xed && byte(1) > 0x9f) return 0;
  if (first == 0xf0 && byte(1) < 0x90) return 0;
  if (first == 0xf4 && byte(1) > 0x8f) return 0;
  for (size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  return length;
}

// Quotes for JSON, as UTF-8: a byte that is none becomes U+FFFD. DOT has the same quotes, and takes
// the rest as it is.
std::string Quoted(std::string_view text) {
  std::string quoted = "\"";
  while (!text.empty()) {
    const char c = text.front();
    const size_t length = Utf8Length(text);
    if (length == 0) {
      quoted += "\xef\xbf\xbd";
    } else if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\u%04x", static_cast<unsigned>(c));
      quoted += escape;
    } else {
      quoted += text.substr(0, length);
    }
    text.remove_prefix(length == 0 ? 1 : length);
  }
  return quoted + '"';
}

void AppendText(const CycleGroup& group, std::string* text) {
  *text += Count(group.objects.size(), "object") + " in a cycle, " + Count(group.bytes, "byte");
  if (group.held_objects != 0) {
    *text += "; keeps " + Count(group.held_objects, "more object") + " alive, " +
             Count(group.held_bytes, "byte");
  }
  *text += "\n";
  for (const CycleEdge& edge : group.edges) {
    *text += "  " + NameOf(group.objects[edge.from]) + " --" + std::string(edge.name) + "--> " +
             NameOf(group.objects[edge.to]) + "\n";
  }
}

void AppendJson(const CycleGroup& group, std::string* json) {
  *json += "{\"bytes\":" + std::to_string(group.bytes) +
           ",\"held_objects\":" + std::to_string(group.held_objects) +
           ",\"held_bytes\":" + std::to_string(group.held_bytes) + ",\"objects\":[";
  for (const CycleObject& object : group.objects) {
    if (&object != &group.objects.front()) *json += ',';
    *json += "{\"type\":" + Quoted(object.type) + ",\"label\":" + Quoted(object.label) +
             ",\"bytes\":" + std::to_string(object.bytes) + "}";
  }
  *json += "],\"edges\":[";
  for (const CycleEdge& edge : group.edges) {
    if (&edge != &group.edges.front()) *json += ',';
    *json += "{\"from\":" + std::to_string(edge.from) + ",\"to\":" + std::to_string(edge.to) +
             ",\"name\":" + Quoted(edge.name) + "}";
  }
  *json += "]}";
}

// Writes a file that was not there, and completes its path: tests in other processes may write to
// the same directory, and files of former ones may be left. Returns whether it has done so.
bool WriteNewFile(std::string* path, const std::string& content) {
  constexpr int kMostFilesLeft = 10'000;
  // Invariant: the number of names tried so far. Relaxed: numbers need only be distinct.
  static std::atomic<int> names{0};
  *path += std::to_string(getpid()) + "_";
  for (int tries = 0; tries < kMostFilesLeft; ++tries) {
    const int number = names.fetch_add(1, std::memory_order_relaxed);
    const std::string name = *path + std::to_string(number) + ".dot";
    std::FILE* const file = std::fopen(name.c_str(), "wx");
    if (file == nullptr && errno == EEXIST) continue;
    if (file == nullptr) return false;
    *path = name;
    const bool written = std::fwrite(content.data(), 1, content.size(), file) == content.size();
    return std::fclose(file) == 0 && written;
  }
  return false;
}

}  // namespace

std::string ToText(const CycleReport& report) {
  std::string text = Count(report.groups.size(), "unreachable group") + " among " +
                     Count(report.objects_seen, "object") + " and " +
                     Count(report.edges_seen, "edge") + "\n";
  for (const CycleGroup& group : report.groups) AppendText(group, &text);
  return text;
}

std::string ToText(const AlivePath& path) {
  if (!path.known) return "the object is dead, or was not added to the census\n";
  if (path.objects.empty()) return "nothing outside reaches the object\n";
  std::string text;
  if (path.references_from_outside == 0) {
    text = NameOf(path.objects.front()) + "\n";  // a root
  } else {
    text = Count(path.references_from_outside, "reference") + " from outside\n  --> " +
           NameOf(path.objects.front()) + "\n";
  }
  for (size_t i = 0; i < path.edges.size(); ++i) {
    text += "  --" + std::string(path.edges[i]) + "--> " + NameOf(path.objects[i + 1]) + "\n";
  }
  return text;
}

std::string ToJson(const CycleReport& report) {
  std::string json = "{\"objects_seen\":" + std::to_string(report.objects_seen) +
                     ",\"edges_seen\":" + std::to_string(report.edges_seen) + ",\"groups\":[";
  for (const CycleGroup& group : report.groups) {
    if (&group != &report.groups.front()) json += ',';
    AppendJson(group, &json);
  }
  return json + "]}";
}

std::string ToDot(const CycleReport& report) {
  std::string dot = "digraph cycles {\n  node [shape=box];\n";
  for (size_t g = 0; g < report.groups.size(); ++g) {
    const CycleGroup& group = report.groups[g];
    const std::string prefix = "g" + std::to_string(g) + "_";
    dot += "  subgraph cluster_" + std::to_string(g) + " {\n    label=" +
           Quoted(Count(group.bytes + group.held_bytes, "byte") + " unreachable") + ";\n";
    for (size_t i = 0; i < group.objects.size(); ++i) {
      dot += "    " + prefix + std::to_string(i) + " [label=" + Quoted(NameOf(group.objects[i])) +
             "];\n";
    }
    for (const CycleEdge& edge : group.edges) {
      dot += "    " + prefix + std::to_string(edge.from) + " -> " + prefix +
             std::to_string(edge.to) + " [label=" + Quoted(edge.name) + "];\n";
    }
    dot += "  }\n";
  }
  return dot + "}\n";
}

std::string internal::DescribeCycles(const Census& census, const std::string& directory) {
  const CycleReport report = FindCycles(census);
  if (report.groups.empty()) return std::string();
  std::string text = ToText(report);
  std::string path = directory + "/weakcache_cycles_";
  if (WriteNewFile(&path, ToDot(report))) text += "picture: " + path + "\n";
  return text;
}

}  // namespace weakcache
