// SPDX-License-Identifier: Apache-2.0
#include "large_object_cache.h"

int MineNotTheLibrarys() { return 42; }
