// SPDX-License-Identifier: Apache-2.0
// An application that uses the handles alone.
#include <cstdio>
#include <string>

#include "weakcache/weakref/expiry.h"
#include "weakcache/weakref/finalizer.h"
#include "weakcache/weakref/ref.h"
#include "weakcache/weakref/weak_ref.h"

int main() {
  auto document = weakcache::MakeRef<std::string>("contents");
  const weakcache::WeakRef<std::string> weak = document;
  int expired = 0;
  const auto registration = weakcache::OnExpire(document, [&] { expired += 40; });
  auto finalizer = weakcache::Finalize(document, [&] { expired += 2; });
  const std::string text = *weak.lock();
  document.reset();
  std::printf("%s %d\n", text.c_str(), expired);
  return weak.lock() == nullptr ? 0 : 1;
}
