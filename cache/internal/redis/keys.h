// SPDX-License-Identifier: Apache-2.0
// The names of keys on the server, and what a value looks like there.
//
//   NS:v:KEY    a value: header, then the envelope of the entry, or a manifest
//   NS:n        a channel: changes that no key shows
//   NS:n:ID     a channel: what the tier with this id puts, for itself
//   NS/l:KEY    the lease that somebody has for the key: token, then the leases' generation, then
//               the number of the last erasure of a group before it
//   NS/a        the values' generation
//   NS/h:N      the generation of the group N
//   NS/g        the leases' record: a hash of their generation (g), how many erasures of groups
//               there were in it (n), and the number of each group's last one
//   NS/c:ID:N   a piece of the envelope that the manifest with the id names
//   NS/t:ID, NS/u:ID   a value on its way, of the tier with this id
//
// The server tells of all changes of keys that begin with "NS:", and of no other.
//
// A generation is a random number, made when it is needed and missing. That of the values, or of a
// group, begins with digits of the server's run. If a snapshot has brought back that of the values,
// the digits are of another run, and whoever connects first ends it, and the leases' with it. A
// value or a lease with another generation than the present one counts as missing. So everything,
// or a group, is erased in one step, however many values there are. If the server evicts a
// generation, the entries are lost, but no erased one comes back.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_KEYS_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_KEYS_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "weakcache/cache/internal/redis/text.h"

namespace weakcache::internal {

// 64 random bits, as 16 hexadecimal digits.
inline constexpr size_t kRandomDigits = 16;
std::string RandomDigits();
// Random digits after some of a hash of the run_id of the server's process.
std::string MakeGeneration(std::string_view run);
bool IsOfRun(std::string_view generation, std::string_view run);
// A random number from 0 to below 1.
double RandomFraction();

// What a value is of: the values' generation, the group, the group's generation. Equal strings if
// and only if all three are equal.
struct ValueTag {
  std::string generation = {};
  std::optional<uint32_t> group = {};
  std::string group_generation = {};  // empty without a group
};

// A header: 'v' or, before a manifest, 'm'; the generation, the group as 8 hexadecimal digits or
// "--------", its generation; a hash of the key, so that no other key's value is taken for it.
inline constexpr size_t kGroupDigits = 8;
inline constexpr size_t kKeyDigits = 16;
inline constexpr size_t kHeaderBytes =
    1 + kRandomDigits + kGroupDigits + kRandomDigits + kKeyDigits;

std::string GroupDigits(std::optional<uint32_t> group);
std::string MakeHeader(const ValueTag& tag, std::string_view key, bool is_manifest);
// The tag of a value; empty if it does not begin with a header.
std::optional<ValueTag> ReadHeader(std::string_view value);
// Whether a value with a header was put under the key.
bool IsOfKey(std::string_view value, std::string_view key);

// A value has fewer pieces, whatever the options of the process that has written it.
inline constexpr uint64_t kMaxManifestChunks = 20000;

// Where the pieces of a large envelope are: id, number as 8 hexadecimal digits, bytes as 16.
struct Manifest {
  std::string id = {};
  uint32_t chunks = 0;
  uint64_t bytes = 0;
};

std::string MakeManifest(const Manifest& manifest);
// The manifest that follows a header; empty if the value is whole or makes no sense.
std::optional<Manifest> ReadManifest(std::string_view value);
inline bool IsManifest(std::string_view value) { return !value.empty() && value[0] == 'm'; }

class KeyNames {
 public:
  explicit KeyNames(std::string_view key_namespace)
      : tracked_(Text(key_namespace, ":")),
        values_(Text(key_namespace, ":v:")),
        channel_(Text(key_namespace, ":n")),
        untracked_(Text(key_namespace, "/")),
        lease_prefix_(Text(key_namespace, "/l:")),
        generation_(Text(key_namespace, "/a")),
        leases_(Text(key_namespace, "/g")) {}

  const std::string& tracked() const { return tracked_; }
  const std::string& channel() const { return channel_; }
  std::string OwnChannel(std::string_view id) const { return Text(channel_, ":", id); }
  const std::string& generation() const { return generation_; }
  const std::string& leases() const { return leases_; }
  // What the names of all groups' generations begin with.
  std::string group_prefix() const { return Text(untracked_, "h:"); }

  std::string Value(std::string_view key) const { return Text(values_, key); }
  std::string Lease(std::string_view key) const { return Text(lease_prefix_, key); }
  std::string Group(std::optional<uint32_t> group) const {
    return Text(untracked_, "h:", GroupDigits(group));
  }
  // The group's field in the leases' record. Few others have the same: what is refused because one
  // of them has been erased is only loaded again.
  static std::string GroupField(uint32_t group) { return Text(uint64_t{group} % 1024); }
  std::string chunk_prefix() const { return Text(untracked_, "c:"); }
  std::string Chunk(std::string_view id, uint32_t chunk) const {
    return Text(untracked_, "c:", id, ":", chunk);
  }
  std::string Temporary(std::string_view id) const { return Text(untracked_, "t:", id); }
  std::string Ready(std::string_view id) const { return Text(untracked_, "u:", id); }
  // Patterns of the names of all values, and of all leases: no character of a name space means
  // anything in them.
  std::string ValuePattern() const { return Text(values_, "*"); }
  std::string LeasePattern() const { return Text(lease_prefix_, "*"); }
  // The key whose value, or lease, has the name; empty if the name is of neither.
  std::optional<std::string_view> KeyOf(std::string_view name) const {
    for (const std::string& prefix : {std::cref(values_), std::cref(lease_prefix_)}) {
      if (name.substr(0, prefix.size()) == prefix) return name.substr(prefix.size());
    }
    return std::nullopt;
  }

 private:
  const std::string tracked_, values_, channel_, untracked_, lease_prefix_, generation_, leases_;
};

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_KEYS_H_
