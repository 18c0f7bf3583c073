// SPDX-License-Identifier: Apache-2.0
// An editor whose memory does not go back: finds the objects that keep each other alive, shows why,
// and repairs it with a weak reference.
//
//   ./bazelw run //examples:cycles                      the report, and the picture for Graphviz
//   ./bazelw run //examples:cycles -- --dot=/tmp/a.dot  then: dot -Tsvg /tmp/a.dot

#include "weakcache/weakref/cycles.h"

#include <cstddef>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

namespace cycles {

using ::weakcache::Census;
using ::weakcache::CycleReport;
using ::weakcache::FindCycles;
using ::weakcache::MakeRef;
using ::weakcache::Ref;
using ::weakcache::ToDot;
using ::weakcache::ToText;
using ::weakcache::Tracer;
using ::weakcache::WeakRef;
using ::weakcache::WhyAlive;

// A document is a tree of paragraphs, each with a picture of itself.
struct Paragraph {
  size_t byte_size() const { return sizeof(*this) + pixels.size(); }

  std::string text;
  std::vector<char> pixels = std::vector<char>(1'000'000);
  std::vector<Ref<Paragraph>> children;
  // Either of them refers to the paragraph that this one is in. The first is the leak.
  Ref<Paragraph> parent;
  WeakRef<Paragraph> weak_parent;
};
void WeakcacheTrace(const Paragraph& paragraph, Tracer& trace) {
  trace(paragraph.children, "children");
  trace(paragraph.parent, "parent");
  trace(paragraph.weak_parent, "weak_parent");
}
std::string WeakcacheLabel(const Paragraph& paragraph) { return paragraph.text; }

struct View {
  Ref<Paragraph> shown;
};
void WeakcacheTrace(const View& view, Tracer& trace) { trace(view.shown, "shown"); }

enum class Parents { kStrong, kWeak };

class Editor {
 public:
  Editor(Census& census, Parents parents) : census_(census), parents_(parents) {}

  Ref<Paragraph> Add(const Ref<Paragraph>& parent, std::string text) {
    Ref<Paragraph> paragraph = MakeRef<Paragraph>();
    paragraph->text = std::move(text);
    census_.Add(paragraph);
    if (parents_ == Parents::kStrong) paragraph->parent = parent;
    if (parents_ == Parents::kWeak) paragraph->weak_parent = parent;
    if (parent != nullptr) parent->children.push_back(paragraph);
    return paragraph;
  }
  Ref<View> Show(const Ref<Paragraph>& paragraph) {
    Ref<View> view = MakeRef<View>(View{paragraph});
    census_.Add(view);
    return view;
  }

 private:
  Census& census_;
  const Parents parents_;
};

void Say(std::string_view line) { std::cout << line << "\n"; }
std::string CountOf(const Census& census) {
  return std::to_string(census.size()) + " objects live.";
}

// Ends the leak, so that the program leaves nothing behind.
void ForgetParents(const Paragraph& paragraph) {
  for (const Ref<Paragraph>& child : paragraph.children) {
    ForgetParents(*child);
    child->parent.reset();
  }
}

// Opens a document, shows it and closes it. Returns what is unreachable then.
CycleReport OpenAndClose(Parents parents) {
  Census census;
  Editor editor(census, parents);
  Ref<Paragraph> novel = editor.Add({}, "novel");
  editor.Add(novel, "chapter 1");
  const WeakRef sentence = editor.Add(editor.Add(novel, "chapter 2"), "It was a dark night.");
  Ref<View> view = editor.Show(novel);
  const WeakRef document = novel;
  novel.reset();
  Say("\nWhile it is shown, " + CountOf(census) + " Why the sentence does:");
  std::cout << ToText(WhyAlive(census, sentence));

  view.reset();
  Say("\nClosed: " + CountOf(census));
  CycleReport report = FindCycles(census);
  std::cout << ToText(report);
  if (const Ref<Paragraph> leaked = document.lock()) ForgetParents(*leaked);
  return report;
}

int Main(const std::string& dot_file) {
  Say("Paragraphs that refer to their parent by a Ref:");
  const CycleReport leak = OpenAndClose(Parents::kStrong);
  if (dot_file.empty()) {
    Say("\nThe same for Graphviz:");
    std::cout << ToDot(leak);
  } else {
    std::ofstream(dot_file) << ToDot(leak);
    Say("\nThe picture is in " + dot_file + ".");
  }
  Say("\nParagraphs that refer to their parent by a WeakRef:");
  const CycleReport repaired = OpenAndClose(Parents::kWeak);
  return leak.groups.size() == 1 && repaired.groups.empty() ? 0 : 1;
}

}  // namespace cycles

int main(int argc, char** argv) {
  constexpr std::string_view kDot = "--dot=";
  const std::string_view argument = argc > 1 ? argv[1] : "";
  return cycles::Main(std::string(argument.starts_with(kDot) ? argument.substr(kDot.size()) : ""));
}
