// SPDX-License-Identifier: Apache-2.0
#include "examples/image_cache/options.h"

#include <charconv>
#include <cstdint>
#include <system_error>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace image_cache {
namespace {

struct Flag {
  std::string name;
  std::variant<int*, uint64_t*, double*> value;
  double lowest;
  double highest;
  std::string meaning;
};

std::vector<Flag> FlagsOf(Options& options) {
  SessionOptions& session = options.session;
  return {
      {"viewers", &session.viewers, 1, 64, "viewers, each on a thread of its own"},
      {"budget_mb", &options.budget_mb, 0, 1'000'000,
       "what the images of the cache or the LRU may take, in 10^6 bytes"},
      {"csv", &options.csv, 0, 1, "1: print the live bytes after each look-up, as CSV"},
      {"in_turns", &session.in_turns, 0, 1,
       "1: the viewers take turns on one thread: each run is the same"},
      {"lookups", &session.lookups, 1, 1'000'000, "images that each viewer looks at"},
      {"seconds", &session.seconds, 0, 3600, "or how long it looks; 0: --lookups counts"},
      {"on_screen", &session.on_screen, 1, 1000, "images that each viewer's screen holds"},
      {"seed", &session.seed, 0, 0x1p64, "another seed, another session"},
      {"zipf", &session.zipf, 0, 10, "how far a few images are more popular; 0: not at all"},
  };
}

bool SetFlag(const Flag& flag, const std::string& text) {
  return std::visit(
      [&](auto* value) {
        const char* end = text.data() + text.size();
        const auto [rest, error] = std::from_chars(text.data(), end, *value);
        const bool in_range = *value >= flag.lowest && *value <= flag.highest;
        return error == std::errc() && rest == end && in_range;
      },
      flag.value);
}

absl::Status BadValue(const Flag& flag, const std::string& text) {
  const bool whole = !std::holds_alternative<double*>(flag.value);
  return absl::InvalidArgumentError(
      absl::StrFormat("--%s takes a %snumber from %.0f to %.0f, not '%s'", flag.name,
                      whole ? "whole " : "", flag.lowest, flag.highest, text));
}

// Parses `--name=value` or, with the value in the next argument, `--name value`: `next` is the
// index of the argument after `argument`, and moves on if that is taken.
absl::Status ParseFlag(const std::string& argument, const std::vector<std::string>& arguments,
                       size_t& next, const std::vector<Flag>& flags) {
  const size_t equals = argument.find('=');
  for (const Flag& flag : flags) {
    if (argument.substr(0, equals) != absl::StrCat("--", flag.name)) continue;
    if (equals == std::string::npos && next == arguments.size()) {
      return absl::InvalidArgumentError(absl::StrCat(argument, " takes a value"));
    }
    const std::string text =
        equals == std::string::npos ? arguments[next++] : argument.substr(equals + 1);
    return SetFlag(flag, text) ? absl::OkStatus() : BadValue(flag, text);
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown option ", argument));
}

}  // namespace

// By hand, as absl::ParseCommandLine ends the program with exit code 1 where usage errors are to be
// told from images that cannot be decoded.
absl::StatusOr<Options> ParseOptions(const std::vector<std::string>& arguments) {
  Options options;
  const std::vector<Flag> flags = FlagsOf(options);
  bool only_paths = false;
  for (size_t next = 0; next < arguments.size();) {
    const std::string& argument = arguments[next++];
    if (only_paths || !argument.starts_with('-')) {
      if (argument.empty()) return absl::InvalidArgumentError("a path is empty");
      options.paths.push_back(argument);
    } else if (argument == "--") {
      only_paths = true;
    } else if (argument == "--help") {
      options.help = true;
    } else if (absl::Status status = ParseFlag(argument, arguments, next, flags); !status.ok()) {
      return status;
    }
  }
  return options;
}

std::string UsageText() {
  std::string text =
      "Usage: image_cache [OPTION]... [PATH]...\n"
      "\n"
      "Replays one viewing session of images with several ways to cache them, and prints what "
      "each\n"
      "decoded and kept. A PATH is a PNG or JPEG file, or a directory of them; without any, the\n"
      "session shows the images that come with the example.\n"
      "\n";
  Options options;
  for (const Flag& flag : FlagsOf(options)) {
    const std::string initial =
        std::visit([](const auto* value) { return absl::StrCat(*value); }, flag.value);
    absl::StrAppendFormat(&text, "  --%-17s %s (%s)\n", absl::StrCat(flag.name, "=NUMBER"),
                          flag.meaning, initial);
  }
  absl::StrAppend(
      &text,
      "  --help              print this and exit\n"
      "\n"
      "Exit code: 0; 1 if no image could be decoded; 2 for an unknown option or a value "
      "out of range.\n");
  return text;
}

}  // namespace image_cache
