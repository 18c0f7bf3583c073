// SPDX-License-Identifier: Apache-2.0
// Uses each second tier as little as is possible without a server and a disk.
#include <cstdio>

#include "weakcache/cache/redis_tier.h"
#include "weakcache/cache/rocksdb_tier.h"

int main() {
  const bool refused =
      !weakcache::RedisTier::Create({}).ok() && !weakcache::RocksdbTier::Create({}).ok();
  std::puts(refused ? "contents 42" : "options that are not possible were accepted");
  return 0;
}
