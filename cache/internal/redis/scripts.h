// SPDX-License-Identifier: Apache-2.0
// What the server does in one step, in Lua.
//
// The scripts change no key that the server tells of: it would tell this process of a script's
// changes, too, as if they were others'. Those keys are changed by plain commands (RENAME, DEL)
// after the script, which NOLOOP covers. Scripts are sent as texts: they are short, and one that
// the server has forgotten would fail in the middle of a transaction.
//
// They erase before they write anything, so that they can erase on a server without memory.
#ifndef WEAKCACHE_CACHE_INTERNAL_REDIS_SCRIPTS_H_
#define WEAKCACHE_CACHE_INTERNAL_REDIS_SCRIPTS_H_

#include <string_view>

namespace weakcache::internal {

// Renames a value from KEYS[1], where it was SET, to KEYS[2] if it may be put. A plain RENAME to
// the value's own name follows, which fails if the script has not done so. Ends the lease (for a
// Put without one: anybody's) unless the value's tag is of other generations than the present ones.
//   KEYS: temporary, ready, lease, generation, leases' record, and the group's generation if any
//   ARGV: lease or '', generation, the group's generation or '', a new generation, channel, message
//         to those that wait, the value, the prefix of chunks, the group's field in the record, the
//         channel of this process alone or '', the key
// Returns 1; 0 if the lease is not held any more; {generation, the group's generation or ''} if
// the value's tag is of other ones than these.
inline constexpr std::string_view kPutScript = R"(
if ARGV[1] ~= '' then
  local mine = redis.call('GET', KEYS[3]) == ARGV[1]
  local valid = mine and redis.call('HGET', KEYS[5], 'g') == string.sub(ARGV[1], 17, 32)
  if valid and KEYS[6] then
    local erased = redis.call('HGET', KEYS[5], ARGV[9])
    valid = not erased or tonumber(erased) <= tonumber(string.sub(ARGV[1], 33))
  end
  if not valid then
    redis.call('DEL', KEYS[1])
    if mine then
      redis.call('DEL', KEYS[3])
      redis.call('PUBLISH', ARGV[5], ARGV[6])
    end
    return 0
  end
end
local generation = redis.call('GET', KEYS[4])
if not generation then
  generation = ARGV[4]
  redis.call('SET', KEYS[4], generation)
end
local group = ''
if KEYS[6] then
  group = redis.call('GET', KEYS[6])
  if not group then
    group = ARGV[4]
    redis.call('SET', KEYS[6], group)
  end
end
if generation ~= ARGV[2] or group ~= ARGV[3] then
  redis.call('DEL', KEYS[1])
  return {generation, group}
end
redis.call('DEL', KEYS[3])
local manifest = redis.pcall('GETRANGE', ARGV[7], 0, 80)
if type(manifest) == 'string' and string.sub(manifest, 1, 1) == 'm' then
  local chunks = tonumber(string.sub(manifest, 74), 16) or 0
  for i = 0, math.min(chunks, 9000) do
    redis.call('DEL', ARGV[8] .. string.sub(manifest, 58, 73) .. ':' .. i)
  end
end
redis.call('RENAME', KEYS[1], KEYS[2])
if ARGV[10] ~= '' then redis.call('PUBLISH', ARGV[10], ARGV[11]) end
return 1
)";

// Revokes the lease, and tells of that if there is no value whose DEL would.
//   KEYS: value, lease   ARGV: channel, message, the prefix of chunks
inline constexpr std::string_view kEraseScript = R"(
redis.call('DEL', KEYS[2])
local manifest = redis.pcall('GETRANGE', KEYS[1], 0, 80)
if type(manifest) == 'string' and string.sub(manifest, 1, 1) == 'm' then
  local chunks = tonumber(string.sub(manifest, 74), 16) or 0
  for i = 0, math.min(chunks, 9000) do
    redis.call('DEL', ARGV[3] .. string.sub(manifest, 58, 73) .. ':' .. i)
  end
end
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('PUBLISH', ARGV[1], ARGV[2]) end
return 1
)";

// Ends a generation: values of it are there no more. Makes all leases void; or, if the group has a
// field in the leases' record, the right to put values of that group. (Without memory for that, all
// leases.)
//   KEYS: leases' record, the values' generation or a group's   ARGV: channel, message, field or ''
inline constexpr std::string_view kEndGenerationScript = R"(
redis.call('DEL', KEYS[2])
if ARGV[3] == '' then
  redis.call('DEL', KEYS[1])
elseif redis.call('EXISTS', KEYS[1]) == 1 then
  local number = redis.pcall('HINCRBY', KEYS[1], 'n', 1)
  local noted = type(number) == 'number' and redis.pcall('HSET', KEYS[1], ARGV[3], number)
  if type(noted) ~= 'number' then redis.call('DEL', KEYS[1]) end
end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
)";

// Ends the values' generation if it still is that one, and with it all leases.
//   KEYS: leases' record, the values' generation   ARGV: that generation, channel, message
inline constexpr std::string_view kEndThisGenerationScript = R"(
if redis.call('GET', KEYS[2]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
)";

// Takes the lease, in place of a void one if any. Returns 1 if there is a value; the leases'
// generation, and the number of the last erasure of a group in it, if the lease has been taken;
// otherwise {for how many ms another one has the lease}.
//   KEYS: value, lease, generation, leases' record
//   ARGV: token, its time in ms, a new generation, '1' if a value counts as none, the prefix of
//         groups' generations
inline constexpr std::string_view kLeadScript = R"(
local generation = redis.call('GET', KEYS[3])
if generation and ARGV[4] ~= '1' then
  local header = redis.pcall('GETRANGE', KEYS[1], 1, 40)
  if type(header) == 'string' and string.sub(header, 1, 16) == generation then
    local group = string.sub(header, 17, 24)
    if group == '--------' then return 1 end
    if redis.call('GET', ARGV[5] .. group) == string.sub(header, 25) then return 1 end
  end
end
local leases = redis.call('HGET', KEYS[4], 'g')
local held = redis.call('GET', KEYS[2])
if held and string.sub(held, 17, 32) == leases then return {redis.call('PTTL', KEYS[2])} end
if not leases then
  leases = ARGV[3]
  redis.call('HSET', KEYS[4], 'g', leases)
end
leases = leases .. (redis.call('HGET', KEYS[4], 'n') or '0')
redis.call('SET', KEYS[2], ARGV[1] .. leases, 'PX', ARGV[2])
return leases
)";

// Gives up a lease, and tells those that wait.   KEYS: lease   ARGV: lease, channel, message
inline constexpr std::string_view kEndLeadScript = R"(
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
)";

// Prolongs a lease.   KEYS: lease   ARGV: lease, its time in ms
inline constexpr std::string_view kProlongScript = R"(
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
)";

}  // namespace weakcache::internal

#endif  // WEAKCACHE_CACHE_INTERNAL_REDIS_SCRIPTS_H_
