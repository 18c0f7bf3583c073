// SPDX-License-Identifier: Apache-2.0
#include "weakcache/cache/holder_label.h"

namespace weakcache {
namespace {

// Here, not in the header, so that a program and its shared libraries have one.
constinit thread_local const char* current_label = nullptr;

}  // namespace

const char* HolderLabel::Current() { return current_label; }

HolderLabel::HolderLabel(const char* label) : around_(current_label) { current_label = label; }

HolderLabel::~HolderLabel() { current_label = around_; }

}  // namespace weakcache
