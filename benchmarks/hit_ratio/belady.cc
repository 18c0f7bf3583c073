// SPDX-License-Identifier: Apache-2.0
#include "benchmarks/hit_ratio/belady.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <limits>
#include <set>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "benchmarks/hit_ratio/trace.h"

namespace weakcache {
namespace {

constexpr size_t kNever = std::numeric_limits<size_t>::max();

// For each request, when its object is requested next.
std::vector<size_t> NextRequests(const std::vector<Request>& trace) {
  std::vector<size_t> next(trace.size(), kNever);
  absl::flat_hash_map<uint64_t, size_t> last;
  for (size_t i = 0; i < trace.size(); ++i) {
    const auto [found, inserted] = last.try_emplace(trace[i].key, i);
    if (!inserted) next[found->second] = i;
    found->second = i;
  }
  return next;
}

bool WeightsAreEqual(const std::vector<Request>& trace) {
  return std::all_of(trace.begin(), trace.end(),
                     [&](const Request& request) { return request.weight == trace[0].weight; });
}

// Belady's algorithm for so many objects of equal weight; one that is requested last of all need
// not be kept at all.
uint64_t MostHits(const std::vector<size_t>& next_requests, uint64_t capacity) {
  std::set<size_t> kept;  // by when they are requested next
  uint64_t hits = 0;
  for (size_t i = 0; i < next_requests.size(); ++i) {
    hits += kept.erase(i);
    if (next_requests[i] != kNever) kept.insert(next_requests[i]);
    if (kept.size() > capacity) kept.erase(std::prev(kept.end()));
  }
  return hits;
}

// The capacity from one request of an object to its next one that a hit takes there.
struct Hit {
  double cost;
  double value;
};

// The most that hits of that cost are worth together, the last of them in part.
double MostValue(std::vector<Hit> hits, double room) {
  std::sort(hits.begin(), hits.end(),
            [](const Hit& a, const Hit& b) { return a.cost * b.value < b.cost * a.value; });
  double value = 0;
  for (const Hit& hit : hits) {
    if (hit.cost >= room) return value + hit.value * room / hit.cost;
    room -= hit.cost;
    value += hit.value;
  }
  return value;
}

}  // namespace

HitRatio BestHitRatio(const std::vector<Request>& trace, uint64_t capacity) {
  if (trace.empty()) return {};
  const std::vector<size_t> next_requests = NextRequests(trace);
  const auto requests = static_cast<double>(trace.size());
  if (WeightsAreEqual(trace)) {
    const uint64_t hits = MostHits(next_requests, capacity / trace[0].weight);
    const double ratio = static_cast<double>(hits) / requests;
    return {ratio, ratio};
  }
  // A policy may keep the weight that an object had at any request before.
  absl::flat_hash_map<uint64_t, uint64_t> least_weights;
  for (const Request& request : trace) {
    const auto found = least_weights.try_emplace(request.key, request.weight).first;
    found->second = std::min(found->second, request.weight);
  }
  std::vector<Hit> objects;
  std::vector<Hit> bytes;
  double all_bytes = 0;
  for (size_t i = 0; i < trace.size(); ++i) {
    all_bytes += static_cast<double>(trace[i].weight);
    const uint64_t weight = least_weights[trace[i].key];
    if (next_requests[i] == kNever || weight > capacity) continue;
    const double cost = static_cast<double>(weight) * static_cast<double>(next_requests[i] - i);
    objects.push_back({cost, 1});
    bytes.push_back({cost, static_cast<double>(trace[next_requests[i]].weight)});
  }
  const double room = static_cast<double>(capacity) * requests;
  return {MostValue(std::move(objects), room) / requests,
          MostValue(std::move(bytes), room) / all_bytes};
}

}  // namespace weakcache
